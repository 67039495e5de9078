"""C6: Table 1 of the PPO paper, three of its settings; Schulman et al. 2017."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..compare import random_returns
from ..plots import draw_legend
from ..stats import bootstrap_interval, probability_of_improvement
from ..tables import format_number, markdown_table
from .common import (
    BLUE,
    GREY,
    ORANGE,
    VERMILION,
    mean_with_interval,
    read_cell,
    with_interval,
)

TASKS = (
    "HalfCheetah",
    "Hopper",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "Reacher",
    "Swimmer",
    "Walker2d",
)
PAPER = {"none": -0.39, "kl": 0.74, "clip": 0.82}  # no constraint; δ = 0.01; ε = 0.2
OBJECTIVE_COLOURS = {"none": GREY, "kl": BLUE, "clip": VERMILION}
STAR = {"color": ORANGE, "markeredgecolor": "black", "markersize": 12}

Scores = dict[str, dict[str, np.ndarray]]
"""scores (seeds,) by task and objective"""


def read_returns(runs: Path, task: str) -> dict[str, np.ndarray]:
    """Mean return over the last 100 episodes of each run of a task, (seeds,), by objective."""
    returns = {}
    for name in OBJECTIVE_COLOURS:
        cell = read_cell(runs, f"{task}-v4", f"c6-{name}", "train_return_last100")
        returns[name] = np.array([run.summary["train_return_last100"] for run in cell])
    return returns


def normalise(returns: dict[str, np.ndarray], random: float, best: float) -> dict[str, np.ndarray]:
    """Scores (seeds,) of each objective's returns (seeds,): `random` becomes 0, `best` 1."""
    scale = best - random
    return {name: (values - random) / scale for name, values in returns.items()}


def mean_over_tasks(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over the tasks of the mean over the seeds; a sample for each task."""
    means = [sample.mean(axis) for sample in samples]
    return np.mean(means, axis=0)


def of_objective(scores: Scores, name: str) -> list[np.ndarray]:
    """The scores (seeds,) of an objective in each task."""
    return [by_objective[name] for by_objective in scores.values()]


def draw_tasks(ax, scores: Scores) -> None:
    """Each task's seeds and their mean, the objectives side by side."""
    for i, (name, colour) in enumerate(OBJECTIVE_COLOURS.items()):
        for task, values in enumerate(of_objective(scores, name)):
            x = task + (i - 1) * 0.25
            beside = np.full(len(values), x)
            ax.plot(beside, values, "o", color=colour, markersize=4, alpha=0.7)
            ax.plot(x, values.mean(), "_", color=colour, markersize=16, markeredgewidth=2.5)
    names = [task.replace("Inverted", "Inverted\n") for task in TASKS]
    ax.set_xticks(range(len(TASKS)), names, fontsize=8)
    ax.set_ylabel("score: 0 is random, 1 the best run")
    ax.set_title("each task: seeds and mean", fontsize=10)


def draw_averages(ax, scores: Scores) -> None:
    """The average of each objective and its interval, beside the paper's."""
    for i, (name, colour) in enumerate(OBJECTIVE_COLOURS.items()):
        samples = of_objective(scores, name)
        middle = mean_over_tasks(*samples)
        low, high = bootstrap_interval(mean_over_tasks, *samples)
        bars = [[middle - low], [high - middle]]
        ax.errorbar(i, middle, bars, fmt="o", color=colour, capsize=4, label=name)
        ax.plot(i + 0.3, PAPER[name], "*", **STAR, label="the paper's")
    ax.set_xticks(range(len(OBJECTIVE_COLOURS)), OBJECTIVE_COLOURS)
    ax.set_xlim(-0.5, 2.6)
    ax.set_title("average, 95 % interval", fontsize=10)


def draw(scores: Scores) -> Figure:
    figure = Figure(figsize=(11, 4.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(4, 1), sharey=True)
    draw_tasks(left, scores)
    draw_averages(right, scores)
    for ax in (left, right):
        ax.axhline(0, color="black", linewidth=0.8)
        ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
    draw_legend(figure)
    return figure


def objective_row(name: str, scores: Scores, scores_by_mean: Scores) -> list[str]:
    """The row of an objective; `scores_by_mean` are scaled by the best mean, not the best run."""
    samples = of_objective(scores, name)
    chance = "–"
    if name != "clip":
        clip = of_objective(scores, "clip")
        chance = with_interval(probability_of_improvement, *clip, *samples)
    return [
        name,
        str(sum(len(sample) for sample in samples)),
        with_interval(mean_over_tasks, *samples),
        with_interval(mean_over_tasks, *of_objective(scores_by_mean, name)),
        format_number(PAPER[name]),
        chance,
    ]


def study(runs: Path) -> tuple[Figure, str]:
    random = random_returns()
    scores = {}
    scores_by_mean = {}
    task_rows = [["task", "random", "best run", *OBJECTIVE_COLOURS]]
    for task in TASKS:
        returns = read_returns(runs, task)
        zero = random[f"{task}-v4"]
        best = max(values.max() for values in returns.values())
        best_mean = max(values.mean() for values in returns.values())
        scores[task] = normalise(returns, zero, best)
        scores_by_mean[task] = normalise(returns, zero, best_mean)
        cells = [mean_with_interval(values) for values in scores[task].values()]
        task_rows.append([task, format_number(zero), format_number(best), *cells])

    rows = [["objective", "runs", "score", "score, best mean = 1", "the paper's"]]
    rows[0].append("P(clip ends higher)")
    for name in OBJECTIVE_COLOURS:
        rows.append(objective_row(name, scores, scores_by_mean))
    text = f"""{markdown_table(rows)}

A run's score is its mean return over the last 100 episodes, shifted and scaled for each task so
that the random policy has 0 and the best run 1; averaged over all runs of all tasks, as in the
paper, with a 95 % bootstrap interval stratified by task, the ends of the scale held fixed. The
fourth column scales by the best mean of an objective instead. P: the chance that a seed with the
clip scores above one with this objective, averaged over the tasks.

{markdown_table(task_rows)}

Of three seeds an interval is no more than their range.
"""
    return draw(scores), text
