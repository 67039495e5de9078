"""Read learning curves: TensorBoard folders, reference CSVs, and the reports made of such.

The folders are those of our scripts, of CleanRL and of Stable-Baselines3.
"""

import csv
import functools
import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from . import BadInput
from .files import (
    COUNT,
    LARGEST,
    NAME,
    NUMBER_OR_NULL,
    TABLE,
    TEXT,
    WHOLE_NUMBER,
    Damaged,
    check_regular,
    check_table,
    explain,
    file_name,
    printable,
    read_table,
)
from .jobs import MANIFEST, Foreign, read_manifest

MEASUREMENT = {"commit", "machine", "versions", "workers"}  # entries of a manifest
OUR_RETURN = "charts/episodic_return"  # CleanRL's, too
SB3_RETURN = "rollout/ep_rew_mean"
RETURN_TAGS = (OUR_RETURN, SB3_RETURN)
OUR_PROGRESS = "charts/SPS"  # our scripts log it to their end, even if no episode ends
WHOLE_LOG = 0.95  # a finished run's log reaches at least this share of its training
SUMMARY_FIGURES = {"eval_return_mean": NUMBER_OR_NULL}  # null of a run that was not evaluated
SUMMARY_COUNTS = {"global_step": COUNT}
CONFIG_OF_OURS = {"script": TEXT, "args": TABLE}
CONFIG_IDENTITY = {"env_id": NAME, "exp_name": NAME, "seed": WHOLE_NUMBER}
CSV_COLUMNS = ["run", "step", "episodic_return", "seconds"]
RUN_KEY = ["environment", "algorithm", "seed"]  # the first columns of runs.csv and curves.csv
RUNS_COLUMNS = [
    *RUN_KEY,
    "steps",
    "final return",
    "evaluation",
    "trained",
    "threshold",
    "commit",
    "script",
    "measured with",
]
CURVES_COLUMNS = [*RUN_KEY, "step", "seconds"]  # and the metric
EVENTS = "events.out.tfevents."  # how the name of an events file begins
MAX_NOTES = 5  # that are shown where nothing is left to compare
WANDB_RUN = re.compile(r"(offline-)?run-\d{8}_\d{6}-.+")  # a run's folder in wandb/
# What a writer with a purge_step puts in its first record: a resumed run, which takes up its log.
TAKES_UP = Event(session_log=SessionLog(status=SessionLog.START)).SerializeToString()


@dataclass
class Scalars:
    """The points of a TensorBoard tag, in the order in which they were logged."""

    step: np.ndarray
    """(points,) environment steps"""
    value: np.ndarray
    """(points,)"""
    seconds: np.ndarray
    """(points,) since the run began"""

    def before(self, step: float) -> "Scalars":
        """The points that were logged before a step."""
        earlier = self.step < step
        return Scalars(self.step[earlier], self.value[earlier], self.seconds[earlier])

    def finite(self) -> "Scalars":
        """The points without those that are not a number, infinite, or nearly so."""
        columns = np.stack([self.step, self.value, self.seconds])
        good = (np.abs(columns) <= LARGEST).all(axis=0)
        return Scalars(self.step[good], self.value[good], self.seconds[good])

    def followed_by(self, later: "Scalars") -> "Scalars":
        """These points, then those of a run that was resumed and counts its seconds anew."""
        so_far = self.seconds[-1] if self.seconds.size else 0.0
        return Scalars(
            step=np.concatenate([self.step, later.step]),
            value=np.concatenate([self.value, later.value]),
            seconds=np.concatenate([self.seconds, so_far + later.seconds]),
        )


@dataclass(frozen=True)
class Identity:
    """What a run is a run of."""

    env_id: str
    algorithm: str
    seed: int


@dataclass
class Curve:
    """What one run logged, in order of its steps."""

    env_id: str
    algorithm: str
    seed: int
    step: np.ndarray
    """(points,) environment steps"""
    value: np.ndarray
    """(points,) mean return, or another metric if one was asked for"""
    seconds: np.ndarray
    """(points,) since the run began"""
    path: Path
    """the folder or file that it was read from"""
    reference: bool = False
    """whether it is from a reference CSV"""
    evaluation: float | None = None
    """mean return of the final evaluation, if there was one"""
    trained: int | None = None
    """environment steps of the training, if the run says it: its last point is a little before"""
    manifest: dict = field(default_factory=dict)
    """manifest.json, if `benchmarks run` has run this; of it, a report has but three entries"""
    measured_with: str | None = None
    """processor, system and versions, if the manifest says them"""


