"""Bad input is refused with exit status 2, names the flag, and leaves nothing behind.

What a script finds is one line. What the parser finds, tyro, is its box of several.
"""

import importlib
import shutil
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nan

from helpers import OFF_POLICY, SCRIPTS, short_run_flags, write_identity_expert
from run_folder import RunsCodeWhenUnpickled, config

EVERY_SCRIPT = [
    (("--env-id", "Nope-v0"), "Nope"),
    (("--env-id", "no_such_module:Nope-v0"), "no_such_module"),
    (("--env-id", "FrozenLake-v1"), "Discrete(16)"),
    (("--env-id", "tiny_envs:ManyActions-v0"), "MultiBinary"),
    (("--env-id", "tiny_envs:Unbounded-v0"), "inf"),
    (("--env-id", "tiny_envs:Huge-v0"), "e+38"),
    (("--env-id", "tiny_envs:NoLimit-v0"), "without max_episode_steps"),
    (("--total-timesteps", 3), "--total-timesteps 3"),
    (("--num-envs", 0), "--num-envs"),
    (("--num-envs", -3), "--num-envs"),
    (("--eval-episodes", 0), "--eval-episodes"),
    (("--seed", -1), "--seed"),
    (("--resume", "nowhere"), "--resume nowhere"),
]
# What is checked in the part that is the same in every script: one script will do.
SHARED_PART = [
    (("--seed", 2**63), "--seed"),
    (("--seed", 2**64), "--seed"),
    (("--env-id", "tiny_envs:WholeNumbers-v0"), "not of float32 or float64"),
    (("--env-id", "tiny_envs:Half-v0"), "not of float32 or float64"),
    (("--env-id", "tiny_envs:SameStep-v0"), "NEXT_STEP"),
    (("--env-id", "tiny_envs:NoAutoreset-v0"), "NEXT_STEP"),
]
# Values that a field of Args must not have, in whichever script it is.
OUT_OF_RANGE = {
    "gamma": (-0.1, 1.01),
    "gae_lambda": (-0.1, 1.01),
    "tau": (-0.1, 0, 1.01),
    "max_grad_norm": (-1, 0),
    "vf_coef": (-0.5,),
    "target_kl": (-0.1, 0),
}
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
    "a2c": [*SHARED_PART, (("--value-epochs", 0), "--value-epochs")],
    "ppo_ddp": [
        (("--num-steps", 1, "--num-minibatches", 1), "--num-minibatches 1 is more than half"),
        (
            ("--num-envs", 4, "--num-steps", 3, "--num-minibatches", 6),
            "--num-minibatches 6 is more",
        ),
        (("--clip-coef", -1), "--clip-coef"),
    ],
    "ppo_kl": [(("--kl-coef", "nan"), "--kl-coef")],
    "ddpg": [
        *REPLAY_BUFFER,
        (("--exploration-noise", -1), "--exploration-noise"),
        (("--learning-rate", -1), "--learning-rate"),
        (("--learning-starts", 0), "--learning-starts 0 has no random steps"),
    ],
    "td3": [
        *REPLAY_BUFFER,
        (("--policy-noise", -1), "--policy-noise"),
        (("--noise-clip", -1), "--noise-clip"),
    ],
    "trpo": [
        (("--target-kl", 0), "--target-kl"),
        (("--cg-iterations", 0), "--cg-iterations"),
        (("--cg-damping", -1), "--cg-damping"),
        (("--value-epochs", 0), "--value-epochs"),
        (("--num-minibatches", 0), "--num-minibatches"),
    ],
    "sac": [
        *REPLAY_BUFFER,
        (("--alpha", -1), "--alpha"),
        (("--alpha", 0, "--no-autotune"), "--alpha"),
        (("--target-network-frequency", 0), "--target-network-frequency"),
    ],
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


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def out_of_range(script: str) -> list:
    """Each value that one of the script's flags must not have."""
    found = []
    for field in fields(importlib.import_module(script).Args):
        flag = flag_of(field.name)
        found += [((flag, value), flag) for value in OUT_OF_RANGE.get(field.name, ())]
    return found


