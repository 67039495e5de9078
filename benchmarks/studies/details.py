"""C7: what small details of PPO-clip change the final return by, beside what the objective does."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..plots import legend
from ..stats import interval
from . import COLOURS, estimate, markdown, number, read_runs, spread

ENVIRONMENTS = ("HalfCheetah-v4", "Hopper-v4")
CHANGES = {  # to c5-clip
    "details": {
        "c7-no-norm-reward": "rewards not scaled",
        "c7-no-norm-obs": "observations not scaled",
        "c7-no-anneal-lr": "step size not annealed",
        "c7-norm-adv": "advantages normalised",
    },
    "objectives": {"c5-kl-1": "KL penalty, not clip", "c5-none": "neither clip nor penalty"},
}


def change(values: np.ndarray, base: np.ndarray, axis: int = -1) -> np.ndarray:
    """Of the mean over the seeds, in percent of the base's."""
    return 100 * (values.mean(axis) / base.mean(axis) - 1)


def size(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean absolute change of several, the base's sample last."""
    *changed, base = samples
    return np.mean([np.abs(change(values, base, axis)) for values in changed], axis=0)


def c7(runs: Path) -> tuple[Figure, str]:
    figure = Figure(figsize=(9.6, 4.2), dpi=110, layout="constrained")
    rows = [["environment", "change", "final return", "difference, %"]]
    sizes = [["environment", "changes", "mean absolute difference, %", "largest"]]
    labels = [label for kind in CHANGES.values() for label in kind.values()]
    for ax, env_id in zip(figure.subplots(1, 2, sharey=True), ENVIRONMENTS):
        base = np.array([run.final for run in read_runs(runs, env_id, "c5-clip")])
        rows.append([env_id, "none: the clip", spread(base), "–"])
        for (kind, changes), colour in zip(CHANGES.items(), COLOURS):
            finals = [np.array([run.final for run in read_runs(runs, env_id, name)]) for name in changes]
            for label, final in zip(changes.values(), finals):
                middle, (low, high) = change(final, base), interval(change, final, base)
                rows.append([env_id, label, spread(final), estimate(change, final, base)])
                bars, at = [[middle - low], [high - middle]], labels.index(label)
                ax.errorbar(middle, at, xerr=bars, fmt="o", color=colour, capsize=4, label=kind)
                each = 100 * (final / base.mean() - 1)
                ax.plot(each, np.full(len(each), at + 0.25), "o", color=colour, markersize=3, alpha=0.6)
            largest = max((change(final, base) for final in finals), key=abs)
            sizes.append([env_id, kind, estimate(size, *finals, base), number(largest)])
        ax.axvline(0, color="black", linewidth=1)
        ax.set(xlabel="change of the final return, %", title=env_id)
    figure.axes[0].set_yticks(range(len(labels)), labels)
    figure.axes[0].invert_yaxis()
    legend(figure)
    text = f"""{markdown(rows)}

Final return: over the last tenth of training, mean of the seeds with its 95 % bootstrap interval. Difference: to the
clip as it is, in percent of that; its interval resamples both.

{markdown(sizes)}

Mean absolute differences hold the noise of the seeds, too.
"""
    return figure, text
