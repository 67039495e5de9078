"""Files that are not what they should be: each gets a line that names it, and the rest goes on."""

import csv
import itertools
import json
import os
import shutil
import signal
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks import BadInput
from benchmarks.command_line import report_errors
from benchmarks.compare import compare_runs, normalised_scores
from benchmarks.jobs import begin_attempt, check_may_be_cleared, read_suite
from benchmarks.options import CompareOptions, RunOptions, SpeedOptions
from benchmarks.readers import CSV_COLUMNS, read_curves
from benchmarks.run import run_suite
from benchmarks.speed import measure_scripts
from benchmarks.studies.__main__ import StudyOptions, run_studies
from benchmarks.tables import escape_markdown
from fake_jobs import assert_refused, jobs_run, manifests
from made_up_logs import MEASURED, job_manifest, run_config, straight_line, write_log

# What a JSON file may hold in place of a table that has all entries.
NO_JSON = [
    b"",
    b'{"complete": tr',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"a": ' + b"9" * 5000 + b"}",
]
OTHER_JSON = [b"[]", b'[{"complete": true}]', b"null", b"3", b'"x"', b"{}", b'{"name": "an app"}']
FILES_AND_CONTENTS = [
    *itertools.product(["manifest.json"], NO_JSON),
    *itertools.product(["config.json", "summary.json"], NO_JSON + OTHER_JSON),
]


def write_run(folder: Path, algorithm: str = "bad") -> None:
    """A run of ours that the harness has run."""
    manifest = job_manifest("CartPole-v1", algorithm, threshold=7, **MEASURED)
    config = run_config("CartPole-v1", algorithm, 1)
    write_log(folder, straight_line(1), config=config, manifest=manifest, summary=SUMMARY)


SUMMARY = {"eval_return_mean": 9}


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two runs")
    write_run(folder / "fine", "fine")
    write_run(folder / "bad")
    return folder


@pytest.fixture
def runs(two_runs, tmp_path) -> Path:
    """A folder with two runs, `fine` and `bad`. The test damages the bad one."""
    return Path(shutil.copytree(two_runs, tmp_path / "runs of a test, ü"))


@pytest.fixture
def assert_left_out(capsys):
    """Asserts that only the fine run is read, and that one line names the damaged file."""

    def assert_left_out(runs: Path, path: Path, said: str = "") -> None:
        curves, notes = read_curves((runs,), None)
        assert [curve.algorithm for curve in curves] == ["fine"]
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(str(path)) and line.endswith("left out") and said in line
        assert line in notes

    return assert_left_out


@pytest.mark.parametrize("name, content", FILES_AND_CONTENTS, ids=lambda text: repr(text[:12]))
def test_json_that_is_no_table(runs, assert_left_out, name, content):
    if name == "config.json":
        (runs / "bad" / "manifest.json").unlink()  # which is asked first
    path = runs / "bad" / name
    path.write_bytes(content)
    assert_left_out(runs, path)


@pytest.mark.parametrize("content", OTHER_JSON, ids=repr)
@pytest.mark.parametrize("folder", [".", "bad", "empty"])
def test_a_manifest_of_another_program_costs_nothing(runs, capsys, folder, content):
    """The runs in its folder and below are read by their own names."""
    (runs / "bad" / "manifest.json").unlink()
    (runs / "empty").mkdir()
    path = runs / folder / "manifest.json"
    path.write_bytes(content)
    curves, notes = read_curves((runs,), None)
    assert sorted(curve.algorithm for curve in curves) == ["bad", "fine"]
    [note] = notes
    assert str(path) in note and "ignored" in note and not capsys.readouterr().err


@pytest.mark.parametrize("name", ["manifest.json", "summary.json", "events.out.tfevents.0"])
def test_a_folder_in_place_of_a_file(runs, assert_left_out, name):
    path = runs / "bad" / name
    path.unlink(missing_ok=True)
    path.mkdir()
    assert_left_out(runs, path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("complete", "yes"),
        ("env_id", 5),
        ("env_id", "x" * 300),
        ("algorithm", ""),
        ("seed", "one"),
        ("seed", True),
        ("threshold", float("nan")),
        ("threshold", 10**400),
        ("machine", []),
        ("versions", "new"),
        ("workers", "two"),
        ("command", "python a2c.py"),
        ("machine", None),
        ("versions", None),
        ("workers", None),
        ("command", None),
        ("start", None),
        ("end", None),
    ],
)
def test_an_entry_of_another_kind(runs, assert_left_out, key, value):
    path = runs / "bad" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, key: value}))
    assert_left_out(runs, path, f"{key} is ")


