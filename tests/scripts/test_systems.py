"""Machines, consoles and folders of every kind: where the scripts must run, or fail in a line."""

import ast
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import ddpg
from helpers import (
    OFF_POLICY,
    ROOT,
    SCRIPTS,
    complete_in_fork,
    process_environment,
    run_script_in_fork,
    short_run_flags,
)
from run_folder import checkpoint, summary

PYTHON_FILES = [ROOT / f"{script}.py" for script in SCRIPTS]
PYTHON_FILES += sorted((ROOT / "benchmarks").rglob("*.py"))


def run_in_fork_after(prepare, path: Path, argv: list[str], cwd: Path) -> None:
    """What a forked process does: it makes its system another one, and runs a script."""
    prepare()
    run_script_in_fork(path, argv, cwd)


@pytest.fixture
def run_after(tmp_path):
    """Runs a script's command line as `run` does, in a process that `prepare` has changed."""

    def run_after(prepare, script: str, *flags) -> subprocess.CompletedProcess:
        path = ROOT / f"{script}.py"
        argv = [str(flag) for flag in flags]
        target = partial(run_in_fork_after, prepare)
        return complete_in_fork(target, path, argv, tmp_path)

    return run_after


def tiny_run(script: str) -> tuple:
    """Flags of a run of a second."""
    flags = short_run_flags(script)
    if script in OFF_POLICY:
        return *flags, "--total-timesteps", 230, "--eval-episodes", 1, "--buffer-size", 1000
    return *flags, "--total-timesteps", 2048, "--eval-episodes", 1


# ---------------------------------------------------------------- threads, consoles


PRINT_THREADS = """
import torch, {script}
{script}.set_threads()
print(torch.get_num_threads())
"""


