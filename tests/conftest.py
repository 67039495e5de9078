import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import FORKSERVER, ROOT, SCRIPTS, process_environment, run_script_in_fork
from readability import figures


@pytest.fixture(params=SCRIPTS)
def script(request) -> str:
    """Each script's name in turn."""
    return request.param


@pytest.fixture
def module(script):
    """Each script in turn, imported."""
    return importlib.import_module(script)


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
        process = FORKSERVER.Process(target=run_script_in_fork, args=(path, argv, cwd))
        process.start()
        process.join(300)
        process.kill()
        stdout = Path(f"{cwd}.stdout").read_text()
        stderr = Path(f"{cwd}.stderr").read_text()
        return subprocess.CompletedProcess([str(path), *argv], process.exitcode, stdout, stderr)

    return run


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


def pytest_terminal_summary(terminalreporter):
    """How the scripts read: figures to look at, which no test asks for."""
    for row in figures():
        terminalreporter.write_line(row)
