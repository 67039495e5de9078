"""ppo_ddp.py under torchrun: two processes with half the environments each are as one with all."""

import signal
import subprocess
import sys

import pytest
import torch

from helpers import ROOT, process_environment, wait_for
from run_folder import checkpoint, scalar_values, steps_taken, summary

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SCRIPT = ROOT / "ppo_ddp.py"
IN_THE_SCRIPT = 'ppo_ddp.py", line '  # a line of a traceback; torchrun prints one of its own


def torchrun(path, *flags, cwd, **extra: str) -> subprocess.CompletedProcess:
    command = [*TORCHRUN, str(path), *map(str, flags)]
    return subprocess.run(
        command,
        cwd=cwd,
        env=process_environment(**extra),
        capture_output=True,
        text=True,
        timeout=300,
    )


BEGINNING = f"""
import os
import signal
import sys

import torch
from torch import distributed

sys.path.insert(0, {str(ROOT)!r})
import ppo_ddp as script
"""
# Trains; what a process has when it leaves the others goes into a file of its own.
TRAIN = """
class Run(script.Run):
    def __init__(self, *args, **parts):
        Run.last = self
        super().__init__(*args, **parts)

def leave():
    run = Run.last
    end = {"agent": run.parts["agent"].state_dict(), "step": run.count.global_step}
    torch.save(end, f"end{script.RANK}.pt")
    destroy()

script.Run = Run
destroy = distributed.destroy_process_group
distributed.destroy_process_group = leave
script.train(script.parse_args())
"""


@pytest.fixture
def driver(tmp_path):
    """A file that does something with the script, imported as `script`."""

    def driver(body: str):
        path = tmp_path / "driver.py"
        path.write_text(BEGINNING + body)
        return path

    return driver


