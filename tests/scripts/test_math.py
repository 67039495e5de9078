"""The formulas, against loops in float64 written from their definitions, closed forms, and
torch.distributions.
"""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

import a2c
import ppo_clip
import ppo_ddp
import ppo_kl
import reinforce_baseline
from helpers import modules_defining
from references import advantage_by_definition, distribution, policy_of

T = 7
N = 5
GAMMA = 0.97
LAMBDA = 0.9
f64 = torch.float64


@pytest.fixture
def rollout():
    """Random rewards, values and ends of every kind, in the first and the last step, too."""
    rng = torch.Generator().manual_seed(0)
    reward = torch.randn(T, N, generator=rng, dtype=f64)
    value = torch.randn(T + 1, N, generator=rng, dtype=f64)
    terminated, truncated = torch.rand(2, T, N, generator=rng) < 0.15
    terminated[0, 0] = True
    truncated[0, 1] = True
    terminated[-1, 2] = True
    truncated[-1, 3] = True
    terminated[3, 4] = True
    truncated[3, 4] = True
    return reward, value, terminated, truncated


@pytest.mark.parametrize("module", modules_defining("gae"))
class TestGae:
    @pytest.mark.parametrize("lam", [0.0, LAMBDA, 1.0])
    def test_equals_the_definition(self, module, rollout, lam):
        expected = advantage_by_definition(*rollout, GAMMA, lam)
        advantage = module.gae(*rollout, GAMMA, lam)
        torch.testing.assert_close(advantage, expected, rtol=1e-12, atol=1e-12)

    def test_lambda_1_is_monte_carlo(self, module, rollout):
        reward, value, terminated, truncated = rollout
        never = torch.zeros_like(terminated)
        discounts = GAMMA ** torch.arange(T, dtype=f64)
        monte_carlo = (discounts[:, None] * reward).sum(0) + GAMMA**T * value[-1] - value[0]
        advantage = module.gae(reward, value, never, never, GAMMA, 1.0)
        torch.testing.assert_close(advantage[0], monte_carlo)

    @pytest.mark.parametrize(
        "how, expected", [("terminated", -5.0), ("truncated", -1.0), ("both", -5.0)]
    )
    def test_by_hand(self, module, how, expected):
        """With γ = λ = 0.5: the last step's δ is 1 + γ · 8 − 6 if V(s_2) counts, else 1 − 6."""
        reward = torch.ones(2, 1)
        value = torch.tensor([[4.0], [6.0], [8.0]])
        last = torch.tensor([[False], [True]])
        never = torch.zeros_like(last)
        terminated = last if how != "truncated" else never
        truncated = last if how != "terminated" else never
        advantage = module.gae(reward, value, terminated, truncated, 0.5, 0.5)
        assert advantage[:, 0].tolist() == [0.0 + 0.25 * expected, expected]

    def test_nothing_crosses_an_episodes_end(self, module, rollout):
        reward, value, terminated, truncated = rollout
        before = module.gae(*rollout, GAMMA, LAMBDA)
        reward[4:] = 1e6
        value[5:] = -1e6
        after = module.gae(reward, value, terminated, truncated, GAMMA, LAMBDA)
        assert torch.equal(before[:4, 4], after[:4, 4])  # environment 4 ended at step 3
        assert not torch.equal(before[4:, 4], after[4:, 4])


