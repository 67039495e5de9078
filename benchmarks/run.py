"""Run a suite. Each job is a process with a folder of its own; a core runs one at a time."""

import collections
import contextlib
import fnmatch
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from . import BadInput, provenance
from .command_line import INTERRUPTED
from .files import check_encodable, check_folder, explain
from .jobs import (
    Job,
    begin_attempt,
    can_go_on,
    check_may_be_cleared,
    continue_attempt,
    end_attempt,
    local_processes,
    read_suite,
    resolve,
    stop_processes,
    write_manifest,
)
from .options import RunOptions

BAR_LAYOUT = "{desc}: {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}"
POLL_SECONDS = 0.05
LOG_LINES = 10  # of a failed job's log that are shown
CANNOT_RUN = 126  # the exit status that a shell has for a program that the system cannot run


class Execution:
    """Runs jobs, a few at once. A job that fails is tried once more."""

    def __init__(
        self,
        jobs: list[Job],
        start_job: Callable[[Job], subprocess.Popen],
        workers: int,
        facts: dict,
        bar: tqdm,
        resumes: bool,
    ):
        """`facts` are what every job's manifest says of the machine; `bar` counts the jobs.

        `resumes`: an interrupted job goes on from its checkpoint, if it has one.
        """
        self.start_job = start_job
        self.workers = workers
        self.facts = facts
        self.bar = bar
        self.resumes = resumes
        self.waiting = collections.deque(jobs)
        self.running: dict[Job, subprocess.Popen] = {}
        self.attempts = collections.Counter()
        self.done = 0
        self.failed = 0

    def run(self) -> int:
        """Run all jobs and return how many failed. However it ends, no job outlives it."""
        try:
            while self.waiting or self.running:
                self.start_waiting()
                self.collect_ended()
                self.show_progress()
                time.sleep(POLL_SECONDS)
        finally:
            stop_processes(list(self.running.values()))
        return self.failed

    def start_waiting(self) -> None:
        """Start jobs until all workers are busy."""
        while self.waiting and len(self.running) < self.workers:
            job = self.waiting.popleft()
            self.attempts[job] += 1
            if self.resumes and can_go_on(job, self.facts):
                to_start = continue_attempt(job, self.facts)
            else:
                begin_attempt(job, self.attempts[job], self.facts)
                to_start = job
            try:
                self.running[job] = self.start_job(to_start)
            except OSError as error:  # the system cannot run this program
                (job.dir / "log.txt").write_text(explain(error), encoding="utf-8")
                self.record_end(job, CANNOT_RUN)

    def collect_ended(self) -> None:
        """Record the jobs that have ended since the last look."""
        for job, process in list(self.running.items()):
            if process.poll() is not None:
                del self.running[job]
                process.kill()  # what it has started, and left running
                self.record_end(job, process.returncode)

    def record_end(self, job: Job, exit_status: int) -> None:
        """Record how an attempt has ended. A first one that failed is tried once more."""
        complete = end_attempt(job, exit_status)
        if not complete and self.attempts[job] == 1:
            self.waiting.appendleft(job)
            return
        if complete:
            self.done += 1
        else:
            self.failed += 1
            self.bar.write(failure(job, exit_status), file=sys.stderr)
        self.bar.update()

    def show_progress(self) -> None:
        counts = f"{self.done} done, {self.failed} failed, {len(self.running)} under way"
        self.bar.set_postfix_str(counts)


def failure(job: Job, exit_status: int) -> str:
    """Why a job has failed, and the end of its log."""
    reason = f"exit status {exit_status}" if exit_status else "no summary.json"
    log = job.dir / "log.txt"
    try:
        last_lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    except OSError as error:
        last_lines = [explain(error)]
    head = f"{job.dir.name} failed twice, {reason}; the end of {log}:"
    return "\n    ".join([head, *last_lines])


def back_end(options: RunOptions, suite_dir: Path) -> contextlib.AbstractContextManager:
    """A context that gives the function that starts a job. Ray is imported only if it is asked for.

    Raises BadInput if Ray is not installed.
    """
    if options.backend == "local":
        return local_processes()
    try:
        from . import cluster
    except ModuleNotFoundError as error:
        raise BadInput(f"--backend ray: {error}; pip install ray") from error
    return cluster.connect(options.address, options.num_gpus, suite_dir / "ray.log")


def check_options(options: RunOptions) -> None:
    """Raise BadInput if an option's value is impossible, or does not go with another's."""
    if options.workers is not None and options.workers < 1:
        raise BadInput(f"--workers must be at least 1, not {options.workers}")
    if options.backend == "local" and (options.address != "local" or options.num_gpus):
        raise BadInput("--address and --num-gpus need --backend ray")
    if not 0 <= options.num_gpus <= 1:
        raise BadInput(f"--num-gpus must be from 0 to 1, not {options.num_gpus}")


