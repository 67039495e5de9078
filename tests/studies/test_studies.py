"""The studies of finished runs, on folders made by hand: their tables' numbers against values computed by hand."""

import itertools
import json
import re
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

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
)
from benchmarks.studies.common import censored_median
from helpers import ROOT

STEPS = np.arange(1, 101) * 10  # of a run's points, one a bin


@pytest.fixture
def make(tmp_path):
    """Writes a finished run: its summary, the returns it logged, and other scalars by tag."""

    def make(env_id, name, seed, returns=(), steps=STEPS, seconds=STEPS, scalars=(), **summary):
        folder = tmp_path / f"{env_id}__{name}__{seed}"
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps({"seed": seed, **summary}))
        if len(returns):
            with SummaryWriter(folder) as writer:
                now = time.time()
                for step, value, after in zip(steps, returns, seconds):
                    writer.add_scalar("charts/episodic_return", value, step, now + after)
                for tag, values in dict(scalars).items():
                    for step, value in enumerate(values):
                        writer.add_scalar(tag, value, step)
        return folder

    return make


def table(text: str, number: int = 0) -> list[dict[str, str]]:
    """The rows of one of a text's tables, by column."""
    blocks = [
        list(lines)
        for piped, lines in itertools.groupby(text.splitlines(), lambda x: x.startswith("|"))
        if piped
    ]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in blocks[number]
    ]
    return [dict(zip(head, row)) for row in rows]


def first(cell: str) -> float:
    """The number that a cell begins with."""
    return float(re.match(r"[>≥ ]*(−?[\d,.]+)", cell)[1].replace(",", "").replace("−", "-"))


def test_censored():
    four = censored_median([1, np.inf, 3, 100], 10)
    assert four.median == 10 and str(four) == "> 10.0 (1.00 to > 10.0)"  # of four the third
    assert censored_median([2, 1, np.inf], 10).median == 2
    assert str(censored_median([np.inf, np.inf], 10)) == "> 10.0 (> 10.0 to > 10.0)"


def test_baselines(make, tmp_path):
    steps = {"plain": (400_000, None, None), "causality": (200_000, None, 100_000)}
    steps |= {"mean-baseline": (100_000, 150_000, 50_000), "value-baseline": (80_000,) * 3}
    for name, solved in steps.items():
        for seed, at in enumerate(solved, 1):
            counts = {
                "solved_at_step": at,
                "global_step": at or 1_000_300,
                "episodes": (at or 900_000) // 100,
            }
            make("CartPole-v1", f"c1-{name}", seed, **counts, wall_s=(at or 1_000_000) / 1e4)
    figure, text = c01_baselines.study(tmp_path)
    rows = {row[""]: row for row in table(text)}
    assert isinstance(figure, Figure)
    assert [rows[name]["solved"] for name in steps] == ["1 of 3", "2 of 3", "3 of 3", "3 of 3"]
    assert rows["plain"]["steps"].startswith("> 1,000,000 (400,000 to > 1,000,000")
    assert rows["plain"]["episodes"].startswith("> 9,000") and rows["plain"]["seconds"].startswith(
        "> 100.0"
    )
    assert first(rows["causality"]["steps"]) == 200_000 and rows["causality"]["steps"].endswith(
        "> 1,000,000)"
    )
    assert rows["causality"]["fewer steps than plain"].startswith("≥ 5.00")
    assert first(rows["mean-baseline"]["fewer steps than plain"]) == 10
    assert rows["value-baseline"]["fewer steps than plain"] == "≥ 12.5 (5.00 to 12.5)"
    assert rows["the lecture's mean-baseline"]["fewer steps than plain"] == "5.00"

    k, n, z = 2, 3, 1.959964  # Wilson 1927
    middle, half = (k + z**2 / 2) / (n + z**2), z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    assert rows["causality"]["95 % interval"] == f"{middle - half:.2f} to {middle + half:.2f}"


def test_updates_to_meet():
    halving = 100 * 0.5 ** np.arange(12)
    assert (
        c05_penalty.updates_to_meet(halving, np.ones(12)) == 6
    )  # 100, 50, 25, 12.5, 6.25, 3.125, 1.5625
    assert (
        c05_penalty.updates_to_meet(0.1 * 2.0 ** np.arange(5), np.ones(9)) == 3
    )  # 0.1, 0.2, 0.4, 0.8
    assert c05_penalty.updates_to_meet(halving[:6], np.ones(12)) == np.inf
    assert c05_penalty.updates_to_meet(np.array([4, 2, 1]), np.ones(3)) == 1


