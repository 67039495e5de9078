"""Command line: `python -m benchmarks.studies C1 C2`. Each claim gets a picture and its tables."""

import importlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import tyro

from .. import ROOT, BadInput
from ..command_line import parse, report_errors
from ..files import check_folder
from ..jobs import read_suite
from ..options import RunOptions
from ..plots import FONT
from ..run import run_suite

LECTURES = ROOT / "benchmarks/suites/lectures.toml"
MUJOCO = ROOT / "benchmarks/suites/mujoco.toml"
STUDIES = {  # the module of each claim, whose function `study` measures it
    "C1": "c01_baselines",
    "C2": "c02_variance",
    "C3": "c03_bias",
    "C4": "c04_step_size",
    "C5": "c05_penalty",
    "C6": "c06_table_1",
    "C7": "c07_details",
    "C8": "c08_pathwise",
    "C8b": "c08_discrete",
    "C9": "c09_imitation",
    "C10": "c10_off_policy",
    "C11": "c11_theory",
    "C12": "c12_trust_region",
}
MUJOCO_OF_C12 = [
    (MUJOCO, f"{env_id}__{script}__")
    for env_id in ("HalfCheetah-v4", "Hopper-v4")
    for script in ("a2c", "trpo", "ppo_kl", "ppo_clip")
]
# Which jobs a claim needs, where it is not just those named after it: a suite and a part of the
# names of its jobs.
JOBS = {
    "C7": [(LECTURES, f"__{name}") for name in ("c5-none", "c5-kl-1__", "c5-clip", "c7-")],
    "C12": [(LECTURES, "__c12-"), *MUJOCO_OF_C12],
}


@dataclass
class StudyOptions:
    """Measure the lectures' claims: run the missing jobs of the suites, write <claim>.png, .md."""

    claims: tyro.conf.Positional[tuple[str, ...]] = tuple(STUDIES)
    """which, C1 to C12 (default: all)"""
    runs_dir: Path = Path("benchmarks/runs")
    """where the suites' folders are made"""
    out: Path = Path("benchmarks/results/lectures")
    """folder of the pictures and tables"""


def run_missing_jobs(claim: str, runs_dir: Path) -> int:
    """Run the jobs that a claim needs and that are not finished yet; the exit status."""
    for suite, pattern in JOBS.get(claim, [(LECTURES, f"__{claim.lower()}-")]):
        if any(pattern in job.dir.name for job in read_suite(suite)):
            status = run_suite(RunOptions(suite=suite, only=pattern, runs_dir=runs_dir))
            if status != 0:
                return status
    return 0


def write_study(claim: str, suite_dir: Path, out: Path) -> None:
    """Measure a claim, and write its picture and tables."""
    start = time.perf_counter()
    module = importlib.import_module(f".{STUDIES[claim]}", __package__)
    picture = out / f"{claim}.png"
    tables = out / f"{claim}.md"
    with matplotlib.rc_context(FONT):
        figure, text = module.study(suite_dir)
        figure.savefig(picture)
    tables.write_text(text, encoding="utf-8")
    seconds = time.perf_counter() - start
    print(f"{text}\n{claim}: {seconds:.0f} s; {picture}, {tables}")


def run_studies(options: StudyOptions) -> int:
    """Measure the claims; exit status 0, or that of the runs if a job failed. Raises BadInput."""
    unknown = set(options.claims) - STUDIES.keys()
    if unknown:
        names = ", ".join(sorted(unknown))
        raise BadInput(f"no claim {names}: there are {', '.join(STUDIES)}")
    check_folder(options.runs_dir, "--runs-dir")
    check_folder(options.out, "--out")
    options.out.mkdir(parents=True, exist_ok=True)
    for claim in options.claims:
        status = run_missing_jobs(claim, options.runs_dir)
        if status != 0:
            return status
        write_study(claim, options.runs_dir / LECTURES.stem, options.out)
    return 0


def main() -> int:
    options = parse(StudyOptions, "python -m benchmarks.studies")
    return report_errors(lambda: run_studies(options), "benchmarks.studies")


if __name__ == "__main__":
    sys.exit(main())
