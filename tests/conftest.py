import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
sys.path[:0] = [str(ROOT), str(TESTS)]
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))


def having(*names: str) -> list:
    """The scripts that define all of `names`, imported, as parameters: a shared block is tested wherever it stands."""
    modules = [importlib.import_module(script) for script in SCRIPTS]
    return [pytest.param(m, id=m.__name__) for m in modules if all(hasattr(m, name) for name in names)]


def pytest_terminal_summary(terminalreporter):
    from test_repository import changed_lines

    rungs = ", ".join(f"{lower} → {upper} {lines}" for (lower, upper), lines in changed_lines().items())
    terminalreporter.write_line(f"lines changed along the ladder: {rungs}")


@pytest.fixture(params=SCRIPTS)
def script(request) -> str:
    """Each script's name in turn."""
    return request.param


@pytest.fixture
def module(script):
    """Each script in turn, imported."""
    return importlib.import_module(script)


def environment(**extra: str) -> dict[str, str]:
    """Of a script's process: one thread, and the tiny environments within reach."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), **extra}


@pytest.fixture
def run(tmp_path):
    """Runs a script's command line in an empty folder and returns the finished process."""

    def run(script: str, *flags, cwd=tmp_path, path=None, **extra: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(path or ROOT / f"{script}.py"), *map(str, flags)]
        return subprocess.run(command, cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def start(tmp_path):
    """Starts a script's command line in an empty folder; whatever still runs at the end of the test is killed."""
    processes = []

    def start(script: str, *flags) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / f"{script}.py"), *map(str, flags)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment(), **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()
