"""C9: whether the errors of behavioural cloning and of DAgger compound with the horizon, on CartPole-v1."""

import itertools
from pathlib import Path

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

import dagger

from ..plots import legend
from . import COLOURS, errorbars, markdown, number, read_runs, spread

LABELS = (50, 100, 200, 500, 1000)
DRAWN = 200  # labels of the policies whose shortfall is drawn
ALGORITHMS = {"cloning": COLOURS[1], "dagger": COLOURS[0]}
HORIZONS = np.unique(np.geomspace(20, 2000, 41).round())  # (H,) steps
TRAINED = 500  # the time limit of CartPole-v1
EPISODES = 200
SEED = dagger.derive_seed(9)


def envs(limit: int) -> gym.vector.VectorEnv:
    """EPISODES parallel CartPoles whose episodes are truncated after `limit` steps."""
    return gym.make_vec("CartPole-v1", EPISODES, max_episode_steps=limit)


def shortfall(returns: np.ndarray) -> np.ndarray:
    """H − E[return up to H] at each of HORIZONS, (H,), of the returns (N,) of episodes up to the longest of them.

    A step of CartPole is worth 1 until the pole falls, so that the best return up to H is H.
    """
    return HORIZONS - np.minimum(returns, HORIZONS[:, None]).mean(1)


def slope(losses: np.ndarray) -> float:
    """k of the least-squares fit of losses ∝ H^k (H,), where there are any; NaN of fewer than two."""
    some = losses > 0
    return np.polyfit(np.log(HORIZONS[some]), np.log(losses[some]), 1)[0] if some.sum() > 1 else np.nan


def error_rate(act, driver) -> float:
    """Share of the states that `driver` comes to in which `act` differs from the expert."""
    wrong = []

    def drive(obs: np.ndarray) -> np.ndarray:
        wrong.append(act(obs) != dagger.balance(obs))
        return driver(obs)

    dagger.evaluate(drive, envs(TRAINED), SEED)
    return np.mean(wrong)


def c9(runs: Path) -> tuple[Figure, str]:
    end = int(HORIZONS[-1])
    expert = shortfall(dagger.evaluate(dagger.balance, envs(end), SEED))[-1]
    figure = Figure(figsize=(12.6, 4.2), dpi=110, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    falls = [["labels", "algorithm", "return", f"shortfall at {end:,}", "slope", "seeds that never fell"]]
    errors = [["labels", "algorithm", "where the expert goes, %", "where it goes itself, %", "difference"]]
    points = {algorithm: [] for algorithm in ALGORITHMS}  # of each number of labels, what the pictures show of it
    for labels, algorithm in itertools.product(LABELS, ALGORITHMS):
        group = read_runs(runs, "CartPole-v1", f"c9-{algorithm}-{labels}")
        returns = np.array([run.summary["eval_return_mean"] for run in group])
        acts = [dagger.load_policy(run.dir / "policy.pt") for run in group]
        losses = np.array([shortfall(dagger.evaluate(act, envs(end), SEED)) for act in acts])  # (seeds, H)
        slopes = np.array([slope(loss) for loss in losses])
        theirs, own = np.array([[error_rate(act, driver) for driver in (dagger.balance, act)] for act in acts]).T * 100
        fell = losses[:, -1] > 0
        falls.append([str(labels), algorithm, spread(returns), spread(losses[:, -1])])
        falls[-1] += [spread(slopes[fell]) if fell.any() else "–", f"{(~fell).sum()} of {len(group)}"]
        errors.append([str(labels), algorithm, spread(theirs), spread(own), spread(own - theirs)])
        points[algorithm].append((returns, own - theirs))
        if labels == DRAWN:
            colour, mean = ALGORITHMS[algorithm], losses.mean(0)
            below, above = np.transpose([errorbars(loss) for loss in losses.T])
            middle.plot(HORIZONS, np.where(losses > 0, losses, np.nan).T, color=colour, linewidth=0.6, alpha=0.6)
            middle.plot(HORIZONS, np.where(mean > 0, mean, np.nan), color=colour, linewidth=2.2)
            middle.fill_between(HORIZONS, mean - below, mean + above, color=colour, alpha=0.2, linewidth=0)

    for ax, column in ((left, 0), (right, 1)):
        for side, (algorithm, columns) in zip((0.97, 1.03), points.items()):  # side by side, not one above the other
            values = [point[column] for point in columns]
            bars = np.transpose([errorbars(value) for value in values])
            style = {"color": ALGORITHMS[algorithm], "label": algorithm, "marker": "o", "capsize": 3}
            ax.errorbar(np.multiply(LABELS, side), [value.mean() for value in values], bars, **style)
        ax.set(xscale="log", xlabel="labels of the expert")
        ax.xaxis.set_major_locator(FixedLocator(LABELS))
        ax.xaxis.set_minor_locator(NullLocator())
    left.axhline(TRAINED, color="black", linewidth=1, linestyle=":", label="expert")
    left.set(ylim=(0, None), ylabel="evaluation return")
    left.set_title("return", fontsize=10)
    right.axhline(0, color="black", linewidth=1)
    right.set_ylabel("percentage points")
    right.set_title("wrong actions: own states less the expert's", fontsize=10)
    for power, guided in ((1, "∝ H"), (2, "∝ H²")):
        guide = 0.6 * end * (HORIZONS / end) ** power
        middle.plot(HORIZONS, guide, color="black", linewidth=1, linestyle=":")
        at = len(HORIZONS) // 3
        middle.annotate(guided, (HORIZONS[at], guide[at]), xytext=(0, 4), textcoords="offset points", ha="right")
    middle.set(
        xscale="log", yscale="log", ylim=(0.1, 1.3 * end), xlabel="horizon H, steps", ylabel="H − return up to H"
    )
    middle.set_title(f"shortfall, {DRAWN} labels: seeds and mean", fontsize=10)
    for ax in figure.axes:
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    legend(figure)
    figure.suptitle(f"CartPole-v1, {len(group)} seeds, 95 % intervals")
    text = f"""{markdown(falls)}

Return: of 100 episodes of at most {TRAINED} steps. Shortfall at a horizon H: H less the mean return up to it, over
{EPISODES} episodes; the expert's at {end:,} is {number(expert)}. Slope: of the logarithm of the shortfall against that
of the horizon, from {HORIZONS[0]:.0f} to {end:,} steps where there is a shortfall, of the seeds that ever fell.

{markdown(errors)}

Share of states in which the policy does not do as the expert does: in the states of the expert's episodes of
{TRAINED} steps, and in those of its own; their difference is taken seed by seed.
"""
    return figure, text
