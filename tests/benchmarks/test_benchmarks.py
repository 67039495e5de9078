"""The harness: jobs run once and for all, logs as three libraries write them, statistics whose
truth is known.
"""

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
from bokeh.models import Span
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy.stats import mannwhitneyu

from benchmarks import BadInput
from benchmarks.compare import compare_runs
from benchmarks.groups import group_curves
from benchmarks.jobs import digest, parse_seeds, read_suite, resolve
from benchmarks.options import CompareOptions
from benchmarks.page import make_panels, make_styles
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
from fake_jobs import (
    ALL_ENDS,
    INTERRUPTIONS,
    assert_all_ends_are_reported,
    assert_refused,
    jobs_alive,
    jobs_run,
    manifests,
    num_finished,
)
from helpers import ROOT, wait_for
from made_up_logs import (
    MEASURED,
    MEASURED_SENTENCE,
    job_manifest,
    read_csv,
    run_config,
    straight_line,
    write_log,
)

SUITES = sorted((ROOT / "benchmarks" / "suites").glob("*.toml"))


# ---------------------------------------------------------------- run


def test_jobs_are_run_once_and_for_all(suite, harness, tmp_path):
    path = suite("A-v0", "B-v0", more=", threshold = 5")
    dry = harness("run", path, "--dry-run")
    assert dry.out.count("to do") == 4 and not (tmp_path / "runs").exists()
    first = harness("run", path)
    assert first.returncode == 0 and "4 done, 0 finished before, 0 failed" in first.out, first.err
    assert sorted(jobs_run(tmp_path)) == ["A-v0 1 9 1", "A-v0 2 9 1", "B-v0 1 9 1", "B-v0 2 9 1"]
    manifest = manifests(tmp_path)["B-v0__fake__2"]
    assert manifest["command"][2:6] == ["--env-id", "B-v0", "--seed", "2"]
    assert manifest["exit_status"] == 0 and manifest["versions"]["torch"]
    assert {"commit", "machine", "start", "end"} <= manifest.keys()
    [script] = [word for word in manifest["command"] if word.endswith(".py")]
    assert manifest["script"] == digest(script)
    assert (tmp_path / "runs/s/B-v0__fake__2/log.txt").read_text().endswith("line 19\n")

    path = suite("A-v0", "B-v0", more=", threshold = 6")
    again = harness("run", path, "--seeds", "2-3")
    assert "2 done, 2 finished before, 0 failed" in again.out and len(jobs_run(tmp_path)) == 6
    assert manifests(tmp_path)["B-v0__fake__2"]["threshold"] == 6
    path = suite("A-v0", "B-v0", more=', flags = "--seconds 0.01"')
    other = harness("run", path, "--only", "A-v0*2")
    assert "1 done, 0 finished before" in other.out and len(jobs_run(tmp_path)) == 7


@pytest.mark.parametrize(
    "text, same",
    [
        (b"x = 1\n\n\ndef f():\n    return '#'\n", True),
        (b"x = 1\r\n\r\n\r\ndef f():\r\n    return '#'\r\n", True),  # as on Windows
        (b'# a\nx = 1  # b\ndef f():\n    """Say\n    #."""\n\n    return \'#\'\n', True),
        (b"x = 2\n\n\ndef f():\n    return '#'\n", False),
        (b"x = 1\n\n\ndef f():\n    return '# '\n", False),
        (b"x = 1\n\n\ndef f():\n  return '#'\n", False),
        (b"print 'of Python 2'\n", False),
    ],
)
def test_a_digest_tells_programs_apart_but_not_their_comments(text, same, tmp_path):
    model = tmp_path / "model.py"
    model.write_text("x = 1\ndef f():\n    return '#'\n")
    path = tmp_path / "other.py"
    path.write_bytes(text)
    assert (digest(path) == digest(model)) == same
    assert re.fullmatch("[0-9a-f]{12}", digest(path))


def test_failing_jobs_are_tried_twice_and_reported_by_name_and_the_others_go_on(
    suite, harness, tmp_path
):
    path = suite(*ALL_ENDS, seeds="1")
    assert_all_ends_are_reported(harness("run", path), tmp_path)
    again = harness("run", path)
    assert again.returncode == 1 and "0 done, 2 finished before, 2 failed" in again.out


def times_of_complete_jobs(tmp_path) -> dict[Path, int]:
    """When the manifest of each complete job was written."""
    times = {}
    for name, manifest in manifests(tmp_path).items():
        if manifest["complete"]:
            path = tmp_path / "runs/s" / name / "manifest.json"
            times[path] = path.stat().st_mtime_ns
    return times


