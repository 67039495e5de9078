"""Draws learning curves in the terminal: of the student's file, or of a script with a bug in it,
beside that of the script itself.
"""

import csv
import subprocess
import sys
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
    with TemporaryDirectory() as folder:
        mine = started(path, flags, Path(folder, "mine"))
        own = started(ROOT / f"{exercise.script}.py", flags, Path(folder, "own"))
        failures = [failure_of(process) for process in (mine, own)]
        for name, failure in zip((path.name, f"{exercise.script}.py"), failures):
            if failure is not None:
                print(f"{name} did not train: {failure}")
                return
        curves = [read_curve(Path(folder, name)) for name in ("mine", "own")]
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
    curves = []
    evaluations = []
    for variant in ("bug", "script"):
        points = []
        returns = []
        for row in rows:
            if row["variant"] != variant:
                continue
            value = float(row["return"])
            if row["step"] == "evaluation":
                returns.append(value)
            else:
                points.append((int(row["step"]), value))
        curves.append(sorted(points))
        evaluations.append(sum(returns) / len(returns))
    for row in drawn(*curves, "with the bug", f"{bug.script}.py"):
        print(row)
    with_bug, without = evaluations
    print(f"Final evaluation: {with_bug:,.1f} with the bug, {without:,.1f} without")


def started(path: Path, flags: tuple[str, ...], run_dir: Path) -> subprocess.Popen:
    """A training, in a process of its own."""
    command = [sys.executable, str(path), *flags, "--seed", "1", "--eval-episodes", "1"]
    command += ["--no-save-model", "--run-dir", str(run_dir)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


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


def thinned(curve: Curve) -> Curve:
    """At most NUM_ROWS points: the mean of each of as many stretches, at its last step."""
    length = -(-len(curve) // NUM_ROWS)  # rounded up
    points = []
    for start in range(0, len(curve), length):
        stretch = curve[start : start + length]
        mean = sum(value for _, value in stretch) / len(stretch)
        points.append((stretch[-1][0], mean))
    return points


def drawn(mine: Curve, own: Curve, my_name: str, own_name: str) -> list[str]:
    """Rows of text: steps, then each one's return as a number and as a bar."""
    mine = thinned(mine)
    own = thinned(own)
    values = [value for _, value in mine + own]
    low = min(values)
    width = max(values) - low or 1.0

    def cell(curve: Curve, i: int) -> str:
        if i >= len(curve):
            return " " * (BAR + 11)
        value = curve[i][1]
        bar = "█" * round(1 + (BAR - 1) * (value - low) / width)
        return f"{value:10,.1f} {bar:<{BAR}}"

    heading = f"{'steps':>8} {my_name:>{BAR + 10}}   {own_name:>{BAR + 10}}"
    rows = [heading]
    for i in range(max(len(mine), len(own))):
        steps = mine[i][0] if i < len(mine) else own[i][0]
        rows.append(f"{steps:8,} {cell(mine, i)}  {cell(own, i)}".rstrip())
    return rows