VARIANCES = torch.tensor([0.0, 1e-9, 9e-9, 2e-8, 4.0])
# What has not varied is divided by 1; beyond a variance of 1e-8, by the deviation.
DEVIATIONS = torch.tensor([1.0, 1.0, 1.0, 3e-8**0.5, (4 + 1e-8) ** 0.5])
WITH_VARIANCES = torch.stack([VARIANCES.sqrt(), -VARIANCES.sqrt()])


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("module", modules_defining("RunningStats"))
class TestRunningStats:
    def test_merged_in_parts_equals_all_at_once(self, module):
        stats = module.RunningStats(3)
        parts = []
        for n, scale in ((50, 1.0), (1, 9.0), (70, 5.0), (30, 0.1)):
            parts.append(torch.randn(n, 3) * scale + scale)
            stats.update(parts[-1])
        every = torch.cat(parts).double()
        mean = every.mean(0)
        var = every.var(0, correction=0)
        torch.testing.assert_close(stats.mean.double(), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stats.var.double(), var, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stats.std.double(), var.sqrt(), rtol=1e-5, atol=1e-5)
        assert stats.count == len(every)

    def test_leaves_things_as_they_are_until_it_has_seen_some(self, module):
        stats = module.RunningStats(2)
        assert stats.mean.tolist() == [0, 0] and stats.var.tolist() == [1, 1]
        assert stats.std.tolist() == [1, 1]
        stats.update(torch.tensor([[5.0, 1.0], [5.0, 3.0]]))
        assert stats.mean.tolist() == [5, 2] and stats.var.tolist() == [0, 1]
        assert stats.count == 2
        assert stats.std.tolist() == [1, 1]

    def test_the_deviation_of_what_has_hardly_varied_is_1(self, module):
        stats = module.RunningStats(5)
        stats.update(torch.zeros(1, 5))
        assert stats.std.tolist() == [1] * 5
        stats.update(WITH_VARIANCES.repeat(2000, 1))  # so many that the zero above is forgotten
        torch.testing.assert_close(stats.std, DEVIATIONS, rtol=1e-3, atol=0)

    def test_a_number_has_no_shape(self, module):
        """The statistics of rewards and returns are of numbers, not of vectors."""
        stats = module.RunningStats()
        stats.update(torch.tensor([1.0, 2.0, 6.0]))
        assert stats.mean.shape == stats.var.shape == stats.std.shape == ()
        torch.testing.assert_close(stats.mean, torch.tensor(3.0))
        torch.testing.assert_close(stats.var, torch.tensor(14 / 3))


@pytest.mark.parametrize("module", modules_defining("DataStats"))
class TestDataStats:
    def test_are_those_of_the_data_given_last(self, module):
        stats = module.DataStats(3)
        stats.fit(torch.randn(20, 3) * 7 - 5)
        data = torch.randn(50, 3) * 3 + 1
        stats.fit(data)
        expected_var = ((data - data.mean(0)) ** 2).mean(0)
        torch.testing.assert_close(stats.mean, data.mean(0))
        torch.testing.assert_close(stats.var, expected_var)
        assert stats.count == 50

    def test_leave_things_as_they_are_before_the_first_fit(self, module):
        stats = module.DataStats(2)
        assert stats.mean.tolist() == [0, 0] and stats.var.tolist() == [1, 1]
        assert stats.std.tolist() == [1, 1] and stats.count == 0

    def test_the_deviation_of_what_has_hardly_varied_is_1(self, module):
        stats = module.DataStats(5)
        stats.fit(torch.randn(9, 5))
        stats.fit(WITH_VARIANCES)
        torch.testing.assert_close(stats.std, DEVIATIONS, rtol=1e-5, atol=0)

    def test_are_saved_with_the_network(self, module):
        stats = module.DataStats(2)
        other = module.DataStats(2)
        stats.fit(torch.randn(9, 2))
        other.load_state_dict(stats.state_dict())
        assert torch.equal(other.mean, stats.mean) and torch.equal(other.var, stats.var)
        assert torch.equal(other.std, stats.std) and other.count == 9


@pytest.mark.parametrize("module", modules_defining("softmax_policy"))
def test_softmax_policy_equals_torch_distributions(module):
    logits = torch.randn(40, 7, 6) * 3
    reference = Categorical(logits=logits)
    action = reference.sample()
    log_prob, entropy = module.softmax_policy(logits, action)
    torch.testing.assert_close(log_prob, reference.log_prob(action))
    torch.testing.assert_close(entropy, reference.entropy())


