"""Every exercise is solved by the script's own lines, failed by the blank and by plausible wrong
answers, whose message names what is wrong.
"""

import pytest

from exercises import script_text
from exercises.blanks import blank, solved, span_in_script, with_lines
from exercises.catalogue import EXERCISES, find
from exercises.check import grade
from wrong_answers import WRONG_ANSWERS

NAMES = [exercise.name for exercise in EXERCISES]


@pytest.fixture
def complaint_of(tmp_path):
    """What is wrong with a text, or None."""

    def complaint_of(name: str, text: str) -> str | None:
        path = tmp_path / "mine.py"
        path.write_text(text, encoding="utf-8")
        exercise, complaint = grade(path)
        assert exercise.name == name
        return complaint

    return complaint_of


def test_every_exercise_has_a_name_of_its_own_and_three_wrong_answers():
    assert len(set(NAMES)) == len(NAMES)
    assert WRONG_ANSWERS.keys() == set(NAMES)
    assert min(len(answers) for answers in WRONG_ANSWERS.values()) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_the_scripts_own_lines_are_right(name, complaint_of):
    assert complaint_of(name, solved(find(name))) is None


@pytest.mark.parametrize("name", NAMES)
def test_the_blank_is_not_written_yet(name, complaint_of):
    text = blank(find(name))
    [number] = [i for i, line in enumerate(text.splitlines(), 1) if "NotImplementedError" in line]
    assert complaint_of(name, text) == f"not written yet, at line {number}"


@pytest.mark.parametrize("name", NAMES)
def test_three_wrong_answers_are_told_apart(name, complaint_of):
    exercise = find(name)
    script = script_text(exercise.script)
    lines = span_in_script(exercise).of(script)
    for old, new, keyword in WRONG_ANSWERS[name]:
        assert old in lines, old
        changed = with_lines(exercise, lines.replace(old, new, 1))
        complaint = complaint_of(name, changed)
        assert complaint is not None and keyword in complaint, (new, complaint)
        assert "\n" not in complaint
