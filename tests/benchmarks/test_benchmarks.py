"""The harness: jobs run once and for all, logs as three libraries write them, statistics whose truth is known."""

import csv
import importlib
import json
import random
import re
import signal
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tyro
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import mannwhitneyu

from benchmarks.groups import group_curves
from benchmarks.jobs import parse_seeds, read_suite
from benchmarks.plots import draw_curves
from benchmarks.readers import read_curves
from benchmarks.stats import (
    BINS,
    WINDOW,
    bootstrap_interval,
    crossing,
    iqm,
    probability_of_improvement,
    resample,
    upper_median,
)
from benchmarks.tables import format_number
from fake_jobs import jobs_alive, jobs_run, manifests
from helpers import ROOT, wait_for
from made_up_logs import run_config, straight_line, write_log

SUITES = sorted((ROOT / "benchmarks" / "suites").glob("*.toml"))


# ---------------------------------------------------------------- run


def test_jobs_are_run_once_and_for_all(suite, harness, tmp_path):
    path = suite("A-v0", "B-v0", more=", threshold = 5")
    assert (
        harness("run", path, "--dry-run").out.count("to do") == 4
        and not (tmp_path / "runs").exists()
    )
    first = harness("run", path)
    assert first.returncode == 0 and "4 done, 0 finished before, 0 failed" in first.out, first.err
    assert sorted(jobs_run(tmp_path)) == ["A-v0 1 9 1", "A-v0 2 9 1", "B-v0 1 9 1", "B-v0 2 9 1"]
    manifest = manifests(tmp_path)["B-v0__fake__2"]
    assert (
        manifest["command"][2:6] == ["--env-id", "B-v0", "--seed", "2"]
        and manifest["exit_status"] == 0
    )
    assert {"commit", "machine", "start", "end"} <= manifest.keys() and manifest["versions"][
        "torch"
    ]
    assert (tmp_path / "runs/s/B-v0__fake__2/log.txt").read_text().endswith("line 19\n")

    again = harness("run", suite("A-v0", "B-v0", more=", threshold = 6"), "--seeds", "2-3")
    assert "2 done, 2 finished before, 0 failed" in again.out and len(jobs_run(tmp_path)) == 6
    assert manifests(tmp_path)["B-v0__fake__2"]["threshold"] == 6
    other = harness(
        "run", suite("A-v0", "B-v0", more=', flags = "--seconds 0.01"'), "--only", "A-v0*2"
    )
    assert "1 done, 0 finished before" in other.out and len(jobs_run(tmp_path)) == 7


def test_failing_jobs_are_tried_twice_and_reported_by_name_and_the_others_go_on(
    suite, harness, tmp_path
):
    done = harness("run", suite("Fails-v0", "Silent-v0", "Fine-v0", "FailsOnce-v0", seeds="1"))
    assert done.returncode == 1 and "2 done, 0 finished before, 2 failed" in done.out
    assert re.search(
        r"Fails-v0__fake__1 failed twice, exit status 1.*\n( +line \d+\n){9} +this went wrong\n",
        done.err,
    )
    assert "Silent-v0__fake__1 failed twice, no summary.json" in done.err and "Fine" not in done.err
    states = {
        name.split("__")[0]: (m["complete"], m["attempts"])
        for name, m in manifests(tmp_path).items()
    }
    assert states == {
        "Fails-v0": (False, 2),
        "Silent-v0": (False, 2),
        "Fine-v0": (True, 1),
        "FailsOnce-v0": (True, 2),
    }
    again = harness("run", tmp_path / "s.toml")
    assert again.returncode == 1 and "0 done, 2 finished before, 2 failed" in again.out