@pytest.mark.slow
def test_killed_at_random_moments_and_run_again(suite, harness, tmp_path):
    path = suite("A-v0", "B-v0", seeds="1-4", more=', flags = "--seconds 0.2"')
    moments = random.Random(1)
    complete = {}
    kills = 0
    while len(complete) < 8:
        seen = len(jobs_run(tmp_path))
        process = harness("run", path, wait=False)
        wait_for(lambda seen=seen: len(jobs_run(tmp_path)) > seen)
        time.sleep(moments.uniform(0, 0.4))
        kills += process.poll() is None
        process.kill()
        process.wait()
        wait_for(lambda: not jobs_alive(tmp_path), seconds=2)
        complete_now = times_of_complete_jobs(tmp_path)
        assert complete.items() <= complete_now.items()
        complete = complete_now
    assert kills >= 2
    last = harness("run", path)
    assert last.returncode == 0 and "0 done, 8 finished before" in last.out
    assert len(manifests(tmp_path)) == num_finished(tmp_path) == 8


@pytest.mark.parametrize("number, status", INTERRUPTIONS)
def test_interrupted_and_one_at_a_time(suite, harness, tmp_path, number, status):
    path = suite("A-v0", more=', flags = "--seconds 60"')
    process = harness("run", path, "--workers", 2, wait=False)
    wait_for(lambda: len(jobs_run(tmp_path)) == 2)
    assert_refused(harness("run", path), "another harness")
    process.send_signal(number)
    assert process.wait(20) == status
    wait_for(lambda: not jobs_alive(tmp_path), seconds=2)
    assert not any(manifest["complete"] for manifest in manifests(tmp_path).values())


@pytest.mark.parametrize(
    "change, goes_on",
    [
        ({}, True),
        ({"exit_status": 1}, False),  # it has failed
        ({"script": "0123456789ab"}, False),
        ({"versions": {"python": "2.7"}}, False),
        ({"command": ["python", "other.py"]}, False),
    ],
)
def test_an_interrupted_job_goes_on_from_its_checkpoint(suite, harness, tmp_path, change, goes_on):
    path = suite("A-v0", seeds="1")
    harness("run", path)
    folder = tmp_path / "runs/s/A-v0__fake__1"
    [manifest] = manifests(tmp_path).values()
    for entry in ("exit_status", "end"):
        del manifest[entry]
    interrupted = {**manifest, "complete": False, **change}
    (folder / "manifest.json").write_text(json.dumps(interrupted))
    (folder / "summary.json").unlink()
    (folder / "checkpoint.pt").touch()
    assert harness("run", path).returncode == 0
    assert jobs_run(tmp_path)[1:] == ["None None None 1" if goes_on else "A-v0 1 9 1"]
    assert (folder / "checkpoint.pt").exists() == goes_on
    [again] = manifests(tmp_path).values()
    assert again["complete"] and again["command"] == manifest["command"]
    assert again.get("resumed") == (1 if goes_on else None)
    assert (again["start"] == manifest["start"]) or not goes_on


@pytest.mark.slow
def test_an_interrupted_run_of_a_real_script_goes_on(harness, tmp_path):
    path = tmp_path / "s.toml"
    cell = '{ env_id = "CartPole-v1", script = "a2c.py", steps = 50_000 }'
    path.write_text(f'seeds = "1"\ncells = [{cell}]')
    folder = tmp_path / "runs/s/CartPole-v1__a2c__1"
    process = harness("run", path, wait=False)
    wait_for(lambda: (folder / "checkpoint.pt").exists(), process=process)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert not (folder / "summary.json").exists()
    assert harness("run", path).returncode == 0
    assert ", from step " in (folder / "log.txt").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["global_step"] >= 50_000
    [manifest] = manifests(tmp_path).values()
    assert manifest["complete"] and manifest["resumed"] == 1


@pytest.mark.parametrize("number, status", INTERRUPTIONS)
def test_what_a_job_has_started_is_ended_with_it(suite, harness, tmp_path, number, status):
    """The job is a shell, so to say: it waits for another program, and dies of a signal at once."""
    path = suite("A-v0")
    words = ["python", f"{tmp_path}/fake.py", "--env-id", "A-v0", "--seconds", "60"]
    (tmp_path / "shell.py").write_text(f"import subprocess\nsubprocess.run({words})")
    cell = f'{{ env_id = "A-v0", name = "n", command = "python {tmp_path}/shell.py" }}'
    path.write_text(f'seeds = "1"\ncells = [{cell}]')
    process = harness("run", path, wait=False)
    wait_for(lambda: len(jobs_run(tmp_path)) == 1, process=process)
    process.send_signal(number)
    assert process.wait(20) == status
    wait_for(lambda: not jobs_alive(tmp_path), seconds=2)


@pytest.mark.slow
def test_what_a_job_has_left_running_is_ended_when_the_job_ends(suite, harness, tmp_path):
    path = suite("A-v0")
    words = ["python", f"{tmp_path}/fake.py", "--env-id", "A-v0", "--seconds", "60"]
    program = f"import subprocess, sys\nsubprocess.Popen({words})\nsys.exit(1)"
    (tmp_path / "leaver.py").write_text(program)
    cell = f'{{ env_id = "A-v0", name = "n", command = "python {tmp_path}/leaver.py" }}'
    path.write_text(f'seeds = "1"\ncells = [{cell}]')
    assert harness("run", path).returncode == 1
    wait_for(lambda: not jobs_alive(tmp_path), seconds=2)


