"""The studies of finished runs, on folders made by hand: their tables' numbers against values
computed by hand.
"""

import itertools
import re
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import dagger
from benchmarks.compare import random_returns
from benchmarks.jobs import read_suite
from benchmarks.studies import __main__ as command
from benchmarks.studies import (
    c01_baselines,
    c05_penalty,
    c06_table_1,
    c07_details,
    c09_imitation,
    c10_off_policy,
    c12_trust_region,
)
from benchmarks.studies.common import censored_median
from helpers import ROOT
from markdown_tables import leading_number, table


def test_censored():
    four = censored_median([1, np.inf, 3, 100], 10)
    assert four.median == 10 and str(four) == "> 10.0 (1.00 to > 10.0)"  # of four the third
    assert censored_median([2, 1, np.inf], 10).median == 2
    assert str(censored_median([np.inf, np.inf], 10)) == "> 10.0 (> 10.0 to > 10.0)"


def wilson_interval(k, n, z=1.959964):
    """Of k successes in n, at 95 %; Wilson 1927."""
    middle = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    return middle - half, middle + half


def test_baselines(finished_run, tmp_path):
    steps = {
        "plain": (400_000, None, None),
        "causality": (200_000, None, 100_000),
        "mean-baseline": (100_000, 150_000, 50_000),
        "value-baseline": (80_000, 80_000, 80_000),
    }
    for name, solved in steps.items():
        for seed, at in enumerate(solved, 1):
            summary = {
                "solved_at_step": at,
                "global_step": at or 1_000_300,
                "episodes": (at or 900_000) // 100,
                "wall_s": (at or 1_000_000) / 1e4,
            }
            finished_run("CartPole-v1", f"c1-{name}", seed, **summary)
    figure, text = c01_baselines.study(tmp_path)
    rows = {row[""]: row for row in table(text)}
    assert isinstance(figure, Figure)
    assert [rows[name]["solved"] for name in steps] == ["1 of 3", "2 of 3", "3 of 3", "3 of 3"]
    assert rows["plain"]["steps"].startswith("> 1,000,000 (400,000 to > 1,000,000")
    assert rows["plain"]["episodes"].startswith("> 9,000")
    assert rows["plain"]["seconds"].startswith("> 100.0")
    assert leading_number(rows["causality"]["steps"]) == 200_000
    assert rows["causality"]["steps"].endswith("> 1,000,000)")
    assert rows["causality"]["fewer steps than plain"].startswith("≥ 5.00")
    assert leading_number(rows["mean-baseline"]["fewer steps than plain"]) == 10
    assert rows["value-baseline"]["fewer steps than plain"] == "≥ 12.5 (5.00 to 12.5)"
    assert rows["the lecture's mean-baseline"]["fewer steps than plain"] == "5.00"
    low, high = wilson_interval(2, 3)
    assert rows["causality"]["95 % interval"] == f"{low:.2f} to {high:.2f}"


def test_updates_to_meet():
    ones = np.ones(12)
    halving = 100 * 0.5 ** np.arange(12)  # 100, 50, 25, 12.5, 6.25, 3.125, 1.5625
    assert c05_penalty.updates_to_meet(halving, ones) == 6
    assert c05_penalty.updates_to_meet(halving[:6], ones) == np.inf
    doubling = 0.1 * 2.0 ** np.arange(5)  # 0.1, 0.2, 0.4, 0.8
    assert c05_penalty.updates_to_meet(doubling, np.ones(9)) == 3
    assert c05_penalty.updates_to_meet(np.array([4, 2, 1]), np.ones(3)) == 1


