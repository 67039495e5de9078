"""The formulas, against loops in float64 written from their definitions, closed forms, and torch.distributions."""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.distributions import Categorical, Normal, kl_divergence

import a2c
import ppo_clip
import ppo_kl
import reinforce_baseline
from helpers import modules_defining

T, N, GAMMA, LAMBDA = 7, 5, 0.97, 0.9
f64 = torch.float64


@pytest.fixture
def rollout():
    """Random rewards, values and ends of every kind, the first and the last step of the rollout included."""
    rng = torch.Generator().manual_seed(0)
    reward = torch.randn(T, N, generator=rng, dtype=f64)
    value = torch.randn(T + 1, N, generator=rng, dtype=f64)
    terminated, truncated = torch.rand(2, T, N, generator=rng) < 0.15
    terminated[0, 0] = truncated[0, 1] = terminated[-1, 2] = truncated[-1, 3] = True
    terminated[3, 4] = truncated[3, 4] = True
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
        torch.testing.assert_close(
            module.gae(*rollout, GAMMA, lam), expected, rtol=1e-12, atol=1e-12
        )

    def test_lambda_1_is_monte_carlo(self, module, rollout):
        reward, value, terminated, truncated = rollout
        never = torch.zeros_like(terminated)
        discounts = GAMMA ** torch.arange(T, dtype=f64)
        monte_carlo = (discounts[:, None] * reward).sum(0) + GAMMA**T * value[-1] - value[0]
        torch.testing.assert_close(
            module.gae(reward, value, never, never, GAMMA, 1.0)[0], monte_carlo
        )

    @pytest.mark.parametrize(
        "how, expected",
        # by hand, with r = 1, V = 4, 6, 8, γ = λ = 0.5: the last step's δ is 1 + γ·8 − 6 if V(s_2) counts, else 1 − 6
        [("terminated", -5.0), ("truncated", -1.0), ("both", -5.0)],
    )
    def test_by_hand(self, module, how, expected):
        reward, value = torch.ones(2, 1), torch.tensor([[4.0], [6.0], [8.0]])
        last = torch.tensor([[False], [True]])
        never = torch.zeros_like(last)
        advantage = module.gae(
            reward,
            value,
            last if how != "truncated" else never,
            last if how != "terminated" else never,
            0.5,
            0.5,
        )
        assert advantage[:, 0].tolist() == [0.0 + 0.25 * expected, expected]

    def test_nothing_crosses_an_episodes_end(self, module, rollout):
        reward, value, terminated, truncated = rollout
        before = module.gae(*rollout, GAMMA, LAMBDA)
        reward[4:], value[5:] = 1e6, -1e6
        after = module.gae(reward, value, terminated, truncated, GAMMA, LAMBDA)
        assert torch.equal(before[:4, 4], after[:4, 4])  # environment 4 ended at step 3
        assert not torch.equal(before[4:, 4], after[4:, 4])


@pytest.mark.parametrize("module", modules_defining("RunningStats"))
class TestRunningStats:
    def test_merged_in_parts_equals_all_at_once(self, module):
        stats, parts = module.RunningStats(3), []
        for n, scale in ((50, 1.0), (1, 9.0), (70, 5.0), (30, 0.1)):
            parts.append(torch.randn(n, 3) * scale + scale)
            stats.update(parts[-1])
        every = torch.cat(parts).double()
        torch.testing.assert_close(stats.mean.double(), every.mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            stats.var.double(), every.var(0, correction=0), rtol=1e-5, atol=1e-5
        )
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
    mean, log_std = torch.randn(40, 7, 3), torch.tensor([-1.0, 0.0, 0.7])
    reference = Normal(mean, log_std.exp())
    action = reference.sample()
    log_prob, entropy = module.gaussian_policy(mean, log_std, action)
    torch.testing.assert_close(log_prob, reference.log_prob(action).sum(-1))
    torch.testing.assert_close(entropy, reference.entropy().sum(-1))
    assert log_prob.dtype == torch.float32