def is_return(metric: str | None) -> bool:
    """Whether a metric is the episode return, which it is by default."""
    return metric is None or metric in RETURN_TAGS


# ---------------------------------------------------------------- TensorBoard's files


def read_events(path: Path, tags: tuple[str, ...]) -> tuple[Scalars, int | None]:
    """The scalars of any of the tags in an events file, and the step at which it takes up.

    Seconds are since the file was opened. The step is the purge_step of the file's writer: what
    other files have logged from there on was done again. It is None if the writer had none.

    An events file is a sequence of records: length (8 bytes), its checksum (4), an Event, its
    checksum (4). Only records that contain a tag or TAKES_UP are parsed. A last record that was
    cut short by a kill is left out. Raises Damaged if a checksum is wrong.
    """
    check_regular(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path}: {explain(error)}") from error
    wanted = [TAKES_UP, *[tag.encode() for tag in tags]]
    any_wanted = re.compile(b"|".join(re.escape(text) for text in wanted))
    opened = None
    takes_up = None
    points = []
    start = 0
    while start + 12 <= len(data):
        record = f"{path}: the record at byte {start:,}"
        length, checksum = struct.unpack_from("<QL", data, start)
        if checksum != length_checksum(length):
            raise Damaged(f"{record} is damaged")
        event_start = start + 12
        event_end = event_start + length
        start = event_end + 4
        if start > len(data):
            break
        if opened is not None and not any_wanted.search(data, event_start, event_end):
            continue
        content = data[event_start:event_end]
        [checksum] = struct.unpack_from("<L", data, event_end)
        if checksum != masked_crc32c(content):
            raise Damaged(f"{record} is damaged")
        try:
            event = Event.FromString(content)
        except DecodeError as error:
            raise Damaged(f"{record} is no event") from error
        if opened is None:
            opened = event.wall_time
        if event.session_log.status == SessionLog.START:
            takes_up = event.step
        for value in event.summary.value:
            if value.tag in tags and value.HasField("simple_value"):
                points.append((event.step, value.simple_value, event.wall_time - opened))
    columns = np.array(points, dtype=float).reshape(-1, 3)
    scalars = Scalars(step=columns[:, 0], value=columns[:, 1], seconds=columns[:, 2])
    return scalars, takes_up


@functools.cache
def length_checksum(length: int) -> int:
    """The checksum of a record's length. Most records of a file have one of a few lengths."""
    return masked_crc32c(struct.pack("<Q", length))


def read_folder(folder: Path, tags: tuple[str, ...]) -> Scalars:
    """The scalars of all events files of a folder; seconds since the run began.

    Each file after the first goes on where a resumed run took up: at the step that it names, or
    else at that of its first point. What the files before it logged from there on was done again,
    and is left out. Raises Damaged if a file is damaged.
    """
    nothing = np.empty(0)
    joined = Scalars(nothing, nothing, nothing)
    for path in sorted(folder.glob(f"{EVENTS}*")):
        scalars, takes_up = read_events(path, tags)
        if takes_up is None and scalars.step.size:
            takes_up = scalars.step[0]
        if takes_up is not None:
            joined = joined.before(takes_up).followed_by(scalars)
    return joined


def identify(folder: Path, manifest: dict) -> Identity | None:
    """Environment, algorithm and seed of a TensorBoard folder; None if nothing tells them.

    Raises Damaged if its config.json does not.
    """
    if manifest:
        return Identity(manifest["env_id"], manifest["algorithm"], manifest["seed"])
    config = folder / "config.json"
    if config.exists():
        args = read_table(config, {"args": TABLE}, {})["args"]
        check_table(args, CONFIG_IDENTITY, {}, config)
        return Identity(args["env_id"], args["exp_name"], args["seed"])
    cleanrl = re.fullmatch(r"(.+?)__(.+)__(\d+)__\d+", folder.name)  # env__exp__seed__time
    if cleanrl:
        return Identity(cleanrl[1], cleanrl[2], int(cleanrl[3]))
    named_by_harness = re.fullmatch(r".+__.+__\d+", folder.name)  # env__algorithm__seed
    if named_by_harness or (folder / "summary.json").exists():
        return None  # it is a run of ours that has lost its files
    sb3 = re.fullmatch(r"(.+)_(\d+)", folder.name)  # env/algorithm_number
    if sb3:
        return Identity(folder.resolve().parent.name, sb3[1], int(sb3[2]))
    return None


