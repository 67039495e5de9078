"""Logs of runs that never were, as ours, CleanRL and Stable-Baselines3 write them; and what is made
of them.
"""

import csv
import json
import time
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter


def write_log(
    folder: Path,
    points,
    tag: str = "charts/episodic_return",
    purge_step: int | None = None,
    **files,
) -> None:
    """Events with a point (step, value, seconds) each, between others; and JSON files by name.

    `purge_step` is what a resumed run gives its writer: from there on it does points again.
    """
    writer = SummaryWriter(folder, purge_step=purge_step)
    begun = time.time()
    for step, value, seconds in points:
        writer.add_scalar("charts/SPS", 1000, step)
        writer.add_scalar(tag, value, step, walltime=begun + seconds)
        writer.add_scalar(f"{tag}_of_another_kind", -1, step)
    writer.close()
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def straight_line(slope: float, end: int = 1000, count: int = 50) -> list[tuple]:
    """Points of a return that is `slope` times the step, at 100 steps a second."""
    steps = np.linspace(end / count, end, count).astype(int).tolist()
    return [(step, slope * step, step / 100) for step in steps]


def run_config(env_id: str, exp_name: str, seed: int) -> dict:
    """What a run's config.json says of it."""
    return {"script": "a2c", "args": {"env_id": env_id, "exp_name": exp_name, "seed": seed}}


def job_manifest(env_id: str, algorithm: str, seed: int = 1, **more) -> dict:
    """What the harness writes beside a run that is complete."""
    return {"complete": True, "env_id": env_id, "algorithm": algorithm, "seed": seed, **more}


# What a manifest says of where a job ran.
MEASURED = {
    "commit": "c" * 40,
    "versions": {"torch": "2"},
    "machine": {"processor": "abacus", "cores": 2, "system": "Linux"},
    "workers": 2,
}
MEASURED_SENTENCE = (
    f"Measured at commit {'c' * 40}: abacus, 2 cores, Linux, 2 jobs at once; torch 2."
)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