def make_agent(module, kind):
    """An agent whose policy is not uniform and whose observations are scaled."""
    torch.manual_seed(3)
    agent = module.Agent(Box(-1, 1, (3,)), Discrete(4) if kind == "Discrete" else Box(-2, 2, (2,)))
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
        sample, std = agent.sample(x.expand(200_000, 3)), agent.log_std.exp()
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
            assert (
                abs(to_go[t, n] - sum(GAMMA ** (k - t) * reward[k, n] for k in range(t, T))) < 1e-12
            )
    assert not to_go[~valid].any() and to_go.dtype == f64
    assert module.reward_to_go(torch.ones(3, 1), 0.5)[:, 0].tolist() == [1.75, 1.5, 1.0]


def test_mean_baseline_equals_the_definition(episodes):
    reward, _, valid = episodes
    to_go = reinforce_baseline.reward_to_go(reward, GAMMA)
    baseline = reinforce_baseline.mean_baseline(to_go, valid)
    alone = 0
    for t, n in valid.nonzero().tolist():
        others = [to_go[t, k] for k in range(N) if k != n and valid[t, k]]
        assert abs(baseline[t, n] - (sum(others) / len(others) if others else 0)) < 1e-12
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
    total, entropy = 0.0, []
    for t, n in valid.nonzero().tolist():
        policy = reference_policy(agent, x[t, n])
        total += (policy.log_prob(action[t, n]).sum() * weight[t, n]).item()
        entropy.append(policy.entropy().sum().item())
    assert abs(loss.item() + total / N) < 1e-12 and loss.dtype == f64
    assert abs(metrics["losses/entropy"].item() - np.mean(entropy)) < 1e-12


def reference_policy(agent, x):
    out = agent.actor(x)
    return Categorical(logits=out) if agent.discrete else Normal(out, agent.log_std.exp())


def actor_critic_batch(kind):
    """An agent in float64, and of 32 steps x, action, advantage and target."""
    agent = make_agent(ppo_clip, kind).double()
    x = torch.randn(32, 3, dtype=f64)
    return agent, x, agent.sample(x).detach(), *torch.randn(2, 32, dtype=f64)


def gradients(loss, agent):
    return torch.autograd.grad(loss, agent.parameters(), allow_unused=True, retain_graph=True)


