"""Every planted bug fits its script, is found at its line and nowhere else, and is caught by the
project's own tests.
"""

import re
import shutil
import subprocess
import sys

import pytest

from exercises import BadInput, script_text
from exercises.bugs import BUGS, Bug, changed_lines, find, is_found, planted
from helpers import ROOT, SCRIPTS, process_environment

NUMBERS = range(1, len(BUGS) + 1)


def test_there_are_ten_in_ten_scripts():
    assert len(BUGS) == len({bug.script for bug in BUGS}) == 10
    assert {bug.script for bug in BUGS} < set(SCRIPTS)


@pytest.mark.parametrize("number", NUMBERS)
def test_its_line_is_right_and_those_around_it_are_wrong(number, tmp_path):
    bug = find(number)
    path = tmp_path / f"bug_{number}.py"
    path.write_text(planted(bug), encoding="utf-8")
    compile(planted(bug), "bug", "exec")
    lines = changed_lines(bug)
    assert 1 <= len(lines) <= 2
    for line in lines:
        assert is_found(number, f"{path}:{line}")
    assert not is_found(number, f"{path}:{min(lines) - 1}")
    assert not is_found(number, f"{path}:{max(lines) + 1}")
    assert not is_found(number, f"{path}:1")


def test_a_bug_that_no_longer_fits_is_not_planted():
    for old, times in (("there is no such text", 0), ("import", None)):
        bug = Bug("ppo_clip", old, "x", (), "", "")
        count = script_text("ppo_clip").count(old) if times is None else times
        with pytest.raises(ValueError, match=f"ppo_clip.py has {count} times"):
            planted(bug)


@pytest.mark.parametrize("number", NUMBERS)
def test_it_is_explained(number):
    explanation = find(number).explanation
    assert 150 < len(explanation) < 900 and explanation.endswith(".")


def test_an_answer_that_names_no_line_of_the_file(tmp_path):
    path = tmp_path / "bug_1.py"
    path.write_text(planted(find(1)), encoding="utf-8")
    for answer in ("12", f"{path}", f"{path}:x", f"{path}:0", f"{path}:99999", "nowhere.py:3"):
        with pytest.raises(BadInput):
            is_found(1, answer)
    with pytest.raises(BadInput, match="not bug 2"):
        is_found(2, f"{path}:12")


@pytest.fixture
def copy_of_the_project(tmp_path):
    """The scripts and their tests, in a folder of their own."""
    for path in [*ROOT.glob("*.py"), ROOT / "pyproject.toml"]:
        shutil.copy(path, tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("tests", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    return tmp_path


def outcomes(project) -> dict[str, str]:
    """Of the tests that catch the bugs, run in a copy of the project: PASSED or FAILED."""
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider"]
    command += ["--tb=no", "-rA", *[f"tests/scripts/{bug.caught_by}" for bug in BUGS]]
    done = subprocess.run(
        command,
        cwd=project,
        env=process_environment(PYTHONPATH=""),
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = re.findall(r"^(PASSED|FAILED) tests/scripts/(.*?)(?: - .*)?$", done.stdout, re.M)
    return {name: outcome for outcome, name in lines}


@pytest.mark.slow
@pytest.mark.parametrize("parity", [0, 1])
def test_the_projects_tests_catch_each_bug_and_pass_without_it(parity, copy_of_the_project):
    """Every other bug is planted: their tests fail, and those of the others pass."""
    expected = {}
    for number, bug in enumerate(BUGS, 1):
        is_planted = number % 2 == parity
        expected[bug.caught_by] = "FAILED" if is_planted else "PASSED"
        if is_planted:
            path = copy_of_the_project / f"{bug.script}.py"
            path.write_text(planted(bug), encoding="utf-8")
    assert outcomes(copy_of_the_project) == expected
