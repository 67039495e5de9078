"""C9: whether the errors of cloning and of DAgger compound with the horizon, on CartPole-v1."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

import dagger

from .. import BadInput
from ..files import Damaged
from ..plots import draw_legend
from ..tables import format_number, markdown_table
from .common import (
    BLUE,
    VERMILION,
    leave_out,
    mean_with_interval,
    read_cell,
    stack_error_bars,
)

LABELS = (50, 100, 200, 500, 1000)
DRAWN_LABELS = 200  # labels of the policies whose shortfall is drawn
ALGORITHM_COLOURS = {"cloning": VERMILION, "dagger": BLUE}
SHIFTS = {"cloning": 0.97, "dagger": 1.03}  # side by side in the picture
HORIZONS = np.unique(np.geomspace(20, 2000, 41).round())  # (H,) steps
TIME_LIMIT = 500  # of CartPole-v1, in training
EPISODES = 200


# ---------------------------------------------------------------- what is used of dagger.py

EVALUATION_SEED = dagger.derive_seed(9)
expert = dagger.balance

Policy = Callable[[np.ndarray], np.ndarray]
"""observations (N, obs_dim) to actions (N,)"""


def load_policy(path: Path) -> Policy:
    """The policy of a policy.pt. Raises Damaged if it is none for CartPole."""
    try:
        policy = dagger.load_policy(path)
        policy(np.zeros((1, 4), dtype=np.float32))
    except Exception as error:  # every kind of damage raises a type of its own
        raise Damaged(f"{path}: {type(error).__name__}") from error
    return policy


def run_episodes(policy: Policy, time_limit: int) -> np.ndarray:
    """Returns (EPISODES,) of episodes of CartPole that are truncated at a time limit."""
    envs = gym.make_vec("CartPole-v1", EPISODES, max_episode_steps=time_limit)
    envs.spec.max_episode_steps = time_limit  # which gymnasium leaves as it was registered
    returns, _ = dagger.evaluate(policy, envs, EVALUATION_SEED)
    return returns


# ---------------------------------------------------------------- measurements


def shortfall(returns: np.ndarray) -> np.ndarray:
    """H − E[return up to H] at each of HORIZONS, (H,).

    `returns` (N,) are of episodes up to the longest horizon. A step of CartPole is worth 1 until
    the pole falls, so the best return up to H is H.
    """
    up_to_horizon = np.minimum(returns, HORIZONS[:, None])  # (H, N)
    return HORIZONS - up_to_horizon.mean(1)


def slope(losses: np.ndarray) -> float:
    """k of the least-squares fit of losses ∝ H^k to losses (H,), where there are any.

    NaN of fewer than two.
    """
    some = losses > 0
    if some.sum() < 2:
        return np.nan
    return np.polyfit(np.log(HORIZONS[some]), np.log(losses[some]), 1)[0]


def error_rate(policy: Policy, driver: Policy) -> float:
    """Share of the states that `driver` comes to in which the policy differs from the expert."""
    wrong = []

    def drive(obs: np.ndarray) -> np.ndarray:
        wrong.append(policy(obs) != expert(obs))
        return driver(obs)

    run_episodes(drive, TIME_LIMIT)
    return np.mean(wrong)


@dataclass
class Imitation:
    """What is measured of an algorithm's policies, a seed each, at a number of labels."""

    algorithm: str
    labels: int
    returns: np.ndarray
    """(seeds,) the run's own evaluation"""
    losses: np.ndarray
    """(seeds, H) shortfall at each of HORIZONS"""
    expert_errors: np.ndarray
    """(seeds,) percent of wrong actions in the states that the expert comes to"""
    own_errors: np.ndarray
    """(seeds,) the same in the states that the policy comes to"""

    def differences(self) -> np.ndarray:
        """(seeds,) percentage points by which the policy errs more in its own states."""
        return self.own_errors - self.expert_errors


def measure(runs: Path, algorithm: str, labels: int) -> Imitation:
    cell = read_cell(runs, "CartPole-v1", f"c9-{algorithm}-{labels}", "eval_return_mean")
    policies = []
    returns = []
    for run in cell:
        try:
            policies.append(load_policy(run.dir / "policy.pt"))
        except Damaged as error:
            leave_out(error)
            continue
        returns.append(run.summary["eval_return_mean"])
    if len(policies) < 2:
        raise BadInput(f"{runs}: c9-{algorithm}-{labels} needs two policies, not {len(policies)}")
    longest = int(HORIZONS[-1])
    losses = [shortfall(run_episodes(policy, longest)) for policy in policies]
    expert_errors = [100 * error_rate(policy, expert) for policy in policies]
    own_errors = [100 * error_rate(policy, policy) for policy in policies]
    return Imitation(
        algorithm=algorithm,
        labels=labels,
        returns=np.array(returns),
        losses=np.array(losses),
        expert_errors=np.array(expert_errors),
        own_errors=np.array(own_errors),
    )


# ---------------------------------------------------------------- tables


def shortfall_row(measured: Imitation) -> list[str]:
    """Returns, shortfall at the longest horizon, and its slope."""
    at_the_end = measured.losses[:, -1]
    fell = at_the_end > 0
    slopes = np.array([slope(losses) for losses in measured.losses])
    return [
        str(measured.labels),
        measured.algorithm,
        mean_with_interval(measured.returns),
        mean_with_interval(at_the_end),
        mean_with_interval(slopes[fell]) if fell.any() else "–",
        f"{(~fell).sum()} of {len(fell)}",
    ]