def closest_manifest(folder: Path, manifests: dict[Path, dict]) -> dict:
    """The manifest of the job in whose folder `folder` lies; empty if it is no job's."""
    for ancestor in (folder, *folder.parents):
        if ancestor in manifests:
            return manifests[ancestor]
    return {}


def is_wandbs(path: Path) -> bool:
    """Whether a file is one that Weights & Biases keeps, as in wandb/run-20260102_030405-abc."""
    pairs = zip(path.parts, path.parts[1:])
    return any(above == "wandb" and WANDB_RUN.fullmatch(name) for above, name in pairs)


def check_points(scalars: Scalars, path: Path) -> None:
    """Raise Damaged if the points are not such as a run logs."""
    if scalars.finite().step.size < scalars.step.size:
        raise Damaged(f"{path}: not all of its points are numbers within ±1e30")
    if scalars.step[0] < 0 or scalars.step[-1] == 0 or (np.diff(scalars.step) < 0).any():
        raise Damaged(f"{path}: its steps do not go up from 0")


def check_whole(folder: Path, scalars: Scalars, trained: int) -> None:
    """Raise Damaged if a finished run's log ends well before its training did.

    Points may end earlier than the log: a return is logged only where an episode has ended.
    """
    if scalars.step[-1] >= WHOLE_LOG * trained:
        return
    progress = read_folder(folder, (OUR_PROGRESS,))
    end = max(scalars.step[-1], progress.step.max(initial=0))
    if end < WHOLE_LOG * trained:
        raise Damaged(f"{folder}: its log ends at step {end:,.0f} of {trained:,}")


def read_run(folder: Path, manifest: dict, metric: str | None) -> Curve | str:
    """The curve of a TensorBoard folder, or a note on why there is none.

    Raises Damaged if a file is damaged.
    """
    tags = RETURN_TAGS if metric is None else (metric,)
    summary = folder / "summary.json"
    if (folder / "config.json").exists() and not summary.exists():
        return f"{folder} is unfinished: left out"
    identity = identify(folder, manifest)
    if identity is None:
        return f"{folder}: no manifest.json, config.json or name tells what it is: left out"
    scalars = read_folder(folder, tags)
    if not is_return(metric):
        scalars = scalars.finite()  # not every loss is known from the beginning
    if not scalars.step.size:
        return f"{folder}: no {' or '.join(tags)} in its log: left out"
    check_points(scalars, folder)
    evaluation = None
    trained = None
    if summary.exists():
        figures = read_table(summary, SUMMARY_FIGURES, SUMMARY_COUNTS)
        trained = figures.get("global_step")
        if is_return(metric):
            evaluation = figures["eval_return_mean"]
    if trained is not None:
        check_whole(folder, scalars, trained)
    return Curve(
        env_id=printable(identity.env_id),
        algorithm=printable(identity.algorithm),
        seed=identity.seed,
        step=scalars.step,
        value=scalars.value,
        seconds=scalars.seconds,
        path=folder,
        evaluation=evaluation,
        trained=trained,
        manifest=manifest,
        measured_with=describe_machine(manifest) if is_measured(manifest) else None,
    )


def is_measured(manifest: dict) -> bool:
    """Whether a manifest says what a run was measured with."""
    return MEASUREMENT <= manifest.keys()


def describe_machine(manifest: dict) -> str:
    """What a run was measured with, in words."""
    machine = manifest["machine"]
    hardware = f"{machine.get('processor')}, {machine.get('cores')} cores, {machine.get('system')}"
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    workers = manifest["workers"]
    jobs = "1 job" if workers == 1 else f"{workers} jobs"
    return f"{hardware}, {jobs} at once; {versions}"


# ---------------------------------------------------------------- reference CSVs


def read_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file. Raises Damaged if it is none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise Damaged(f"{path}: {explain(error)}") from error


def read_reference(path: Path) -> list[Curve]:
    """The curves of a reference file `<source>-<algorithm>-<env>.csv`.

    Its columns are run (env__algorithm__seed), step, episodic_return and seconds. A CSV file whose
    first column is another is something else, and has no curves. Raises Damaged.
    """
    check_regular(path)
    rows = read_rows(path)
    if not rows or rows[0][:1] != CSV_COLUMNS[:1]:
        return []
    if rows[0] != CSV_COLUMNS:
        raise Damaged(f"{path}: its columns are not {', '.join(CSV_COLUMNS)}")
    runs = {}
    for number, row in enumerate(rows[1:], 2):
        try:
            [run_name, step, episodic_return, seconds] = row
            point = (float(step), float(episodic_return), float(seconds))
        except ValueError as error:
            raise Damaged(f"{path}, row {number}: {','.join(row)!r}") from error
        runs.setdefault(run_name, []).append(point)
    return [reference_curve(path, run_name, points) for run_name, points in runs.items()]