def numbers() -> list:
    """Each script's module with each flag that takes a number which need not be whole."""
    found = []
    for script in SCRIPTS:
        module = importlib.import_module(script)
        for field in fields(module.Args):
            if field.type in (float, float | None):
                found.append(pytest.param(module, field.name, id=f"{script} {flag_of(field.name)}"))
    return found


def bad_flags() -> list:
    """What each script refuses by itself."""
    found = []
    for script in SCRIPTS:
        cases = EVERY_SCRIPT + ONE_SCRIPT.get(script, []) + out_of_range(script)
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


@pytest.mark.quick_for("ppo_clip", "dagger")
@pytest.mark.parametrize("script, flags, named", bad_flags())
def test_bad_flag(script, flags, named, run, tmp_path):
    assert_refused(run(script, *flags), named)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.quick_for("ppo_clip", "ddpg", "dagger")
@pytest.mark.parametrize("script, flags, named", flags_that_do_not_parse())
def test_a_flag_that_does_not_parse(script, flags, named, run, tmp_path):
    assert_refused_somehow(run(script, *flags), named)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module, name", numbers())
def test_a_number_that_is_not_finite(module, name, train_here, capsys, tmp_path):
    """Each of the flags, from the script's Args; what was refused has not begun."""
    for value in (nan, float("inf"), -float("inf")):
        with pytest.raises(SystemExit) as refused:
            train_here(module, **{name: value})
        assert refused.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{module.__name__}.py: {flag_of(name)} must be ")
        assert list(tmp_path.iterdir()) == []


def test_a_run_dir_that_is_no_folder(run, tmp_path):
    (tmp_path / "file").write_text("kept")
    for run_dir in ("file", "file/below", "file/further/below"):
        done = run("ppo_clip", *short_run_flags("ppo_clip"), "--run-dir", run_dir)
        assert_refused(done, "file")
        assert contents(tmp_path) == {"file": b"kept"}


def test_a_run_is_resumed_by_its_checkpoint_alone(completed_run, tmp_path):
    """config.json tells people what a run was. A damaged one does no harm."""
    flags = (*short_run_flags("a2c"), "--eval-episodes", 1)
    completed_run("a2c", *flags, "--gamma", 0.9, "--run-dir", "r")
    (tmp_path / "r" / "config.json").write_text("{")
    completed_run("a2c", "--resume", "r", "--total-timesteps", 10_000)
    assert config(tmp_path / "r")["args"]["gamma"] == 0.9


