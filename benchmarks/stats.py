"""The statistics, as functions of arrays. Each row is a seed: the intervals are over seeds, never over episodes."""

import numpy as np
from scipy.stats import bootstrap, trim_mean

BINS = 100  # of a run's steps
LAST = BINS // 10  # the bins that the final return is the mean of
WINDOW = BINS // 20  # the bins whose mean has to reach a threshold
RESAMPLES = 2000


def resample(step: np.ndarray, value: np.ndarray, end: float) -> np.ndarray:
    """A curve's mean in each of BINS equal bins of (0, end], (BINS,); linear interpolation where a bin has no point."""
    centres = (np.arange(BINS) + 0.5) * end / BINS
    curve = np.interp(centres, step, value)
    bins = np.ceil(step * BINS / end).astype(int) - 1
    inside = (bins >= 0) & (bins < BINS)
    count, total = (np.bincount(bins[inside], weights, BINS) for weights in (None, value[inside]))
    curve[count > 0] = total[count > 0] / count[count > 0]
    return curve


def iqm(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean of all samples together: a quarter of them, rounded down, is cut off at either end."""
    return trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)


def interval(statistic, *samples: np.ndarray, axis: int = 0) -> np.ndarray | None:
    """95 % bootstrap interval (2, ...) of statistic(*samples, axis=...), each sample resampled by itself along `axis`.

    With one sample per environment that is the stratified bootstrap. None where a sample is of a single seed.
    The percentile method, as in rliable: the acceleration that BCa estimates by leaving out one seed at a time is
    erratic for the interquartile mean of few seeds. With fewer than about 10 seeds the interval is too narrow.
    """
    if min(sample.shape[axis] for sample in samples) < 2:
        return None
    options = {"n_resamples": RESAMPLES, "method": "percentile", "vectorized": True, "rng": np.random.default_rng(0)}
    return np.stack(bootstrap(samples, statistic, axis=axis, **options).confidence_interval)


def improvement(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Probability of improvement P(X > Y), ties counted half, mean over environments; Agarwal et al. 2021.

    `samples` are X of each environment, then Y of each. In an environment it is the Mann-Whitney U over its maximum.
    """
    half = len(samples) // 2
    probabilities = []
    for x, y in zip(samples[:half], samples[half:]):
        x, y = np.moveaxis(x, axis, -1)[..., :, None], np.moveaxis(y, axis, -1)[..., None, :]
        probabilities.append(((x > y) + 0.5 * (x == y)).mean((-2, -1)))
    return np.mean(probabilities, axis=0)


def crossing(curve: np.ndarray, threshold: float) -> float:
    """Where the mean of the WINDOW bins so far first reaches the threshold, in bins from the start; inf if nowhere."""
    means = np.convolve(curve, np.ones(WINDOW) / WINDOW, "valid")  # of the bins that end at WINDOW, WINDOW + 1, …
    reached = np.flatnonzero(means >= threshold)
    if not reached.size:
        return np.inf
    last = reached[0]
    share = (threshold - means[last - 1]) / (means[last] - means[last - 1]) if last else 1.0
    return WINDOW + last - 1 + share
