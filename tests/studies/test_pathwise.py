"""C8's estimators against closed forms, quadrature and torch.distributions."""

import math
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch.distributions import Normal, TanhTransform, TransformedDistribution

import sac
from benchmarks.studies import c08_pathwise
from benchmarks.studies.c08_pathwise import OTHERS, PATHWISE, PLAIN, VALUE

# f = OFFSET − CURVATURE/2 (u − s)² at state s, with u = atanh(a)
CURVATURE = 1.5
OFFSET = 4.0
SQUARE = Box(-1, 1, (1,), np.float64)


class Constant(torch.nn.Module):
    """An actor with the same outputs in every state."""

    def __init__(self, *outputs: float):
        super().__init__()
        self.outputs = torch.nn.Parameter(torch.tensor(outputs, dtype=torch.float64))

    def forward(self, x):
        return self.outputs.expand(*x.shape[:-1], -1)


class Quadratic(torch.nn.Module):
    """A critic whose Q is f."""

    def forward(self, x, action):
        return (OFFSET - CURVATURE / 2 * (action.atanh() - x).square()).squeeze(-1)


@pytest.fixture
def quadratic():
    """A learner without entropy term, with a quadratic Q, and with a Gaussian u.

    u is N(0.4, σ²), log σ = −1.5 + 3.5 tanh(0.3).
    """
    torch.manual_seed(0)
    agent = sac.Agent(SQUARE, SQUARE)
    agent.actor = Constant(0.4, 0.3)
    agent.q1 = Quadratic()
    agent.q2 = Quadratic()
    return c08_pathwise.Learner(agent, alpha=torch.tensor(0.0))


SIGMA = math.exp(-1.5 + 3.5 * math.tanh(0.3))
SLOPE = 3.5 / math.cosh(0.3) ** 2  # d log σ / d output
# Of a quadrature that is exact for polynomials of a normal variable.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


class OfOneAction(NamedTuple):
    """At the nodes of an action's noise ε: f (20,) and both gradients (2, 20)."""

    f: np.ndarray
    score: np.ndarray
    pathwise: np.ndarray


def by_hand(state: float) -> OfOneAction:
    u = 0.4 + SIGMA * NODES
    f = OFFSET - CURVATURE / 2 * (u - state) ** 2
    df_du = -CURVATURE * (u - state)
    score = np.stack([NODES / SIGMA, SLOPE * (NODES**2 - 1)])
    return OfOneAction(f, score, df_du * np.stack([np.ones(20), SLOPE * SIGMA * NODES]))


def mean_and_trace(g, weights=WEIGHTS):
    """Of gradients (2, n) at nodes of these weights."""
    mean = g @ weights
    return mean, ((g - mean[:, None]) ** 2 @ weights).sum()


@pytest.mark.slow
def test_quadratic_variances(quadratic):
    one = by_hand(state=1.0)
    value = one.f @ WEIGHTS
    exact = {
        PATHWISE: mean_and_trace(one.pathwise),
        PLAIN: mean_and_trace(one.score * one.f),
        VALUE: mean_and_trace(one.score * (one.f - value)),
    }
    d = 0.4 - 1.0
    closed = CURVATURE**2 * SIGMA**2 * (1 + SLOPE**2 * (d**2 + 2 * SIGMA**2))
    _, trace = exact[PATHWISE]
    assert trace == pytest.approx(closed)
    # Of two actions: half of the product of the differences.
    first, second = np.meshgrid(range(20), range(20))
    score_difference = one.score[:, first] - one.score[:, second]
    of_two = score_difference * (one.f[first] - one.f[second]) / 2
    weights_of_two = np.outer(WEIGHTS, WEIGHTS).ravel()
    exact_of_two = {OTHERS: mean_and_trace(of_two.reshape(2, -1), weights_of_two)}

    states = 64
    repeats = 1000
    x = torch.full((states, 1), 1.0, dtype=torch.float64)
    v = torch.full((states,), value, dtype=torch.float64)
    found = c08_pathwise.moments(quadratic, x, v, 1, repeats)
    found_of_two = c08_pathwise.moments(quadratic, x, v, 2, repeats)
    for moments, expected in ((found, exact), (found_of_two, exact_of_two)):
        for name, (mean, trace) in expected.items():
            standard_error = math.sqrt(trace / states / repeats)
            assert moments[name].trace == pytest.approx(trace / states, rel=0.15), name
            assert np.abs(moments[name].mean.numpy() - mean).max() < 5 * standard_error, name
    for name, (_, trace) in exact.items():
        assert found_of_two[name].trace == pytest.approx(trace / states / 2, rel=0.15), name


