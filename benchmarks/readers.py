"""Read learning curves: TensorBoard folders of ours, CleanRL's and Stable-Baselines3's, and reference CSVs."""

import csv
import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event

from . import BadInput

RETURN_TAGS = ("charts/episodic_return", "rollout/ep_rew_mean")  # ours and CleanRL's; Stable-Baselines3's


@dataclass
class Curve:
    """What one run logged, in order of its steps."""

    env_id: str
    algorithm: str
    seed: int
    step: np.ndarray
    """(points,) environment steps"""
    value: np.ndarray
    """(points,) mean return, or whichever metric was asked for"""
    seconds: np.ndarray
    """(points,) since the run began"""
    source: Path
    reference: bool = False
    evaluation: float | None = None
    """mean return of the final evaluation, if there was one"""
    manifest: dict = field(default_factory=dict)
    """of `benchmarks run`, if it ran this"""


def read_events(path: Path, tags: tuple[str, ...]) -> np.ndarray:
    """Steps, values and seconds since the file was opened of the scalars of any of `tags`, (3, points).

    An events file is a sequence of records: length (8 bytes), its checksum (4), an Event, its checksum (4). Only those
    in which a tag was found are parsed. A last record cut short by a kill is left out.
    """
    data, at, points = path.read_bytes(), 0, []
    found = (match.start() for match in re.finditer(b"|".join(re.escape(tag.encode()) for tag in tags), data))
    here, begun = next(found, len(data)), None
    while at + 12 <= len(data):
        start, at = at + 12, at + 16 + struct.unpack_from("<Q", data, at)[0]
        if at > len(data):
            break
        if here < at or begun is None:
            event = Event.FromString(data[start : at - 4])
            begun = begun or event.wall_time
            seconds = event.wall_time - begun
            points += [(event.step, value.simple_value, seconds) for value in event.summary.value if value.tag in tags]
            while here < at:
                here = next(found, len(data))
    return np.array(points, dtype=float).reshape(-1, 3).T


def read_folder(folder: Path, tags: tuple[str, ...]) -> np.ndarray:
    """The same of all events files of a folder: each after the first goes on where a resumed run took up."""
    joined = np.empty((3, 0))
    for path in sorted(folder.glob("events.out.tfevents.*")):
        points = read_events(path, tags)
        if points.size and joined.size:
            joined = joined[:, joined[0] < points[0, 0]]  # what was logged after the checkpoint was done again
            points[2] += joined[2, -1] if joined.size else 0
        joined = np.concatenate([joined, points], axis=1)
    return joined


def identify(folder: Path, manifest: dict) -> tuple[str, str, int] | None:
    """Environment, algorithm and seed of a TensorBoard folder."""
    if manifest:
        return manifest["env_id"], manifest["algorithm"], manifest["seed"]
    if (folder / "config.json").exists():
        args = json.loads((folder / "config.json").read_text())["args"]
        return args["env_id"], args["exp_name"], args["seed"]
    if match := re.fullmatch(r"(.+?)__(.+)__(\d+)__\d+", folder.name):  # CleanRL: env__exp__seed__time
        return match[1], match[2], int(match[3])
    if match := re.fullmatch(r"(.+)_(\d+)", folder.name):  # Stable-Baselines3: algorithm_number, in the environment's
        return folder.resolve().parent.name, match[1], int(match[2])
    return None


def read_csv(path: Path) -> list[Curve]:
    """A reference file `<source>-<algorithm>-<env>.csv` with columns run (env__algorithm__seed), step, episodic_return
    and seconds."""
    runs = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            runs.setdefault(row["run"], []).append([float(row[key]) for key in ("step", "episodic_return", "seconds")])
    curves = []
    for run, points in runs.items():
        env_id, _, seed = run.split("__")
        algorithm = path.stem.removesuffix(f"-{env_id}")
        curves.append(Curve(env_id, algorithm, int(seed), *np.array(sorted(points)).T, source=path, reference=True))
    return curves


def read_runs(paths: tuple[Path, ...], metric: str | None) -> tuple[list[Curve], list[str]]:
    """All curves found under the paths, and a note on each run that is left out.

    An algorithm found under several of the paths is told apart by their names, so that two versions can be compared.
    """
    tags, curves, notes = (metric,) if metric else RETURN_TAGS, {}, []
    of_returns = metric in (None, *RETURN_TAGS)
    for path in paths:
        if not path.exists():
            raise BadInput(f"{path}: no such folder or file")
        manifests = {file.parent: json.loads(file.read_text()) for file in sorted(path.rglob("manifest.json"))}
        notes += [f"{folder} failed or is unfinished: left out" for folder, m in manifests.items() if not m["complete"]]
        found = {file.parent for file in path.rglob("events.out.tfevents.*") if "wandb" not in file.parts}
        for folder in sorted(found):
            manifest = next((manifests[above] for above in (folder, *folder.parents) if above in manifests), {})
            config, summary = folder / "config.json", folder / "summary.json"
            if not manifest.get("complete", True):
                continue
            identity, points = identify(folder, manifest), read_folder(folder, tags)
            if config.exists() and not summary.exists():
                notes.append(f"{folder} is unfinished: left out")
            elif identity is None:
                notes.append(f"{folder}: its name does not tell what it is: left out")
            elif not points.size:
                notes.append(f"{folder}: no {' or '.join(tags)} in its log: left out")
            else:
                evaluation = json.loads(summary.read_text())["eval_return_mean"] if summary.exists() else None
                curve = Curve(*identity, *points, folder, False, evaluation if of_returns else None, manifest)
                if older := curves.get((path, *identity)):
                    notes.append(f"{older.source}: left out for {folder}, of the same environment, algorithm and seed")
                curves[path, *identity] = curve
        for file in sorted(path.rglob("*.csv")) if path.is_dir() else [path]:
            if of_returns and file.read_text().startswith("run,step,episodic_return,seconds\n"):
                curves |= {(path, curve.env_id, curve.algorithm, curve.seed): curve for curve in read_csv(file)}
    if not curves:
        raise BadInput(f"no finished runs in {', '.join(map(str, paths))}" + (f" with {metric}" if metric else ""))
    places = {}
    for path, *group, _ in curves:
        places.setdefault(tuple(group), set()).add(path)
    twofold = {algorithm for (_, algorithm), where in places.items() if len(where) > 1}
    for (path, _, algorithm, _), curve in curves.items():
        curve.algorithm += f" ({path.resolve().name})" if algorithm in twofold else ""
    return list(curves.values()), notes