def test_entries_that_the_harness_writes_as_null(runs):
    path = runs / "bad" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "threshold": None, "commit": None}))
    curves, notes = read_curves((runs,), None)
    assert len(curves) == 2 and not notes


@pytest.mark.parametrize("value", ['"high"', "NaN", "[1]", "true"])
def test_an_evaluation_that_is_no_number(runs, assert_left_out, value):
    path = runs / "bad" / "summary.json"
    path.write_text(f'{{"eval_return_mean": {value}}}')
    assert_left_out(runs, path, "eval_return_mean is ")


@pytest.mark.parametrize("value", ['"all"', "0", "null", "1.5"])
def test_steps_of_a_training_that_are_no_count(runs, assert_left_out, value):
    path = runs / "bad" / "summary.json"
    path.write_text(f'{{"eval_return_mean": 9, "global_step": {value}}}')
    assert_left_out(runs, path, "global_step is ")


def events_file(runs: Path) -> Path:
    [path] = (runs / "bad").glob("events.out.tfevents.*")
    return path


def value_of_a_return(data: bytes) -> int:
    """Where in an events file the value of a return stands."""
    tag = b"charts/episodic_return"
    return data.index(tag, len(data) // 2) + len(tag) + 2


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"\xff" * 3000, id="all ones"),
        pytest.param(lambda data: b"no events at all", id="text"),
        pytest.param(lambda data: data[:2000] + data[2100:], id="a hole"),
        pytest.param(lambda data: data[:2000] + bytes(500) + data[2500:], id="zeros"),
    ],
)
def test_an_events_file_with_garbage(runs, assert_left_out, damage):
    path = events_file(runs)
    path.write_bytes(damage(path.read_bytes()))
    assert_left_out(runs, path, "the record at byte ")


def test_an_events_file_with_a_wrong_value(runs, assert_left_out):
    path = events_file(runs)
    data = bytearray(path.read_bytes())
    data[value_of_a_return(data)] ^= 1
    path.write_bytes(data)
    assert_left_out(runs, path, "the record at byte ")


def test_an_events_file_that_a_kill_cut_short_is_read_as_far_as_it_goes(runs, capsys):
    path = events_file(runs)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    curves, notes = read_curves((runs,), None)
    lengths = {curve.algorithm: len(curve.step) for curve in curves}
    assert 20 < lengths["bad"] < 30 and lengths["fine"] == 50
    assert not notes and not capsys.readouterr().err


NAN = float("nan")


@pytest.mark.parametrize(
    "points, said",
    [
        ([(0, 1, 1)], "steps"),
        ([(-5, 1, 1), (5, 1, 2)], "steps"),
        ([(500, 1, 1), (5, 1, 2)], "steps"),
        ([(500, NAN, 1), (900, 1, 2)], "numbers"),
        ([(500, float("inf"), 1)], "numbers"),
        ([(500, 1, 1e300)], "numbers"),
    ],
)
def test_points_that_no_run_logs(runs, assert_left_out, points, said):
    events_file(runs).unlink()
    write_log(runs / "bad", points)
    assert_left_out(runs, runs / "bad", said)


def test_a_loss_that_is_not_known_from_the_beginning_is_shown_from_where_it_is(tmp_path):
    points = [(100, NAN, 1), (200, 5, 2), (300, 6, 3)]
    write_log(tmp_path / "A-v0__x__1__1", points, tag="losses/explained_variance")
    [curve], notes = read_curves((tmp_path,), "losses/explained_variance")
    assert curve.step.tolist() == [200, 300] and curve.value.tolist() == [5, 6] and not notes


HEAD = ",".join(CSV_COLUMNS) + "\n"
ROWS = HEAD + "".join(f"A-v0__x__1,{step},{step},{step}\n" for step in range(10, 100, 10))


