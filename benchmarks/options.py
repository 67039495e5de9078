"""The options of each command, with the help that the command line prints for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class RunOptions:
    """Run the jobs of a suite that are not finished yet."""

    suite: tyro.conf.Positional[Path]
    """the suite, a TOML file"""
    seeds: str | None = None
    """seeds in place of the suite's, such as 1-5 or 1,3,7-9"""
    workers: int | None = None
    """jobs at once, one thread each (default: one a core; with Ray, as many as it has room for)"""
    only: str | None = None
    """only the jobs <env>__<algorithm>__<seed> that contain this; * and ? are wildcards"""
    dry_run: bool = False
    """print the jobs' command lines, run nothing"""
    runs_dir: Path = Path("benchmarks/runs")
    """where the suite's folder is made"""
    backend: Literal["local", "ray"] = "local"
    """where jobs run: processes of this machine, or Ray tasks of one CPU each"""
    address: str = "local"
    """the Ray cluster: auto, host:port, ray://host:port; or local, a Ray of this machine alone"""
    num_gpus: float = 0
    """the fraction of a GPU that Ray gives a job"""


@dataclass
class CompareOptions:
    """Compare the learning curves of runs: tables, pictures, CSV."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """folders that hold runs, at any depth, or reference CSVs; such CSVs themselves; reports"""
    metric: str | None = None
    """TensorBoard tag to compare (default: the return of the training episodes)"""
    threshold: float | None = None
    """threshold for every run (default: the suite's for its own runs, gymnasium's for others)"""
    published: Path | None = None
    """CSV of published results to set beside ours (default: benchmarks/reference/published.csv)"""
    out: Path = Path("report")
    """folder of the report"""
    html: bool = False
    """write the report as a page for a browser, too: report.html"""


@dataclass
class SpeedOptions:
    """Measure how fast scripts train, and the environment alone."""

    scripts: tyro.conf.Positional[tuple[str, ...]] = ()
    """scripts, such as ppo_clip (default: all)"""
    env_id: str = "CartPole-v1"
    """environment"""
    total_timesteps: int | None = None
    """steps of a training, half of them warm-up (default: 20,000; off-policy: 2,000 updates)"""
    repeats: int = 5
    """trainings measured, after one that is not"""
    out: Path | None = None
    """JSON file (default: benchmarks/runs/speed-<env>.json)"""
