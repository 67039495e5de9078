"""Bad input gets one line that names the flag, exit status 2, and leaves nothing behind."""

import shutil

import pytest
import torch
from conftest import SCRIPTS
from test_run import Evil

CASES = [
    (("--env-id", "Nope-v0"), "Nope"),
    (("--env-id", "no_such_module:Nope-v0"), "no_such_module"),
    (("--env-id", "FrozenLake-v1"), "Discrete(16)"),
    (("--env-id", "tiny_envs:ManyActions-v0"), "MultiBinary"),
    (("--env-id", "tiny_envs:Unbounded-v0"), "inf"),
    (("--total-timesteps", 3), "--total-timesteps 3"),
    (("--num-envs", 0), "--num-envs"),
    (("--num-envs", -3), "--num-envs"),
    (("--num-steps", 0), "--num-steps"),
    (("--eval-episodes", 0), "--eval-episodes"),
    (("--learning-rate", -1), "--learning-rate"),
    (("--learning-rate", "nan"), "--learning-rate"),
    (("--seed", -1), "--seed"),
    (("--seed", "one"), "--seed"),
    (("--bogus", 1), "--bogus"),
    (("--resume", "nowhere"), "--resume nowhere"),
]
OWN = {
    "reinforce_baseline": [(("--value-epochs", 0), "--value-epochs"), (("--baseline", "median"), "--baseline")],
    "a2c": [(("--gae-lambda", -1), "--gae-lambda")],
    "ppo_kl": [(("--target-kl", -0.1), "--target-kl"), (("--kl-coef", "nan"), "--kl-coef")],
}
PPO = [
    (("--num-minibatches", 7), "--num-minibatches 7"),
    (("--num-minibatches", 0), "--num-minibatches"),
    (("--update-epochs", 0), "--update-epochs"),
]


def refused(done, named):
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1 and named in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "script, flags, named",
    [
        pytest.param(script, *case, id=f"{script} {' '.join(map(str, case[0]))}")
        for script in SCRIPTS
        for case in CASES + OWN.get(script, []) + (PPO if script.startswith("ppo") else [])
    ],
)
def test_bad_flag(script, flags, named, run, tmp_path):
    refused(run(script, *flags), named)
    assert list(tmp_path.iterdir()) == []


def test_run_dirs_that_cannot_be_resumed(script, run, tmp_path):
    short = ("--total-timesteps", 8192, "--eval-episodes", 2)
    assert run(script, *short, "--run-dir", "good").returncode == 0
    content = {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()}
    refused(run(script, *short, "--run-dir", "good"), "--run-dir good")
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
        torch.save(torch.load(tmp_path / "good" / "checkpoint.pt") | other, tmp_path / name / "checkpoint.pt")
        refused(run(script, "--resume", name), f"--resume {name}")
    copy("evil")
    torch.save({"script": script, "env_id": "CartPole-v1", "count": Evil()}, tmp_path / "evil" / "checkpoint.pt")
    refused(run(script, "--resume", "evil"), "--resume evil")

    assert content == {path.name: path.read_bytes() for path in (tmp_path / "good").iterdir()}
