"""Run a suite: every job a process with a folder of its own, as many at once as there are cores, here or by Ray."""

import collections
import contextlib
import ctypes
import fcntl
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from . import ROOT, BadInput, provenance

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
SCRIPT_COMMAND = "python {script} --env-id {env_id} --seed {seed} --run-dir ."
CELL_KEYS = {"script", "command", "name", "env_id", "steps", "flags", "seeds", "threshold"}


@dataclass(frozen=True)
class Job:
    env_id: str
    algorithm: str
    seed: int
    threshold: float | None
    command: tuple[str, ...]
    """words; `python` and scripts are still to be resolved, so that a manifest names no machine's paths"""
    ours: bool
    """whether a summary.json is what proves that it came to its end"""
    dir: Path

    def manifest(self) -> dict:
        path = self.dir / "manifest.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def finished(self) -> bool:
        """Whether this very command line has run to its end in the job's folder."""
        manifest = self.manifest()
        return manifest.get("complete", False) and manifest["command"] == list(self.command)


def parse_seeds(text: str) -> list[int]:
    """`1-3,7` is [1, 2, 3, 7]."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise BadInput(f"seeds {text!r}: expected something like 1-5 or 1,3,7-9")
    ends = [[int(number) for number in part.split("-")] for part in text.split(",")]
    return [seed for first, *last in ends for seed in range(first, (last or [first])[0] + 1)]


def read_suite(path: Path, seeds: str | None = None, runs_dir: Path = Path("runs")) -> list[Job]:
    """The jobs of a suite, the first seed of every cell first."""
    try:
        suite = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: {error}") from error
    if unknown := suite.keys() - {"seeds", "cells"}:
        raise BadInput(f"{path}: unknown key {', '.join(sorted(unknown))}")
    jobs = {}
    for number, cell in enumerate(suite.get("cells", []), 1):
        where = f"{path}, cell {number}"
        if unknown := cell.keys() - CELL_KEYS:
            raise BadInput(f"{where}: unknown key {', '.join(sorted(unknown))}")
        if "env_id" not in cell or ("script" in cell) == ("command" in cell) or not cell.keys() & {"script", "name"}:
            raise BadInput(f"{where}: needs env_id, and either script or command and name")
        template = cell.get("command") or SCRIPT_COMMAND + " --total-timesteps {steps}" * ("steps" in cell)
        words = shlex.split(f"{template} {cell.get('flags', '')}")
        name = cell.get("name") or Path(cell["script"]).stem
        for seed in parse_seeds(str(seeds or cell.get("seeds") or suite.get("seeds", ""))):
            try:
                command = tuple(word.format(**cell | {"seed": seed}) for word in words)
            except (LookupError, ValueError) as error:
                raise BadInput(f"{where}: {template}: {error} is no key of the cell") from error
            folder = runs_dir / re.sub("[:/]", "-", f"{cell['env_id']}__{name}__{seed}")
            if folder in jobs:
                raise BadInput(f"{where}: {folder.name} is there twice; set name")
            jobs[folder] = Job(cell["env_id"], name, seed, cell.get("threshold"), command, "script" in cell, folder)
    if not jobs:
        raise BadInput(f"{path}: no cells")
    return sorted(jobs.values(), key=lambda job: job.seed)


def resolve(command: tuple[str, ...]) -> list[str]:
    """The command as it is executed: this Python, scripts relative to the repository's root."""
    words = [str(ROOT / word) if word.endswith(".py") else word for word in command]
    for word in words:
        if word.endswith(".py") and not Path(word).is_file():
            raise BadInput(f"no script {word}")
    if words[0] != "python" and not shutil.which(words[0]):
        raise BadInput(f"no program {words[0]}")
    return [sys.executable if word == "python" else word for word in words]


def write_manifest(job: Job, **entries) -> None:
    """Whole or not at all: a kill leaves the old manifest or the new one."""
    identity = {name: getattr(job, name) for name in ("env_id", "algorithm", "seed", "threshold", "command")}
    temporary = job.dir / "manifest.tmp"
    temporary.write_text(json.dumps(entries | identity, indent=2))
    os.replace(temporary, job.dir / "manifest.json")


def start(job: Job) -> subprocess.Popen:
    """Start a job on this machine, in its own folder, where its output goes to log.txt.

    This is all that knows where a job runs; cluster.py has the other back end's.
    """
    harness = os.getpid()

    def die_with_the_harness() -> None:
        if sys.platform == "linux":  # a signal at the death of the thread that started the job: of the main thread
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != harness:  # it died before that
            os._exit(1)

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (job.dir / "log.txt").open("w") as log:
        return subprocess.Popen(
            resolve(job.command),
            cwd=job.dir,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,  # so that Ctrl-C reaches the harness alone, which passes it on
            preexec_fn=die_with_the_harness,
        )


