"""The harness without what only some systems have."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import benchmarks
from benchmarks.jobs import LocalProcess, read_suite
from benchmarks.plots import picture_names
from benchmarks.watchman import MARK, end_tree, find_marked
from fake_jobs import assert_refused, jobs_alive, jobs_run, manifests
from helpers import ROOT, wait_for

SOURCES = sorted((ROOT / "benchmarks").rglob("*.py"))
# Python executes this before anything else. It takes away what Windows has not.
WITHOUT_UNIX = """
import ctypes, os, signal, subprocess, sys

for name in ("fcntl", "grp", "pwd", "termios"):
    sys.modules[name] = None
for name in ("killpg", "setsid", "setpgid", "getpgid", "nice", "wait3", "wait4"):
    delattr(os, name)
del signal.SIGHUP

load = ctypes.CDLL.__init__
start = subprocess.Popen.__init__


def load_by_name(library, name, *args, **kwargs):
    if name is None:
        raise TypeError("no library without a name on Windows")
    load(library, name, *args, **kwargs)


def start_without_preexec_fn(process, *args, preexec_fn=None, **kwargs):
    if preexec_fn is not None:
        raise ValueError("preexec_fn is not supported on Windows platforms")
    start(process, *args, **kwargs)


ctypes.CDLL.__init__ = load_by_name
subprocess.Popen.__init__ = start_without_preexec_fn
"""


@pytest.fixture
def without_unix(tmp_path, monkeypatch):
    """The processes that the test starts do without what Windows has not."""
    folder = tmp_path / "first of all"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT_UNIX)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_jobs_run_where_there_is_no_unix(without_unix, suite, harness, tmp_path):
    done = harness("run", suite("A-v0", "Fails-v0", seeds="1"))
    assert done.returncode == 1 and "1 done, 0 finished before, 1 failed" in done.out, done.err
    assert manifests(tmp_path)["A-v0__fake__1"]["complete"]


def test_a_killed_harness_takes_its_jobs_with_it_where_there_is_no_unix(
    without_unix, suite, harness, tmp_path
):
    path = suite("A-v0", more=', flags = "--seconds 60"')
    process = harness("run", path, "--workers", 2, wait=False)
    wait_for(lambda: len(jobs_run(tmp_path)) == 2, process=process)
    refused = harness("run", path)
    assert refused.returncode == 2 and "another harness" in refused.err
    process.kill()
    wait_for(lambda: not jobs_alive(tmp_path), seconds=2)


# ---------------------------------------------------------------- the watchman


@pytest.fixture
def watchman():
    command = [sys.executable, "-m", "benchmarks.watchman"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True) as process:
        yield process


@pytest.fixture
def start_job():
    """Starts a process that starts another, with a mark in its environment."""
    jobs = []

    def start_job(mark: str) -> psutil.Popen:
        child = [sys.executable, "-c", "import time; time.sleep(60)"]
        program = f"import subprocess; subprocess.run({child!r})"
        command = [sys.executable, "-c", program]
        job = psutil.Popen(command, env={**os.environ, MARK: mark})
        jobs.append(job)
        wait_for(job.children)
        return job

    yield start_job
    for job in jobs:
        end_tree(job)


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, even if nobody has asked how."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("told", ["start one\npid {pid}\n", "start two\n"])
def test_the_watchman_ends_a_job_and_what_it_has_started(watchman, start_job, told):
    """By its number; or by its mark, if the harness was killed before it told the number."""
    job = start_job("two")
    [child] = job.children()
    other = start_job("three")
    watchman.stdin.write(told.format(pid=job.pid))
    watchman.stdin.flush()
    time.sleep(0.2)
    assert job.poll() is None
    watchman.communicate()  # its input ends, as when the harness has been killed
    assert job.wait(5) != 0
    wait_for(lambda: has_ended(child), seconds=5)
    assert other.poll() is None


def test_the_watchman_ends_what_a_job_has_started_and_is_nobodys_child(watchman):
    grandchild = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = [sys.executable, "-c", f"import subprocess; subprocess.Popen({grandchild!r})"]
    program = f"import subprocess, time; subprocess.run({child!r}); time.sleep(60)"
    job = LocalProcess([sys.executable, "-c", program], "four", dict(os.environ))
    wait_for(lambda: len(find_marked({"four"})) == 2 and not psutil.Process(job.pid).children())
    [orphan] = [process for process in find_marked({"four"}) if process.pid != job.pid]
    watchman.stdin.write(f"start four\npid {job.pid}\n")
    watchman.communicate()
    assert job.wait(5) != 0
    wait_for(lambda: has_ended(orphan), seconds=5)


def test_the_watchman_leaves_alone_what_has_ended(watchman):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    watchman.stdin.write(f"start one\npid {ended.pid}\n")
    ended.wait()
    watchman.communicate()
    assert watchman.returncode == 0


def test_a_job_that_does_not_end_in_good_order_is_killed_with_what_it_has_started():
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    command = [sys.executable, "-c", f"import subprocess; subprocess.run({child!r})"]
    job = LocalProcess(command, "a mark", dict(os.environ))
    wait_for(lambda: psutil.Process(job.pid).children())
    [child] = psutil.Process(job.pid).children()
    job.kill()
    assert job.wait(5) != 0
    wait_for(lambda: has_ended(child), seconds=5)
    job.kill()  # once more does no harm


def test_what_a_job_has_started_is_killed_after_the_job_and_its_parent_have_ended():
    """It is nobody's child then. It is known by its mark."""
    grandchild = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = [sys.executable, "-c", f"import subprocess; subprocess.Popen({grandchild!r})"]
    command = [sys.executable, "-c", f"import subprocess; subprocess.run({child!r})"]
    job = LocalProcess(command, "the mark of a job that has ended", dict(os.environ))
    assert job.wait(10) == 0
    [orphan] = find_marked({"the mark of a job that has ended"})
    job.kill()
    wait_for(lambda: has_ended(orphan), seconds=5)