def test_a_folder_with_a_manifest_of_another_program_is_kept(suite, harness, tmp_path):
    folder = tmp_path / "runs" / "s" / "A-v0__fake__1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"name": "an application"}')
    (folder / "precious.txt").write_text("kept")
    done = harness("run", suite("A-v0"))
    assert done.returncode == 2 and "manifest.json is not the harness's" in done.err
    assert (folder / "precious.txt").read_text() == "kept"


CELL = 'script = "a2c.py", env_id = "A-v0"'
TRUE = 'command = "true", env_id = "A-v0"'


def suite_text(cell: str = CELL, seeds: str = 'seeds = "1"') -> str:
    return f"{seeds}\ncells = [{{ {cell} }}]"


@pytest.mark.parametrize(
    "text, said",
    [
        (suite_text(f"{CELL}, step = 1"), "unknown key step"),
        (suite_text(seeds='seed = "1"'), "unknown key seed"),
        (suite_text(seeds=""), "seeds ''"),
        (suite_text('script = "a3c.py", env_id = "A-v0"'), "no script"),
        (suite_text('script = "a2c.py"'), "cell 1: needs env_id"),
        (suite_text('command = "a2c.py --n {n}", name = "n", env_id = "A-v0"'), "'n' is no key"),
        (suite_text('command = "no-program", name = "n", env_id = "A-v0"'), "no program"),
        (suite_text(seeds='seeds = "1,3,2-3"'), "a seed is there twice"),
        (suite_text(f"{CELL} }}, {{ {CELL}"), "A-v0__a2c__1 is there twice; set name"),
        (suite_text(f'{CELL}, flags = "--gamma 1 --seed 7"'), "has --seed, which seeds sets"),
        (suite_text(f'{CELL}, flags = "--env_id=B-v0"'), "has --env_id=B-v0, which env_id sets"),
        (suite_text(f'{CELL}, flags = "--total-timesteps 9"'), "which steps sets"),
        (suite_text(f"{TRUE}, name = 'n', steps = 9"), "does nothing with steps"),
        (suite_text(f"{TRUE}, name = 'n' }}, {{ {TRUE}, name = 'N'"), "is there twice"),
        ('seeds = "1"', "no cells"),
        ("seeds = 1 1", "s.toml"),
        (None, "No such file"),
    ],
)
def test_a_suite_that_cannot_be_run(harness, tmp_path, text, said):
    if text:
        (tmp_path / "s.toml").write_text(text)
    assert_refused(harness("run", tmp_path / "s.toml"), said)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (("--seeds", "5-"), "seeds '5-'"),
        (("--only", "ppo"), "--only ppo"),
        (("--workers", "0"), "--workers"),
        (("--worker", "1"), "--worker"),
        (("--address", "auto"), "need --backend ray"),
        (("--num-gpus", "1"), "need --backend ray"),
        (("--backend", "ray", "--num-gpus", "2"), "0 to 1"),
    ],
)
def test_flags_that_cannot_be_followed(harness, tmp_path, words, said):
    (tmp_path / "s.toml").write_text(suite_text())
    assert_refused(harness("run", tmp_path / "s.toml", *words), said)
    assert not (tmp_path / "runs").exists()


def test_words_of_a_command_line_that_only_look_like_a_program():
    assert resolve(("echo", "--config=a.py", "python")) == ["echo", "--config=a.py", "python"]


def test_seeds():
    assert parse_seeds("1-3,7,9-10") == [1, 2, 3, 7, 9, 10]


JOBS = [job for path in SUITES for job in read_suite(path, "1")]


@pytest.mark.parametrize("job", [pytest.param(job, id=job.dir.name) for job in JOBS])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # -v4 environments, and Box2D's bindings
def test_a_suites_command_line_is_one_that_its_script_accepts(job):
    """Script, flags, environment, steps: all that a script checks before it writes."""
    script = job.command[1]
    module = importlib.import_module(script.removesuffix(".py"))
    module.check(tyro.cli(module.Args, args=job.command[2:]))


# ---------------------------------------------------------------- statistics


def test_a_curve_on_the_grid_and_its_area():
    step = np.arange(1, 2001)
    twenty_points_a_bin = resample(step, 3.0 * step, 2000)
    np.testing.assert_allclose(twenty_points_a_bin, 3 * (20 * np.arange(BINS) + 10.5))
    centres = 10 * np.arange(BINS) + 5
    straight = resample(np.array([5.0, 995.0]), np.array([0.0, 99.0]), 1000)
    np.testing.assert_allclose(straight, (centres - 5) / 10)
    with_more_after_the_end = resample(np.array([0, 1000, 4000]), np.array([7.0, 7.0, 1e9]), 1000)
    assert with_more_after_the_end.max() == 7
    x = np.linspace(0, 1, 5000)
    assert abs(resample(x, x**2, 1).mean() - 1 / 3) < 1e-3
    several_at_a_step = resample(np.array([10, 10, 1000, 1000]), np.array([1, 3, 4, 0.0]), 1000)
    np.testing.assert_allclose(several_at_a_step, 2)