@pytest.mark.parametrize("module", modules_defining("gaussian_policy"))
def test_gaussian_policy_equals_torch_distributions(module):
    mean = torch.randn(40, 7, 3)
    log_std = torch.tensor([-1.0, 0.0, 0.7])
    reference = Normal(mean, log_std.exp())
    action = reference.sample()
    log_prob, entropy = module.gaussian_policy(mean, log_std, action)
    torch.testing.assert_close(log_prob, reference.log_prob(action).sum(-1))
    torch.testing.assert_close(entropy, reference.entropy().sum(-1))
    assert log_prob.dtype == torch.float32


def make_agent(module, kind):
    """An agent whose policy is not uniform and whose observations are scaled."""
    torch.manual_seed(3)
    action_space = Discrete(4) if kind == "Discrete" else Box(-2, 2, (2,))
    agent = module.Agent(Box(-1, 1, (3,)), action_space)
    torch.nn.init.normal_(agent.actor[4].weight)  # of the last layer
    agent.obs_stats.update(torch.randn(100, 3) * 3 + 1)
    return agent


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("module", modules_defining("Agent", "gaussian_policy"))
class TestSample:
    """200,000 actions of one state, against the probabilities that the agent tells."""

    def test_discrete(self, module):
        agent = make_agent(module, "Discrete")
        x = torch.randn(3)
        out = agent.actor(x)
        counts = agent.sample(out.expand(200_000, 4)).bincount(minlength=4) / 200_000
        log_prob, _ = agent.log_prob_and_entropy(out.expand(4, 4), torch.arange(4))
        assert (counts - log_prob.exp()).abs().max() < 0.005  # four standard errors
        assert counts.max() < 0.9

    def test_box(self, module):
        agent = make_agent(module, "Box")
        x = torch.randn(3)
        out = agent.actor(x).expand(200_000, 2)
        sample = agent.sample(out)
        std = agent.log_std.exp()
        assert ((sample.mean(0) - out[0]).abs() < 4 * std / 200_000**0.5).all()
        assert (sample.std(0) / std - 1).abs().max() < 0.01
        log_prob, entropy = agent.log_prob_and_entropy(out, sample)
        assert abs(-log_prob.mean() / entropy[0] - 1) < 0.01


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("module", [ppo_clip, ppo_ddp, ppo_kl])
def test_means_of_box_actions_stay_within_the_bounds(module):
    """Which are −1 and 1 in their units; logits of Discrete actions have no bounds."""
    x = 100 * torch.randn(50, 3)
    mean = make_agent(module, "Box").actor(x)
    assert mean.abs().max() <= 1 and mean.min() < -0.99 and mean.max() > 0.99
    assert make_agent(module, "Discrete").actor(x).abs().max() > 10


@pytest.fixture
def episodes():
    """Rewards, scores and the steps that count, of five episodes of 7, 1, 4, 4 and 2 steps."""
    rng = torch.Generator().manual_seed(0)
    reward, weight = torch.randn(2, T, N, generator=rng, dtype=f64)
    valid = torch.arange(T)[:, None] < torch.tensor([7, 1, 4, 4, 2])
    return reward * valid, weight, valid


@pytest.mark.parametrize("module", modules_defining("reward_to_go"))
def test_reward_to_go_equals_the_definition(module, episodes):
    reward, _, valid = episodes
    to_go = module.reward_to_go(reward, GAMMA)
    for n in range(N):
        for t in range(T):
            expected = sum(GAMMA ** (k - t) * reward[k, n] for k in range(t, T))
            assert abs(to_go[t, n] - expected) < 1e-12
    assert not to_go[~valid].any() and to_go.dtype == f64
    assert module.reward_to_go(torch.ones(3, 1), 0.5)[:, 0].tolist() == [1.75, 1.5, 1.0]


