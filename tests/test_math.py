"""The formulas, against loops in float64 written from their definitions, closed forms, and torch.distributions."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

import ppo_clip
from conftest import SCRIPTS

T, N, GAMMA, LAMBDA = 7, 5, 0.97, 0.9
f64 = torch.float64


def having(*names):
    """The scripts that define all of `names`, imported: a shared formula is tested wherever it is copied to."""
    modules = [__import__(script) for script in SCRIPTS]
    return [pytest.param(m, id=m.__name__) for m in modules if all(hasattr(m, name) for name in names)]


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


@pytest.mark.parametrize("module", having("gae"))
class TestGae:
    @pytest.mark.parametrize("lam", [0.0, LAMBDA, 1.0])
    def test_equals_the_definition(self, module, rollout, lam):
        expected = advantage_by_definition(*rollout, GAMMA, lam)
        torch.testing.assert_close(module.gae(*rollout, GAMMA, lam), expected, rtol=1e-12, atol=1e-12)

    def test_lambda_1_is_monte_carlo(self, module, rollout):
        reward, value, terminated, truncated = rollout
        never = torch.zeros_like(terminated)
        discounts = GAMMA ** torch.arange(T, dtype=f64)
        monte_carlo = (discounts[:, None] * reward).sum(0) + GAMMA**T * value[-1] - value[0]
        torch.testing.assert_close(module.gae(reward, value, never, never, GAMMA, 1.0)[0], monte_carlo)

    @pytest.mark.parametrize(
        "how, expected",
        # by hand, with r = 1, V = 4, 6, 8 and γ = λ = 0.5: the last step's δ is 1 + γ·8 − 6 if V(s_2) counts, else 1 − 6
        [("terminated", -5.0), ("truncated", -1.0), ("both", -5.0)],
    )
    def test_by_hand(self, module, how, expected):
        reward, value = torch.ones(2, 1), torch.tensor([[4.0], [6.0], [8.0]])
        last = torch.tensor([[False], [True]])
        never = torch.zeros_like(last)
        advantage = module.gae(
            reward, value, last if how != "truncated" else never, last if how != "terminated" else never, 0.5, 0.5
        )
        assert advantage[:, 0].tolist() == [0.0 + 0.25 * expected, expected]

    def test_nothing_crosses_an_episodes_end(self, module, rollout):
        reward, value, terminated, truncated = rollout
        before = module.gae(*rollout, GAMMA, LAMBDA)
        reward[4:], value[5:] = 1e6, -1e6
        after = module.gae(reward, value, terminated, truncated, GAMMA, LAMBDA)
        assert torch.equal(before[:4, 4], after[:4, 4])  # environment 4 ended at step 3
        assert not torch.equal(before[4:, 4], after[4:, 4])


@pytest.mark.parametrize("module", having("running_return"))
def test_running_return_restarts_with_each_episode_and_goes_on_across_rollouts(module):
    reward = torch.tensor([[1.0], [2.0], [0.0], [4.0]], dtype=f64)  # the third step is a reset
    valid = torch.tensor([[1.0], [1.0], [0.0], [1.0]], dtype=f64)
    returns = module.running_return(reward, valid, torch.tensor([8.0], dtype=f64), 0.5)
    assert returns[:, 0].tolist() == [5.0, 4.5, 0.0, 4.0]


@pytest.mark.parametrize("module", having("masked_mean"))
def test_masked_mean(module):
    x = torch.tensor([1.0, 2.0, 30.0])
    assert module.masked_mean(x, torch.tensor([1.0, 1.0, 0.0])) == 1.5
    assert module.masked_mean(x, torch.zeros(3)) == 0


@pytest.mark.parametrize("module", having("normalize_advantage"))
class TestNormalizeAdvantage:
    def test_mean_0_deviation_1_over_the_valid(self, module):
        advantage = torch.randn(50, dtype=f64) * 7 + 3
        valid = (torch.arange(50) % 3 > 0).to(f64)
        seen = module.normalize_advantage(advantage, valid)[valid.bool()]
        assert abs(seen.mean()) < 1e-12 and abs(seen.std(correction=0) - 1) < 1e-6

    def test_one_or_none_valid_is_not_nan(self, module):
        for valid in (torch.tensor([0.0, 1.0]), torch.zeros(2)):
            assert module.normalize_advantage(torch.tensor([5.0, 3.0]), valid).isfinite().all()
        assert module.normalize_advantage(torch.tensor([5.0]), torch.ones(1)) == 0


@pytest.mark.parametrize("module", having("explained_variance"))
def test_explained_variance(module):
    target, valid = torch.randn(T, N, dtype=f64), torch.ones(T, N, dtype=f64)
    assert module.explained_variance(target, target, valid) == 1
    assert abs(module.explained_variance(torch.full_like(target, 3), target, valid)) < 1e-9
    error = torch.randn(T, N, dtype=f64)
    expected = 1 - error.var(correction=0) / target.var(correction=0)
    torch.testing.assert_close(module.explained_variance(target - error, target, valid), expected)


@pytest.mark.parametrize("module", having("RunningStats"))
class TestRunningStats:
    def test_merged_in_parts_equals_all_at_once(self, module):
        stats, parts, kept = module.RunningStats(3), [], []
        for scale in (1.0, 5.0, 0.1):
            x, mask = torch.randn(6, 4, 3) * scale + scale, torch.rand(6, 4) < 0.7
            stats.update(x, mask)
            parts.append(x[mask])
        kept = torch.cat(parts).double()
        torch.testing.assert_close(stats.mean.double(), kept.mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stats.var.double(), kept.var(0, correction=0), rtol=1e-5, atol=1e-5)
        assert stats.count == len(kept)

    def test_an_empty_mask_changes_nothing(self, module):
        stats = module.RunningStats()
        for _ in range(2):
            stats.update(torch.full((2, 2), torch.nan).nan_to_num(7), torch.zeros(2, 2))
            assert (stats.mean, stats.var, stats.count) == (0, 1, 0)
        stats.update(torch.tensor([[1.0, 3.0]]), torch.ones(1, 2))
        stats.update(torch.tensor([[9.0, 9.0]]), torch.zeros(1, 2))
        assert (stats.mean, stats.var, stats.count) == (2, 1, 2)


@pytest.mark.parametrize("module", having("Softmax"))
class TestSoftmax:
    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(1)) * 3

    def test_equals_torch_distributions(self, module):
        ours, theirs = module.Softmax(self.logits), Categorical(logits=self.logits)
        action = theirs.sample()
        torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
        torch.testing.assert_close(ours.entropy(), theirs.entropy())
        assert torch.equal(ours.mode(), self.logits.argmax(-1))

    def test_samples_with_its_probabilities(self, module):
        torch.manual_seed(0)
        logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
        counts = module.Softmax(logits.expand(200_000, 4)).sample().bincount(minlength=4) / 200_000
        assert (counts - logits.softmax(-1)).abs().max() < 0.005  # four standard errors


@pytest.mark.parametrize("module", having("Gaussian"))
class TestGaussian:
    mean, log_std = torch.randn(40, 3, generator=torch.Generator().manual_seed(2)), torch.tensor([-1.0, 0.0, 0.7])

    def test_equals_torch_distributions(self, module):
        ours, theirs = module.Gaussian(self.mean, self.log_std), Normal(self.mean, self.log_std.exp())
        action = theirs.sample()
        torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action).sum(-1))
        torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))
        assert torch.equal(ours.mode(), self.mean)

    def test_samples_with_its_moments(self, module):
        torch.manual_seed(0)
        sample = module.Gaussian(self.mean[:1].expand(200_000, 3), self.log_std).sample()
        assert ((sample.mean(0) - self.mean[0]).abs() < 4 * self.log_std.exp() / 200_000**0.5).all()
        assert (sample.std(0) / self.log_std.exp() - 1).abs().max() < 0.01


@pytest.mark.parametrize("action_space", ["Discrete", "Box"])
class TestPolicyLoss:
    """PPO's clipped surrogate."""

    def test_equals_a_loop(self, action_space):
        rng = np.random.default_rng(0)
        old, new, advantage = rng.normal(size=(3, 64))
        new = old + 0.4 * new
        valid = rng.random(64) < 0.8
        total = kl = clipped = 0.0
        for i in range(64):
            if valid[i]:
                r, a = math.exp(new[i] - old[i]), advantage[i]
                total += min(r * a, min(max(r, 0.8), 1.2) * a)
                kl += r - 1 - math.log(r)
                clipped += abs(r - 1) > 0.2
        columns = [torch.as_tensor(x, dtype=f64) for x in (new, old, advantage, valid)]
        loss, metrics = ppo_clip.policy_loss(*columns, 0.2)
        seen = [loss, metrics["policy_loss"], metrics["approx_kl"], metrics["clipfrac"]]
        expected = [-total / valid.sum(), -total / valid.sum(), kl / valid.sum(), clipped / valid.sum()]
        np.testing.assert_allclose([float(x) for x in seen], expected, rtol=1e-12)
        assert 0.1 < metrics["clipfrac"] < 0.9  # both branches were taken

    def test_gradient_at_ratio_1_is_the_plain_policy_gradient(self, action_space):
        agent = make_agent(action_space)
        x, advantage, valid = torch.randn(32, 3), torch.randn(32), (torch.rand(32) < 0.8).float()
        action = agent.policy(x).sample().detach()
        log_prob = agent.policy(x).log_prob(action)
        loss, _ = ppo_clip.policy_loss(log_prob, log_prob.detach(), advantage, valid, 0.2)
        plain = -(log_prob * advantage * valid).sum() / valid.sum()
        parameters = [p for name, p in agent.named_parameters() if "critic" not in name]
        for ours, theirs in zip(
            torch.autograd.grad(loss, parameters, retain_graph=True), torch.autograd.grad(plain, parameters)
        ):
            torch.testing.assert_close(ours, theirs)
            assert theirs.abs().sum() > 0

    @pytest.mark.parametrize(
        "ratio, advantage, moves", [(1.3, 1.0, False), (1.3, -1.0, True), (0.7, 1.0, True), (0.7, -1.0, False)]
    )
    def test_gradient_stops_only_where_moving_on_would_gain(self, action_space, ratio, advantage, moves):
        log_prob = torch.tensor([math.log(ratio)], requires_grad=True)
        loss, _ = ppo_clip.policy_loss(log_prob, torch.zeros(1), torch.tensor([advantage]), torch.ones(1), 0.2)
        loss.backward()
        assert bool(log_prob.grad != 0) is moves