def select_jobs(options: RunOptions, suite_dir: Path) -> list[Job]:
    """The suite's jobs whose names match --only.

    Raises BadInput if there are none, if a script or program does not exist, if a job's folder
    cannot be written, or if its name or command line cannot be encoded here.
    """
    pattern = f"*{options.only or ''}*"
    jobs = []
    for job in read_suite(options.suite, options.seeds, suite_dir):
        if fnmatch.fnmatch(job.dir.name, pattern):
            for text in (str(job.dir), *job.command):
                check_encodable(text, str(options.suite))
            resolve(job.command)
            check_folder(job.dir, "--runs-dir")
            jobs.append(job)
    if not jobs:
        raise BadInput(f"--only {options.only}: no such job in {options.suite}")
    return jobs


@contextlib.contextmanager
def locked(suite_dir: Path) -> Iterator[None]:
    """Lock the suite's folder for as long as the block runs. Raises BadInput if it is locked.

    The lock is SQLite's on an empty database. It works on every system, and is released when the
    process ends, however that happens.
    """
    path = suite_dir / "lock"
    try:
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    except sqlite3.Error as error:
        raise BadInput(f"{path}: {explain(error)}") from error
    with contextlib.closing(connection):
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise BadInput(f"{suite_dir}: another harness is at work in it") from error
            raise BadInput(f"{path}: {explain(error)}") from error
        yield


def finished_jobs(jobs: list[Job]) -> set[Job]:
    """The jobs that are finished. Raises BadInput if another's folder is not the harness's."""
    finished = {job for job in jobs if job.finished()}
    for job in jobs:
        if job not in finished:
            check_may_be_cleared(job.dir)
    return finished


def update_threshold(job: Job) -> None:
    """Write the suite's threshold to a finished job's manifest: it can change without a new run."""
    manifest = job.manifest()
    if manifest.get("threshold") != job.threshold:
        write_manifest(job, manifest)


def run_suite(options: RunOptions) -> int:
    """Run the jobs of a suite that are not finished yet.

    Returns the exit status: 0, or 1 if a job failed, or 130 after Ctrl-C. Raises BadInput.
    """
    check_options(options)
    suite_name = options.suite.stem
    suite_dir = options.runs_dir / suite_name
    jobs = select_jobs(options, suite_dir)
    if options.dry_run:
        finished = finished_jobs(jobs)
        for job in jobs:
            state = "finished" if job in finished else "to do   "
            print(state, job.dir.name, " ", shlex.join(job.command))
        return 0

    suite_dir.mkdir(parents=True, exist_ok=True)
    with locked(suite_dir):
        finished = finished_jobs(jobs)
        for job in finished:
            update_threshold(job)
        unfinished = [job for job in jobs if job not in finished]
        try:
            failed = run_jobs(unfinished, options, suite_dir)
        except KeyboardInterrupt:
            message = f"Interrupted; the same command goes on from here; {suite_dir}"
            print(message, file=sys.stderr)
            return INTERRUPTED
    done = len(unfinished) - failed
    counts = f"{done} done, {len(finished)} finished before, {failed} failed"
    print(f"{suite_name}: {counts}; {suite_dir}")
    return 1 if failed else 0


def run_jobs(jobs: list[Job], options: RunOptions, suite_dir: Path) -> int:
    """Run the jobs on the back end that is asked for, and return how many failed.

    Raises KeyboardInterrupt on SIGINT and SIGTERM.
    """
    if not jobs:
        return 0
    if options.workers is not None:
        workers = options.workers
    elif options.backend == "local":
        workers = os.cpu_count()
    else:
        workers = len(jobs)  # Ray decides how many run at once
    facts = {**provenance(), "workers": workers}
    # A shell that starts the harness in the background has it ignore SIGINT. With this a
    # kill -INT ends the suite there, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tqdm.monitor_interval = 0  # tqdm's thread and a fork do not go together
    bar = tqdm(
        total=len(jobs),
        desc=options.suite.stem,
        bar_format=BAR_LAYOUT,
        smoothing=0,
        disable=None,
    )
    with back_end(options, suite_dir) as start_job, bar:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # after Ray, which sets its own
        # Ray runs a job in a temporary folder, where an interrupted one leaves nothing.
        resumes = options.backend == "local"
        return Execution(jobs, start_job, workers, facts, bar, resumes).run()
