"""trpo.py: the natural gradient against explicit matrices, and the trust region it keeps to."""

from functools import partial

import gymnasium as gym
import pytest
import torch
from torch.nn.utils import parameters_to_vector

import a2c
import trpo
from helpers import agent_for
from run_folder import checkpoint, scalar_values, scalars

ENVS = ["CartPole-v1", "tiny_envs:IdentityBox-v0"]
NUM_STEPS = 40


@pytest.fixture(params=ENVS)
def agent(request):
    """An agent in float64 whose hidden layers have few units, so that H can be written down."""
    torch.manual_seed(0)
    envs = gym.make_vec(request.param, 1)
    agent = agent_for(trpo, envs)
    num_outputs = agent.actor[-1].out_features
    num_inputs = agent.actor[0].in_features
    agent.actor = torch.nn.Sequential(
        torch.nn.Linear(num_inputs, 5), torch.nn.SiLU(), torch.nn.Linear(5, num_outputs)
    )
    return agent.double()


@pytest.fixture
def x(agent):
    return torch.randn(NUM_STEPS, agent.actor[0].in_features, dtype=torch.float64)


def kl_product(agent, x):
    """v → H v, without damping."""
    parameters = agent.policy_parameters()
    out = agent.actor(x)
    kl = agent.kl(out.detach(), agent.log_std.detach().clone(), out).mean()
    gradient = trpo.flat_gradient(kl, parameters, create_graph=True)
    assert gradient.abs().max() < 1e-12  # the KL is smallest where the policies are the same
    return partial(trpo.fisher_product, gradient, parameters, 0.0)


def fisher_matrix(agent, x):
    """E_s[ E_a[ ∇ log π(a|s) ∇ log π(a|s)ᵀ ] ], from its definition.

    Discrete: the sum over actions. Box: Jᵀ diag(1/σ², 2) J, with J of means and log σ.
    """
    parameters = agent.policy_parameters()
    total = 0
    for row in x:
        out = agent.actor(row)
        if agent.discrete:
            log_p = out.log_softmax(-1)
            for action in range(len(out)):
                g = trpo.flat_gradient(log_p[action], parameters)
                total = total + log_p[action].exp().detach() * torch.outer(g, g)
        else:
            for i in range(len(out)):
                g = flat_with_zeros(out[i], parameters) / agent.log_std[i].exp().detach()
                total = total + torch.outer(g, g)
                g = flat_with_zeros(agent.log_std[i], parameters)
                total = total + 2 * torch.outer(g, g)
    return total / len(x)


def flat_with_zeros(scalar, parameters):
    gradients = torch.autograd.grad(scalar, parameters, retain_graph=True, allow_unused=True)
    return parameters_to_vector(
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients)
    )


def test_the_fisher_product_is_that_of_the_explicit_matrix(agent, x):
    product = kl_product(agent, x)
    matrix = fisher_matrix(agent, x)
    for _ in range(5):
        v = torch.randn(len(matrix), dtype=torch.float64)
        torch.testing.assert_close(product(v), matrix @ v, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 7, 30])
def test_conjugate_gradients_solve_linear_equations(size):
    torch.manual_seed(size)
    root = torch.randn(size, size, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(size)
    b = torch.randn(size, dtype=torch.float64)
    solution = trpo.conjugate_gradients(lambda v: matrix @ v, b, iterations=3 * size)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, b), rtol=1e-7, atol=1e-9)


def test_conjugate_gradients_of_zero():
    """As where all advantages are 0."""
    zero = torch.zeros(4)
    assert torch.equal(trpo.conjugate_gradients(lambda v: 2 * v, zero, 10), zero)


def test_the_gain_is_zero_at_first_and_has_the_policy_gradient():
    torch.manual_seed(0)
    log_prob = torch.randn(20, dtype=torch.float64, requires_grad=True)
    advantage = torch.randn(20, dtype=torch.float64)
    gain = trpo.surrogate_gain(log_prob, log_prob.detach(), advantage)
    assert gain.item() == 0
    [gradient] = torch.autograd.grad(gain, log_prob)
    [expected] = torch.autograd.grad(-a2c.policy_loss(log_prob, advantage), log_prob)
    torch.testing.assert_close(gradient, expected)


def test_the_gain_against_a_loop():
    torch.manual_seed(1)
    new, old, advantage = torch.randn(3, 20, dtype=torch.float64)
    expected = 0.0
    for i in range(20):
        expected += (torch.exp(new[i]) / torch.exp(old[i]) - 1) * advantage[i] / 20
    torch.testing.assert_close(trpo.surrogate_gain(new, old, advantage), expected)