def error_row(measured: Imitation) -> list[str]:
    """Wrong actions in the expert's states and in the policy's own."""
    return [
        str(measured.labels),
        measured.algorithm,
        mean_with_interval(measured.expert_errors),
        mean_with_interval(measured.own_errors),
        mean_with_interval(measured.differences()),
    ]


# ---------------------------------------------------------------- the picture


def draw_over_labels(ax, algorithm: str, samples: list[np.ndarray]) -> None:
    """The mean of a sample (seeds,) at each of LABELS."""
    ax.errorbar(
        np.multiply(LABELS, SHIFTS[algorithm]),
        [sample.mean() for sample in samples],
        stack_error_bars(samples),
        color=ALGORITHM_COLOURS[algorithm],
        label=algorithm,
        marker="o",
        capsize=3,
    )


def draw_shortfall(ax, algorithm: str, losses: np.ndarray) -> None:
    """The shortfall over the horizon: seeds (seeds, H), their mean and its interval."""
    colour = ALGORITHM_COLOURS[algorithm]
    mean = losses.mean(0)
    below, above = stack_error_bars(losses.T)
    seeds = np.where(losses > 0, losses, np.nan)  # a logarithm has no 0
    ax.plot(HORIZONS, seeds.T, color=colour, linewidth=0.6, alpha=0.6)
    ax.plot(HORIZONS, np.where(mean > 0, mean, np.nan), color=colour, linewidth=2.2)
    ax.fill_between(HORIZONS, mean - below, mean + above, color=colour, alpha=0.2, linewidth=0)


def draw_guides(ax) -> None:
    """Lines of the slopes that the lecture names."""
    longest = HORIZONS[-1]
    third = len(HORIZONS) // 3
    for power, name in ((1, "∝ H"), (2, "∝ H²")):
        guide = 0.6 * longest * (HORIZONS / longest) ** power
        ax.plot(HORIZONS, guide, color="black", linewidth=1, linestyle=":")
        point = (HORIZONS[third], guide[third])
        ax.annotate(name, point, xytext=(0, 4), textcoords="offset points", ha="right")


def draw(measured: list[Imitation], num_seeds: int) -> Figure:
    """Returns and differences over the labels, and the shortfall over the horizon."""
    figure = Figure(figsize=(12.6, 4.2), dpi=110, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for algorithm in ALGORITHM_COLOURS:
        own = [m for m in measured if m.algorithm == algorithm]
        draw_over_labels(left, algorithm, [m.returns for m in own])
        draw_over_labels(right, algorithm, [m.differences() for m in own])
        for m in own:
            if m.labels == DRAWN_LABELS:
                draw_shortfall(middle, algorithm, m.losses)
    draw_guides(middle)

    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_xlabel("labels of the expert")
        ax.xaxis.set_major_locator(FixedLocator(LABELS))
        ax.xaxis.set_minor_locator(NullLocator())
    left.axhline(TIME_LIMIT, color="black", linewidth=1, linestyle=":", label="expert")
    left.set_ylim(0, None)
    left.set_ylabel("evaluation return")
    left.set_title("return", fontsize=10)
    right.axhline(0, color="black", linewidth=1)
    right.set_ylabel("percentage points")
    right.set_title("wrong actions: own states less the expert's", fontsize=10)
    middle.set_xscale("log")
    middle.set_yscale("log")
    middle.set_ylim(0.1, 1.3 * HORIZONS[-1])
    middle.set_xlabel("horizon H, steps")
    middle.set_ylabel("H − return up to H")
    middle.set_title(f"shortfall, {DRAWN_LABELS} labels: seeds and mean", fontsize=10)
    for ax in (left, middle, right):
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    draw_legend(figure)
    figure.suptitle(f"CartPole-v1, {num_seeds} seeds, 95 % intervals")
    return figure


def study(runs: Path) -> tuple[Figure, str]:
    longest = int(HORIZONS[-1])
    expert_shortfall = format_number(shortfall(run_episodes(expert, longest))[-1])
    measured = []
    for labels in LABELS:
        for algorithm in ALGORITHM_COLOURS:
            measured.append(measure(runs, algorithm, labels))
    falls = [["labels", "algorithm", "return", f"shortfall at {longest:,}", "slope"]]
    falls[0].append("seeds that never fell")
    errors = [["labels", "algorithm", "where the expert goes, %", "where it goes itself, %"]]
    errors[0].append("difference")
    for m in measured:
        falls.append(shortfall_row(m))
        errors.append(error_row(m))
    text = f"""{markdown_table(falls)}

Return: of 100 episodes of at most {TIME_LIMIT} steps. Shortfall at a horizon H: H less the mean
return up to it, over {EPISODES} episodes; the expert's at {longest:,} is {expert_shortfall}. Slope:
of the logarithm of the shortfall against that of the horizon, from {HORIZONS[0]:.0f} to {longest:,}
steps where there is a shortfall, of the seeds that ever fell.

{markdown_table(errors)}

Share of states in which the policy does not do as the expert does: in the states of the expert's
episodes of {TIME_LIMIT} steps, and in those of its own; their difference is taken seed by seed.
"""
    return draw(measured, num_seeds=len(measured[-1].returns)), text
