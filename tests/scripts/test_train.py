"""What stands in `train`: every gradient step of a short run, against the loss written out here.

The recorded run tells what was sampled, and each step's parameters and gradient. From these the
tests compute advantages, losses and gradients again, in float64 and with torch.distributions. What
the run has logged must be the means of what they find.
"""

from collections import defaultdict

import pytest
import torch
from torch.distributions import kl_divergence

import a2c
import ppo_kl
import reinforce_baseline
from helpers import modules_defining
from recorded_training import (
    check_gradients,
    gradients,
    mean_and_deviation,
    norm,
    record_training,
    updates,
)
from references import advantage_by_definition, policy_of
from run_folder import scalar_values

KINDS = pytest.mark.parametrize("kind", ["Discrete", "Box"])
NO_LIMIT = 1e9
SHORT = {"num_envs": 4, "eval_episodes": 1, "cuda": False, "gamma": 0.9}
ACTOR_CRITIC = {
    **SHORT,
    "num_steps": 14,
    "total_timesteps": 100,
    "gae_lambda": 0.8,
    "ent_coef": 0.3,
    "max_grad_norm": NO_LIMIT,
}
A2C = {**ACTOR_CRITIC, "learning_rate": 1e-3, "value_epochs": 3}
PPO = {
    **ACTOR_CRITIC,
    "vf_coef": 0.7,
    "learning_rate": 5e-3,
    "update_epochs": 2,
    "num_minibatches": 2,
}


class Findings:
    """What is found in the steps of a run, one after the other."""

    def __init__(self, record):
        self.record = record
        self.largest_share = defaultdict(float)  # of a term in a step's gradient
        self.logged = defaultdict(lambda: defaultdict(list))  # tag → iteration → values

    def check_gradient(self, iteration, step, agent, terms, max_grad_norm=NO_LIMIT) -> None:
        """The recorded gradient is that of the terms' sum, scaled down if it is too long."""
        expected = gradients(sum(terms.values()), agent)
        length = norm(expected)
        self.log(iteration, grad_norm=length)
        check_gradients(step, expected, scale=min(1.0, max_grad_norm / length))
        for name, term in terms.items():
            share = norm(gradients(term, agent)) / length
            self.largest_share[name] = max(self.largest_share[name], share)

    def log(self, iteration, **values) -> None:
        for name, value in values.items():
            self.logged[f"losses/{name}"][iteration].append(torch.as_tensor(value).item())

    def check_every_term_counts(self) -> None:
        """Otherwise one could be dropped unnoticed: a step's gradient is right to 1e-4."""
        assert min(self.largest_share.values()) > 0.01, dict(self.largest_share)

    def check_log(self, *names) -> None:
        """A log line has the mean over the iteration's steps."""
        for name in names:
            found = self.logged[f"losses/{name}"]
            means = [sum(values) / len(values) for values in found.values()]
            seen = scalar_values(self.record.run_dir, f"losses/{name}")
            assert len(means) == len(self.record.rollouts) > 1
            assert seen == pytest.approx(means, rel=1e-3, abs=1e-5), name

    def check_step_sizes(self) -> None:
        """Lowered linearly, by the valid steps of the iterations before."""
        args = self.record.args
        iterations = len(self.record.rollouts)
        seen = scalar_values(self.record.run_dir, "charts/learning_rate")
        expected = []
        spent = 0
        for rollout in self.record.rollouts:
            expected.append(args.learning_rate * (1 - spent / args.total_timesteps))
            spent += int(rollout.valid.sum())
        assert seen == pytest.approx(expected, rel=1e-6) and iterations > 1
        used = {step.learning_rate for step in self.record.steps}
        assert sorted(used, reverse=True) == pytest.approx(expected, rel=1e-12)


def normalized(advantage):
    return (advantage - advantage.mean()) / advantage.std(correction=0)


def log_ratio_of(update):
    after = policy_of(update.agent, update.x).log_prob(update.action)
    before = policy_of(update.old_agent, update.x).log_prob(update.action)
    return after - before.detach()


