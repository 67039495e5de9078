"""Command line: `python -m exercises`, with `start`, `check` and `bug`.

Exit status: 0 if an answer is right, 1 if it is wrong, 2 for bad input, 130 after Ctrl-C.
"""

import argparse
import os
import signal
import sys
import textwrap
from pathlib import Path
from typing import NoReturn

from . import BadInput, check_name, write_new
from .apart import grade_apart, open_streams
from .blanks import blank
from .bugs import BUGS, is_found, planted
from .bugs import find as find_bug

# The catalogue, the checkers and the curves import torch, which takes seconds. So each command
# imports what it needs, when Ctrl-C is already handled.

RIGHT = 0
WRONG = 1
BAD_INPUT = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """One that complains in one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m exercises", description="Without a command: list them all.")
    commands = parser.add_subparsers(dest="command")
    start = commands.add_parser("start", help="write a script with a blank to be filled")
    start.add_argument("name", help="the exercise's name")
    start.add_argument("file", nargs="?", type=Path, help="default: NAME_exercise.py, here")
    check = commands.add_parser("check", help="grade a file that start has written")
    check.add_argument("file", type=Path)
    check.add_argument("--no-train", action="store_true", help="grade only, show no curve")
    bug = commands.add_parser("bug", help="write a script with a bug in it, or name its line")
    bug.add_argument("number", type=int)
    bug.add_argument("--answer", metavar="FILE:LINE", help="the line that you hold for the bug")
    return parser.parse_args(arguments)


def list_all() -> int:
    from .catalogue import EXERCISES

    print("Exercises, to begin with: python -m exercises start NAME\n")
    for exercise in EXERCISES:
        print(f"{exercise.name:<22} {exercise.script + '.py':<22} {exercise.lecture}")
        print(f"    [{exercise.tag}] {exercise.equation}")
    numbers = " ".join(str(number) for number in range(1, len(BUGS) + 1))
    print(f"\nBugs to be found: {numbers}, to begin with: python -m exercises bug NUMBER")
    return RIGHT


def start(name: str, file: Path | None) -> int:
    from .catalogue import find

    exercise = find(name)
    path = file or Path(f"{name.replace('-', '_')}_exercise.py")
    check_name(path)
    text = blank(exercise)
    write_new(path, text)
    lines = text.splitlines()
    [number] = [i for i, line in enumerate(lines, 1) if f"# exercise {name}: " in line]
    print(f"{path}, line {number}: {exercise.task} Then: python -m exercises check {path}")
    return RIGHT


def check(path: Path, train: bool) -> int:
    check_name(path)
    name, complaint = grade_apart(path)
    if complaint is not None:
        print(f"{name}: {complaint}")
        return WRONG
    print(f"{name}: right")
    if train:
        from .catalogue import find
        from .curves import show

        show(find(name), path)
    return RIGHT


def write_bug(number: int) -> int:
    path = Path(f"bug_{number}.py")
    script = find_bug(number).script
    write_new(path, planted(find_bug(number)))
    print(f"{path} is {script}.py with a bug. It trains without an error.")
    print(f"Name the line: python -m exercises bug {number} --answer {path}:LINE")
    return RIGHT


def answer_bug(number: int, answer: str) -> int:
    if not is_found(number, answer):
        print(f"bug {number}: wrong, {answer} is as it should be")
        return WRONG
    from .curves import show_measured

    bug = find_bug(number)
    print(f"bug {number}: right")
    print(textwrap.fill(bug.explanation, 100))
    print(f"Caught by tests/scripts/{bug.caught_by}")
    show_measured(number, bug)
    return RIGHT


def execute(options: argparse.Namespace) -> int:
    """Execute a command and return its exit status."""
    if options.command == "start":
        return start(options.name, options.file)
    if options.command == "check":
        return check(options.file, not options.no_train)
    if options.command == "bug" and options.answer is None:
        return write_bug(options.number)
    if options.command == "bug":
        return answer_bug(options.number, options.answer)
    return list_all()


def main() -> int:
    open_streams()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it ends the children
    try:
        return execute(parse(sys.argv[1:]))
    except BadInput as error:
        print(f"python -m exercises: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # whoever reads has seen enough, as `head` does
        discard_output()
        return RIGHT
    except OSError as error:  # as a full disk
        discard_output()
        print(f"python -m exercises: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED


def discard_output() -> None:
    """Send what is still to be printed to nowhere, so that Python does not try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
