"""C12's KL of an update against what the scripts logged, and its tables on runs made by hand."""

import itertools

import numpy as np
import pytest

import ppo_kl
import trpo
from benchmarks.studies import c12_trust_region
from markdown_tables import leading_number, table


@pytest.fixture
def logged_kls(monkeypatch):
    """What a script logs as losses/kl, the exact KL of each of its updates."""
    logged = []
    for script in (ppo_kl, trpo):
        metric = script.Run.metric

        def recording_metric(run, tag, value, metric=metric):
            if tag == "losses/kl":
                logged.append(float(value))
            metric(run, tag, value)

        monkeypatch.setattr(script.Run, "metric", recording_metric)
    return logged


FEW_STEPS = {"total_timesteps": 2000, "num_envs": 8, "num_steps": 32, "seed": 3}


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("script", [ppo_kl, trpo], ids=["ppo_kl", "trpo"])
def test_the_kl_of_an_update_is_what_the_script_logs(script, env_id, logged_kls):
    flags = {"env_id": env_id, "norm_obs": False, **FEW_STEPS}
    short_run = c12_trust_region.train_and_measure(script, **flags)
    assert len(short_run.kls) == len(logged_kls) - 2 >= 5  # not the first and the last
    np.testing.assert_allclose(short_run.kls, logged_kls[1:-1], rtol=1e-2, atol=1e-6)
    assert max(logged_kls) > 0.001 and short_run.seconds > 0


@pytest.mark.slow
def test_new_statistics_of_the_observations_count_as_a_move(logged_kls):
    short_run = c12_trust_region.train_and_measure(ppo_kl, env_id="Pendulum-v1", **FEW_STEPS)
    assert not np.allclose(short_run.kls, logged_kls[1:-1], rtol=0.05)


@pytest.mark.slow
def test_the_line_search_keeps_the_bound_and_a_natural_gradient_alone_does_not():
    flags = {"env_id": "Pendulum-v1", "target_kl": 0.3, "anneal_kl": False, **FEW_STEPS}
    with_search = c12_trust_region.train_and_measure(trpo, **flags)
    without = c12_trust_region.train_and_measure(trpo, line_search=False, **flags)
    assert with_search.kls.max() <= 0.3001 and without.kls.max() > 0.33


def test_tables(run_ending_with, monkeypatch, tmp_path):
    lectures = tmp_path / "lectures"
    mujoco = tmp_path / "mujoco"
    lectures.mkdir()
    mujoco.mkdir()
    cells = itertools.product(c12_trust_region.ENVIRONMENTS, c12_trust_region.METHODS)
    for i, (env_id, name) in enumerate(cells):
        suite_dir, cell = (lectures, "c12-npg") if name == "npg" else (mujoco, name)
        for seed in (1, 2):
            final = 100 * i + seed
            run_dir = run_ending_with(env_id, cell, seed, final, eval_return_mean=2.0 * final)
            run_dir.rename(suite_dir / run_dir.name)
    kls = np.array([0.001, 0.004, 0.012, 0.02])  # twice above 0.01, once above 0.015
    short_runs = [c12_trust_region.ShortRun(kls, seconds) for seconds in (3.0, 4.0, 50.0)]
    monkeypatch.setattr(c12_trust_region, "measure", lambda env_id, method: short_runs)
    _, text = c12_trust_region.study(lectures)

    returns = table(text, 0)
    finals = [leading_number(row["final return"]) for row in returns]
    assert finals == [100 * i + 1.5 for i in range(10)]
    assert [leading_number(row["evaluation"]) for row in returns] == [2 * f for f in finals]
    assert all(leading_number(row["seconds"]) == 4 for row in returns)
    moves = {row["method"]: row for row in table(text, 1)}
    natural = moves["natural gradient"]
    assert leading_number(natural["median KL"]) == 8 and leading_number(natural["largest"]) == 20
    assert leading_number(natural["% above it"]) == 50
    assert leading_number(natural["% above 1.5 times it"]) == 25
    assert moves["A2C"]["bound"] == moves["A2C"]["% above it"] == "–"
    assert leading_number(moves["PPO, clip"]["% above it"]) == 0
