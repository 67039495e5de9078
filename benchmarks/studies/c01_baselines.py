"""C1: how many environment steps causality and a baseline save REINFORCE, on CartPole-v1."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from scipy.stats import binomtest

from ..plots import draw_legend
from ..stats import upper_median
from ..tables import format_number, markdown_table
from .common import (
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    VERMILION,
    FinishedRun,
    censored_median,
    ratio_of_medians,
    read_cell,
    with_interval,
)

WEIGHTS = {  # what weighs ∇ log π_θ(a_t|s_t)
    "plain": "R(τ)",
    "causality": "G_t",
    "mean-baseline": "G_t − others' mean",
    "value-baseline": "G_t − V(s_t)",
}
ESTIMATOR_COLOURS = {
    "plain": BLUE,
    "causality": VERMILION,
    "mean-baseline": GREEN,
    "value-baseline": PINK,
}
BUDGET = 1_000_000  # steps of a run that never solved it
BEYOND = 1.25 * BUDGET  # where the picture puts those
STAR = {
    "marker": "*",
    "markersize": 13,
    "color": ORANGE,
    "markeredgecolor": "black",
    "linestyle": "",
}


@dataclass
class LectureRun:
    """The one run that the lecture shows."""

    steps: int
    episodes: int
    seconds: int


FIGURES = ("solved_at_step", "episodes", "wall_s")  # of a run's summary
LECTURE_RUNS = {  # L1
    "plain": LectureRun(800_000, 10_000, 420),
    "mean-baseline": LectureRun(160_000, 800, 80),
}


def solved_at(runs: list[FinishedRun]) -> np.ndarray:
    """Environment steps after which each run had solved it, (seeds,); infinite if never."""
    steps = [run.summary["solved_at_step"] for run in runs]
    return np.array([np.inf if step is None else step for step in steps])


def spent(runs: list[FinishedRun], key: str) -> str:
    """Median of what it took to solve, "episodes" or "wall_s" of the summaries, as a text.

    The counts of runs that never solved it are lower bounds. So nothing is known beyond the
    smallest of them.
    """
    counts = np.array([run.summary[key] for run in runs], dtype=float)
    never = np.isinf(solved_at(runs))
    limit = min(counts[never], default=np.inf)
    return str(censored_median(counts, limit))


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % interval of a probability of which k of n were seen."""
    interval = binomtest(k, n).proportion_ci(method="wilson")
    return interval.low, interval.high


def draw_shares(ax, steps: np.ndarray, name: str) -> None:
    """The share of seeds that have solved it after so many steps; steps (seeds,)."""
    n = len(steps)
    times = np.sort(steps[np.isfinite(steps)])
    solved = len(times)
    x = np.append(times, BUDGET)
    counts = np.append(np.arange(1, solved + 1), solved)
    colour = ESTIMATOR_COLOURS[name]
    # The share is 0 until the first seed has solved it.
    line_x = np.append(x[0], x)
    line_y = np.append(0, counts / n)
    ax.step(line_x, line_y, where="post", color=colour, linewidth=1.8, label=name)
    intervals = np.array([wilson(int(count), n) for count in counts])
    low = intervals[:, 0]
    high = intervals[:, 1]
    ax.fill_between(x, low, high, step="post", color=colour, alpha=0.13, linewidth=0)
    if name in LECTURE_RUNS:
        ax.plot(LECTURE_RUNS[name].steps, 1.04, **STAR)


def draw_seeds(ax, steps: np.ndarray, name: str, level: int) -> None:
    """The steps of each seed (seeds,), their median and its interval, at a level of the picture."""
    colour = ESTIMATOR_COLOURS[name]
    known = censored_median(steps, BUDGET)
    ax.plot(
        [known.low, known.high],
        [level, level],
        color=colour,
        linewidth=5,
        alpha=0.35,
        solid_capstyle="butt",
    )
    ax.plot(known.median, level, "|", color=colour, markersize=22, markeredgewidth=2.5)
    heights = level + np.linspace(-0.22, 0.22, len(steps))
    ax.plot(steps, heights, "o", color=colour, markersize=4)
    never = np.isinf(steps)
    at_the_edge = np.full(never.sum(), BEYOND)
    ax.plot(at_the_edge, heights[never], ">", color=colour, markersize=5, markerfacecolor="none")
    if name in LECTURE_RUNS:
        lecture_steps = LECTURE_RUNS[name].steps
        ax.plot(lecture_steps, level + 0.38, **STAR, label="the lecture's one run")


