"""What the command lines of `benchmarks` and `benchmarks.studies` share."""

import contextlib
import io
import sys

import tyro

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