def test_killed_at_random_moments_and_run_again(suite, harness, tmp_path):
    path, moments = (
        suite("A-v0", "B-v0", seeds="1-4", more=', flags = "--seconds 0.2"'),
        random.Random(1),
    )
    finished, kills = {}, 0
    while len(finished) < 8:
        process, before = harness("run", path, wait=False), len(jobs_run(tmp_path))
        wait_for(lambda seen=before: len(jobs_run(tmp_path)) > seen)
        time.sleep(moments.uniform(0, 0.4))
        kills += process.poll() is None
        process.kill()
        process.wait()
        wait_for(lambda: not jobs_alive(tmp_path), seconds=2)
        whole = [
            tmp_path / "runs/s" / name / "manifest.json"
            for name, m in manifests(tmp_path).items()
            if m["complete"]
        ]
        assert all(
            whole.count(file) and file.stat().st_mtime_ns == when for file, when in finished.items()
        )
        finished = {file: file.stat().st_mtime_ns for file in whole}
    assert kills >= 2
    last = harness("run", path)
    assert last.returncode == 0 and "0 done, 8 finished before" in last.out
    assert len(manifests(tmp_path)) == 8 == len(list(tmp_path.glob("runs/s/*/summary.json")))


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
def test_interrupted_and_one_at_a_time(suite, harness, tmp_path, number, status):
    path = suite("A-v0", more=', flags = "--seconds 60"')
    process = harness("run", path, "--workers", 2, wait=False)
    wait_for(lambda: len(jobs_run(tmp_path)) == 2)
    second = harness("run", path)
    assert (
        second.returncode == 2
        and "another harness" in second.err
        and len(second.err.splitlines()) == 1
    )
    process.send_signal(number)
    assert process.wait(20) == status
    wait_for(lambda: not jobs_alive(tmp_path), seconds=2)
    assert not any(manifest["complete"] for manifest in manifests(tmp_path).values())


@pytest.mark.parametrize(
    "text, words, said",
    [
        (
            'seeds = "1"\ncells = [{ script = "a2c.py", env_id = "A-v0", step = 1 }]',
            (),
            "unknown key step",
        ),
        ('seed = "1"\ncells = [{ script = "a2c.py", env_id = "A-v0" }]', (), "unknown key seed"),
        ('cells = [{ script = "a2c.py", env_id = "A-v0" }]', (), "seeds ''"),
        ('seeds = "1"\ncells = [{ script = "a3c.py", env_id = "A-v0" }]', (), "no script"),
        ('seeds = "1"\ncells = [{ script = "a2c.py" }]', (), "cell 1: needs env_id"),
        (
            'seeds = "1"\ncells = [{ command = "a2c.py --n {n}", name = "n", env_id = "A-v0" }]',
            (),
            "'n' is no key",
        ),
        (
            'seeds = "1"\ncells = [{ command = "no-such-program", name = "n", env_id = "A-v0" }]',
            (),
            "no program",
        ),
        (
            'seeds = "1,1"\ncells = [{ script = "a2c.py", env_id = "A-v0" }]',
            (),
            "A-v0__a2c__1 is there twice",
        ),
        ('seeds = "1"', (), "no cells"),
        ("seeds = 1 1", (), "s.toml"),
        (None, (), "No such file"),
        (
            'seeds = "1"\ncells = [{ script = "a2c.py", env_id = "A-v0" }]',
            ("--seeds", "5-"),
            "seeds '5-'",
        ),
        (
            'seeds = "1"\ncells = [{ script = "a2c.py", env_id = "A-v0" }]',
            ("--only", "ppo"),
            "--only ppo",
        ),
        (
            'seeds = "1"\ncells = [{ script = "a2c.py", env_id = "A-v0" }]',
            ("--workers", "0"),
            "--workers",
        ),
        (
            'seeds = "1"\ncells = [{ script = "a2c.py", env_id = "A-v0" }]',
            ("--worker", "1"),
            "--worker",
        ),
        (
            'seeds = "1"\ncells = [{ script = "a2c.py", env_id = "A-v0" }]',
            ("--address", "auto"),
            "need --backend ray",
        ),
        (
            'seeds = "1"\ncells = [{ script = "a2c.py", env_id = "A-v0" }]',
            ("--num-gpus", "1"),
            "need --backend ray",
        ),
        (
            'seeds = "1"\ncells = [{ script = "a2c.py", env_id = "A-v0" }]',
            ("--backend", "ray", "--num-gpus", "2"),
            "0 to 1",
        ),
    ],
)
def test_bad_input_is_one_line(harness, tmp_path, text, words, said):
    if text:
        (tmp_path / "s.toml").write_text(text)
    done = harness("run", tmp_path / "s.toml", *words)
    assert done.returncode == 2 and said in done.err and len(done.err.splitlines()) == 1, done.err
    assert not (tmp_path / "runs").exists()


def test_seeds():
    assert parse_seeds("1-3,7,9-10") == [1, 2, 3, 7, 9, 10]