def test_the_interval_covers_the_truth_at_about_its_rate():
    samples = np.random.default_rng(0).normal(5, 2, size=(20, 400))  # 20 seeds, 400 times over
    low, high = bootstrap_interval(iqm, samples)
    assert 0.90 < np.mean((low < 5) & (5 < high)) < 0.97
    of_a_normal_variable = 2 * 1.96 * iqm(samples, axis=0).std()
    assert 0.95 < np.mean(high - low) / of_a_normal_variable < 1.05
    assert bootstrap_interval(iqm, samples[:1]) is None


def test_the_bootstrap_is_stratified():
    """Two environments, each with a score of its own: only a mixture of the two would vary."""
    strata = np.zeros(4), np.ones(4)
    assert iqm(*strata) == 0.5
    assert bootstrap_interval(iqm, *strata).tolist() == [0.5, 0.5]
    assert np.ptp(bootstrap_interval(iqm, np.concatenate(strata))) > 0.5


def test_the_interquartile_mean():
    assert iqm(np.array([-1e9, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e9])) == 3.5
    assert iqm(np.array([1.0, 2.0, 9.0])) == 4


def test_the_probability_of_improvement():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 10, 7).astype(float)
    y = rng.integers(3, 13, 5).astype(float)  # with ties
    expected = mannwhitneyu(x, y).statistic / 35
    assert probability_of_improvement(x, y) == pytest.approx(expected)
    assert probability_of_improvement(y, x) == pytest.approx(1 - expected)
    mean_of_two_environments = probability_of_improvement(x, y, y, y)
    assert mean_of_two_environments == pytest.approx((expected + 0.5) / 2)
    low, high = bootstrap_interval(probability_of_improvement, x, y)
    assert low < expected < high
    certain = bootstrap_interval(probability_of_improvement, x + 100, y)
    assert certain.tolist() == [1, 1]


def test_where_a_curve_reaches_a_threshold():
    ramp = np.arange(BINS) + 0.5  # the value at a bin's end is its number
    # The mean of a window is the value in its middle.
    assert crossing(ramp, 40) == pytest.approx(40 + WINDOW / 2)
    step = np.where(np.arange(BINS) < 60, 0.0, 1.0)
    assert crossing(step, 0.5) == pytest.approx(60 + WINDOW / 2)
    assert crossing(step, 1.1) == np.inf
    one_lucky_bin = np.where(np.arange(BINS) == 30, 1.0, 0.0)
    assert crossing(one_lucky_bin, 0.5) == np.inf
    assert crossing(one_lucky_bin + 1, 0.5) == WINDOW
    for level in range(-20, 20):  # exactly at the threshold
        assert crossing(np.full(BINS, float(level)), level) == WINDOW
    assert upper_median([3, 1, np.inf]) == 3
    assert upper_median([1, np.inf]) == np.inf


# ---------------------------------------------------------------- logs


def test_each_librarys_log_is_read(tmp_path):
    config = run_config("A-v0", "mine", 4)
    write_log(tmp_path / "r", straight_line(1), config=config, summary={"eval_return_mean": 12})
    write_log(tmp_path / "A-v0__ppo_continuous_action__2__1700000000", straight_line(2))
    write_log(tmp_path / "A-v0" / "PPO_3", straight_line(3), tag="rollout/ep_rew_mean")
    write_log(tmp_path / "job" / "runs" / "whatever", straight_line(4))
    manifest = job_manifest("A-v0", "theirs", 5, threshold=7)
    (tmp_path / "job" / "manifest.json").write_text(json.dumps(manifest))
    curves, notes = read_curves((tmp_path,), None)
    found = {(curve.algorithm, curve.seed): curve for curve in curves}
    slopes = {("mine", 4): 1, ("ppo_continuous_action", 2): 2, ("PPO", 3): 3, ("theirs", 5): 4}
    assert found.keys() == slopes.keys() and not notes
    for name, slope in slopes.items():
        curve = found[name]
        step, value, seconds = np.array(straight_line(slope)).T
        np.testing.assert_array_equal(curve.step, step)
        np.testing.assert_allclose(curve.value, value, rtol=1e-6)
        np.testing.assert_allclose(curve.seconds, seconds, atol=0.5)
        assert curve.env_id == "A-v0" and not curve.reference
    assert found["mine", 4].evaluation == 12
    assert found["theirs", 5].manifest["threshold"] == 7
    [curve], _ = read_curves((tmp_path / "r",), "charts/SPS")
    assert (curve.value == 1000).all()


