"""`python -m exercises`: what it prints, writes and refuses, and with which exit status."""

import io
import os
import re
import signal
import subprocess
import sys
import tokenize

import pytest

from exercises import apart
from exercises.__main__ import main
from exercises.blanks import blank, solved
from exercises.bugs import BUGS, changed_lines, find, planted
from exercises.catalogue import EXERCISES
from exercises.catalogue import find as find_exercise
from exercises.check import grade
from helpers import ROOT, SCRIPTS, process_environment, wait_for
from readability import TEXTS

DOCUMENT = (ROOT / "docs" / "exercises.md").read_text(encoding="utf-8")


@pytest.fixture
def exercises(tmp_path, monkeypatch, capsys):
    """Calls the command line in an empty folder; returns exit status, stdout and stderr.

    The answer is graded in this process, which is quicker.
    """

    def grade_here(path) -> tuple[str, str | None]:
        exercise, complaint = grade(path)
        return exercise.name, complaint

    def exercises(*arguments) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["exercises", *map(str, arguments)])
        monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
        monkeypatch.setattr(sys.stderr, "reconfigure", lambda **_: None, raising=False)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.setattr("exercises.__main__.grade_apart", grade_here)
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
    path.write_text(solved(find_exercise("twin-target")), encoding="utf-8-sig")  # as Notepad may
    assert exercises("check", path, "--no-train") == (0, "twin-target: right\n", "")
    assert exercises("start", "gae", "mine.py")[0] == 0 and (tmp_path / "mine.py").exists()


@pytest.mark.slow
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
        (blank(find_exercise("gae")).replace("return -torch", "return -(torch"), "never closed"),
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


def test_names_that_do_not_end_in_py_are_refused(exercises, tmp_path):
    status, _, complaint = exercises("start", "gae", "gae.txt")
    assert status == 2 and complaint.count("\n") == 1 and "ends in .py" in complaint
    path = tmp_path / "gae.txt"
    assert not path.exists()
    path.write_text(solved(find_exercise("gae")), encoding="utf-8")
    status, _, complaint = exercises("check", path)
    assert status == 2 and complaint.count("\n") == 1 and "ends in .py" in complaint


def gae_with(lines: str) -> str:
    """The student's file of gae, with these lines before the script's own."""
    text = solved(find_exercise("gae"))
    first = "    has_next_value = "
    assert text.count(first) == 1
    return text.replace(first, f"    {lines}\n{first}")


@pytest.mark.parametrize("lines", ["sys.exit(0)", "sys.exit()", "raise KeyboardInterrupt"])
def test_an_answer_that_exits_is_wrong(exercises, tmp_path, lines):
    path = tmp_path / "mine.py"
    path.write_text(gae_with(lines), encoding="utf-8")
    status, printed, _ = exercises("check", path)
    assert status == 1 and printed.startswith("gae: wrong at line ") and printed.count("\n") == 1


def test_a_file_that_exits_at_its_top_is_refused(exercises, tmp_path):
    path = tmp_path / "mine.py"
    text = solved(find_exercise("gae"))
    path.write_text(f"{text}\nsys.exit(0)\n", encoding="utf-8")
    status, printed, complaint = exercises("check", path)
    assert status == 2 and printed == ""
    assert complaint.endswith("SystemExit: 0\n") and complaint.count("\n") == 1


@pytest.mark.slow
def test_an_answer_that_ends_the_process_is_wrong(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(gae_with("os._exit(0)"), encoding="utf-8")
    name, complaint = apart.grade_apart(path)
    assert name == "gae" and complaint.startswith("wrong: your file ends the program")


@pytest.mark.slow
@pytest.mark.parametrize("lines", ["while True: pass", "time.sleep(1000)"])
def test_an_answer_that_does_not_end_is_stopped(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(apart, "LIMIT", 2)
    path = tmp_path / "mine.py"
    path.write_text(gae_with(lines), encoding="utf-8")
    assert apart.grade_apart(path) == ("gae", "wrong: it does not end; after 2 s it was stopped")


def command_line(*arguments, **options) -> subprocess.Popen:
    """The command line, in a process of its own."""
    command = [sys.executable, "-m", "exercises", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    pipes.update(options)
    return subprocess.Popen(command, cwd=ROOT, env=process_environment(), **pipes)


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and shells are others there")


@posix
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_check_and_the_answer(tmp_path, number):
    path = tmp_path / "mine.py"
    note = tmp_path / "process id"
    lines = f"Path({str(note)!r}).write_text(str(os.getpid()) + '.')\n    while True: pass"
    path.write_text(gae_with(lines), encoding="utf-8")
    process = command_line("check", path)
    wait_for(lambda: note.exists() and note.read_text().endswith("."), 60, process)
    process.send_signal(number)
    assert process.communicate(timeout=60) == (b"", b"") and process.returncode == 130
    assert not is_alive(int(note.read_text()[:-1]))


@posix
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_trainings(tmp_path, number):
    path = tmp_path / "mine.py"
    note = tmp_path / "process id"
    text = solved(find_exercise("gae"))
    last = 'if __name__ == "__main__":\n'
    assert text.count(last) == 1
    noted = f"{last}    Path({str(note)!r}).write_text(str(os.getpid()) + '.')\n"
    path.write_text(text.replace(last, noted), encoding="utf-8")
    process = command_line("check", path)
    wait_for(lambda: note.exists() and note.read_text().endswith("."), 60, process)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130 and complaint == b""
    assert not is_alive(int(note.read_text()[:-1]))


@posix
@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_verdict(tmp_path, closed):
    path = tmp_path / "mine.py"
    for text, status in ((solved(find_exercise("gae")), 0), (gae_with("value = -value"), 1)):
        path.write_text(text, encoding="utf-8")
        command = f"{sys.executable} -m exercises check {path} --no-train {closed}"
        options = {"cwd": ROOT, "env": process_environment(), "capture_output": True}
        done = subprocess.run(command, shell=True, timeout=120, **options)
        assert done.returncode == status and done.stderr == b""


@posix
@pytest.mark.slow
def test_the_list_to_closed_streams_and_to_a_full_disk():
    for closed in (">&-", "2>&-"):
        command = f"{sys.executable} -m exercises {closed}"
        options = {"cwd": ROOT, "env": process_environment(), "capture_output": True}
        done = subprocess.run(command, shell=True, timeout=120, **options)
        assert done.returncode == 0 and done.stderr == b""
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            process = command_line(stdout=full)
        _, complaint = process.communicate(timeout=120)
        assert process.returncode == 2
        assert b"No space left" in complaint and complaint.count(b"\n") == 1


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
