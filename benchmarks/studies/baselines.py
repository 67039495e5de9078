"""C1: how many environment steps causality and a baseline save REINFORCE, on CartPole-v1."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from scipy.stats import binomtest

from ..plots import legend
from . import COLOURS, Run, censored, estimate, markdown, median, number, read_runs

ESTIMATORS = {  # what weighs ∇ log π_θ(a_t|s_t)
    "plain": "R(τ)",
    "causality": "G_t",
    "mean-baseline": "G_t − others' mean",
    "value-baseline": "G_t − V(s_t)",
}
LECTURED = {"plain": (800_000, 10_000, 420), "mean-baseline": (160_000, 800, 80)}  # L1: steps, episodes, seconds
BUDGET = 1_000_000  # steps of a run that never solved it
BEYOND = 1.25 * BUDGET  # where the picture puts those


def solved(runs: list[Run]) -> np.ndarray:
    """Environment steps after which each run had solved it, (seeds,); infinite if never."""
    steps = [run.summary["solved_at_step"] for run in runs]
    return np.array([np.inf if step is None else step for step in steps])


def spent(runs: list[Run], key: str) -> str:
    """Median of a count of the summaries, "episodes" or "wall_s", of what it took to solve; as a text, see `censored`.

    Of runs that had not solved it by then no more is known than the smallest such count.
    """
    never = ~np.isfinite(solved(runs))
    count = np.array([run.summary[key] for run in runs], dtype=float)
    return censored(count, min(count[never], default=np.inf))[1]


def wilson(k: int, n: int) -> tuple[float, float]:
    """95 % interval of a probability of which k of n were seen."""
    return tuple(binomtest(k, n).proportion_ci(method="wilson"))


def ratio(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Of the medians."""
    return median(x, axis) / median(y, axis)


def c1(runs: Path) -> tuple[Figure, str]:
    by_name = {name: read_runs(runs, "CartPole-v1", f"c1-{name}") for name in ESTIMATORS}
    rows = [["", "weight of a step", "solved", "95 % interval", "steps", "episodes", "seconds"]]
    rows[0].append("fewer steps than plain")
    figure = Figure(figsize=(9.6, 4.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    plain = np.minimum(solved(by_name["plain"]), BUDGET)
    for i, (name, group) in enumerate(by_name.items()):
        steps, colour = solved(group), COLOURS[i]
        n, k = len(group), int(np.isfinite(steps).sum())
        (middle, low, high), text = censored(steps, BUDGET)
        rows.append([name, ESTIMATORS[name], f"{k} of {n}", "{:.2f} to {:.2f}".format(*wilson(k, n)), text])
        rows[-1] += [spent(group, "episodes"), spent(group, "wall_s")]
        least = "≥ " if median(plain) == BUDGET else ""
        fewer = least + estimate(ratio, plain, np.minimum(steps, BUDGET))
        rows[-1].append("1.00" if name == "plain" else fewer)

        x = [*np.sort(steps)[:k], BUDGET]
        share = [*range(1, k + 1), k]
        left.step([x[0], *x], [0, *np.divide(share, n)], where="post", color=colour, linewidth=1.8, label=name)
        band = np.transpose([wilson(seeds, n) for seeds in share])
        left.fill_between(x, *band, step="post", color=colour, alpha=0.13, linewidth=0)

        right.plot([low, high], [i, i], color=colour, linewidth=5, alpha=0.35, solid_capstyle="butt")
        right.plot(middle, i, "|", color=colour, markersize=22, markeredgewidth=2.5)
        jitter = i + np.linspace(-0.22, 0.22, n)
        right.plot(steps, jitter, "o", color=colour, markersize=4)
        never = ~np.isfinite(steps)
        right.plot(np.full(never.sum(), BEYOND), jitter[never], ">", color=colour, markersize=5, markerfacecolor="none")
        if name in LECTURED:
            star = {"marker": "*", "markersize": 13, "color": COLOURS[4], "markeredgecolor": "black", "linestyle": ""}
            right.plot(LECTURED[name][0], i + 0.38, **star, label="the lecture's one run")
            left.plot(LECTURED[name][0], 1.04, **star)
            lectured = [*map(number, LECTURED[name]), number(LECTURED["plain"][0] / LECTURED[name][0])]
            rows.append([f"the lecture's {name}", "", "–", "–", *lectured])

    for ax in (left, right):
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(EngFormatter(sep=" "))
        ax.set_xlabel("environment steps")
        ax.set_xlim(5e4, 1.45 * BUDGET)
    left.set(ylim=(0, 1.09), ylabel="share of seeds that have solved it")
    right.set_yticks(range(len(by_name)), [f"{name}\n{ESTIMATORS[name]}" for name in by_name])
    right.invert_yaxis()
    right.axvline(1.1 * BUDGET, color="black", linewidth=0.8, linestyle=":")
    right.text(BEYOND, 0.45, "never", ha="center", fontsize=8)
    right.set_title("seeds, their median and its 95 % interval", fontsize=10)
    left.set_title("bands: 95 % Wilson intervals", fontsize=10)
    legend(figure)
    figure.suptitle("CartPole-v1, REINFORCE until the last 100 episodes have a mean return of 475")
    text = f"""{markdown(rows)}

Medians of {n} seeds with 95 % bootstrap intervals; that of the share solved is Wilson's. A seed that has not solved it
within {BUDGET:,} steps counts as if it had then. `>`: the median, or the end of the interval, is of such seeds, and so
is a lower bound, as is `≥` of the last column, the ratio of the median steps. The lecture's figures are of one run
each, whose environment and step size it does not name; its code updates after every episode, these runs after 16.
"""
    return figure, text