def make_agent(kind, module=ppo_clip):
    from gymnasium.spaces import Box, Discrete

    torch.manual_seed(3)
    action_space = Discrete(4) if kind == "Discrete" else Box(-2, 2, (2,))
    return module.Agent(Box(-1, 1, (3,)), action_space)


def test_approx_kl_estimates_the_exact_kl():
    torch.manual_seed(0)
    old, new = Normal(0.0, 1.0), Normal(0.1, 1.1)
    action = old.sample((400_000,))
    new_log_prob, old_log_prob = new.log_prob(action), old.log_prob(action)
    _, metrics = ppo_clip.policy_loss(new_log_prob, old_log_prob, torch.ones(400_000), torch.ones(400_000), 0.2)
    assert abs(metrics["approx_kl"] / kl_divergence(old, new) - 1) < 0.02


class TestValueLoss:
    value, old, target = torch.tensor([[1.0, 2.0, 5.0], [0.9, 0.5, 5.0], [0.0, 3.0, 9.0]], dtype=f64)
    valid = torch.tensor([1.0, 1.0, 0.0], dtype=f64)

    def test_half_the_mean_squared_error(self):
        loss, metrics = ppo_clip.value_loss(self.value, self.old, self.target, self.valid, None)
        assert loss == metrics["value_loss"] == 0.5 * (1.0**2 + 1.0**2) / 2

    def test_clipped(self):
        # value 1 moved 0.1 from 0.9: within the range; value 2 moved 1.5 from 0.5: counted as at 0.7, error 2.3
        loss, _ = ppo_clip.value_loss(self.value, self.old, self.target, self.valid, 0.2)
        torch.testing.assert_close(loss, torch.tensor(0.5 * (1.0 + 2.3**2) / 2, dtype=f64))


