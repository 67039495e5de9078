"""C12: the trust region in practice: what five methods of the first order and the second reach.

Measured are the returns after the same number of steps; and, in short trainings, the seconds they
take and how far each update moves the policy: the exact KL of the policy that acts after it to the
one that acted before, over the states of its rollout.
"""

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch
from matplotlib.figure import Figure

import a2c
import ppo_clip
import ppo_kl
import trpo

from ..stats import upper_median
from ..tables import markdown_table
from .common import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY_BLUE,
    FinishedRun,
    error_bars,
    final_returns,
    mean_with_interval,
    read_cell,
    short_training,
    with_interval,
)

ENVIRONMENTS = ("HalfCheetah-v4", "Hopper-v4")
SHORT_STEPS = 100_000  # of the trainings in which each update's KL is measured
SHORT_SEEDS = (1, 2, 3)


@dataclass
class Method:
    """A script with flags, and the KL to which it means to keep an update."""

    label: str
    script: ModuleType
    flags: dict
    bound: float | None
    """in nats; None: it has none"""
    colour: str


METHODS = {  # by the name of a cell of the suite mujoco; c12-npg is one of the suite lectures
    "a2c": Method("A2C", a2c, {}, None, GREEN),
    "npg": Method("natural gradient", trpo, {"line_search": False}, trpo.Args.target_kl, GREY),
    "trpo": Method("TRPO", trpo, {}, trpo.Args.target_kl, ORANGE),
    "ppo_kl": Method("PPO, KL penalty", ppo_kl, {}, ppo_kl.Args.target_kl, SKY_BLUE),
    "ppo_clip": Method("PPO, clip", ppo_clip, {}, ppo_clip.Args.target_kl, BLUE),
}


# ---------------------------------------------------------------- how far an update moves


@dataclass
class ShortRun:
    """A short training."""

    kls: np.ndarray
    """(updates,) the KL of each update, in nats, but for the last, and for the first: with that the
    observations begin to be normalised"""
    seconds: float
    """that it took, without what was spent on measuring"""


def train_and_measure(script: ModuleType, **flags) -> ShortRun:
    """Train a script, and measure each of its updates when it asks for the next rollout.

    A KL is the mean over the states of the update's rollout. Each policy sees them normalised as
    when it acts. So what the new statistics change counts.
    """
    kls = []
    measuring = 0.0  # seconds
    last = None  # the agent at θ_k, and the rollout from which θ_{k+1} was made
    collect = script.Collector.collect

    def measured(collector, num_steps: int):
        nonlocal last, measuring
        start = time.perf_counter()
        if last is not None:
            old_agent, rollout = last
            kls.append(mean_kl(old_agent, collector.agent, rollout))
        old_agent = copy.deepcopy(collector.agent)
        measuring += time.perf_counter() - start
        rollout = collect(collector, num_steps)
        last = old_agent, rollout
        return rollout

    start = time.perf_counter()
    with mock.patch.object(script.Collector, "collect", measured):
        with short_training(script, **flags):
            seconds = time.perf_counter() - start - measuring
    return ShortRun(np.array(kls[1:]), seconds)


@torch.no_grad()
def mean_kl(old_agent, agent, rollout) -> float:
    """KL(π_old ‖ π), the mean over the states of a rollout, in nats."""
    obs = rollout.obs[:-1][rollout.valid]
    old_out = old_agent.actor(old_agent.normalize(obs))
    out = agent.actor(agent.normalize(obs))
    if agent.discrete:
        kl = trpo.softmax_kl(old_out, out)
    else:
        kl = trpo.gaussian_kl(old_out, old_agent.log_std, out, agent.log_std)
    return kl.mean().item()


def measure(env_id: str, method: Method) -> list[ShortRun]:
    """A short training of each seed."""
    flags = {"env_id": env_id, "total_timesteps": SHORT_STEPS, **method.flags}
    if method.script is trpo:
        flags["anneal_kl"] = False  # one bound for all updates
    return [train_and_measure(method.script, seed=seed, **flags) for seed in SHORT_SEEDS]


def share_above(short_runs: list[ShortRun], bound: float) -> str:
    """Per cent of a run's updates above a bound, mean of the runs."""
    return mean_with_interval([100 * (run.kls > bound).mean() for run in short_runs])


# ---------------------------------------------------------------- tables and picture


def return_row(
    env_id: str, method: Method, cell: list[FinishedRun], short_runs: list[ShortRun]
) -> list[str]:
    evaluations = [run.summary["eval_return_mean"] for run in cell]
    return [
        env_id,
        method.label,
        mean_with_interval(final_returns(cell)),
        mean_with_interval(evaluations),
        with_interval(upper_median, [run.seconds for run in short_runs]),
    ]


