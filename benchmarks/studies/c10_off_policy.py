"""C10: environment steps and seconds that on- and off-policy actor-critics take to a return."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from ..files import Damaged
from ..groups import Group
from ..plots import AXES, SCRIPT_COLOURS, draw_curves, draw_legend
from ..readers import RETURN_TAGS, Curve, read_folder
from ..stats import upper_median
from ..tables import format_number, markdown_table
from .common import censored_median, ratio_of_medians, read_cell, with_interval

ON_POLICY = ("a2c", "ppo_clip", "ppo_kl")
OFF_POLICY = ("ddpg", "sac")
ALGORITHMS = ON_POLICY + OFF_POLICY
LEVELS = {
    "HalfCheetah-v4": (1000, 2000, 3000, 4000, 5000),
    "Pendulum-v1": (-400, -300, -200),
}


def read_group(runs: Path, env_id: str, algorithm: str) -> Group:
    """A cell's runs as a group, called as their script is."""
    curves = []
    for run in read_cell(runs, env_id, f"c10-{algorithm}"):
        scalars = read_folder(run.dir, RETURN_TAGS)
        if not scalars.step.size:
            raise Damaged(f"{run.dir}: no {' or '.join(RETURN_TAGS)} in its log")
        curve = Curve(
            env_id=env_id,
            algorithm=algorithm,
            seed=run.summary["seed"],
            step=scalars.step,
            value=scalars.value,
            seconds=scalars.seconds,
            path=run.dir,
        )
        curves.append(curve)
    group = Group(env_id, algorithm, curves)
    # The median, because the machine may have stood still during one of the runs.
    seconds = [np.interp(group.steps, curve.step, curve.seconds) for curve in curves]
    group.seconds = np.median(seconds, axis=0)
    return group


@dataclass
class Taken:
    """What the runs of a group took to a return: steps or seconds."""

    values: np.ndarray
    """(seeds,), infinite if the run never got there"""
    limit: float
    """a run that never got there took more than this"""

    def known(self) -> np.ndarray:
        """The values (seeds,), the limit in place of what is not known."""
        return np.minimum(self.values, self.limit)

    def cell(self) -> str:
        """The median and its interval, and how many runs got there if not all did."""
        text = str(censored_median(self.values, self.limit))
        reached = np.isfinite(self.values).sum()
        if reached < len(self.values):
            text += f", {reached} of {len(self.values)}"
        return text


def taken(group: Group, level: float, axis: str) -> Taken:
    """The "steps" or "seconds" that each run of a group took to a return."""
    steps = group.steps_to(level)
    if axis == "steps":
        return Taken(steps, group.end)
    unreached = [c.seconds[-1] for c, at in zip(group.curves, steps) if np.isinf(at)]
    return Taken(group.seconds_at(steps), min(unreached, default=np.inf))


def best(groups: list[Group], algorithms: tuple[str, ...], level: float, axis: str) -> Taken:
    """What the algorithm with the smallest median took; the smallest limit if none is known."""
    candidates = [taken(g, level, axis) for g in groups if g.algorithm in algorithms]
    return min(candidates, key=lambda taken: (upper_median(taken.values), taken.limit))


def comparison(groups: list[Group], level: float, axis: str) -> str:
    """Steps or seconds to a return of the best on-policy algorithm over the best off-policy one's.

    It is the ratio of the medians. It is a lower bound, "≥", if no on-policy algorithm's median is
    known, and a dash if no off-policy one's is.
    """
    on_policy = best(groups, ON_POLICY, level, axis)
    off_policy = best(groups, OFF_POLICY, level, axis)
    if np.isinf(upper_median(off_policy.values)):
        return "–"
    mark = "≥ " if np.isinf(upper_median(on_policy.values)) else ""
    return mark + with_interval(ratio_of_medians, on_policy.known(), off_policy.known())


def draw_panel(ax, groups: list[Group], axis: str) -> None:
    """An environment's learning curves over "steps" or "seconds"."""
    draw_curves(ax, groups, SCRIPT_COLOURS, axis)
    ax.set_title(f"{groups[0].env_id}, {len(groups[0].seeds)} seeds", fontsize=10)
    if axis == "seconds":
        ax.set_xscale("log")
        ax.set_xlim(1, None)
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def study(runs: Path) -> tuple[Figure, str]:
    figure = Figure(figsize=(9.6, 6.6), dpi=110, layout="constrained")
    head = ["environment", "return", *ALGORITHMS, "best on- over best off-policy"]
    tables = {axis: [head] for axis in AXES}
    for panels, (env_id, levels) in zip(figure.subplots(2, 2, sharey="row"), LEVELS.items()):
        groups = [read_group(runs, env_id, algorithm) for algorithm in ALGORITHMS]
        for ax, axis in zip(panels, AXES):
            draw_panel(ax, groups, axis)
            for level in levels:
                cells = [taken(group, level, axis).cell() for group in groups]
                ratio = comparison(groups, level, axis)
                tables[axis].append([env_id, format_number(level), *cells, ratio])
        panels[0].set_ylabel("episode return")
    draw_legend(figure)
    figure.suptitle("Interquartile mean of the seeds, 95 % interval")
    text = f"""Environment steps to a return

{markdown_table(tables["steps"])}

Seconds to it

{markdown_table(tables["seconds"])}

Medians of the seeds with 95 % bootstrap intervals; reached is where the mean return over the last
twentieth of the run's steps first reaches it. Where not every seed did so it is said how many did;
the others count as if they had at their end, so that what bears a `>` is a lower bound. Last
column: the smallest median of the on-policy algorithms over the smallest of the off-policy ones.
The seconds hold whatever else ran on the machine.
"""
    return figure, text
