"""Checkers of returns, baselines and advantages, against sums written from their definitions."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .grading import expect, f64, numbers, random_tensors

STEP = ("step", "environment")


def check_reward_to_go(reward_to_go) -> None:
    """reward_to_go(reward (T, N), gamma) → G (T, N)."""
    reward = numbers([1.0], [2.0], [4.0])
    mistakes = {
        "it is the whole return at every step: G_t leaves out what came before t": numbers(
            [3.0], [3.0], [3.0]
        ),
        "the discount counts from the episode's start: it is γ^t' where it should be "
        "γ^(t'−t)": numbers([3.0], [2.0], [1.0]),
        "nothing is discounted: γ is missing": numbers([7.0], [6.0], [4.0]),
        "it runs forwards: G_t sums the rewards up to t, and should sum those from t on": numbers(
            [1.0], [2.5], [5.25]
        ),
        "the reward of step t itself is missing": numbers([2.0], [2.0], [0.0]),
        "it is one reward, not the sum": reward,
        "the reward is discounted, too: γ belongs to G_{t+1} alone": numbers([1.5], [2.0], [2.0]),
    }
    expect(reward_to_go(reward, 0.5), numbers([3.0], [4.0], [4.0]), "with γ = ½", mistakes, STEP)
    reward = random_tensors(0, 6, 3)
    right = torch.zeros_like(reward)
    for t in range(6):
        for k in range(t, 6):
            right[t] += 0.9 ** (k - t) * reward[k]
    where = "with several environments"
    summed = {"environments are mixed": right.sum(1, keepdim=True).expand(6, 3)}
    expect(reward_to_go(reward, 0.9), right, where, summed, STEP)


@dataclass(frozen=True)
class Rollout:
    """T steps in N environments: reward (T, N), value (T+1, N), terminated and truncated (T, N)."""

    reward: Tensor
    value: Tensor
    terminated: Tensor
    truncated: Tensor


@dataclass(frozen=True)
class Estimator:
    """The estimate by its definition, or with a mistake in it."""

    cut: str = "terminated or truncated"  # where the sum stops
    no_value: str = "terminated"  # where V(s_{t+1}) is left out
    value_from: int = 1  # δ_t has V(s_{t+1})
    subtract: bool = True  # δ_t has − V(s_t)
    decay: str = "γλ"

    def ends(self, rollout: Rollout, which: str) -> Tensor:
        both = rollout.terminated | rollout.truncated
        return {
            "terminated": rollout.terminated,
            "truncated": rollout.truncated,
            "terminated or truncated": both,
            "nowhere": torch.zeros_like(both),
        }[which]

    def delta(self, rollout: Rollout, gamma: float) -> Tensor:
        num_steps = len(rollout.reward)
        after = rollout.value[self.value_from : self.value_from + num_steps]
        after = after * ~self.ends(rollout, self.no_value)
        delta = rollout.reward + gamma * after
        return delta - rollout.value[:-1] if self.subtract else delta

    def advantage(self, rollout: Rollout, gamma: float, lam: float) -> Tensor:
        """Σ_l (γλ)^l δ_{t+l} up to where it is cut, (T, N)."""
        delta = self.delta(rollout, gamma)
        cut = self.ends(rollout, self.cut)
        decay = {"γλ": gamma * lam, "γ": gamma, "λ": lam}[self.decay]
        advantage = torch.zeros_like(delta)
        num_steps, num_envs = delta.shape
        for n in range(num_envs):
            for t in range(num_steps):
                for k in range(t, num_steps):
                    advantage[t, n] += decay ** (k - t) * delta[k, n]
                    if cut[k, n]:
                        break
        return advantage


RIGHT = Estimator()
T = 7


def rollout_without_ends() -> Rollout:
    never = torch.zeros(T, 2, dtype=torch.bool)
    return Rollout(random_tensors(1, T, 2), random_tensors(2, T + 1, 2), never, never)


def rollout_ending_at(step: int, terminated: bool, truncated: bool) -> Rollout:
    """In environment 0 alone."""
    ends = torch.zeros(T, 2, dtype=torch.bool)
    ends[step, 0] = True
    return replace(rollout_without_ends(), terminated=ends & terminated, truncated=ends & truncated)


PLAIN_MISTAKES = {
    "the sum decays by γ alone: λ is missing": Estimator(decay="γ"),
    "the sum decays by λ alone: γ is missing": Estimator(decay="λ"),
    "δ_t bootstraps with V(s_t), and should with V(s_{t+1})": Estimator(value_from=0),
    "δ_t lacks − V(s_t)": Estimator(subtract=False),
}
MISTAKES_AT_A_TERMINATION = {
    "your carry crosses it": Estimator(cut="nowhere"),
    "your carry crosses it (the cut is at truncations alone)": Estimator(cut="truncated"),
    "V(s_{t+1}) is bootstrapped, though nothing comes after": Estimator(no_value="nowhere"),
    "V(s_{t+1}) is bootstrapped and your carry crosses it": Estimator("nowhere", "nowhere"),
}
MISTAKES_AT_A_TRUNCATION = {
    "your carry crosses it": Estimator(cut="terminated"),
    "it is treated as a termination: V(s_{t+1}) is missing": Estimator(
        no_value="terminated or truncated"
    ),
    "V(s_{t+1}) is missing and your carry crosses it": Estimator(
        "terminated", "terminated or truncated"
    ),
}
MISTAKES_AT_BOTH = {
    "the truncation wins, and the termination should: V(s_{t+1}) is bootstrapped": Estimator(
        no_value="nowhere"
    ),
}


def check_gae(gae) -> None:
    """gae(reward, value, terminated, truncated, gamma, lam) → advantage (T, N)."""

    def compare(rollout: Rollout, where: str, mistakes: dict[str, Estimator], place="") -> None:
        given = rollout.reward, rollout.value, rollout.terminated, rollout.truncated
        answers = {}
        for message, estimator in mistakes.items():
            answers[message + place] = estimator.advantage(rollout, 0.9, 0.8)
        right = RIGHT.advantage(rollout, 0.9, 0.8)
        expect(gae(*given, 0.9, 0.8), right, where, answers, STEP)

    compare(rollout_without_ends(), "where no episode ends", PLAIN_MISTAKES)
    at = ", at step 3"
    terminated = rollout_ending_at(3, True, False)
    compare(terminated, "where an episode is terminated", MISTAKES_AT_A_TERMINATION, at)
    truncated = rollout_ending_at(3, False, True)
    compare(truncated, "where an episode is truncated", MISTAKES_AT_A_TRUNCATION, at)
    both = rollout_ending_at(3, True, True)
    compare(both, "where an episode is terminated and truncated at once", MISTAKES_AT_BOTH, at)
    last = rollout_ending_at(T - 1, True, False)
    compare(last, "where the rollout's last step ends an episode", MISTAKES_AT_A_TERMINATION)


def check_td_error(line) -> None:
    """delta (T, N) from reward (T, N), value (T+1, N), has_next_value (T, N) and gamma."""

    def compare(rollout: Rollout, where: str, mistakes: dict[str, Tensor]) -> None:
        has_next_value = (~rollout.terminated).to(f64)
        found = line(
            reward=rollout.reward,
            value=rollout.value,
            has_next_value=has_next_value,
            terminated=rollout.terminated,
            truncated=rollout.truncated,
            gamma=0.9,
        )
        expect(found, RIGHT.delta(rollout, 0.9), where, mistakes, STEP)

    plain = rollout_without_ends()
    mistakes = {
        "it bootstraps with V(s_t), and should with V(s_{t+1})": Estimator(value_from=0),
        "− V(s_t) is missing": Estimator(subtract=False),
    }
    answers = {message: mistake.delta(plain, 0.9) for message, mistake in mistakes.items()}
    answers["γ is missing"] = RIGHT.delta(plain, 1.0)
    answers["its sign is reversed"] = -RIGHT.delta(plain, 0.9)
    compare(plain, "where no episode ends", answers)
    terminated = rollout_ending_at(3, True, False)
    bootstrapped = Estimator(no_value="nowhere").delta(terminated, 0.9)
    answers = {"V(s_{t+1}) is bootstrapped, though nothing comes after, at step 3": bootstrapped}
    compare(terminated, "where an episode is terminated", answers)
    truncated = rollout_ending_at(3, False, True)
    ended = Estimator(no_value="terminated or truncated").delta(truncated, 0.9)
    answers = {"it is treated as a termination: V(s_{t+1}) is missing, at step 3": ended}
    compare(truncated, "where an episode is truncated", answers)


def check_n_step(line) -> None:
    """target (T, N) from advantage (T, N) with λ = 1 and value (T+1, N)."""
    rollout = rollout_without_ends()
    advantage = RIGHT.advantage(rollout, 0.9, 1.0)
    given = {"reward": rollout.reward, "value": rollout.value, "advantage": advantage}
    mistakes = {
        "it is the advantage, to which V(s_t) must be added": advantage,
        "it adds V(s_{t+1}), and should add V(s_t)": advantage + rollout.value[1:],
        "V(s_t) is subtracted, and should be added": advantage - rollout.value[:-1],
        "it is the one-step target, r_t + γ V(s_{t+1})": rollout.reward + 0.9 * rollout.value[1:],
    }
    found = line(**given, gamma=0.9)
    expect(found, advantage + rollout.value[:-1], "with λ = 1", mistakes, STEP)


def mean_of_others(to_go: Tensor, valid: Tensor) -> Tensor:
    """b (T, N): the mean over the other episodes that still run at step t; 0 if there is none."""
    baseline = torch.zeros_like(to_go)
    num_steps, num_envs = to_go.shape
    for t in range(num_steps):
        for n in range(num_envs):
            others = [to_go[t, k] for k in range(num_envs) if k != n and valid[t, k]]
            if others:
                baseline[t, n] = sum(others) / len(others)
    return baseline


def check_mean_baseline(mean_baseline) -> None:
    """mean_baseline(to_go (T, N), valid (T, N)) → b (T, N); what is not valid does not matter."""
    to_go = random_tensors(3, 4, 3)
    running = torch.ones(4, 3, dtype=torch.bool)
    mistakes = {
        "the mean has the episode itself in it: leave its own G_t out": to_go.mean(
            1, keepdim=True
        ).expand(4, 3),
        "the mean is over the steps, and should be over the episodes": to_go.mean(
            0, keepdim=True
        ).expand(4, 3),
        "it is one mean for all steps: b_t is that of step t": to_go.mean().expand(4, 3),
        "the sum of the others is not divided by how many they are": to_go.sum(1, keepdim=True)
        - to_go,
        "the sum of the others is divided by N, and should be by N − 1": (
            to_go.sum(1, keepdim=True) - to_go
        )
        / 3,
    }
    right = mean_of_others(to_go, running)
    where = "where all episodes still run"
    expect(mean_baseline(to_go, running), right, where, mistakes, STEP)

    valid = torch.arange(4)[:, None] < torch.tensor([4, 2, 3])  # lengths of the episodes
    to_go = to_go * valid
    others = to_go.sum(1, keepdim=True) - to_go
    mistakes = {"episodes that have ended are counted, too": others / 2 * valid}
    # What an episode that has ended gets does not matter. A NaN there does: the loss sums it.
    found = mean_baseline(to_go, valid)
    if isinstance(found, Tensor) and not found.isfinite().all():
        found = torch.where(found.isfinite(), found, torch.inf)
        right = mean_of_others(to_go, valid)
        where = "where an episode runs alone, so that there are no others"
        expect(found, right, where, {}, STEP)
    right = mean_of_others(to_go, valid) * valid
    expect(found * valid, right, "where some episodes have ended", mistakes, STEP)


def check_value_baseline(line) -> None:
    """advantage (T, N) from to_go and baseline, both (T, N)."""
    to_go = random_tensors(4, 4, 3)
    baseline = random_tensors(5, 4, 3)
    mistakes = {
        "its sign is reversed: what is better than expected must be positive": baseline - to_go,
        "the baseline is missing": to_go,
        "the baseline is added, and should be subtracted": to_go + baseline,
        "the baseline is averaged: it must depend on the state": to_go - baseline.mean(),
        "it is divided by the baseline": (to_go - baseline) / baseline,
    }
    found = line(to_go=to_go, baseline=baseline, valid=torch.ones(4, 3, dtype=torch.bool))
    expect(found, to_go - baseline, "for any returns and values", mistakes, STEP)
