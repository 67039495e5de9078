"""Jobs: how a suite lists them, what stands in their folders, and how one is started here."""

import ast
import contextlib
import functools
import hashlib
import io
import json
import os
import re
import reprlib
import shlex
import shutil
import subprocess
import sys
import tokenize
import tomllib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import psutil

from . import ROOT, BadInput
from .files import (
    COUNT,
    NAME,
    NUMBER,
    NUMBER_OR_NULL,
    TABLE,
    TEXT,
    TEXT_OR_NULL,
    TRUTH,
    WHOLE_NUMBER,
    WORDS,
    Damaged,
    Kind,
    check_table,
    explain,
    file_name,
    read_json,
    wrong_entry,
)
from .watchman import MARK, end_tree, find_marked

WINDOWS = sys.platform == "win32"
SCRIPT_COMMAND = "python {script} --env-id {env_id} --seed {seed} --run-dir ."
# Flags of a script that a suite sets by another entry, and that entry.
SET_BY = {
    "--env-id": "env_id",
    "--seed": "seeds",
    "--total-timesteps": "steps",
    "--run-dir": "--runs-dir of the command",
}

SEEDS = Kind("a text such as 1-5", (str, int))
CELLS = Kind("a list", (list,))
SCRIPT = Kind("the name of a .py file", (str,), lambda name: name.endswith(".py"))
COMMAND = Kind("a command line", (str,), lambda command: command.strip() != "")
SUITE_ENTRIES = {"seeds": SEEDS, "cells": CELLS}
CELL_ENTRIES = {
    "script": SCRIPT,
    "command": COMMAND,
    "name": NAME,
    "env_id": NAME,
    "steps": COUNT,
    "flags": TEXT,
    "seeds": SEEDS,
    "threshold": NUMBER,
}
MANIFEST = "manifest.json"
UNFINISHED_MANIFEST = "manifest.tmp"  # while it is being written
CHECKPOINT = "checkpoint.pt"  # what a script's --resume goes on from
LONGEST_FILE_NAME = 255  # bytes
MAX_SEEDS = 10_000  # of a cell: more are a slip of the pen
MANIFEST_IDENTITY = {"env_id": NAME, "algorithm": NAME, "seed": WHOLE_NUMBER}
MANIFEST_FACTS = {
    "threshold": NUMBER_OR_NULL,
    "command": WORDS,
    "commit": TEXT_OR_NULL,
    "script": TEXT_OR_NULL,
    "versions": TABLE,
    "machine": TABLE,
    "workers": COUNT,
    "resumed": COUNT,
    "start": TEXT,
    "end": TEXT,
}


@dataclass(frozen=True)
class Job:
    """One run of a command: an environment, an algorithm, a seed, and a folder of its own."""

    env_id: str
    algorithm: str
    seed: int
    threshold: float | None
    command: tuple[str, ...]
    """words; where the job runs, `resolve` finds the Python and the script that they name"""
    writes_summary: bool
    """whether the command is a script of ours, which proves by a summary.json that it has ended"""
    dir: Path

    @property
    def script(self) -> str | None:
        """The Python file that the command runs, relative to ROOT; None if it runs none."""
        scripts = [word for word in self.command if is_script(word)]
        return scripts[0] if scripts else None

    def manifest(self) -> dict:
        """What manifest.json records of the job; empty if there is none, or if it is damaged."""
        path = self.dir / MANIFEST
        if not path.exists():
            return {}
        try:
            return read_manifest(path)
        except Damaged as error:
            print(f"{error}: the job counts as not finished", file=sys.stderr)
            return {}

    def finished(self) -> bool:
        """Whether this very command line has run to its end in the job's folder."""
        manifest = self.manifest()
        return manifest.get("complete", False) and manifest.get("command") == list(self.command)


# ---------------------------------------------------------------- suites


def parse_seeds(text: str, where: str = "seeds") -> list[int]:
    """`1-3,7` is [1, 2, 3, 7].

    Raises BadInput for anything else, with a message that begins with `where`.
    """
    said = f"{where} {reprlib.repr(text)}"
    if not re.fullmatch(r"\d{1,18}(-\d{1,18})?(,\d{1,18}(-\d{1,18})?)*", text):
        raise BadInput(f"{said}: expected something like 1-5 or 1,3,7-9")
    seeds = []
    for part in text.split(","):
        ends = part.split("-")
        first = int(ends[0])
        last = int(ends[-1])
        if last < first:
            raise BadInput(f"{said}: {last} comes before {first}")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise BadInput(f"{said}: more than {MAX_SEEDS:,}")
        seeds.extend(range(first, last + 1))
    if len(set(seeds)) < len(seeds):
        raise BadInput(f"{said}: a seed is there twice")
    return seeds