@pytest.mark.parametrize(
    "job", [pytest.param(j, id=j.dir.name) for path in SUITES for j in read_suite(path, "1")]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # -v4 environments, and Box2D's bindings
def test_a_suites_command_line_is_one_that_its_script_accepts(job):
    """Script, flags, environment, steps: all that a script checks before it writes."""
    script = job.command[1]
    module = importlib.import_module(script.removesuffix(".py"))
    module.check(tyro.cli(module.Args, args=job.command[2:]), None)


# ---------------------------------------------------------------- statistics


def test_a_curve_on_the_grid_and_its_area():
    step = np.arange(1, 2001)
    np.testing.assert_allclose(
        resample(step, 3.0 * step, 2000), 3 * (20 * np.arange(BINS) + 10.5)
    )  # 20 points a bin
    centres = 10 * np.arange(BINS) + 5
    sparse = resample(
        np.array([5.0, 995.0]), np.array([0.0, 99.0]), 1000
    )  # two points: a straight line
    np.testing.assert_allclose(sparse, (centres - 5) / 10)
    assert (
        resample(np.array([0, 1000, 4000]), np.array([7.0, 7.0, 1e9]), 1000).max() == 7
    )  # nothing after the end
    parabola = resample(np.linspace(0, 1, 5000), np.linspace(0, 1, 5000) ** 2, 1)
    assert abs(parabola.mean() - 1 / 3) < 1e-3


def test_the_interval_covers_the_truth_at_about_its_rate():
    samples = np.random.default_rng(0).normal(5, 2, size=(20, 400))  # 20 seeds, 400 times over
    low, high = bootstrap_interval(iqm, samples)
    assert 0.90 < np.mean((low < 5) & (5 < high)) < 0.97
    assert 0.95 < np.mean(high - low) / (2 * 1.96 * iqm(samples, axis=0).std()) < 1.05
    assert bootstrap_interval(iqm, samples[:1]) is None


def test_the_bootstrap_is_stratified():
    """Two environments, each with a score of its own: only a mixture of the two would vary."""
    strata = np.zeros(4), np.ones(4)
    assert iqm(*strata) == 0.5 and bootstrap_interval(iqm, *strata).tolist() == [0.5, 0.5]
    assert np.ptp(bootstrap_interval(iqm, np.concatenate(strata))) > 0.5


def test_the_interquartile_mean():
    assert iqm(np.array([-1e9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e9])) == 3.5
    assert iqm(np.array([1.0, 2.0, 9.0])) == 4


def test_the_probability_of_improvement():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 10, 7).astype(float), rng.integers(3, 13, 5).astype(float)  # with ties
    expected = mannwhitneyu(x, y).statistic / 35
    assert probability_of_improvement(x, y) == pytest.approx(
        expected
    ) and probability_of_improvement(y, x) == pytest.approx(1 - expected)
    assert probability_of_improvement(x, y, y, y) == pytest.approx(
        (expected + 0.5) / 2
    )  # the mean of two environments
    low, high = bootstrap_interval(probability_of_improvement, x, y)
    assert low < expected < high and bootstrap_interval(
        probability_of_improvement, x + 100, y
    ).tolist() == [1, 1]


def test_where_a_curve_reaches_a_threshold():
    ramp = np.arange(BINS) + 0.5  # the value at a bin's end is its number
    assert crossing(ramp, 40) == pytest.approx(
        40 + WINDOW / 2
    )  # the mean of a window is its middle's value
    step = np.where(np.arange(BINS) < 60, 0.0, 1.0)
    assert crossing(step, 0.5) == pytest.approx(60 + WINDOW / 2) and crossing(step, 1.1) == np.inf
    one_lucky_bin = np.where(np.arange(BINS) == 30, 1.0, 0.0)
    assert crossing(one_lucky_bin, 0.5) == np.inf and crossing(one_lucky_bin + 1, 0.5) == WINDOW
    assert upper_median([3, 1, np.inf]) == 3 and upper_median([1, np.inf]) == np.inf


# ---------------------------------------------------------------- logs


