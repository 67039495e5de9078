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
import ppo_kl
import reinforce_baseline
from helpers import modules_defining

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


def advantage_by_definition(reward, value, terminated, truncated, gamma, lam):
    """Σ_l (γλ)^l δ_{t+l} up to the episode's end, one entry at a time."""
    advantage = np.zeros(reward.shape)
    for n in range(reward.shape[1]):
        for t in range(reward.shape[0]):
            for k in range(t, reward.shape[0]):
                after = 0.0 if terminated[k, n] else float(value[k + 1, n])
                delta = float(reward[k, n]) + gamma * after - float(value[k, n])
                advantage[t, n] += (gamma * lam) ** (k - t) * delta
                if terminated[k, n] or truncated[k, n]:
                    break
    return torch.as_tensor(advantage)


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
        assert stats.count == len(every)

    def test_leaves_things_as_they_are_until_it_has_seen_some(self, module):
        stats = module.RunningStats(2)
        assert stats.mean.tolist() == [0, 0] and stats.var.tolist() == [1, 1]
        stats.update(torch.tensor([[5.0, 1.0], [5.0, 3.0]]))
        assert stats.mean.tolist() == [5, 2] and stats.var.tolist() == [0, 1]
        assert stats.std().isfinite().all() and (stats.std() > 0).all()


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
    torch.nn.init.normal_(agent.actor[-1].weight)
    agent.obs_stats.update(torch.randn(100, 3) * 3 + 1)
    return agent


@pytest.mark.parametrize("module", modules_defining("Agent", "gaussian_policy"))
class TestSample:
    """200,000 actions of one state, against the probabilities that log_prob tells."""

    def test_discrete(self, module):
        agent = make_agent(module, "Discrete")
        x = torch.randn(3)
        counts = agent.sample(x.expand(200_000, 3)).bincount(minlength=4) / 200_000
        log_prob, _ = agent.log_prob(agent.actor(x.expand(4, 3)), torch.arange(4))
        assert (counts - log_prob.exp()).abs().max() < 0.005  # four standard errors
        assert counts.max() < 0.9

    def test_box(self, module):
        agent = make_agent(module, "Box")
        x = torch.randn(3)
        sample = agent.sample(x.expand(200_000, 3))
        std = agent.log_std.exp()
        assert ((sample.mean(0) - agent.actor(x)).abs() < 4 * std / 200_000**0.5).all()
        assert (sample.std(0) / std - 1).abs().max() < 0.01
        log_prob, entropy = agent.log_prob(agent.actor(x.expand(200_000, 3)), sample)
        assert abs(-log_prob.mean() / entropy[0] - 1) < 0.01


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
    action = agent.sample(x).detach()
    loss, metrics = module.reinforce_loss(agent, x, action, weight, valid)
    total = 0.0
    entropy = []
    for t, n in valid.nonzero().tolist():
        policy = reference_policy(agent, x[t, n])
        total += (policy.log_prob(action[t, n]).sum() * weight[t, n]).item()
        entropy.append(policy.entropy().sum().item())
    assert abs(loss.item() + total / N) < 1e-12 and loss.dtype == f64
    assert abs(metrics["losses/entropy"].item() - np.mean(entropy)) < 1e-12


def reference_policy(agent, x):
    out = agent.actor(x)
    return Categorical(logits=out) if agent.discrete else Normal(out, agent.log_std.exp())


class Steps(NamedTuple):
    """What a minibatch has of each step, whatever the algorithm."""

    x: Tensor
    action: Tensor
    advantage: Tensor
    target: Tensor


def agent_and_steps(kind, size=32):
    """An agent in float64, and some steps of its own."""
    agent = make_agent(ppo_clip, kind).double()
    x = torch.randn(32, 3, dtype=f64)
    action = agent.sample(x).detach()
    advantage, target = torch.randn(2, 32, dtype=f64)
    return agent, Steps(x[:size], action[:size], advantage[:size], target[:size])


def gradients(loss, agent):
    return torch.autograd.grad(loss, agent.parameters(), allow_unused=True, retain_graph=True)


def normalized(advantage):
    return (advantage - advantage.mean()) / advantage.std(correction=0)


def squared_error(agent, steps, i) -> float:
    """Half of that of the critic, in step i."""
    value = agent.critic(steps.x[i : i + 1])[0]
    return 0.5 * (value - steps.target[i]).item() ** 2


def logged(metrics, *names) -> list[float]:
    return [metrics[f"losses/{name}"].item() for name in names]


