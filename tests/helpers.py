"""What the tests of several folders share: where things are, flags of short runs, processes."""

import importlib
import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from gymnasium.spaces import Discrete

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# What a reader may have put beside the scripts, as .gitignore has it: copies and exercises.
READERS_OWN = re.compile(r"my_.*|bug_.*|.*_exercise")
SCRIPTS = sorted(p.stem for p in ROOT.glob("*.py") if not READERS_OWN.fullmatch(p.stem))
OFF_POLICY = [script for script in SCRIPTS if script in ("ddpg", "td3", "sac")]
ON_POLICY = [script for script in SCRIPTS if script not in (*OFF_POLICY, "dagger")]


def short_run_steps(script: str) -> int:
    """Environment steps of a short run: a few seconds, several log lines."""
    return 700 if script in OFF_POLICY else 8192


def environment_flags(script: str, env_id: str, folder: Path) -> tuple:
    """Flags for an environment.

    dagger.py gets an expert that answers with its observation: that of Identity is right.
    """
    if script != "dagger" or env_id == "CartPole-v1":
        return ("--env-id", env_id)
    path = folder / f"expert of {env_id.split(':')[-1]}.pt"
    write_identity_expert(env_id, path)
    return ("--env-id", env_id, "--expert", path)


def write_identity_expert(env_id: str, path: Path) -> None:
    """A policy file whose network hands the observation on."""
    import dagger

    envs = gym.make_vec(env_id, 1)
    agent = agent_for(dagger, envs)
    action_space = envs.single_action_space
    [size] = envs.single_observation_space.shape
    policy = {
        "observation_space": str(envs.single_observation_space),
        "action_space": str(action_space),
        "layers": [(torch.eye(size), torch.zeros(size))],
        "activation": "relu",
        "head": "argmax" if isinstance(action_space, Discrete) else "clip",
        "obs_mean": torch.zeros(size),
        "obs_std": torch.ones(size),
        "low": agent.low,
        "high": agent.high,
    }
    torch.save(policy, path)


def short_run_flags(script: str, env_id: str | None = None, folder: Path = TESTS) -> tuple:
    """Flags of a short run, on CartPole or Pendulum if nothing else is asked for."""
    flags = ("--total-timesteps", short_run_steps(script), "--eval-episodes", 5)
    if script in OFF_POLICY:
        flags += ("--learning-starts", 200, "--batch-size", 32, "--updates-per-step", 0.2)
    if script == "dagger":
        flags += ("--num-updates", 20)
    default_env_id = "Pendulum-v1" if script in OFF_POLICY else "CartPole-v1"
    return *flags, *environment_flags(script, env_id or default_env_id, folder)


def modules_defining(*names: str) -> list:
    """The scripts that define all of `names`, imported, as parameters of a test.

    So a shared block is tested wherever it stands. If no script defines them, the test gets None,
    and fails.
    """
    modules = [importlib.import_module(script) for script in SCRIPTS]
    defining = [module for module in modules if all(hasattr(module, name) for name in names)]
    if not defining:
        return [pytest.param(None, id=f"no script defines {' and '.join(names)}")]
    return [pytest.param(module, id=module.__name__) for module in defining]


def agent_for(module, envs):
    """A script's untrained agent for the spaces of a vector environment."""
    return module.Agent(envs.single_observation_space, envs.single_action_space)


def process_environment(**extra: str) -> dict[str, str]:
    """Variables of a script's process: one thread, and the tiny environments within reach."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), **extra}


# A process of this server begins with the packages imported, which saves two seconds each.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["helpers", "gymnasium", "tyro", "torch.utils.tensorboard"])


def run_script_in_fork(path: Path, argv: list[str], cwd: Path) -> None:
    """What a forked process does; what it prints goes to files beside its folder."""
    os.environ.update(process_environment())
    torch.set_num_threads(1)  # what OMP_NUM_THREADS says came too late: torch is imported
    os.chdir(cwd)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(f"{cwd}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    sys.argv = [str(path), *argv]
    runpy.run_path(str(path), run_name="__main__")


def complete_in_fork(target, path: Path, argv: list[str], cwd: Path) -> subprocess.CompletedProcess:
    """Calls target(path, argv, cwd), as run_script_in_fork, in a process and waits for its end."""
    process = FORKSERVER.Process(target=target, args=(path, argv, cwd))
    process.start()
    process.join(300)
    process.kill()
    stdout = Path(f"{cwd}.stdout").read_text()
    stderr = Path(f"{cwd}.stderr").read_text()
    return subprocess.CompletedProcess([str(path), *argv], process.exitcode, stdout, stderr)


def wait_for(condition, seconds: float = 30, process=None) -> None:
    """Waits until a condition holds; fails after some seconds, or when the process has ended."""
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)
