"""The Ray back end. A job is a task of one CPU; Ray decides where and when it runs.

A task returns the job's folder, which is written where the command was given.
"""

import contextlib
import functools
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from . import ROOT, BadInput, this_machine
from .jobs import Job, local_processes, stop_processes, utc_now, write_manifest


@dataclass
class Outcome:
    """What a task returns."""

    exit_status: int
    manifest: dict
    """the job's, with what the node adds: machine, versions, start"""
    files: dict[str, bytes]
    """the contents of the job's folder by relative path"""


@ray.remote(num_cpus=1)  # Ray runs it again, up to three times, if a node is lost
def run_on_node(job: Job, manifest: dict) -> Outcome:
    """Run a job in a temporary folder of this node."""
    workers = min(node_cpus(), manifest["workers"])
    node_facts = {**this_machine(), "start": utc_now(), "workers": workers}
    prefix = f"{job.dir.name}-"
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder,
        local_processes() as start_process,
    ):
        process = start_process(replace(job, dir=Path(folder)))
        try:
            while process.poll() is None:
                # Ray cancels by a KeyboardInterrupt, which would not end process.wait().
                time.sleep(0.05)
        finally:
            stop_processes([process])
        files = {}
        for path in Path(folder).rglob("*"):
            if path.is_file():
                files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return Outcome(process.returncode, {**manifest, **node_facts}, files)


def node_cpus() -> int:
    """The number of CPUs that Ray counts on this node."""
    node_id = ray.get_runtime_context().get_node_id()
    [node] = [node for node in ray.nodes() if node["NodeID"] == node_id]
    return int(node["Resources"]["CPU"])


class Task:
    """A job as a Ray task. It has what the harness uses of a `Popen`."""

    def __init__(self, job: Job, num_gpus: float):
        self.job = job
        self.returncode = None
        self.ref = run_on_node.options(num_gpus=num_gpus).remote(job, job.manifest())
        self.future = self.ref.future()

    def poll(self) -> int | None:
        """The exit status, or None while the job runs. It is 1 if Ray could not run the job.

        Once there is a status, the job's files are in its folder.
        """
        if not self.future.done():
            return None
        try:
            outcome = self.future.result()
        except ray.exceptions.RayError as error:
            files = {"log.txt": str(error).encode(errors="replace")}
            outcome = Outcome(1, self.job.manifest(), files)
        write_manifest(self.job, outcome.manifest)
        for name, content in outcome.files.items():
            path = self.job.dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.returncode = outcome.exit_status
        return self.returncode

    def terminate(self) -> None:
        ray.cancel(self.ref)

    def kill(self) -> None:
        ray.cancel(self.ref, force=True)

    def wait(self, seconds: float) -> None:
        """Wait until the task has ended. Raises subprocess.TimeoutExpired."""
        unfinished = futures.wait([self.future], seconds).not_done
        if unfinished:
            raise subprocess.TimeoutExpired(self.job.command, seconds)


@contextlib.contextmanager
def connect(address: str, num_gpus: float, log: Path) -> Iterator[Callable[[Job], Task]]:
    """Connect to Ray for as long as the jobs run. Gives the function that starts a job.

    A Ray of this machine finds the repository where it is. A cluster's nodes get a copy of it,
    without what .gitignore names. `log` gets what Ray prints, as when a node is lost.
    Raises BadInput if there is no Ray at the address, or if it has too few GPUs.
    """
    if address == "local":
        options = {"include_dashboard": False}
    else:
        options = {"runtime_env": {"working_dir": str(ROOT)}}
    with log.open("w", buffering=1, encoding="utf-8") as file, contextlib.redirect_stdout(file):
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR", **options)
        except (OSError, RuntimeError, ValueError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise BadInput(f"--address {address}: {first_line}") from error
        try:
            if num_gpus > ray.cluster_resources().get("GPU", 0):
                raise BadInput(f"--num-gpus {num_gpus}: Ray has no GPU at {address}")
            yield functools.partial(Task, num_gpus=num_gpus)
        finally:
            ray.shutdown()
