"""Command line: `python -m benchmarks.studies C1 C2`, for each claim a picture and its tables."""

import contextlib
import importlib
import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import tyro

from .. import ROOT, BadInput
from ..plots import FONT
from ..run import read_suite, run

SUITE = ROOT / "benchmarks/suites/lectures.toml"
STUDIES = {  # the module of each claim; its function is called as the claim is
    "C1": "baselines",
    "C2": "estimators",
    "C3": "estimators",
    "C4": "step_size",
    "C5": "penalty",
    "C6": "penalty",
    "C7": "details",
    "C8": "pathwise",
    "C9": "imitation",
    "C10": "off_policy",
}
CELLS = {"C7": ("c5-none", "c5-kl-1__", "c5-clip", "c7-")}  # how they begin, of a claim that shares another's


@dataclass
class Study:
    """Measure the lectures' claims: run what of the suite is missing, then write <claim>.png and <claim>.md."""

    claims: tyro.conf.Positional[tuple[str, ...]] = tuple(STUDIES)
    """which, C1 to C10 (default: all)"""
    runs_dir: Path = Path("benchmarks/runs")
    """where the suite's folder is made"""
    out: Path = Path("benchmarks/results/lectures")
    """folder of the pictures and tables"""


def study(claims: tuple[str, ...], runs_dir: Path, out: Path) -> int:
    if unknown := set(claims) - STUDIES.keys():
        raise BadInput(f"no claim {', '.join(sorted(unknown))}: there are {', '.join(STUDIES)}")
    out.mkdir(parents=True, exist_ok=True)
    for claim in claims:
        for cells in CELLS.get(claim, (f"{claim.lower()}-",)):
            if any(f"__{cells}" in job.dir.name for job in read_suite(SUITE)):
                failed = run(SUITE, None, None, f"__{cells}", False, runs_dir, "local", "local", 0)
                if failed:
                    return failed
        started = time.perf_counter()
        with matplotlib.rc_context(FONT):
            function = getattr(importlib.import_module(f".{STUDIES[claim]}", __package__), claim.lower())
            figure, tables = function(runs_dir / SUITE.stem)
            figure.savefig(out / f"{claim}.png")
        (out / f"{claim}.md").write_text(tables)
        print(f"{tables}\n{claim}: {time.perf_counter() - started:.0f} s; {out / claim}.png, {out / claim}.md")
    return 0


def main() -> int:
    try:
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            arguments = tyro.cli(Study, prog="python -m benchmarks.studies")
    except SystemExit as stop:  # tyro draws a box around what is wrong
        print(*stderr.getvalue().translate(dict.fromkeys(map(ord, "╭╮╰╯│─"))).split(), file=sys.stderr)
        return stop.code
    try:
        return study(**vars(arguments))
    except BadInput as error:
        print(f"benchmarks.studies: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