def natural_and_plain_step(transform):
    """Steps of θ' in a policy of two actions whose logits are 0 and θ·x, where θ = A θ'.

    Both are given as steps of θ.
    """
    torch.manual_seed(4)
    x = torch.randn(NUM_STEPS, 3, dtype=torch.float64)
    start = torch.randn(3, dtype=torch.float64)
    advantage = torch.randn(NUM_STEPS, dtype=torch.float64)
    action = torch.randint(2, (NUM_STEPS,))
    theta = torch.linalg.solve(transform, start).requires_grad_()
    score = x @ (transform @ theta)
    logits = torch.stack([torch.zeros_like(score), score], -1)
    log_prob, _ = trpo.softmax_policy(logits, action)
    gain = trpo.surrogate_gain(log_prob, log_prob.detach(), advantage)
    gradient = trpo.flat_gradient(gain, [theta])
    kl = trpo.softmax_kl(logits.detach(), logits).mean()
    kl_gradient = trpo.flat_gradient(kl, [theta], create_graph=True)
    product = partial(trpo.fisher_product, kl_gradient, [theta], 0.0)
    natural = trpo.conjugate_gradients(product, gradient, 9)
    return transform @ natural, transform @ gradient


def test_a_natural_gradient_does_not_depend_on_how_the_policy_is_written():
    identity = torch.eye(3, dtype=torch.float64)
    transform = torch.tensor([[2.0, 0.5, 0.0], [0.0, 1.0, -1.0], [0.3, 0.0, 0.4]]).double()
    natural, plain = natural_and_plain_step(identity)
    natural_again, plain_again = natural_and_plain_step(transform)
    torch.testing.assert_close(natural_again, natural, rtol=1e-7, atol=1e-10)
    assert (plain_again - plain).norm() > 0.5 * plain.norm()


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_every_accepted_step_keeps_to_the_trust_region(completed_run, tmp_path, env_id):
    flags = ("--env-id", env_id, "--total-timesteps", 20_000, "--eval-episodes", 1)
    completed_run("trpo", *flags, "--target-kl", 0.02, "--run-dir", "r")
    bounds = scalar_values(tmp_path / "r", "charts/target_kl")
    kls = scalar_values(tmp_path / "r", "losses/kl")
    accepted = scalar_values(tmp_path / "r", "losses/accepted")
    gains = scalar_values(tmp_path / "r", "losses/surrogate_gain")
    assert len(kls) >= 5 and set(accepted) <= {0, 1} and sum(accepted) >= len(accepted) - 1
    assert len(bounds) == len(kls) and max(bounds) < 0.0201
    for kl, bound, gain, was_accepted in zip(kls, bounds, gains, accepted):
        if was_accepted:
            assert kl <= bound and gain > 0
    assert max(kls) > 0.01  # the region is used


def test_the_trust_region_shrinks_to_nothing(short_run):
    flags = ("--target-kl", 0.02)
    constant = short_run("trpo", *flags, "--no-anneal-kl", run_dir="constant")
    annealed = short_run("trpo", *flags, run_dir="annealed")
    values = scalar_values(constant, "charts/target_kl")
    assert {round(value, 6) for value in values} == {0.02}
    start = 0  # an iteration's bound is set at its start
    for step, value in scalars(annealed)["charts/target_kl"]:
        assert abs(value - 0.02 * (1 - start / 8192)) < 1e-6
        start = step


def test_without_the_line_search_every_step_is_taken_whole(completed_run, tmp_path):
    flags = ("--total-timesteps", 20_000, "--eval-episodes", 1, "--no-line-search")
    completed_run("trpo", *flags, "--no-anneal-kl", "--run-dir", "r")
    kls = scalar_values(tmp_path / "r", "losses/kl")
    assert all(0.002 < kl < 0.05 for kl in kls)  # around 0.01, as H is exact only nearby
    within = scalar_values(tmp_path / "r", "losses/accepted")
    assert [kl <= 0.01 for kl in kls] == [bool(value) for value in within]


def test_a_refused_step_leaves_the_policy_alone(train_here, monkeypatch, tmp_path):
    monkeypatch.setattr(trpo, "surrogate_gain", lambda log_prob, *_: log_prob.mean() * 0 - 1)
    run_dir = train_here(trpo, total_timesteps=2048, norm_obs=False, eval_episodes=1)
    actor = checkpoint(run_dir)["agent"]
    torch.manual_seed(1)
    envs = gym.make_vec("CartPole-v1", 1)
    untrained = agent_for(trpo, envs).state_dict()
    for name in ("actor.0.weight", "actor.4.bias"):
        assert torch.equal(actor[name], untrained[name])
    assert not torch.equal(actor["critic.0.weight"], untrained["critic.0.weight"])
    assert set(scalar_values(run_dir, "losses/accepted")) == {0}