def half_squared_error(value, target):
    return (value - target) ** 2 / 2


def explained_variance(unexplained, total):
    return 1 - unexplained.var(correction=0) / total.var(correction=0)


def log_explained_variance(findings, seen) -> None:
    """Of the last epoch's targets, by the values from before the first epoch."""
    last_epoch = max(update.epoch for update in seen)
    for i in range(len(findings.record.rollouts)):
        last = [update for update in seen if (update.iteration, update.epoch) == (i, last_epoch)]
        target = torch.cat([update.target for update in last])
        old_value = torch.cat([update.old_agent.critic(update.x)[:, 0] for update in last])
        findings.log(i, explained_variance=explained_variance(target - old_value, target))


PLAIN = {"norm_obs": False, "norm_reward": False}
CLIPPED_GRADIENT = {"max_grad_norm": 0.1}


@KINDS
@pytest.mark.parametrize("flags", [{}, PLAIN, CLIPPED_GRADIENT], ids=str)
def test_every_gradient_of_a2c(kind, flags, train_here, monkeypatch):
    """Of each rollout one on the actor, then three on the critic."""
    flags = {"env_id": f"tiny_envs:Ragged{kind}-v0", **A2C, **flags}
    record = record_training(a2c, train_here, monkeypatch, **flags)
    findings = Findings(record)
    steps = iter(range(len(record.steps)))
    for i, rollout in enumerate(record.rollouts):
        index = next(steps)
        agent = record.agent_before(index)
        x = record.observations(i)
        value = agent.critic(x)[..., 0].detach()
        ends = rollout.terminated, rollout.truncated
        advantage = advantage_by_definition(record.rewards(i), value, *ends, 0.9, 0.8)
        valid = rollout.valid
        x = x[:-1][valid]
        target = (advantage + value[:-1])[valid]

        policy = policy_of(agent, x)
        pg_loss = -(policy.log_prob(rollout.action[valid]) * advantage[valid]).mean()
        entropy = policy.entropy().mean()
        terms = {"policy": pg_loss, "entropy": -0.3 * entropy}
        findings.check_gradient(i, record.steps[index], agent, terms, flags["max_grad_norm"])
        findings.log(i, policy_loss=pg_loss, entropy=entropy)
        for _ in range(3):
            index = next(steps)
            agent = record.agent_before(index)
            v_loss = half_squared_error(agent.critic(x)[:, 0], target).mean()
            expected = gradients(v_loss, agent)
            scale = min(1.0, flags["max_grad_norm"] / norm(expected))
            check_gradients(record.steps[index], expected, scale)
            findings.log(i, value_loss=v_loss)
        findings.log(i, explained_variance=explained_variance(advantage[valid], target))
    assert next(steps, None) is None
    findings.check_every_term_counts()
    findings.check_log("policy_loss", "value_loss", "entropy", "grad_norm", "explained_variance")
    findings.check_step_sizes()