@pytest.mark.slow
@pytest.mark.parametrize("script, number", [("reinforce", 1), ("sac", 2)])
def test_threads(script, number):
    """The script's own number, if there are as many cores, or else that of OMP_NUM_THREADS."""
    program = [sys.executable, "-c", PRINT_THREADS.format(script=script)]
    environment = {**process_environment(), "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)
    for given, expected in ((None, number), (str(3 - number), 3 - number)):
        if given is not None:
            environment["OMP_NUM_THREADS"] = given
        done = subprocess.run(program, env=environment, capture_output=True, text=True)
        assert int(done.stdout) == min(expected, os.cpu_count()), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("value", ["", "0", "4,2", "two"])
def test_a_run_whatever_omp_num_threads_is(value, completed_run, tmp_path):
    completed_run("reinforce", *tiny_run("reinforce"), "--run-dir", "r", OMP_NUM_THREADS=value)
    assert summary(tmp_path / "r")["global_step"] >= 2048


@pytest.mark.slow
def test_help_into_a_pipe_that_nobody_reads():
    """As in --help | head -1."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "reinforce.py"), "--help"],
        env=process_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    stderr = process.stderr.read()
    process.wait(60)
    process.stderr.close()
    assert stderr == ""


@pytest.mark.slow
def test_a_console_that_knows_only_ascii(run, tmp_path):
    """The help has Greek letters and a box, a run's last line has a ±."""
    done = run("reinforce", "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "--total-timesteps" in done.stdout and done.stdout.isascii()
    flags = (*tiny_run("reinforce"), "--run-dir", "r")
    done = run("reinforce", *flags, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "over 1 episodes" in done.stdout and done.stdout.isascii()


# ---------------------------------------------------------------- a full disk


class SmallFiles:
    """No file of this process may be larger: as on a full disk, write fails with an OSError."""

    def __init__(self, limit: int):
        self.limit = limit

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.limit))


def assert_the_disk_is_full(done) -> None:
    assert done.returncode == 1, done
    [line] = done.stderr.splitlines()
    script = done.args[0].rpartition("/")[2]
    assert line.startswith(f"{script}: the disk is full")


def test_a_disk_that_is_full_from_the_start(run_after, tmp_path):
    """Not even config.json, of 850 bytes, can be written, or not the first checkpoint."""
    for limit in (300, 10_000):
        flags = (*tiny_run("reinforce"), "--run-dir", f"r{limit}")
        assert_the_disk_is_full(run_after(SmallFiles(limit), "reinforce", *flags))
        assert not (tmp_path / f"r{limit}" / "checkpoint.pt").exists()


def test_a_disk_that_becomes_full(run_after, run, tmp_path):
    """The first checkpoint has 29 kB, those after it 71: they hold Adam's averages, too."""
    flags = ("--checkpoint-interval", 0, "--run-dir", "r")
    done = run_after(SmallFiles(50_000), "reinforce", *tiny_run("reinforce"), *flags)
    assert_the_disk_is_full(done)
    state = checkpoint(tmp_path / "r")
    assert state["count"]["global_step"] == 0 and state["agent"]["actor.0.weight"].isfinite().all()
    assert not (tmp_path / "r" / "summary.json").exists()
    done = run("reinforce", "--resume", "r")
    assert done.returncode == 0, done.stderr
    assert summary(tmp_path / "r")["global_step"] >= 2048


# ---------------------------------------------------------------- environments of one's own

MODULE = """
import gymnasium as gym
from tiny_envs import Clock


class Unconfigured(Clock):
    def __init__(self):
        raise KeyError('config_path')


gym.register("MyEnv-v0", Clock)
gym.register("Unconfigured-v0", Unconfigured)
"""


def test_a_module_in_the_working_directory(completed_run, tmp_path):
    """Where the user is, though the script is elsewhere and no variable names the folder."""
    (tmp_path / "mymod.py").write_text(MODULE)
    flags = ("--env-id", "mymod:MyEnv-v0", "--total-timesteps", 2048, "--eval-episodes", 1)
    completed_run("reinforce", *flags, "--run-dir", "r")
    assert summary(tmp_path / "r")["env_id"] == "mymod:MyEnv-v0"


def test_an_environment_that_cannot_be_made(run, tmp_path):
    """Of what went wrong: type, message, file and line."""
    (tmp_path / "mymod.py").write_text(MODULE)
    [number] = [i for i, line in enumerate(MODULE.splitlines(), 1) if "raise" in line]
    done = run("reinforce", "--env-id", "mymod:Unconfigured-v0", "--run-dir", "r")
    assert done.returncode == 2 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("reinforce.py: --env-id mymod:Unconfigured-v0: ")
    assert "KeyError: 'config_path'" in line and f"mymod.py, line {number}" in line
    assert not (tmp_path / "r").exists()


# ---------------------------------------------------------------- names of folders, other systems


def test_a_folder_whose_name_is_a_command(completed_run, tmp_path):
    """It is never read by a shell."""
    folder = tmp_path / "cost $(touch X) `touch X`"
    folder.mkdir()
    copy = shutil.copy(ROOT / "reinforce.py", folder)
    completed_run("reinforce", *tiny_run("reinforce"), "--run-dir", "r", path=Path(copy))
    assert (tmp_path / "r" / "summary.json").exists()
    assert not list(tmp_path.rglob("X"))


def calls_of_a_shell(path: Path) -> list[str]:
    """Where a file calls os.system or os.popen, or passes shell=."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="system" | "popen"):
                found.append(f"{path.name}, line {node.lineno}")
            case ast.ImportFrom(module="os", names=names):
                shells = [name for name in names if name.name in ("system", "popen")]
                found += [f"{path.name}, line {node.lineno}" for _ in shells]
            case ast.keyword(arg="shell"):
                found.append(f"{path.name}, line {node.value.lineno}")
    return found


def test_no_file_calls_a_shell():
    assert len(PYTHON_FILES) > 20
    assert [place for path in PYTHON_FILES for place in calls_of_a_shell(path)] == []


def be_windows() -> None:
    """Take away what Python does not have there."""
    for name in ("sysconf", "sysconf_names"):
        delattr(os, name)
    for name in ("SIGHUP", "SIGPIPE"):
        delattr(signal, name)


@pytest.mark.parametrize("script", ["reinforce", "ddpg", "sac"])
def test_a_system_without_the_signals_and_the_calls_of_posix(script, run_after, tmp_path):
    """ddpg.py and sac.py ask it for its memory; the rest is the same in every script."""
    done = run_after(be_windows, script, *tiny_run(script), "--run-dir", "r")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r" / "summary.json").exists()


ONLY_ON_POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}


def test_no_module_that_windows_lacks(script):
    imported = set()
    for node in ast.walk(ast.parse((ROOT / f"{script}.py").read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert "torch" in imported and not imported & ONLY_ON_POSIX


# ---------------------------------------------------------------- packages


def requirement(lines: list[str], name: str) -> Requirement:
    """That of one package."""
    [found] = [line for line in lines if re.match(rf"{name}\b", line)]
    return Requirement(found.partition("#")[0].strip())


def test_mujoco_is_bounded_as_in_requirements_txt(script):
    """From 3.16 on it warns, so `uv run` must not get it either."""
    text = (ROOT / f"{script}.py").read_text()
    [block] = re.findall(r"(?ms)^# /// script\n(.*?)^# ///$", text)
    metadata = tomllib.loads("".join(line[2:] + "\n" for line in block.splitlines()))
    bound = requirement(metadata["dependencies"], "mujoco").specifier
    pinned = requirement((ROOT / "requirements.txt").read_text().splitlines(), "mujoco")
    [pin] = pinned.specifier
    assert pin.operator == "==" and bound.contains(pin.version)
    assert not bound.contains("3.16.0") and not bound.contains("4.0")


# ---------------------------------------------------------------- ddpg.py's step sizes


@pytest.mark.parametrize(
    "flags, actor, critic",
    [
        ({}, 3e-4, 1e-3),
        ({"learning_rate": 2e-3}, 2e-3, 2e-3),
        ({"learning_rate": 2e-3, "policy_lr": 5e-4}, 5e-4, 2e-3),
        ({"learning_rate": 2e-3, "q_lr": 4e-3}, 2e-3, 4e-3),
        ({"policy_lr": 5e-4, "q_lr": 4e-3}, 5e-4, 4e-3),
        ({"learning_rate": 2e-3, "q_lr": 0.0}, 2e-3, 0.0),
    ],
)
def test_ddpgs_step_sizes(flags, actor, critic, train_here):
    short = {"total_timesteps": 33, "learning_starts": 30, "batch_size": 8, "eval_episodes": 1}
    run_dir = train_here(ddpg, env_id="tiny_envs:IdentityBox-v0", **short, **flags)
    state = checkpoint(run_dir)
    assert state["actor_optimizer"]["param_groups"][0]["lr"] == actor
    assert state["critic_optimizer"]["param_groups"][0]["lr"] == critic


@pytest.mark.slow
def test_ddpgs_step_sizes_by_flags(completed_run, tmp_path):
    """And given anew in a resumed run."""
    completed_run("ddpg", *tiny_run("ddpg"), "--learning-rate", 2e-3, "--run-dir", "r")
    completed_run(
        "ddpg", "--resume", "r", "--total-timesteps", 240, "--learning-rate", 1e-2, "--q-lr", 4e-3
    )
    state = checkpoint(tmp_path / "r")
    assert state["actor_optimizer"]["param_groups"][0]["lr"] == 1e-2
    assert state["critic_optimizer"]["param_groups"][0]["lr"] == 4e-3