def reference_curve(path: Path, run_name: str, points: list[tuple]) -> Curve:
    """The curve of a run of a reference file. Raises Damaged."""
    named = re.fullmatch(r"(.+)__(.+)__(\d{1,18})", run_name)
    if named is None or not NAME.holds(named[1]):
        raise Damaged(f"{path}: the run {run_name!r} is not called <env>__<algorithm>__<seed>")
    columns = np.array(sorted(points))
    scalars = Scalars(step=columns[:, 0], value=columns[:, 1], seconds=columns[:, 2])
    check_points(scalars, path)
    env_id = named[1]
    return Curve(
        env_id=env_id,
        algorithm=printable(path.stem.removesuffix(f"-{file_name(env_id)}")),
        seed=int(named[3]),
        step=scalars.step,
        value=scalars.value,
        seconds=scalars.seconds,
        path=path,
        reference=True,
    )


# ---------------------------------------------------------------- reports


def metric_name(metric: str | None) -> str:
    """What a metric is called in a report."""
    return "episode return" if is_return(metric) else metric


def read_report(folder: Path, metric: str | None) -> list[Curve]:
    """The curves of the runs of which a report was made; none if the folder is no report.

    A report has them in runs.csv, a run a row, and in curves.csv, a bin of a run's steps a row.
    Raises Damaged if these files are not such as `compare` writes, or are on another metric.
    """
    runs_path = folder / "runs.csv"
    curves_path = folder / "curves.csv"
    if not runs_path.is_file() or not curves_path.is_file():
        return []
    [runs_head, *runs] = read_rows(runs_path) or [[]]
    if runs_head != RUNS_COLUMNS:
        return []
    [curves_head, *points] = read_rows(curves_path) or [[]]
    wanted = metric_name(metric)
    if curves_head != [*CURVES_COLUMNS, wanted]:
        raise Damaged(f"{curves_path}: its columns are not {', '.join(CURVES_COLUMNS)}, {wanted}")
    points_of = {}
    for row in points:
        points_of.setdefault(tuple(row[: len(RUN_KEY)]), []).append(row[len(RUN_KEY) :])
    curves = []
    for number, row in enumerate(runs, 2):
        try:
            run = dict(zip(RUNS_COLUMNS, row, strict=True))
            key = tuple(run[name] for name in RUN_KEY)
            curve = reported_curve(run, np.array(points_of[key], dtype=float), folder)
        except (KeyError, ValueError) as error:
            raise Damaged(f"{runs_path}, row {number}: {','.join(row)!r}") from error
        curves.append(curve)
    return curves


def reported_curve(run: dict[str, str], points: np.ndarray, folder: Path) -> Curve:
    """The curve of a row of runs.csv. `points` is (points, 3): step, seconds, value.

    Raises ValueError if a number is none, and Damaged if they are not such as a run logs.
    """
    step, seconds, value = points.T
    check_points(Scalars(step, value, seconds), folder / "curves.csv")
    manifest = {}
    if run["commit"] or run["measured with"]:  # the commit may be unknown
        threshold = float(run["threshold"]) if run["threshold"] else None
        manifest = {
            "commit": run["commit"] or None,
            "script": run["script"] or None,
            "threshold": threshold,
        }
    return Curve(
        env_id=run["environment"],
        algorithm=run["algorithm"],
        seed=int(run["seed"]),
        step=step,
        value=value,
        seconds=seconds,
        path=folder,
        evaluation=float(run["evaluation"]) if run["evaluation"] else None,
        trained=int(run["trained"]) if run["trained"] else None,
        manifest=manifest,
        measured_with=run["measured with"] or None,
    )


# ---------------------------------------------------------------- everything under some paths


def is_of_a_run(name: str) -> bool:
    """Whether a file of this name tells of runs, or may be a reference."""
    return name in (MANIFEST, "config.json") or name.startswith(EVENTS) or name.endswith(".csv")