# ---------------------------------------------------------------- files and names


def calls_without_encoding(text: str) -> list[int]:
    """Lines that open a text file in the encoding of the machine."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of_files = node.func.attr in ("open", "read_text", "write_text")
        if of_files and all(keyword.arg != "encoding" for keyword in node.keywords):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_text_files_are_utf_8_on_every_machine(path):
    assert calls_without_encoding(path.read_text(encoding="utf-8")) == []


def test_a_call_without_encoding_is_found():
    text = "path.open()\npath.open(encoding='utf-8')\npath.read_text()\nwrite_text(path, text)"
    assert calls_without_encoding(text) == [1, 3]


def test_no_folder_or_picture_has_a_name_that_windows_refuses(tmp_path):
    path = tmp_path / "s.toml"
    name = r"a:b?c*d|e<f>g\"h\\i"
    path.write_text(
        f'seeds = "1"\ncells = [{{ script = "x.py", env_id = "m:A/B", name = "{name}" }}]'
    )
    [job] = read_suite(path)
    assert job.dir.name == "m-A-B__a-b-c-d-e-f-g-h-i__1"
    assert job.env_id == "m:A/B"
    assert picture_names(['m:A/"B"']) == {'m:A/"B"': "m-A--B-.png"}


def test_a_machine_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert benchmarks.commit() is None
    json.dumps(benchmarks.provenance())


def test_what_a_job_prints_is_utf_8_on_every_machine(suite, harness, tmp_path, monkeypatch):
    """On one of ASCII, where the harness itself escapes what it shows of the log."""
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    script = tmp_path / "prints.py"
    script.write_text("import sys\nprint('−ü')\nsys.exit(sys.stdout.encoding)", encoding="utf-8")
    cell = f'{{ env_id = "A-v0", name = "n", command = "python {script}" }}'
    path = Path(suite("A-v0"))
    path.write_text(f'seeds = "1"\ncells = [{cell}]')
    done = harness("run", path)
    assert done.returncode == 1 and "\\u2212\\xfc" in done.err, done.err
    log = tmp_path / "runs" / "s" / "A-v0__n__1" / "log.txt"
    assert log.read_text(encoding="utf-8").splitlines() == ["−ü", "utf-8"]


@pytest.mark.parametrize("entry", ['name = "né"', 'name = "n", flags = "--x é"'])
def test_a_name_that_the_machine_cannot_write(harness, tmp_path, monkeypatch, entry):
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "s.toml"
    cell = f'{{ env_id = "A-v0", script = "a2c.py", {entry} }}'
    path.write_text(f'seeds = "1"\ncells = [{cell}]', encoding="utf-8")
    assert_refused(harness("run", path), "cannot be written in this system's encoding, ascii")
    assert not (tmp_path / "runs").exists()