@pytest.mark.parametrize(
    "content, said",
    [
        (b"\x97\xff\x00" * 100, "decode"),
        (HEAD.encode() + b"\xff\xfe", "decode"),
        (ROWS.replace(",seconds", ""), "its columns are not"),
        (ROWS.replace("seconds", "seconds,more"), "its columns are not"),
        (ROWS + "A-v0__x__1,ten,1,1\n", "row 11"),
        (ROWS + "A-v0__x__1,1\n", "row 11"),
        (ROWS + "A-v0__x__1,1,1,1,1\n", "row 11"),
        (ROWS[:-7], "row 10"),
        (ROWS + "x,1,1,1\n", "the run 'x'"),
        (ROWS + "A-v0__x__one,1,1,1\n", "the run 'A-v0__x__one'"),
        (ROWS + "A-v0__x__1,100,nan,1\n", "numbers"),
        (ROWS + "A-v0__x__1,1e308,1,1\n", "numbers"),
        (HEAD + "A-v0__x__1,0,1,1\n", "steps"),
        (HEAD + "x" * 200_000, "field limit"),
    ],
)
def test_a_csv_file_that_is_no_reference(two_runs, tmp_path, capsys, content, said):
    path = tmp_path / "cleanrl-x-A-v0.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    curves, notes = read_curves((two_runs, tmp_path), None)
    assert len(curves) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(str(path)) and said in line and line in notes
    with pytest.raises(BadInput, match="no finished runs.*left out$"):
        read_curves((path,), None)


def test_a_reference_csv_that_a_spreadsheet_has_saved(tmp_path):
    path = tmp_path / "cleanrl-x-A-v0.csv"
    path.write_bytes(("\ufeff" + ROWS + "\n").replace("\n", "\r\n").encode())
    [curve], notes = read_curves((path,), None)
    assert curve.algorithm == "cleanrl-x" and len(curve.step) == 9 and not notes


# ---------------------------------------------------------------- compare