@KINDS
@pytest.mark.parametrize(
    "flags", [{}, {"norm_adv": True}, {"clip_vloss": True}, PLAIN, CLIPPED_GRADIENT], ids=str
)
@pytest.mark.parametrize("module", modules_defining("clipped_value_loss"))
def test_every_gradient_of_ppo_clip(module, kind, flags, train_here, monkeypatch):
    """With a step size so large that --target-kl would end the updates early, which is left out."""
    flags = {"env_id": f"tiny_envs:Ragged{kind}-v0", **PPO, "clip_coef": 0.1, **flags}
    flags["target_kl"] = 1e9
    record = record_training(module, train_here, monkeypatch, **flags)
    findings = Findings(record)
    clipped_values = 0
    seen = list(updates(record, epochs=2, num_minibatches=2))
    for update in seen:
        log_ratio = log_ratio_of(update)
        ratio = log_ratio.exp()
        advantage = update.advantage
        if record.args.norm_adv:
            advantage = normalized(advantage)
        # Beyond the bound that the advantage pulls to, it has no pull.
        above = torch.minimum(ratio, torch.tensor(1.1))
        below = torch.maximum(ratio, torch.tensor(0.9))
        pg_loss = -(advantage * torch.where(advantage > 0, above, below)).mean()

        value = update.agent.critic(update.x)[:, 0]
        old_value = update.old_agent.critic(update.x)[:, 0].detach()
        error = half_squared_error(value, update.target)
        if record.args.clip_vloss:
            near_old = torch.minimum(torch.maximum(value, old_value - 0.1), old_value + 0.1)
            clipped_error = half_squared_error(near_old, update.target)
            clipped_values += int((clipped_error > error).sum())
            error = torch.where(clipped_error > error, clipped_error, error)
        v_loss = error.mean()

        entropy = policy_of(update.agent, update.x).entropy().mean()
        terms = {"policy": pg_loss, "value": 0.7 * v_loss, "entropy": -0.3 * entropy}
        findings.check_gradient(
            update.iteration, update.step, update.agent, terms, flags["max_grad_norm"]
        )
        findings.log(update.iteration, policy_loss=pg_loss, value_loss=v_loss, entropy=entropy)
        findings.log(update.iteration, approx_kl=(ratio - 1 - log_ratio).mean())
        findings.log(update.iteration, clipfrac=((ratio - 1).abs() > 0.1).double().mean())
    log_explained_variance(findings, seen)
    findings.check_every_term_counts()
    findings.check_log("policy_loss", "value_loss", "entropy", "grad_norm", "explained_variance")
    findings.check_log("approx_kl", "clipfrac")
    findings.check_step_sizes()
    assert 0 < sum(scalar_values(record.run_dir, "losses/clipfrac"))
    assert (clipped_values > 0) is record.args.clip_vloss


@KINDS
@pytest.mark.parametrize("flags", [{}, {"norm_adv": True}, PLAIN, CLIPPED_GRADIENT], ids=str)
def test_every_gradient_of_ppo_kl(kind, flags, train_here, monkeypatch):
    """With a target that is missed by far, so that β doubles from update to update."""
    flags = {"env_id": f"tiny_envs:Ragged{kind}-v0", **PPO, "target_kl": 1e-4, **flags}
    flags["early_stop"] = False
    record = record_training(ppo_kl, train_here, monkeypatch, kl_coef=1.5, **flags)
    findings = Findings(record)
    seen = list(updates(record, epochs=2, num_minibatches=2))
    for update in seen:
        ratio = log_ratio_of(update).exp()
        advantage = update.advantage
        if record.args.norm_adv:
            advantage = normalized(advantage)
        pg_loss = -(ratio * advantage).mean()
        policy = policy_of(update.agent, update.x)
        old_policy = policy_of(update.old_agent, update.x)
        kl = kl_divergence(old_policy.expand(policy.batch_shape), policy).mean()
        value = update.agent.critic(update.x)[:, 0]
        v_loss = half_squared_error(value, update.target).mean()
        entropy = policy.entropy().mean()
        beta = 1.5 * 2**update.iteration
        terms = {
            "policy": pg_loss,
            "value": 0.7 * v_loss,
            "entropy": -0.3 * entropy,
            "penalty": beta * kl,
        }
        findings.check_gradient(
            update.iteration, update.step, update.agent, terms, flags["max_grad_norm"]
        )
        findings.log(update.iteration, policy_loss=pg_loss, value_loss=v_loss, entropy=entropy)
        findings.log(update.iteration, kl_coef=beta)
    log_explained_variance(findings, seen)
    findings.check_every_term_counts()
    findings.check_log("policy_loss", "value_loss", "entropy", "grad_norm", "explained_variance")
    findings.check_log("kl_coef")
    findings.check_step_sizes()


def first_update(record):
    return next(updates(record, *epochs_and_minibatches(record)))


