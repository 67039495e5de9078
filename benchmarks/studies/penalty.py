"""C5 and C6: PPO's clip against its KL penalty; what the first β changes; Table 1 of the PPO paper."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..compare import RANDOM
from ..plots import legend
from ..readers import read_folder
from ..stats import improvement, interval
from . import COLOURS, Run, censored, errorbars, estimate, markdown, number, read_runs, spread

ENVIRONMENTS = ("HalfCheetah-v4", "Hopper-v4")
BETAS = (0.1, 1, 10, 100)  # β₀
TASKS = ("HalfCheetah", "Hopper", "InvertedDoublePendulum", "InvertedPendulum", "Reacher", "Swimmer", "Walker2d")
PAPER = {"none": -0.39, "kl": 0.74, "clip": 0.82}  # Schulman et al. 2017, table 1: no constraint, δ = 0.01, ε = 0.2
OBJECTIVES = {"none": COLOURS[6], "kl": COLOURS[0], "clip": COLOURS[1]}


def betas(run: Run) -> np.ndarray:
    """β of each update of a run of ppo_kl.py, (updates,)."""
    return read_folder(run.dir, ("losses/kl_coef",))[1]


def updates_to_meet(beta: np.ndarray, other: np.ndarray) -> float:
    """Updates until two courses of β, (updates,) each, are within a factor of 2 for the first time; inf if never."""
    length = min(len(beta), len(other))
    met = np.flatnonzero(np.abs(np.log2(beta[:length] / other[:length])) <= 1)
    return met[0] if met.size else np.inf


def tenfold(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """What a tenfold β₀ adds to the mean of the samples, one of each of BETAS, by least squares."""
    x = np.log10(BETAS) - np.log10(BETAS).mean()
    return sum(weight * sample.mean(axis) for weight, sample in zip(x / (x @ x), samples))


def c5(runs: Path) -> tuple[Figure, str]:
    figure = Figure(figsize=(9.6, 6.6), dpi=110, layout="constrained")
    rows = [["environment", "constraint", "final return", "updates to meet β₀ = 1", "P(clip ends higher)"]]
    slopes, pairs = [], {beta: ([], []) for beta in BETAS}
    for axes, env_id in zip(figure.subplots(2, 2, width_ratios=(1.2, 1)), ENVIRONMENTS):
        kl = {beta: read_runs(runs, env_id, f"c5-kl-{beta}") for beta in BETAS}
        finals = {beta: np.array([run.final for run in kl[beta]]) for beta in BETAS}
        others = {name: read_runs(runs, env_id, f"c5-{name}") for name in ("none", "clip")}
        others = {name: np.array([run.final for run in group]) for name, group in others.items()}
        courses = {beta: [betas(run) for run in kl[beta]] for beta in BETAS}

        left, right = axes
        for name, final in others.items():
            low, high = interval(np.mean, final)
            left.axhspan(low, high, color=OBJECTIVES[name], alpha=0.2, linewidth=0)
            left.axhline(final.mean(), color=OBJECTIVES[name], linewidth=1.8, label=name)
            chance = "–" if name == "clip" else estimate(improvement, others["clip"], final)
            rows.append([env_id, name, spread(final), "–", chance])
        for i, (beta, final) in enumerate(finals.items()):
            colour = COLOURS[(0, 2, 3, 4)[i]]
            left.errorbar(beta, final.mean(), errorbars(final)[:, None], fmt="o", color=colour, capsize=3)
            left.plot(np.full(len(final), beta * 1.12), final, "o", color=colour, markersize=3, alpha=0.6)
            met = [updates_to_meet(*pair) for pair in zip(courses[beta], courses[1])]
            rows.append([env_id, f"KL, β₀ = {beta:g}", spread(final)])
            rows[-1].append("–" if beta == 1 else censored(met, min(map(len, courses[beta])))[1])
            rows[-1].append(estimate(improvement, others["clip"], final))
            pairs[beta][0].append(others["clip"])
            pairs[beta][1].append(final)
            for j, course in enumerate(courses[beta]):
                right.plot(course, color=colour, linewidth=0.9, alpha=0.8, label=None if j else f"KL, β₀ = {beta:g}")
        slopes.append(f"{env_id} {estimate(tenfold, *finals.values())}")
        left.set(xscale="log", xlabel="β₀", ylabel="final return", title=env_id)
        right.set(yscale="log", xlabel="updates", ylabel="β", title=env_id)
    for beta, (clip, final) in pairs.items():
        rows.append(["both", f"KL, β₀ = {beta:g}", "", "", estimate(improvement, *clip, *final)])
    legend(figure)
    text = f"""{markdown(rows)}

