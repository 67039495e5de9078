"""The lectures' theorems on a Markov decision process small enough to enumerate.

Every trajectory, its probability, and the gradient that a script's own loss makes of it, in
float64, with γ = 1.

From state 0, action 0 leads to state 1 or 2 with even odds; action 1 ends the episode with
probability 0.3, else leads to state 2. Any action in state 1 or 2 ends it. The rewards have an
offset, as those of most tasks do.
"""

import itertools
import math
from typing import NamedTuple

import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

import a2c
import ppo_clip
import ppo_kl
import reinforce_baseline
from helpers import modules_defining

REWARD = torch.tensor([[6.0, 4.0], [7.0, 3.0], [5.0, 8.0]], dtype=torch.float64)  # [state, action]
# (state, action) → next state, None for the episode's end → probability
NEXT = {
    (0, 0): {1: 0.5, 2: 0.5},
    (0, 1): {None: 0.3, 2: 0.7},
    (1, 0): {None: 1.0},
    (1, 1): {None: 1.0},
    (2, 0): {None: 1.0},
    (2, 1): {None: 1.0},
}
STATES = torch.eye(3, dtype=torch.float64)


class Trajectory(NamedTuple):
    probability: float  # the environment's part
    states: list[int]
    actions: list[int]


def trajectories(state=0, probability=1.0):
    """Every trajectory from a state that is reached with this probability."""
    for action in (0, 1):
        for next_state, p in NEXT[state, action].items():
            if next_state is None:
                yield Trajectory(probability * p, [state], [action])
            else:
                for rest in trajectories(next_state, probability * p):
                    states = [state, *rest.states]
                    yield Trajectory(rest.probability, states, [action, *rest.actions])


ALL = list(trajectories())


def make_agent(module, seed=0):
    torch.manual_seed(seed)
    agent = module.Agent(Box(0, 1, (3,)), Discrete(2)).double()
    torch.nn.init.normal_(agent.actor[-1].weight)
    return agent


def log_policy(agent):
    """log π(a|s) (3, 2)."""
    return agent.actor(STATES).log_softmax(-1)


def probabilities(log_pi):
    """p(τ) of ALL under a policy given as log π (3, 2)."""
    found = [t.probability * log_pi[t.states, t.actions].sum().exp() for t in ALL]
    return torch.stack(found)


RETURNS = torch.stack([REWARD[t.states, t.actions].sum() for t in ALL])


def objective(log_pi):
    """J = Σ_τ p(τ) R(τ)."""
    return (probabilities(log_pi) * RETURNS).sum()


def action_values(log_pi):
    """Q^π (3, 2) and V^π (3,), from the last step back."""
    q = REWARD.clone()
    v = (log_pi.exp() * q).sum(-1)
    for action in (0, 1):
        q[0, action] += sum(p * v[s] for s, p in NEXT[0, action].items() if s is not None)
    return q, (log_pi.exp() * q).sum(-1)


def gradient(loss, agent):
    """−∇loss with respect to the actor, as one vector: the ascent direction."""
    return -torch.cat([g.flatten() for g in torch.autograd.grad(loss, agent.actor.parameters())])


def exact_gradient(agent):
    return gradient(-objective(log_policy(agent)), agent)


class Batch(NamedTuple):
    """Trajectories side by side, as an EpisodeCollector returns them: all (2, N)."""

    states: Tensor
    actions: Tensor
    reward: Tensor
    valid: Tensor


def batch_of(*taken):
    states = torch.zeros(2, len(taken), dtype=torch.long)
    actions = torch.zeros(2, len(taken), dtype=torch.long)
    valid = torch.zeros(2, len(taken), dtype=torch.bool)
    for n, trajectory in enumerate(taken):
        length = len(trajectory.states)
        states[:length, n] = torch.tensor(trajectory.states)
        actions[:length, n] = torch.tensor(trajectory.actions)
        valid[:length, n] = True
    return Batch(states, actions, REWARD[states, actions] * valid, valid)


