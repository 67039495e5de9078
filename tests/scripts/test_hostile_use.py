"""What strangers ran into: each was a loss, a wrong file or a traceback."""

import os
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

import ddpg
import ppo_clip
from helpers import OFF_POLICY, ROOT, process_environment, short_run_flags, wait_for
from run_folder import checkpoint, config, scalar_values, summary
from test_bad_input import assert_refused
from test_ends import listens_to

QUICK = ("--total-timesteps", 2048, "--num-envs", 8, "--num-steps", 32, "--eval-episodes", 2)
ON_SCREEN = {"SDL_VIDEODRIVER": "dummy"}


def shell(line: str, cwd) -> subprocess.CompletedProcess:
    """Runs a line of shell, in which $SCRIPT is ppo_clip.py with the flags of a quick run."""
    flags = " ".join(str(flag) for flag in QUICK)
    script = f'"{sys.executable}" "{ROOT / "ppo_clip.py"}" {flags}'
    line = line.replace("$SCRIPT", script)
    environment = process_environment()
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "$SCRIPT --run-dir r | true",
        "$SCRIPT --run-dir r | head -1",
        "$SCRIPT --run-dir r > /dev/full",
        "$SCRIPT --run-dir r >&-",
        "$SCRIPT --run-dir r 2>&-",
    ],
)
def test_a_run_goes_on_when_nobody_listens(line, tmp_path):
    done = shell(line, tmp_path)
    assert "Traceback" not in done.stderr
    assert summary(tmp_path / "r")["global_step"] >= 2048


@pytest.mark.slow
class TestFilms:
    def test_one_that_was_interrupted_is_made_again(self, completed_run, run, tmp_path):
        completed_run("ppo_clip", *QUICK, "--run-dir", "r")
        (tmp_path / "r" / "videos").mkdir()
        (tmp_path / "r" / "summary.json").unlink()  # as an interrupt in the filming leaves it
        completed_run("ppo_clip", "--resume", "r", "--capture-video", **ON_SCREEN)
        assert list((tmp_path / "r" / "videos").glob("*.mp4"))

    def test_a_new_policy_is_filmed_anew(self, completed_run, tmp_path):
        completed_run("ppo_clip", *QUICK, "--run-dir", "r", "--capture-video", **ON_SCREEN)
        [film] = (tmp_path / "r" / "videos").glob("*.mp4")
        first = film.read_bytes()
        more = ("--total-timesteps", 6000, "--no-capture-video")
        completed_run("ppo_clip", "--resume", "r", *more)
        completed_run("ppo_clip", "--resume", "r", "--capture-video", **ON_SCREEN)
        assert film.read_bytes() != first
        said = completed_run("ppo_clip", "--resume", "r", "--capture-video", **ON_SCREEN).stdout
        assert "is finished" in said


class TestFoldersOfOthers:
    @pytest.mark.parametrize("flag", ["--resume", "--run-dir"])
    def test_an_empty_name(self, run, tmp_path, flag):
        assert_refused(run("ppo_clip", *QUICK, flag, ""), "the name of a folder")
        assert list(tmp_path.iterdir()) == []

    def test_a_name_of_an_experiment_does_not_leave_the_folder(self, completed_run, tmp_path):
        completed_run("a2c", *QUICK, "--exp-name", "../../escape")
        [folder] = (tmp_path / "runs").iterdir()
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]
        assert folder.name.startswith("CartPole-v1__..-..-escape__1__")

    @pytest.mark.parametrize("name", ["config.json", "policy.pt"])
    def test_a_file_of_somebody_else_is_not_overwritten(self, run, tmp_path, name):
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / name).write_text("precious")
        for _ in range(2):
            assert_refused(run("ppo_clip", *QUICK, "--run-dir", "r"), "--run-dir r holds a run")
        assert (tmp_path / "r" / name).read_text() == "precious"

    def test_a_run_that_was_killed_as_it_began_can_be_started(self, completed_run, tmp_path):
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / ".lock").touch()
        completed_run("ppo_clip", *QUICK, "--run-dir", "r")
        assert config(tmp_path / "r")["script"] == "ppo_clip"

    def test_a_run_of_another_script_is_named(self, completed_run, run):
        completed_run("ppo_clip", *QUICK, "--run-dir", "r")
        assert_refused(run("a2c", "--resume", "r"), "holds a run of ppo_clip.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, flags",
    [
        ("ppo_kl", ("--kl-coef", 77)),
        ("ppo_clip", ("--no-norm-obs",)),
        ("sac", ("--no-norm-obs",)),
        ("reinforce_baseline", ("--baseline", "value")),
        ("dagger", ("--dataset", "d.npz")),
    ],
)
def test_a_flag_that_a_resumed_run_cannot_follow_is_refused(script, flags, run, short_run):
    run_dir = short_run(script)
    before = config(run_dir)
    assert_refused(run(script, "--resume", "r", *flags), f"{flags[0].replace('--no-', '--')} is ")
    assert config(run_dir) == before


