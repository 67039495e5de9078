"""What the studies share: finished runs, numbers with their intervals, colours, short trainings."""

import contextlib
import io
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from .. import BadInput
from ..files import NUMBER, NUMBER_OR_NULL, WHOLE_NUMBER, Damaged, read_table
from ..readers import RETURN_TAGS, check_points, read_folder
from ..stats import BINS, LAST, bootstrap_interval, resample, upper_median
from ..tables import format_number

# Okabe and Ito's colours, with grey in place of yellow.
BLUE = "#0072B2"
VERMILION = "#D55E00"
GREEN = "#009E73"
PINK = "#CC79A7"
ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
GREY = "#8C8C8C"


SUMMARY_KINDS = {"solved_at_step": NUMBER_OR_NULL}  # all other figures are numbers


# ---------------------------------------------------------------- finished runs


@dataclass
class FinishedRun:
    """A finished run of the suite."""

    summary: dict
    """its summary.json"""
    curve: np.ndarray
    """(BINS,) mean return of the training episodes in each bin of its steps; NaN if none ended"""
    dir: Path

    @property
    def final_return(self) -> float:
        """Mean return over the last tenth of training."""
        return self.curve[-LAST:].mean()


def read_cell(runs: Path, env_id: str, name: str, *figures: str) -> list[FinishedRun]:
    """The finished runs of a cell of the suite, in order of their seeds.

    `runs` is the suite's folder, `name` the cell's, `figures` what the study needs of the
    summaries. A damaged run is left out, and named on stderr. Raises BadInput if less than two are
    left, of which there are no intervals.
    """
    found = []
    for path in runs.glob(f"{env_id}__{name}__*/summary.json"):
        try:
            found.append(read_finished_run(path, figures))
        except Damaged as error:
            leave_out(error)
    if len(found) < 2:
        raise BadInput(f"{runs}: {name} in {env_id} needs two finished runs, not {len(found)}")
    return sorted(found, key=lambda run: run.summary["seed"])


def leave_out(error: Damaged) -> None:
    """Say on stderr that a run is left out."""
    print(f"{error}: left out", file=sys.stderr)


def read_finished_run(path: Path, figures: tuple[str, ...]) -> FinishedRun:
    """The run whose summary.json this is. Raises Damaged."""
    required = {"seed": WHOLE_NUMBER}
    for figure in figures:
        required[figure] = SUMMARY_KINDS.get(figure, NUMBER)
    summary = read_table(path, required, {})
    scalars = read_folder(path.parent, RETURN_TAGS)
    curve = np.full(BINS, np.nan)
    if scalars.step.size:
        check_points(scalars, path.parent)
        curve = resample(scalars.step, scalars.value, scalars.step[-1])
    return FinishedRun(summary, curve, path.parent)


def read_course(run: FinishedRun, tag: str) -> np.ndarray:
    """What a run logged under a tag, (points,). Raises Damaged if that is nothing."""
    values = read_folder(run.dir, (tag,)).value
    if not values.size:
        raise Damaged(f"{run.dir}: no {tag} in its log")
    return values


def final_returns(runs: list[FinishedRun]) -> np.ndarray:
    """The final return of each run, (seeds,)."""
    return np.array([run.final_return for run in runs])


# ---------------------------------------------------------------- numbers with intervals


def with_interval(statistic, *samples) -> str:
    """A statistic of samples (seeds,) and its 95 % bootstrap interval: `1,234 (1,100 to 1,300)`.

    Of a single seed there is no interval.
    """
    arrays = [np.asarray(sample, dtype=float) for sample in samples]
    text = format_number(statistic(*arrays))
    interval = bootstrap_interval(statistic, *arrays)
    if interval is None:
        return text
    low, high = interval
    return f"{text} ({format_number(low)} to {format_number(high)})"


def mean_with_interval(values) -> str:
    """The mean of values (seeds,) and its 95 % bootstrap interval."""
    return with_interval(np.mean, values)


def error_bars(values, statistic=np.mean) -> np.ndarray:
    """How far the 95 % bootstrap interval reaches below and above the statistic, (2,).

    That is matplotlib's yerr of one point.
    """
    array = np.asarray(values, dtype=float)
    low, high = bootstrap_interval(statistic, array)
    middle = statistic(array)
    return np.array([middle - low, high - middle])


def stack_error_bars(samples, statistic=np.mean) -> np.ndarray:
    """The error bars of several samples, (2, samples): matplotlib's yerr."""
    return np.stack([error_bars(sample, statistic) for sample in samples], axis=1)


@dataclass
class CensoredMedian:
    """The median of values that are known only up to a limit, and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    limit: float

    def __str__(self) -> str:
        """As `1,234 (1,100 to > 2,000)`, where `>` marks a lower bound."""
        median = self.format_end(self.median)
        return f"{median} ({self.format_end(self.low)} to {self.format_end(self.high)})"

    def format_end(self, value: float) -> str:
        mark = "> " if value >= self.limit else ""
        return mark + format_number(value)


def censored_median(values, limit: float) -> CensoredMedian:
    """The upper median of the seeds' values (seeds,) and its interval.

    Values from `limit` on, infinite ones too, are known only to lie beyond it. They count as the
    limit.
    """
    known = np.minimum(np.asarray(values, dtype=float), limit)
    low, high = bootstrap_interval(upper_median, known)
    return CensoredMedian(upper_median(known), low, high, limit)


def ratio_of_medians(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """The median of x over that of y."""
    return upper_median(x, axis) / upper_median(y, axis)


# ---------------------------------------------------------------- short trainings


@contextlib.contextmanager
def short_training(script: ModuleType, **flags) -> Iterator[Path]:
    """Train a script in this process, on the CPU, for what a run of the suite does not keep.

    Gives the run's folder, which is gone when the block ends.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.getsignal(number) for number in signals}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run_dir = Path(folder, "run")
        args = script.Args(**flags, eval_episodes=1, cuda=False, run_dir=str(run_dir))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                script.train(args)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)  # the script has set its own
        yield run_dir