def test_mean_baseline_equals_the_definition(episodes):
    reward, _, valid = episodes
    to_go = reinforce_baseline.reward_to_go(reward, GAMMA)
    baseline = reinforce_baseline.mean_baseline(to_go, valid)
    alone = 0
    for t, n in valid.nonzero().tolist():
        others = [to_go[t, k] for k in range(N) if k != n and valid[t, k]]
        mean = sum(others) / len(others) if others else 0
        assert abs(baseline[t, n] - mean) < 1e-12
        alone += not others
    assert alone == 3


@pytest.mark.parametrize("kind", ["Discrete", "Box"])
@pytest.mark.parametrize("module", modules_defining("reinforce_loss"))
def test_reinforce_loss_equals_a_loop(module, kind, episodes):
    """Summed over the steps of each episode, averaged over the episodes: not over their steps."""
    _, weight, valid = episodes
    agent = make_agent(module, kind).double()
    x = torch.randn(T, N, 3, dtype=f64)
    out = agent.actor(x)
    action = agent.sample(out).detach()
    log_prob, _ = agent.log_prob_and_entropy(out, action)
    loss = module.reinforce_loss(log_prob, weight, valid)
    total = 0.0
    for t, n in valid.nonzero().tolist():
        total += (policy_of(agent, x[t, n]).log_prob(action[t, n]) * weight[t, n]).item()
    assert abs(loss.item() + total / N) < 1e-12 and loss.dtype == f64


class Steps(NamedTuple):
    """What a minibatch has of each step, whatever the algorithm."""

    x: Tensor
    action: Tensor
    advantage: Tensor
    target: Tensor


def agent_and_steps(module, kind):
    """An agent in float64, and 32 steps of its own."""
    agent = make_agent(module, kind).double()
    x = torch.randn(32, 3, dtype=f64)
    action = agent.sample(agent.actor(x)).detach()
    advantage, target = torch.randn(2, 32, dtype=f64)
    return agent, Steps(x, action, advantage, target)


def gradients(loss, agent):
    return torch.autograd.grad(loss, agent.parameters(), allow_unused=True, retain_graph=True)


