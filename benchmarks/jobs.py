"""Jobs: how a suite lists them, what stands in their folders, and how one is started here."""

import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from . import ROOT, BadInput

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
SCRIPT_COMMAND = "python {script} --env-id {env_id} --seed {seed} --run-dir ."
SUITE_KEYS = {"seeds", "cells"}
CELL_KEYS = {"script", "command", "name", "env_id", "steps", "flags", "seeds", "threshold"}


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

    def manifest(self) -> dict:
        """What manifest.json records of the job; empty if there is none."""
        path = self.dir / "manifest.json"
        if not path.exists():
            return {}
        return json.loads(path.read_text())

    def finished(self) -> bool:
        """Whether this very command line has run to its end in the job's folder."""
        manifest = self.manifest()
        return manifest.get("complete", False) and manifest["command"] == list(self.command)


# ---------------------------------------------------------------- suites


def parse_seeds(text: str) -> list[int]:
    """`1-3,7` is [1, 2, 3, 7]. Raises BadInput for anything else."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise BadInput(f"seeds {text!r}: expected something like 1-5 or 1,3,7-9")
    seeds = []
    for part in text.split(","):
        ends = part.split("-")
        seeds.extend(range(int(ends[0]), int(ends[-1]) + 1))
    return seeds


def read_suite(path: Path, seeds: str | None = None, suite_dir: Path = Path("runs")) -> list[Job]:
    """The jobs of a suite, those with the smallest seed first. Their folders lie in `suite_dir`.

    `seeds` replace the suite's and the cells'. Raises BadInput if the file is no suite.
    """
    try:
        suite = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: {error}") from error
    check_keys(suite, SUITE_KEYS, str(path))
    jobs = {}
    for number, cell in enumerate(suite.get("cells", []), 1):
        where = f"{path}, cell {number}"
        check_cell(cell, where)
        cell_seeds = seeds or cell.get("seeds") or suite.get("seeds", "")
        for seed in parse_seeds(str(cell_seeds)):
            job = make_job(cell, seed, suite_dir, where)
            if job.dir in jobs:
                raise BadInput(f"{where}: {job.dir.name} is there twice; set name")
            jobs[job.dir] = job
    if not jobs:
        raise BadInput(f"{path}: no cells")
    return sorted(jobs.values(), key=lambda job: job.seed)


def check_keys(table: dict, known: set[str], where: str) -> None:
    """Raise BadInput if the table has a key that is not known."""
    unknown = table.keys() - known
    if unknown:
        raise BadInput(f"{where}: unknown key {', '.join(sorted(unknown))}")


def check_cell(cell: dict, where: str) -> None:
    """Raise BadInput if the cell lacks what a job needs, or says it twice."""
    check_keys(cell, CELL_KEYS, where)
    has_script = "script" in cell
    has_command = "command" in cell
    has_algorithm = has_script or "name" in cell
    if "env_id" not in cell or has_script == has_command or not has_algorithm:
        raise BadInput(f"{where}: needs env_id, and either script or command and name")


def make_job(cell: dict, seed: int, suite_dir: Path, where: str) -> Job:
    """The job of a cell and a seed. Raises BadInput if the command asks for a key it has not."""
    template = cell.get("command") or SCRIPT_COMMAND
    if "script" in cell and "steps" in cell:
        template += " --total-timesteps {steps}"
    entries = {**cell, "seed": seed}
    command = []
    for word in shlex.split(f"{template} {cell.get('flags', '')}"):
        try:
            command.append(word.format(**entries))
        except (LookupError, ValueError) as error:
            raise BadInput(f"{where}: {template}: {error} is no key of the cell") from error
    algorithm = cell.get("name") or Path(cell["script"]).stem
    folder = re.sub("[:/]", "-", f"{cell['env_id']}__{algorithm}__{seed}")
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
    temporary = job.dir / "manifest.tmp"
    temporary.write_text(json.dumps({**entries, **identity}, indent=2))
    os.replace(temporary, job.dir / "manifest.json")


def begin_attempt(job: Job, attempt: int, facts: dict) -> None:
    """Clear away what an earlier attempt left, and record that a new one has begun."""
    shutil.rmtree(job.dir, ignore_errors=True)
    job.dir.mkdir(parents=True)
    entries = {**facts, "complete": False, "attempts": attempt, "start": utc_now()}
    write_manifest(job, entries)


def end_attempt(job: Job, exit_status: int) -> bool:
    """Record how an attempt has ended, and return whether it did what it should."""
    has_summary = (job.dir / "summary.json").exists()
    complete = exit_status == 0 and (has_summary or not job.writes_summary)
    outcome = {"complete": complete, "end": utc_now(), "exit_status": exit_status}
    write_manifest(job, {**job.manifest(), **outcome})
    return complete


# ---------------------------------------------------------------- processes


def resolve(command: tuple[str, ...]) -> list[str]:
    """The command as this machine executes it: with this Python, scripts relative to ROOT.

    Raises BadInput if there is no such script or program.
    """
    words = []
    for word in command:
        if word.endswith(".py"):
            path = ROOT / word
            if not path.is_file():
                raise BadInput(f"no script {path}")
            words.append(str(path))
        elif word == "python":
            words.append(sys.executable)
        else:
            words.append(word)
    if not shutil.which(words[0]):
        raise BadInput(f"no program {words[0]}")
    return words


def start_process(job: Job) -> subprocess.Popen:
    """Start a job on this machine, in its own folder. Its output goes to log.txt there."""
    harness = os.getpid()

    def die_with_the_harness() -> None:
        if sys.platform == "linux":
            # The kernel kills the job when the thread that started it, the main one, has died.
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != harness:  # the harness died before that call
            os._exit(1)

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (job.dir / "log.txt").open("w") as log:
        return subprocess.Popen(
            resolve(job.command),
            cwd=job.dir,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches the harness alone, which passes it on
            preexec_fn=die_with_the_harness,
        )


def stop_processes(processes: list[subprocess.Popen]) -> None:
    """End the processes that still run. Each has ten seconds to end in good order."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
