"""C7: how much small details of PPO-clip change the final return, and how much the objective."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..plots import draw_legend
from ..stats import bootstrap_interval
from ..tables import format_number, markdown_table
from .common import (
    BLUE,
    VERMILION,
    final_returns,
    mean_with_interval,
    read_cell,
    with_interval,
)

ENVIRONMENTS = ("HalfCheetah-v4", "Hopper-v4")
CHANGES = {  # to the cell c5-clip: the label of each cell
    "details": {
        "c7-no-norm-reward": "rewards not scaled",
        "c7-no-norm-obs": "observations not scaled",
        "c7-no-anneal-lr": "step size not annealed",
        "c7-norm-adv": "advantages normalised",
    },
    "objectives": {
        "c5-kl-1": "KL penalty, not clip",
        "c5-none": "neither clip nor penalty",
    },
}
KIND_COLOURS = {"details": BLUE, "objectives": VERMILION}


def relative_change(values: np.ndarray, base: np.ndarray, axis: int = -1) -> np.ndarray:
    """By how many percent the mean of `values` differs from the mean of `base`."""
    return 100 * (values.mean(axis) / base.mean(axis) - 1)


def mean_size(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean absolute change of several samples; the last sample is their base."""
    base = samples[-1]
    sizes = [np.abs(relative_change(values, base, axis)) for values in samples[:-1]]
    return np.mean(sizes, axis=0)


def draw_change(ax, final: np.ndarray, base: np.ndarray, level: int, kind: str) -> None:
    """The change of the final returns (seeds,), its interval, and the seeds, at a level."""
    colour = KIND_COLOURS[kind]
    middle = relative_change(final, base)
    low, high = bootstrap_interval(relative_change, final, base)
    bars = [[middle - low], [high - middle]]
    ax.errorbar(middle, level, xerr=bars, fmt="o", color=colour, capsize=4, label=kind)
    seeds = 100 * (final / base.mean() - 1)
    heights = np.full(len(seeds), level + 0.25)
    ax.plot(seeds, heights, "o", color=colour, markersize=3, alpha=0.6)


def study(runs: Path) -> tuple[Figure, str]:
    figure = Figure(figsize=(9.6, 4.2), dpi=110, layout="constrained")
    rows = [["environment", "change", "final return", "difference, %"]]
    sizes = [["environment", "changes", "mean absolute difference, %", "largest"]]
    labels = [label for changes in CHANGES.values() for label in changes.values()]
    for ax, env_id in zip(figure.subplots(1, 2, sharey=True), ENVIRONMENTS):
        base = final_returns(read_cell(runs, env_id, "c5-clip"))
        rows.append([env_id, "none: the clip", mean_with_interval(base), "–"])
        for kind, changes in CHANGES.items():
            finals = []
            for cell, label in changes.items():
                final = final_returns(read_cell(runs, env_id, cell))
                difference = with_interval(relative_change, final, base)
                rows.append([env_id, label, mean_with_interval(final), difference])
                draw_change(ax, final, base, labels.index(label), kind)
                finals.append(final)
            mean = with_interval(mean_size, *finals, base)
            largest = max((relative_change(final, base) for final in finals), key=abs)
            sizes.append([env_id, kind, mean, format_number(largest)])
        ax.axvline(0, color="black", linewidth=1)
        ax.set_xlabel("change of the final return, %")
        ax.set_title(env_id)
    figure.axes[0].set_yticks(range(len(labels)), labels)
    figure.axes[0].invert_yaxis()
    draw_legend(figure)
    text = f"""{markdown_table(rows)}

Final return: over the last tenth of training, mean of the seeds with its 95 % bootstrap interval.
Difference: to the clip as it is, in percent of that; its interval resamples both.

{markdown_table(sizes)}

Mean absolute differences hold the noise of the seeds, too.
"""
    return figure, text