@pytest.mark.parametrize("kind", ["Discrete", "Box"])
class TestActorCriticLosses:
    """a2c_loss, ppo_loss and ppo_kl_loss, on the same steps."""

    def old_policy(self, agent, steps):
        """Outputs, log σ and log π of the policy that sampled, as ppo_kl.py stores them."""
        out = agent.actor(steps.x).detach()
        log_std = agent.log_std.detach().expand_as(out).clone()
        log_prob, _ = agent.log_prob(out, steps.action)
        return out, log_std, log_prob.detach()

    def ppo_minibatch(self, steps, old_log_prob, old_value):
        return [steps.x, steps.action, old_log_prob, old_value, steps.advantage, steps.target]

    def ppo_kl_minibatch(self, steps, old_policy):
        return [steps.x, steps.action, *old_policy, steps.advantage, steps.target]

    def test_a2c_loss_equals_a_loop(self, kind):
        agent, steps = agent_and_steps(kind)
        loss, metrics = a2c.a2c_loss(agent, list(steps), a2c.Args(vf_coef=0.7, ent_coef=0.3))
        policy = value = entropy = 0.0
        for i in range(32):
            reference = reference_policy(agent, steps.x[i])
            log_prob = reference.log_prob(steps.action[i]).sum()
            policy -= (log_prob * steps.advantage[i]).item() / 32
            value += squared_error(agent, steps, i) / 32
            entropy += reference.entropy().sum().item() / 32
        expected = [policy + 0.7 * value - 0.3 * entropy, policy, value, entropy]
        seen = [loss.item(), *logged(metrics, "policy_loss", "value_loss", "entropy")]
        np.testing.assert_allclose(seen, expected, rtol=1e-12)

    def test_ppos_gradient_at_ratio_1_is_a2cs(self, kind):
        agent, steps = agent_and_steps(kind)
        old = self.old_policy(agent, steps)
        old_value = torch.randn(32, dtype=f64)
        flags = {"vf_coef": 0.7, "ent_coef": 0.3}
        a2c_loss, _ = a2c.a2c_loss(agent, list(steps), a2c.Args(**flags))
        minibatch = self.ppo_minibatch(steps, old[-1], old_value)
        clip_loss, _ = ppo_clip.ppo_loss(agent, minibatch, ppo_clip.Args(**flags))
        minibatch = self.ppo_kl_minibatch(steps, old)
        kl_loss, metrics = ppo_kl.ppo_kl_loss(agent, minibatch, 10.0, ppo_kl.Args(**flags))
        assert abs(metrics["losses/kl"]) < 1e-12
        reference = gradients(a2c_loss, agent)
        for loss in (clip_loss, kl_loss):
            for found, expected in zip(gradients(loss, agent), reference):
                if expected is None:  # log σ of a Discrete policy
                    assert kind == "Discrete" and found is None
                else:
                    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
                    assert expected.abs().sum() > 0

    @pytest.mark.parametrize("norm_adv", [False, True])
    @pytest.mark.parametrize("clip_vloss", [False, True])
    def test_ppo_loss_is_the_sum_of_its_terms(self, kind, clip_vloss, norm_adv):
        agent, steps = agent_and_steps(kind)
        args = ppo_clip.Args(vf_coef=0.7, ent_coef=0.3, clip_vloss=clip_vloss, norm_adv=norm_adv)
        old_log_prob, old_value = torch.randn(2, 32, dtype=f64)
        minibatch = self.ppo_minibatch(steps, old_log_prob, old_value)
        loss, metrics = ppo_clip.ppo_loss(agent, minibatch, args)
        advantage = normalized(steps.advantage) if norm_adv else steps.advantage
        log_prob, entropy = agent.log_prob(agent.actor(steps.x), steps.action)
        pg_loss, _ = ppo_clip.policy_loss(log_prob, old_log_prob, advantage, 0.2)
        clip_coef = 0.2 if clip_vloss else None
        v_loss = ppo_clip.value_loss(agent.critic(steps.x), old_value, steps.target, clip_coef)
        torch.testing.assert_close(loss, pg_loss + 0.7 * v_loss - 0.3 * entropy.mean())
        assert metrics["losses/entropy"] == entropy.mean()
        torch.testing.assert_close(metrics["losses/policy_loss"], pg_loss)

    @pytest.mark.parametrize("norm_adv", [False, True])
    def test_ppo_kl_loss_equals_a_loop(self, kind, norm_adv):
        """Away from the old policy, σ included."""
        agent, steps = agent_and_steps(kind)
        old = self.old_policy(agent, steps)
        old_out, old_log_std, _ = old
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        args = ppo_kl.Args(vf_coef=0.7, ent_coef=0.3, norm_adv=norm_adv)
        minibatch = self.ppo_kl_minibatch(steps, old)
        loss, metrics = ppo_kl.ppo_kl_loss(agent, minibatch, 2.5, args)
        advantage = normalized(steps.advantage) if norm_adv else steps.advantage
        policy = kl = value = entropy = 0.0
        for i in range(32):
            after = reference_policy(agent, steps.x[i])
            if kind == "Discrete":
                before = Categorical(logits=old_out[i])
            else:
                before = Normal(old_out[i], old_log_std[i].exp())
            action = steps.action[i]
            ratio = (after.log_prob(action).sum() - before.log_prob(action).sum()).exp()
            policy -= (ratio * advantage[i]).item() / 32
            kl += kl_divergence(before, after).sum().item() / 32
            value += squared_error(agent, steps, i) / 32
            entropy += after.entropy().sum().item() / 32
        assert kl > 0.01
        expected = [policy + 2.5 * kl + 0.7 * value - 0.3 * entropy, policy, kl, value, entropy]
        seen = [loss.item(), *logged(metrics, "policy_loss", "kl", "value_loss", "entropy")]
        np.testing.assert_allclose(seen, expected, rtol=1e-7)  # the advantages' 1e-8

    def test_a_minibatch_of_one_is_not_nan(self, kind):
        agent, steps = agent_and_steps(kind, size=1)
        old = self.old_policy(agent, steps)
        flags = {"norm_adv": True, "ent_coef": 0.1}
        minibatch = self.ppo_minibatch(steps, old[-1], steps.target)
        clip_loss, _ = ppo_clip.ppo_loss(agent, minibatch, ppo_clip.Args(**flags))
        minibatch = self.ppo_kl_minibatch(steps, old)
        kl_loss, _ = ppo_kl.ppo_kl_loss(agent, minibatch, 1.0, ppo_kl.Args(**flags))
        for loss in (clip_loss, kl_loss):
            found = [g for g in gradients(loss, agent) if g is not None]
            assert all(gradient.isfinite().all() for gradient in found)


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
def test_the_kl_coefficient_adapts_at_and_around_both_thresholds(kl, factor):
    """δ = 1.5, so that δ / 1.5 and 1.5 δ are 1 and 2.25, both exact in binary."""
    assert ppo_kl.adapt_kl_coef(3.0, kl, 1.5) == 3.0 * factor