def test_each_librarys_log_is_read(tmp_path):
    write_log(
        tmp_path / "r",
        straight_line(1),
        config=run_config("A-v0", "mine", 4),
        summary={"eval_return_mean": 12},
    )
    write_log(tmp_path / "A-v0__ppo_continuous_action__2__1700000000", straight_line(2))
    write_log(tmp_path / "A-v0" / "PPO_3", straight_line(3), tag="rollout/ep_rew_mean")
    job = {"complete": True, "env_id": "A-v0", "algorithm": "theirs", "seed": 5, "threshold": 7}
    write_log(tmp_path / "job" / "runs" / "whatever", straight_line(4))
    (tmp_path / "job" / "manifest.json").write_text(json.dumps(job))
    curves, notes = read_curves((tmp_path,), None)
    found = {(curve.algorithm, curve.seed): curve for curve in curves}
    assert (
        found.keys() == {("mine", 4), ("ppo_continuous_action", 2), ("PPO", 3), ("theirs", 5)}
        and not notes
    )
    for slope, curve in enumerate(
        (found[key] for key in sorted(found, key=lambda k: [4, 2, 3, 5].index(k[1]))), 1
    ):
        step, value, seconds = np.array(straight_line(slope)).T
        np.testing.assert_array_equal(curve.step, step)
        np.testing.assert_allclose(curve.value, value, rtol=1e-6)
        np.testing.assert_allclose(curve.seconds, seconds, atol=0.5)
        assert curve.env_id == "A-v0" and not curve.reference
    assert found["mine", 4].evaluation == 12 and found["theirs", 5].manifest["threshold"] == 7
    [(curve,), _] = read_curves((tmp_path / "r",), "charts/SPS")
    assert (curve.value == 1000).all()


def test_a_reference_csv_is_read():
    curves, _ = read_curves((ROOT / "benchmarks" / "reference",), None)
    hopper = [c for c in curves if c.env_id == "Hopper-v4" and c.algorithm == "cleanrl-ppo"]
    assert [curve.seed for curve in hopper] == [1, 2, 3] and all(
        curve.reference for curve in curves
    )
    final = [curve.value[curve.step > 0.95 * curve.step[-1]].mean() for curve in hopper]
    np.testing.assert_allclose(
        final, [2681, 2367, 2531], rtol=0.02
    )  # as they were noted when they were measured


def test_a_resumed_log_and_one_cut_short(tmp_path):
    folder = tmp_path / "A-v0__x__1__1"
    write_log(folder, straight_line(1, end=600, count=6))
    time.sleep(1.1)  # another second, another file name
    write_log(
        folder,
        [(step + 400, 0, seconds) for step, _, seconds in straight_line(1, end=600, count=6)],
    )
    [(curve,), _] = read_curves((tmp_path,), None)
    assert (
        curve.step.tolist() == list(range(100, 1001, 100))
        and curve.value.tolist() == [100, 200, 300, 400] + [0] * 6
    )
    assert (np.diff(curve.seconds) > 0.5).all()
    [first, _] = sorted(folder.iterdir())
    first.write_bytes(first.read_bytes()[:-20])
    assert len(read_curves((tmp_path,), None)[0]) == 1


# ---------------------------------------------------------------- compare and speed


