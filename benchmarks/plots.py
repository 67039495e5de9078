"""Learning curves as pictures: the interquartile mean of the seeds and its 95 % interval."""

import itertools
import math
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

from .files import file_name

# Okabe and Ito's colours, which the colour-blind can tell apart.
# Grey is in place of their yellow, which is too pale for a line.
SCRIPT_COLOURS = {
    "reinforce": "#8C8C8C",
    "reinforce_baseline": "#CC79A7",
    "a2c": "#009E73",
    "ppo_clip": "#0072B2",
    "ppo_kl": "#56B4E9",
    "trpo": "#6A3D9A",
    "ddpg": "#E69F00",
    "td3": "#B22222",
    "sac": "#D55E00",
    "dagger": "#000000",
}
OTHER_COLOURS = ("#8B4513", "#008080", "#556B2F", "#FF69B4")  # for other algorithms, in turn
AXES = {"steps": "environment steps", "seconds": "wall-clock seconds"}
FONT = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}
OVERVIEW = "overview.png"
WIDTH = 9.6  # inches
DPI = 110


def script_colour(algorithm: str, reference: bool) -> str | None:
    """The colour of the script that implements an algorithm; None if no script does.

    A reference is called <source>-<algorithm>, where ppo stands for ppo_clip.
    """
    if not reference:
        return SCRIPT_COLOURS.get(algorithm)
    name = algorithm.split("-", 1)[-1]
    for script, colour in SCRIPT_COLOURS.items():
        if script.startswith(name):
            return colour
    return None


def algorithm_colours(groups: list) -> dict[str, str]:
    """A colour for each algorithm: its script's, or else the next of the others."""
    others = itertools.cycle(OTHER_COLOURS)
    colours = {}
    for group in groups:
        if group.algorithm not in colours:
            own = script_colour(group.algorithm, group.reference)
            colours[group.algorithm] = own or next(others)
    return colours


def axis_limits(groups: list, axis: str) -> tuple[float, float]:
    """Start and end of an environment's axis, "steps" or "seconds".

    The start is 0 for a linear axis, and greater for a logarithmic one. The axis is logarithmic if
    the short runs would otherwise be a stroke at its left end.
    """
    lengths = [group.length(axis) for group in groups]
    shortest = min(lengths)
    longest = max(lengths)
    if longest > 5 * shortest:
        return shortest / 30, longest
    return 0, longest


def shared_threshold(groups: list) -> float | None:
    """The threshold of all groups; None if they differ or have none."""
    thresholds = {group.threshold for group in groups}
    return thresholds.pop() if len(thresholds) == 1 else None


def draw_curves(ax, groups: list, colours: dict[str, str], axis: str) -> None:
    """Draw an environment's curves over "steps" or "seconds".

    A curve starts at the bin in which all of its runs have begun. A single point is a dot.
    """
    for group in groups:
        begun = slice(group.first_bin, None)
        x = group.axis(axis)[begun]
        colour = colours[group.algorithm]
        ax.plot(
            x,
            group.iqm_curve[begun],
            color=colour,
            label=group.algorithm,
            linewidth=1.6,
            linestyle="--" if group.reference else "-",
            marker="o" if len(x) == 1 else None,
            markersize=4,
        )
        if group.band is not None:
            low, high = group.band[:, begun]
            ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    threshold = shared_threshold(groups)
    bottom, top = ax.get_ylim()
    if threshold is not None and bottom < threshold < top:
        ax.axhline(threshold, color="black", linewidth=0.8, linestyle=":", label="threshold")
    start, end = axis_limits(groups, axis)
    if start > 0:
        ax.set_xscale("log")
        ax.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(start, end)
    if axis == "steps":
        ax.xaxis.set_major_formatter(EngFormatter(sep=" "))
    else:
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    ax.set_xlabel(AXES[axis])


def draw_legend(figure: Figure) -> None:
    """Draw one legend for all panels, below them."""
    entries = {}
    for ax in figure.axes:
        handles, labels = ax.get_legend_handles_labels()
        entries.update(zip(labels, handles))
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=min(len(entries), 6),
        frameon=False,
    )


def picture_names(env_ids: list[str]) -> dict[str, str]:
    """The file's name of each environment's picture.

    A name that is taken gets a number. Not every system tells capital letters from small ones.
    """
    names = {}
    taken = {OVERVIEW.casefold()}
    for env_id in env_ids:
        name = f"{file_name(env_id)}.png"
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{file_name(env_id)}-{number}.png"
        taken.add(name.casefold())
        names[env_id] = name
    return names


def draw_pictures(by_env: dict[str, list], ylabel: str, out: Path) -> None:
    """Write a picture an environment, by steps and by wall-clock, and an overview of them all."""
    all_groups = [group for groups in by_env.values() for group in groups]
    colours = algorithm_colours(all_groups)
    names = picture_names(list(by_env))
    names_are_no_formulas = {"text.parse_math": False}
    with matplotlib.rc_context({**FONT, **names_are_no_formulas}):
        for env_id, groups in by_env.items():
            figure = draw_environment(env_id, groups, colours, ylabel)
            figure.savefig(out / names[env_id])
        overview = draw_overview(by_env, colours, ylabel)
        overview.savefig(out / OVERVIEW)


def draw_environment(env_id: str, groups: list, colours: dict[str, str], ylabel: str) -> Figure:
    """An environment's curves by steps and by wall-clock."""
    figure = Figure(figsize=(WIDTH, 4.2), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_curves(left, groups, colours, "steps")
    draw_curves(right, groups, colours, "seconds")
    left.set_ylabel(ylabel)
    figure.suptitle(env_id)
    draw_legend(figure)
    return figure


def draw_overview(by_env: dict[str, list], colours: dict[str, str], ylabel: str) -> Figure:
    """All environments' curves by steps."""
    columns = 2 if len(by_env) in (2, 4) else min(len(by_env), 3)
    rows = math.ceil(len(by_env) / columns)
    figure = Figure(figsize=(WIDTH, 2.9 * rows + 0.7), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (env_id, groups) in zip(axes, by_env.items()):
        draw_curves(ax, groups, colours, "steps")
        ax.set_title(env_id, fontsize=10)
    for ax in axes[len(by_env) :]:
        ax.remove()
    figure.supylabel(ylabel, fontsize=10)
    draw_legend(figure)
    return figure