@pytest.mark.slow
def test_damage_and_odd_names_in_a_report(harness, runs, tmp_path, monkeypatch):
    """On a terminal that has only ASCII."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    (runs / "bad" / "manifest.json").write_text("{")
    (runs / "cleanrl-x-CartPole-v1.csv").write_text(ROWS[:-7])
    below_zero = straight_line(-1)
    env_ids = ["CartPole-v1", 'no_such_module:"a"']
    algorithms = ["$x^$", "ü", "_x", 'a"b<c>d|e?f*g\\h']
    for number, name in enumerate(algorithms):
        config = run_config(env_ids[number % 2], name, 1)
        write_log(runs / str(number), below_zero, config=config, summary=SUMMARY)
    os.rename(runs / "0", os.fsencode(runs) + b"/A-v0__\xff__1__1")
    # A job can have overwritten its manifest.
    write_log(runs / "plain", below_zero, manifest=job_manifest("CartPole-v1", "plain"))
    out = tmp_path / "report"
    done = harness("compare", runs, "--out", out, "--html")
    assert done.returncode == 0, done.err
    damaged = [line for line in done.err.splitlines() if line.endswith("left out")]
    assert len(damaged) == 2 and "Traceback" not in done.err
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "manifest.json" in damaged[0] and "cleanrl-x" in damaged[1]
    assert "−" in report and report.count("left out") == 2
    names = [*env_ids, *algorithms, "fine", "plain"]
    assert all(escape_markdown(name) in report for name in names)
    assert {path.name for path in out.glob("*.png")} == {
        "CartPole-v1.png",
        "no_such_module--a-.png",
        "overview.png",
    }
    assert (out / "report.html").stat().st_size > 1e6


def test_random_returns_that_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / "random.csv"
    monkeypatch.setattr("benchmarks.compare.RANDOM_RETURNS", path)
    for content in (b"env_id,mean\nCartPole-v1,many\n", b"env_id\nCartPole-v1\n", b"\xff"):
        path.write_bytes(content)
        scores, [note] = normalised_scores({})
        assert not scores and note.startswith(f"{path}: ")


@pytest.mark.parametrize("threshold", [NAN, float("inf")])
def test_a_threshold_that_is_no_number(two_runs, tmp_path, threshold):
    options = CompareOptions((two_runs,), threshold=threshold, out=tmp_path / "report")
    with pytest.raises(BadInput, match="--threshold"):
        compare_runs(options)


# ---------------------------------------------------------------- suites


CELL = 'script = "a2c.py", env_id = "A-v0"'
COMMAND = 'name = "n", env_id = "A-v0", command'


def suite_of(cell: str, seeds: str = '"1"') -> str:
    return f"seeds = {seeds}\ncells = [{{ {cell} }}]"


@pytest.mark.parametrize(
    "text, said",
    [
        ('cells = "all"', "cells is 'all'"),
        ("cells = 5", "cells is 5"),
        ('seeds = "1"\ncells = [1]', "cell 1: 1 is not"),
        ('seeds = "1"\ncells = ["a2c.py"]', "cell 1: 'a2c.py' is not"),
        ('seeds = "1"\n[cells]\nscript = "a2c.py"', "cells is"),
        (suite_of('script = 5, env_id = "A-v0"'), "cell 1: script is 5"),
        (suite_of('script = "a2c", env_id = "A-v0"'), "cell 1: script is 'a2c'"),
        (suite_of('script = "a2c.py", env_id = 5'), "cell 1: env_id is 5"),
        (suite_of('script = "a2c.py", env_id = ""'), "cell 1: env_id is ''"),
        (suite_of('script = "a2c.py", env_id = "A\\u0000"'), "cell 1: env_id is "),
        (suite_of(f"{CELL}, name = 5"), "cell 1: name is 5"),
        (suite_of(f'{CELL}, name = "{"x" * 300}"'), "cell 1: name is "),
        (suite_of(f"{CELL}, flags = 5"), "cell 1: flags is 5"),
        (suite_of(f'{CELL}, flags = "--x \'y"'), "No closing quotation"),
        (suite_of(f'{CELL}, flags = "{{"'), "cell 1: {: Single"),
        (suite_of(f'{CELL}, flags = "{{env_id.x}}"'), "no attribute"),
        (suite_of(f'{CELL}, flags = "{{env_id[x]}}"'), "indices"),
        (suite_of(f'{CELL}, flags = "\\u0000"'), "no command line"),
        (suite_of(f'{CELL}, steps = "many"'), "cell 1: steps is 'many'"),
        (suite_of(f"{CELL}, steps = 1.5"), "cell 1: steps is 1.5"),
        (suite_of(f"{CELL}, steps = 0"), "cell 1: steps is 0"),
        (suite_of(f"{CELL}, steps = true"), "cell 1: steps is True"),
        (suite_of(f'{CELL}, threshold = "high"'), "cell 1: threshold is 'high'"),
        (suite_of(f"{CELL}, threshold = nan"), "cell 1: threshold is nan"),
        (suite_of(f"{COMMAND} = 5"), "cell 1: command is 5"),
        (suite_of(f'{COMMAND} = "  "'), "cell 1: command is '  '"),
        (suite_of(f'{COMMAND} = "python \'x"'), "No closing quotation"),
        (suite_of(CELL, seeds="[1, 2]"), "seeds is [1, 2]"),
        (suite_of(CELL, seeds="true"), "seeds is True"),
        (suite_of(CELL, seeds='"5-1"'), "1 comes before 5"),
        (suite_of(CELL, seeds='"1-99999999"'), "more than 10,000"),
        (suite_of(f"{CELL}, seeds = [1]"), "cell 1: seeds is [1]"),
        ('seeds = "1', "Unterminated string"),
        (suite_of(CELL)[:-1], "Unclosed array"),
        ("a = " + "[" * 20_000, "recursion"),
        (b'seeds = "\xff"', "decode"),
    ],
)
def test_a_suite_that_is_none(tmp_path, text, said):
    path = tmp_path / "s.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput) as refusal:
        read_suite(path)
    assert str(refusal.value).startswith(str(path)) and said in str(refusal.value)
    assert len(str(refusal.value)) < 300 + len(str(path))


def test_a_dry_run_refuses_what_a_run_refuses(harness, tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('cells = "all"')
    assert_refused(harness("run", path, "--dry-run"), "cells is 'all', not a list")
    path.write_text(suite_of('script = "a3c.py", env_id = "A-v0"'))
    assert "no script" in refusal(run_suite, RunOptions(path, runs_dir=tmp_path, dry_run=True))


def test_damaged_manifests_and_programs_that_cannot_run(suite, harness, tmp_path):
    """Jobs with a damaged manifest are run again. A program that is none fails alone."""
    path = suite("A-v0", "B-v0", "C-v0", seeds="1")
    assert harness("run", path).returncode == 0
    damaged = tmp_path / "runs/s/A-v0__fake__1/manifest.json"
    damaged.write_text('{"complete": tr')
    (tmp_path / "runs/s/B-v0__fake__1/manifest.json").write_text('{"complete": 1}')
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF, or nearly so")
    program.chmod(0o755)
    cell = f'{{ name = "n", env_id = "D-v0", command = "{program}" }}'
    path.write_text(path.read_text()[:-1] + f", {cell}]")
    again = harness("run", path)
    assert again.returncode == 1 and "2 done, 1 finished before, 1 failed" in again.out, again.err
    assert again.err.count("counts as not finished") == 2 and f"{damaged}: " in again.err
    assert "D-v0__n__1 failed twice, exit status 126" in again.err and "format" in again.err
    assert "Traceback" not in again.err
    assert len(jobs_run(tmp_path)) == 5
    complete = [manifest["complete"] for manifest in manifests(tmp_path).values()]
    assert sorted(complete) == [False, True, True, True]


# ---------------------------------------------------------------- folders


@pytest.fixture(params=["a file", "below a file", "a link to nowhere"])
def no_folder(request, tmp_path) -> Path:
    """A path at which there can be no folder."""
    (tmp_path / "a file").write_text("")
    (tmp_path / "a link to nowhere").symlink_to(tmp_path / "nowhere" / "at all")
    if request.param == "below a file":
        return tmp_path / "a file" / "folder"
    return tmp_path / request.param


def refusal(function, options) -> str:
    with pytest.raises(BadInput) as refused:
        function(options)
    return str(refused.value)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_runs_dir_that_cannot_be(no_folder, tmp_path, dry_run):
    suite = tmp_path / "s.toml"
    suite.write_text(suite_of(CELL))
    options = RunOptions(suite, runs_dir=no_folder, dry_run=dry_run)
    assert f"--runs-dir {no_folder}" in refusal(run_suite, options)


def test_a_jobs_folder_that_is_a_file(tmp_path):
    suite = tmp_path / "s.toml"
    suite.write_text(suite_of(CELL))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "A-v0__a2c__1").write_text("")
    options = RunOptions(suite, runs_dir=tmp_path, dry_run=True)
    assert "A-v0__a2c__1 is not a folder" in refusal(run_suite, options)


def test_a_users_files_in_a_jobs_folder_are_kept(suite, harness, tmp_path):
    """The harness clears only what it has made, which has a manifest, and an empty folder."""
    path = suite("A-v0", "B-v0", seeds="1")
    folder = tmp_path / "runs/s/A-v0__fake__1"
    folder.mkdir(parents=True)
    assert harness("run", path, "--only", "A-v0").returncode == 0
    (folder / "manifest.json").unlink()
    (folder / "thesis.txt").write_text("years of work")
    for more in ("--dry-run",), ():
        assert_refused(harness("run", path, *more), f"{folder}: has no manifest.json")
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert jobs_run(tmp_path) == ["A-v0 1 9 1"]


@pytest.mark.parametrize("left", ["manifest.tmp", "manifest.json"])
def test_what_a_killed_harness_has_left_is_cleared(suite, harness, tmp_path, left):
    folder = tmp_path / "runs/s/A-v0__fake__1"
    (folder / "a folder").mkdir(parents=True)
    (folder / "a link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (folder / left).write_text('{"complete": false')
    done = harness("run", suite("A-v0", seeds="1"))
    assert done.returncode == 0, done.err
    names = {path.name for path in folder.iterdir()}
    assert names == {"log.txt", "manifest.json", "summary.json"}
    assert (tmp_path / "elsewhere").is_dir()


def test_a_jobs_folder_always_has_a_manifest(suite, tmp_path, monkeypatch):
    """So that it is known for the harness's, whenever that is killed."""
    [job] = read_suite(suite("A-v0", seeds="1"), None, tmp_path)
    begin_attempt(job, 1, {})
    (job.dir / "log.txt").write_text("")

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.jobs.remove", killed)
    with pytest.raises(KeyboardInterrupt):
        begin_attempt(job, 2, {})
    assert job.manifest()["attempts"] == 2
    check_may_be_cleared(job.dir)