def test_penalty(make, tmp_path):
    finals = {"none": (100, 300), "clip": (1000, 1200), "kl-0.1": (700, 900), "kl-1": (900, 1100)}
    finals |= {"kl-10": (1100, 1300), "kl-100": (1300, 1500)}
    for env_id, (name, values) in itertools.product(c05_penalty.ENVIRONMENTS, finals.items()):
        for seed, value in enumerate(values, 1):
            beta = float(name[3:] or 1) if name.startswith("kl") else 1.0
            course = {"losses/kl_coef": np.maximum(beta * 0.5 ** np.arange(20), min(beta, 1))}
            make(env_id, f"c5-{name}", seed, np.where(STEPS > 900, value, 0), scalars=course)
    rows = {
        (row["environment"], row["constraint"]): row
        for row in table(c05_penalty.study(tmp_path)[1])
    }
    hopper = {name: rows["Hopper-v4", f"KL, β₀ = {name}"] for name in ("0.1", "1", "10", "100")}
    assert rows["Hopper-v4", "none"]["final return"] == "200.0 (100.0 to 300.0)"
    assert rows["Hopper-v4", "none"]["P(clip ends higher)"] == "1.00 (1.00 to 1.00)"
    assert [first(row["final return"]) for row in hopper.values()] == [800, 1000, 1200, 1400]
    assert hopper["0.1"]["updates to meet β₀ = 1"] == "> 20.0 (> 20.0 to > 20.0)"  # it stays at 0.1
    assert hopper["10"]["updates to meet β₀ = 1"] == "3.00 (3.00 to 3.00)"  # 10, 5, 2.5, 1.25
    assert first(hopper["100"]["updates to meet β₀ = 1"]) == 6
    assert [first(row["P(clip ends higher)"]) for row in hopper.values()] == [1, 0.75, 0.25, 0]
    assert first(rows["both", "KL, β₀ = 1"]["P(clip ends higher)"]) == 0.75
    assert "Hopper-v4 200.0 (" in c05_penalty.study(tmp_path)[1]  # 200 more for each tenfold β₀


def test_tenfold():
    samples = [np.random.default_rng(beta).normal(size=5) for beta in range(4)]
    slope = np.polyfit([-1, 0, 1, 2], [sample.mean() for sample in samples], 1)[0]
    assert c05_penalty.tenfold(*samples) == pytest.approx(slope)


def test_table_1(make, tmp_path):
    for task in c06_table_1.TASKS:
        random = random_returns()[f"{task}-v4"]
        for name, above in {
            "none": (-10, -20, 0),
            "kl": (30, 60, 90),
            "clip": (60, 80, 100),
        }.items():
            above = [value * (-1 if task == "Reacher" and name == "none" else 1) for value in above]
            for seed, value in enumerate(above, 1):
                make(f"{task}-v4", f"c6-{name}", seed, train_return_last100=random + value)
    text = c06_table_1.study(tmp_path)[1]
    rows = {row["objective"]: row for row in table(text)}
    assert [first(rows[name]["score"]) for name in ("kl", "clip")] == [0.6, 0.8]
    assert first(rows["none"]["score"]) == -0.07  # (6 · −0.1 + 0.1) / 7
    assert [first(row["score, best mean = 1"]) for row in rows.values()] == [
        -0.09,
        0.75,
        1,
    ]  # of 80, not of 100
    assert {row["runs"] for row in rows.values()} == {"21"}
    assert first(rows["kl"]["P(clip ends higher)"]) == 0.72  # (1½ + 2 + 3) / 9
    tasks = {row["task"]: row for row in table(text, 1)}
    assert tasks["Reacher"]["random"] == "−43.4" and tasks["Reacher"]["none"].startswith("0.10")
    assert tasks["Hopper"]["none"] == "−0.10 (−0.20 to 0.00)"