@pytest.mark.parametrize("kind", ["Discrete", "Box"])
class TestActorCriticLosses:
    """What the losses of a2c.py, ppo_clip.py and ppo_kl.py are made of, on the same steps."""

    def old_policy(self, agent, steps):
        """Outputs, log σ and log π of the policy that sampled, as ppo_kl.py stores them."""
        out = agent.actor(steps.x).detach()
        log_std = agent.log_std.detach().expand_as(out).clone()
        log_prob, _ = agent.log_prob_and_entropy(out, steps.action)
        return out, log_std, log_prob.detach()

    @pytest.mark.usefixtures("process_group")
    @pytest.mark.parametrize("module", modules_defining("softmax_policy"))
    def test_log_prob_and_entropy_equal_a_loop(self, module, kind):
        agent, steps = agent_and_steps(module, kind)
        log_prob, entropy = agent.log_prob_and_entropy(agent.actor(steps.x), steps.action)
        assert log_prob.shape == entropy.shape == (32,)
        for i in range(32):
            reference = policy_of(agent, steps.x[i])
            assert abs(log_prob[i] - reference.log_prob(steps.action[i])) < 1e-12
            assert abs(entropy[i] - reference.entropy()) < 1e-12

    def test_the_losses_of_a2c_equal_a_loop(self, kind):
        agent, steps = agent_and_steps(a2c, kind)
        log_prob, entropy = agent.log_prob_and_entropy(agent.actor(steps.x), steps.action)
        pg_loss = a2c.policy_loss(log_prob, steps.advantage)
        v_loss = a2c.value_loss(agent.value(steps.x), steps.target)
        policy = 0.0
        value = 0.0
        expected_entropy = 0.0
        for i in range(32):
            reference = policy_of(agent, steps.x[i])
            policy -= (reference.log_prob(steps.action[i]) * steps.advantage[i]).item() / 32
            value += 0.5 * (agent.critic(steps.x[i])[0] - steps.target[i]).item() ** 2 / 32
            expected_entropy += reference.entropy().item() / 32
        seen = [pg_loss.item(), v_loss.item(), entropy.mean().item()]
        np.testing.assert_allclose(seen, [policy, value, expected_entropy], rtol=1e-12)

    def test_ppos_gradient_at_ratio_1_is_a2cs(self, kind):
        """The KL penalty, whatever its weight, has no gradient there."""
        agent, steps = agent_and_steps(ppo_kl, kind)
        old_out, old_log_std, old_log_prob = self.old_policy(agent, steps)
        out = agent.actor(steps.x)
        log_prob, _ = agent.log_prob_and_entropy(out, steps.action)
        ratio = (log_prob - old_log_prob).exp()
        kl = agent.kl(old_out, old_log_std, out).mean()
        assert abs(kl) < 1e-12
        reference = gradients(a2c.policy_loss(log_prob, steps.advantage), agent)
        clip_loss = ppo_clip.policy_loss(ratio, steps.advantage, 0.2)
        kl_loss = ppo_kl.policy_loss(ratio, steps.advantage) + 10 * kl
        with_gradient = 0
        for loss in (clip_loss, kl_loss):
            for found, expected in zip(gradients(loss, agent), reference):
                if expected is None:  # log σ of a Discrete policy; the critic
                    assert found is None
                else:
                    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
                    assert expected.abs().sum() > 0
                    with_gradient += 1
        weights_and_biases = 6
        assert with_gradient == 2 * (weights_and_biases + (kind == "Box"))

    def test_the_losses_of_ppo_kl_equal_a_loop(self, kind):
        """Away from the old policy, σ included."""
        agent, steps = agent_and_steps(ppo_kl, kind)
        old_out, old_log_std, old_log_prob = self.old_policy(agent, steps)
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        out = agent.actor(steps.x)
        log_prob, _ = agent.log_prob_and_entropy(out, steps.action)
        ratio = (log_prob - old_log_prob).exp()
        pg_loss = ppo_kl.policy_loss(ratio, steps.advantage)
        kl = agent.kl(old_out, old_log_std, out)
        policy = 0.0
        for i in range(32):
            before = distribution(agent, old_out[i], old_log_std[i])
            after = policy_of(agent, steps.x[i])
            action = steps.action[i]
            expected_ratio = (after.log_prob(action) - before.log_prob(action)).exp()
            policy -= (expected_ratio * steps.advantage[i]).item() / 32
            assert abs(kl[i] - kl_divergence(before, after)) < 1e-12
        assert kl.mean() > 0.01 and kl.shape == (32,)
        assert abs(pg_loss.item() - policy) < 1e-12


def test_softmax_kl_equals_torch_distributions():
    old, new = 3 * torch.randn(2, 40, 7, 6)
    expected = kl_divergence(Categorical(logits=old), Categorical(logits=new))
    torch.testing.assert_close(ppo_kl.softmax_kl(old, new), expected, rtol=1e-4, atol=1e-5)
    the_other_way_round = ppo_kl.softmax_kl(new, old)
    assert not torch.allclose(expected, the_other_way_round, rtol=0.1)
    torch.testing.assert_close(ppo_kl.softmax_kl(old, old), torch.zeros(40, 7))


def test_gaussian_kl_equals_torch_distributions():
    old_mean, mean, old_log_std = torch.randn(3, 40, 7, 3)
    log_std = torch.tensor([-1.0, 0.0, 0.7])
    old = Normal(old_mean, old_log_std.exp())
    new = Normal(mean, log_std.exp())
    expected = kl_divergence(old, new).sum(-1)
    found = ppo_kl.gaussian_kl(old_mean, old_log_std, mean, log_std)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    the_other_way_round = ppo_kl.gaussian_kl(mean, log_std, old_mean, old_log_std)
    assert not torch.allclose(expected, the_other_way_round, rtol=0.1)
    zero = ppo_kl.gaussian_kl(old_mean, old_log_std, old_mean, old_log_std)
    torch.testing.assert_close(zero, torch.zeros(40, 7), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "kl, factor",
    [(0, 0.5), (0.5, 0.5), (1, 0.5), (1.0001, 1), (1.5, 1), (2.2499, 1), (2.25, 2), (100, 2)],
)
def test_the_kl_penalty_adapts_at_and_around_both_thresholds(kl, factor):
    """δ = 1.5, so that δ / 1.5 and 1.5 δ are 1 and 2.25, both exact in binary."""
    penalty = ppo_kl.KLPenalty(3.0)
    penalty.adapt(kl, 1.5)
    assert penalty.coef == 3.0 * factor


