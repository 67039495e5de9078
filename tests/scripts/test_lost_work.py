"""Nothing is lost: two runs in one folder, a second start, what fails late, weights of NaN."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch import distributed

import ppo_clip
from helpers import FORKSERVER, OFF_POLICY, ROOT, run_script_in_fork, wait_for
from run_folder import (
    SOME_ITERATIONS,
    checkpoint,
    config,
    logged_bytes,
    scalars,
    steps_taken,
    summary,
)
from wandb_record import configuration, history

SMALL = ("--num-envs", 8, "--num-steps", 16, "--update-epochs", 1, "--eval-episodes", 2)
QUICK = (*SMALL, "--total-timesteps", 512)
LONG = (*SMALL, "--total-timesteps", 100_000_000)

# A program that prepares something and then is the script: it is run in the script's place.
LAUNCHER = """
import os, runpy, sys, time
{preparation}
runpy.run_path({script!r}, run_name="__main__")
"""
# A package in the place of Weights & Biases: it writes down how it was called.
FAKE_WANDB = """
import json, types, uuid
def init(**settings):
    run_id = settings["id"] or uuid.uuid4().hex
    call = {"name": settings.get("name"), "asked": settings["id"], "id": run_id}
    with open({calls!r}, "a") as file:
        file.write(json.dumps(call) + "\\n")
    return types.SimpleNamespace(id=run_id, log=lambda *_, **__: None, finish=lambda: None)
"""
FAILING_WANDB = """
def init(**settings):
    raise ValueError("no\\nlogin")