def move_row(env_id: str, method: Method, short_runs: list[ShortRun]) -> list[str]:
    cells = []
    for quantile in (0.5, 0.95, 1):
        of_runs = [np.quantile(run.kls, quantile) for run in short_runs]
        cells.append(mean_with_interval(1000 * np.array(of_runs)))
    if method.bound is None:
        cells += ["–", "–", "–"]
    else:
        cells.append(f"{1000 * method.bound:g}")
        cells.append(share_above(short_runs, method.bound))
        cells.append(share_above(short_runs, 1.5 * method.bound))
    return [env_id, method.label, *cells]


def draw_finals(ax, finals: dict[str, np.ndarray]) -> None:
    """The final returns (seeds,) of each method: every seed, and the mean with its interval."""
    for i, (name, values) in enumerate(finals.items()):
        colour = METHODS[name].colour
        bars = error_bars(values)[:, None]
        ax.errorbar(i, values.mean(), bars, fmt="o", color=colour, capsize=4)
        ax.plot(np.full(len(values), i + 0.15), values, "o", color=colour, markersize=3, alpha=0.6)
    ax.set_xticks(range(len(finals)), [METHODS[name].label for name in finals], fontsize=8)
    ax.tick_params(axis="x", rotation=15)
    ax.set_ylabel("final return")
    ax.set_ylim(0, None)


def draw_kls(ax, short_runs: dict[str, list[ShortRun]]) -> None:
    """The share of updates above a KL, over the KL, a line a method."""
    for name, runs in short_runs.items():
        method = METHODS[name]
        values = np.sort(np.concatenate([run.kls for run in runs]))
        above = 1 - np.arange(1, len(values) + 1) / len(values)
        ax.plot(values, 100 * above, color=method.colour, linewidth=1.6, label=method.label)
        if method.bound is not None:
            ax.axvline(method.bound, color=method.colour, linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    ax.set_xlim(1e-5, 1)
    ax.set_xlabel("KL of an update, nats (dotted: the method's bound)")
    ax.set_ylabel("updates above it, %")


def read_runs(runs: Path, env_id: str, name: str) -> list[FinishedRun]:
    """The finished runs of a method, from the folder of the suite lectures or mujoco beside it."""
    if name == "npg":
        return read_cell(runs, env_id, "c12-npg", "eval_return_mean")
    return read_cell(runs.parent / "mujoco", env_id, name, "eval_return_mean")


def study(runs: Path) -> tuple[Figure, str]:
    figure = Figure(figsize=(9.6, 6.6), dpi=110, layout="constrained")
    returns = [["environment", "method", "final return", "evaluation", "seconds"]]
    moves = [["environment", "method", "median KL", "95 %", "largest", "bound"]]
    moves[0] += ["% above it", "% above 1.5 times it"]
    for axes, env_id in zip(figure.subplots(2, 2, width_ratios=(1.2, 1)), ENVIRONMENTS):
        finals = {}
        short_runs = {}
        for name, method in METHODS.items():
            cell = read_runs(runs, env_id, name)
            finals[name] = final_returns(cell)
            short_runs[name] = measure(env_id, method)
            returns.append(return_row(env_id, method, cell, short_runs[name]))
            moves.append(move_row(env_id, method, short_runs[name]))
        draw_finals(axes[0], finals)
        draw_kls(axes[1], short_runs)
        for ax in axes:
            ax.set_title(env_id)
    axes[1].legend(fontsize=8)
    text = f"""\
Return after a million steps, and the time of {SHORT_STEPS:,} of them

{markdown_table(returns)}

Final return: over the last tenth of training; evaluation: of the deterministic policy. Means over
the seeds with 95 % bootstrap intervals. Seconds: one training after the other in one process,
median of {len(SHORT_SEEDS)}.

How far an update moves the policy: KL(π_θk ‖ π_θk+1) in thousandths of a nat

{markdown_table(moves)}

Exact, over the states of the update's rollout, in the trainings of {SHORT_STEPS:,} steps; mean of
{len(SHORT_SEEDS)} seeds with its interval. The bound is the script's target_kl: δ of the natural
gradient and of TRPO (here --no-anneal-kl), the target that the penalty's β is adapted to, and the
KL after which ppo_clip.py begins no further epoch; ppo_kl.py begins none after 1.5 times it. What
an update of the observations' statistics changes is part of the KL.
"""
    return figure, text
