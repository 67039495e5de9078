"""Published results beside ours: which are found, what the report says, files that are none."""

import csv
from pathlib import Path

import pytest

from benchmarks import BadInput
from benchmarks.compare import PUBLISHED, compare_runs
from benchmarks.options import CompareOptions
from benchmarks.published import COLUMNS, read_published
from fake_jobs import assert_refused
from made_up_logs import run_config, write_log

STEPS = 1_000_000


def write_published(path: Path, *rows: tuple) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


def figure(mean, metric="evaluation", source="them", env_id="Swimmer-v4", **more) -> tuple:
    """A row of a table of published results: of ppo_clip after STEPS steps, if not told else."""
    row = {"algorithm": "ppo_clip", "version": "v3", "steps": STEPS, "deviation": "", "seeds": ""}
    row |= {"environment": env_id, "source": source, "metric": metric, "mean": mean, **more}
    return tuple(row[column] for column in COLUMNS)


def write_run(folder: Path, algorithm: str, seed: int, evaluation: float | None, **summary) -> None:
    """A run of ours on Swimmer-v4 whose training return is 95."""
    config = run_config("Swimmer-v4", algorithm, seed)
    points = [(step, 95, step / 100) for step in range(STEPS // 10, STEPS + 1, STEPS // 10)]
    summary["eval_return_mean"] = evaluation
    write_log(folder / f"{algorithm} {seed}", points, config=config, summary=summary)


def published_rows(report: str) -> list[list[str]]:
    """The table under the heading Published, without its head."""
    [_, _, *lines] = report.split("## Published\n\n")[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def report(tmp_path):
    """Compares the runs in tmp_path/runs with a table of published results; gives report.md."""

    def report(*rows: tuple, **options) -> str:
        published = write_published(tmp_path / "published.csv", *rows)
        out = tmp_path / "report"
        compare_runs(CompareOptions((tmp_path / "runs",), published=published, out=out, **options))
        return (out / "report.md").read_text(encoding="utf-8")

    return report


def test_published_figures_stand_beside_ours_each_with_its_source(report, tmp_path):
    """Evaluations beside the evaluation, training returns beside the training return."""
    runs = tmp_path / "runs"
    write_run(runs, "ppo_clip", 1, 200)
    write_run(runs, "ppo_clip", 2, 210)
    write_run(runs, "a2c", 1, None)
    reference = f"run,step,episodic_return,seconds\nSwimmer-v4__ppo_kl__1,{STEPS},1,1\n"
    (runs / "ppo_kl-Swimmer-v4.csv").write_text(reference)
    text = report(
        figure(66.7, deviation=99.4, seeds=10),
        figure(-1000, source="those"),
        figure(282, source="some: one, two", seeds=1, version=""),
        figure(90, "training", deviation=0),
        figure(9999, steps=3 * STEPS),
        figure(9999, env_id="Swimmer-v5"),
        figure(9999, algorithm="ppo"),
        figure(9999, algorithm="ppo_kl"),
        figure(300, algorithm="a2c"),
    )
    assert published_rows(text) == [
        ["Swimmer-v4", "a2c", "1 M", "–", "300.0 (them, v3)", "95.0", "–"],
        [
            "Swimmer-v4",
            "ppo_clip",
            "1 M",
            "205.0",
            "282.0 (some: one, two, 1 seed); 66.7 ± 99.4 (them, v3, 10 seeds); −1,000 (those, v3)",
            "95.0",
            "90.0 ± 0.00 (them, v3)",
        ],
    ]
    below = [line for line in text.splitlines() if "published" in line and line.startswith("- Sw")]
    said = "evaluation 205.0 is below the highest published, 282.0 (some: one, two, 1 seed)"
    assert below == [f"- Swimmer-v4, ppo_clip: {said}"]


def test_a_training_return_below_a_published_one_is_noted(report, tmp_path):
    write_run(tmp_path / "runs", "ppo_clip", 1, 200)
    text = report(figure(96, "training"), figure(95.5, "training", "those"), figure(205 - 5))
    said = "training return 95.0 is below the highest published, 96.0 (them, v3)"
    assert f"- Swimmer-v4, ppo_clip: {said}\n" in text and text.count("below the highest") == 1


@pytest.mark.parametrize(
    "steps, is_there",
    [(1_000_000, True), (981_000, True), (1_019_000, True), (979_000, False), (1_021_000, False)],
)
def test_the_number_of_steps_is_the_same_within_2_percent(report, tmp_path, steps, is_there):
    """It is the training's, not that of the last point, which is some way before its end."""
    write_run(tmp_path / "runs", "ppo_clip", 1, 200, global_step=steps)
    assert ("## Published" in report(figure(1))) == is_there


def test_there_is_no_table_of_another_metric(report, tmp_path):
    write_run(tmp_path / "runs", "ppo_clip", 1, 200)
    assert "## Published" not in report(figure(1), metric="charts/SPS")
    assert "## Published" in report(figure(1), metric="charts/episodic_return")


def test_the_page_has_the_table_too(report, tmp_path):
    write_run(tmp_path / "runs", "ppo_clip", 1, 200)
    report(figure(1, source="<i>them</i>"), html=True)
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<h3>Published</h3>" in page and 'id="published"' in page and "<i>them" not in page
    report(figure(1, steps=5), html=True)
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "<h3>Published</h3>" not in page


@pytest.mark.parametrize(
    "row, said",
    [
        (figure("many"), "row 2"),
        (figure("nan"), "row 2"),
        (figure(1, steps=""), "row 2"),
        (figure(1, deviation="some"), "row 2"),
        (figure(1, seeds="ten"), "row 2"),
        (figure(1, metric="return"), "row 2"),
        (figure(1)[:-1], "row 2"),
        (None, "its columns are not"),
    ],
)
def test_a_table_that_is_none(tmp_path, row, said):
    path = tmp_path / "published.csv"
    if row is None:
        path.write_text("env_id,mean\nA-v0,1\n")
    else:
        write_published(path, row)
    with pytest.raises(BadInput) as refusal:
        read_published(path)
    assert str(refusal.value).startswith(str(path)) and said in str(refusal.value)


@pytest.mark.slow
def test_a_table_that_is_not_there_is_refused(harness, tmp_path):
    write_run(tmp_path / "runs", "ppo_clip", 1, 200)
    words = ("--published", tmp_path / "none.csv", "--out", tmp_path / "report")
    done = harness("compare", tmp_path / "runs", *words)
    assert_refused(done, f"--published {tmp_path}/none.csv: No such file")
    assert not (tmp_path / "report").exists()


def test_the_committed_table(tmp_path):
    """It is what is compared with by default. No figure is there twice."""
    figures = read_published(PUBLISHED)
    names = {(f.env_id, f.algorithm, f.source, f.steps, f.metric) for f in figures}
    assert len(names) == len(figures) > 100
    ppo = [f for f in figures if (f.env_id, f.algorithm) == ("HalfCheetah-v4", "ppo_clip")]
    found = {f.source.partition(":")[0]: (f.metric, f.mean, f.deviation, f.seeds) for f in ppo}
    assert found == {
        "CleanRL": ("training", 1442.6, 46, 3),
        "Tianshou": ("evaluation", 5783.9, 1244, 10),
        "rl-baselines3-zoo": ("evaluation", 5819, None, 1),
    }
    sac = [f for f in figures if (f.env_id, f.algorithm) == ("Hopper-v4", "sac")]
    assert 1103 in [f.mean for f in sac if f.steps == 100_000]
    write_run(tmp_path, "ppo_clip", 1, 200)
    compare_runs(CompareOptions((tmp_path,), out=tmp_path / "report"))
    [row] = published_rows((tmp_path / "report" / "report.md").read_text(encoding="utf-8"))
    assert row[4].startswith("282.0 (rl-baselines3-zoo: ") and "66.7 ± 99.0 (Tianshou: " in row[4]
