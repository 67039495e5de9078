"""Each script learns: within seconds where one thing is asked for, and CartPole to its end."""

import pytest

from helpers import OFF_POLICY, SCRIPTS, environment_flags
from run_folder import summary

NOT_OFF_POLICY = [script for script in SCRIPTS if script not in OFF_POLICY]


@pytest.mark.quick_for("ppo_clip")
@pytest.mark.parametrize(
    "env_id",
    [
        pytest.param("tiny_envs:IdentityDiscrete-v0", marks=pytest.mark.slow),
        "tiny_envs:IdentityBox-v0",
    ],
)
def test_the_identity(script, completed_run, tmp_path, env_id):
    """Of at most 10; a policy that does not look gets 3.3 of the one and 5 to 6 of the other."""
    if script in OFF_POLICY and "Discrete" in env_id:
        pytest.skip("Box actions only")
    flags = environment_flags(script, env_id, tmp_path)
    if script in OFF_POLICY:
        flags += ("--total-timesteps", 2000, "--learning-starts", 500)
    else:
        flags += ("--total-timesteps", 30_000)
    if script == "dagger":
        flags += ("--num-updates", 50)
    completed_run(script, *flags, "--run-dir", "r")
    if "Discrete" in env_id:
        at_least = 9.9
    else:
        one_step_a_batch = ("reinforce", "reinforce_baseline", "a2c")
        at_least = 7 if script in one_step_a_batch else 8
    assert summary(tmp_path / "r")["eval_return_mean"] >= at_least


@pytest.mark.slow
@pytest.mark.parametrize("script", NOT_OFF_POLICY)
def test_cartpole(script, completed_run, tmp_path):
    completed_run(script, "--env-id", "CartPole-v1", "--run-dir", "r")
    assert summary(tmp_path / "r")["eval_return_mean"] >= 475


@pytest.mark.slow
@pytest.mark.parametrize("script", ["ddpg", "sac", "dagger"])
def test_pendulum(script, completed_run, tmp_path):
    completed_run(script, "--env-id", "Pendulum-v1", "--run-dir", "r")
    assert summary(tmp_path / "r")["eval_return_mean"] >= -200
