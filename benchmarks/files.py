"""Files and folders that may not be what they should be, and names that every system takes."""

import json
import os
import re
import reprlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import BadInput

LARGEST = 1e30  # of the numbers that are read: what is made of them stays finite
NOT_IN_A_FILE_NAME = re.compile(r'[<>:"/\\|?*\x00-\x1f]')  # by Windows' rules, the strictest


class Damaged(BadInput):
    """A file that is not what it should be. The message begins with its name."""


def explain(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def printable(name: str) -> str:
    """A name that can be written as UTF-8: bytes of a file's name that are no text are escaped."""
    return name.encode(errors="backslashreplace").decode()


def file_name(name: str) -> str:
    """A name with a hyphen in place of each character that some system forbids in files' names."""
    return NOT_IN_A_FILE_NAME.sub("-", name)


def check_encodable(text: str, where: str) -> None:
    """Raise BadInput if this system cannot have a text in a file's name or on a command line."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        wrong = f"{text!r} cannot be written in this system's encoding, {encoding}"
        raise BadInput(f"{where}: {wrong}") from error


def check_folder(folder: Path, flag: str) -> None:
    """Raise BadInput if files cannot be written to a folder, which need not exist yet."""
    for place in (folder, *folder.parents):
        if not os.path.lexists(place):
            continue
        if not place.is_dir():
            raise BadInput(f"{flag} {folder}: {place} is not a folder")
        if not os.access(place, os.W_OK):
            raise BadInput(f"{flag} {folder}: {place} is not writable")
        return


# ---------------------------------------------------------------- entries of a table


@dataclass(frozen=True)
class Kind:
    """What an entry of a JSON or TOML table has to be."""

    name: str
    types: tuple[type, ...]
    accepts: Callable[[object], bool] = lambda value: True

    def holds(self, value) -> bool:
        """Whether a value is of this kind. True and False are no numbers."""
        return type(value) in self.types and self.accepts(value)


def is_name(text: str) -> bool:
    """Whether a text can be part of a file's name."""
    size = len(text.encode(errors="backslashreplace"))
    return text.strip() != "" and "\0" not in text and size <= 200


TEXT = Kind("a text", (str,))
TEXT_OR_NULL = Kind("a text or null", (str, type(None)))
NAME = Kind("a text of 1 to 200 bytes", (str,), is_name)
WHOLE_NUMBER = Kind("a whole number", (int,))
COUNT = Kind("a whole number above 0", (int,), lambda number: number > 0)
NUMBER = Kind("a number within ±1e30", (int, float), lambda number: abs(number) <= LARGEST)
NUMBER_OR_NULL = Kind(
    f"{NUMBER.name} or null",
    (int, float, type(None)),
    lambda number: number is None or NUMBER.holds(number),
)
TRUTH = Kind("true or false", (bool,))
TABLE = Kind("a table", (dict,))
WORDS = Kind("a list of words", (list,), lambda words: all(type(word) is str for word in words))


def wrong_entry(table, required: dict[str, Kind], optional: dict[str, Kind]) -> str | None:
    """What is wrong with a table, or None. An optional entry may be missing."""
    if not TABLE.holds(table):
        return f"{reprlib.repr(table)} is not {TABLE.name}"
    for key, kind in {**required, **optional}.items():
        if key not in table:
            if key in required:
                return f"no {key}"
        elif not kind.holds(table[key]):
            return f"{key} is {reprlib.repr(table[key])}, not {kind.name}"
    return None


def check_table(table, required: dict[str, Kind], optional: dict[str, Kind], path: Path) -> None:
    """Raise Damaged if what is in a file is no table, or if an entry is not of its kind."""
    wrong = wrong_entry(table, required, optional)
    if wrong is not None:
        raise Damaged(f"{path}: {wrong}")


def check_regular(path: Path) -> None:
    """Raise Damaged if a path is a FIFO, a socket or a device: to read it might never end."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise Damaged(f"{path}: not a regular file")


def read_json(path: Path):
    """What a JSON file holds. Raises Damaged if it is none."""
    check_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path}: {explain(error)}") from error


def read_table(path: Path, required: dict[str, Kind], optional: dict[str, Kind]) -> dict:
    """The table in a JSON file. Raises Damaged if it is none, or if an entry is not of its kind."""
    table = read_json(path)
    check_table(table, required, optional, path)
    return table