def test_details(make, tmp_path):
    names = [name for kind in c07_details.CHANGES.values() for name in kind]
    finals = {"c5-clip": 1000} | dict(zip(names, (500, 1100, 900, 1000, 800, -200)))
    for env_id, (name, final) in itertools.product(c07_details.ENVIRONMENTS, finals.items()):
        for seed in (1, 2):
            make(
                env_id,
                name,
                seed,
                np.where(STEPS > 900, final + (seed - 1.5) * 200 * (name == "c5-clip"), 0),
            )
    text = c07_details.study(tmp_path)[1]
    rows = {
        row["change"]: row["difference, %"]
        for row in table(text)
        if row["environment"] == "Hopper-v4"
    }
    assert rows.pop("none: the clip") == "–"
    assert [first(cell) for cell in rows.values()] == [-50, 10, -10, 0, -20, -120]
    assert rows["rewards not scaled"] == "−50.0 (−54.5 to −44.4)"  # of bases 1,100 and 900
    sizes = {row["changes"]: row for row in table(text, 1) if row["environment"] == "Hopper-v4"}
    assert first(sizes["details"]["mean absolute difference, %"]) == 17.5  # (50 + 10 + 10 + 0) / 4
    assert first(sizes["objectives"]["mean absolute difference, %"]) == 70
    assert [sizes[kind]["largest"] for kind in ("details", "objectives")] == ["−50.0", "−120.0"]


def test_details_runs_what_it_needs(monkeypatch, tmp_path):
    patterns = []
    monkeypatch.setattr(command, "run_suite", lambda options: patterns.append(options.only) or 0)
    monkeypatch.setattr(c07_details, "study", lambda runs: (Figure(), "the tables"))
    options = command.StudyOptions(("C7",), runs_dir=tmp_path, out=tmp_path / "out")
    assert command.run_studies(options) == 0
    assert (tmp_path / "out/C7.md").read_text() == "the tables" and (
        tmp_path / "out/C7.png"
    ).exists()
    names = {
        job.algorithm
        for job in read_suite(command.SUITE)
        if any(p in job.dir.name for p in patterns)
    }
    assert names == {"c5-clip", *(name for kind in c07_details.CHANGES.values() for name in kind)}


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


def left_or_expert(path, expert: bool) -> None:
    """Writes a policy that always pushes to the left, or the expert's own."""
    weight = torch.tensor([[0.0] * 4, [0.05, 0.1, 1.0, 0.3] if expert else [0.0] * 4])
    net = {"layers": [(weight, torch.zeros(2))], "activation": "silu", "head": "argmax"}
    stats = {
        "obs_mean": torch.zeros(4),
        "obs_var": torch.ones(4),
        "low": torch.tensor(0),
        "high": torch.tensor(0),
    }
    torch.save(net | stats, path)


def test_imitation(make, tmp_path, monkeypatch):
    monkeypatch.setattr(c09_imitation, "LABELS", (50, 200))
    monkeypatch.setattr(c09_imitation, "EPISODES", 50)
    monkeypatch.setattr(c09_imitation, "HORIZONS", np.array([20.0, 40, 80, 600]))
    for (algorithm, labels), seed in itertools.product(
        itertools.product(c09_imitation.ALGORITHM_COLOURS, (50, 200)), (1, 2)
    ):
        folder = make(
            "CartPole-v1", f"c9-{algorithm}-{labels}", seed, eval_return_mean=labels + 10 * seed
        )
        left_or_expert(folder / "policy.pt", algorithm == "dagger" and seed == 1)
    text = c09_imitation.study(tmp_path)[1]
    rows = {(row["labels"], row["algorithm"]): row for row in table(text)}
    errors = {(row["labels"], row["algorithm"]): row for row in table(text, 1)}
    assert rows["200", "cloning"]["return"] == "215.0 (210.0 to 220.0)"

    env, lengths = gym.make("CartPole-v1"), []  # always to the left: about 9 steps
    for seed in range(200):
        over, length = env.reset(seed=seed) is None, 0
        while not over:
            over, length = env.step(0)[2], length + 1
        lengths.append(length)
    assert first(rows["50", "cloning"]["shortfall at 600"]) == pytest.approx(
        600 - np.mean(lengths), abs=0.5
    )
    assert first(rows["50", "dagger"]["shortfall at 600"]) == pytest.approx(
        (600 - np.mean(lengths)) / 2, abs=0.5
    )
    horizons = np.array([20, 40, 80, 600])
    slope = np.polyfit(np.log(horizons), np.log(horizons - np.mean(lengths)), 1)[0]
    assert first(rows["50", "cloning"]["slope"]) == pytest.approx(slope, abs=0.02)
    assert rows["50", "cloning"]["seeds that never fell"] == "0 of 2"
    assert rows["50", "dagger"]["seeds that never fell"] == "1 of 2"
    assert "the expert's at 600 is 0.00" in text
    theirs = first(errors["50", "cloning"]["where the expert goes, %"])
    assert theirs == pytest.approx(50, abs=5)  # the expert pushes to either side as often
    assert first(errors["50", "dagger"]["where the expert goes, %"]) == pytest.approx(
        theirs / 2, abs=0.06
    )