def test_policy_loss_equals_a_loop():
    rng = np.random.default_rng(0)
    old, new, advantage = rng.normal(size=(3, 64))
    new = old + 0.4 * new
    total = kl = clipped = 0.0
    for i in range(64):
        ratio = math.exp(new[i] - old[i])
        clipped_ratio = min(max(ratio, 0.8), 1.2)
        total += min(ratio * advantage[i], clipped_ratio * advantage[i])
        kl += ratio - 1 - math.log(ratio)
        clipped += abs(ratio - 1) > 0.2
    columns = [torch.as_tensor(column) for column in (new, old, advantage)]
    loss, metrics = ppo_clip.policy_loss(*columns, 0.2)
    seen = [loss.item(), *logged(metrics, "approx_kl", "clipfrac")]
    np.testing.assert_allclose(seen, [-total / 64, kl / 64, clipped / 64], rtol=1e-7)
    assert loss.dtype == f64 and abs(loss.item() + total / 64) < 1e-12
    assert 0.1 < metrics["losses/clipfrac"] < 0.9  # both branches were taken


def test_policy_loss_is_finite_where_the_ratio_underflows():
    """A Gaussian with a small σ that has moved: the ratio is 0, its logarithm −200."""
    log_prob = torch.tensor([-200.0])
    loss, metrics = ppo_clip.policy_loss(log_prob, torch.zeros(1), torch.ones(1), 0.2)
    assert loss == 0 and metrics["losses/approx_kl"] == 199


@pytest.mark.parametrize(
    "ratio, advantage, moves", [(1.3, 1, False), (1.3, -1, True), (0.7, 1, True), (0.7, -1, False)]
)
def test_the_gradient_stops_only_where_moving_on_would_gain(ratio, advantage, moves):
    log_prob = torch.tensor([math.log(ratio)], requires_grad=True)
    advantage = torch.tensor([float(advantage)])
    loss, _ = ppo_clip.policy_loss(log_prob, torch.zeros(1), advantage, 0.2)
    loss.backward()
    assert bool(log_prob.grad != 0) is moves


def test_approx_kl_estimates_the_exact_kl():
    torch.manual_seed(0)
    old = Normal(0.0, 1.0)
    new = Normal(0.1, 1.1)
    action = old.sample((400_000,))
    log_probs = new.log_prob(action), old.log_prob(action)
    _, metrics = ppo_clip.policy_loss(*log_probs, torch.ones(400_000), 0.2)
    assert abs(metrics["losses/approx_kl"] / kl_divergence(old, new) - 1) < 0.02


def test_value_loss():
    value = torch.tensor([1.0, 2.0], dtype=f64)
    old = torch.tensor([0.9, 0.5], dtype=f64)
    target = torch.tensor([0.0, 3.0], dtype=f64)
    assert ppo_clip.value_loss(value, old, target, None) == 0.5 * (1.0**2 + 1.0**2) / 2
    # Value 1 moved 0.1 from 0.9: within the range. Value 2 moved 1.5 from 0.5: it counts as 0.7,
    # with an error of 2.3.
    clipped = ppo_clip.value_loss(value, old, target, 0.2)
    torch.testing.assert_close(clipped, torch.tensor(0.5 * (1.0 + 2.3**2) / 2, dtype=f64))


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