def test_penalty(run_ending_with, tmp_path):
    finals = {
        "none": (100, 300),
        "clip": (1000, 1200),
        "kl-0.1": (700, 900),
        "kl-1": (900, 1100),
        "kl-10": (1100, 1300),
        "kl-100": (1300, 1500),
    }
    for env_id, (name, values) in itertools.product(c05_penalty.ENVIRONMENTS, finals.items()):
        beta = float(name.removeprefix("kl-")) if name.startswith("kl-") else 1.0
        course = np.maximum(beta * 0.5 ** np.arange(20), min(beta, 1))
        for seed, final in enumerate(values, 1):
            run_ending_with(env_id, f"c5-{name}", seed, final, scalars={"losses/kl_coef": course})
    _, text = c05_penalty.study(tmp_path)
    rows = {(row["environment"], row["constraint"]): row for row in table(text)}
    hopper = {name: rows["Hopper-v4", f"KL, β₀ = {name}"] for name in ("0.1", "1", "10", "100")}
    improvements = [leading_number(row["P(clip ends higher)"]) for row in hopper.values()]
    assert rows["Hopper-v4", "none"]["final return"] == "200.0 (100.0 to 300.0)"
    assert rows["Hopper-v4", "none"]["P(clip ends higher)"] == "1.00 (1.00 to 1.00)"
    found = [leading_number(row["final return"]) for row in hopper.values()]
    assert found == [800, 1000, 1200, 1400]
    assert improvements == [1, 0.75, 0.25, 0]
    assert hopper["0.1"]["updates to meet β₀ = 1"] == "> 20.0 (> 20.0 to > 20.0)"  # it stays at 0.1
    assert hopper["10"]["updates to meet β₀ = 1"] == "3.00 (3.00 to 3.00)"  # 10, 5, 2.5, 1.25
    assert leading_number(hopper["100"]["updates to meet β₀ = 1"]) == 6
    assert leading_number(rows["both", "KL, β₀ = 1"]["P(clip ends higher)"]) == 0.75
    assert "Hopper-v4 200.0 (" in text  # 200 more for each tenfold β₀


def test_tenfold():
    samples = [np.random.default_rng(beta).normal(size=5) for beta in range(4)]
    means = [sample.mean() for sample in samples]
    slope, _ = np.polyfit([-1, 0, 1, 2], means, 1)
    assert c05_penalty.tenfold(*samples) == pytest.approx(slope)


def test_table_1(finished_run, tmp_path):
    above_random = {"none": (-10, -20, 0), "kl": (30, 60, 90), "clip": (60, 80, 100)}
    for task, (name, values) in itertools.product(c06_table_1.TASKS, above_random.items()):
        env_id = f"{task}-v4"
        sign = -1 if task == "Reacher" and name == "none" else 1
        for seed, above in enumerate(values, 1):
            mean_return = random_returns()[env_id] + sign * above
            finished_run(env_id, f"c6-{name}", seed, train_return_last100=mean_return)
    _, text = c06_table_1.study(tmp_path)
    rows = {row["objective"]: row for row in table(text)}
    scores = {name: leading_number(row["score"]) for name, row in rows.items()}
    assert scores["kl"] == 0.6 and scores["clip"] == 0.8
    assert scores["none"] == -0.07  # (6 · −0.1 + 0.1) / 7
    of_best_mean = [leading_number(row["score, best mean = 1"]) for row in rows.values()]
    assert of_best_mean == [-0.09, 0.75, 1]  # of 80, not of 100
    assert {row["runs"] for row in rows.values()} == {"21"}
    assert leading_number(rows["kl"]["P(clip ends higher)"]) == 0.72  # (1½ + 2 + 3) / 9
    tasks = {row["task"]: row for row in table(text, 1)}
    assert tasks["Reacher"]["random"] == "−43.4" and tasks["Reacher"]["none"].startswith("0.10")
    assert tasks["Hopper"]["none"] == "−0.10 (−0.20 to 0.00)"


CHANGES = [name for kind in c07_details.CHANGES.values() for name in kind]


