"""What a run leaves in its folder, read back; and a file that must not be read."""

import json
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """The points (step, value) of every TensorBoard tag."""
    events = EventAccumulator(str(run_dir)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


# Bytes of TensorBoard's file after a few of a short run's iterations.
SOME_ITERATIONS = 20_000


def logged_bytes(run_dir: Path) -> int:
    """Size of the log so far, which grows long before a checkpoint is due."""
    return sum(path.stat().st_size for path in run_dir.glob("events.out.tfevents.*"))


def scalar_values(run_dir: Path, tag: str) -> list[float]:
    """The values of one TensorBoard tag, first to last."""
    return [value for _, value in scalars(run_dir)[tag]]


def checkpoint(run_dir: Path) -> dict | None:
    """The checkpoint; None where there is none yet."""
    path = run_dir / "checkpoint.pt"
    return torch.load(path, weights_only=True) if path.exists() else None


def summary(run_dir: Path) -> dict:
    """What the run wrote last."""
    return json.loads((run_dir / "summary.json").read_text())


def config(run_dir: Path) -> dict:
    """What the run wrote first: its arguments and what it ran with."""
    return json.loads((run_dir / "config.json").read_text())


def steps_taken(optimizer: dict) -> int:
    """By an optimiser's first parameter, from the optimiser's state_dict."""
    return int(next(iter(optimizer["state"].values()))["step"])


class RunsCodeWhenUnpickled:
    """In a file, what a loader must refuse."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)
