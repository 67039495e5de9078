"""Grades a student's file in a process of its own: an answer may end the program, or never end."""

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from . import BadInput, read
from .blanks import name_of_exercise

LIMIT = 60  # seconds for the import of the file and for the numbers


def open_streams() -> None:
    """Give the process streams that can be printed to, whatever it was started with."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it is closed, as by >&-
            setattr(sys, name, open(os.devnull, "w"))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace", line_buffering=True)  # a terminal may not know "█"


def grade_apart(path: Path) -> tuple[str, str | None]:
    """The name of the file's exercise, and what is wrong with the answer in a sentence, or None.

    Raises BadInput as `grade` does, which does the work.
    """
    name = name_of_exercise(path, read(path))
    context = multiprocessing.get_context("spawn")  # torch's gradients do not outlive a fork
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_grade, args=(path, sender), daemon=True)
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other one starts like this
    process.start()
    signal.signal(signal.SIGINT, on_interrupt)
    sender.close()  # the other process has it
    try:
        receiver.recv()  # it is about to begin
        if not receiver.poll(LIMIT):
            return name, f"wrong: it does not end; after {LIMIT} s it was stopped"
        result = receiver.recv()
    except EOFError:  # os._exit, or a crash
        return name, "wrong: your file ends the program before the check is done"
    finally:
        process.kill()
        process.join()
    if isinstance(result, BadInput):
        raise result
    return name, result


def send_grade(path: Path, sender: Connection) -> None:
    """In the other process: send what is wrong, None, or the BadInput that was raised."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    open_streams()
    from .check import grade  # it imports torch, which can take long on a busy machine

    sender.send("ready")
    try:
        _, complaint = grade(path)
        sender.send(complaint)
    except BadInput as error:
        sender.send(error)
