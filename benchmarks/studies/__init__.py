"""The lectures' claims, measured; LECTURES.md has the verdicts."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..compare import figure as number
from ..compare import markdown
from ..readers import RETURN_TAGS, read_folder
from ..stats import BINS, LAST, interval, resample

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#000000")  # Okabe and Ito's


@dataclass
class Run:
    """A finished run of the suite."""

    summary: dict
    """its summary.json"""
    curve: np.ndarray
    """(BINS,) mean return of the training episodes in each of the bins of its steps; NaN if none ended"""
    dir: Path

    @property
    def final(self) -> float:
        """Mean return over the last tenth of training."""
        return self.curve[-LAST:].mean()


def read_runs(runs: Path, env_id: str, name: str) -> list[Run]:
    """The finished runs of a cell in the suite's folder, in order of their seeds."""
    found = []
    for path in runs.glob(f"{env_id}__{name}__*/summary.json"):
        summary = json.loads(path.read_text())
        step, value, _ = read_folder(path.parent, RETURN_TAGS)
        curve = resample(step, value, step[-1]) if step.size else np.full(BINS, np.nan)
        found.append(Run(summary, curve, path.parent))
    return sorted(found, key=lambda run: run.summary["seed"])


def estimate(statistic, *samples) -> str:
    """A statistic of samples, a seed a row, with its 95 % bootstrap interval: `1,234 (1,100 to 1,300)`."""
    samples = [np.asarray(sample, dtype=float) for sample in samples]
    ends = interval(statistic, *samples)
    return number(statistic(*samples)) + (f" ({' to '.join(map(number, ends))})" if ends is not None else "")


def spread(values, statistic=np.mean) -> str:
    """The same of one sample, its mean if nothing else."""
    return estimate(statistic, values)


def errorbars(values, statistic=np.mean) -> np.ndarray:
    """How far the 95 % bootstrap interval reaches below and above the statistic, (2,): matplotlib's yerr."""
    values = np.asarray(values, dtype=float)
    low, high = interval(statistic, values)
    return np.array([statistic(values) - low, high - statistic(values)])


def median(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The upper one of an even number, as in `benchmarks compare`: so that it is a seed's value, or beyond them all."""
    return np.quantile(values, 0.5, axis=axis, method="higher")


def censored(values, limit: float) -> tuple[np.ndarray, str]:
    """Median of the seeds' values and its 95 % bootstrap interval, (3,), and as a text: `1,234 (1,100 to > 2,000)`.

    Values from `limit` on, infinite ones too, are known only to lie beyond it: all of them count as the limit.
    """
    values = np.minimum(np.asarray(values, dtype=float), limit)
    ends = np.array([median(values), *interval(median, values)])
    texts = [("> " if end >= limit else "") + number(end) for end in ends]
    return ends, f"{texts[0]} ({texts[1]} to {texts[2]})"


__all__ = ["BINS", "COLOURS", "Run", "censored", "errorbars", "estimate", "markdown", "median", "number"]
__all__ += ["read_runs", "spread"]
