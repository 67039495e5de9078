"""Learning curves as pictures: the interquartile mean of the seeds, shaded with its 95 % bootstrap interval."""

import math
import re
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

# Okabe and Ito's colours, which the colour-blind can tell apart; grey in place of their yellow, too pale for a line.
COLOURS = {
    "reinforce": "#8C8C8C",
    "reinforce_baseline": "#CC79A7",
    "a2c": "#009E73",
    "ppo_clip": "#0072B2",
    "ppo_kl": "#56B4E9",
    "ddpg": "#E69F00",
    "sac": "#D55E00",
    "dagger": "#000000",
}
OTHERS = ("#6A3D9A", "#8B4513", "#008080", "#B22222")  # for whatever else is compared, in turn
AXES = {"steps": "environment steps", "seconds": "wall-clock seconds"}
FONT = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}


def colours(groups: list) -> dict[str, str]:
    """A colour for each algorithm: a script's own; a reference's is that of the script whose algorithm it is."""
    found, others = {}, iter(OTHERS * len(groups))
    for group in groups:
        base = group.algorithm.split("-", 1)[-1] if group.reference else group.algorithm
        kin = next((name for name in COLOURS if name == base or group.reference and name.startswith(base)), None)
        if group.algorithm not in found:
            found[group.algorithm] = COLOURS[kin] if kin else next(others)
    return found


def limits(groups: list, x: str) -> tuple[float, float]:
    """Ends of an environment's axis of `x`, "steps" or "seconds": linear from 0, or logarithmic from more than that.

    Logarithmic where on a linear axis the short runs would be a stroke at its left end.
    """
    ends = [getattr(group, x)[-1] * group.end / group.steps[-1] for group in groups]
    return min(ends) / 30 if max(ends) > 5 * min(ends) else 0, max(ends)


def draw(ax, groups: list, colour: dict[str, str], x: str) -> None:
    """An environment's curves over each group's `x`: "steps" or "seconds", (BINS,); from the bin all have begun by."""
    for group in groups:
        begun = slice(group.first, None)
        at = getattr(group, x)[begun]
        style = {"color": colour[group.algorithm], "label": group.algorithm}
        ax.plot(at, group.curve[begun], linewidth=1.6, linestyle="--" if group.reference else "-", **style)
        if group.band is not None:
            ax.fill_between(at, *group.band[:, begun], color=style["color"], alpha=0.18, linewidth=0)
    thresholds, (low, high) = {group.threshold for group in groups}, ax.get_ylim()
    if len(thresholds) == 1 and low < (max(thresholds) or -math.inf) < high:
        ax.axhline(*thresholds, color="black", linewidth=0.8, linestyle=":", label="threshold")
    start, end = limits(groups, x)
    if start:
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(start, end)
    ax.xaxis.set_major_formatter(EngFormatter(sep=" ") if x == "steps" else StrMethodFormatter("{x:,g}"))
    ax.set_xlabel(AXES[x])


def legend(figure: Figure) -> None:
    """One for all panels, below them."""
    entries = {label: line for ax in figure.axes for line, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=min(len(entries), 6), frameon=False)


def picture_name(env_id: str) -> str:
    return re.sub("[:/]", "-", env_id) + ".png"


def pictures(by_env: dict[str, list], ylabel: str, out: Path) -> None:
    """One picture an environment, by steps and by wall-clock, and an overview of them all."""
    colour = colours([group for groups in by_env.values() for group in groups])
    with matplotlib.rc_context(FONT):
        for env_id, groups in by_env.items():
            figure = Figure(figsize=(9.6, 4.2), dpi=110, layout="constrained")
            for ax, x in zip(figure.subplots(1, 2, sharey=True), AXES):
                draw(ax, groups, colour, x)
            figure.axes[0].set_ylabel(ylabel)
            figure.suptitle(env_id)
            legend(figure)
            figure.savefig(out / picture_name(env_id))
        columns = min(len(by_env), 2 if len(by_env) in (2, 4) else 3)
        rows = math.ceil(len(by_env) / columns)
        figure = Figure(figsize=(9.6, 2.9 * rows + 0.7), dpi=110, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax, (env_id, groups) in zip(axes.flat, by_env.items()):
            draw(ax, groups, colour, "steps")
            ax.set_title(env_id, fontsize=10)
        for ax in axes.flat[len(by_env) :]:
            ax.remove()
        figure.supylabel(ylabel, fontsize=10)
        legend(figure)
        figure.savefig(out / "overview.png")
