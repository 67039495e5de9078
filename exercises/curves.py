"""Draws learning curves in the terminal: of the student's file, or of a script with a bug in it,
beside that of the script itself.
"""

import csv
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from . import ROOT
from .bugs import Bug
from .catalogue import OFF_POLICY, Exercise

NUM_ROWS = 12
BAR = 24  # characters of the longest bar
MEASURED = Path(__file__).with_name("bug_curves.csv")  # measure_bugs.py writes it
Curve = list[tuple[int, float]]  # environment steps, mean return of the episodes that ended


def show(exercise: Exercise, path: Path) -> None:
    """Train with both, and print a row for each of some points."""
    flags = exercise.run_flags()
    seconds = "a minute" if exercise.script in OFF_POLICY else "some seconds"
    print(f"Both train, for {seconds}: {' '.join(flags)} --seed 1")
    files = {"mine": path, "own": ROOT / f"{exercise.script}.py"}
    with TemporaryDirectory() as folder, ExitStack() as stack:
        trainings = {}
        for name, file in files.items():
            trainings[name] = started(file, flags, Path(folder, name))
            stack.callback(end, trainings[name])
        failures = {name: failure_of(training) for name, training in trainings.items()}
        for name, failure in failures.items():
            if failure is not None:
                print(f"{files[name].name} did not train: {failure}")
                return
        curves = [read_curve(Path(folder, name)) for name in files]
    print("Mean return of the episodes that ended:")
    for row in drawn(*curves, path.name, f"{exercise.script}.py"):
        print(row)


def show_measured(number: int, bug: Bug) -> None:
    """Print what was measured with a bug and without it, if anything was."""
    with MEASURED.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["bug"]) == number]
    if not rows:
        return
    seeds = {row["seed"] for row in rows}
    print(f"\nMean return over {len(seeds)} seeds: {bug.script}.py {' '.join(bug.flags)}")
    curves = [points_of(rows, variant) for variant in ("bug", "script")]
    for row in drawn(*curves, "with the bug", f"{bug.script}.py"):
        print(row)
    with_bug, without = [mean_evaluation(rows, variant) for variant in ("bug", "script")]
    print(f"Final evaluation: {with_bug:,.1f} with the bug, {without:,.1f} without")


def points_of(rows: list[dict[str, str]], variant: str) -> Curve:
    """The logged points of all seeds."""
    curve = []
    for row in rows:
        if row["variant"] == variant and row["step"] != "evaluation":
            curve.append((int(row["step"]), float(row["return"])))
    return curve


def mean_evaluation(rows: list[dict[str, str]], variant: str) -> float:
    """The mean over the seeds of the returns of the final evaluations."""
    returns = []
    for row in rows:
        if row["variant"] == variant and row["step"] == "evaluation":
            returns.append(float(row["return"]))
    return sum(returns) / len(returns)


def started(path: Path, flags: tuple[str, ...], run_dir: Path) -> subprocess.Popen:
    """A training, in a process of its own."""
    command = [sys.executable, str(path), *flags, "--seed", "1", "--eval-episodes", "1"]
    command += ["--no-save-model", "--run-dir", str(run_dir)]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )


def end(training: subprocess.Popen) -> None:
    """End a training that still runs, as after Ctrl-C."""
    training.kill()
    training.wait()


def failure_of(process: subprocess.Popen) -> str | None:
    """Wait for a training's end. Returns the last line of what it complained of, or None."""
    _, errors = process.communicate()
    if process.returncode == 0:
        return None
    return (errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1]


def read_curve(run_dir: Path) -> Curve:
    """A run's curve, from its TensorBoard file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir)).Reload()
    return [(event.step, event.value) for event in events.Scalars("charts/episodic_return")]


def means(curve: Curve, last_step: int) -> list[float | None]:
    """The mean return in each of NUM_ROWS stretches of the steps; None where there is no point."""
    found = []
    for i in range(NUM_ROWS):
        first = last_step * i / NUM_ROWS
        last = last_step * (i + 1) / NUM_ROWS
        values = [value for step, value in curve if first < step <= last]
        found.append(sum(values) / len(values) if values else None)
    return found


def drawn(mine: Curve, own: Curve, my_name: str, own_name: str) -> list[str]:
    """Rows of text: the step a stretch ends at, then each one's return, as a number and a bar."""
    last_step = max(step for step, _ in mine + own)
    my_means = means(mine, last_step)
    own_means = means(own, last_step)
    values = [value for value in my_means + own_means if value is not None]
    low = min(values)
    width = max(values) - low or 1.0

    def cell(value: float | None) -> str:
        if value is None:
            return " " * (BAR + 11)
        bar = "█" * round(1 + (BAR - 1) * (value - low) / width)
        return f"{value:10,.1f} {bar:<{BAR}}"

    heading = f"{'steps':>8} {my_name:>{BAR + 10}}   {own_name:>{BAR + 10}}"
    rows = [heading]
    for i, (my_mean, own_mean) in enumerate(zip(my_means, own_means), 1):
        if my_mean is not None or own_mean is not None:
            step = last_step * i // NUM_ROWS
            rows.append(f"{step:8,} {cell(my_mean)}  {cell(own_mean)}".rstrip())
    return rows