"""


@pytest.fixture
def prepared(tmp_path):
    """Writes a program that runs ppo_clip.py after lines of preparation; returns its path."""

    def prepared(preparation: str) -> Path:
        folder = tmp_path.parent / f"{tmp_path.name} launcher"
        folder.mkdir(exist_ok=True)
        path = folder / "launcher.py"
        script = str(ROOT / "ppo_clip.py")
        path.write_text(LAUNCHER.format(preparation=preparation, script=script))
        return path

    return prepared


@pytest.fixture
def with_wandb(prepared):
    """The same, where another text stands in the place of the package wandb."""

    def with_wandb(text: str) -> Path:
        path = prepared("sys.path.insert(0, os.path.dirname(sys.argv[0]))")
        (path.parent / "wandb.py").write_text(text)
        return path

    return with_wandb


def start_at_once(path: Path, flags: tuple, cwd: Path, number: int) -> list[int]:
    """Starts a program several times at the same moment and returns the exit statuses."""
    argv = [str(flag) for flag in flags]
    processes = []
    for _ in range(number):
        process = FORKSERVER.Process(target=run_script_in_fork, args=(path, argv, cwd))
        process.start()
        processes.append(process)
    for process in processes:
        process.join(60)
        process.kill()
    return [process.exitcode for process in processes]


def assert_refused(done, *named: str) -> None:
    """With exit status 2 and one line of the script's own, before anything is printed."""
    assert done.returncode == 2 and done.stdout == "", done
    [line] = [line for line in done.stderr.splitlines() if line.startswith("ppo_clip.py: ")]
    for words in named:
        assert words in line, line
    assert "Traceback" not in done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    """Each file's path in a folder, and its bytes."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def global_step(run_dir: Path) -> int:
    """That of the checkpoint; 0 where there is none yet."""
    state = checkpoint(run_dir)
    return state["count"]["global_step"] if state else 0


def solved_at_step(run_dir: Path) -> int | None:
    return summary(run_dir)["solved_at_step"]


class TestWeightsAndBiases:
    @pytest.mark.slow
    def test_it_has_what_tensorboard_has(self, completed_run, tmp_path):
        run_dir = tmp_path / "r"
        flags = ("--env-id", "tiny_envs:Filmed-v0", "--track", "--capture-video", "--seed", 7)
        completed_run("ppo_clip", *QUICK, *flags, "--run-dir", "r", WANDB_MODE="offline")
        logged = scalars(run_dir)
        rows = history(run_dir)
        steps = [step for step, _ in logged["charts/SPS"]]
        assert [row["_step"] for row in rows] == steps and len(steps) >= 4
        for tag, points in logged.items():
            in_rows = [(row["_step"], row[tag]) for row in rows if tag in row]
            assert [step for step, _ in in_rows] == [step for step, _ in points], tag
            values = [value for _, value in in_rows]
            assert values == pytest.approx([value for _, value in points], rel=1e-6), tag
        assert "eval/episodic_return" in logged

        recorded = configuration(run_dir)
        for name, value in config(run_dir)["args"].items():
            assert recorded[name] == value, name
        assert recorded["seed"] == 7

        assert rows[-1]["video/_type"] == "video-file"
        [video] = (run_dir / "videos").glob("*.mp4")
        [uploaded] = run_dir.glob("wandb/offline-run-*/files/media/videos/*.mp4")
        assert uploaded.read_bytes() == video.read_bytes()

        [folder] = run_dir.glob("wandb/offline-run-*")
        assert folder.name.endswith("-" + (run_dir / "wandb_id").read_text())
        assert list((run_dir / "wandb").rglob("*tfevents*")) == []

    def test_without_the_package(self, prepared, run, tmp_path):
        path = prepared("sys.modules['wandb'] = None")
        assert_refused(run("ppo_clip", *QUICK, "--track", path=path), "--track", "pip install")
        assert list(tmp_path.iterdir()) == []

    def test_where_it_fails(self, with_wandb, run, completed_run, tmp_path):
        path = with_wandb(FAILING_WANDB)
        done = run("ppo_clip", *QUICK, "--track", path=path)
        assert_refused(done, "--track: ValueError: no login")
        assert list(tmp_path.glob("runs/*")) == []

        flags = (*QUICK, "--run-dir", "r")
        assert_refused(run("ppo_clip", *flags, "--track", path=path), "--track")
        completed_run("ppo_clip", *flags)
        assert (tmp_path / "r" / "summary.json").exists()

    @pytest.mark.slow
    def test_a_finished_run_keeps_its_summary_where_it_fails(
        self, with_wandb, run, completed_run, tmp_path
    ):
        completed_run("ppo_clip", *QUICK, "--run-dir", "r")
        before = contents(tmp_path / "r")
        flags = ("--resume", "r", "--total-timesteps", 1024, "--track")
        assert_refused(run("ppo_clip", *flags, path=with_wandb(FAILING_WANDB)), "--track")
        assert contents(tmp_path / "r") == before

    @pytest.mark.slow
    def test_ids(self, with_wandb, completed_run, tmp_path):
        """Two folders of one name are two runs; a resumed run goes on with its own."""
        calls_path = tmp_path / "calls"
        path = with_wandb(FAKE_WANDB.replace("{calls!r}", repr(str(calls_path))))
        here = tmp_path / "here"
        here.mkdir()
        for run_dir in ("sweepA/seed1", "sweepB/seed1"):
            completed_run("ppo_clip", *QUICK, "--track", "--run-dir", run_dir, path=path)
        flags = ("--resume", "sweepA/seed1", "--total-timesteps", 1024)
        completed_run("ppo_clip", *flags, path=path)
        completed_run("ppo_clip", *QUICK, "--track", "--run-dir", ".", cwd=here, path=path)

        calls = [json.loads(line) for line in calls_path.read_text().splitlines()]
        one, other, resumed, in_here = calls
        assert one["id"] != other["id"] and one["name"] == other["name"] == "seed1"
        assert resumed["asked"] == one["id"]
        assert (tmp_path / "sweepA" / "seed1" / "wandb_id").read_text() == one["id"]
        assert in_here["name"] == "here" and in_here["id"]
        assert (here / "summary.json").exists()


class TestFolders:
    def test_runs_that_start_in_the_same_second(self, prepared, tmp_path):
        path = prepared("time.time = lambda: 1_000_000_000.0")
        assert start_at_once(path, QUICK, tmp_path, 3) == [0, 0, 0]
        folders = list((tmp_path / "runs").iterdir())
        assert len(folders) == 3
        for folder in folders:
            assert folder.name.startswith("CartPole-v1__ppo_clip__1__1000000000")
            assert summary(folder)["global_step"] >= 512
            assert len(list(folder.glob("events*"))) == 1

    def test_two_starts_in_one_folder_at_the_same_moment(self, tmp_path):
        """One runs, the other is refused."""
        flags = (*QUICK, "--run-dir", "r")
        statuses = start_at_once(ROOT / "ppo_clip.py", flags, tmp_path, 2)
        assert sorted(statuses) == [0, 2]
        assert len(list((tmp_path / "r").glob("events*"))) == statuses.count(0)

    @pytest.mark.slow
    def test_a_folder_in_which_a_run_is_at_work(self, start, run, tmp_path):
        """It can be neither taken nor resumed, and the run in it goes on."""
        run_dir = tmp_path / "r"
        flags = (*LONG, "--checkpoint-interval", 0.01, "--run-dir", "r")
        process = start("ppo_clip", *flags)
        wait_for(lambda: global_step(run_dir) > 0, 60, process)
        process.send_signal(signal.SIGSTOP)  # it leaves the processor to the others for a while
        before = (run_dir / "config.json").read_bytes()
        for flags in (("--resume", "r", "--seed", 2), (*QUICK, "--run-dir", "r")):
            assert_refused(run("ppo_clip", *flags), "another run is at work in r")
        step = global_step(run_dir)
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: global_step(run_dir) > step, 60, process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
        assert (run_dir / "config.json").read_bytes() == before
        assert len(list(run_dir.glob("events*"))) == 1
        steps = [step for step, _ in scalars(run_dir)["charts/SPS"]]
        assert steps == sorted(set(steps)) and steps[-1] == global_step(run_dir)

        total = ("--total-timesteps", steps[-1] + 1)
        done = run("ppo_clip", "--resume", "r", *total)  # now it can be resumed
        assert done.returncode == 0 and summary(run_dir)["global_step"] > steps[-1]

    @pytest.mark.slow
    def test_a_folder_that_is_removed_while_a_run_is_at_work(self, start, tmp_path):
        """It stops and says why. TensorBoard's thread may report the same, before or after."""
        process = start("ppo_clip", *LONG, "--run-dir", "r")
        wait_for(lambda: logged_bytes(tmp_path / "r") > SOME_ITERATIONS, 60, process)
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # all its threads have stopped
        shutil.rmtree(tmp_path / "r")
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "ppo_clip.py: the run's folder r is gone" in err.splitlines()