def test_a_reference_csv_is_read():
    curves, _ = read_curves((ROOT / "benchmarks" / "reference",), None)
    assert all(curve.reference for curve in curves)
    hopper = [c for c in curves if c.env_id == "Hopper-v4" and c.algorithm == "cleanrl-ppo"]
    assert [curve.seed for curve in hopper] == [1, 2, 3]
    final = [curve.value[curve.step > 0.95 * curve.step[-1]].mean() for curve in hopper]
    noted_when_measured = [2681, 2367, 2531]
    np.testing.assert_allclose(final, noted_when_measured, rtol=0.02)


def test_a_resumed_log_and_one_cut_short(tmp_path):
    folder = tmp_path / "A-v0__x__1__1"
    first_log = straight_line(1, end=600, count=6)
    write_log(folder, first_log)
    time.sleep(1.1)  # another second, another file name
    write_log(folder, [(step + 400, 0, seconds) for step, _, seconds in first_log])
    [curve], _ = read_curves((tmp_path,), None)
    assert curve.step.tolist() == list(range(100, 1001, 100))
    assert curve.value.tolist() == [100, 200, 300, 400] + [0] * 6
    assert (np.diff(curve.seconds) > 0.5).all()
    [first_file, _] = sorted(folder.iterdir())
    first_file.write_bytes(first_file.read_bytes()[:-20])
    curves, _ = read_curves((tmp_path,), None)
    assert len(curves) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "taken_up, steps",
    [
        ([(400, 800)], [100, 200, 300, 800, 900, 1000]),  # 400 to 600 were done again
        ([(350, None), (250, 800)], [100, 200, 800, 900, 1000]),  # killed before the first point
        ([(250, 800), (850, 850)], [100, 200, 800, 850, 950]),
        ([(250, 800), (None, 950)], [100, 200, 800, 900, 950]),
        ([(0, 800)], [800, 900, 1000]),
    ],
)
def test_a_resumed_log_from_where_its_writer_took_up(tmp_path, taken_up, steps):
    """Each further file: the writer's purge_step, and its first point, if it has any."""
    folder = tmp_path / "A-v0__x__1__1"
    write_log(folder, straight_line(1, end=600, count=6))
    for purge_step, first in taken_up:
        time.sleep(1.1)  # another second, another file name
        points = (
            [] if first is None else [(step, -1, step / 100) for step in range(first, 1001, 100)]
        )
        write_log(folder, points, purge_step=purge_step)
    [curve], _ = read_curves((tmp_path,), None)
    assert curve.step.tolist() == steps
    assert (np.diff(curve.seconds) > 0.5).all()
    of_the_first_file = [step for step, value in zip(curve.step, curve.value) if value > 0]
    assert of_the_first_file == [step for step in steps if step <= 600]


@pytest.mark.parametrize("name", ["run-20260102_030405-a1b2c3d4", "offline-run-20260102_030405-x"])
def test_what_wandb_keeps_in_a_runs_folder_is_no_run(tmp_path, name):
    """Unless it is asked for."""
    run = tmp_path / "A-v0__x__1__1"
    write_log(run, straight_line(1))
    write_log(run / "wandb" / name / "files" / "A-v0__x__2__1", straight_line(2))
    [curve], notes = read_curves((tmp_path,), None)
    assert curve.path == run and not notes
    [curve], _ = read_curves((run / "wandb",), None)
    assert curve.seed == 2


def test_a_users_folder_of_runs_may_be_called_wandb(tmp_path):
    run = tmp_path / "wandb" / "mine" / "A-v0__x__1__1"
    write_log(run, straight_line(1))
    for path in (tmp_path, tmp_path / "wandb", tmp_path / "wandb" / "mine"):
        [curve], notes = read_curves((path,), None)
        assert curve.path == run and not notes


# ---------------------------------------------------------------- compare and speed