def test_a_jobs_folder_that_is_a_link(suite, harness, tmp_path):
    folder = tmp_path / "runs/s/A-v0__fake__1"
    folder.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert_refused(harness("run", suite("A-v0", seeds="1")), f"{folder}: is a link")


@pytest.mark.parametrize("content", [b"no database" * 100, None])
def test_a_lock_that_is_none(tmp_path, content):
    suite = tmp_path / "s.toml"
    suite.write_text(suite_of(CELL))
    (tmp_path / "s").mkdir()
    if content is None:
        (tmp_path / "s" / "lock").mkdir()
    else:
        (tmp_path / "s" / "lock").write_bytes(content)
    assert str(tmp_path / "s" / "lock") in refusal(run_suite, RunOptions(suite, runs_dir=tmp_path))


def test_folders_of_results_that_cannot_be(no_folder, two_runs, tmp_path):
    """Each is refused before anything is measured."""
    said = f"--out {no_folder}"
    assert said in refusal(compare_runs, CompareOptions((two_runs,), out=no_folder))
    assert said in refusal(run_studies, StudyOptions(("C1",), out=no_folder))
    options = StudyOptions(("C1",), out=tmp_path / "out", runs_dir=no_folder)
    assert f"--runs-dir {no_folder}" in refusal(run_studies, options)
    options = SpeedOptions(("a2c",), out=no_folder / "speed.json")
    assert str(no_folder) in refusal(measure_scripts, options)
    options = SpeedOptions(("a2c",), out=tmp_path)
    assert f"--out {tmp_path}" in refusal(measure_scripts, options)


