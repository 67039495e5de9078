"""C10: environment steps and seconds that on-policy and off-policy actor-critics take to reach a return."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from ..compare import Group
from ..plots import AXES, COLOURS, draw, legend
from ..readers import RETURN_TAGS, Curve, read_folder
from ..stats import BINS, crossing
from . import censored, estimate, markdown, median, number, read_runs
from .baselines import ratio

ALGORITHMS = ("a2c", "ppo_clip", "ppo_kl", "ddpg", "sac")
OFF_POLICY = ("ddpg", "sac")
LEVELS = {"HalfCheetah-v4": (1000, 2000, 3000, 4000, 5000), "Pendulum-v1": (-400, -300, -200)}


def read_group(runs: Path, env_id: str, name: str) -> Group:
    """The cell's runs as `benchmarks compare` has them, called as their script is."""
    curves = []
    for run in read_runs(runs, env_id, f"c10-{name}"):
        points = read_folder(run.dir, RETURN_TAGS)
        curves.append(Curve(env_id, name, run.summary["seed"], *points, run.dir))
    group = Group(env_id, name, curves, None)
    group.seconds = np.median([np.interp(group.steps, c.step, c.seconds) for c in curves], axis=0)  # one may have stood
    return group


def reached(group: Group, level: float) -> dict[str, tuple[np.ndarray, float]]:
    """Steps and seconds after which each run has reached a return, (seeds,), infinite if it never does.

    With each the limit beyond which that is not known: a run that never does was no longer than that.
    """
    steps = np.array([crossing(values, level) for values in group.values]) * group.end / BINS
    seconds = [np.interp(at, c.step, c.seconds) if at < np.inf else np.inf for at, c in zip(steps, group.curves)]
    ends = [c.seconds[-1] for c, at in zip(group.curves, steps) if at == np.inf]
    return {"steps": (steps, group.end), "seconds": (np.array(seconds), min(ends, default=np.inf))}


def times(groups: list[Group], level: float, x: str) -> str:
    """Steps or seconds to a return of the best on-policy algorithm over those of the best off-policy one, by medians.

    A lower bound, "≥", if no on-policy algorithm's median is known, a dash if no off-policy one's is.
    """
    best = []
    for off_policy in (False, True):
        found = [reached(g, level)[x] for g in groups if (g.algorithm in OFF_POLICY) == off_policy]
        best.append(min(found, key=lambda values: (median(values[0]), values[1])))
    unknown_on, unknown_off = (median(values) == np.inf for values, _ in best)
    if unknown_off:
        return "–"
    on, off = (np.minimum(*values) for values in best)
    least = "≥ " if unknown_on else ""
    return least + estimate(ratio, on, off)


def c10(runs: Path) -> tuple[Figure, str]:
    figure = Figure(figsize=(9.6, 6.6), dpi=110, layout="constrained")
    tables = {x: [["environment", "return", *ALGORITHMS, "best on- over best off-policy"]] for x in AXES}
    for axes, (env_id, levels) in zip(figure.subplots(2, 2, sharey="row"), LEVELS.items()):
        groups = [read_group(runs, env_id, name) for name in ALGORITHMS]
        for ax, (x, table) in zip(axes, tables.items()):
            draw(ax, groups, COLOURS, x)
            ax.set_title(f"{env_id}, {len(groups[0].seeds)} seeds", fontsize=10)
            if x == "seconds":
                ax.set(xscale="log", xlim=(1, None))
                ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
            for level in levels:
                cells = []
                for group in groups:
                    values, limit = reached(group, level)[x]
                    missing = f", {np.isfinite(values).sum()} of {len(values)}" * bool(np.isinf(values).any())
                    cells.append(censored(values, limit)[1] + missing)
                table.append([env_id, number(level), *cells, times(groups, level, x)])
        axes[0].set_ylabel("episode return")
    legend(figure)
    figure.suptitle("Interquartile mean of the seeds, 95 % interval")
    text = f"""Environment steps to a return

{markdown(tables["steps"])}

Seconds to it

{markdown(tables["seconds"])}

Medians of the seeds with 95 % bootstrap intervals; reached is where the mean return over the last twentieth of the
run's steps first reaches it. Where not every seed did so it is said how many did; the others count as if they had at
their end, so that what bears a `>` is a lower bound. Last column: the smallest median of the on-policy algorithms over
the smallest of the off-policy ones. The seconds hold whatever else ran on the machine.
"""
    return figure, text
