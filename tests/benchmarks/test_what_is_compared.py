"""What `compare` takes for a run, for the same run, and for another; and how it writes names."""

import html
import os
import re
from pathlib import Path

import markdown
import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from benchmarks import BadInput
from benchmarks.compare import compare_runs
from benchmarks.groups import caveats, group_curves
from benchmarks.options import CompareOptions
from benchmarks.page import sort_key
from benchmarks.plots import picture_names
from benchmarks.readers import read_curves
from benchmarks.tables import escape_markdown, format_steps, markdown_table
from made_up_logs import MEASURED, job_manifest, read_csv, run_config, straight_line, write_log

SUMMARY = {"eval_return_mean": 9, "global_step": 1000}


def write_job(suite: Path, algorithm: str, seed: int, **files) -> Path:
    """A job's folder as the harness leaves it."""
    folder = suite / f"A-v0__{algorithm}__{seed}"
    manifest = job_manifest("A-v0", algorithm, seed)
    write_log(folder, straight_line(1), manifest=manifest, **files)
    return folder


def algorithms_and_seeds(curves: list) -> list[tuple[str, int]]:
    return sorted((curve.algorithm, curve.seed) for curve in curves)


# ---------------------------------------------------------------- several folders


def test_suites_of_the_same_name_are_told_apart_by_the_folders_above(tmp_path):
    for version in ("v1", "v2"):
        write_job(tmp_path / version / "good", "x", 1)
    curves, notes = read_curves((tmp_path / "v1" / "good", tmp_path / "v2" / "good"), None)
    assert algorithms_and_seeds(curves) == [("x (v1/good)", 1), ("x (v2/good)", 1)]
    assert not notes


def test_parts_of_a_suite_are_put_together_which_is_noted(tmp_path):
    """As when two machines have taken some of the seeds each."""
    parts = (tmp_path / "one" / "suite", tmp_path / "two" / "suite")
    for seed, part in enumerate(parts, 1):
        write_job(part, "x", seed)
    curves, notes = read_curves(parts, None)
    assert algorithms_and_seeds(curves) == [("x", 1), ("x", 2)]
    assert notes == [f"{parts[0]} and {parts[1]}: the seeds of an algorithm are put together"]


@pytest.mark.parametrize("spelling", ["suite", "../{name}/suite", "link", "suite/A-v0__x__1"])
def test_what_is_given_twice_is_counted_once(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path / "suite", "x", 1)
    write_job(tmp_path / "suite", "x", 2)
    unfinished = {"complete": False}
    write_log(tmp_path / "suite" / "y", straight_line(1), manifest=unfinished)
    rows = "run,step,episodic_return,seconds\nA-v0__ppo__1,5,5,5\n"
    (tmp_path / "suite" / "cleanrl-ppo-A-v0.csv").write_text(rows)
    (tmp_path / "link").symlink_to("suite")
    again = Path(spelling.format(name=tmp_path.name))
    curves, notes = read_curves((Path("suite"), again), None)
    assert algorithms_and_seeds(curves) == [("cleanrl-ppo", 1), ("x", 1), ("x", 2)]
    assert notes == [
        "suite/y failed or is unfinished: left out",
        f"{again}: what is in suite, too, is counted once",
    ]


# ---------------------------------------------------------------- runs that are left out


@pytest.fixture
def assert_left_out(tmp_path, capsys):
    """Asserts that seeds 1 and 2 are read, and that one line names what is left out."""
    write_job(tmp_path, "x", 1)
    write_job(tmp_path, "x", 2)

    def assert_left_out(said: str) -> None:
        curves, notes = read_curves((tmp_path,), None)
        assert algorithms_and_seeds(curves) == [("x", 1), ("x", 2)]
        assert notes == [f"{said}: left out"]
        assert capsys.readouterr().err == f"{said}: left out\n"

    return assert_left_out