def test_details(run_ending_with, tmp_path):
    finals = dict(zip(CHANGES, (500, 1100, 900, 1000, 800, -200)))
    for env_id in c07_details.ENVIRONMENTS:
        run_ending_with(env_id, "c5-clip", 1, 900)
        run_ending_with(env_id, "c5-clip", 2, 1100)
        for (name, final), seed in itertools.product(finals.items(), (1, 2)):
            run_ending_with(env_id, name, seed, final)
    _, text = c07_details.study(tmp_path)
    hopper = [row for row in table(text) if row["environment"] == "Hopper-v4"]
    differences = {row["change"]: row["difference, %"] for row in hopper}
    assert differences.pop("none: the clip") == "–"
    found = [leading_number(cell) for cell in differences.values()]
    assert found == [-50, 10, -10, 0, -20, -120]
    # Of bases 1,100 and 900.
    assert differences["rewards not scaled"] == "−50.0 (−54.5 to −44.4)"
    sizes = {row["changes"]: row for row in table(text, 1) if row["environment"] == "Hopper-v4"}
    mean_sizes = {
        kind: leading_number(row["mean absolute difference, %"]) for kind, row in sizes.items()
    }
    assert mean_sizes["details"] == 17.5  # (50 + 10 + 10 + 0) / 4
    assert mean_sizes["objectives"] == 70
    assert sizes["details"]["largest"] == "−50.0"
    assert sizes["objectives"]["largest"] == "−120.0"


@pytest.fixture
def cells_run_for(monkeypatch, tmp_path):
    """Measures a claim without its runs; the suite, environment and algorithm of each."""

    def cells_run_for(claim: str, study) -> set[tuple[str, str, str]]:
        chosen = set()

        def run_suite(options) -> int:
            for job in read_suite(options.suite):
                if options.only in job.dir.name:
                    chosen.add((options.suite.stem, job.env_id, job.algorithm))
            return 0

        monkeypatch.setattr(command, "run_suite", run_suite)
        monkeypatch.setattr(study, "study", lambda runs: (Figure(), "the tables"))
        options = command.StudyOptions((claim,), runs_dir=tmp_path, out=tmp_path / "out")
        assert command.run_studies(options) == 0
        assert (tmp_path / f"out/{claim}.md").read_text() == "the tables"
        assert (tmp_path / f"out/{claim}.png").exists()
        return chosen

    return cells_run_for


def test_details_runs_what_it_needs(cells_run_for):
    algorithms = {algorithm for _, _, algorithm in cells_run_for("C7", c07_details)}
    assert algorithms == {"c5-clip", *CHANGES}


def test_the_trust_region_runs_what_it_needs_of_two_suites(cells_run_for):
    expected = set()
    for env_id in c12_trust_region.ENVIRONMENTS:
        expected.add(("lectures", env_id, "c12-npg"))
        for script in c12_trust_region.METHODS.keys() - {"npg"}:
            expected.add(("mujoco", env_id, script))
    assert cells_run_for("C12", c12_trust_region) == expected


def test_shortfall_and_slope(monkeypatch):
    monkeypatch.setattr(c09_imitation, "HORIZONS", np.array([10.0, 20, 40, 80]))
    returns = np.array([5.0, 30, 80])
    by_hand = [
        10 - (5 + 10 + 10) / 3,
        20 - (5 + 20 + 20) / 3,
        40 - (5 + 30 + 40) / 3,
        80 - (5 + 30 + 80) / 3,
    ]
    assert c09_imitation.shortfall(returns) == pytest.approx(by_hand)
    assert c09_imitation.slope(3 * c09_imitation.HORIZONS**2) == pytest.approx(2)
    assert c09_imitation.slope(np.array([0, 0, 1, 8.0])) == pytest.approx(3)
    assert np.isnan(c09_imitation.slope(np.zeros(4)))


def test_error_rate(monkeypatch):
    monkeypatch.setattr(c09_imitation, "EPISODES", 4)
    assert c09_imitation.error_rate(dagger.balance, dagger.balance) == 0
    assert c09_imitation.error_rate(lambda obs: 1 - dagger.balance(obs), dagger.balance) == 1


def write_policy(path, of_expert: bool) -> None:
    """The scripted expert's own policy, or one that always pushes to the left."""
    right = [0.05, 0.1, 1.0, 0.3] if of_expert else [0.0] * 4
    policy = {
        "layers": [(torch.tensor([[0.0] * 4, right]), torch.zeros(2))],
        "activation": "silu",
        "head": "argmax",
        "obs_mean": torch.zeros(4),
        "obs_std": torch.ones(4),
        "low": torch.tensor(0),
        "high": torch.tensor(0),
    }
    torch.save(policy, path)