@pytest.mark.parametrize("kind", ["Discrete", "Box"])
@pytest.mark.parametrize("clip_vloss", [False, True])
def test_ppo_loss_is_the_sum_of_its_terms_and_blind_to_masked_steps(kind, clip_vloss):
    agent = make_agent(kind)
    args = ppo_clip.Args(vf_coef=0.7, ent_coef=0.3, clip_vloss=clip_vloss, norm_adv=False)
    x, valid = torch.randn(16, 3), (torch.arange(16) % 4 > 0).float()
    action = agent.policy(x).sample().detach()
    old_log_prob, old_value, advantage, target = torch.randn(4, 16)
    minibatch = [x, action, valid, old_log_prob, old_value, advantage, target]
    loss, _ = ppo_clip.ppo_loss(agent, minibatch, args)

    policy, clip = agent.policy(x), 0.2 if clip_vloss else None
    pg, _ = ppo_clip.policy_loss(policy.log_prob(action), old_log_prob, advantage, valid, 0.2)
    v, _ = ppo_clip.value_loss(agent.value(x), old_value, target, valid, clip)
    torch.testing.assert_close(loss, pg + 0.7 * v - 0.3 * (policy.entropy() * valid).sum() / valid.sum())

    for column in (x, old_log_prob, old_value, advantage, target):
        column[valid == 0] = 1e3
    torch.testing.assert_close(ppo_clip.ppo_loss(agent, minibatch, args)[0], loss)


def test_adam_is_torchs_adam():
    torch.manual_seed(0)
    start, gradients = torch.randn(20), torch.randn(5, 20)
    results = []
    for optimizer_class in (ppo_clip.Adam, torch.optim.Adam):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = optimizer_class([parameter], 0.1, eps=1e-5, fused=True)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        copy = optimizer_class([torch.nn.Parameter(start.clone())], 0.1)
        copy.load_state_dict(optimizer.state_dict())
        results.append((parameter.detach(), copy.state_dict()["state"][0]["exp_avg_sq"]))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results))