@pytest.mark.parametrize("kept", ["manifest.json", "config.json"])
def test_a_run_without_event_files(tmp_path, assert_left_out, kept):
    folder = write_job(tmp_path, "x", 3, config=run_config("A-v0", "x", 3))
    for path in folder.iterdir():
        if path.name != kept:
            path.unlink()
    (tmp_path / "another program").mkdir()
    (tmp_path / "another program" / "config.json").write_text('{"hidden_size": 768}')
    assert_left_out(f"{folder}: no TensorBoard events")


def test_a_folder_that_cannot_be_read(tmp_path, assert_left_out, monkeypatch):
    """Who has every right can read every folder, so the refusal is made up."""
    folder = write_job(tmp_path, "x", 3)
    scan = os.scandir

    def refuse(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert_left_out(f"{folder}: Permission denied")


@pytest.mark.parametrize("pattern", ["events*", "manifest.json"])
def test_a_file_of_a_run_that_is_a_fifo(tmp_path, assert_left_out, pattern):
    folder = write_job(tmp_path, "x", 3)
    [path] = folder.glob(pattern)
    path.unlink()
    os.mkfifo(path)
    assert_left_out(f"{path}: not a regular file")


def test_a_reference_that_is_a_fifo(tmp_path, assert_left_out):
    path = tmp_path / "cleanrl-ppo-A-v0.csv"
    os.mkfifo(path)
    assert_left_out(f"{path}: not a regular file")


@pytest.mark.parametrize("metric", [None, "losses/entropy"])
def test_a_log_that_ends_well_before_its_training(tmp_path, metric):
    tag = metric or "charts/episodic_return"
    for seed in (1, 2):
        folder = tmp_path / f"{seed}"
        config = run_config("A-v0", "x", seed)
        write_log(folder, straight_line(1), tag=tag, config=config, summary=SUMMARY)
    [events] = folder.glob("events*")
    data = events.read_bytes()
    events.write_bytes(data[: len(data) // 2])
    [curve], notes = read_curves((tmp_path,), metric)
    assert curve.seed == 1 and curve.step[-1] == 1000
    assert notes == [f"{folder}: its log ends at step 500 of 1,000: left out"]


def test_a_log_in_whose_last_half_no_episode_ends_is_whole(tmp_path):
    config = run_config("A-v0", "x", 1)
    write_log(tmp_path, straight_line(1)[:25], config=config, summary=SUMMARY)
    [events] = tmp_path.glob("events*")
    events.rename(tmp_path / "events.out.tfevents.0")
    write_log(tmp_path, straight_line(1)[25:], tag="losses/entropy")
    [curve], notes = read_curves((tmp_path,), None)
    assert curve.step[-1] == 500 and not notes


@pytest.mark.parametrize("name, files", [("A-v0__x__3", {}), ("mine_3", {"summary": SUMMARY})])
def test_a_run_of_ours_without_its_json_files_is_not_read_as_another_librarys(
    tmp_path, name, files
):
    write_log(tmp_path / name, straight_line(1), **files)
    with pytest.raises(BadInput, match="no finished runs"):
        read_curves((tmp_path,), None)
    write_job(tmp_path, "y", 1)
    [curve], notes = read_curves((tmp_path,), None)
    assert curve.algorithm == "y"
    nothing = "no manifest.json, config.json or name tells what it is"
    assert notes == [f"{tmp_path / name}: {nothing}: left out"]


# ---------------------------------------------------------------- another metric


def test_a_reference_that_another_file_has_too_is_noted(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        rows = "run,step,episodic_return,seconds\nA-v0__ppo__1,1,2,3\nA-v0__ppo__1,2,2,4\n"
        (tmp_path / folder / "cleanrl-ppo-A-v0.csv").write_text(rows)
    curves, [note] = read_curves((tmp_path,), None)
    assert len(curves) == 1 and f"left out for {curves[0].path}" in note


def test_a_reference_of_an_environment_with_a_slash(tmp_path):
    rows = "run,step,episodic_return,seconds\nALE/Pong-v5__ppo__1,1,2,3\n"
    (tmp_path / "cleanrl-ppo-ALE-Pong-v5.csv").write_text(rows)
    [curve], _ = read_curves((tmp_path,), None)
    assert (curve.env_id, curve.algorithm) == ("ALE/Pong-v5", "cleanrl-ppo")


def test_a_tag_that_is_no_scalar_has_no_points(tmp_path):
    with SummaryWriter(tmp_path / "A-v0__x__1__1") as writer:
        writer.add_histogram("weights", np.arange(9), 1)
    with pytest.raises(BadInput, match="no weights in its log"):
        read_curves((tmp_path,), "weights")


def test_runs_and_their_report_where_the_commit_is_unknown(tmp_path):
    """As of a copy without git. What the suite says holds in the report of the report, too."""
    measured = {**MEASURED, "commit": None, "script": "0123456789ab"}
    manifest = job_manifest("Acrobot-v1", "x", 1, threshold=-90, **measured)
    write_log(tmp_path / "runs" / "Acrobot-v1__x__1", straight_line(-0.1), manifest=manifest)
    for source, out in (("runs", "first"), ("first", "second")):
        compare_runs(CompareOptions((tmp_path / source,), out=tmp_path / out))
        [row] = read_csv(tmp_path / out / "table.csv")
        assert float(row["threshold"]) == -90
        assert "Measured at commit unknown: abacus" in (tmp_path / out / "report.md").read_text()
        [run] = read_csv(tmp_path / out / "runs.csv")
        assert run["script"] == "0123456789ab"


def test_what_was_measured_with_the_same_is_said_once(tmp_path):
    for seed, commit in enumerate(("b" * 40, "a" * 40, "b" * 40), start=1):
        manifest = job_manifest("Acrobot-v1", "x", seed, **{**MEASURED, "commit": commit})
        folder = tmp_path / "runs" / f"Acrobot-v1__x__{seed}"
        write_log(folder, straight_line(-0.1), manifest=manifest)
    compare_runs(CompareOptions((tmp_path / "runs",), out=tmp_path / "out"))
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.count("Measured at") == 1
    assert f"Measured at commits {'a' * 40}, {'b' * 40}: abacus" in report


def test_seeds_of_another_choice_are_not_missing(tmp_path):
    for algorithm, seeds in (("x", (1, 2, 3)), ("y", (1, 3)), ("z", (11, 12))):
        for seed in seeds:
            write_job(tmp_path / "suite", algorithm, seed)
    curves, _ = read_curves((tmp_path / "suite",), None)
    missing = [note for note in caveats(group_curves(curves, None, True)) if "no seed" in note]
    assert missing == ["A-v0, y: no seed 2, which others have"]


def test_an_evaluation_that_some_runs_lack(tmp_path):
    write_job(tmp_path / "suite", "x", 1, summary=SUMMARY)
    write_job(tmp_path / "suite", "x", 2, summary={**SUMMARY, "eval_return_mean": None})
    curves, _ = read_curves((tmp_path / "suite",), None)
    notes = caveats(group_curves(curves, None, True))
    assert "A-v0, x: the evaluation is of 1 of 2 seeds" in notes


@pytest.mark.parametrize(
    "steps, text", [(999.6, "1 k"), (1e9, "1,000 M"), (60_000, "60 k"), (1_250_000, "1.25 M")]
)
def test_steps_in_a_table(steps, text):
    assert format_steps(steps) == text


def test_a_name_that_looks_like_a_number_is_sorted_as_a_name():
    assert sort_key("1.0.2") == "1.0.2" and sort_key("1,234.5 (3 to 4)") == 1234.5


def test_another_tag_than_returns_has_no_scores_thresholds_and_references(tmp_path):
    """CartPole-v1 has all three, but they are not of entropies."""
    runs = tmp_path / "runs"
    tag = "losses/entropy"
    manifest = job_manifest("CartPole-v1", "of_suite", threshold=475)
    write_log(runs / "1", straight_line(1), tag=tag, manifest=manifest)
    config = run_config("CartPole-v1", "of_none", 1)
    write_log(runs / "2", straight_line(1), tag=tag, config=config, summary=SUMMARY)
    reference = runs / "cleanrl-ppo-CartPole-v1.csv"
    reference.write_text("run,step,episodic_return,seconds\nCartPole-v1__ppo__1,5,5,5\n")
    (runs / "other.csv").write_text("a,b\n1,2\n")
    out = tmp_path / "report"
    compare_runs(CompareOptions((runs,), metric=tag, out=out))
    report = (out / "report.md").read_text()
    assert [row["threshold"] for row in read_csv(out / "table.csv")] == ["", ""]
    assert "normalised IQM" not in report and "below its threshold" not in report
    assert "cleanrl-ppo-CartPole-v1.csv: has returns, no losses/entropy: left out" in report
    assert "losses/entropy is not the training return: normalised scores, the thresholds" in report
    assert "other.csv" not in report
    compare_runs(CompareOptions((runs,), metric=tag, threshold=3, out=out))
    assert [row["threshold"] for row in read_csv(out / "table.csv")] == ["3", "3"]


# ---------------------------------------------------------------- names

HOSTILE = [
    "ppo|<script>alert(1)</script>",
    "*a* _b_ `c` [d](e) ~~f~~ &lt;",
    r"back\|slash\_",
    "two\nlines",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_in_markdown_is_only_text(name):
    on_one_line = " ".join(name.split())
    table = markdown_table([["", "x"], [escape_markdown(name), "1"]])
    page = markdown.markdown(f"{table}\n\n- {escape_markdown(name)}", extensions=["tables"])
    cells = re.findall(r"<td.*?>(.*?)</td>", page)
    assert [html.unescape(cell) for cell in cells] == [on_one_line, "1"]
    [note] = re.findall(r"<li>(.*?)</li>", page)
    assert html.unescape(note) == on_one_line


@pytest.mark.parametrize("name", ["reinforce_baseline", "runs/A-v0__x__1", "c5-kl-0.1", "−9 (3/4)"])
def test_a_plain_name_in_markdown_is_as_it_was(name):
    assert escape_markdown(name) == name


def test_hostile_names_in_report_md(tmp_path):
    runs = tmp_path / "runs"
    for number, name in enumerate(HOSTILE):
        write_log(runs / str(number), straight_line(1), manifest=job_manifest(name, name))
    out = tmp_path / "report"
    compare_runs(CompareOptions((runs,), out=out))
    report = (out / "report.md").read_text()
    assert "<script>" not in report
    page = markdown.markdown(report, extensions=["tables"])
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    columns = {len(re.findall("<t[dh]", row)) for row in rows}
    assert columns == {5, 14}  # of final returns and improvements; of all figures
    assert page.count("<img") == 1 + len(HOSTILE)


def test_no_two_pictures_have_the_same_file(tmp_path):
    """Not on a system either that takes capital letters for small ones."""
    names = picture_names(["A-B-v1", "A/B-v1", "A:B-v1", "a-b-v1-2", "Overview"])
    assert list(names.values()) == [
        "A-B-v1.png",
        "A-B-v1-2.png",
        "A-B-v1-3.png",
        "a-b-v1-2-2.png",
        "Overview-2.png",
    ]
    runs = tmp_path / "runs"
    for number, env_id in enumerate(["A/B-v1", "A-B-v1"]):
        write_log(runs / str(number), straight_line(1), manifest=job_manifest(env_id, "x"))
    out = tmp_path / "report"
    compare_runs(CompareOptions((runs,), out=out))
    report = (out / "report.md").read_text()
    assert "![A-B-v1](A-B-v1.png)" in report and "![A/B-v1](A-B-v1-2.png)" in report
    assert (out / "A-B-v1.png").exists() and (out / "A-B-v1-2.png").exists()


def test_the_help_says_which_threshold_holds_for_which_run(harness):
    done = harness("compare", "--help")
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", done.out).split())
    assert "default: the suite's for its own runs, gymnasium's for others" in words