def test_a_comparison(harness, tmp_path):
    """Known lines: their ends, areas and crossings are in the table, and what is amiss is said."""
    runs = tmp_path / "runs"
    out = tmp_path / "report"
    for seed in (1, 2, 3):
        line = straight_line(0.475 + 0.001 * seed)
        manifest = job_manifest("CartPole-v1", "steep", seed, threshold=0.5 * 475, **MEASURED)
        write_log(runs / f"steep{seed}", line, manifest=manifest)
    for seed, end in ((1, 1000), (2, 800)):
        write_log(runs / f"CartPole-v1__flat__{seed}__1", straight_line(0.1, end))
    below_zero = [(step, -500 + value, seconds) for step, value, seconds in straight_line(0.3)]
    write_log(runs / "Acrobot-v1__flat__1__1", below_zero)
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
    assert MEASURED_SENTENCE in report

    table = {(row["environment"], row["algorithm"]): row for row in read_csv(out / "table.csv")}
    runs_csv = read_csv(out / "runs.csv")
    of_flat = [row for row in runs_csv if row["algorithm"] == "flat"]
    assert [(row["environment"], row["seed"], row["steps"]) for row in of_flat] == [
        ("Acrobot-v1", "1", "1000"),
        ("CartPole-v1", "1", "1000"),
        ("CartPole-v1", "2", "800"),
    ]
    assert float(of_flat[1]["final return"]) == pytest.approx(76, 0.02)  # where flat is cut
    assert all(row["evaluation"] == row["commit"] == "" for row in of_flat)
    steep = table["CartPole-v1", "steep"]
    flat = table["CartPole-v1", "flat"]
    alone = table["Acrobot-v1", "flat"]
    assert steep["seeds"] == "3" and steep["steps"] == "1000.0"
    assert steep["met"] == "True" and steep["reached by"] == "3"
    expected = {
        "final return": 0.477 * 950,
        "IQM": 0.477 * 950,
        "area": 0.477 * 500,
        "low": 0.476 * 950,
        "steps to": 237.5 / 0.477 + 25,
        "seconds to": 2.375 / 0.477 + 0.25,
        "steps/s": 100,
    }
    for name, value in expected.items():
        assert float(steep[name]) == pytest.approx(value, rel=0.03), name
    assert flat["met"] == "False" and flat["steps to"] == "inf"
    assert float(flat["final return"]) == pytest.approx(76, 0.02)
    assert alone["low"] == "" and alone["threshold"] == "-100.0"  # gymnasium's
    assert "1.00 (1.00 to 1.00)" in report  # the probability of improvement
    finals = report.split("## All figures")[0].splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in finals]
    assert ["", "", "Acrobot-v1", "CartPole-v1", ""] in cells
    iqm_of_steep, low, high = (format_number(float(steep[x])) for x in ("IQM", "low", "high"))
    assert ["", "steep", "", f"{iqm_of_steep} ({low} to {high})", ""] in cells
    iqm_alone = format_number(float(alone["IQM"]))
    assert ["", "flat", f"{iqm_alone} (–)"] in [line[:3] for line in cells]

    curve = []
    for row in read_csv(out / "curves.csv"):
        if (row["environment"], row["algorithm"], row["seed"]) == ("CartPole-v1", "steep", "2"):
            curve.append(row)
    assert [int(row["step"]) for row in curve] == list(range(20, 1001, 10))  # where bins end
    assert float(curve[48]["episode return"]) == pytest.approx(0.477 * 495, rel=0.03)
    # The log begins a moment before its first point is made up: more where the machine is busy.
    assert float(curve[48]["seconds"]) == pytest.approx(5, abs=0.1)
    pictures = {path.name: imread(path) for path in out.glob("*.png")}
    assert pictures.keys() == {"CartPole-v1.png", "Acrobot-v1.png", "overview.png"}
    assert all(min(image.shape[:2]) > 300 and image.std() > 0.01 for image in pictures.values())


@pytest.mark.parametrize(
    "words, said", [(("nowhere",), "nowhere: no such"), (("tests",), "no finished runs in tests")]
)
def test_nothing_to_compare(harness, tmp_path, words, said):
    assert_refused(harness("compare", *words, "--out", tmp_path / "report"), said)
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_a_report_can_be_compared_in_place_of_its_runs(harness, tmp_path):
    """So results grow a machine and a day at a time: a report, and new runs beside it."""
    rng = np.random.default_rng(0)
    for algorithm in ("a2c", "sac"):
        for seed, end in ((1, 9_990), (2, 10_000), (3, 10_000)):
            points = [(step, rng.normal(step), step / 300) for step in range(430, end + 1, 70)]
            name = f"CartPole-v1__{algorithm}__{seed}"
            manifest = job_manifest("CartPole-v1", algorithm, seed, threshold=7.5, **MEASURED)
            summary = {"eval_return_mean": 100.0 / seed, "global_step": end}
            write_log(tmp_path / "runs" / name, points, manifest=manifest, summary=summary)
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    both = harness("compare", tmp_path / "runs", "--out", first)
    again = harness("compare", first, "--out", second)
    assert both.returncode == again.returncode == 0, again.err
    for name in ("runs.csv", "curves.csv"):
        assert (first / name).read_text() == (second / name).read_text()
    reports = [(out / "report.md").read_text().split("\n\n") for out in (first, second)]
    changed = [old for old, new in zip(*reports, strict=True) if old != new]
    assert len(changed) <= 3 and changed[0].startswith("    python -m benchmarks compare"), changed
    for old, new in zip(read_csv(first / "table.csv"), read_csv(second / "table.csv")):
        for column in ("final return", "IQM", "low", "high", "area", "evaluation", "steps to"):
            assert float(old[column]) == pytest.approx(float(new[column]), rel=1e-5), column
        for column in ("environment", "algorithm", "seeds", "threshold", "met", "reached by"):
            assert old[column] == new[column], column

    (tmp_path / "more").mkdir()
    _, notes = read_curves((first, first.parent / "more" / ".." / "first"), None)
    assert any(note.endswith("is counted once") for note in notes)
    name = "CartPole-v1__trpo__1"
    manifest = job_manifest("CartPole-v1", "trpo", **MEASURED)
    write_log(tmp_path / "more" / name, straight_line(1), manifest=manifest)
    grown = harness("compare", first, tmp_path / "more", "--out", third)
    assert grown.returncode == 0, grown.err
    algorithms = [row["algorithm"] for row in read_csv(third / "table.csv")]
    assert algorithms == ["a2c", "trpo", "sac"]


