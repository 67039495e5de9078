"""How a run ends, where no episode does, or at a signal; and what it says until then."""

import os
import re
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

import ppo_clip
from helpers import wait_for, write_identity_expert
from run_folder import SOME_ITERATIONS, checkpoint, logged_bytes, scalars, summary

SMALL = ("--num-envs", 8, "--num-steps", 16, "--update-epochs", 1, "--eval-episodes", 2)
QUICK = (*SMALL, "--total-timesteps", 512)
LONG = (*SMALL, "--total-timesteps", 100_000_000)
ENDLESS = ("--env-id", "tiny_envs:Endless-v0")
ASKED_TO_END = "finishing this iteration; again to quit at once\n"


def printed(pipe, seconds: float = 30) -> str:
    """What a process has just printed, without waiting for its end."""
    ready, _, _ = select.select([pipe], [], [], seconds)
    assert ready
    return os.read(pipe.fileno(), 10_000).decode()


def listens_to(process: subprocess.Popen, number: int) -> bool:
    """Tells whether a process has a handler for a signal, as Linux says."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], base=16)
    return bool(caught >> (number - 1) & 1)


def progress_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("step ")]


def global_step(run_dir: Path) -> int:
    return checkpoint(run_dir)["count"]["global_step"]


@pytest.fixture
def training(start):
    """Starts ppo_clip.py on a long run in folder r and waits until it trains."""

    def training(*flags) -> subprocess.Popen:
        process = start("ppo_clip", *LONG, "--checkpoint-interval", 3600, *flags, "--run-dir", "r")
        wait_for(lambda: listens_to(process, signal.SIGTERM), 60, process)
        return process

    return training


class TestEndlessEpisodes:
    def test_the_command_line(self, completed_run, tmp_path):
        done = completed_run("ppo_clip", *QUICK, *ENDLESS, "--run-dir", "r")
        assert "names no time limit: episodes are cut after 10,000 steps" in done.stdout
        result = summary(tmp_path / "r")
        assert result["eval_return_mean"] == 10_000 and result["eval_episodes"] == 2

    @pytest.mark.parametrize(
        "script", ["reinforce", "reinforce_baseline", "a2c", "ppo_kl", "ppo_ddp", "dagger"]
    )
    def test_every_script_that_has_discrete_actions(
        self, module, script, train_here, monkeypatch, capsys, tmp_path
    ):
        """Those that wait for whole episodes, and the evaluation of the expert, end as well."""
        monkeypatch.setattr(module, "MAX_EPISODE_STEPS", 50)
        args = {"env_id": "tiny_envs:Endless-v0", "num_envs": 2, "eval_episodes": 2}
        args["total_timesteps"] = 600
        if script == "dagger":
            args["expert"] = str(tmp_path / "expert.pt")
            write_identity_expert("tiny_envs:Endless-v0", tmp_path / "expert.pt")
        result = summary(train_here(module, **args))
        assert result["eval_return_mean"] == 50 and result["train_return_last100"] == 50
        assert "cut after 50 steps" in capsys.readouterr().out


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_second_one_ends_a_long_iteration(self, training, tmp_path, number):
        process = training(*ENDLESS, "--num-envs", 1, "--num-steps", 1_000_000)
        process.send_signal(number)
        assert printed(process.stderr).strip() + "\n" == ASKED_TO_END
        assert process.poll() is None
        process.send_signal(number)
        process.communicate(timeout=10)
        assert process.returncode == -number
        assert global_step(tmp_path / "r") == 0

    @pytest.mark.slow
    def test_one_in_the_evaluation(self, start, completed_run, tmp_path):
        """All is saved: it ends the run at once, and the evaluation can be made up for."""
        run_dir = tmp_path / "r"
        flags = (*QUICK, *ENDLESS, "--eval-episodes", 1000, "--run-dir", "r")
        process = start("ppo_clip", *flags)
        wait_for((run_dir / "policy.pt").exists, 60, process)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=10)
        assert process.returncode == -signal.SIGTERM and stderr == ""
        assert not (run_dir / "summary.json").exists()
        before = checkpoint(run_dir)

        completed_run("ppo_clip", "--resume", "r", "--eval-episodes", 2)
        assert summary(run_dir)["eval_return_mean"] == 10_000
        after = checkpoint(run_dir)
        assert summary(run_dir)["global_step"] == before["count"]["global_step"]
        for name, tensor in before["agent"].items():
            assert torch.equal(tensor, after["agent"][name]), name

    @pytest.mark.slow
    def test_a_closed_terminal(self, training, tmp_path):
        process = training()
        wait_for(lambda: logged_bytes(tmp_path / "r") > SOME_ITERATIONS, 60, process)
        process.send_signal(signal.SIGHUP)
        stdout, stderr = process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGHUP
        assert stderr.strip() + "\n" == ASKED_TO_END
        assert stdout.endswith("continue with --resume r\n")
        step = global_step(tmp_path / "r")
        assert step > 0 and scalars(tmp_path / "r")["charts/SPS"][-1][0] == step

    @pytest.mark.slow
    def test_nohup(self, training, tmp_path):
        """Where SIGHUP is ignored from outside it stays so."""
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            process = training("--checkpoint-interval", 0.01)
        finally:
            signal.signal(signal.SIGHUP, before)
        process.send_signal(signal.SIGHUP)
        step = global_step(tmp_path / "r")
        wait_for(lambda: global_step(tmp_path / "r") > step, 30, process)
        assert not listens_to(process, signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGINT
        assert stderr.strip() + "\n" == ASKED_TO_END


class TestWhatIsPrinted:
    def test_the_folder_at_once(self, training):
        """Also into a pipe, in which lines would else wait for the end of the run."""
        process = training()
        assert printed(process.stdout, 5) == "CartPole-v1 on cpu; the run's folder is r\n"
        assert process.poll() is None

    def test_how_to_go_on(self, completed_run):
        done = completed_run("ppo_clip", *QUICK, "--run-dir", "r")
        first, result, curves, policy = done.stdout.splitlines()
        assert first.endswith("the run's folder is r")
        assert "over 2 episodes" in result and result.endswith("; r")
        assert curves.endswith("tensorboard --logdir r")
        assert policy.endswith("ppo_clip.py --evaluate=r --render human")

    @pytest.mark.slow
    def test_progress_every_30_seconds_without_a_terminal(self, train_here, monkeypatch, capsys):
        """On a terminal there is a bar. Here each iteration takes 8 seconds, so every 4th tells."""
        now = time.perf_counter()
        log = ppo_clip.Run.log

        def slow_log(run, *args):
            nonlocal now
            now += 8
            log(run, *args)

        monkeypatch.setattr(time, "perf_counter", lambda: now)
        monkeypatch.setattr(ppo_clip.Run, "log", slow_log)
        args = {"num_envs": 8, "num_steps": 16, "total_timesteps": 1024, "eval_episodes": 2}
        steps = [step for step, _ in scalars(train_here(ppo_clip, **args))["charts/SPS"]]
        told = []
        for line in progress_lines(capsys.readouterr().out):
            found = re.fullmatch(r"step ([\d,]+) of 1,024, return (\d+\.\d), [\d,]+ steps/s", line)
            told.append(int(found[1].replace(",", "")))
        assert told == steps[3::4] and len(told) >= 2

        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        train_here(ppo_clip, "on a terminal", **args)
        out, err = capsys.readouterr()
        assert "%|" in err and progress_lines(out) == []
