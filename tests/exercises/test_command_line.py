"""`python -m exercises`: what it prints, writes and refuses, and with which exit status."""

import io
import re
import subprocess
import sys
import tokenize

import pytest

from exercises.__main__ import main
from exercises.blanks import blank, solved
from exercises.bugs import BUGS, changed_lines, find, planted
from exercises.catalogue import EXERCISES
from exercises.catalogue import find as find_exercise
from helpers import ROOT, SCRIPTS, process_environment
from readability import TEXTS

DOCUMENT = (ROOT / "docs" / "exercises.md").read_text(encoding="utf-8")


@pytest.fixture
def exercises(tmp_path, monkeypatch, capsys):
    """Calls the command line in an empty folder; returns exit status, stdout and stderr."""

    def exercises(*arguments) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["exercises", *map(str, arguments)])
        monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
        monkeypatch.setattr(sys.stderr, "reconfigure", lambda **_: None, raising=False)
        status = main()
        return status, *capsys.readouterr()

    return exercises


def test_the_list(exercises):
    status, printed, _ = exercises()
    assert status == 0
    for exercise in EXERCISES:
        [line] = [line for line in printed.splitlines() if line.startswith(f"{exercise.name} ")]
        assert f"{exercise.script}.py" in line and exercise.lecture in line
        assert f"[{exercise.tag}] {exercise.equation}" in printed
    assert "Bugs to be found: 1 2 3 4 5 6 7 8 9 10," in printed


def test_every_equation_of_the_scripts_has_an_exercise():
    """But for the objective, which is no line."""
    tags = set()
    for script in SCRIPTS:
        for token in tokenize.generate_tokens(io.StringIO(TEXTS[script]).readline):
            if token.type == tokenize.COMMENT:
                tags |= set(re.findall(r"\[([a-z]+(?:-[a-z]+)*)\]", token.string))
    assert tags == {exercise.tag for exercise in EXERCISES}
    assert len(tags) > 20


def test_the_document_has_a_row_for_each():
    rows = re.findall(r"^\| `([a-z-]+)` \| `([a-z_0-9]+)\.py` \| \[([a-z-]+)\]", DOCUMENT, re.M)
    assert rows == [(exercise.name, exercise.script, exercise.tag) for exercise in EXERCISES]
    named = re.search(r"^ {4}gae: (.*)$", DOCUMENT, re.M).group(1)
    assert named == "wrong where an episode is truncated: your carry crosses it, at step 3"


def test_start_and_check(exercises, tmp_path):
    status, printed, _ = exercises("start", "twin-target")
    path = tmp_path / "twin_target_exercise.py"
    assert status == 0 and path.read_text(encoding="utf-8") == blank(find_exercise("twin-target"))
    number = int(re.search(r"line (\d+)", printed).group(1))
    assert "# exercise twin-target: " in path.read_text(encoding="utf-8").splitlines()[number - 1]

    status, _, complaint = exercises("start", "twin-target")
    assert status == 2 and "is there already" in complaint and complaint.count("\n") == 1
    assert exercises("check", path)[0] == 1
    path.write_text(solved(find_exercise("twin-target")), encoding="utf-8")
    assert exercises("check", path, "--no-train") == (0, "twin-target: right\n", "")
    assert exercises("start", "gae", "mine.py")[0] == 0 and (tmp_path / "mine.py").exists()


def test_the_blank_compiles_and_keeps_the_docstring():
    for exercise in EXERCISES:
        text = blank(exercise)
        compile(text, exercise.name, "exec")
        assert max(len(line) for line in text.splitlines()) <= 100
    assert '"""Generalised advantage estimate (T, N)' in blank(find_exercise("gae"))
    assert "Â_{t+1}, (N,)" not in blank(find_exercise("gae"))


def without_the_end(text: str) -> str:
    return text.replace("# end of exercise gae", "")


def with_an_error_at_import(text: str) -> str:
    return text + "\nnonsense\n"


@pytest.mark.parametrize(
    "text, complaint",
    [
        (None, "is not there"),
        ("x = 1\n", "is no exercise"),
        ("# exercise nonsense of a2c.py: write the marked lines.\n", "no exercise nonsense"),
        (blank(find_exercise("gae")).replace("return -torch", "return -(torch"), "line 32"),
        (without_the_end(blank(find_exercise("gae"))), "comments around exercise gae are gone"),
        (with_an_error_at_import(blank(find_exercise("gae"))), "NameError"),
    ],
)
def test_bad_files_are_refused_in_one_line(exercises, tmp_path, text, complaint):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    status, printed, found = exercises("check", path)
    assert status == 2 and printed == ""
    assert complaint in found and found.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [("start",), ("start", "nope"), ("bug", 0), ("bug", 11), ("bug", "x"), ("what",)]
)
def test_bad_commands_are_refused_in_one_line(exercises, arguments):
    status, _, complaint = exercises(*arguments)
    assert status == 2 and complaint.count("\n") == 1


def test_a_bug(exercises, tmp_path):
    status, printed, _ = exercises("bug", 5)
    path = tmp_path / "bug_5.py"
    assert (
        status == 0
        and path.read_text(encoding="utf-8") == planted(find(5))
        and "dagger.py" in printed
    )
    assert exercises("bug", 5)[0] == 2  # it is there already
    [line] = changed_lines(find(5))
    status, printed, _ = exercises("bug", 5, "--answer", f"bug_5.py:{line}")
    assert status == 0 and printed.startswith("bug 5: right\n")
    assert find(5).caught_by in printed and "█" in printed
    status, printed, _ = exercises("bug", 5, "--answer", "bug_5.py:3")
    assert status == 1 and printed == "bug 5: wrong, bug_5.py:3 is as it should be\n"


@pytest.mark.parametrize("number", range(1, len(BUGS) + 1))
def test_a_right_answer_is_explained(exercises, tmp_path, number):
    exercises("bug", number)
    line = changed_lines(find(number))[0]
    status, printed, _ = exercises("bug", number, "--answer", f"bug_{number}.py:{line}")
    assert status == 0
    assert find(number).explanation.split(".")[0] in " ".join(printed.split())


@pytest.mark.slow
def test_both_curves_are_shown(tmp_path):
    """Those of the script's own lines are the script's."""
    path = tmp_path / "gae_exercise.py"
    path.write_text(solved(find_exercise("gae")), encoding="utf-8")
    command = [sys.executable, "-m", "exercises", "check", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, env=process_environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ *[\d,]+ +([\d.]+) (█+) +([\d.]+) (█+)$", done.stdout, re.M)
    assert len(rows) > 5
    for mine, my_bar, own, own_bar in rows:
        assert mine == own and my_bar == own_bar


def test_a_reader_that_leaves():
    """As in `python -m exercises | head -1`."""
    command = [sys.executable, "-m", "exercises"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, env=process_environment(), **pipes)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0