def test_the_kl_penalty_adapts_from_update_to_update_and_is_restored():
    penalty = ppo_kl.KLPenalty(1.0)
    seen = []
    for kl in (9, 9, 1.5, 0, 0, 0, 0):
        penalty.adapt(kl, 1.5)
        seen.append(penalty.coef)
    assert seen == [2, 4, 4, 2, 1, 0.5, 0.25]
    other = ppo_kl.KLPenalty(1.0)
    other.load_state_dict(penalty.state_dict())
    assert other.coef == 0.25
    none = ppo_kl.KLPenalty(0.0)
    none.adapt(9, 1.5)
    assert none.coef == 0


CLIPPING = modules_defining("policy_loss", "clipped_value_loss", "approx_kl")


@pytest.mark.parametrize("module", CLIPPING)
def test_policy_loss_equals_a_loop(module):
    rng = np.random.default_rng(0)
    log_ratio, advantage = rng.normal(size=(2, 64))
    log_ratio = 0.4 * log_ratio
    total = 0.0
    clipped = 0
    for i in range(64):
        ratio = math.exp(log_ratio[i])
        clipped_ratio = min(max(ratio, 0.8), 1.2)
        total += min(ratio * advantage[i], clipped_ratio * advantage[i])
        clipped += ratio * advantage[i] > clipped_ratio * advantage[i]
    ratios = torch.as_tensor(log_ratio).exp()
    loss = module.policy_loss(ratios, torch.as_tensor(advantage), 0.2)
    assert loss.dtype == f64 and abs(loss.item() + total / 64) < 1e-12
    assert 6 < clipped < 58  # both branches were taken


@pytest.mark.parametrize("module", CLIPPING)
def test_a_ratio_that_underflows_is_finite(module):
    """A Gaussian with a small σ that has moved: the ratio is 0, its logarithm −200."""
    log_ratio = torch.tensor([-200.0], requires_grad=True)
    loss = module.policy_loss(log_ratio.exp(), torch.ones(1), 0.2)
    loss.backward()
    assert loss == 0 and log_ratio.grad == 0
    assert module.approx_kl(log_ratio) == 199


@pytest.mark.parametrize("module", CLIPPING)
@pytest.mark.parametrize(
    "ratio, advantage, moves", [(1.3, 1, False), (1.3, -1, True), (0.7, 1, True), (0.7, -1, False)]
)
def test_the_gradient_stops_only_where_moving_on_would_gain(module, ratio, advantage, moves):
    log_ratio = torch.tensor([math.log(ratio)], requires_grad=True)
    loss = module.policy_loss(log_ratio.exp(), torch.tensor([float(advantage)]), 0.2)
    loss.backward()
    assert bool(log_ratio.grad != 0) is moves