@pytest.mark.slow
def test_a_finished_run_follows_flags_of_its_evaluation(completed_run, tmp_path):
    completed_run("a2c", "--total-timesteps", 2048, "--run-dir", "r", "--no-save-model")
    assert not (tmp_path / "r" / "policy.pt").exists()
    completed_run("a2c", "--resume", "r", "--save-model", "--eval-episodes", 7)
    assert (tmp_path / "r" / "policy.pt").exists()
    assert summary(tmp_path / "r")["eval_episodes"] == 7


@pytest.mark.slow
def test_a_finished_run_whose_policy_was_lost_makes_it_again(completed_run, tmp_path):
    completed_run("a2c", *QUICK, "--run-dir", "r")
    policy = (tmp_path / "r" / "policy.pt").read_bytes()
    (tmp_path / "r" / "policy.pt").unlink()
    completed_run("a2c", "--resume", "r")
    assert (tmp_path / "r" / "policy.pt").read_bytes() == policy


@pytest.mark.slow
def test_dagger_resumes_without_the_dataset_that_it_began_with(completed_run, tmp_path):
    short = ("--total-timesteps", 600, "--num-updates", 20, "--eval-episodes", 2)
    completed_run("dagger", *short, "--run-dir", "first")
    data = tmp_path / "first" / "dataset.npz"
    completed_run("dagger", *short, "--run-dir", "r", "--dataset", data)
    labels = scalar_values(tmp_path / "r", "charts/labels")[-1]
    data.unlink()
    completed_run("dagger", "--resume", "r", "--total-timesteps", 1200)
    assert scalar_values(tmp_path / "r", "charts/labels")[-1] > labels


@pytest.mark.parametrize("script", OFF_POLICY)
def test_a_reward_that_is_no_number_is_not_saved(script, run, tmp_path):
    flags = (*short_run_flags(script, "tiny_envs:BrokenBox-v0"), "--checkpoint-interval", 0)
    done = run(script, *flags, "--run-dir", "r")
    assert done.returncode == 1 and "keeps its last checkpoint" in done.stderr
    for name, column in checkpoint(tmp_path / "r")["buffer"].items():
        assert column.isfinite().all(), name


def test_save_looks_at_the_buffer_itself(train_here, monkeypatch, tmp_path):
    """Also where no minibatch has seen the reward yet, and so no loss tells."""
    add = ddpg.ReplayBuffer.add

    def add_with_nan(buffer, batch):
        batch.reward[:] = float("nan")
        add(buffer, batch)

    monkeypatch.setattr(ddpg.ReplayBuffer, "add", add_with_nan)
    flags = {"total_timesteps": 500, "learning_starts": 400, "checkpoint_interval": 0}
    with pytest.raises(SystemExit, match="reward of buffer is not finite"):
        train_here(ddpg, **flags)
    assert checkpoint(tmp_path / "r")["count"]["global_step"] == 0


BAD_ENVIRONMENTS = """
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

class Base(gym.Env):
    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)

    def reset(self, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}

class FailingReset(Base):
    def reset(self, seed=None, options=None):
        raise KeyError("where")

class OldReset(Base):
    def reset(self, seed=None, options=None):
        return np.zeros(2, np.float32)

class WrongShape(Base):
    def reset(self, seed=None, options=None):
        return np.zeros(5, np.float32), {}

class FailingStep(Base):
    def step(self, action):
        raise RuntimeError("broken wheel")

for env in (FailingReset, OldReset, WrongShape, FailingStep):
    gym.register(f"{env.__name__}-v0", env, max_episode_steps=10)
"""