def stop(processes: list[subprocess.Popen]) -> None:
    """End what still runs: a script ends in good order, unless that takes longer than ten seconds."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def begin(job: Job, attempts: int, facts: dict) -> None:
    """Clear away what an earlier attempt left, record that there is a new one."""
    shutil.rmtree(job.dir, ignore_errors=True)
    job.dir.mkdir(parents=True)
    write_manifest(job, **facts, complete=False, attempts=attempts, start=now())


def end(job: Job, exit_status: int) -> bool:
    """Record how a job ended; whether it did what it should."""
    summary = job.dir / "summary.json"
    complete = exit_status == 0 and (summary.exists() or not job.ours)
    write_manifest(job, **job.manifest() | {"complete": complete, "end": now(), "exit_status": exit_status})
    return complete


def execute(jobs: list[Job], start: Callable[[Job], subprocess.Popen], workers: int, facts: dict, bar: tqdm) -> int:
    """Run all jobs, a failing one twice; a report of each that failed. However it ends, no job outlives it."""
    waiting, running, attempts, failures = collections.deque(jobs), {}, collections.Counter(), []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                attempts[job] += 1
                begin(job, attempts[job], facts)
                running[job] = start(job)
            for job, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                complete = end(job, process.returncode)
                if not complete and attempts[job] == 1:
                    waiting.appendleft(job)
                    continue
                if not complete:
                    reason = f"exit status {process.returncode}" if process.returncode else "no summary.json"
                    last = (job.dir / "log.txt").read_text(errors="replace").splitlines()[-10:]
                    failures.append(f"{job.dir.name} failed twice, {reason}; the end of {job.dir}/log.txt:")
                    bar.write("\n    ".join([failures[-1], *last]), file=sys.stderr)
                bar.update()
            done = len(jobs) - len(waiting) - len(running) - len(failures)
            bar.set_postfix_str(f"{done} done, {len(failures)} failed, {len(running)} under way")
            time.sleep(0.05)
    finally:
        stop([*running.values()])
    return len(failures)


def back_end(name: str, address: str, num_gpus: float, suite_dir: Path) -> contextlib.AbstractContextManager:
    """A context in which there is what starts a job, on this machine or by Ray, which is imported only then."""
    if name == "local":
        return contextlib.nullcontext(start)
    try:
        from . import cluster
    except ModuleNotFoundError as error:
        raise BadInput(f"--backend ray: {error}; pip install ray") from error
    return cluster.connect(address, num_gpus, suite_dir / "ray.log")


def run(
    suite: Path,
    seeds: str | None,
    workers: int | None,
    only: str | None,
    dry_run: bool,
    runs_dir: Path,
    backend: str,
    address: str,
    num_gpus: float,
) -> int:
    """Run the jobs of a suite that are not finished yet; exit status 0, or 1 if a job failed."""
    if workers is not None and workers < 1:
        raise BadInput(f"--workers must be at least 1, not {workers}")
    if backend == "local" and (address != "local" or num_gpus):
        raise BadInput("--address and --num-gpus need --backend ray")
    if not 0 <= num_gpus <= 1:
        raise BadInput(f"--num-gpus must be from 0 to 1, not {num_gpus}")
    suite_dir = runs_dir / suite.stem
    jobs = [job for job in read_suite(suite, seeds, suite_dir) if fnmatch.fnmatch(job.dir.name, f"*{only or ''}*")]
    if not jobs:
        raise BadInput(f"--only {only}: no such job in {suite}")
    for job in jobs:
        resolve(job.command)
    if dry_run:
        for job in jobs:
            print("finished" if job.finished() else "to do   ", job.dir.name, " ", shlex.join(job.command))
        return 0

    suite_dir.mkdir(parents=True, exist_ok=True)
    lock = (suite_dir / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BadInput(f"{suite_dir}: another harness is at work in it") from error
    left = [job for job in jobs if not job.finished()]
    workers = workers or (os.cpu_count() if backend == "local" else len(left))
    for job in set(jobs) - set(left):  # a threshold can change without a new run
        if job.manifest()["threshold"] != job.threshold:
            write_manifest(job, **job.manifest())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts it in the background has it ignored
    tqdm.monitor_interval = 0  # its thread and a fork do not go together
    layout = "{desc}: {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}"
    try:
        with (
            back_end(backend if left else "local", address, num_gpus, suite_dir) as start_job,
            tqdm(total=len(left), desc=suite.stem, bar_format=layout, smoothing=0, disable=None) as bar,
        ):
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has set its own
            failed = execute(left, start_job, workers, provenance() | {"workers": workers}, bar)
    except KeyboardInterrupt:
        print(f"Interrupted; the same command goes on from here; {suite_dir}", file=sys.stderr)
        return 130
    counts = f"{len(left) - failed} done, {len(jobs) - len(left)} finished before, {failed} failed"
    print(f"{suite.stem}: {counts}; {suite_dir}")
    return 1 if failed else 0
