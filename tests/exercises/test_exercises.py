"""Every exercise is solved by the script's own lines, failed by the blank and by plausible wrong
answers, whose message names what is wrong.
"""

import re
import textwrap

import pytest

from exercises import script_text
from exercises.blanks import blank, solved, span_in_script, with_lines
from exercises.catalogue import EXERCISES, find
from exercises.check import grade
from right_answers import RIGHT_ANSWERS
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


def answered(name: str, lines: str) -> str:
    """The student's file with these lines for its answer."""
    exercise = find(name)
    indent = re.match(r" *", span_in_script(exercise).of(script_text(exercise.script))).group()
    text = textwrap.dedent(lines).strip("\n") + "\n"
    return with_lines(exercise, textwrap.indent(text, indent))


@pytest.mark.parametrize("name, lines", RIGHT_ANSWERS, ids=[name for name, _ in RIGHT_ANSWERS])
def test_right_answers_in_other_words(name, lines, complaint_of):
    assert complaint_of(name, answered(name, lines)) is None


# What an answer changes in place, before the right lines or instead of them.
CHANGES_IN_PLACE = [
    (
        "gae",
        "reward",
        """
        for t in range(len(reward)):
            reward[t] += gamma * value[t + 1] * ~terminated[t] - value[t]
        for t in reversed(range(len(reward) - 1)):
            reward[t] += gamma * lam * ~(terminated | truncated)[t] * reward[t + 1]
        return reward
        """,
    ),
    (
        "reward-to-go",
        "reward",
        """
        for t in reversed(range(len(reward) - 1)):
            reward[t] += gamma * reward[t + 1]
        return reward
        """,
    ),
    (
        "actor-critic",
        "advantage",
        """
        loss = -(log_prob * advantage).mean()
        advantage -= advantage.mean()
        return loss
        """,
    ),
    (
        "surrogate-loss",
        "advantage",
        """
        advantage.clamp_(min=0)
        return -(ratio * advantage).mean()
        """,
    ),
    (
        "softmax-policy",
        "action",
        """
        log_p = logits.log_softmax(-1)
        log_prob = log_p.gather(-1, action.unsqueeze_(-1)).squeeze(-1)
        return log_prob, -(log_p.exp() * log_p).sum(-1)
        """,
    ),
    ("value-baseline", "to_go", "advantage = to_go.sub_(baseline)"),
    ("n-step", "advantage", "advantage += value[:-1]\ntarget = advantage"),
    (
        "soft-bellman",
        "batch.reward",
        "target = batch.reward.add_(args.gamma * (1 - batch.terminated) * next_value)",
    ),
]


@pytest.mark.parametrize(
    "name, changed, lines", CHANGES_IN_PLACE, ids=[name for name, *_ in CHANGES_IN_PLACE]
)
def test_answers_that_change_their_inputs_are_wrong(name, changed, lines, complaint_of):
    complaint = complaint_of(name, answered(name, lines))
    message = f"wrong as your lines change {changed} in place: the script still needs it"
    assert complaint == message


def test_numbers_in_a_message_differ(complaint_of):
    """They agree to four digits."""
    script = script_text("sac")
    lines = span_in_script(find("tanh-gaussian")).of(script)
    old = "2 * (np.log(2) - u - nn.functional.softplus(-2 * u))"
    assert old in lines
    inexact = lines.replace(old, "(1 - u.tanh() ** 2 + 1e-6).log()")
    complaint = complaint_of("tanh-gaussian", with_lines(find("tanh-gaussian"), inexact))
    found, right = re.search(r"log π is (\S+), and should be ([^\s,]+),", complaint).groups()
    assert found != right and found[:6] == right[:6]


def test_a_name_that_the_check_does_not_know(complaint_of):
    complaint = complaint_of("value-baseline", answered("value-baseline", "advantage = G - b"))
    assert re.fullmatch(
        r"wrong at line \d+: NameError: name 'G' is not defined; "
        "the check gives your lines to_go, baseline, valid",
        complaint,
    )