def test_a_comparison(harness, tmp_path):
    """Known lines: their ends, areas and crossings are in the table, and what is amiss is said."""
    runs, out = tmp_path / "runs", tmp_path / "report"
    for seed in (1, 2, 3):
        job = {
            "complete": True,
            "env_id": "CartPole-v1",
            "algorithm": "steep",
            "seed": seed,
            "threshold": 0.5 * 475,
        }
        machine = {"processor": "abacus", "cores": 2, "system": "Linux"}
        job |= {"commit": "c" * 40, "versions": {"torch": "2"}, "machine": machine, "workers": 2}
        write_log(runs / f"steep{seed}", straight_line(0.475 + 0.001 * seed), manifest=job)
    for seed, end in ((1, 1000), (2, 800)):
        write_log(runs / f"CartPole-v1__flat__{seed}__1", straight_line(0.1, end))
    write_log(
        runs / "Acrobot-v1__flat__1__1",
        [(step, -500 + value, s) for step, value, s in straight_line(0.3)],
    )
    write_log(runs / "half", straight_line(1), config=run_config("CartPole-v1", "half", 1))
    write_log(runs / "broken", straight_line(1), manifest={"complete": False})
    done = harness("compare", runs, ROOT / "benchmarks" / "reference", "--out", out)
    assert done.returncode == 0, done.err
    report = (out / "report.md").read_text()
    for said in (
        "Acrobot-v1, flat: one seed only",
        "CartPole-v1, flat: no seed 3, which others have",
        "CartPole-v1, flat: runs end between 800 and 1,000 steps",
        "not the same number of steps: flat 800, steep 1 k, cleanrl-ppo 498 k",
        "half is unfinished",
        "broken failed or is unfinished",
        "references only, left out: HalfCheetah-v4, Hopper-v4",
        "CartPole-v1, flat: below its threshold",
    ):
        assert said in report and said in done.out, said
    assert (
        f"Measured at commit {'c' * 40}: abacus, 2 cores, Linux, 2 jobs at once; torch 2." in report
    )

    with (out / "table.csv").open() as file:
        table = {(row["environment"], row["algorithm"]): row for row in csv.DictReader(file)}
    steep, flat, alone = (
        table[key]
        for key in (("CartPole-v1", "steep"), ("CartPole-v1", "flat"), ("Acrobot-v1", "flat"))
    )
    assert [steep[name] for name in ("seeds", "steps", "met", "reached by")] == [
        "3",
        "1000.0",
        "True",
        "3",
    ]
    expected = {
        "final return": 0.477 * 950,
        "IQM": 0.477 * 950,
        "area": 0.477 * 500,
        "low": 0.476 * 950,
    }
    expected |= {"steps to": 237.5 / 0.477 + 25, "seconds to": 2.375 / 0.477 + 0.25, "steps/s": 100}
    for name, value in expected.items():
        assert float(steep[name]) == pytest.approx(value, rel=0.03), name
    assert (
        flat["met"] == "False"
        and flat["steps to"] == "inf"
        and float(flat["final return"]) == pytest.approx(76, 0.02)
    )
    assert alone["low"] == "" and alone["threshold"] == "-100.0"  # gymnasium's
    assert "1.00 (1.00 to 1.00)" in report  # the probability of improvement
    finals = [
        [cell.strip() for cell in line.split("|")]
        for line in report.split("## All figures")[0].splitlines()
    ]
    assert ["", "", "Acrobot-v1", "CartPole-v1", ""] in finals
    iqm_and_interval = "{} ({} to {})".format(
        *(format_number(float(steep[name])) for name in ("IQM", "low", "high"))
    )
    assert ["", "steep", "", iqm_and_interval, ""] in finals
    assert ["", "flat", f"{format_number(float(alone['IQM']))} (–)"] in [
        line[:3] for line in finals
    ]

    with (out / "curves.csv").open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if (row["environment"], row["algorithm"]) == ("CartPole-v1", "steep")
        ]
    assert len(rows) == BINS and all(
        float(row["low"]) <= float(row["iqm"]) <= float(row["high"]) for row in rows
    )
    pictures = {path.name: imread(path) for path in out.glob("*.png")}
    assert pictures.keys() == {"CartPole-v1.png", "Acrobot-v1.png", "overview.png"}
    assert all(min(image.shape[:2]) > 300 and image.std() > 0.01 for image in pictures.values())


@pytest.mark.parametrize(
    "words, said", [(("nowhere",), "nowhere: no such"), (("tests",), "no finished runs in tests")]
)
def test_nothing_to_compare(harness, tmp_path, words, said):
    done = harness("compare", *words, "--out", tmp_path / "report")
    assert done.returncode == 2 and said in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "report").exists()


def test_two_versions_of_an_algorithm_are_told_apart(tmp_path):
    for version in ("old", "new"):
        write_log(tmp_path / version / "A-v0__x__1__1", straight_line(1))
    curves, _ = read_curves((tmp_path / "old", tmp_path / "new"), None)
    assert sorted(curve.algorithm for curve in curves) == ["x (new)", "x (old)"]


def test_a_curve_is_drawn_from_where_all_of_its_seeds_have_begun(tmp_path):
    """Not from 0: where no episode has ended yet there is nothing to see."""
    for seed, begins in ((1, 200), (2, 350)):
        write_log(
            tmp_path / f"A-v0__x__{seed}__1", [(step, 1, step) for step in range(begins, 1001, 10)]
        )
    [group] = group_curves(read_curves((tmp_path,), None)[0], None, of_returns=True)["A-v0"]
    ax = Figure().subplots()
    draw_curves(ax, [group], {"x": "black"}, "steps")
    assert ax.lines[0].get_xdata()[0] == 355 and len(group.iqm_curve) == BINS


def test_thresholds_are_the_suites_for_its_own_algorithms_and_the_highest_for_others(tmp_path):
    for name, goal in (("keen", 5), ("keener", 6), ("calm", None)):
        manifest = {
            "complete": True,
            "env_id": "CartPole-v1",
            "algorithm": name,
            "seed": 1,
            "threshold": goal,
        }
        write_log(tmp_path / name, straight_line(1), manifest=manifest)
    write_log(tmp_path / "CartPole-v1__other__1__1", straight_line(1))
    groups = group_curves(read_curves((tmp_path,), None)[0], None, of_returns=True)["CartPole-v1"]
    goals = {group.algorithm: group.threshold for group in groups}
    assert goals == {"keen": 5, "keener": 6, "calm": None, "other": 6}