def read_suite(path: Path, seeds: str | None = None, suite_dir: Path = Path("runs")) -> list[Job]:
    """The jobs of a suite, those with the smallest seed first. Their folders lie in `suite_dir`.

    `seeds` replace the suite's and the cells'. Raises BadInput if the file is no suite.
    """
    try:
        suite = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: {explain(error)}") from error
    check_entries(suite, SUITE_ENTRIES, str(path))
    jobs = {}
    for number, cell in enumerate(suite.get("cells", []), 1):
        where = f"{path}, cell {number}"
        check_cell(cell, where)
        if seeds is not None:
            cell_seeds = parse_seeds(seeds, "--seeds")
        else:
            text = str(cell.get("seeds", suite.get("seeds", "")))
            cell_seeds = parse_seeds(text, f"{where}: seeds")
        for seed in cell_seeds:
            job = make_job(cell, seed, suite_dir, where)
            key = job.dir.name.casefold()  # macOS and Windows do not tell A from a in files' names
            if key in jobs:
                raise BadInput(f"{where}: {job.dir.name} is there twice; set name")
            jobs[key] = job
    if not jobs:
        raise BadInput(f"{path}: no cells")
    return sorted(jobs.values(), key=lambda job: job.seed)


def check_entries(table: dict, kinds: dict[str, Kind], where: str) -> None:
    """Raise BadInput if the table has a key without a kind, or an entry that is not of its kind."""
    wrong = wrong_entry(table, {}, kinds)
    if wrong is not None:
        raise BadInput(f"{where}: {wrong}")
    unknown = table.keys() - kinds.keys()
    if unknown:
        raise BadInput(f"{where}: unknown key {', '.join(sorted(unknown))}")


def check_cell(cell: dict, where: str) -> None:
    """Raise BadInput if the cell lacks what a job needs, or says it twice."""
    check_entries(cell, CELL_ENTRIES, where)
    has_script = "script" in cell
    has_command = "command" in cell
    has_algorithm = has_script or "name" in cell
    if "env_id" not in cell or has_script == has_command or not has_algorithm:
        raise BadInput(f"{where}: needs env_id, and either script or command and name")


def check_flags(flags: str, where: str) -> None:
    """Raise BadInput if a cell's flags say what another entry of the suite does."""
    for word in shlex.split(flags):
        flag = word.split("=")[0].replace("_", "-")
        if flag in SET_BY:
            raise BadInput(f"{where}: flags has {word}, which {SET_BY[flag]} sets")


def make_job(cell: dict, seed: int, suite_dir: Path, where: str) -> Job:
    """The job of a cell and a seed.

    Raises BadInput if the command is no command line, or uses a {key} that the cell lacks.
    """
    template = cell.get("command") or SCRIPT_COMMAND
    if "script" in cell and "steps" in cell:
        template += " --total-timesteps {steps}"
    if "steps" in cell and "{steps" not in template:
        raise BadInput(f"{where}: {template} does nothing with steps; say {{steps}} in it")
    command_line = f"{template} {cell.get('flags', '')}"
    try:
        words = shlex.split(command_line)
    except ValueError as error:
        raise BadInput(f"{where}: {command_line}: {explain(error)}") from error
    entries = {**cell, "seed": seed}
    command = []
    for word in words:
        try:
            command.append(word.format(**entries))
        except KeyError as error:
            raise BadInput(f"{where}: {template}: {error} is no key of the cell") from error
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise BadInput(f"{where}: {word}: {explain(error)}") from error
    if any("\0" in word for word in command):
        raise BadInput(f"{where}: {command_line!r} is no command line")
    if "script" in cell:
        check_flags(cell.get("flags", ""), where)
    algorithm = cell.get("name") or Path(cell["script"]).stem
    folder = file_name(f"{cell['env_id']}__{algorithm}__{seed}")
    if len(folder.encode()) > LONGEST_FILE_NAME:
        raise BadInput(f"{where}: env_id and name are too long for a folder's name")
    return Job(
        env_id=cell["env_id"],
        algorithm=algorithm,
        seed=seed,
        threshold=cell.get("threshold"),
        command=tuple(command),
        writes_summary="script" in cell,
        dir=suite_dir / folder,
    )


