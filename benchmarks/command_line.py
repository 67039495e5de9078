"""What the command lines of `benchmarks` and `benchmarks.studies` share."""

import contextlib
import io
import sys
from collections.abc import Callable

import tyro

from . import BadInput
from .files import explain

INTERRUPTED = 130  # the exit status that a shell has for what Ctrl-C has ended
BOX = str.maketrans("", "", "╭╮╰╯│─")  # tyro draws a box of these around an error


def parse(command: type, program: str):
    """The command line's options: an instance of `command`, or of one of its members.

    Raises SystemExit: with status 0 after --help, with status 2 if the command line is wrong. Then
    one line on stderr says what is wrong.
    """
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(command, prog=program)
    except SystemExit:
        message = " ".join(stderr.getvalue().translate(BOX).split())
        if message:
            print(message, file=sys.stderr)
        raise


def report_errors(execute: Callable[[], int], program: str) -> int:
    """The exit status of a command. It is 2 if its input is bad; then one line says why.

    A file that cannot be read or written is bad input, too. The status is 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # not every terminal has every character
    try:
        return execute()
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BadInput as error:
        message = explain(error)
    except OSError as error:
        message = explain(error)
        if error.filename is not None:
            message = f"{error.filename}: {message}"
    print(f"{program}: {message}", file=sys.stderr)
    return 2
