"""Bad input gets one line that names the flag, exit status 2, and leaves nothing behind."""

import shutil

import pytest
import torch

from helpers import OFF_POLICY, SCRIPTS, short_run_flags, write_identity_expert
from run_folder import RunsCodeWhenUnpickled

EVERY_SCRIPT = [
    (("--env-id", "Nope-v0"), "Nope"),
    (("--env-id", "no_such_module:Nope-v0"), "no_such_module"),
    (("--env-id", "FrozenLake-v1"), "Discrete(16)"),
    (("--env-id", "tiny_envs:ManyActions-v0"), "MultiBinary"),
    (("--env-id", "tiny_envs:Unbounded-v0"), "inf"),
    (("--total-timesteps", 3), "--total-timesteps 3"),
    (("--num-envs", 0), "--num-envs"),
    (("--num-envs", -3), "--num-envs"),
    (("--eval-episodes", 0), "--eval-episodes"),
    (("--seed", -1), "--seed"),
    (("--seed", "one"), "--seed"),
    (("--bogus", 1), "--bogus"),
    (("--resume", "nowhere"), "--resume nowhere"),
]
NOT_OFF_POLICY = [
    (("--num-steps", 0), "--num-steps"),
    (("--learning-rate", -1), "--learning-rate"),
    (("--learning-rate", "nan"), "--learning-rate"),
]
REPLAY_BUFFER = [
    (
        ("--env-id", "CartPole-v1"),
        "Discrete(2), not a flat, bounded Box (Discrete: use ppo_clip.py)",
    ),
    (("--buffer-size", 10**12), "--buffer-size 1000000000000 takes"),
    (("--buffer-size", 0), "--buffer-size"),
    (("--learning-starts", 10**6), "--learning-starts 1000000"),
    (("--policy-frequency", 0), "--policy-frequency"),
    (("--q-lr", "nan"), "--q-lr"),
]
ONE_SCRIPT = {
    "reinforce_baseline": [
        (("--value-epochs", 0), "--value-epochs"),
        (("--baseline", "median"), "--baseline"),
    ],
    "a2c": [(("--gae-lambda", -1), "--gae-lambda")],
    "ppo_kl": [(("--target-kl", -0.1), "--target-kl"), (("--kl-coef", "nan"), "--kl-coef")],
    "ddpg": [*REPLAY_BUFFER, (("--exploration-noise", -1), "--exploration-noise")],
    "sac": [*REPLAY_BUFFER, (("--alpha", -1), "--alpha")],
    "dagger": [
        (
            ("--env-id", "Acrobot-v1"),
            "python ppo_clip.py --env-id Acrobot-v1 --run-dir expert && python dagger.py",
        ),
        (("--expert", "nowhere"), "--expert nowhere"),
        (("--dataset", "nowhere.npz"), "--dataset nowhere.npz"),
        (("--beta-schedule", "cubic"), "--beta-schedule"),
        (("--num-updates", 0), "--num-updates"),
    ],
}
PPO = [
    (("--num-minibatches", 7), "--num-minibatches 7"),
    (("--num-minibatches", 0), "--num-minibatches"),
    (("--update-epochs", 0), "--update-epochs"),
]


def bad_flags() -> list:
    """Each script with each command line that it must refuse, and what the message must name."""
    found = []
    for script in SCRIPTS:
        cases = EVERY_SCRIPT + ONE_SCRIPT.get(script, [])
        if script not in OFF_POLICY:
            cases = cases + NOT_OFF_POLICY
        if script.startswith("ppo"):
            cases = cases + PPO
        for flags, named in cases:
            words = " ".join(str(flag) for flag in flags)
            found.append(pytest.param(script, flags, named, id=f"{script} {words}"))
    return found


def assert_refused(done, named: str) -> None:
    """One line on stderr, which names the flag; exit status 2."""
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("script, flags, named", bad_flags())
def test_bad_flag(script, flags, named, run, tmp_path):
    assert_refused(run(script, *flags), named)
    assert list(tmp_path.iterdir()) == []


def contents(folder) -> dict[str, bytes]:
    """Each file's name and bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_run_dirs_that_cannot_be_resumed(script, run, completed_run, tmp_path):
    good = tmp_path / "good"
    completed_run(script, *short_run_flags(script), "--run-dir", "good")
    before = contents(good)
    again = run(script, *short_run_flags(script), "--run-dir", "good")
    assert_refused(again, "--run-dir good")
    assert_refused(run(script, "--resume", "good", "--env-id", "Acrobot-v1"), "Acrobot-v1")

    def copy_of_good(name):
        return shutil.copytree(good, tmp_path / name)

    checkpoint = before["checkpoint.pt"]
    saved = torch.load(good / "checkpoint.pt")
    (copy_of_good("empty") / "checkpoint.pt").unlink()
    (copy_of_good("cut") / "checkpoint.pt").write_bytes(checkpoint[: len(checkpoint) // 2])
    (copy_of_good("noise") / "checkpoint.pt").write_bytes(b"not a checkpoint")
    (copy_of_good("config") / "config.json").write_bytes(b"{}")
    torch.save([1, 2], copy_of_good("list") / "checkpoint.pt")
    torch.save(saved | {"script": "other"}, copy_of_good("script") / "checkpoint.pt")
    torch.save(saved | {"env_id": "Acrobot-v1"}, copy_of_good("env") / "checkpoint.pt")
    evil = {"script": script, "count": RunsCodeWhenUnpickled()}
    torch.save(evil, copy_of_good("evil") / "checkpoint.pt")
    for name in ("empty", "cut", "noise", "config", "list", "script", "env", "evil"):
        assert_refused(run(script, "--resume", name), f"--resume {name}")

    assert contents(good) == before


def test_an_expert_that_does_not_fit(run, tmp_path):
    """A policy file for other spaces, a damaged one, one that carries code."""
    path = tmp_path / "expert.pt"
    write_identity_expert("tiny_envs:IdentityBox-v0", path)
    done = run("dagger", "--expert", path)
    assert_refused(done, f"--expert {path} is for ")
    its_own = " ".join(torch.load(path)["action_space"].split())
    assert "Discrete(2)" in done.stderr and its_own in done.stderr

    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:500])
    torch.save({"layers": RunsCodeWhenUnpickled()}, tmp_path / "evil.pt")
    for name in ("cut.pt", "evil.pt"):
        assert_refused(run("dagger", "--expert", name), f"--expert {name} cannot be read")


def test_a_dataset_that_does_not_fit(run, completed_run, tmp_path):
    """A damaged one, and one of another environment."""
    (tmp_path / "noise.npz").write_bytes(b"noise")
    done = run("dagger", "--dataset", "noise.npz")
    assert_refused(done, "--dataset noise.npz cannot be read")
    completed_run("dagger", "--total-timesteps", 600, "--eval-episodes", 2, "--run-dir", "r")
    done = run("dagger", "--env-id", "Pendulum-v1", "--dataset", "r/dataset.npz")
    assert_refused(done, "--dataset r/dataset.npz is for CartPole-v1, not for Pendulum-v1")