# ---------------------------------------------------------------- folders


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Foreign(Damaged):
    """A manifest.json of another program."""


def read_manifest(path: Path) -> dict:
    """What a manifest.json records. Raises Damaged if that is not what the harness writes.

    It is Foreign if it has no entry `complete`, which the harness always writes.
    """
    manifest = read_json(path)
    if not TABLE.holds(manifest) or "complete" not in manifest:
        raise Foreign(f"{path} is not the harness's")
    check_table(manifest, {"complete": TRUTH}, MANIFEST_FACTS, path)
    if manifest["complete"]:
        check_table(manifest, MANIFEST_IDENTITY, {}, path)
    return manifest


def write_manifest(job: Job, entries: dict) -> None:
    """Write manifest.json: the entries and what identifies the job.

    The file is renamed into place. So a kill leaves the old manifest or the new one, never half.
    """
    identity = {
        "env_id": job.env_id,
        "algorithm": job.algorithm,
        "seed": job.seed,
        "threshold": job.threshold,
        "command": job.command,
    }
    temporary = job.dir / UNFINISHED_MANIFEST
    temporary.write_text(json.dumps({**entries, **identity}, indent=2), encoding="utf-8")
    os.replace(temporary, job.dir / MANIFEST)


def check_may_be_cleared(folder: Path) -> None:
    """Raise BadInput if a job's folder is there, and the harness has not made it.

    What the harness makes has a manifest of its own from the first moment on, or is empty.
    """
    if folder.is_symlink():
        raise BadInput(f"{folder}: is a link, and a job needs a folder of its own; remove it")
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir()}
    if names and not names & {MANIFEST, UNFINISHED_MANIFEST}:
        files = ", ".join(sorted(names)[:3])
        raise BadInput(f"{folder}: has no {MANIFEST}, so {files} are not a job's; move them away")
    if MANIFEST in names:
        try:
            read_manifest(folder / MANIFEST)
        except Foreign as error:
            raise BadInput(f"{error}, so the folder is not a job's; move it away") from error
        except Damaged:
            pass  # it may well have been the harness's