class TestResume:
    def test_in_another_folder(self, run, completed_run, tmp_path):
        completed_run("ppo_clip", *QUICK, "--run-dir", "old")
        before = contents(tmp_path)
        flags = ("--resume", "old", "--run-dir", "new", "--total-timesteps", 1024)
        assert_refused(run("ppo_clip", *flags), "--resume old", "--run-dir")
        assert contents(tmp_path) == before and not (tmp_path / "new").exists()

    @pytest.mark.slow
    def test_a_finished_run_that_goes_on_is_finished_no_more(self, start, completed_run, tmp_path):
        """summary.json would be of another policy."""
        run_dir = tmp_path / "r"
        completed_run("ppo_clip", *QUICK, "--run-dir", "r")
        first = summary(run_dir)["global_step"]
        flags = ("--total-timesteps", 100_000_000, "--checkpoint-interval", 0.01)
        process = start("ppo_clip", "--resume", "r", *flags)
        wait_for(lambda: global_step(run_dir) > first, 60, process)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130 and not (run_dir / "summary.json").exists()

        step = global_step(run_dir)
        completed_run("ppo_clip", "--resume", "r", "--total-timesteps", step + 500)
        assert summary(run_dir)["global_step"] >= step + 500
        steps = [step for step, _ in scalars(run_dir)["charts/SPS"]]
        assert steps == sorted(set(steps)) and {first, step} <= set(steps)

    @pytest.mark.slow
    def test_a_new_alpha_of_sac(self, completed_run, tmp_path):
        run_dir = tmp_path / "r"
        flags = ("--learning-starts", 100, "--batch-size", 8, "--updates-per-step", 0.1)
        flags += ("--no-autotune", "--alpha", 0.3, "--eval-episodes", 1)
        completed_run("sac", *flags, "--total-timesteps", 200, "--run-dir", "r")
        flags = ("--resume", "r", "--alpha", 0.05)
        completed_run("sac", *flags, "--total-timesteps", 300)
        completed_run("sac", "--resume", "r", "--total-timesteps", 400)
        points = scalars(run_dir)["losses/alpha"]
        assert [step for step, _ in points] == [200, 300, 400]
        assert [value for _, value in points] == pytest.approx([0.3, 0.05, 0.05])
        assert config(run_dir)["args"]["alpha"] == 0.05

    @pytest.mark.slow
    @pytest.mark.parametrize("script", OFF_POLICY)
    def test_more_updates_per_step_count_from_there_on(self, script, completed_run, tmp_path):
        """They do not make up for the past, nor do fewer wait until they are due."""

        def updates() -> int:
            return steps_taken(checkpoint(tmp_path / "r")["critic_optimizer"])

        flags = ("--learning-starts", 100, "--batch-size", 8, "--eval-episodes", 1)
        flags += ("--updates-per-step", 0.1)
        completed_run(script, *flags, "--total-timesteps", 300, "--run-dir", "r")
        assert updates() == 20
        for rate, total, expected in ((0.5, 400, 20 + 50), (0.1, 500, 20 + 50 + 10)):
            flags = ("--updates-per-step", rate, "--total-timesteps", total)
            completed_run(script, "--resume", "r", *flags)
            assert updates() == expected

    @pytest.mark.slow
    def test_a_new_target_return(self, completed_run, tmp_path):
        """When the old one was reached says nothing of the new one. Each return is 500 here."""
        run_dir = tmp_path / "r"
        flags = (*SMALL, "--env-id", "tiny_envs:Clock-v0", "--total-timesteps", 3000)
        completed_run("ppo_clip", *flags, "--target-return", 400, "--run-dir", "r")
        solved = solved_at_step(run_dir)
        assert 1000 <= solved == summary(run_dir)["global_step"] < 1500

        flags = ("--resume", "r", "--target-return", 600, "--total-timesteps", 2000)
        completed_run("ppo_clip", *flags)
        result = summary(run_dir)
        assert result["solved_at_step"] is None and result["solved_at_s"] is None