@pytest.mark.slow
@pytest.mark.parametrize("env", ["FailingReset", "OldReset", "WrongShape", "FailingStep"])
def test_an_environment_that_fails_at_once(run, tmp_path, env):
    (tmp_path / "bad_envs.py").write_text(BAD_ENVIRONMENTS)
    done = run("a2c", "--env-id", f"bad_envs:{env}-v0", "--run-dir", "r", fresh=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"a2c.py: --env-id bad_envs:{env}-v0: " in done.stderr
    assert not (tmp_path / "r").exists()


def test_an_environment_that_leaves_at_its_import(run, tmp_path):
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit('no display')\n")
    assert_refused(run("a2c", "--env-id", "leaving:Env-v0"), "no display")


@pytest.mark.slow
@pytest.mark.parametrize("name, value", [("RANK", "0"), ("RANK", "abc"), ("WORLD_SIZE", "2")])
def test_ppo_ddp_alone_with_variables_of_a_cluster(completed_run, name, value):
    completed_run("ppo_ddp", *QUICK, **{name: value})


def test_more_memory_than_there_is(run):
    steps = ("--num-steps", 10**11, "--total-timesteps", 10**15)
    done = run("ppo_clip", *steps, "--num-minibatches", 1, "--run-dir", "r")
    assert done.returncode == 1 and "not enough memory" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_closed_terminal(tmp_path):
    """The checkpoint is saved, and the exit status is SIGHUP's, though nothing can be printed."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "ppo_clip.py"), "--run-dir", "r"]
    command += ["--total-timesteps", "100000000", "--checkpoint-interval", "3600"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=process_environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        wait_for(lambda: listens_to(process, signal.SIGHUP), 60)
        time.sleep(0.5)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 128 + signal.SIGHUP
    finally:
        process.kill()
    assert checkpoint(tmp_path / "r")["count"]["global_step"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        {"count": {"global_steps": 5}},
        {"count": 5},
        {"count": None},
    ],
    ids=str,
)
def test_a_damaged_count_in_a_checkpoint(completed_run, run, tmp_path, damage):
    completed_run("ppo_clip", *QUICK, "--run-dir", "r")
    saved = checkpoint(tmp_path / "r")
    if isinstance(damage.get("count"), dict):
        damage = {"count": saved["count"] | damage["count"]}
    torch.save(saved | damage, tmp_path / "r" / "checkpoint.pt")
    more = ("--total-timesteps", 6000, "--target-return", 9999)
    assert_refused(run("ppo_clip", "--resume", "r", *more), "--resume r")
    assert summary(tmp_path / "r")["global_step"] == saved["count"]["global_step"]


class TestDamage:
    """Bytes that were overwritten: the file is as long as before, and can be unpickled."""

    def overwrite(self, path) -> None:
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(bytes(2000))

    def test_in_a_policy(self, completed_run, run, tmp_path):
        completed_run("ppo_clip", *QUICK, "--run-dir", "r")
        self.overwrite(tmp_path / "r" / "policy.pt")
        assert_refused(run("ppo_clip", "--evaluate", "r"), "missing or damaged (BadZipFile)")
        with pytest.raises(zipfile.BadZipFile):
            ppo_clip.load_policy(tmp_path / "r" / "policy.pt")

    @pytest.mark.slow
    def test_in_a_checkpoint(self, completed_run, run, tmp_path):
        completed_run("ppo_clip", *QUICK, "--run-dir", "r")
        self.overwrite(tmp_path / "r" / "checkpoint.pt")
        done = run("ppo_clip", "--resume", "r", "--total-timesteps", 6000)
        assert_refused(done, "missing or damaged (BadZipFile)")

    @pytest.mark.slow
    def test_in_a_summary(self, completed_run, run, tmp_path):
        completed_run("ppo_clip", *QUICK, "--run-dir", "r")
        before = summary(tmp_path / "r")
        (tmp_path / "r" / "summary.json").write_text('{"global')
        completed_run("ppo_clip", "--resume", "r")
        assert summary(tmp_path / "r")["eval_return_mean"] == before["eval_return_mean"]


@pytest.mark.slow
def test_a_checkpoint_of_another_version(completed_run, run, tmp_path):
    completed_run("ppo_clip", *QUICK, "--run-dir", "r")
    saved = checkpoint(tmp_path / "r")
    saved["args"]["flag_of_old"] = 3
    torch.save(saved, tmp_path / "r" / "checkpoint.pt")
    assert_refused(run("ppo_clip", "--resume", "r", "--total-timesteps", 6000), "flag_of_old")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are characters")
def test_a_name_that_is_no_text(run):
    for flag in ("--run-dir", "--exp-name"):
        done = run("ppo_clip", *QUICK, flag, os.fsdecode(b"bad\xff"))
        assert_refused(done, "cannot be the name of a folder")


def test_what_is_to_be_typed_is_quoted(completed_run):
    done = completed_run("ppo_clip", *QUICK, "--run-dir", "$(touch x); r")
    assert "tensorboard --logdir '$(touch x); r'" in done.stdout


def test_a_policy_takes_observations_in_any_order(short_run):
    policy = ppo_clip.load_policy(short_run("ppo_clip") / "policy.pt")
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert (policy(obs[::-1]) == policy(obs)[::-1]).all()


LATE_TROUBLE = """
import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

class Base(gym.Env):
    observation_space = Box(-1, 1, (2,))
    action_space = Discrete(2)
    steps = 0
    made = 0

    def __init__(self, render_mode=None):
        Base.made += 1
        self.number = Base.made
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        Base.steps += 1
        if Base.steps == 200:
            self.trouble()
        return np.zeros(2, np.float32), 0.0, True, False, {}

    def trouble(self):
        pass

class NoAnswer(Base):
    def trouble(self):
        raise TimeoutError("no answer")

class Memory(Base):
    def trouble(self):
        raise RuntimeError("replay memory index out of range")

class Exit(Base):
    def trouble(self):
        raise SystemExit(0)

class ExitTwo(Base):
    def trouble(self):
        raise SystemExit(2)

class BadEvaluation(Base):
    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float("nan") if self.number > 2 + 8 else 1.0, *rest

class Unlike(Base):
    def __init__(self):
        super().__init__()
        self.action_space = Discrete(2 + Base.made % 2)

class NothingToSee(Base):
    metadata = {"render_modes": ["rgb_array"]}

    def render(self):
        return None

for env in (NoAnswer, Memory, Exit, ExitTwo, BadEvaluation, Unlike, NothingToSee):
    gym.register(f"{env.__name__}-v0", env, max_episode_steps=10)
"""


@pytest.mark.slow
class TestEnvironmentsThatFailLate:
    @pytest.fixture
    def run_in(self, run, tmp_path):
        def run_in(env, *flags):
            (tmp_path / "late_trouble.py").write_text(LATE_TROUBLE)
            flags = (*QUICK, "--env-id", f"late_trouble:{env}-v0", "--run-dir", "r", *flags)
            return run("a2c", *flags, fresh=True)

        return run_in

    @pytest.mark.parametrize(
        "env, error", [("NoAnswer", "TimeoutError"), ("Memory", "RuntimeError")]
    )
    def test_its_error_is_shown_as_it_is(self, run_in, env, error):
        """It is neither the disk's nor the machine's memory."""
        done = run_in(env)
        assert done.returncode == 1 and f"{error}: " in done.stderr
        assert "late_trouble.py" in done.stderr
        assert "disk" not in done.stderr and "not enough" not in done.stderr

    @pytest.mark.parametrize("env", ["Exit", "ExitTwo"])
    def test_its_exit_is_no_success(self, run_in, tmp_path, env):
        done = run_in(env)
        assert done.returncode == 1 and "the environment has ended the program" in done.stderr
        assert not (tmp_path / "r" / "summary.json").exists()

    def test_an_evaluation_that_is_not_finite_is_no_success(self, run_in, tmp_path):
        done = run_in("BadEvaluation")
        assert done.returncode == 1 and "return of the evaluation is nan" in done.stderr
        assert not (tmp_path / "r" / "summary.json").exists()

    @pytest.mark.slow
    def test_instances_that_differ(self, run_in, tmp_path):
        done = run_in("Unlike")
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "--env-id late_trouble:Unlike-v0: RuntimeError" in done.stderr
        assert not (tmp_path / "r").exists()

    @pytest.mark.slow
    def test_one_that_renders_nothing(self, run_in, tmp_path):
        done = run_in("NothingToSee", "--capture-video")
        assert done.returncode == 2 and "has not rendered anything" in done.stderr
        assert "SystemExit" not in done.stderr
        assert not (tmp_path / "r").exists()