def contents(folder) -> dict[str, bytes]:
    """Each file's name and bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.quick_for("ppo_clip")
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
    torch.save([1, 2], copy_of_good("list") / "checkpoint.pt")
    torch.save(saved | {"script": "other"}, copy_of_good("script") / "checkpoint.pt")
    evil = {"script": script, "count": RunsCodeWhenUnpickled()}
    torch.save(evil, copy_of_good("evil") / "checkpoint.pt")
    for name in ("empty", "cut", "noise", "list", "script", "evil"):
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


# What a file of labels for CartPole-v1 may have instead of what it should.
OBS = np.zeros((6, 4), dtype=np.float32)
LABEL = np.array([0, 1, 0, 1, 0, 1])
HOLED = np.where(np.arange(24).reshape(6, 4) == 13, np.nan, OBS)
NOT_OF_CARTPOLE = {
    "labels that are not whole": {"label": LABEL.astype(np.float32)},
    "labels that are words": {"label": LABEL.astype(str)},
    "labels of two numbers": {"label": np.stack([LABEL, LABEL], axis=1)},
    "a label that is no action": {"label": LABEL + 1},
    "a negative label": {"label": -LABEL},
    "fewer labels than observations": {"label": LABEL[:5]},
    "an observation that is no number": {"obs": HOLED},
    "an observation without an end": {"obs": np.where(np.isnan(HOLED), np.inf, OBS)},
    "observations of another width": {"obs": OBS[:, :3]},
    "observations in a row": {"obs": OBS.reshape(-1)},
    "observations that are a number": {"obs": np.float32(0)},
    "labels that are true or false": {"label": LABEL.astype(bool)},
    "no environment": {"env_id": None},
    "objects": {"label": np.array([None] * 6)},
}


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_labels_of_any_whole_type(kind, completed_run, tmp_path):
    np.savez(tmp_path / "d.npz", env_id="CartPole-v1", obs=OBS, label=LABEL.astype(kind))
    flags = ("--dataset", "d.npz", "--total-timesteps", 600, "--num-updates", 2)
    completed_run("dagger", *flags, "--eval-episodes", 1, "--run-dir", "r")


@pytest.mark.parametrize("what", NOT_OF_CARTPOLE)
def test_a_dataset_that_is_not_of_the_environments_spaces(what, run, tmp_path):
    arrays = {"env_id": "CartPole-v1", "obs": OBS, "label": LABEL, **NOT_OF_CARTPOLE[what]}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    np.savez(tmp_path / "d.npz", **arrays)
    assert_refused(run("dagger", "--dataset", "d.npz", "--run-dir", "r"), "--dataset d.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["d.npz"]


def test_box_labels_that_are_not_of_the_space(run, tmp_path):
    """Of another type, or beyond the bounds of ±2, or not a number."""
    obs = np.zeros((2, 3), dtype=np.float32)
    for label in ([[1], [-2]], [[0.5], [2.5]], [[0.5], [nan]]):
        label = np.array(label, dtype=None if label[0][0] == 1 else np.float32)
        np.savez(tmp_path / "d.npz", env_id="Pendulum-v1", obs=obs, label=label)
        done = run("dagger", "--env-id", "Pendulum-v1", "--dataset", "d.npz", "--run-dir", "r")
        assert_refused(done, "--dataset d.npz")
        assert [path.name for path in tmp_path.iterdir()] == ["d.npz"]


def layers(num_inputs=4, num_outputs=2, weight=1.0, bias=0.0) -> list:
    """A policy with one hidden layer."""
    last = torch.full((num_outputs, 8), weight)
    return [(torch.ones(8, num_inputs), torch.zeros(8)), (last, torch.full((num_outputs,), bias))]


# What a policy file for CartPole-v1 may have instead.
NOT_AN_EXPERT = {
    "a first layer that is too wide": {"layers": layers(num_inputs=5)},
    "layers that do not follow each other": {"layers": [layers()[0], layers()[0]]},
    "no layers": {"layers": []},
    "a layer without a bias": {"layers": [(torch.ones(2, 4),)]},
    "statistics of another width": {"obs_mean": torch.zeros(3)},
    "an action that is none": {"low": torch.tensor(7)},
    "a head for Box actions": {"head": "clip"},
    "an unknown activation": {"activation": "gelu"},
    "an output too many": {"layers": layers(num_outputs=3)},
    "weights that are no numbers": {"layers": layers(weight=nan)},
    "a bias that is no number": {"layers": layers(bias=nan)},
    "a mean that is no number": {"obs_mean": torch.full((4,), nan)},
}


@pytest.mark.parametrize("what", NOT_AN_EXPERT)
def test_an_expert_that_is_malformed(what, run, tmp_path):
    write_identity_expert("CartPole-v1", tmp_path / "e.pt")
    good = torch.load(tmp_path / "e.pt") | {"layers": layers()}
    torch.save(good | NOT_AN_EXPERT[what], tmp_path / "e.pt")
    done = run("dagger", "--expert", "e.pt", "--total-timesteps", 600, "--run-dir", "r")
    assert_refused(done, "--expert e.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["e.pt"]