def test_off_policy(make, tmp_path):
    ends = {"a2c": 10_000, "ppo_clip": 10_000, "ppo_kl": 10_000, "ddpg": 1000, "sac": 1000}
    for env_id, (name, end) in itertools.product(c10_off_policy.LEVELS, ends.items()):
        top = {"HalfCheetah-v4": 5500, "Pendulum-v1": 0}[env_id]
        for seed in (1, 2, 3):
            height = 0.3 if name == "a2c" and seed > 1 else 1 / 2 if name == "ddpg" else 1
            returns = top + (height * np.arange(1, 101) - 100) * (
                55 if top else 10
            )  # linear, a bin a point
            steps = np.arange(1, 101) * end // 100
            make(
                env_id, f"c10-{name}", seed, returns, steps, steps * (0.01 if end == 10_000 else 1)
            )
    text = c10_off_policy.study(tmp_path)[1]
    steps, seconds = ({row["return"]: row for row in table(text, i)} for i in (0, 1))
    # the bin b = 1 … 100 has 55 b, the mean of the last five of them 55 (b − 2): 1,100 of it are reached at b = 22
    assert first(steps["1,000"]["sac"]) == pytest.approx(1000 * (1000 / 55 + 2) / 100, abs=0.06)
    assert first(steps["1,000"]["ppo_clip"]) == pytest.approx(
        10_000 * (1000 / 55 + 2) / 100, abs=0.6
    )
    assert first(steps["1,000"]["ddpg"]) == pytest.approx(
        1000 * (2 * 1000 / 55 + 2) / 100, abs=0.06
    )
    assert first(steps["1,000"]["best on- over best off-policy"]) == 10
    assert first(seconds["1,000"]["sac"]) == pytest.approx(10 * (1000 / 55 + 2), abs=2)
    assert first(seconds["1,000"]["best on- over best off-policy"]) == pytest.approx(0.1, abs=0.02)
    assert steps["3,000"]["ddpg"] == "> 1,000 (> 1,000 to > 1,000), 0 of 3"
    assert steps["2,000"]["a2c"].startswith("> 10,000 (3,836") and steps["2,000"]["a2c"].endswith(
        ", 1 of 3"
    )
    assert steps["−400.0"]["sac"].startswith("620.0")  # −1,000 + 10 (b − 2) is −400 at b = 62
    figures = c10_off_policy.study(tmp_path)[0]
    assert [ax.get_xscale() for ax in figures.axes] == ["log"] * 4


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
    groups = [type("Group", (str,), {"algorithm": property(str)})(name) for name in values]
    assert first(c10_off_policy.comparison(groups, 0, "steps")) == 2  # 60 / 30, not 10 / 30
    assert c10_off_policy.comparison(groups[::2], 0, "steps").startswith("≥ 0.33")
    values["sac"] = ([20, np.inf, np.inf], 50)
    assert c10_off_policy.comparison(groups, 0, "steps") == "–"


@pytest.mark.parametrize("claim", command.STUDIES)
def test_lectures_md_has_each_claims_command_picture_tables_and_verdict(claim):
    text = (ROOT / "LECTURES.md").read_text()
    section = re.search(rf"^### {claim}: .*?(?=^### |\Z)", text, re.M | re.S)[0]
    assert f"```bash\npython -m benchmarks.studies {claim}\n```" in section
    for name in (f"{claim}.png", f"{claim}.md"):
        assert (
            f"(benchmarks/results/lectures/{name})" in section
            and (ROOT / "benchmarks/results/lectures" / name).exists()
        )
    assert len(section.split("![")[1].split("\n\n")[1]) > 100
    assert re.search(rf"^\| {claim} \|.*\| \d+ \| [\d.]+ (s|min) \|$", text, re.M)