def epochs_and_minibatches(record) -> tuple[int, int]:
    if hasattr(record.args, "update_epochs"):
        return record.args.update_epochs, record.args.num_minibatches
    return 1, 1


@pytest.mark.parametrize("module", modules_defining("Collector", "policy_loss"))
@pytest.mark.parametrize("kind, expected", [("Discrete", 0.003), ("Box", 0.0)])
def test_the_default_weight_of_the_entropy(module, kind, expected, train_here, monkeypatch):
    """Of a first step in which there is nothing else to learn from."""
    monkeypatch.setattr(module, "policy_loss", lambda factor, *_: 0 * factor.mean())
    flags = {"env_id": f"tiny_envs:Ragged{kind}-v0", **ACTOR_CRITIC, "ent_coef": None}
    if hasattr(module.Args, "vf_coef"):
        flags["vf_coef"] = 0.0
    record = record_training(module, train_here, monkeypatch, **flags)
    update = first_update(record)
    entropy = policy_of(update.agent, update.x).entropy().mean()
    with_gradient = 0
    for found, gradient in zip(update.step.gradients, gradients(-expected * entropy, update.agent)):
        if gradient is not None:
            torch.testing.assert_close(found.double(), gradient, rtol=1e-3, atol=1e-6)
            with_gradient += 1
    assert with_gradient == (6 if kind == "Discrete" else 1)  # the actor; log σ


@pytest.mark.parametrize("module", modules_defining("Collector", "policy_loss"))
def test_a_minibatch_of_one_step_is_not_nan(module, train_here, monkeypatch):
    """Its normalised advantage is 0, so that it leaves the actor as it is."""
    if not hasattr(module.Args, "norm_adv"):
        pytest.skip("it has no minibatches")
    flags = {"env_id": "tiny_envs:OneStep-v0", "num_envs": 2, "num_steps": 4, "num_minibatches": 4}
    flags |= {"total_timesteps": 8, "eval_episodes": 1, "norm_adv": True, "ent_coef": 0.0}
    if hasattr(module.Args, "kl_coef"):
        flags["kl_coef"] = 0.0
    record = record_training(module, train_here, monkeypatch, **flags)
    for update in updates(record, *epochs_and_minibatches(record)):
        assert len(update.x) == 1
        names = [name for name, _ in update.agent.named_parameters()]
        found = dict(zip(names, update.step.gradients))
        of_critic = norm(found[name] for name in names if name.startswith("critic"))
        of_actor = norm(found[name] for name in names if not name.startswith("critic"))
        assert 0 < of_critic < NO_LIMIT  # which a NaN is not
        assert of_actor < 1e-6 * of_critic


def to_go_by_definition(reward, gamma):
    """Σ_k γ^{k−t} r_k, one entry at a time."""
    to_go = torch.zeros_like(reward, dtype=torch.float64)
    for t in range(len(reward)):
        for k in range(t, len(reward)):
            to_go[t] += gamma ** (k - t) * reward[k]
    return to_go


def mean_of_the_others(to_go, valid):
    baseline = torch.zeros_like(to_go)
    for t, n in valid.nonzero().tolist():
        others = [to_go[t, k] for k in range(valid.shape[1]) if k != n and valid[t, k]]
        if others:
            baseline[t, n] = sum(others) / len(others)
    return baseline


class ReinforceFindings(Findings):
    def check_policy_step(self, i, index, weight) -> None:
        """The sum over an episode's steps, the mean over the episodes."""
        episodes = self.record.rollouts[i]
        agent = self.record.agent_before(index)
        policy = policy_of(agent, self.record.observations(i))
        log_prob = policy.log_prob(episodes.action)
        num_episodes = episodes.valid.shape[1]
        loss = -(log_prob * weight)[episodes.valid].sum() / num_episodes
        self.check_gradient(i, self.record.steps[index], agent, {"policy": loss})
        self.log(i, policy_loss=loss, entropy=policy.entropy()[episodes.valid].mean())


