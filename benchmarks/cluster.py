"""The Ray back end: a job is a task of one CPU; Ray decides where and when; the job's folder is the task's result."""

import contextlib
import functools
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path

import ray

from . import ROOT, BadInput, machine
from .run import Job, now, start, stop, write_manifest


@ray.remote(num_cpus=1)  # Ray runs it again, up to three times, where a node is lost
def run_on_node(job: Job, manifest: dict) -> tuple[int, dict, dict[str, bytes]]:
    """Run a job in a temporary folder: its exit status, its manifest with the node's entries, its files by name."""
    node_id = ray.get_runtime_context().get_node_id()
    [cpus] = [int(node["Resources"]["CPU"]) for node in ray.nodes() if node["NodeID"] == node_id]
    manifest |= machine() | {"start": now(), "workers": min(cpus, manifest["workers"])}
    with tempfile.TemporaryDirectory(prefix=f"{job.dir.name}-") as folder:
        process = start(replace(job, dir=Path(folder)))
        try:
            while process.poll() is None:
                time.sleep(0.05)  # Ray cancels by a KeyboardInterrupt, which would not end a wait
        finally:
            stop([process])
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        return process.returncode, manifest, {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class Task:
    """A job as a Ray task, with what the harness uses of a `Popen`."""

    def __init__(self, job: Job, num_gpus: float):
        self.job, self.returncode = job, None
        self.ref = run_on_node.options(num_gpus=num_gpus).remote(job, job.manifest())
        self.future = self.ref.future()

    def poll(self) -> int | None:
        """The exit status, once the job has ended and its files are in its folder; 1 if Ray could not run it."""
        if self.future.done():
            try:
                self.returncode, manifest, files = self.future.result()
            except ray.exceptions.RayError as error:
                self.returncode, manifest, files = 1, self.job.manifest(), {"log.txt": str(error).encode()}
            write_manifest(self.job, **manifest)
            for name, content in files.items():
                path = self.job.dir / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return self.returncode

    def terminate(self) -> None:
        ray.cancel(self.ref)

    def kill(self) -> None:
        ray.cancel(self.ref, force=True)

    def wait(self, seconds: float) -> None:
        if futures.wait([self.future], seconds).not_done:
            raise subprocess.TimeoutExpired(self.job.command, seconds)


@contextlib.contextmanager
def connect(address: str, num_gpus: float, log: Path) -> Iterator[Callable[[Job], Task]]:
    """Ray for as long as the jobs run: what starts a job there. What Ray prints, as when a node is lost, is in `log`.

    A Ray of this machine finds the repository where it is; a cluster's nodes get a copy, without what .gitignore names.
    """
    local = {"include_dashboard": False}
    remote = {"runtime_env": {"working_dir": str(ROOT)}}
    with log.open("w", buffering=1) as file, contextlib.redirect_stdout(file):
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR", **local if address == "local" else remote)
        except (OSError, RuntimeError, ValueError) as error:
            raise BadInput(f"--address {address}: {str(error).splitlines()[0]}") from error
        try:
            if num_gpus > ray.cluster_resources().get("GPU", 0):
                raise BadInput(f"--num-gpus {num_gpus}: Ray has no GPU at {address}")
            yield functools.partial(Task, num_gpus=num_gpus)
        finally:
            ray.shutdown()
