"""Exercises that grade themselves: write the tagged line of a script, or find the bug in it.

Everything is made from the scripts when it is asked for, so it follows them.

    __main__.py     the command line: python -m exercises
    catalogue.py    the list of exercises
    blanks.py       cuts a tagged line out of a script, and finds the student's lines again
    grading.py      compares an answer with the right one and with known mistakes
    apart.py        grades a student's file in a process of its own
    check.py        imports the student's file and runs the checker on it
    estimates.py, densities.py, surrogates.py, trust_regions.py, off_policy.py, imitation.py
                    the checkers, a module for each family
    curves.py       trains with the student's file and with the script, and draws both curves
    bugs.py         the planted bugs
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent


class BadInput(Exception):
    """What the user can put right. The command line prints it as one line; its status is 2."""


def script_text(script: str) -> str:
    """The text of a script of this project, such as that of "ppo_clip"."""
    return (ROOT / f"{script}.py").read_text(encoding="utf-8")


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet; raises BadInput if it is, or cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise BadInput(f"{path} is there already: move it away, or finish it") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None


def check_name(path: Path) -> None:
    """Raise BadInput unless it is the name of a Python file."""
    if path.suffix != ".py":
        raise BadInput(f"{path} must have a name that ends in .py")


def read(path: Path) -> str:
    """The text of a student's file; raises BadInput if there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")  # an editor may have put a mark before it
    except FileNotFoundError:
        raise BadInput(f"{path} is not there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
