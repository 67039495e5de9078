"""Published results beside ours: what others report of an algorithm after as many steps."""

from dataclasses import dataclass
from pathlib import Path

from .files import NUMBER, Damaged
from .groups import Result
from .readers import read_rows
from .tables import format_number, format_steps

COLUMNS = [
    "environment",
    "algorithm",
    "source",
    "version",
    "steps",
    "metric",
    "mean",
    "deviation",
    "seeds",
]
METRICS = {"evaluation": "evaluation", "training": "training return"}  # by what it is called there
SAME_STEPS = 0.02  # steps may differ by this share


@dataclass(frozen=True)
class Figure:
    """A published result: the mean return of an algorithm in an environment."""

    env_id: str
    """as we call it"""
    algorithm: str
    """as our script is called"""
    source: str
    version: str
    """of the environment in the source, such as v3; empty if that does not say"""
    steps: float
    """environment steps of a training"""
    metric: str
    """evaluation or training"""
    mean: float
    deviation: float | None
    """as the source has it; None if it has none"""
    seeds: int | None
    """None if the source does not say"""

    def describe(self) -> str:
        """The figure and, in brackets, where it is from."""
        mean = format_number(self.mean)
        if self.deviation is not None:
            mean += f" ± {format_number(self.deviation)}"
        origin = self.source
        if self.version:
            origin += f", {self.version}"
        if self.seeds is not None:
            origin += ", 1 seed" if self.seeds == 1 else f", {self.seeds} seeds"
        return f"{mean} ({origin})"


# ---------------------------------------------------------------- the file


def read_published(path: Path) -> list[Figure]:
    """The figures of a CSV file with COLUMNS. Raises Damaged if it is none."""
    rows = read_rows(path)
    if not rows or rows[0] != COLUMNS:
        raise Damaged(f"{path}: its columns are not {', '.join(COLUMNS)}")
    figures = []
    for number, row in enumerate(rows[1:], 2):
        try:
            figures.append(parse_figure(row))
        except ValueError as error:
            raise Damaged(f"{path}, row {number}: {','.join(row)!r}") from error
    return figures


def parse_figure(row: list[str]) -> Figure:
    """The figure in a row. Raises ValueError if there is none."""
    [env_id, algorithm, source, version, steps, metric, mean, deviation, seeds] = row
    if metric not in METRICS or not NUMBER.holds(float(mean)):
        raise ValueError
    return Figure(
        env_id=env_id,
        algorithm=algorithm,
        source=source,
        version=version,
        steps=float(steps),
        metric=metric,
        mean=float(mean),
        deviation=float(deviation) if deviation else None,
        seeds=int(seeds) if seeds else None,
    )


# ---------------------------------------------------------------- beside ours


def beside(result: Result, figures: list[Figure], metric: str) -> list[Figure]:
    """The figures of a metric that a group is to be compared with, the highest first."""
    found = []
    for figure in figures:
        same_cell = (figure.env_id, figure.algorithm) == (result.env_id, result.algorithm)
        same_steps = abs(result.trained - figure.steps) <= SAME_STEPS * figure.steps
        if same_cell and same_steps and figure.metric == metric:
            found.append(figure)
    return sorted(found, key=lambda figure: figure.mean, reverse=True)


def own_figure(result: Result, metric: str) -> float | None:
    """A group's own figure of a metric; None if it was not evaluated."""
    return result.evaluation if metric == "evaluation" else result.final_return


def published_table(results: list[Result], figures: list[Figure]) -> list[list[str]]:
    """A row for each group of ours that has published figures."""
    head = ["environment", "algorithm", "steps"]
    for name in METRICS.values():
        head += [name, f"published {name}s"]
    rows = [head]
    for result in results:
        found = {metric: beside(result, figures, metric) for metric in METRICS}
        if result.reference or not any(found.values()):
            continue
        row = [result.env_id, result.algorithm, format_steps(result.trained)]
        for metric in METRICS:
            published = "; ".join(figure.describe() for figure in found[metric])
            row += [format_number(own_figure(result, metric)), published or "–"]
        rows.append(row)
    return rows


def below_published(results: list[Result], figures: list[Figure]) -> list[str]:
    """A note on each group of ours that is below the highest published figure of a metric."""
    notes = []
    for result in results:
        for metric, name in METRICS.items():
            own = own_figure(result, metric)
            found = beside(result, figures, metric)
            if result.reference or own is None or not found or own >= found[0].mean:
                continue
            below = f"{name} {format_number(own)} is below the highest published"
            notes.append(f"{result.env_id}, {result.algorithm}: {below}, {found[0].describe()}")
    return notes