def saved(folder, name: str) -> list[dict]:
    """What the first and the second process have saved under a name."""
    return [torch.load(folder / f"{name}{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_ended_alike(folder) -> None:
    """At the same step, with the same weights and statistics."""
    first, second = saved(folder, "end")
    assert first["step"] == second["step"] > 0
    for name, tensor in first["agent"].items():
        assert torch.equal(tensor, second["agent"][name]), name


GRADIENTS = """
from gymnasium.spaces import Box, Discrete

script.start_process_group(torch.device("cpu"))
found = {}
for action_space in (Box(-1, 1, (2,)), Discrete(4)):
    torch.manual_seed(0)
    agent = script.Agent(Box(-1, 1, (3,)), action_space)
    x = torch.randn(21, 3)
    action = torch.randn(21, 2) if isinstance(action_space, Box) else torch.arange(21) % 4
    old_log_prob = agent.log_prob_and_entropy(agent.actor(x), action)[0].detach()
    old_log_prob += torch.randn(21) / 5  # so that some ratios are clipped
    advantage = torch.randn(21)
    target = torch.randn(21)

    def gradient_of(steps):
        agent.zero_grad()
        log_prob, entropy = agent.log_prob_and_entropy(agent.actor(x[steps]), action[steps])
        ratio = (log_prob - old_log_prob[steps]).exp()
        loss = script.policy_loss(ratio, advantage[steps], 0.2)
        loss = loss + 0.5 * script.value_loss(agent.value(x[steps]), target[steps])
        loss = loss - 0.01 * entropy.mean()
        loss.backward()
        return gradient()

    def gradient():
        return torch.cat([p.grad.flatten() for p in agent.parameters() if p.grad is not None])

    whole = gradient_of(slice(0, 21))
    mine = [slice(0, 5), slice(5, 21)][script.RANK]
    own = gradient_of(mine)
    script.average_gradients(agent, mine.stop - mine.start)
    found[type(action_space).__name__] = {"whole": whole, "own": own, "averaged": gradient()}
torch.save(found, f"gradients{script.RANK}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one_on_the_same_steps(driver, tmp_path):
    """Of the script's losses; the first process has 5 of the 21 steps."""
    done = torchrun(driver(GRADIENTS), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for found in saved(tmp_path, "gradients"):
        for space in ("Box", "Discrete"):
            gradients = found[space]
            assert gradients["whole"].abs().max() > 1e-2
            assert not torch.allclose(gradients["own"], gradients["whole"], atol=1e-3)
            torch.testing.assert_close(gradients["averaged"], gradients["whole"])


STATISTICS = """
script.start_process_group(torch.device("cpu"))
torch.manual_seed(0)
rows = 5 + 3 * torch.randn(60, 3)
numbers = 100 + torch.randn(60)
of_rows = script.RunningStats(3)
of_numbers = script.RunningStats()
for begin, middle, end in ((0, 4, 20), (20, 39, 40), (40, 47, 60)):
    share = [slice(begin, middle), slice(middle, end)][script.RANK]
    of_rows.update(rows[share])
    of_numbers.update(numbers[share])
found = {"rows": of_rows.state_dict(), "numbers": of_numbers.state_dict()}
found |= {"all rows": rows, "all numbers": numbers}
torch.save(found, f"statistics{script.RANK}.pt")
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_running_statistics_are_those_of_the_data_of_both_processes(driver, tmp_path):
    """Of three updates, to which the processes bring different numbers of rows."""
    done = torchrun(driver(STATISTICS), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = saved(tmp_path, "statistics")
    for name in ("rows", "numbers"):
        data = first[f"all {name}"]
        stats = first[name]
        torch.testing.assert_close(stats["mean"], data.mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stats["var"], data.var(0, correction=0), rtol=1e-4, atol=1e-5)
        assert stats["count"] == 60
        for key, tensor in stats.items():
            assert torch.equal(tensor, second[name][key])


# Each process notes the first rollout it had, and the sizes of its minibatches.
NOTES = """
collect = script.Collector.collect
policy_loss = script.policy_loss
average_gradients = script.average_gradients
rollouts = []
sizes = []

def noting_collect(collector, num_steps):
    rollout = collect(collector, num_steps)
    if not rollouts:
        rollouts.append(rollout)
        torch.save({"obs": rollout.obs, "action": rollout.action}, f"rollout{script.RANK}.pt")
    return rollout

def noting_policy_loss(ratio, *rest):
    sizes.append(len(ratio))
    return policy_loss(ratio, *rest)

def checking_average_gradients(agent, num_steps):
    assert num_steps == sizes[-1] > 0
    average_gradients(agent, num_steps)

script.Collector.collect = noting_collect
script.policy_loss = noting_policy_loss
script.average_gradients = checking_average_gradients
"""


def assert_nothing_in_common(rollouts: list[dict]) -> None:
    """No two environments of 8 each begin alike, and no two processes act alike."""
    for rollout in rollouts:
        assert rollout["obs"].shape == (129, 8, 4)
    starts = torch.cat([rollout["obs"][0] for rollout in rollouts])
    assert len(starts.unique(dim=0)) == 8 * len(rollouts)
    actions = torch.stack([rollout["action"].flatten() for rollout in rollouts])
    assert len(actions.unique(dim=0)) == len(rollouts)


@pytest.mark.slow
def test_two_processes_learn_cartpole_and_end_with_the_same_weights(driver, tmp_path):
    """Each from experience of its own; the first one alone logs and saves."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    path = driver(NOTES + TRAIN)
    done = torchrun(path, "--run-dir", "r", cwd=tmp_path, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("over 100 episodes") == 1
    result = summary(tmp_path / "r")
    assert result["eval_return_mean"] >= 475 and result["global_step"] >= 60_000
    assert_ended_alike(tmp_path)
    first, second = saved(tmp_path, "end")
    assert first["step"] == result["global_step"]
    assert 30_000 <= first["agent"]["obs_stats.count"] < 30_000 + 2048  # steps of both processes
    assert len(list((tmp_path / "r").glob("events*"))) == 1
    assert [path for path in temporary.rglob("*") if path.suffix == ".pt"] == []
    ours = {path.name for path in tmp_path.iterdir() if path.suffix != ".pt"}
    assert ours == {"r", "driver.py", "temporary"}

    assert_nothing_in_common(saved(tmp_path, "rollout"))


@pytest.mark.slow
def test_an_early_end_of_updates_is_the_same_for_all(driver, tmp_path):
    """By --target-kl, which one process may exceed and the other not; with the other flags."""
    flags = ["--clip-vloss", "--norm-adv", "--no-norm-obs", "--no-norm-reward", "--no-anneal-lr"]
    flags += ["--target-kl", 0.003, "--total-timesteps", 16384, "--eval-episodes", 2]
    done = torchrun(driver(TRAIN), *flags, "--run-dir", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_ended_alike(tmp_path)
    state = checkpoint(tmp_path / "r")
    iterations = len(scalar_values(tmp_path / "r", "charts/SPS"))
    steps = steps_taken(state["optimizer"])
    assert steps % 4 == 0  # whole epochs of four minibatches
    assert 4 * iterations <= steps < 10 * 4 * iterations
    assert state["agent"]["obs_stats.count"] == 0


@pytest.mark.slow
def test_episodes_of_one_step_leave_each_process_something_to_learn_from(driver, tmp_path):
    """Every other step only resets; a minibatch is of one step or two."""
    body = """
import gymnasium as gym
from tiny_envs import Timetable
gym.register("OneStep-v0", Timetable, kwargs={"ends": ((1, "terminated"),)})
"""
    flags = ("--env-id", "OneStep-v0", "--num-envs", 2, "--num-steps", 3, "--num-minibatches", 1)
    flags += ("--total-timesteps", 60, "--eval-episodes", 2)
    done = torchrun(driver(body + NOTES + TRAIN), *flags, "--run-dir", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_ended_alike(tmp_path)
    result = summary(tmp_path / "r")
    assert result["episodes"] == result["global_step"] >= 60


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_leaves_its_checkpoint(
    driver, completed_run, tmp_path
):
    body = """
without_failure = script.average_gradients
calls = []
def fail(*args):
    calls.append(args)
    if script.RANK == 1 and len(calls) == 100:  # in the third iteration of 40
        raise MemoryError("no room on this process")
    without_failure(*args)
script.average_gradients = fail
"""
    flags = ("--total-timesteps", 16384, "--eval-episodes", 5, "--checkpoint-interval", 0)
    done = torchrun(driver(NOTES + body + TRAIN), *flags, "--run-dir", "r", cwd=tmp_path)
    assert done.returncode == 1 and "no room on this process" in done.stderr
    step = checkpoint(tmp_path / "r")["count"]["global_step"]
    assert 2000 < step < 8192 and not (tmp_path / "r/summary.json").exists()

    rollouts = saved(tmp_path, "rollout")
    done = torchrun(driver(NOTES + TRAIN), "--resume", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_ended_alike(tmp_path)
    assert_nothing_in_common(rollouts + saved(tmp_path, "rollout"))
    resumed = checkpoint(tmp_path / "r")
    assert summary(tmp_path / "r")["global_step"] >= 16384
    taken = steps_taken(resumed["optimizer"])
    assert taken == 40 * round(resumed["count"]["global_step"] / 2048)
    assert 8192 <= resumed["agent"]["obs_stats.count"] < 8192 + 2048  # of half the budget

    again = torchrun(SCRIPT, "--resume", "r", cwd=tmp_path)
    assert again.returncode == 0 and "r is finished" in again.stdout, again.stderr
    completed_run("ppo_ddp", "--resume", "r", "--total-timesteps", 20_000)
    assert summary(tmp_path / "r")["global_step"] >= 20_000


@pytest.mark.slow
def test_a_signal_to_torchrun_ends_all_processes(tmp_path):
    command = [*TORCHRUN, str(SCRIPT), "--run-dir", "r", "--total-timesteps", "10000000"]
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

    try:
        wait_for(has_logged, 60, process)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "continue with --resume r" in stdout and IN_THE_SCRIPT not in stderr, stderr
    assert checkpoint(tmp_path / "r")["count"]["global_step"] > 0


SIGNALS = {
    # While it collects its third rollout.
    "in a rollout": """
collect = script.Collector.collect
calls = []
def signalled(*args):
    calls.append(args)
    if len(calls) == 3 and script.RANK == {rank}:
        os.kill(os.getpid(), signal.SIGTERM)
    return collect(*args)
script.Collector.collect = signalled
""",
    # When it has told the others of its third iteration that there was no signal.
    "after the exchange": """
gather_objects = script.gather_objects
calls = []
def signalled(mine):
    everyone = gather_objects(mine)
    calls.append(mine)
    if len(calls) == 3 and script.RANK == {rank}:
        os.kill(os.getpid(), signal.SIGTERM)
    return everyone
script.gather_objects = signalled
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("when", SIGNALS)
def test_a_signal_to_one_process_ends_all_after_the_same_iteration(driver, tmp_path, when, rank):
    path = driver(SIGNALS[when].format(rank=rank) + TRAIN)
    flags = ("--run-dir", "r", "--total-timesteps", 10_000_000, "--checkpoint-interval", 3600)
    done = torchrun(path, *flags, cwd=tmp_path)
    assert "continue with --resume r" in done.stdout, done.stderr
    assert IN_THE_SCRIPT not in done.stderr, done.stderr
    assert_ended_alike(tmp_path)
    step = checkpoint(tmp_path / "r")["count"]["global_step"]
    assert step == saved(tmp_path, "end")[0]["step"] < 5 * 2048


@pytest.mark.slow
def test_environments_that_cannot_be_divided_are_refused(tmp_path):
    done = torchrun(SCRIPT, "--num-envs", 3, "--num-steps", 4, cwd=tmp_path)
    assert done.returncode == 1 and IN_THE_SCRIPT not in done.stderr
    assert "ppo_ddp.py: --num-envs 3 cannot be divided among 2 processes" in done.stderr
    assert not (tmp_path / "runs").exists()
