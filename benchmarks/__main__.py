"""Command line: `python -m benchmarks run|compare|speed`, each with --help."""

import contextlib
import importlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from . import BadInput


@dataclass
class Run:
    """Run the jobs of a suite that are not finished yet."""

    suite: tyro.conf.Positional[Path]
    """the suite, a TOML file"""
    seeds: str | None = None
    """seeds in place of the suite's, such as 1-5 or 1,3,7-9"""
    workers: int | None = None
    """jobs at once, one thread each (default: as many as there are cores; with Ray, as there are resources)"""
    only: str | None = None
    """only the jobs <env>__<algorithm>__<seed> that contain this; * and ? are wildcards"""
    dry_run: bool = False
    """print the jobs' command lines, run nothing"""
    runs_dir: Path = Path("benchmarks/runs")
    """where the suite's folder is made"""
    backend: Literal["local", "ray"] = "local"
    """where jobs run: processes of this machine, or Ray tasks of one CPU each"""
    address: str = "local"
    """the Ray cluster: auto, host:port or ray://host:port; local: a Ray of this machine, for this suite alone"""
    num_gpus: float = 0
    """the fraction of a GPU that Ray gives a job"""


@dataclass
class Compare:
    """Compare the learning curves of runs: tables, pictures, CSV."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """folders that hold runs, at any depth, or reference CSVs; or such CSVs themselves"""
    metric: str | None = None
    """TensorBoard tag to compare (default: the return of the training episodes)"""
    threshold: float | None = None
    """threshold for every environment (default: the suite's, else the one that gymnasium knows)"""
    out: Path = Path("report")
    """folder of the report"""
    html: bool = False
    """write the report as a page for a browser, too: report.html"""


@dataclass
class Speed:
    """Measure how fast scripts train, and the environment alone."""

    scripts: tyro.conf.Positional[tuple[str, ...]] = ()
    """scripts, such as ppo_clip (default: all)"""
    env_id: str = "CartPole-v1"
    """environment"""
    total_timesteps: int | None = None
    """steps of a training, of which the first half is warm-up (default: 20,000; off-policy what makes 2,000 updates)"""
    repeats: int = 5
    """trainings measured, after one that is not"""
    out: Path | None = None
    """JSON file (default: benchmarks/runs/speed-<env>.json)"""


def main() -> int:
    try:
        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            command = tyro.cli(Run | Compare | Speed, prog="python -m benchmarks")
    except SystemExit as stop:  # tyro draws a box around what is wrong
        print(*stderr.getvalue().translate(dict.fromkeys(map(ord, "╭╮╰╯│─"))).split(), file=sys.stderr)
        return stop.code
    name = type(command).__name__.lower()  # run, compare or speed: a module, imported only now, and its function
    try:
        return getattr(importlib.import_module(f".{name}", __package__), name)(**vars(command))
    except BadInput as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
