"""The statistics, as functions of arrays. Each row is a seed.

The intervals are over seeds, never over episodes.
"""

import numpy as np
from scipy.stats import bootstrap, trim_mean

BINS = 100  # of a run's steps
LAST = BINS // 10  # bins whose mean is the final return
WINDOW = BINS // 20  # bins whose mean has to reach a threshold
RESAMPLES = 2000


def resample(step: np.ndarray, value: np.ndarray, end: float) -> np.ndarray:
    """A curve's mean in each of BINS equal bins of (0, end], (BINS,).

    `step` and `value` are (points,). A bin without a point is interpolated linearly, between the
    means of the points at a step.
    """
    centres = (np.arange(BINS) + 0.5) * end / BINS
    steps, place = np.unique(step, return_inverse=True)
    means = np.bincount(place, weights=value) / np.bincount(place)
    curve = np.interp(centres, steps, means)
    bins = np.ceil(step * BINS / end).astype(int) - 1
    inside = (bins >= 0) & (bins < BINS)
    count = np.bincount(bins[inside], minlength=BINS)
    total = np.bincount(bins[inside], weights=value[inside], minlength=BINS)
    filled = count > 0
    curve[filled] = total[filled] / count[filled]
    return curve


def iqm(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean of all samples together.

    A quarter of the values, rounded down, is cut off at either end.
    """
    return trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)


def upper_median(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """The median; of an even number of values, the upper one of the two in the middle.

    So it is the value of a seed. It is infinite unless more than half of the seeds are finite.
    """
    return np.quantile(values, 0.5, axis=axis, method="higher")


def bootstrap_interval(statistic, *samples: np.ndarray, axis: int = 0) -> np.ndarray | None:
    """95 % bootstrap interval of statistic(*samples, axis=...), (2, ...): its low and high end.

    Each sample is resampled by itself along `axis`. With one sample per environment that is the
    stratified bootstrap. None if a sample has a single seed.

    The method is the percentile one, as in rliable. BCa would estimate its acceleration by leaving
    out one seed at a time, which is erratic for the interquartile mean of few seeds. With fewer
    than about 10 seeds the interval is too narrow.
    """
    if min(sample.shape[axis] for sample in samples) < 2:
        return None
    result = bootstrap(
        samples,
        statistic,
        axis=axis,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return np.stack(result.confidence_interval)


def probability_of_improvement(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """P(X > Y), ties counted half, mean over the environments; Agarwal et al. 2021.

    `samples` are X of each environment, then Y of each, in one list, as SciPy's bootstrap passes
    them. In an environment the probability is the Mann-Whitney U over its maximum.
    """
    count = len(samples) // 2
    probabilities = []
    for x, y in zip(samples[:count], samples[count:]):
        x_column = np.moveaxis(x, axis, -1)[..., :, None]
        y_row = np.moveaxis(y, axis, -1)[..., None, :]
        wins = (x_column > y_row) + 0.5 * (x_column == y_row)
        probabilities.append(wins.mean((-2, -1)))
    return np.mean(probabilities, axis=0)


def crossing(curve: np.ndarray, threshold: float) -> float:
    """Where the mean of the WINDOW bins before it first reaches the threshold, in bins.

    `curve` is (BINS,). The result is interpolated between bins, and infinite if there is no such
    place.
    """
    means = np.convolve(curve, np.ones(WINDOW), "valid") / WINDOW  # of bins i to i + WINDOW - 1
    reached = np.flatnonzero(means >= threshold)
    if not reached.size:
        return np.inf
    first = reached[0]
    if first == 0:
        return float(WINDOW)
    before = means[first - 1]
    share = (threshold - before) / (means[first] - before)
    return WINDOW + first - 1 + share
