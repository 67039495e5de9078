"""Grades a student's file: imports it, and runs the exercise's checker on its answer."""

import ast
import importlib.util
import sys
import traceback
import types
from pathlib import Path

from . import BadInput, read
from .blanks import name_of_exercise, span_of_answer
from .catalogue import Exercise, find
from .grading import Line, Unchanging, Wrong, compiled

MODULE = "students_answer"  # the name that a student's file is imported by


def grade(path: Path) -> tuple[Exercise, str | None]:
    """The file's exercise, and what is wrong with the answer in a sentence, or None.

    Raises BadInput if there is no such file, if it is no exercise, or if it cannot be imported.
    """
    text = read(path)
    name = name_of_exercise(path, text)
    exercise = find(name)
    check_syntax(path, text)
    span = span_of_answer(text, name)
    module = imported(path, text)
    if exercise.sets is not None:
        code = compiled(span.of(text), str(path), span.first)
        answer = Line(code, module, exercise.sets)
    else:
        answer = getattr(module, exercise.place.split(".")[0], None)
        if answer is None:
            raise BadInput(f"{path} has no {exercise.place}: start the exercise anew")
    is_class = isinstance(answer, type)
    if exercise.keeps_inputs and not is_class:
        answer = Unchanging(answer)
    try:
        exercise.check(answer)
    except Wrong as wrong:
        return exercise, f"wrong {wrong}"
    except NotImplementedError as error:
        return exercise, f"not written yet, at line {line_of(error, path) or span.first}"
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # whatever the lines raise
        return exercise, f"wrong at line {line_of(error, path)}: {in_words(error)}"
    return exercise, None


def check_syntax(path: Path, text: str) -> None:
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise BadInput(f"{path}, line {error.lineno}: {error.msg}") from None


def imported(path: Path, text: str) -> types.ModuleType:
    """The file as a module; raises BadInput if the import fails."""
    spec = importlib.util.spec_from_file_location(MODULE, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module  # dataclasses look their module up
    try:
        exec(compile(text, str(path), "exec"), vars(module))
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # of lines that run at the import
        where = f"{path}, line {line_of(error, path)}"
        raise BadInput(f"{where}: {in_words(error)}") from None
    return module


def in_words(error: BaseException) -> str:
    """Its class and its message, on one line."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}".removesuffix(": ")


def line_of(error: BaseException, path: Path) -> int | None:
    """The last line of the file that was at work when the error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return lines[-1] if lines else None