@pytest.mark.parametrize("module", CLIPPING)
class TestApproxKl:
    def test_equals_a_loop(self, module):
        log_ratio = np.random.default_rng(0).normal(size=64)
        expected = sum(math.exp(value) - 1 - value for value in log_ratio) / 64
        assert abs(module.approx_kl(torch.as_tensor(log_ratio)).item() - expected) < 1e-12

    def test_of_a_ratio_of_2(self, module):
        log_ratio = torch.tensor([math.log(2)], dtype=f64, requires_grad=True)
        kl = module.approx_kl(log_ratio)
        assert abs(kl.item() - (1 - math.log(2))) < 1e-12
        assert not kl.requires_grad  # it is measured, not learned from

    def test_no_single_step_makes_it_negative(self, module):
        for log_ratio in (-3.0, -1.0, -0.1, 0.1, 1.0, 3.0):
            assert module.approx_kl(torch.tensor([log_ratio])) > 0
        assert module.approx_kl(torch.zeros(5)) == 0

    def test_estimates_the_exact_kl(self, module):
        torch.manual_seed(0)
        old = Normal(0.0, 1.0)
        new = Normal(0.1, 1.1)
        action = old.sample((400_000,))
        kl = module.approx_kl(new.log_prob(action) - old.log_prob(action))
        assert abs(kl / kl_divergence(old, new) - 1) < 0.02


@pytest.mark.parametrize("module", modules_defining("value_loss"))
def test_value_loss_equals_a_loop(module):
    value, target = torch.randn(2, 64, dtype=f64)
    expected = sum(0.5 * (value[i] - target[i]).item() ** 2 for i in range(64)) / 64
    assert abs(module.value_loss(value, target).item() - expected) < 1e-12
    by_hand = module.value_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0]))
    assert by_hand == 0.5 * (1.0**2 + 1.0**2) / 2


@pytest.mark.parametrize("module", CLIPPING)
class TestClippedValueLoss:
    def test_by_hand(self, module):
        value = torch.tensor([1.0, 2.0], dtype=f64)
        old = torch.tensor([0.9, 0.5], dtype=f64)
        target = torch.tensor([0.0, 3.0], dtype=f64)
        # Value 1 moved 0.1 from 0.9: within the range. Value 2 moved 1.5 from 0.5: it counts as
        # 0.7, with an error of 2.3.
        clipped = module.clipped_value_loss(value, old, target, 0.2)
        torch.testing.assert_close(clipped, torch.tensor(0.5 * (1.0 + 2.3**2) / 2, dtype=f64))

    def test_equals_a_loop(self, module):
        value, old, target = torch.randn(3, 64, dtype=f64)
        value = old + 0.4 * value
        total = 0.0
        clipped = 0
        for i in range(64):
            moved = value[i].item() - old[i].item()
            clipped_value = old[i].item() + min(max(moved, -0.2), 0.2)
            error = (value[i] - target[i]).item() ** 2
            clipped_error = (clipped_value - target[i].item()) ** 2
            total += 0.5 * max(error, clipped_error)
            clipped += clipped_error > error
        loss = module.clipped_value_loss(value, old, target, 0.2)
        assert abs(loss.item() - total / 64) < 1e-12
        assert 6 < clipped < 58  # both branches were taken

    @pytest.mark.parametrize(
        "value, target, moves", [(1.3, 2, False), (1.3, 0, True), (0.7, 2, True), (0.7, 0, False)]
    )
    def test_the_gradient_stops_only_where_moving_on_would_gain(self, module, value, target, moves):
        """The old value is 1; beyond 0.8 and 1.2 nothing is gained by moving towards the target."""
        value = torch.tensor([value], requires_grad=True)
        loss = module.clipped_value_loss(value, torch.ones(1), torch.tensor([float(target)]), 0.2)
        loss.backward()
        assert bool(value.grad != 0) is moves


@pytest.mark.parametrize("module", modules_defining("Adam"))
def test_adam_is_torchs_adam(module):
    torch.manual_seed(0)
    start = torch.randn(20)
    gradients = torch.randn(5, 20)
    weights = []
    states = []
    for optimizer_class in (module.Adam, torch.optim.Adam):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = optimizer_class([parameter], 0.1, eps=1e-5, fused=True)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        copy = optimizer_class([torch.nn.Parameter(start.clone())], 0.1)
        copy.load_state_dict(optimizer.state_dict())
        weights.append(parameter.detach())
        states.append(copy.state_dict()["state"][0]["exp_avg_sq"])
    assert torch.equal(*weights) and torch.equal(*states)
    assert not torch.equal(weights[0], start)