def remove(path: Path) -> None:
    """Remove a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def begin_attempt(job: Job, attempt: int, facts: dict) -> None:
    """Record that a new attempt has begun, and clear away what an earlier one left.

    The manifest comes first. So a kill never leaves files without one.
    """
    job.dir.mkdir(parents=True, exist_ok=True)
    manifest = job.dir / MANIFEST
    if manifest.is_dir():
        remove(manifest)
    script = None if job.script is None else digest(job.script)
    state = {"complete": False, "attempts": attempt, "start": utc_now()}
    entries = {**facts, "script": script, **state}
    write_manifest(job, entries)
    for path in job.dir.iterdir():
        if path != manifest:
            remove(path)


def can_go_on(job: Job, facts: dict) -> bool:
    """Whether an interrupted attempt has left a checkpoint that the job can go on from.

    It goes on with the same command, script and packages, or not at all: a run has one of each.
    """
    if not job.writes_summary or not (job.dir / CHECKPOINT).is_file():
        return False
    manifest = job.manifest()
    interrupted = "complete" in manifest and "exit_status" not in manifest
    same = (
        manifest.get("command") == list(job.command)
        and manifest.get("script") == digest(job.script)
        and manifest.get("versions") == facts["versions"]
    )
    return interrupted and same


def continue_attempt(job: Job, facts: dict) -> Job:
    """Record that an interrupted attempt goes on. Returns the job with the command that does so."""
    manifest = job.manifest()
    resumed = manifest.get("resumed", 0) + 1
    write_manifest(job, {**manifest, **facts, "resumed": resumed})
    program = job.command[: job.command.index(job.script) + 1]
    return replace(job, command=(*program, "--resume", "."))


def end_attempt(job: Job, exit_status: int) -> bool:
    """Record how an attempt has ended, and return whether it did what it should."""
    has_summary = (job.dir / "summary.json").exists()
    complete = exit_status == 0 and (has_summary or not job.writes_summary)
    outcome = {"complete": complete, "end": utc_now(), "exit_status": exit_status}
    write_manifest(job, {**job.manifest(), **outcome})
    return complete


# ---------------------------------------------------------------- processes


def is_script(word: str) -> bool:
    """Whether a word of a command names a Python file."""
    return word.endswith(".py") and not word.startswith("-")


def digest(script: str) -> str:
    """The first 12 digits of the SHA-256 of a script's program; its path is relative to ROOT.

    Scripts that differ in comments, docstrings and empty lines alone have the same.
    """
    text = (ROOT / script).read_text(encoding="utf-8")  # line ends are \n on every system
    with contextlib.suppress(SyntaxError):  # another Python's program: its text counts
        text = without_comments(text)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def without_comments(text: str) -> str:
    """A program without comments, docstrings and empty lines. Raises SyntaxError if it is none."""
    tree = ast.parse(text)
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(tree):
        # A docstring, or the string below a field that describes it.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            for row in range(node.lineno, node.end_lineno + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def resolve(command: tuple[str, ...]) -> list[str]:
    """The command as this machine executes it: with this Python, scripts relative to ROOT.

    Raises BadInput if there is no such script or program.
    """
    words = list(command)
    if words[0] == "python":
        words[0] = sys.executable
    for i, word in enumerate(words):
        if is_script(word):
            path = ROOT / word
            if not path.is_file():
                raise BadInput(f"no script {path}")
            words[i] = str(path)
    if not shutil.which(words[0]):
        raise BadInput(f"no program {words[0]}")
    return words


class LocalProcess(subprocess.Popen):
    """A job's process on this machine. Those that it has started inherit its mark."""

    def __init__(self, command: list[str], mark: str, environment: dict[str, str], **options):
        self.mark = mark
        self.started: list[psutil.Process] = []
        """the job's descendants when it was asked to end"""
        super().__init__(command, env={**environment, MARK: mark}, **options)

    def terminate(self) -> None:
        """Ask the job to end in good order. Windows cannot ask: there it is killed."""
        if WINDOWS:
            self.kill()
            return
        if self.poll() is None:
            with contextlib.suppress(psutil.Error):
                self.started = psutil.Process(self.pid).children(recursive=True)
        super().terminate()

    def kill(self) -> None:
        """End the job, and what it has started, even if the job itself has ended.

        Its descendants are found in two ways, as neither shows all of them:
        - by their parents; but a process whose parent has ended is nobody's child;
        - by the mark; but macOS hides what is in the environment of its own programs.
        """
        if self.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended just now
                end_tree(psutil.Process(self.pid))
        for process in [*self.started, *find_marked({self.mark})]:
            end_tree(process)


def apart_from_ctrl_c() -> dict:
    """What Popen needs so that Ctrl-C reaches the harness alone, which passes it on."""
    if WINDOWS:
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"process_group": 0}


@contextlib.contextmanager
def local_processes() -> Iterator[Callable[[Job], LocalProcess]]:
    """Gives the function that starts a job on this machine.

    A watchman ends the jobs if this process dies before the block has ended.
    """
    command = [sys.executable, "-m", "benchmarks.watchman"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        **apart_from_ctrl_c(),
    ) as watchman:
        yield functools.partial(start_process, watchman)


def tell(watchman: subprocess.Popen, message: str) -> None:
    """Write a line to the watchman. If somebody has killed it, the jobs go on without."""
    with contextlib.suppress(OSError):
        watchman.stdin.write(f"{message}\n".encode())


def start_process(watchman: subprocess.Popen, job: Job) -> LocalProcess:
    """Start a job on this machine, in its own folder. Its output is added to log.txt there."""
    command = resolve(job.command)
    mark = uuid.uuid4().hex
    environment = {
        "PYTHONIOENCODING": "utf-8",  # so that a job on Windows can print what it likes
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }
    tell(watchman, f"start {mark}")
    with (job.dir / "log.txt").open("a", encoding="utf-8") as log:
        process = LocalProcess(
            command,
            mark,
            environment,
            cwd=job.dir,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            **apart_from_ctrl_c(),
        )
    tell(watchman, f"pid {process.pid}")
    return process


def stop_processes(processes: list[subprocess.Popen]) -> None:
    """End the processes, and what they have started. Each has ten seconds to end in good order."""
    for process in processes:
        process.terminate()
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