@pytest.mark.parametrize(
    "suite", [path for path in SUITES if path.stem != "lectures"], ids=lambda path: path.stem
)
def test_the_readme_shows_the_committed_results(suite):
    """The table and the picture of each suite; the table's figures are those of table.csv."""
    readme, results = (ROOT / "README.md").read_text(), Path("benchmarks", "results", suite.stem)
    table = (
        (ROOT / results / "report.md").read_text().split("(95 % interval)\n\n")[1].split("\n\n")[0]
    )
    assert table in readme and f"]({results}/overview.png)" in readme
    with (ROOT / results / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(f" {format_number(float(row['IQM']))} (" in table for row in rows)
    measured = {(row["environment"], row["algorithm"]) for row in rows}
    jobs = {(job.env_id, job.algorithm) for job in read_suite(suite, None, Path("runs"))}
    assert jobs & measured
    assert all((ROOT / results / f"{env_id}.png").exists() for env_id, _ in measured)


def test_the_random_policys_returns_are_measured_for_every_environment_of_a_suite():
    with (ROOT / "benchmarks" / "reference" / "random.csv").open() as file:
        known = {row["env_id"]: float(row["mean"]) for row in csv.DictReader(file)}
    assert {job.env_id for path in SUITES for job in read_suite(path)} <= known.keys()
    env, total = gym.make("CartPole-v1"), 0
    env.action_space.seed(0)
    for episode in range(100):
        env.reset(seed=episode)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, over = total + reward, terminated or truncated
    assert known["CartPole-v1"] == total / 100


def test_real_scripts_end_to_end(harness, tmp_path):
    """Two that learn, one of them by its command line alone; a wrong flag; an environment that there is not."""
    short = 'steps = 4096, flags = "--eval-episodes 2'
    command = "python a2c.py --env-id {env_id} --seed {seed} --total-timesteps {steps}"
    (tmp_path / "s.toml").write_text(f"""
        seeds = "1"
        cells = [
          {{ env_id = "CartPole-v1", script = "ppo_clip.py", {short}" }},
          {{ env_id = "CartPole-v1", command = "{command}", name = "theirs", {short}" }},
          {{ env_id = "CartPole-v1", script = "ppo_kl.py", {short} --no-such-flag 1" }},
          {{ env_id = "Missing-v0", script = "a2c.py", {short}" }},
        ]""")
    done = harness("run", tmp_path / "s.toml")
    assert done.returncode == 1 and "2 done, 0 finished before, 2 failed" in done.out
    assert re.search(
        r"CartPole-v1__ppo_kl__1 failed twice, exit status 2.*\n.*--no-such-flag", done.err
    )
    assert re.search(
        r"Missing-v0__a2c__1 failed twice, exit status 2.*\n.*--env-id Missing-v0", done.err
    )
    compared = harness("compare", tmp_path / "runs" / "s", "--out", tmp_path / "report")
    assert compared.returncode == 0, compared.err
    with (tmp_path / "report" / "table.csv").open() as file:
        table = {row["algorithm"]: row for row in csv.DictReader(file)}
    assert table.keys() == {"ppo_clip", "theirs"}
    assert all(
        8 < float(row["final return"]) < 500 and float(row["steps/s"]) > 500
        for row in table.values()
    )


def test_speed(harness, tmp_path):
    words = ("--repeats", 1, "--total-timesteps", 8192, "--out", tmp_path / "speed.json")
    done = harness("speed", "ppo_clip", "reinforce", *words)
    assert done.returncode == 0 and done.out.count("| ppo_clip | ") == 1, done.err
    result = json.loads((tmp_path / "speed.json").read_text())
    for rates in (result["scripts"][script]["median"] for script in ("ppo_clip", "reinforce")):
        assert (
            1000 < rates["training"] < rates["rollout"] < rates["environment"]
            and rates["updates"] > 20
        )
        assert rates["training / environment"] == pytest.approx(
            rates["training"] / rates["environment"]
        )
    refused = harness("speed", "a2c", "--env-id", "Missing-v0")
    assert refused.returncode == 2 and "--env-id Missing-v0" in refused.err