def moments(agent, estimate, size=1):
    """Mean and total variance of `estimate(*trajectories)` over all batches of `size` of them."""
    p = probabilities(log_policy(agent)).tolist()
    mean = 0
    square = 0
    for indices in itertools.product(range(len(ALL)), repeat=size):
        probability = math.prod(p[i] for i in indices)
        g = estimate(*[ALL[i] for i in indices])
        mean = mean + probability * g
        square = square + probability * g.square().sum()
    return mean, square - mean.square().sum()


VALUE = torch.tensor([1.0, -3.0, 2.0], dtype=torch.float64)  # of no policy


def weights(module, agent, kind, batch, gamma):
    """What weighs each action's score, (2, N); `kind` is a return, or a return less a baseline."""
    to_go = module.reward_to_go(batch.reward, gamma)
    q, v = action_values(log_policy(agent).detach())
    which, _, baseline = kind.partition(" - ")
    if which == "q":
        return q[batch.states, batch.actions]
    if baseline == "any value":
        weight = to_go - VALUE[batch.states]
    elif baseline == "value":
        weight = to_go - v[batch.states]
    elif baseline == "mean":
        weight = to_go - module.mean_baseline(to_go, batch.valid)
    elif baseline == "mean with itself":
        weight = to_go - to_go.mean(1, keepdim=True)
    else:
        weight = to_go
    if which == "total":
        return weight[:1].expand_as(to_go)
    return weight


def log_probs(agent, states, actions):
    """log π of actions in states, as an update has it."""
    log_prob, _ = agent.log_prob_and_entropy(agent.actor(STATES[states]), actions)
    return log_prob


def reinforce_moments(module, kind, size=1, gamma=1.0, factor=1.0):
    agent = make_agent(module)

    def estimate(*taken):
        batch = batch_of(*taken)
        weight = factor * weights(module, agent, kind, batch, gamma)
        log_prob = log_probs(agent, batch.states, batch.actions)
        return gradient(module.reinforce_loss(log_prob, weight, batch.valid), agent)

    return *moments(agent, estimate, size), exact_gradient(agent)


@pytest.mark.parametrize("module", modules_defining("reinforce_loss"))
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    "kind", ["total", "to-go", "q", "to-go - any value", "to-go - value", "total - value"]
)
def test_the_estimate_is_unbiased(module, kind, size):
    mean, _, exact = reinforce_moments(module, kind, size)
    torch.testing.assert_close(mean, exact, rtol=1e-10, atol=1e-10)
    assert exact.norm() > 0.1


@pytest.mark.parametrize("module", modules_defining("reinforce_loss"))
def test_with_gamma_below_1_only_the_whole_return_is_unbiased_for_the_discounted_objective(module):
    """Its expectation is that of γ^t G_t.

    The reward-to-go without γ^t, as practice has it, is another direction.
    """
    discount = torch.tensor([[1.0], [0.9]], dtype=torch.float64)
    total, _, _ = reinforce_moments(module, "total", gamma=0.9)
    discounted, _, _ = reinforce_moments(module, "to-go", gamma=0.9, factor=discount)
    practice, _, _ = reinforce_moments(module, "to-go", gamma=0.9)
    torch.testing.assert_close(total, discounted, rtol=1e-10, atol=1e-10)
    assert (practice - total).norm() > 0.01 * total.norm()


@pytest.mark.parametrize("kind", ["to-go - mean", "total - mean"])
@pytest.mark.parametrize("size", [2, 3])
def test_the_mean_of_the_others_is_an_unbiased_baseline(kind, size):
    mean, _, exact = reinforce_moments(reinforce_baseline, kind, size)
    torch.testing.assert_close(mean, exact, rtol=1e-10, atol=1e-10)


