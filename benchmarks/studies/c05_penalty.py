"""C5: PPO's clip against its KL penalty, and what the first β changes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..plots import draw_legend
from ..stats import bootstrap_interval, probability_of_improvement
from ..tables import markdown_table
from .common import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    VERMILION,
    FinishedRun,
    censored_median,
    error_bars,
    final_returns,
    mean_with_interval,
    read_cell,
    read_course,
    with_interval,
)

ENVIRONMENTS = ("HalfCheetah-v4", "Hopper-v4")
BETA_COLOURS = {0.1: BLUE, 1: GREEN, 10: PINK, 100: ORANGE}  # by β₀
BETAS = tuple(BETA_COLOURS)
UNPENALISED_COLOURS = {"none": GREY, "clip": VERMILION}  # the objectives without a penalty


@dataclass
class PenaltyRuns:
    """The runs with the KL penalty from one β₀."""

    finals: np.ndarray
    """(seeds,) final returns"""
    courses: list[np.ndarray]
    """β of each update of each run, (updates,)"""


def read_penalty_runs(runs: Path, env_id: str, beta: float) -> PenaltyRuns:
    found = read_cell(runs, env_id, f"c5-kl-{beta}")
    return PenaltyRuns(final_returns(found), [beta_course(run) for run in found])


def beta_course(run: FinishedRun) -> np.ndarray:
    """β of each update of a run of ppo_kl.py, (updates,)."""
    return read_course(run, "losses/kl_coef")


def updates_to_meet(beta: np.ndarray, other: np.ndarray) -> float:
    """Updates until two courses of β are first within a factor of 2; infinite if they never are.

    The courses are (updates,) each.
    """
    length = min(len(beta), len(other))
    doublings = np.abs(np.log2(beta[:length] / other[:length]))
    met = np.flatnonzero(doublings <= 1)
    return met[0] if met.size else np.inf


def tenfold(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """What a tenfold β₀ adds to the mean, by least squares; a sample for each of BETAS."""
    log_beta = np.log10(BETAS)
    x = log_beta - log_beta.mean()
    weights = x / (x @ x)
    return sum(weight * sample.mean(axis) for weight, sample in zip(weights, samples))


def meeting_cell(penalty: dict[float, PenaltyRuns], beta: float) -> str:
    """Median of the updates until β has met the course of the same seed's run from β₀ = 1."""
    if beta == 1:
        return "–"
    courses = penalty[beta].courses
    met = []
    for course, course_from_1 in zip(courses, penalty[1].courses):
        met.append(updates_to_meet(course, course_from_1))
    limit = min(len(course) for course in courses)
    return str(censored_median(met, limit))


def environment_rows(
    env_id: str, others: dict[str, np.ndarray], penalty: dict[float, PenaltyRuns]
) -> list[list[str]]:
    """The rows of an environment; others are final returns (seeds,) without a penalty."""
    clip = others["clip"]
    rows = []
    for name, finals in others.items():
        chance = "–"
        if name != "clip":
            chance = with_interval(probability_of_improvement, clip, finals)
        rows.append([env_id, name, mean_with_interval(finals), "–", chance])
    for beta in BETAS:
        finals = penalty[beta].finals
        chance = with_interval(probability_of_improvement, clip, finals)
        met = meeting_cell(penalty, beta)
        rows.append([env_id, f"KL, β₀ = {beta:g}", mean_with_interval(finals), met, chance])
    return rows


def draw_finals(ax, others: dict[str, np.ndarray], penalty: dict[float, PenaltyRuns]) -> None:
    """The final returns over β₀, and those without a penalty as bands."""
    for name, finals in others.items():
        colour = UNPENALISED_COLOURS[name]
        low, high = bootstrap_interval(np.mean, finals)
        ax.axhspan(low, high, color=colour, alpha=0.2, linewidth=0)
        ax.axhline(finals.mean(), color=colour, linewidth=1.8, label=name)
    for beta, colour in BETA_COLOURS.items():
        finals = penalty[beta].finals
        bars = error_bars(finals)[:, None]
        ax.errorbar(beta, finals.mean(), bars, fmt="o", color=colour, capsize=3)
        beside = np.full(len(finals), beta * 1.12)
        ax.plot(beside, finals, "o", color=colour, markersize=3, alpha=0.6)
    ax.set_xscale("log")
    ax.set_xlabel("β₀")
    ax.set_ylabel("final return")


def draw_courses(ax, penalty: dict[float, PenaltyRuns]) -> None:
    """β over the updates, a line a seed."""
    for beta, colour in BETA_COLOURS.items():
        label = f"KL, β₀ = {beta:g}"
        for course in penalty[beta].courses:
            ax.plot(course, color=colour, linewidth=0.9, alpha=0.8, label=label)
            label = None  # one entry in the legend for all seeds
    ax.set_yscale("log")
    ax.set_xlabel("updates")
    ax.set_ylabel("β")


def study(runs: Path) -> tuple[Figure, str]:
    figure = Figure(figsize=(9.6, 6.6), dpi=110, layout="constrained")
    rows = [["environment", "constraint", "final return", "updates to meet β₀ = 1"]]
    rows[0].append("P(clip ends higher)")
    slopes = []
    clip_finals = []  # of each environment
    penalty_finals = {beta: [] for beta in BETAS}
    for axes, env_id in zip(figure.subplots(2, 2, width_ratios=(1.2, 1)), ENVIRONMENTS):
        others = {
            name: final_returns(read_cell(runs, env_id, f"c5-{name}"))
            for name in UNPENALISED_COLOURS
        }
        penalty = {beta: read_penalty_runs(runs, env_id, beta) for beta in BETAS}
        rows += environment_rows(env_id, others, penalty)
        draw_finals(axes[0], others, penalty)
        draw_courses(axes[1], penalty)
        for ax in axes:
            ax.set_title(env_id)
        clip_finals.append(others["clip"])
        for beta in BETAS:
            penalty_finals[beta].append(penalty[beta].finals)
        slope = with_interval(tenfold, *[penalty[beta].finals for beta in BETAS])
        slopes.append(f"{env_id} {slope}")
    for beta in BETAS:
        chance = with_interval(probability_of_improvement, *clip_finals, *penalty_finals[beta])
        rows.append(["both", f"KL, β₀ = {beta:g}", "", "", chance])
    draw_legend(figure)
    text = f"""{markdown_table(rows)}

Final return: over the last tenth of training, mean of the seeds with its 95 % bootstrap interval.
Updates to meet: until β is within a factor of 2 of that of the same seed's run from β₀ = 1, median
of the seeds. P: the chance that a seed with the clip ends above one with this constraint. What a
tenfold β₀ adds to the final return: {"; ".join(slopes)}.
"""
    return figure, text
