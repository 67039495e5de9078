"""--evaluate: a saved policy is run again, in place of a training."""

import re
import signal
import sys

import pytest

from run_folder import summary
from test_bad_input import assert_refused

QUICK = ("--total-timesteps", 2048, "--num-envs", 8, "--num-steps", 32, "--eval-episodes", 20)
ON_SCREEN = {"SDL_VIDEODRIVER": "dummy"}
RESULT = r"(\S+): return (\S+) ± (\S+) over (\d+) episodes of (\d+) to (\d+) steps"


@pytest.fixture
def run_dir(completed_run, tmp_path):
    completed_run("ppo_clip", *QUICK, "--seed", 3, "--run-dir", "r")
    return tmp_path / "r"


def result_of(printed: str) -> tuple[str, float, float, int, int, int]:
    """What the line says: environment, mean, deviation, episodes, shortest and longest of them."""
    [(env_id, mean, std, episodes, shortest, longest)] = re.findall(RESULT, printed)
    return env_id, float(mean), float(std), int(episodes), int(shortest), int(longest)


def test_the_same_seed_gives_the_result_of_the_training(run_dir, completed_run):
    files = sorted(path.name for path in run_dir.iterdir())
    before = summary(run_dir)
    flags = ("--evaluate", "r", "--seed", 3, "--eval-episodes", 20)
    env_id, mean, std, episodes, shortest, longest = result_of(
        completed_run("ppo_clip", *flags).stdout
    )
    assert env_id == "CartPole-v1" and episodes == 20
    assert mean == pytest.approx(before["eval_return_mean"], abs=0.06)
    assert std == pytest.approx(before["eval_return_std"], abs=0.06)
    assert shortest <= mean <= longest  # CartPole's return is an episode's length
    assert sorted(path.name for path in run_dir.iterdir()) == files and summary(run_dir) == before


def test_another_seed_has_other_episodes(run_dir, completed_run):
    flags = ("--evaluate", "r", "--eval-episodes", 20)
    results = [completed_run("ppo_clip", *flags, "--seed", seed).stdout for seed in (3, 4)]
    assert result_of(results[0]) != result_of(results[1])


def test_the_environment_is_the_policys_own_unless_another_is_named(completed_run):
    completed_run("ppo_clip", *QUICK, "--env-id", "tiny_envs:IdentityBox-v0", "--run-dir", "r")
    found = []
    for flags in ((), ("--env-id", "tiny_envs:RaggedBox-v0")):
        found.append(result_of(completed_run("ppo_clip", "--evaluate", "r", *flags).stdout))
    assert found[0][0] == "tiny_envs:IdentityBox-v0" and found[0][4:] == (10, 10)
    assert found[1][0] == "tiny_envs:RaggedBox-v0" and found[1][4] < found[1][5]


def test_any_script_evaluates_the_policy_of_any(completed_run):
    """policy.pt is the same plain data in all."""
    short = ("--total-timesteps", 300, "--learning-starts", 200, "--run-dir", "r")
    completed_run("sac", *short, "--eval-episodes", 3)
    results = [completed_run(script, "--evaluate", "r").stdout for script in ("sac", "ppo_clip")]
    assert result_of(results[0]) == result_of(results[1])
    assert result_of(results[0])[0] == "Pendulum-v1"


@pytest.mark.slow
def test_in_a_window(run_dir, completed_run):
    flags = ("--evaluate", "r", "--render", "human", "--eval-episodes", 2)
    lines = completed_run("ppo_clip", *flags, **ON_SCREEN).stdout.splitlines()
    shown = [re.fullmatch(r"episode \d: return (\S+), (\d+) steps", line) for line in lines[-3:-1]]
    lengths = [int(line[2]) for line in shown]
    assert [float(line[1]) for line in shown] == lengths
    _, mean, _, episodes, shortest, longest = result_of(lines[-1])
    assert episodes == 2 and [shortest, longest] == sorted(lengths)
    assert mean == pytest.approx(sum(lengths) / 2, abs=0.06)


@pytest.mark.slow
def test_ctrl_c_closes_the_window(run_dir, start, monkeypatch):
    """pygame's window would take the signal, and do nothing."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    process = start("ppo_clip", "--evaluate", "r", "--render", "human")
    while not process.stdout.readline().startswith("episode 1"):
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == -signal.SIGINT


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_no_display(run_dir, run, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    done = run("ppo_clip", "--evaluate", "r", "--render", "human")
    assert_refused(done, "--render human needs a display")


@pytest.mark.slow
def test_filmed(run_dir, completed_run):
    completed_run("ppo_clip", "--evaluate", "r", "--capture-video", **ON_SCREEN)
    [video] = (run_dir / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000


def test_refused(run_dir, run):
    for flags, why in (
        (("--evaluate", "nothing"), "policy.pt"),
        (("--evaluate", ""), "the name of a folder"),
        (("--evaluate", "r", "--env-id", "Acrobot-v1"), "the policy is for Box("),
        (("--evaluate", "r", "--env-id", "tiny_envs:IdentityBox-v0"), "and Discrete(2), not for"),
        (("--evaluate", "r", "--env-id", "NoSuch-v0"), "NoSuch"),
        (("--evaluate", "r", "--resume", "r"), "leave --resume and --run-dir out"),
        (("--evaluate", "r", "--run-dir", "r2"), "leave --resume and --run-dir out"),
        (("--evaluate", "r", "--eval-episodes", 0), "--eval-episodes must be from 1"),
        (("--render", "human"), "--render goes with --evaluate"),
    ):
        assert_refused(run("ppo_clip", *flags), why)


def test_no_policy(run_dir, run):
    (run_dir / "policy.pt").write_bytes(b"nonsense")
    assert_refused(run("ppo_clip", "--evaluate", "r"), "--evaluate r")


def test_none_is_a_folders_name(run):
    assert_refused(run("ppo_clip", "--resume", "None"), "--resume None holds no run")