def mean_length_to_the_left(num_episodes=200) -> float:
    """Of CartPole's episodes, pushing always to the left: about 9 steps."""
    env = gym.make("CartPole-v1")
    total = 0
    for seed in range(num_episodes):
        env.reset(seed=seed)
        terminated = False
        while not terminated:
            _, _, terminated, _, _ = env.step(0)
            total += 1
    return total / num_episodes


def test_imitation(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(c09_imitation, "LABELS", (50, 200))
    monkeypatch.setattr(c09_imitation, "EPISODES", 50)
    monkeypatch.setattr(c09_imitation, "HORIZONS", np.array([20.0, 40, 80, 600]))
    algorithms = c09_imitation.ALGORITHM_COLOURS
    for algorithm, labels, seed in itertools.product(algorithms, (50, 200), (1, 2)):
        name = f"c9-{algorithm}-{labels}"
        folder = finished_run("CartPole-v1", name, seed, eval_return_mean=labels + 10 * seed)
        write_policy(folder / "policy.pt", of_expert=algorithm == "dagger" and seed == 1)
    _, text = c09_imitation.study(tmp_path)
    rows = {(row["labels"], row["algorithm"]): row for row in table(text)}
    cloning = rows["50", "cloning"]
    with_dagger = rows["50", "dagger"]
    assert rows["200", "cloning"]["return"] == "215.0 (210.0 to 220.0)"
    length = mean_length_to_the_left()
    shortfall = leading_number(cloning["shortfall at 600"])
    assert shortfall == pytest.approx(600 - length, abs=0.5)
    shortfall = leading_number(with_dagger["shortfall at 600"])
    assert shortfall == pytest.approx((600 - length) / 2, abs=0.5)
    horizons = np.array([20, 40, 80, 600])
    slope, _ = np.polyfit(np.log(horizons), np.log(horizons - length), 1)
    assert leading_number(cloning["slope"]) == pytest.approx(slope, abs=0.02)
    assert cloning["seeds that never fell"] == "0 of 2"
    assert with_dagger["seeds that never fell"] == "1 of 2"
    assert "the expert's at 600 is 0.00" in text

    errors = {}
    for row in table(text, 1):
        if row["labels"] == "50":
            errors[row["algorithm"]] = leading_number(row["where the expert goes, %"])
    assert errors["cloning"] == pytest.approx(50, abs=5)  # the expert pushes as often to the left
    assert errors["dagger"] == pytest.approx(errors["cloning"] / 2, abs=0.06)


def write_off_policy_runs(finished_run) -> None:
    """Runs whose returns rise by a line: with a bin a point, by 55 or 10 a bin at full height."""
    ends = {"a2c": 10_000, "ppo_clip": 10_000, "ppo_kl": 10_000, "ddpg": 1000, "sac": 1000}
    tops = {"HalfCheetah-v4": 5500, "Pendulum-v1": 0}
    bins = np.arange(1, 101)
    for env_id, name, seed in itertools.product(c10_off_policy.LEVELS, ends, (1, 2, 3)):
        height = 1
        if name == "a2c" and seed > 1:
            height = 0.3
        if name == "ddpg":
            height = 1 / 2
        a_bin = 55 if env_id == "HalfCheetah-v4" else 10
        returns = tops[env_id] + (height * bins - 100) * a_bin
        steps = bins * ends[name] // 100
        seconds_a_step = 0.01 if ends[name] == 10_000 else 1
        finished_run(env_id, f"c10-{name}", seed, returns, steps, steps * seconds_a_step)


def test_off_policy(finished_run, tmp_path):
    write_off_policy_runs(finished_run)
    figure, text = c10_off_policy.study(tmp_path)
    assert [ax.get_xscale() for ax in figure.axes] == ["log"] * 4
    steps = {row["return"]: row for row in table(text, 0)}
    seconds = {row["return"]: row for row in table(text, 1)}
    ratio = "best on- over best off-policy"

    # Bin b = 1 … 100 has 55 b, the mean of the last five bins 55 (b − 2). So 1,000 are reached at
    # this bin, a hundredth of the run:
    bin_of_1000 = 1000 / 55 + 2
    bin_of_1000_at_half_height = 2 * 1000 / 55 + 2
    found = {name: leading_number(steps["1,000"][name]) for name in ("sac", "ppo_clip", "ddpg")}
    assert found["sac"] == pytest.approx(1000 * bin_of_1000 / 100, abs=0.06)
    assert found["ppo_clip"] == pytest.approx(10_000 * bin_of_1000 / 100, abs=0.6)
    assert found["ddpg"] == pytest.approx(1000 * bin_of_1000_at_half_height / 100, abs=0.06)
    assert leading_number(steps["1,000"][ratio]) == 10
    assert leading_number(seconds["1,000"]["sac"]) == pytest.approx(10 * bin_of_1000, abs=2)
    assert leading_number(seconds["1,000"][ratio]) == pytest.approx(0.1, abs=0.02)
    assert steps["3,000"]["ddpg"] == "> 1,000 (> 1,000 to > 1,000), 0 of 3"
    assert steps["2,000"]["a2c"].startswith("> 10,000 (3,836")
    assert steps["2,000"]["a2c"].endswith(", 1 of 3")
    assert steps["−400.0"]["sac"].startswith("620.0")  # −1,000 + 10 (b − 2) is −400 at b = 62


def test_times_compares_the_best_whose_median_is_known(monkeypatch):
    values = {
        "a2c": ([5, np.inf, np.inf], 10),
        "ppo_clip": ([40, 60, 80], 100),
        "sac": ([20, 30, np.inf], 50),
    }

    def taken(group, level, axis):
        steps, limit = values[group.algorithm]
        return c10_off_policy.Taken(np.array(steps), limit)

    monkeypatch.setattr(c10_off_policy, "taken", taken)
    a2c, ppo_clip, sac = (SimpleNamespace(algorithm=name) for name in values)

    def compared(*groups) -> str:
        return c10_off_policy.comparison(list(groups), 0, "steps")

    assert leading_number(compared(a2c, ppo_clip, sac)) == 2  # 60 / 30, not 10 / 30
    assert compared(a2c, sac).startswith("≥ 0.33")
    values["sac"] = ([20, np.inf, np.inf], 50)
    assert compared(a2c, ppo_clip, sac) == "–"


RESULTS = ROOT / "benchmarks/results/lectures"


@pytest.mark.parametrize("claim", command.STUDIES)
def test_each_claim_has_its_command_picture_tables_and_verdict(claim):
    text = (RESULTS / "README.md").read_text()
    section = re.search(rf"^## {claim}: .*?(?=^## |\Z)", text, re.M | re.S)[0]
    assert f"```bash\npython -m benchmarks.studies {claim}\n```" in section
    for name in (f"{claim}.png", f"{claim}.md"):
        assert f"({name})" in section
        assert (RESULTS / name).exists()
    verdict = section.split("![")[1].split("\n\n")[1]
    assert len(verdict) > 100
    assert re.search(rf"^\| {claim} \| \d+ \| [\d.]+ (s|min) \|$", text, re.M)


@pytest.mark.parametrize("claim", command.STUDIES)
def test_lectures_md_has_each_claims_verdict_in_a_line_and_leads_to_its_section(claim):
    text = (ROOT / "LECTURES.md").read_text()
    of_results = "benchmarks/results/lectures"
    link = rf"\[{claim}\]\({of_results}/README\.md#{claim.lower()}-[^)]+\)"
    picture = rf"\[picture\]\({of_results}/{claim}\.png\)"
    [row] = re.findall(rf"^\| {link} \| (.+) \| (.+) \| {picture} \|$", text, re.M)
    assert all(len(cell) > 3 for cell in row)


def test_each_claim_is_written_up_once():
    sections = re.findall(r"^## (C\w+):", (RESULTS / "README.md").read_text(), re.M)
    rows = re.findall(r"^\| \[(C\w+)\]\(", (ROOT / "LECTURES.md").read_text(), re.M)
    assert sections == rows == list(command.STUDIES)
