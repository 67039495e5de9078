"""Cuts what is to be written out of a script, and finds the student's lines again.

A blank stands between two comments, which tell where the student's lines are:

    # exercise gae: write …
    raise NotImplementedError("exercise gae is not written yet")
    # end of exercise gae
"""

import ast
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from . import BadInput, script_text

WIDTH = 100
FIRST_LINE = re.compile(r"^# exercise ([a-z-]+) of ([a-z_0-9]+)\.py\b")


@dataclass(frozen=True)
class Span:
    """Lines of a text, counted from 1, both included."""

    first: int
    last: int

    def of(self, text: str) -> str:
        return "".join(text.splitlines(keepends=True)[self.first - 1 : self.last])

    def replaced(self, text: str, new: str) -> str:
        """The text with `new`, whole lines, in place of these lines."""
        lines = text.splitlines(keepends=True)
        return "".join([*lines[: self.first - 1], new, *lines[self.last :]])


def function_of(text: str, place: str) -> ast.FunctionDef:
    """The function or Class.method that `place` names."""
    node = ast.parse(text)
    for name in place.split("."):
        [node] = [child for child in node.body if getattr(child, "name", None) == name]
    return node


def span_of_body(text: str, place: str) -> Span:
    """The body of a function, without its docstring."""
    function = function_of(text, place)
    first = function.body[0]
    has_docstring = ast.get_docstring(function) is not None
    start = first.end_lineno + 1 if has_docstring else first.lineno
    return Span(start, function.body[-1].end_lineno)


def span_of_statements(text: str, place: str, tag: str, number: int) -> Span:
    """So many statements of a function, from the one that carries the tag.

    The tag is in a comment on the statement's own lines, or above it.
    """
    function = function_of(text, place)
    lines = text.splitlines()
    inside = range(function.lineno, function.end_lineno + 1)
    [tagged] = [line for line in inside if f"[{tag}]" in lines[line - 1]]
    after_tag = []
    for node in ast.walk(function):
        if isinstance(node, ast.stmt) and not hasattr(node, "body") and node.end_lineno >= tagged:
            after_tag.append(node)
    after_tag.sort(key=lambda node: node.lineno)
    return Span(after_tag[0].lineno, after_tag[number - 1].end_lineno)


def span_in_script(exercise) -> Span:
    """The lines of the script that the exercise asks for."""
    text = script_text(exercise.script)
    if exercise.statements is None:
        return span_of_body(text, exercise.place)
    return span_of_statements(text, exercise.place, exercise.tag, exercise.statements)


def with_lines(exercise, lines: str) -> str:
    """The student's file, with these lines between the two comments."""
    text = script_text(exercise.script)
    span = span_in_script(exercise)
    old = span.of(text)
    indent = re.match(r" *", old).group()
    what = f"exercise {exercise.name}: {exercise.task} [{exercise.tag}] {exercise.equation}"
    comment = textwrap.fill(
        what, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
    )
    new = f"{comment}\n{lines}{indent}# end of exercise {exercise.name}\n"
    first_line = f"# exercise {exercise.name} of {exercise.script}.py: write the marked lines.\n"
    return first_line + span.replaced(text, new)


def blank(exercise) -> str:
    """The student's file as it is handed out."""
    old = span_in_script(exercise).of(script_text(exercise.script))
    indent = re.match(r" *", old).group()
    message = f"exercise {exercise.name} is not written yet"
    return with_lines(exercise, f'{indent}raise NotImplementedError("{message}")\n')


def solved(exercise) -> str:
    """The student's file with the script's own lines."""
    return with_lines(exercise, span_in_script(exercise).of(script_text(exercise.script)))


def name_of_exercise(path: Path, text: str) -> str:
    """What the first line of a student's file says; raises BadInput if it is no exercise."""
    found = FIRST_LINE.match(text)
    if found is None:
        raise BadInput(f"{path} is no exercise: its first line does not name one")
    return found.group(1)


def span_of_answer(text: str, name: str) -> Span:
    """The lines between the two comments; raises BadInput if these are gone."""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if line.strip().startswith(f"# exercise {name}:")]
    ends = [i for i, line in enumerate(lines) if line.strip() == f"# end of exercise {name}"]
    if len(starts) != 1 or len(ends) != 1 or ends[0] < starts[0]:
        raise BadInput(f"the comments around exercise {name} are gone: start it anew")
    return Span(starts[0] + 2, ends[0])