def test_a_mean_with_the_trajectory_itself_shrinks_the_gradient():
    """By 1 − 1/N: what leaving one out is for."""
    mean, _, exact = reinforce_moments(reinforce_baseline, "total - mean with itself", 2)
    torch.testing.assert_close(mean, exact / 2, rtol=1e-10, atol=1e-10)


def test_causality_and_baselines_lower_the_variance():
    alone = {}
    of_two = {}
    for kind in ("total", "to-go", "to-go - value", "q"):
        _, alone[kind], _ = reinforce_moments(reinforce_baseline, kind, 1)
    for kind in ("total", "to-go", "to-go - value", "q", "total - mean", "to-go - mean"):
        _, of_two[kind], _ = reinforce_moments(reinforce_baseline, kind, 2)
    for kind, variance in alone.items():
        assert abs(of_two[kind] / variance - 1 / 2) < 1e-9  # of the mean of two
    # The rewards' own randomness is averaged out.
    assert of_two["q"] < of_two["to-go"]
    assert 2 * of_two["to-go - value"] < of_two["to-go - mean"]
    assert of_two["to-go - mean"] < of_two["to-go"] < of_two["total"]
    assert of_two["to-go - mean"] < of_two["total - mean"] < of_two["total"]


@pytest.mark.parametrize("module", modules_defining("reinforce_loss"))
def test_with_every_weight_1_it_is_behavioural_cloning_of_its_own_actions(module):
    agent = make_agent(module)
    batch = batch_of(*ALL)
    weight = torch.ones_like(batch.valid).double()
    log_prob = log_probs(agent, batch.states, batch.actions)
    loss = module.reinforce_loss(log_prob, weight, batch.valid)
    logits = agent.actor(STATES[batch.states[batch.valid]])
    actions = batch.actions[batch.valid]
    cloning = torch.nn.functional.cross_entropy(logits, actions, reduction="sum") / len(ALL)
    torch.testing.assert_close(loss, cloning)


def a2c_moments(lam, value):
    """With the critic's values given.

    `policy_loss` is the mean over the steps, so times M it is their sum.
    """
    agent = make_agent(a2c)

    def estimate(taken):
        states, actions, reward, valid = batch_of(taken)
        terminated = torch.zeros_like(valid)
        terminated[len(taken.actions) - 1] = True
        truncated = torch.zeros_like(valid)
        values = torch.cat([value[states] * valid, torch.zeros(1, 1, dtype=torch.float64)])
        advantage = a2c.gae(reward, values, terminated, truncated, 1.0, lam)
        log_prob = log_probs(agent, states[valid], actions[valid])
        loss = a2c.policy_loss(log_prob, advantage[valid])
        return gradient(loss * valid.sum(), agent)

    return *moments(agent, estimate), exact_gradient(agent)


def test_lambda_trades_bias_for_variance():
    _, true_value = action_values(log_policy(make_agent(a2c)).detach())
    bias = {}
    variance = {}
    for lam in (0.0, 0.5, 1.0):
        mean, variance[lam], exact = a2c_moments(lam, true_value)
        # With V^π every λ is unbiased.
        torch.testing.assert_close(mean, exact, rtol=1e-10, atol=1e-10)
        mean, _, _ = a2c_moments(lam, VALUE)
        bias[lam] = float((mean - exact).norm() / exact.norm())
    assert variance[0.0] < variance[0.5] < variance[1.0]
    assert bias[0.0] > bias[0.5] > 0.1 and bias[1.0] < 1e-10


def surrogate_of(log_pi, new_log_pi):
    """L_π(π') = Σ_t E_{s~d_t^π, a~π}[ π'(a|s)/π(a|s) A^π(s, a) ].

    The ratio is that of ppo_clip.py's loss, with a range that is never left.
    """
    q, v = action_values(log_pi)
    advantage = q - v[:, None]
    total = torch.zeros(())
    for probability, trajectory in zip(probabilities(log_pi), ALL):
        taken = trajectory.states, trajectory.actions
        ratio = (new_log_pi[taken] - log_pi[taken]).exp()
        loss = ppo_clip.policy_loss(ratio, advantage[taken], clip_coef=1e9)
        total = total - probability * loss * len(trajectory.states)
    return total


