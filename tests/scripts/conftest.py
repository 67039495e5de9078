import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed

from helpers import (
    ROOT,
    SCRIPTS,
    complete_in_fork,
    process_environment,
    run_script_in_fork,
    short_run_flags,
)


@pytest.fixture(params=SCRIPTS)
def script(request) -> str:
    """Each script's name in turn."""
    return request.param


@pytest.fixture
def module(script):
    """Each script in turn, imported."""
    return importlib.import_module(script)


@pytest.fixture
def process_group():
    """This process alone in a group: ppo_ddp.py updates its statistics by those of all in it."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def run(tmp_path):
    """Runs a script's command line in an empty folder and returns the finished process."""

    def run(
        script: str, *flags, cwd=tmp_path, path=None, fresh=False, **extra: str
    ) -> subprocess.CompletedProcess:
        path = path or ROOT / f"{script}.py"
        argv = [str(flag) for flag in flags]
        if fresh or extra:
            return subprocess.run(
                [sys.executable, str(path), *argv],
                cwd=cwd,
                env=process_environment(**extra),
                capture_output=True,
                text=True,
                timeout=300,
            )
        return complete_in_fork(run_script_in_fork, path, argv, cwd)

    return run


@pytest.fixture
def completed_run(run):
    """Runs a script's command line as `run` does; the script must end with exit status 0."""

    def completed_run(script: str, *flags, **options) -> subprocess.CompletedProcess:
        done = run(script, *flags, **options)
        assert done.returncode == 0, done.stderr
        return done

    return completed_run


@pytest.fixture
def start(tmp_path):
    """Starts a script's command line in an empty folder; kills what still runs after the test."""
    processes = []

    def start(script: str, *flags) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / f"{script}.py"), *map(str, flags)],
            cwd=tmp_path,
            env=process_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def short_run(completed_run, tmp_path):
    """Completes a short run of a script and returns its folder."""

    def short_run(script: str, *flags, run_dir="r", env_id=None, **options) -> Path:
        short = short_run_flags(script, env_id, tmp_path)
        completed_run(script, *short, *flags, "--run-dir", run_dir, **options)
        return tmp_path / run_dir

    return short_run


@pytest.fixture
def train_here(tmp_path, monkeypatch):
    """Trains with a script's `train` in this process and returns the run's folder."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers

    def train_here(module, run_dir="r", **args) -> Path:
        module.train(module.Args(run_dir=str(tmp_path / run_dir), **args))
        return tmp_path / run_dir

    return train_here