def test_a_file_that_cannot_be_written_gets_one_line(tmp_path, capsys):
    def write() -> int:
        tmp_path.write_text("")
        return 0

    assert report_errors(write, "benchmarks") == 2
    assert capsys.readouterr().err == f"benchmarks: {tmp_path}: Is a directory\n"


def test_ctrl_c_ends_a_comparison_in_one_line(two_runs, harness, tmp_path):
    """It waits for the published results, of which nobody writes any."""
    fifo = tmp_path / "published.csv"
    os.mkfifo(fifo)
    # What a shell runs in the background ignores Ctrl-C, and so would what the tests start there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = harness("compare", two_runs, "--published", fifo, wait=False)
    signal.signal(signal.SIGINT, before)
    with fifo.open("w"):  # which waits until it is open for reading, too
        time.sleep(0.5)  # Python notices a signal that comes just before it reads only afterwards
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "benchmarks: interrupted\n")


@pytest.mark.parametrize("stop", ["raise KeyboardInterrupt", "sys.exit(130)"])
def test_ctrl_c_ends_speed_in_one_line(tmp_path, monkeypatch, capsys, stop):
    """A script that is asked to end in its training saves, and exits with a status that says so."""
    text = f"""
        import dataclasses, sys
        class Run: log = None
        class Adam: step = None
        @dataclasses.dataclass
        class Args:
            env_id: str
            total_timesteps: int
            eval_episodes: int
            run_dir: str
        def make_envs(): pass
        def train(args): {stop}
    """
    (tmp_path / "stopped.py").write_text(textwrap.dedent(text))
    monkeypatch.setattr("benchmarks.speed.ROOT", tmp_path)
    options = SpeedOptions(("stopped",), total_timesteps=9, out=tmp_path / "speed.json")
    assert report_errors(lambda: measure_scripts(options), "benchmarks") == 130
    assert capsys.readouterr().err == "benchmarks: interrupted\n"


@pytest.mark.parametrize("text", ["x = (", "raise RuntimeError('no')", "x = 1"])
def test_speed_of_what_is_no_script(tmp_path, monkeypatch, text):
    (tmp_path / "other.py").write_text(text)
    monkeypatch.setattr("benchmarks.speed.ROOT", tmp_path)
    assert "other.py" in refusal(measure_scripts, SpeedOptions(("other",)))


def test_the_reference_files_are_read_as_before():
    """The columns of all that are committed."""
    for path in (Path(__file__).parents[2] / "benchmarks" / "reference").glob("*-*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            runs = {row["run"] for row in csv.DictReader(file)}
        curves, notes = read_curves((path,), None)
        assert len(curves) == len(runs) and not notes