@pytest.mark.parametrize("size", [0.1, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_performance_difference_lemma_and_the_kl_bound(seed, size):
    log_pi = log_policy(make_agent(ppo_clip)).detach()
    torch.manual_seed(seed)
    new_log_pi = (log_pi + size * torch.randn(3, 2)).log_softmax(-1)
    difference = objective(new_log_pi) - objective(log_pi)
    q, v = action_values(log_pi)
    advantage = q - v[:, None]
    sums = torch.stack([advantage[t.states, t.actions].sum() for t in ALL])
    by_the_lemma = (probabilities(new_log_pi) * sums).sum()
    torch.testing.assert_close(difference, by_the_lemma)

    # Only the second step's states are distributed otherwise, by at most 2 E[TV] in L1 norm, and
    # TV ≤ √(KL/2).
    error = (difference - surrogate_of(log_pi, new_log_pi)).abs()
    kl = ppo_kl.softmax_kl(log_pi, new_log_pi)[0]
    gain = (new_log_pi.exp() * advantage).sum(-1)[1:].abs().max()
    assert 0 < error <= 2**0.5 * gain * kl.sqrt()


def test_the_surrogate_has_the_objectives_gradient_at_the_old_policy():
    agent = make_agent(ppo_clip)
    log_pi = log_policy(agent)
    ours = gradient(-surrogate_of(log_pi.detach(), log_pi), agent)
    torch.testing.assert_close(ours, exact_gradient(agent), rtol=1e-10, atol=1e-10)


def occupancy(log_pi):
    """d(s) (3,): how often a state is visited in an episode, on average."""
    visits = torch.zeros(3, dtype=torch.float64)
    for probability, trajectory in zip(probabilities(log_pi), ALL):
        for state in trajectory.states:
            visits[state] += probability
    return visits


def scores(agent):
    """∇_θ log π_θ(a|s) of each state and action, (6, P)."""
    rows = []
    for state, action in itertools.product(range(3), range(2)):
        rows.append(gradient(-log_policy(agent)[state, action], agent))
    return torch.stack(rows)


def gradient_with_a_linear_critic(agent, features):
    """E_{s~d, a~π}[ ∇ log π(a|s) Q_ω(s, a) ], where Q_ω is linear in features (6, K).

    ω is fitted to Q^π by least squares, weighted by d(s) π(a|s).
    """
    log_pi = log_policy(agent).detach()
    weight = (occupancy(log_pi)[:, None] * log_pi.exp()).flatten()
    q, _ = action_values(log_pi)
    root = weight.sqrt()[:, None]
    omega = torch.linalg.lstsq(root * features, root * q.reshape(6, 1), driver="gelsd").solution
    q_omega = (features @ omega).flatten()
    return (weight * q_omega) @ scores(agent)


def test_a_critic_with_compatible_features_gives_the_exact_gradient():
    """Though it is not Q: it cannot tell a state's value. Other features give another gradient."""
    agent = make_agent(ppo_clip)
    exact = exact_gradient(agent)
    compatible = gradient_with_a_linear_critic(agent, scores(agent))
    torch.testing.assert_close(compatible, exact, rtol=1e-8, atol=1e-10)

    action_alone = torch.eye(2, dtype=torch.float64).repeat(3, 1)
    other = gradient_with_a_linear_critic(agent, action_alone)
    assert (other - exact).norm() > 0.1 * exact.norm()


def test_the_q_actor_critics_gradient_is_exact_where_its_critic_is():
    agent = make_agent(ppo_clip)
    every_pair = torch.eye(6, dtype=torch.float64)
    ours = gradient_with_a_linear_critic(agent, every_pair)
    torch.testing.assert_close(ours, exact_gradient(agent), rtol=1e-8, atol=1e-10)
