"""C4's line and tables against loops in NumPy, what a script logged, and runs made by hand."""

import json

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

import ppo_clip
import ppo_kl
from benchmarks.studies import c04_step_size
from benchmarks.studies.common import FinishedRun


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def advantages(reward, value, terminated, truncated, gamma, lam):
    """Σ_l (γλ)^l δ_{t+l} up to the episode's end, one entry at a time."""
    advantage = np.zeros(reward.shape)
    for t, n in np.ndindex(*reward.shape):
        weight = 1.0
        for later in range(t, len(reward)):
            bootstrap = 0 if terminated[later, n] else gamma * value[later + 1, n]
            advantage[t, n] += weight * (reward[later, n] + bootstrap - value[later, n])
            weight *= gamma * lam
            if terminated[later, n] or truncated[later, n]:
                break
    return advantage


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_the_line_starts_and_ends_where_the_update_did(env_id, monkeypatch):
    logged, log = [], ppo_kl.Run.log
    monkeypatch.setattr(
        ppo_kl.Run,
        "log",
        lambda self, *args: (logged.append(args[-1]["losses/kl"]), log(self, *args)),
    )
    flags = {"env_id": env_id, "num_envs": 8, "num_steps": 32, "seed": 3}
    records = c04_step_size.record(
        ppo_kl, total_timesteps=4 * 256, update_epochs=4, learning_rate=1e-2, **flags
    )
    iteration, following = records[2:4]
    before = iteration.before
    after = following.before
    args = ppo_clip.Args(**flags)
    found = c04_step_size.measure_line(iteration, after, np.array([0, 1]), 2, args)
    assert (
        found["KL"][0] == 0
        and found["KL"][1] == pytest.approx(logged[2], rel=1e-4)
        and logged[2] > 0.001
    )

    obs, action, reward, terminated, truncated, valid, *_ = (
        column.numpy() for column in iteration.rollout[:-1]
    )
    envs = ppo_clip.make_envs(env_id, 1)
    agent = ppo_clip.Agent(envs.single_observation_space, envs.single_action_space)
    reward = reward / np.sqrt(after["return_stats.var"].item() + 1e-8)
    x = torch.tensor(
        (obs - before["obs_stats.mean"].numpy()) / np.sqrt(before["obs_stats.var"].numpy() + 1e-8)
    )
    agent.load_state_dict(before)
    advantage = advantages(
        reward, agent.critic(x).detach().numpy(), terminated, truncated, 0.99, 0.95
    )[valid]
    probability = []
    for state in (before, after):
        agent.load_state_dict(state)
        out = agent.actor(x[:-1]).detach().numpy()
        if agent.discrete:
            probability.append(
                np.take_along_axis(softmax(out), action[..., None], -1)[..., 0][valid]
            )
        else:
            sigma = np.exp(state["log_std"].numpy())
            probability.append(
                (np.exp(-(((action - out) / sigma) ** 2) / 2) / sigma).prod(-1)[valid]
            )
    ratio = probability[1] / probability[0]
    clipped = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    assert ratio.max() > 1.2
    for name, end in (("surrogate", ratio * advantage), ("clipped surrogate", clipped)):
        np.testing.assert_allclose(
            found[name], [advantage.mean(), end.mean()], rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("script", [ppo_clip, ppo_kl])
def test_update_is_what_training_does(script):
    """Of a training's first update, whose optimiser is new; with one minibatch, so that their order is no matter."""
    flags = {
        "env_id": "Pendulum-v1",
        "num_envs": 8,
        "num_steps": 16,
        "num_minibatches": 1,
        "learning_rate": 1e-2,
    }
    first, second = c04_step_size.record(script, total_timesteps=256, anneal_lr=False, **flags)
    before = first.before
    after = second.before
    again = c04_step_size.update(script, first, anneal_lr=False, seed=7, **flags)
    assert (after["actor.0.weight"] - before["actor.0.weight"]).abs().max() > 0.02
    for name in after:
        torch.testing.assert_close(again[name], after[name], rtol=1e-3, atol=1e-4)


def test_the_return_along_the_line_is_that_of_the_policies_there():
    """On CartPole-v1, from always pushing to the left, which takes about 9 steps to fall, towards pushing at random."""
    flags = {"num_envs": 4, "num_steps": 4}
    iteration = c04_step_size.record(ppo_clip, total_timesteps=16, **flags)[0]
    before = iteration.before
    before["actor.4.weight"].zero_()
    before["actor.4.bias"].copy_(torch.tensor([30.0, 0.0]))
    after = before | {"actor.4.bias": torch.zeros(2)}
    args = ppo_clip.Args(**flags)
    found = c04_step_size.measure_line(iteration, after, np.array([0, 1]), 500, args)
    assert found["return"][0] == pytest.approx(9.35, abs=0.1)
    assert found["return"][1] == pytest.approx(22.2, abs=2)  # what random actions are known to get


def test_overshoots(tmp_path):
    for tag in ("losses/kl", "losses/approx_kl"):
        with SummaryWriter(tmp_path) as writer:
            for step, kl in enumerate((0.01, 0.016, 0.02, 0.03)):
                writer.add_scalar(tag, kl if tag == "losses/kl" else 10 * kl, step)
    run = FinishedRun({}, np.zeros(100), tmp_path)
    assert [c04_step_size.overshoots(run, "none", limit) for limit in (0.015, 0.0225)] == [
        0.75,
        0.25,
    ]
    assert c04_step_size.overshoots(run, "clip", 0.15) == 0.75


def test_c4_of_runs_made_by_hand(tmp_path, monkeypatch):
    """Cell i's seeds end with returns 10 i + 1 and 10 i + 3, after a higher one; their KLs are 0.02 and 0.03."""
    names, cells = (
        list(c04_step_size.METHODS),
        [*c04_step_size.STEP_SIZE_CELLS.values(), "epochs-1"],
    )
    monkeypatch.setattr(c04_step_size, "EPOCH_CELLS", {1: "epochs-1", 10: "lr-3e-3"})
    for i, (cell, method) in enumerate((cell, method) for cell in cells for method in names):
        for seed in (1, 2):
            folder = tmp_path / f"CartPole-v1__c4-{method}-{cell}__{seed}"
            with SummaryWriter(folder) as writer:
                for step in range(1, 101):
                    final = 10 * i + (1 if seed == 1 else 3)
                    writer.add_scalar("charts/episodic_return", final if step > 90 else 400, step)
                    writer.add_scalar(c04_step_size.KL_TAGS[method], 0.01 + 0.01 * seed, step)
            (folder / "summary.json").write_text(json.dumps({"seed": seed}))
    curve = np.arange(len(c04_step_size.XS), dtype=float)
    line = {
        "return": -((curve - 4) ** 2),
        "surrogate": curve,
        "clipped surrogate": -curve,
        "KL": curve,
    }
    monkeypatch.setattr(c04_step_size, "measure_updates", lambda seed: dict.fromkeys(names, line))

    figure, tables = c04_step_size.study(tmp_path)
    finals, lost, over, along = (
        {
            tuple(cells[1:3]): cells[3:-1]
            for row in table.splitlines()
            for cells in [[c.strip() for c in row.split("|")]]
        }
        for table in tables.split("\n\n")[1::2]
    )
    for at, method in enumerate(names):
        (bars,) = [
            bars
            for bars in figure.axes[0].containers
            if bars.get_label() == c04_step_size.METHODS[method]
        ]
        np.testing.assert_allclose(
            bars.lines[0].get_ydata(), [10 * (3 * cell + at) + 2 for cell in range(5)]
        )
        final = 10 * (3 + at) + 2
        assert finals["1e-3", "10"][at] == f"{final:.1f} ({final - 1:.1f} to {final + 1:.1f})"
        assert (
            lost["1e-3", "10"][at] == f"{400 - final:.1f} ({399 - final:.1f} to {401 - final:.1f})"
        )
    assert over["1e-3", "10"] == ["100.0 (100.0 to 100.0)", "50.0 (0.00 to 100.0)"] * 3
    peak = f"{c04_step_size.XS[4]:.2f}"
    assert along["clip", "return"][0] == "−16.0 (−16.0 to −16.0)"
    assert along["clip", "surrogate, thousandths"][1] == "3,000 (3,000 to 3,000)"
    assert along["clip", "return"][-1].startswith(peak)
