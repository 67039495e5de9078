"""Bad input gets one line that names the flag, exit status 2, and leaves nothing behind."""

import shutil

import pytest
import torch

from helpers import OFF_POLICY, SCRIPTS, environment_flags, short_run_flags
from run_folder import RunsCodeWhenUnpickled

CASES = [
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
ROLLOUTS = [
    (("--num-steps", 0), "--num-steps"),
    (("--learning-rate", -1), "--learning-rate"),
    (("--learning-rate", "nan"), "--learning-rate"),
]
REPLAY = [
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
OWN = {
    "reinforce_baseline": [
        (("--value-epochs", 0), "--value-epochs"),
        (("--baseline", "median"), "--baseline"),
    ],
    "a2c": [(("--gae-lambda", -1), "--gae-lambda")],
    "ppo_kl": [(("--target-kl", -0.1), "--target-kl"), (("--kl-coef", "nan"), "--kl-coef")],
    "ddpg": [*REPLAY, (("--exploration-noise", -1), "--exploration-noise")],
    "sac": [*REPLAY, (("--alpha", -1), "--alpha")],
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


def refused(done, named):
    assert done.returncode == 2, done
    assert (
        len(done.stderr.splitlines()) == 1
        and named in done.stderr
        and "Traceback" not in done.stderr
    )
    assert done.stdout == ""


@pytest.mark.parametrize(
    "script, flags, named",
    [
        pytest.param(script, *case, id=f"{script} {' '.join(map(str, case[0]))}")
        for script in SCRIPTS
        for case in [
            *CASES,
            *OWN.get(script, []),
            *(ROLLOUTS if script not in OFF_POLICY else []),
            *(PPO if script.startswith("ppo") else []),
        ]
    ],
)
def test_bad_flag(script, flags, named, run, tmp_path):
    refused(run(script, *flags), named)
    assert list(tmp_path.iterdir()) == []


def test_run_dirs_that_cannot_be_resumed(script, run, tmp_path):
    assert run(script, *short_run_flags(script), "--run-dir", "good").returncode == 0
    content = {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()}
    refused(run(script, *short_run_flags(script), "--run-dir", "good"), "--run-dir good")
    refused(run(script, "--resume", "good", "--env-id", "Acrobot-v1"), "Acrobot-v1")

    def copy(name, **replaced):
        shutil.copytree(tmp_path / "good", tmp_path / name)
        for file, data in replaced.items():
            (tmp_path / name / file.replace("_", ".")).write_bytes(data)

    checkpoint = content["checkpoint.pt"]
    copy("empty")
    (tmp_path / "empty" / "checkpoint.pt").unlink()
    refused(run(script, "--resume", "empty"), "--resume empty")
    copy("cut", checkpoint_pt=checkpoint[: len(checkpoint) // 2])
    refused(run(script, "--resume", "cut"), "--resume cut")
    copy("list")
    torch.save([1, 2], tmp_path / "list" / "checkpoint.pt")
    refused(run(script, "--resume", "list"), "--resume list")
    copy("noise", checkpoint_pt=b"not a checkpoint")
    refused(run(script, "--resume", "noise"), "--resume noise")
    copy("config", config_json=b"{}")
    refused(run(script, "--resume", "config"), "--resume config")

    for name, other in (("script", {"script": "other"}), ("env", {"env_id": "Acrobot-v1"})):
        copy(name)
        torch.save(
            torch.load(tmp_path / "good" / "checkpoint.pt") | other,
            tmp_path / name / "checkpoint.pt",
        )
        refused(run(script, "--resume", name), f"--resume {name}")
    copy("evil")
    torch.save(
        {"script": script, "count": RunsCodeWhenUnpickled()}, tmp_path / "evil" / "checkpoint.pt"
    )
    refused(run(script, "--resume", "evil"), "--resume evil")

    assert content == {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()}


def test_an_expert_that_does_not_fit(run, tmp_path):
    """A policy file for other spaces, a damaged one, one that carries code; a dataset of another environment."""
    environment_flags("dagger", "tiny_envs:IdentityBox-v0", tmp_path)
    [path] = tmp_path.iterdir()
    done = run("dagger", "--expert", path)
    refused(done, f"--expert {path} is for ")
    assert (
        "Discrete(2)" in done.stderr
        and " ".join(torch.load(path)["action_space"].split()) in done.stderr
    )

    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:500])
    torch.save({"layers": RunsCodeWhenUnpickled()}, tmp_path / "evil.pt")
    for name in ("cut.pt", "evil.pt"):
        refused(run("dagger", "--expert", name), f"--expert {name} cannot be read")

    (tmp_path / "noise.npz").write_bytes(b"noise")
    refused(run("dagger", "--dataset", "noise.npz"), "--dataset noise.npz cannot be read")
    assert (
        run("dagger", "--total-timesteps", 600, "--eval-episodes", 2, "--run-dir", "r").returncode
        == 0
    )
    done = run("dagger", "--env-id", "Pendulum-v1", "--dataset", "r/dataset.npz")
    refused(done, "--dataset r/dataset.npz is for CartPole-v1, not for Pendulum-v1")
