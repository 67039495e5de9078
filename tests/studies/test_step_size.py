"""C4's line and tables against loops in NumPy, what a script logged, and runs made by hand."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

import ppo_clip
import ppo_kl
from benchmarks.studies import c04_step_size
from benchmarks.studies.common import FinishedRun
from helpers import agent_for
from markdown_tables import cells_of_tables


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def advantages(reward, value, terminated, truncated, gamma=0.99, lam=0.95):
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


def action_density(agent, x, action) -> np.ndarray:
    """π(a|s), but for a constant factor."""
    out = agent.actor(x).detach().numpy()
    if agent.discrete:
        return np.take_along_axis(softmax(out), action[..., None], -1)[..., 0]
    sigma = agent.log_std.detach().exp().numpy()
    z = (action - out) / sigma
    return (np.exp(-(z**2) / 2) / sigma).prod(-1)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_the_line_starts_and_ends_where_the_update_did(env_id, monkeypatch):
    logged = []
    metric = ppo_kl.Run.metric

    def recording_metric(run, tag, value):
        if tag == "losses/kl":
            logged.append(float(value))
        metric(run, tag, value)

    monkeypatch.setattr(ppo_kl.Run, "metric", recording_metric)
    flags = {"env_id": env_id, "num_envs": 8, "num_steps": 32, "seed": 3}
    steps_of_update = {"update_epochs": 4, "learning_rate": 1e-2}
    records = c04_step_size.record(ppo_kl, total_timesteps=6 * 256, **steps_of_update, **flags)
    iteration = records[4]  # of the second half, in which the statistics stay
    before = iteration.before
    after = records[5].before
    ends = np.array([0, 1])
    found = c04_step_size.measure_line(iteration, after, ends, 2, ppo_clip.Args(**flags))
    assert found["KL"][0] == 0
    assert found["KL"][1] == pytest.approx(logged[4], rel=1e-4) and logged[4] > 1e-4

    rollout = iteration.rollout
    action = rollout.action.numpy()
    valid = rollout.valid.numpy()
    agent = agent_for(ppo_clip, ppo_clip.make_envs(env_id, 1))
    reward = rollout.reward.numpy() / np.sqrt(after["discounted_sum_stats.var"].item() + 1e-8)
    std = (before["obs_stats.var"] + 1e-8).sqrt()
    x = (rollout.obs - before["obs_stats.mean"]) / std
    agent.load_state_dict(before)
    value = agent.value(x).detach().numpy()
    terminated = rollout.terminated.numpy()
    truncated = rollout.truncated.numpy()
    advantage = advantages(reward, value, terminated, truncated)[valid]
    old_density = action_density(agent, x[:-1], action)[valid]
    agent.load_state_dict(after)
    ratio = action_density(agent, x[:-1], action)[valid] / old_density
    surrogate = ratio * advantage
    clipped = np.minimum(surrogate, np.clip(ratio, 0.8, 1.2) * advantage)
    assert ratio.max() > 1.2
    for name, end in (("surrogate", surrogate), ("clipped surrogate", clipped)):
        expected = [advantage.mean(), end.mean()]
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("script", [ppo_clip, ppo_kl])
def test_update_is_what_training_does(script):
    """Of a training's first update, whose optimiser is new.

    There is one minibatch, so that their order does not matter.
    """
    flags = {
        "env_id": "Pendulum-v1",
        "num_envs": 8,
        "num_steps": 16,
        "num_minibatches": 1,
        "learning_rate": 1e-2,
        "norm_obs": False,
    }
    first, second = c04_step_size.record(script, total_timesteps=256, anneal_lr=False, **flags)
    before = first.before
    after = second.before
    again = c04_step_size.update(script, first, anneal_lr=False, seed=7, **flags)
    assert (after["actor.0.weight"] - before["actor.0.weight"]).abs().max() > 0.02
    for name in after:
        torch.testing.assert_close(again[name], after[name], rtol=1e-3, atol=1e-4)


def test_the_return_along_the_line_is_that_of_the_policies_there():
    """On CartPole-v1, from always pushing to the left towards pushing at random.

    The former falls after about 9 steps.
    """
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
    assert c04_step_size.overshoots(run, "none", 0.015) == 0.75
    assert c04_step_size.overshoots(run, "none", 0.0225) == 0.25
    assert c04_step_size.overshoots(run, "clip", 0.15) == 0.75


def rows_by_cell(table) -> dict[tuple[str, ...], list[str]]:
    """Each row's cells after the first two, which name it."""
    return {tuple(cells[:2]): cells[2:] for cells in table}


def test_c4_of_runs_made_by_hand(finished_run, tmp_path, monkeypatch):
    """Cell i's seeds end with returns 10 i + 1 and 10 i + 3, after a higher one.

    Their KLs are 1.3 and 1.6 times the target.
    """
    methods = list(c04_step_size.METHODS)
    cells = [*c04_step_size.STEP_SIZE_CELLS.values(), "epochs-1"]
    monkeypatch.setattr(c04_step_size, "EPOCH_CELLS", {1: "epochs-1", 10: "lr-3e-3"})
    for i, (cell, method) in enumerate(itertools.product(cells, methods)):
        for seed, final in ((1, 10 * i + 1), (2, 10 * i + 3)):
            returns = [400] * 90 + [final] * 10
            kl = c04_step_size.TARGET_KL * (1 + 0.3 * seed)
            kls = {c04_step_size.KL_TAGS[method]: [kl] * 100}
            steps = range(1, 101)
            name = f"c4-{method}-{cell}"
            finished_run("CartPole-v1", name, seed, returns, steps, steps, scalars=kls)
    curve = np.arange(len(c04_step_size.XS), dtype=float)
    line = {
        "return": -((curve - 4) ** 2),
        "surrogate": curve,
        "clipped surrogate": -curve,
        "KL": curve,
    }
    monkeypatch.setattr(c04_step_size, "measure_updates", lambda seed: dict.fromkeys(methods, line))

    figure, text = c04_step_size.study(tmp_path)
    finals, lost, over, along = (rows_by_cell(table) for table in cells_of_tables(text))
    bars_by_label = {bars.get_label(): bars for bars in figure.axes[0].containers}
    for at, method in enumerate(methods):
        bars = bars_by_label[c04_step_size.METHODS[method]]
        means = [10 * (3 * cell + at) + 2 for cell in range(5)]
        np.testing.assert_allclose(bars.lines[0].get_ydata(), means)
        final = means[1]
        higher = 400 - final
        assert finals["1e-3", "10"][at] == f"{final:.1f} ({final - 1:.1f} to {final + 1:.1f})"
        assert lost["1e-3", "10"][at] == f"{higher:.1f} ({higher - 1:.1f} to {higher + 1:.1f})"
    assert over["1e-3", "10"] == ["100.0 (100.0 to 100.0)", "50.0 (0.00 to 100.0)"] * 3
    assert along["clip", "return"][0] == "−16.0 (−16.0 to −16.0)"
    assert along["clip", "surrogate, thousandths"][1] == "3,000 (3,000 to 3,000)"
    assert along["clip", "return"][-1].startswith(f"{c04_step_size.XS[4]:.2f}")