@pytest.mark.parametrize("kind", ["Discrete", "Box"])
class TestActorCriticLosses:
    """a2c_loss, ppo_loss and ppo_kl_loss, on the same steps."""

    def old(self, agent, x, action):
        """The columns of the policy that sampled, as ppo_kl.py stores them: outputs, log σ, log-probabilities."""
        out = agent.actor(x).detach()
        return (
            out,
            agent.log_std.detach().expand_as(out).clone(),
            agent.log_prob(out, action)[0].detach(),
        )

    def test_a2c_loss_equals_a_loop(self, kind):
        agent, x, action, advantage, target = actor_critic_batch(kind)
        loss, metrics = a2c.a2c_loss(
            agent, [x, action, advantage, target], a2c.Args(vf_coef=0.7, ent_coef=0.3)
        )
        policy, value, entropy = 0.0, 0.0, 0.0
        for i in range(32):
            reference = reference_policy(agent, x[i])
            policy -= (reference.log_prob(action[i]).sum() * advantage[i]).item() / 32
            value += 0.5 * (agent.critic(x[i : i + 1])[0] - target[i]).item() ** 2 / 32
            entropy += reference.entropy().sum().item() / 32
        expected = [policy + 0.7 * value - 0.3 * entropy, policy, value, entropy]
        seen = [
            loss,
            *(metrics[f"losses/{name}"] for name in ("policy_loss", "value_loss", "entropy")),
        ]
        np.testing.assert_allclose([x.item() for x in seen], expected, rtol=1e-12)

    def test_ppos_gradient_at_ratio_1_is_a2cs(self, kind):
        agent, x, action, advantage, target = actor_critic_batch(kind)
        out, log_std, log_prob = self.old(agent, x, action)
        flags = {"vf_coef": 0.7, "ent_coef": 0.3}
        a2c_loss, _ = a2c.a2c_loss(agent, [x, action, advantage, target], a2c.Args(**flags))
        old_value = torch.randn(32, dtype=f64)
        clip, _ = ppo_clip.ppo_loss(
            agent, [x, action, log_prob, old_value, advantage, target], ppo_clip.Args(**flags)
        )
        minibatch = [x, action, out, log_std, log_prob, advantage, target]
        kl, metrics = ppo_kl.ppo_kl_loss(agent, minibatch, 10.0, ppo_kl.Args(**flags))
        assert abs(metrics["losses/kl"]) < 1e-12
        reference = gradients(a2c_loss, agent)
        for ours in (gradients(clip, agent), gradients(kl, agent)):
            for a, b in zip(ours, reference):
                if b is None:  # log σ of a Discrete policy
                    assert kind == "Discrete" and a is None
                else:
                    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
                    assert b.abs().sum() > 0

    @pytest.mark.parametrize("norm_adv", [False, True])
    @pytest.mark.parametrize("clip_vloss", [False, True])
    def test_ppo_loss_is_the_sum_of_its_terms(self, kind, clip_vloss, norm_adv):
        agent, x, action, advantage, target = actor_critic_batch(kind)
        args = ppo_clip.Args(vf_coef=0.7, ent_coef=0.3, clip_vloss=clip_vloss, norm_adv=norm_adv)
        old_log_prob, old_value = torch.randn(2, 32, dtype=f64)
        loss, metrics = ppo_clip.ppo_loss(
            agent, [x, action, old_log_prob, old_value, advantage, target], args
        )
        if norm_adv:
            advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
        log_prob, entropy = agent.log_prob(agent.actor(x), action)
        pg, _ = ppo_clip.policy_loss(log_prob, old_log_prob, advantage, 0.2)
        v = ppo_clip.value_loss(agent.critic(x), old_value, target, 0.2 if clip_vloss else None)
        torch.testing.assert_close(loss, pg + 0.7 * v - 0.3 * entropy.mean())
        assert metrics["losses/entropy"] == entropy.mean()
        torch.testing.assert_close(metrics["losses/policy_loss"], pg)

    @pytest.mark.parametrize("norm_adv", [False, True])
    def test_ppo_kl_loss_equals_a_loop(self, kind, norm_adv):
        """Away from the old policy, σ included."""
        agent, x, action, advantage, target = actor_critic_batch(kind)
        old = self.old(agent, x, action)
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        args = ppo_kl.Args(vf_coef=0.7, ent_coef=0.3, norm_adv=norm_adv)
        loss, metrics = ppo_kl.ppo_kl_loss(agent, [x, action, *old, advantage, target], 2.5, args)
        if norm_adv:
            advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
        policy = kl = value = entropy = 0.0
        for i in range(32):
            new = reference_policy(agent, x[i])
            before = (
                Categorical(logits=old[0][i])
                if kind == "Discrete"
                else Normal(old[0][i], old[1][i].exp())
            )
            ratio = (new.log_prob(action[i]).sum() - before.log_prob(action[i]).sum()).exp()
            policy -= (ratio * advantage[i]).item() / 32
            kl += kl_divergence(before, new).sum().item() / 32
            value += 0.5 * (agent.critic(x[i : i + 1])[0] - target[i]).item() ** 2 / 32
            entropy += new.entropy().sum().item() / 32
        assert kl > 0.01
        expected = [policy + 2.5 * kl + 0.7 * value - 0.3 * entropy, policy, kl, value, entropy]
        seen = [
            loss,
            *(metrics[f"losses/{name}"] for name in ("policy_loss", "kl", "value_loss", "entropy")),
        ]
        np.testing.assert_allclose(
            [x.item() for x in seen], expected, rtol=1e-7
        )  # the advantages' 1e-8

    def test_a_minibatch_of_one_is_not_nan(self, kind):
        agent, x, action, advantage, target = (
            y if isinstance(y, torch.nn.Module) else y[:1] for y in actor_critic_batch(kind)
        )
        out, log_std, log_prob = self.old(agent, x, action)
        flags = {"norm_adv": True, "ent_coef": 0.1}
        clip, _ = ppo_clip.ppo_loss(
            agent, [x, action, log_prob, target, advantage, target], ppo_clip.Args(**flags)
        )
        minibatch = [x, action, out, log_std, log_prob, advantage, target]
        kl, _ = ppo_kl.ppo_kl_loss(agent, minibatch, 1.0, ppo_kl.Args(**flags))
        for loss in (clip, kl):
            assert all(g is None or g.isfinite().all() for g in gradients(loss, agent))


def test_softmax_kl_equals_torch_distributions():
    old, new = 3 * torch.randn(2, 40, 7, 6)
    expected = kl_divergence(Categorical(logits=old), Categorical(logits=new))
    torch.testing.assert_close(ppo_kl.softmax_kl(old, new), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        expected, ppo_kl.softmax_kl(new, old), rtol=0.1
    )  # it is not symmetric
    torch.testing.assert_close(ppo_kl.softmax_kl(old, old), torch.zeros(40, 7))