def draw(steps: dict[str, np.ndarray]) -> Figure:
    """The picture of the steps (seeds,) of each estimator."""
    figure = Figure(figsize=(9.6, 4.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for level, (name, seeds) in enumerate(steps.items()):
        draw_shares(left, seeds, name)
        draw_seeds(right, seeds, name, level)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(EngFormatter(sep=" "))
        ax.set_xlabel("environment steps")
        ax.set_xlim(5e4, 1.45 * BUDGET)
    left.set_ylim(0, 1.09)
    left.set_ylabel("share of seeds that have solved it")
    left.set_title("bands: 95 % Wilson intervals", fontsize=10)
    right.set_yticks(range(len(steps)), [f"{name}\n{WEIGHTS[name]}" for name in steps])
    right.invert_yaxis()
    right.axvline(1.1 * BUDGET, color="black", linewidth=0.8, linestyle=":")
    right.text(BEYOND, 0.45, "never", ha="center", fontsize=8)
    right.set_title("seeds, their median and its 95 % interval", fontsize=10)
    draw_legend(figure)
    figure.suptitle("CartPole-v1, REINFORCE until the last 100 episodes have a mean return of 475")
    return figure


def fewer_steps(plain: np.ndarray, steps: np.ndarray) -> str:
    """The median steps of plain REINFORCE over another estimator's; both are (seeds,)."""
    plain_known = np.minimum(plain, BUDGET)
    known = np.minimum(steps, BUDGET)
    mark = "≥ " if upper_median(plain_known) == BUDGET else ""
    return mark + with_interval(ratio_of_medians, plain_known, known)


def table_row(name: str, runs: list[FinishedRun], plain: np.ndarray) -> list[str]:
    """The row of an estimator; `plain` are the steps (seeds,) of plain REINFORCE."""
    steps = solved_at(runs)
    n = len(runs)
    solved = int(np.isfinite(steps).sum())
    low, high = wilson(solved, n)
    return [
        name,
        WEIGHTS[name],
        f"{solved} of {n}",
        f"{low:.2f} to {high:.2f}",
        str(censored_median(steps, BUDGET)),
        spent(runs, "episodes"),
        spent(runs, "wall_s"),
        "1.00" if name == "plain" else fewer_steps(plain, steps),
    ]


def lecture_row(name: str) -> list[str]:
    """The row of the lecture's run of an estimator."""
    run = LECTURE_RUNS[name]
    fewer = LECTURE_RUNS["plain"].steps / run.steps
    numbers = [format_number(x) for x in (run.steps, run.episodes, run.seconds, fewer)]
    return [f"the lecture's {name}", "", "–", "–", *numbers]


def study(runs: Path) -> tuple[Figure, str]:
    cells = {}
    for name in WEIGHTS:
        cells[name] = read_cell(runs, "CartPole-v1", f"c1-{name}", *FIGURES)
    steps = {name: solved_at(cell) for name, cell in cells.items()}
    head = ["", "weight of a step", "solved", "95 % interval", "steps", "episodes", "seconds"]
    rows = [[*head, "fewer steps than plain"]]
    for name, cell in cells.items():
        rows.append(table_row(name, cell, steps["plain"]))
        if name in LECTURE_RUNS:
            rows.append(lecture_row(name))
    num_seeds = len(cells["plain"])
    text = f"""{markdown_table(rows)}

Medians of {num_seeds} seeds with 95 % bootstrap intervals; that of the share solved is Wilson's. A
seed that has not solved it within {BUDGET:,} steps counts as if it had then. `>`: the median, or
the end of the interval, is of such seeds, and so is a lower bound, as is `≥` of the last column,
the ratio of the median steps. The lecture's figures are of one run each, whose environment and step
size it does not name; its code updates after every episode, these runs after 16.
"""
    return draw(steps), text