REINFORCE = {**SHORT, "total_timesteps": 60}


def credited(weight, record):
    """The weight of each step; without the reward-to-go, of its episode's first step."""
    return weight if record.args.reward_to_go else weight[:1].expand_as(weight)


@KINDS
@pytest.mark.parametrize("flags", [{}, {"reward_to_go": False}, {"norm_obs": False}], ids=str)
@pytest.mark.parametrize("module", modules_defining("reinforce_loss"))
def test_every_gradient_of_reinforce(module, kind, flags, train_here, monkeypatch):
    """reinforce_baseline.py without a baseline, too."""
    flags = {"env_id": f"tiny_envs:Ragged{kind}-v0", **REINFORCE, **flags}
    if module is reinforce_baseline:
        flags["baseline"] = "none"
    record = record_training(module, train_here, monkeypatch, **flags)
    findings = ReinforceFindings(record)
    assert len(record.steps) == len(record.rollouts)
    for i, episodes in enumerate(record.rollouts):
        to_go = to_go_by_definition(episodes.reward, 0.9)
        findings.check_policy_step(i, i, credited(to_go, record))
    findings.check_log("policy_loss", "entropy")
    findings.check_step_sizes()


@KINDS
@pytest.mark.parametrize("flags", [{}, {"reward_to_go": False}], ids=str)
def test_every_gradient_with_the_mean_as_baseline(kind, flags, train_here, monkeypatch):
    flags = {"env_id": f"tiny_envs:Ragged{kind}-v0", **REINFORCE, "baseline": "mean", **flags}
    record = record_training(reinforce_baseline, train_here, monkeypatch, **flags)
    findings = ReinforceFindings(record)
    assert len(record.steps) == len(record.rollouts)
    for i, episodes in enumerate(record.rollouts):
        to_go = to_go_by_definition(episodes.reward, 0.9)
        advantage = to_go - mean_of_the_others(to_go, episodes.valid)
        findings.check_policy_step(i, i, credited(advantage, record))
    findings.check_log("policy_loss", "entropy")


@KINDS
@pytest.mark.parametrize("flags", [{}, {"reward_to_go": False}], ids=str)
def test_every_gradient_with_a_learned_baseline(kind, flags, train_here, monkeypatch):
    """The critic is fitted to returns over their deviation, and after it has been used."""
    flags = {"env_id": f"tiny_envs:Ragged{kind}-v0", **REINFORCE, "batch_size": 8, **flags}
    record = record_training(
        reinforce_baseline, train_here, monkeypatch, baseline="value", value_epochs=2, **flags
    )
    findings = ReinforceFindings(record)
    permutations = iter(record.permutations)
    returns = []
    scale = 1.0
    index = 0
    for i, episodes in enumerate(record.rollouts):
        valid = episodes.valid
        x = record.observations(i)
        to_go = to_go_by_definition(episodes.reward, 0.9)
        value = record.agent_before(index).critic(x)[..., 0].detach()
        advantage = to_go - scale * value
        findings.check_policy_step(i, index, credited(advantage, record))
        explained = explained_variance(advantage[valid], to_go[valid])
        findings.log(i, explained_variance=explained)
        index += 1

        returns.append(to_go[valid])
        _, scale = mean_and_deviation(returns)
        num_minibatches = max(len(returns[-1]) // 8, 1)
        for _ in range(2):
            for minibatch in next(permutations).chunk(num_minibatches):
                agent = record.agent_before(index)
                value = agent.critic(x[valid][minibatch])[:, 0]
                target = returns[-1][minibatch] / scale
                v_loss = 2 * half_squared_error(value, target).mean()
                findings.check_gradient(i, record.steps[index], agent, {"value": v_loss})
                findings.log(i, value_loss=v_loss)
                index += 1
    assert index == len(record.steps) and next(permutations, None) is None
    findings.check_log("policy_loss", "entropy", "value_loss", "explained_variance")
    findings.check_step_sizes()
