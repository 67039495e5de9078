"""Measures what the planted bugs spoil: `python -m exercises.measure_bugs [NUMBER …]`.

It trains with each script, and with the bug in it, on seeds 1 to 3, and writes bug_curves.csv: a
row for each bug, variant, seed and logged point. The last row of a run, at step "evaluation", is
the return of its final evaluation.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from . import BadInput, script_text
from .__main__ import BAD_INPUT, Parser
from .bugs import BUGS, find, planted
from .curves import read_curve

SEEDS = (1, 2, 3)
CSV = Path(__file__).with_name("bug_curves.csv")
COLUMNS = ["bug", "variant", "seed", "step", "return"]


def runs_of(number: int) -> list[list]:
    """The rows of one bug: variant is "script" or "bug"."""
    bug = find(number)
    rows = []
    with TemporaryDirectory() as folder:
        for variant, text in (("script", script_text(bug.script)), ("bug", planted(bug))):
            path = Path(folder, f"{variant}.py")
            path.write_text(text, encoding="utf-8")
            for seed in SEEDS:
                run_dir = Path(folder, f"{variant}{seed}")
                command = [sys.executable, str(path), *bug.flags, "--seed", str(seed)]
                command += ["--run-dir", str(run_dir)]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                subprocess.run(command, check=True, capture_output=True, env=environment)
                for step, value in read_curve(run_dir):
                    rows.append([number, variant, seed, step, round(value, 1)])
                summary = json.loads((run_dir / "summary.json").read_text())
                mean = round(summary["eval_return_mean"], 1)
                rows.append([number, variant, seed, "evaluation", mean])
    return rows


def parse(arguments: list[str]) -> list[int]:
    """The numbers of the bugs to measure. Raises BadInput if there is no such bug."""
    description = "Measure what the planted bugs spoil, and write bug_curves.csv."
    parser = Parser(prog="python -m exercises.measure_bugs", description=description)
    every_number = list(range(1, len(BUGS) + 1))
    said = f"a bug, 1 to {len(BUGS)} (default: all)"
    parser.add_argument("number", nargs="*", type=int, default=every_number, help=said)
    numbers = sorted(set(parser.parse_args(arguments).number))
    for number in numbers:
        find(number)
    return numbers


def measure(numbers: list[int]) -> None:
    """Measure some bugs, and put their rows into the CSV file in place of their old ones."""
    kept = []
    if CSV.exists():
        with CSV.open(newline="") as file:
            kept = [row for row in list(csv.reader(file))[1:] if int(row[0]) not in numbers]
    for number in numbers:
        kept += runs_of(number)
        kept.sort(key=lambda row: int(row[0]))
        with CSV.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *kept])


def main() -> int:
    try:
        numbers = parse(sys.argv[1:])
    except BadInput as error:
        print(f"python -m exercises.measure_bugs: {error}", file=sys.stderr)
        return BAD_INPUT
    measure(numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