@pytest.mark.slow
def test_a_report_on_another_metric_is_not_taken_for_returns(harness, tmp_path):
    write_log(tmp_path / "runs" / "A-v0__x__1__1", straight_line(1), tag="losses/kl")
    done = harness("compare", tmp_path / "runs", "--metric", "losses/kl", "--out", tmp_path / "kl")
    assert done.returncode == 0, done.err
    said = "its columns are not environment, algorithm, seed, step, seconds, episode return"
    assert_refused(harness("compare", tmp_path / "kl", "--out", tmp_path / "report"), said)


@pytest.mark.slow
def test_a_damaged_report_is_left_out(harness, tmp_path):
    """Each of its files, cut off and with a word in place of a number."""
    write_log(tmp_path / "runs" / "A-v0__x__1__1", straight_line(1))
    report = tmp_path / "report"
    assert harness("compare", tmp_path / "runs", "--out", report).returncode == 0
    for name in ("runs.csv", "curves.csv"):
        whole = (report / name).read_text()
        for damaged in (whole[:-9] + "x\n", whole[: len(whole) // 2]):
            (report / name).write_text(damaged)
            with pytest.raises(BadInput, match="report"):
                read_curves((report,), None)
        (report / name).write_text(whole)
    assert read_curves((report,), None)


def test_two_versions_of_an_algorithm_are_told_apart(tmp_path):
    for version in ("old", "new"):
        write_log(tmp_path / version / "A-v0__x__1__1", straight_line(1))
    curves, _ = read_curves((tmp_path / "old", tmp_path / "new"), None)
    assert sorted(curve.algorithm for curve in curves) == ["x (new)", "x (old)"]


def test_a_curve_is_drawn_from_where_all_of_its_seeds_have_begun(tmp_path):
    """Not from 0: where no episode has ended yet there is nothing to see."""
    for seed, begins in ((1, 200), (2, 350)):
        points = [(step, 1, step) for step in range(begins, 1001, 10)]
        write_log(tmp_path / f"A-v0__x__{seed}__1", points)
    curves, _ = read_curves((tmp_path,), None)
    [group] = group_curves(curves, None, of_returns=True)["A-v0"]
    ax = Figure().subplots()
    draw_curves(ax, [group], {"x": "black"}, "steps")
    assert ax.lines[0].get_xdata()[0] == 345 and len(group.iqm_curve) == BINS


def test_a_curve_of_a_single_point_is_seen(tmp_path):
    """All first episodes of a short training can end in one step. A line of one point is none."""
    write_log(tmp_path / "A-v0__short__1__1", [(1000, 5, 1)])
    write_log(tmp_path / "A-v0__long__1__1", straight_line(1))
    curves, _ = read_curves((tmp_path,), None)
    groups = group_curves(curves, None, of_returns=True)["A-v0"]
    ax = Figure().subplots()
    draw_curves(ax, groups, {"short": "black", "long": "black"}, "steps")
    markers = {line.get_label(): line.get_marker() for line in ax.lines}
    assert markers == {"short": "o", "long": "None"}
    for plot in make_panels(groups, make_styles(groups), "return"):
        shapes = [type(renderer.glyph).__name__ for renderer in plot.renderers]
        assert shapes.count("Scatter") == 1


@pytest.mark.parametrize("env_id, gymnasiums", [("CartPole-v1", 475), ("Pendulum-v1", None)])
def test_thresholds_are_the_suites_for_its_own_algorithms_and_gymnasiums_for_others(
    tmp_path, env_id, gymnasiums
):
    for name, goal in (("keen", 5), ("keener", 6), ("calm", None)):
        manifest = job_manifest(env_id, name, threshold=goal)
        write_log(tmp_path / name, straight_line(1), manifest=manifest)
    write_log(tmp_path / f"{env_id}__other__1__1", straight_line(1))
    rows = "".join(f"{env_id}__ppo__1,{step},{step},{step}\n" for step in range(10, 100, 10))
    head = "run,step,episodic_return,seconds\n"
    (tmp_path / f"cleanrl-ppo-{env_id}.csv").write_text(head + rows)
    curves, _ = read_curves((tmp_path,), None)

    def goals(threshold: float | None) -> dict[str, float | None]:
        groups = group_curves(curves, threshold, of_returns=True)[env_id]
        return {group.algorithm: group.threshold for group in groups}

    own = {"keen": 5, "keener": 6, "calm": None}
    assert goals(None) == {**own, "other": gymnasiums, "cleanrl-ppo": gymnasiums}
    assert set(goals(7).values()) == {7}


@pytest.mark.parametrize("in_manifest, in_options", [(0, None), (0.0, None), (475, 0.0)])
def test_a_threshold_of_0_is_one(tmp_path, in_manifest, in_options):
    """It is in the pictures, the page and the tables, and is reached, or missed and noted."""
    for name, start in (("above", -500), ("below", -1500)):
        points = [(step, start + value, seconds) for step, value, seconds in straight_line(1)]
        manifest = job_manifest("CartPole-v1", name, threshold=in_manifest)
        write_log(tmp_path / name, points, manifest=manifest)
    out = tmp_path / "report"
    compare_runs(CompareOptions((tmp_path,), threshold=in_options, out=out))
    below, above = sorted(read_csv(out / "table.csv"), key=lambda row: float(row["IQM"]))
    assert float(above["threshold"]) == float(below["threshold"]) == 0
    assert (above["met"], below["met"]) == ("True", "False")
    assert float(above["steps to"]) == pytest.approx(525, abs=20) and below["steps to"] == "inf"
    report = (out / "report.md").read_text()
    assert "CartPole-v1, below: below its threshold" in report
    assert "CartPole-v1, above: below its threshold" not in report
    assert report.count("|      0.00 |") == 2

    curves, _ = read_curves((tmp_path,), None)
    groups = group_curves(curves, in_options, of_returns=True)["CartPole-v1"]
    ax = Figure().subplots()
    draw_curves(ax, groups, {"above": "black", "below": "black"}, "steps")
    [line] = [line for line in ax.lines if line.get_label() == "threshold"]
    assert list(line.get_ydata()) == [0, 0]
    for panel in make_panels(groups, make_styles(groups), "return"):
        [span] = panel.select({"type": Span})
        assert span.location == 0


RESULTS = ROOT / "benchmarks" / "results"
WITH_RESULTS = [path for path in SUITES if (RESULTS / path.stem / "table.csv").exists()]


@pytest.mark.parametrize("suite", WITH_RESULTS, ids=lambda path: path.stem)
def test_the_results_page_shows_what_is_committed(suite):
    """It leads to each suite's report and shows its picture. The report has table.csv's figures."""
    page = (ROOT / "benchmarks" / "results" / "README.md").read_text()
    results = Path("benchmarks", "results", suite.stem)
    report = (ROOT / results / "report.md").read_text()
    table = report.split("(95 % interval)\n\n")[1].split("\n\n")[0]
    assert f"]({suite.stem}/report.md)" in page and f"]({suite.stem}/overview.png)" in page
    rows = read_csv(ROOT / results / "table.csv")
    assert all(f" {format_number(float(row['IQM']))} (" in table for row in rows)
    measured = {(row["environment"], row["algorithm"]) for row in rows}
    jobs = {(job.env_id, job.algorithm) for job in read_suite(suite, None, Path("runs"))}
    assert jobs & measured
    assert all((ROOT / results / f"{env_id}.png").exists() for env_id, _ in measured)


def test_the_random_policys_returns_are_measured_for_every_environment_of_a_suite():
    rows = read_csv(ROOT / "benchmarks" / "reference" / "random.csv")
    known = {row["env_id"]: float(row["mean"]) for row in rows}
    assert {job.env_id for job in JOBS} <= known.keys()
    env = gym.make("CartPole-v1")
    env.action_space.seed(0)
    total = 0
    for episode in range(100):
        env.reset(seed=episode)
        over = False
        while not over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total += reward
            over = terminated or truncated
    assert known["CartPole-v1"] == total / 100


@pytest.mark.slow
def test_real_scripts_end_to_end(harness, tmp_path):
    """Two that learn, one of them by its command line alone; a wrong flag; no such environment."""
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
    failed = "failed twice, exit status 2"
    # Several lines say that a flag is unknown.
    assert re.search(rf"CartPole-v1__ppo_kl__1 {failed}(.*\n)+?.*--no-such-flag", done.err)
    assert re.search(rf"Missing-v0__a2c__1 {failed}.*\n.*--env-id Missing-v0", done.err)
    compared = harness("compare", tmp_path / "runs" / "s", "--out", tmp_path / "report")
    assert compared.returncode == 0, compared.err
    table = {row["algorithm"]: row for row in read_csv(tmp_path / "report" / "table.csv")}
    assert table.keys() == {"ppo_clip", "theirs"}
    for row in table.values():
        assert 8 < float(row["final return"]) < 500 and float(row["steps/s"]) > 500


@pytest.mark.slow
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
