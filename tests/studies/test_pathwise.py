"""C8's estimators against closed forms, quadrature and torch.distributions."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import sac
from benchmarks.studies import c08_pathwise

CURVATURE, OFFSET = 1.5, 4.0  # f = OFFSET − CURVATURE/2 (u − s)² at state s, with u = atanh(a)
SQUARE = Box(-1, 1, (1,), np.float64)


class Constant(torch.nn.Module):
    """An actor with the same outputs in every state."""

    def __init__(self, *outputs: float):
        super().__init__()
        self.outputs = torch.nn.Parameter(torch.tensor(outputs, dtype=torch.float64))

    def forward(self, x):
        return self.outputs.expand(*x.shape[:-1], -1)


@pytest.fixture
def quadratic():
    """An agent without entropy term whose u is N(0.4, σ²), log σ = −1.5 + 3.5 tanh(0.3), and whose Q is quadratic."""

    def q(x, action):
        return (OFFSET - CURVATURE / 2 * (action.atanh() - x).square()).expand(
            *action.shape[:-1], 2
        )

    torch.manual_seed(0)
    agent = sac.Agent(SQUARE, SQUARE, alpha=0.0)
    agent.actor, agent.q = Constant(0.4, 0.3), q
    return agent


SIGMA, SLOPE = (
    math.exp(-1.5 + 3.5 * math.tanh(0.3)),
    3.5 / math.cosh(0.3) ** 2,
)  # d log σ / d output
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(
    20
)  # exact for polynomials of a normal variable
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def by_hand(state: float) -> dict:
    """f and both gradients of one action, at the nodes of its noise ε, (20,) and (2, 20)."""
    f = OFFSET - CURVATURE / 2 * (0.4 + SIGMA * NODES - state) ** 2
    slope = -CURVATURE * (0.4 + SIGMA * NODES - state)  # ∂f/∂u
    score = np.stack([NODES / SIGMA, SLOPE * (NODES**2 - 1)])
    return {
        "f": f,
        "score": score,
        c08_pathwise.PATHWISE: slope * np.stack([np.ones(20), SLOPE * SIGMA * NODES]),
    }


def mean_and_trace(g, weights=WEIGHTS):
    """Of gradients (2, n) at nodes of these weights."""
    mean = g @ weights
    return mean, ((g - mean[:, None]) ** 2 @ weights).sum()


def test_quadratic_variances(quadratic):
    exact, one = {}, by_hand(state=1.0)
    value = one["f"] @ WEIGHTS
    exact[c08_pathwise.PATHWISE, 1] = mean_and_trace(one[c08_pathwise.PATHWISE])
    exact[c08_pathwise.PLAIN, 1] = mean_and_trace(one["score"] * one["f"])
    exact[c08_pathwise.VALUE, 1] = mean_and_trace(one["score"] * (one["f"] - value))
    d = 0.4 - 1.0
    closed = CURVATURE**2 * SIGMA**2 * (1 + SLOPE**2 * (d**2 + 2 * SIGMA**2))
    assert exact[c08_pathwise.PATHWISE, 1][1] == pytest.approx(closed)
    first, second = np.meshgrid(
        range(20), range(20)
    )  # half of the product of the differences, of two actions
    of_two = (
        (one["score"][:, first] - one["score"][:, second])
        * (one["f"][first] - one["f"][second])
        / 2
    )
    exact[c08_pathwise.OTHERS, 2] = mean_and_trace(
        of_two.reshape(2, -1), np.outer(WEIGHTS, WEIGHTS).ravel()
    )

    states, repeats = 64, 1000
    x, v = (
        torch.full((states, 1), 1.0, dtype=torch.float64),
        torch.full((states, 1), value, dtype=torch.float64),
    )
    found = {
        (name, k): m
        for k in (1, 2)
        for name, m in c08_pathwise.moments(quadratic, x, v, k, repeats).items()
    }
    for (name, k), (mean, trace) in exact.items():
        estimate = found[name, k].mean
        assert found[name, k].trace == pytest.approx(trace / states, rel=0.15), name
        assert np.abs(estimate.numpy() - mean).max() < 5 * math.sqrt(trace / states / repeats), name
    for name in (c08_pathwise.PATHWISE, c08_pathwise.PLAIN, c08_pathwise.VALUE):
        assert found[name, 2].trace == pytest.approx(exact[name, 1][1] / states / 2, rel=0.15), name


def test_score_is_that_of_torch_distributions():
    torch.manual_seed(0)
    mean, log_std, noise = torch.randn(3, 5, 2, dtype=torch.float64)
    mean.requires_grad_(), log_std.requires_grad_()
    action, log_prob = c08_pathwise.at_fixed_action(mean, log_std, noise)
    assert not action.requires_grad
    policy = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    theirs = policy.log_prob(action).sum(-1, keepdim=True)
    torch.testing.assert_close(log_prob, theirs)
    ours, theirs = (torch.autograd.grad(x.sum(), (mean, log_std)) for x in (log_prob, theirs))
    torch.testing.assert_close(ours, theirs)


def test_means_are_the_soft_objectives_gradient():
    """With the entropy term and networks for actor and critics; the expectation over a by quadrature."""
    torch.manual_seed(3)
    agent, x = (
        sac.Agent(Box(-1, 1, (3,)), SQUARE, alpha=0.3).double(),
        torch.randn(8, 3, dtype=torch.float64),
    )
    grid = torch.linspace(-8, 8, 1001, dtype=torch.float64)[:, None, None]
    density = torch.softmax(-grid.square() / 2, 0)
    with mock.patch.object(torch, "randn_like", lambda mean: grid.expand_as(mean)):
        action, log_prob = agent.sample(x.expand(1001, *x.shape))
    f = (
        agent.q(x.repeat(1001, 1), action.flatten(0, 1)).min(-1).values.view_as(log_prob)
        - 0.3 * log_prob
    )
    exact = c08_pathwise.gradient(agent, (density * f).sum(0).mean())
    value, repeats = (density * f).sum(0).detach(), 100
    for name, m in c08_pathwise.moments(agent, x, value, 32, repeats).items():
        assert m.trace / repeats < 0.02 * exact.square().sum(), name  # else it would prove nothing
        assert (m.mean - exact).square().sum() < 4 * m.trace / repeats, name


def test_states_share_of_the_variance(quadratic):
    """The mean gradient differs between states s by CURVATURE s, along μ alone."""
    torch.manual_seed(0)
    states = torch.tensor([[-1.0], [0.0], [4.0]], dtype=torch.float64)
    exact = CURVATURE**2 * states.var(correction=0).item() / c08_pathwise.STATES
    assert c08_pathwise.state_variance(quadratic, states, 400) == pytest.approx(exact, rel=0.25)


def test_measure_is_in_units_of_the_squared_gradient(quadratic):
    torch.manual_seed(0)
    found, one = (
        c08_pathwise.measure(quadratic, torch.ones(1, 1, dtype=torch.float64), 256),
        by_hand(state=1.0),
    )
    mean, trace = mean_and_trace(one[c08_pathwise.PATHWISE])
    relative = trace / c08_pathwise.STATES / (mean**2).sum()
    assert found.variance[c08_pathwise.PATHWISE][1] == pytest.approx(relative, rel=0.3)
    assert abs(found.states) < 0.1 * relative  # there is one state only
    assert all(0.9 < share < 1.1 for share in found.share.values())


def test_c8(monkeypatch):
    monkeypatch.setattr(c08_pathwise, "ENVIRONMENTS", ("Pendulum-v1",))
    monkeypatch.setattr(c08_pathwise, "SEEDS", (1, 2))
    figure, tables = c08_pathwise.study(None, steps=300, learning_starts=290, budget=32)
    assert len(figure.axes) == 3
    assert "| Pendulum-v1 | score function, b = V(s) " in tables and "nan" not in tables