def test_gaussian_kl_equals_torch_distributions():
    old_mean, mean, old_log_std = torch.randn(3, 40, 7, 3)
    log_std = torch.tensor([-1.0, 0.0, 0.7])
    expected = kl_divergence(Normal(old_mean, old_log_std.exp()), Normal(mean, log_std.exp())).sum(
        -1
    )
    torch.testing.assert_close(
        ppo_kl.gaussian_kl(old_mean, old_log_std, mean, log_std), expected, rtol=1e-4, atol=1e-5
    )
    assert not torch.allclose(
        expected, ppo_kl.gaussian_kl(mean, log_std, old_mean, old_log_std), rtol=0.1
    )
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
        r, a = math.exp(new[i] - old[i]), advantage[i]
        total += min(r * a, min(max(r, 0.8), 1.2) * a)
        kl += r - 1 - math.log(r)
        clipped += abs(r - 1) > 0.2
    loss, metrics = ppo_clip.policy_loss(*(torch.as_tensor(x) for x in (new, old, advantage)), 0.2)
    seen = [loss, metrics["losses/approx_kl"], metrics["losses/clipfrac"]]
    np.testing.assert_allclose(
        [x.item() for x in seen], [-total / 64, kl / 64, clipped / 64], rtol=1e-7
    )
    assert loss.dtype == f64 and abs(float(loss) + total / 64) < 1e-12
    assert 0.1 < metrics["losses/clipfrac"] < 0.9  # both branches were taken


def test_policy_loss_is_finite_where_the_ratio_underflows():
    """A Gaussian with a small σ that has moved: the ratio is 0, its logarithm −200."""
    loss, metrics = ppo_clip.policy_loss(torch.tensor([-200.0]), torch.zeros(1), torch.ones(1), 0.2)
    assert loss == 0 and metrics["losses/approx_kl"] == 199


@pytest.mark.parametrize(
    "ratio, advantage, moves", [(1.3, 1, False), (1.3, -1, True), (0.7, 1, True), (0.7, -1, False)]
)
def test_the_gradient_stops_only_where_moving_on_would_gain(ratio, advantage, moves):
    log_prob = torch.tensor([math.log(ratio)], requires_grad=True)
    loss, _ = ppo_clip.policy_loss(log_prob, torch.zeros(1), torch.tensor([float(advantage)]), 0.2)
    loss.backward()
    assert bool(log_prob.grad != 0) is moves


def test_approx_kl_estimates_the_exact_kl():
    torch.manual_seed(0)
    old, new = Normal(0.0, 1.0), Normal(0.1, 1.1)
    action = old.sample((400_000,))
    _, metrics = ppo_clip.policy_loss(
        new.log_prob(action), old.log_prob(action), torch.ones(400_000), 0.2
    )
    assert abs(metrics["losses/approx_kl"] / kl_divergence(old, new) - 1) < 0.02


def test_value_loss():
    value, old, target = torch.tensor([[1.0, 2.0], [0.9, 0.5], [0.0, 3.0]], dtype=f64)
    assert ppo_clip.value_loss(value, old, target, None) == 0.5 * (1.0**2 + 1.0**2) / 2
    # value 1 moved 0.1 from 0.9: within the range; value 2 moved 1.5 from 0.5: counted as at 0.7, error 2.3
    clipped = ppo_clip.value_loss(value, old, target, 0.2)
    torch.testing.assert_close(clipped, torch.tensor(0.5 * (1.0 + 2.3**2) / 2, dtype=f64))


@pytest.mark.parametrize("module", modules_defining("Adam"))
def test_adam_is_torchs_adam(module):
    torch.manual_seed(0)
    start, gradients = torch.randn(20), torch.randn(5, 20)
    results = []
    for optimizer_class in (module.Adam, torch.optim.Adam):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = optimizer_class([parameter], 0.1, eps=1e-5, fused=True)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        copy = optimizer_class([torch.nn.Parameter(start.clone())], 0.1)
        copy.load_state_dict(optimizer.state_dict())
        results.append((parameter.detach(), copy.state_dict()["state"][0]["exp_avg_sq"]))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results))
    assert not torch.equal(results[0][0], start)