def test_score_is_that_of_torch_distributions():
    torch.manual_seed(0)
    mean, log_std, noise = torch.randn(3, 5, 2, dtype=torch.float64)
    mean.requires_grad_()
    log_std.requires_grad_()
    action, log_prob = c08_pathwise.at_fixed_action(mean, log_std, noise)
    assert not action.requires_grad
    policy = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform())
    theirs = policy.log_prob(action).sum(-1)
    torch.testing.assert_close(log_prob, theirs)
    our_gradient = torch.autograd.grad(log_prob.sum(), (mean, log_std))
    their_gradient = torch.autograd.grad(theirs.sum(), (mean, log_std))
    torch.testing.assert_close(our_gradient, their_gradient)


@pytest.mark.slow
def test_means_are_the_soft_objectives_gradient():
    """With the entropy term and networks; the expectation over a by quadrature."""
    torch.manual_seed(3)
    agent = sac.Agent(Box(-1, 1, (3,)), SQUARE).double()
    learner = c08_pathwise.Learner(agent, alpha=torch.tensor(0.3))
    x = torch.randn(8, 3, dtype=torch.float64)
    grid = torch.linspace(-8, 8, 1001, dtype=torch.float64)[:, None, None]
    density = torch.softmax(-grid.square() / 2, 0).squeeze(-1)
    of_grid = x.expand(1001, *x.shape)
    with mock.patch.object(torch, "randn_like", lambda mean: grid.expand_as(mean)):
        action, log_prob = agent.sample(of_grid)
    q = torch.min(agent.q1(of_grid, action), agent.q2(of_grid, action))
    value = (density * (q - 0.3 * log_prob)).sum(0)
    exact = c08_pathwise.gradient(learner, value.mean())
    repeats = 100
    for name, found in c08_pathwise.moments(learner, x, value.detach(), 32, repeats).items():
        variance_of_mean = found.trace / repeats
        assert variance_of_mean < 0.02 * exact.square().sum(), name  # else it would prove nothing
        assert (found.mean - exact).square().sum() < 4 * variance_of_mean, name


def test_states_share_of_the_variance(quadratic):
    """The mean gradient differs between states s by CURVATURE s, along μ alone."""
    torch.manual_seed(0)
    states = torch.tensor([[-1.0], [0.0], [4.0]], dtype=torch.float64)
    exact = CURVATURE**2 * states.var(correction=0).item() / c08_pathwise.STATES
    assert c08_pathwise.state_variance(quadratic, states, 400) == pytest.approx(exact, rel=0.25)


def test_measure_is_in_units_of_the_squared_gradient(quadratic):
    torch.manual_seed(0)
    found = c08_pathwise.measure(quadratic, torch.ones(1, 1, dtype=torch.float64), 256)
    mean, trace = mean_and_trace(by_hand(state=1.0).pathwise)
    relative = trace / c08_pathwise.STATES / (mean**2).sum()
    assert found.variance[PATHWISE][1] == pytest.approx(relative, rel=0.3)
    assert abs(found.states) < 0.1 * relative  # there is one state only
    assert all(0.9 < share < 1.1 for share in found.share.values())


@pytest.mark.slow
def test_c8(monkeypatch):
    monkeypatch.setattr(c08_pathwise, "ENVIRONMENTS", ("Pendulum-v1",))
    monkeypatch.setattr(c08_pathwise, "SEEDS", (1, 2))
    figure, tables = c08_pathwise.study(None, steps=300, learning_starts=290, budget=32)
    assert len(figure.axes) == 3
    assert "| Pendulum-v1 | score function, b = V(s) " in tables and "nan" not in tables