class TestVideo:
    @pytest.mark.parametrize(
        "env_id, preparation, why",
        [
            ("Clock-v0", "", "rgb_array"),
            ("NoDisplay-v0", "", "RuntimeError: no display"),
            ("Filmed-v0", "sys.modules['moviepy'] = None", "moviepy"),
        ],
    )
    def test_what_cannot_be_filmed(self, prepared, run, tmp_path, env_id, preparation, why):
        flags = (*QUICK, "--env-id", f"tiny_envs:{env_id}", "--capture-video", "--run-dir", "r")
        done = run("ppo_clip", *flags, path=prepared(preparation))
        assert_refused(done, "--capture-video (", why, "MUJOCO_GL")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_of_a_finished_run(self, completed_run, tmp_path):
        run_dir = tmp_path / "r"
        completed_run("ppo_clip", *QUICK, "--env-id", "tiny_envs:Filmed-v0", "--run-dir", "r")
        before = summary(run_dir)
        weights = checkpoint(run_dir)["agent"]
        completed_run("ppo_clip", "--resume", "r", "--capture-video")
        [video] = (run_dir / "videos").glob("*.mp4")
        filmed = video.read_bytes()
        assert len(filmed) > 500 and summary(run_dir) == before
        after = checkpoint(run_dir)["agent"]
        assert all(torch.equal(weights[name], after[name]) for name in weights)

        again = completed_run("ppo_clip", "--resume", "r", "--capture-video")
        assert again.stdout.startswith("r is finished") and summary(run_dir) == before
        assert video.read_bytes() == filmed


SHORT_TRAINING = {
    "reinforce": {"num_envs": 4, "total_timesteps": 600},
    "reinforce_baseline": {"num_envs": 4, "total_timesteps": 600},
    "dagger": {"num_envs": 4, "num_steps": 16, "num_updates": 2, "total_timesteps": 600},
    "ddpg": {"learning_starts": 100, "total_timesteps": 400, "batch_size": 8},
    "td3": {"learning_starts": 100, "total_timesteps": 400, "batch_size": 8},
    "sac": {"learning_starts": 100, "total_timesteps": 400, "batch_size": 8},
}
ROLLOUTS = {"num_envs": 4, "num_steps": 16, "total_timesteps": 600}


@pytest.fixture
def lose_a_weight(monkeypatch):
    """A weight becomes NaN in the last update before a log line, whose losses are still finite."""

    def lose_a_weight(module, before_line: int) -> None:
        log = module.Run.log
        lines = []

        def losing_log(run, *args, **named_args):
            lines.append(run)
            if len(lines) == before_line:
                weight = next(run.parts["agent"].parameters())
                weight.data.view(-1)[0] = float("nan")
            log(run, *args, **named_args)

        monkeypatch.setattr(module.Run, "log", losing_log)

    yield lose_a_weight
    if distributed.is_initialized():  # that of ppo_ddp.py, which did not come to its end
        distributed.destroy_process_group()


class TestWeightsThatAreNotFinite:
    def test_they_stop_the_run(self, module, script, train_here, lose_a_weight, tmp_path):
        lose_a_weight(module, before_line=3)
        flags = SHORT_TRAINING.get(script, ROLLOUTS)
        with pytest.raises(SystemExit) as stopped:
            train_here(module, checkpoint_interval=0, eval_episodes=1, **flags)
        state = checkpoint(tmp_path / "r")
        assert state["count"]["global_step"] > 0  # that of the second line
        assert all(tensor.isfinite().all() for tensor in state["agent"].values())
        message = str(stopped.value)
        assert "is not finite" in message and "keeps its last checkpoint" in message

    def test_at_the_end_of_the_run(self, train_here, lose_a_weight, tmp_path):
        """The save before the evaluation refuses them, too, and there is no policy of NaN."""
        lose_a_weight(ppo_clip, before_line=2)
        flags = {"num_envs": 4, "num_steps": 16, "total_timesteps": 64}
        with pytest.raises(SystemExit, match="is not finite"):
            train_here(ppo_clip, checkpoint_interval=3600, eval_episodes=1, **flags)
        run_dir = tmp_path / "r"
        assert all(tensor.isfinite().all() for tensor in checkpoint(run_dir)["agent"].values())
        assert not (run_dir / "policy.pt").exists() and not (run_dir / "summary.json").exists()
