"""Bad input is refused with exit status 2, names the flag, and leaves nothing behind.

What a script finds is one line. What the parser finds, tyro, is its box of several.
"""

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
    (("--resume", "nowhere"), "--resume nowhere"),
]
LEARNING_RATE = [
    (("--learning-rate", -1), "--learning-rate"),
    (("--learning-rate", "nan"), "--learning-rate"),
]
WHOLE_EPISODES = ("reinforce", "reinforce_baseline")  # their rollouts have no --num-steps
ROLLOUT = [(("--num-steps", 0), "--num-steps")]
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
        (("--batch-size", 0), "--batch-size"),
    ],
    "a2c": [(("--gae-lambda", -1), "--gae-lambda")],
    "ppo_ddp": [
        (("--num-steps", 1, "--num-minibatches", 1), "--num-minibatches 1 is more than half"),
        (
            ("--num-envs", 4, "--num-steps", 3, "--num-minibatches", 6),
            "--num-minibatches 6 is more",
        ),
        (("--clip-coef", -1), "--clip-coef"),
    ],
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
        (("--num-updates", 0), "--num-updates"),
    ],
}
PPO = [
    (("--num-minibatches", 7), "--num-minibatches 7"),
    (("--num-minibatches", 0), "--num-minibatches"),
    (("--update-epochs", 0), "--update-epochs"),
]


# What the parser refuses: a value of another type, a flag that is none, one without a value.
PARSER = [
    (("--seed", "one"), "--seed"),
    (("--total-timesteps", "1.5"), "--total-timesteps"),
    (("--gamma", "much"), "--gamma"),
    (("--target-return", "high"), "--target-return"),
    (("--bogus", 1), "--bogus"),
    (("--resume", "nowhere", "--bogus", 1), "--bogus"),
    (("--env-id",), "--env-id"),
]
# And what is none of a few choices.
CHOICES = {
    "reinforce_baseline": [(("--baseline", "median"), "--baseline")],
    "dagger": [(("--beta-schedule", "cubic"), "--beta-schedule")],
}


def parameters(script: str, cases: list) -> list:
    """A script with each command line that it must refuse, and what the message must name."""
    found = []
    for flags, named in cases:
        words = " ".join(str(flag) for flag in flags)
        found.append(pytest.param(script, flags, named, id=f"{script} {words}"))
    return found


def bad_flags() -> list:
    """What each script refuses by itself."""
    found = []
    for script in SCRIPTS:
        cases = EVERY_SCRIPT + ONE_SCRIPT.get(script, [])
        if script not in OFF_POLICY:
            cases = cases + LEARNING_RATE
        if script not in (*OFF_POLICY, *WHOLE_EPISODES):
            cases = cases + ROLLOUT
        if script.startswith("ppo"):
            cases = cases + PPO
        found += parameters(script, cases)
    return found


def flags_that_do_not_parse() -> list:
    """What the parser refuses."""
    found = []
    for script in SCRIPTS:
        cases = [case for case in PARSER if case[1] != "--gamma" or script != "dagger"]
        found += parameters(script, cases + CHOICES.get(script, []))
    return found


def assert_refused_somehow(done, named: str) -> None:
    """With exit status 2; on stderr alone, which names the flag."""
    assert done.returncode == 2, done
    assert named in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def assert_refused(done, named: str) -> None:
    """The same, in one line of the script's own."""
    assert_refused_somehow(done, named)
    [line] = done.stderr.splitlines()
    script = done.args[0].rpartition("/")[2]
    assert line.startswith(f"{script}: ")


@pytest.mark.parametrize("script, flags, named", bad_flags())
def test_bad_flag(script, flags, named, run, tmp_path):
    assert_refused(run(script, *flags), named)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script, flags, named", flags_that_do_not_parse())
def test_a_flag_that_does_not_parse(script, flags, named, run, tmp_path):
    assert_refused_somehow(run(script, *flags), named)
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