Final return: over the last tenth of training, mean of the seeds with its 95 % bootstrap interval. Updates to meet:
until β is within a factor of 2 of that of the same seed's run from β₀ = 1, median of the seeds. P: the chance that a
seed with the clip ends above one with this constraint. What a tenfold β₀ adds to the final return:
{"; ".join(slopes)}.
"""
    return figure, text


def random_return(env_id: str) -> float:
    """Mean return of the random policy."""
    with RANDOM.open(newline="") as file:
        return next(float(row["mean"]) for row in csv.DictReader(file) if row["env_id"] == env_id)


def normalise(returns: dict[str, np.ndarray], random: float, best: float) -> dict[str, np.ndarray]:
    """Scores (seeds,) of each objective's returns (seeds,): `random` becomes 0, `best` 1."""
    return {name: (values - random) / (best - random) for name, values in returns.items()}


def average(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over tasks of the mean over their seeds."""
    return np.mean([sample.mean(axis) for sample in samples], axis=0)


def c6(runs: Path) -> tuple[Figure, str]:
    tasks, by_mean = {}, {}
    lines = [["task", "random", "best run", *OBJECTIVES]]
    for task in TASKS:
        env_id = f"{task}-v4"
        returns = {}
        for name in OBJECTIVES:
            group = read_runs(runs, env_id, f"c6-{name}")
            returns[name] = np.array([run.summary["train_return_last100"] for run in group])
        random, best = random_return(env_id), max(values.max() for values in returns.values())
        tasks[task] = normalise(returns, random, best)
        by_mean[task] = normalise(returns, random, max(values.mean() for values in returns.values()))
        lines.append([task, number(random), number(best), *map(spread, tasks[task].values())])

    rows = [["objective", "runs", "score", "score, best mean = 1", "the paper's", "P(clip ends higher)"]]
    figure = Figure(figsize=(11, 4.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(4, 1), sharey=True)
    for i, (name, colour) in enumerate(OBJECTIVES.items()):
        strata = [scores[name] for scores in tasks.values()]
        clip = [scores["clip"] for scores in tasks.values()]
        rows.append([name, str(sum(map(len, strata))), estimate(average, *strata)])
        rows[-1] += [estimate(average, *(scores[name] for scores in by_mean.values())), number(PAPER[name])]
        rows[-1].append("–" if name == "clip" else estimate(improvement, *clip, *strata))
        for x, scores in enumerate(strata):
            at = x + (i - 1) * 0.25
            left.plot(np.full(len(scores), at), scores, "o", color=colour, markersize=4, alpha=0.7)
            left.plot(at, scores.mean(), "_", color=colour, markersize=16, markeredgewidth=2.5)
        low, high = interval(average, *strata)
        bars = [[average(*strata) - low], [high - average(*strata)]]
        right.errorbar(i, average(*strata), bars, fmt="o", color=colour, capsize=4, label=name)
        star = {"color": COLOURS[4], "markeredgecolor": "black", "markersize": 12}
        right.plot(i + 0.3, PAPER[name], "*", **star, label="the paper's")
    for ax in (left, right):
        ax.axhline(0, color="black", linewidth=0.8)
        ax.axhline(1, color="black", linewidth=0.8, linestyle=":")
    left.set_xticks(range(len(TASKS)), [task.replace("Inverted", "Inverted\n") for task in TASKS], fontsize=8)
    left.set_ylabel("score: 0 is random, 1 the best run")
    left.set_title("each task: seeds and mean", fontsize=10)
    right.set_xticks(range(len(OBJECTIVES)), OBJECTIVES)
    right.set_xlim(-0.5, 2.6)
    right.set_title("average, 95 % interval", fontsize=10)
    legend(figure)
    text = f"""{markdown(rows)}

A run's score is its mean return over the last 100 episodes, shifted and scaled for each task so that the random policy
has 0 and the best run 1; averaged over all runs of all tasks, as in the paper, with a 95 % bootstrap interval
stratified by task, the ends of the scale held fixed. The fourth column scales by the best mean of an objective instead.
P: the chance that a seed with the clip scores above one with this objective, averaged over the tasks.

{markdown(lines)}

Of three seeds an interval is no more than their range.
"""
    return figure, text
