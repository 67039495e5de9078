"""a2c.py, ppo_clip.py and ppo_kl.py under torchrun: two ranks with half the environments each are
one with all.
"""

import signal
import subprocess
import sys

import pytest
import torch

from helpers import ROOT, process_environment, wait_for
from run_folder import checkpoint, summary

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
DRIVER = """
import importlib, os, sys, torch
from torch import distributed
sys.path.insert(0, {root!r})
script = importlib.import_module({script!r})
{body}
script.train(*script.parse_args())
"""


def torchrun(path, *flags, cwd) -> subprocess.CompletedProcess:
    command = [*TORCHRUN, str(path), *map(str, flags)]
    return subprocess.run(
        command, cwd=cwd, env=process_environment(), capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def driver(tmp_path):
    """A file that trains with a script after doing something to it."""

    def driver(script: str, body: str):
        path = tmp_path / f"{script}_driver.py"
        path.write_text(DRIVER.format(root=str(ROOT), script=script, body=body))
        return path

    return driver


def moments(run_dir) -> torch.Tensor:
    """Adam's running mean of the gradients: after one step a tenth of the gradient."""
    state = checkpoint(run_dir)["optimizer"]["state"]
    return torch.cat([entry["exp_avg"].flatten() for entry in state.values()])


@pytest.mark.parametrize(
    "script, num_envs, num_steps, num_minibatches",
    [("a2c", 6, 7, 1), ("ppo_clip", 6, 7, 2), ("ppo_clip", 2, 3, 6), ("ppo_kl", 6, 7, 2)],
)
def test_two_ranks_have_the_gradient_of_one(
    script, num_envs, num_steps, num_minibatches, completed_run, tmp_path
):
    """Of the same steps, as SyncVectorEnv seeds its environments one by one.

    Minibatches of 21 steps cannot be halved. Of a single one nothing would be left for the second
    rank.
    """
    steps = num_envs * num_steps
    flags = ["--env-id", "Pendulum-v1", "--num-envs", num_envs, "--num-steps", num_steps]
    flags += ["--total-timesteps", steps, "--eval-episodes", 1]
    if script != "a2c":
        flags += ["--update-epochs", 1, "--num-minibatches", num_minibatches]
    completed_run(script, *flags, "--run-dir", "one")
    done = torchrun(ROOT / f"{script}.py", *flags, "--run-dir", "two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one = moments(tmp_path / "one")
    two = moments(tmp_path / "two")
    assert one.abs().max() > 1e-3
    torch.testing.assert_close(two, one, rtol=0, atol=1e-6)
    assert summary(tmp_path / "one")["global_step"] == steps
    assert summary(tmp_path / "two")["global_step"] == steps


def test_two_ranks_learn_cartpole_and_end_with_the_same_weights(driver, tmp_path):
    body = """
class Agent(script.Agent):
    def __init__(self, *spaces):
        super().__init__(*spaces)
        Agent.last = self
def compare():
    states = [None] * script.WORLD
    distributed.all_gather_object(states, Agent.last.state_dict())
    if script.RANK == 0:  # two that print would get into each other's way
        print("alike", all(torch.equal(states[0][name], states[1][name]) for name in states[0]))
script.Agent = Agent
destroy = distributed.destroy_process_group
distributed.destroy_process_group = lambda: (compare(), destroy())  # the last that both do
"""
    done = torchrun(driver("ppo_clip", body), "--run-dir", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "alike True" in done.stdout and done.stdout.count("over 100 episodes") == 1
    result = summary(tmp_path / "r")
    assert result["eval_return_mean"] >= 475 and result["global_step"] >= 60_000
    assert len(list((tmp_path / "r").glob("events*"))) == 1


def test_a_rank_that_dies_ends_the_run_and_leaves_its_checkpoint(driver, completed_run, tmp_path):
    body = """
adapt = script.adapt_kl_coef
calls = []
def fail(*args):
    calls.append(args)
    if script.RANK and len(calls) == 3:
        raise MemoryError("no room on this rank")
    return adapt(*args)
script.adapt_kl_coef = fail
"""
    flags = ("--total-timesteps", 16384, "--eval-episodes", 5, "--checkpoint-interval", 0)
    done = torchrun(driver("ppo_kl", body), *flags, "--run-dir", "r", cwd=tmp_path)
    assert done.returncode == 1 and "no room on this rank" in done.stderr
    step = checkpoint(tmp_path / "r")["count"]["global_step"]
    assert 2000 < step < 8192 and not (tmp_path / "r/summary.json").exists()
    completed_run("ppo_kl", "--resume", "r")
    assert summary(tmp_path / "r")["global_step"] >= 16384


def test_a_signal_ends_all_ranks_after_the_same_iteration(tmp_path):
    command = [*TORCHRUN, str(ROOT / "a2c.py"), "--run-dir", "r", "--total-timesteps", "10000000"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=process_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def has_logged() -> bool:
        return any(path.stat().st_size >= 1000 for path in tmp_path.glob("r/events*"))

    wait_for(has_logged, 60, process)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert "continue with --resume r" in stdout and "gather" not in stderr, stderr
    assert checkpoint(tmp_path / "r")["count"]["global_step"] > 0


def test_environments_that_cannot_be_divided_are_refused(tmp_path):
    done = torchrun(ROOT / "ppo_clip.py", "--num-envs", 3, "--num-steps", 4, cwd=tmp_path)
    assert done.returncode == 1
    assert "ppo_clip.py: --num-envs 3 cannot be divided among 2 ranks" in done.stderr
    assert not (tmp_path / "runs").exists()