def is_our_config(path: Path) -> bool:
    """Whether a config.json is one that a script of ours has written."""
    try:
        read_table(path, CONFIG_OF_OURS, {})
    except Damaged:
        return False
    return True


def overlap(sets: list[set]) -> bool:
    """Whether something is in more than one of the sets."""
    return sum(len(members) for members in sets) > len(set().union(*sets))


def different_names(paths: list[Path]) -> dict[Path, str]:
    """A name for each path: as many of its last parts as tell all of them apart."""
    parts = {path: path.resolve().parts for path in paths}
    length = 1
    while len({names[-length:] for names in parts.values()}) < len(paths):
        length += 1
    return {path: "/".join(names[-length:]) for path, names in parts.items()}


class Collection:
    """The curves found under some paths, and notes on the runs that are left out."""

    def __init__(self, metric: str | None):
        self.metric = metric
        self.curves: dict[tuple[Path, Identity], Curve] = {}
        """by the path that a curve was found under, and what it is"""
        self.found_under: dict[Path, Path] = {}
        """by a file, its links resolved: the path that it was first found under"""
        self.notes: list[str] = []
        self.damaged: list[str] = []
        """those of the notes that are on damaged files"""

    def leave_out(self, error: Damaged) -> None:
        """Note that a file is damaged."""
        note = f"{error}: left out"
        self.notes.append(note)
        self.damaged.append(note)

    def leave_out_unreadable(self, error: OSError) -> None:
        """Note that a folder cannot be read."""
        self.leave_out(Damaged(f"{error.filename}: {explain(error)}"))

    def add_path(self, path: Path) -> None:
        """Add all runs under a path. Raises BadInput if it does not exist."""
        if not path.exists():
            raise BadInput(f"{path}: no such folder or file")
        if path.is_dir():
            files = self.without_known(path, self.walk(path))
            self.add_runs(path, files)
            self.add_references(path, [file for file in files if file.name.endswith(".csv")])
            has_runs = any(found_under == path for found_under, _ in self.curves)
            if path / "runs.csv" in files and not has_runs:
                self.add_report(path)
        else:
            self.add_references(path, self.without_known(path, [path]))

    def walk(self, path: Path) -> Iterator[Path]:
        """The files under a path that tell of runs, and folders that are called so.

        What Weights & Biases keeps of a run is not among them, unless it is asked for.
        """
        for name, subfolders, files in os.walk(path, onerror=self.leave_out_unreadable):
            folder = Path(name)
            for file in (*files, *subfolders):
                if is_of_a_run(file):
                    yield folder / file
            inside = folder.relative_to(path)
            subfolders[:] = [sub for sub in subfolders if not is_wandbs(inside / sub)]

    def without_known(self, path: Path, files: Iterable[Path]) -> list[Path]:
        """The files under a path that were not found under an earlier one. Others are noted."""
        new = []
        earlier = {}  # paths, without repetition, in the order in which they are found
        for file in files:
            place = file.parent.resolve() / file.name
            if place in self.found_under:
                earlier[self.found_under[place]] = None
            else:
                self.found_under[place] = path
                new.append(file)
        for other in earlier:
            self.notes.append(f"{path}: what is in {other}, too, is counted once")
        return sorted(new)

    def add_runs(self, path: Path, files: list[Path]) -> None:
        """Add the TensorBoard folders among the files under a path."""
        manifests = self.read_manifests([file for file in files if file.name == MANIFEST])
        folders = {file.parent for file in files if file.name.startswith(EVENTS)}
        configs = [file for file in files if file.name == "config.json"]
        self.note_without_events(manifests, configs, folders)
        for folder in sorted(folders):
            manifest = closest_manifest(folder, manifests)
            if not manifest.get("complete", True):
                continue
            try:
                self.add_run(path, read_run(folder, manifest, self.metric))
            except Damaged as error:
                self.leave_out(error)
            except OSError as error:
                self.leave_out_unreadable(error)

    def read_manifests(self, files: list[Path]) -> dict[Path, dict]:
        """The manifests of jobs by their folders. A job that has not ended is noted."""
        manifests = {}
        for file in files:
            try:
                manifests[file.parent] = read_manifest(file)
            except Foreign as error:
                self.notes.append(f"{error}: ignored")
                continue
            except Damaged as error:
                manifests[file.parent] = {"complete": False}  # nobody knows
                self.leave_out(error)
                continue
            if not manifests[file.parent]["complete"]:
                self.notes.append(f"{file.parent} failed or is unfinished: left out")
        return manifests

    def note_without_events(
        self, manifests: dict[Path, dict], configs: list[Path], with_events: set[Path]
    ) -> None:
        """Note the runs, known by a manifest or a script's config, that have no events file."""
        runs = {folder for folder, manifest in manifests.items() if manifest["complete"]}
        for config in configs:
            manifest = closest_manifest(config.parent, manifests)
            if manifest.get("complete", True) and is_our_config(config):
                runs.add(config.parent)
        above_events = set()
        for folder in with_events:
            above_events |= {folder, *folder.parents}
        for folder in sorted(runs - above_events):
            self.leave_out(Damaged(f"{folder}: no TensorBoard events"))

    def add_run(self, path: Path, found: Curve | str) -> None:
        """Add a curve, or the note that is in its place."""
        if isinstance(found, str):
            self.notes.append(found)
        else:
            self.add_curve(path, found)

    def add_curve(self, path: Path, curve: Curve) -> None:
        """Add a curve, in place of an earlier one of the same run."""
        identity = Identity(curve.env_id, curve.algorithm, curve.seed)
        older = self.curves.get((path, identity))
        if older is not None:
            same = "of the same environment, algorithm and seed"
            self.notes.append(f"{older.path}: left out for {curve.path}, {same}")
        self.curves[path, identity] = curve

    def add_references(self, path: Path, files: list[Path]) -> None:
        """Add the references among CSV files under a path, or the path itself if it is a file."""
        for file in files:
            try:
                curves = read_reference(file)
                if file == path and not curves:
                    raise Damaged(f"{file}: not a reference CSV")
            except Damaged as error:
                self.leave_out(error)
                continue
            if curves and not is_return(self.metric):
                self.notes.append(f"{file}: has returns, no {self.metric}: left out")
                continue
            for curve in curves:
                self.add_curve(path, curve)

    def add_report(self, path: Path) -> None:
        """Add the runs of a report, if the path is one."""
        try:
            curves = read_report(path, self.metric)
        except Damaged as error:
            self.leave_out(error)
            return
        for curve in curves:
            self.add_curve(path, curve)

    def path_names(self) -> dict[Path, str]:
        """What each path is called where an algorithm was found under several of them.

        Folders of the same name hold parts of the same runs, and share their name. That is noted.
        But if a seed is in several of them, they are different, and so are their names.
        """
        found = {}
        for path, identity in self.curves:
            same_name = found.setdefault(path.resolve().name, {})
            same_name.setdefault(path, set()).add(identity)
        names = {}
        for name, runs in found.items():
            paths = list(runs)
            if overlap(list(runs.values())):
                names.update(different_names(paths))
                continue
            names.update(dict.fromkeys(paths, name))
            groups = [{(run.env_id, run.algorithm) for run in members} for members in runs.values()]
            if overlap(groups):
                listed = " and ".join(str(path) for path in paths)
                self.notes.append(f"{listed}: the seeds of an algorithm are put together")
        return names

    def tell_apart(self) -> None:
        """Add the path's name to the algorithms that were found under paths of several names.

        So two versions of a script can be compared.
        """
        names = self.path_names()
        found_under = {}
        for path, identity in self.curves:
            group = (identity.env_id, identity.algorithm)
            found_under.setdefault(group, set()).add(names[path])
        ambiguous = set()
        for (_, algorithm), path_names in found_under.items():
            if len(path_names) > 1:
                ambiguous.add(algorithm)
        for (path, identity), curve in self.curves.items():
            if identity.algorithm in ambiguous:
                curve.algorithm += f" ({printable(names[path])})"


def read_curves(paths: tuple[Path, ...], metric: str | None) -> tuple[list[Curve], list[str]]:
    """All curves found under the paths, and a note on each run that is left out.

    A damaged file costs what is in it alone, and gets a line on stderr, too. `metric` is a
    TensorBoard tag, None the return of the training episodes. Raises BadInput if a path does not
    exist, or if there is no curve.
    """
    collection = Collection(metric)
    for path in paths:
        collection.add_path(path)
    if not collection.curves:
        where = ", ".join(str(path) for path in paths)
        which = f" with {metric}" if metric else ""
        nothing = f"no finished runs in {where}{which}"
        raise BadInput("; ".join([nothing, *collection.notes[:MAX_NOTES]]))
    for note in collection.damaged:
        print(note, file=sys.stderr)
    collection.tell_apart()
    return list(collection.curves.values()), collection.notes
