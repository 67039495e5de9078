"""A process that ends the harness's jobs once the harness has died.

The harness starts `python -m benchmarks.watchman`, and tells it on a pipe of each job:
`start <mark>` before the job starts, `pid <number>` after. The pipe ends when the harness does,
however that happens: every system sees to it. So nothing is polled. Two kinds of process are found
by the mark in their environment: a job whose number the harness had no time to tell, and what a job
has started, if the process between the two has ended.
"""

import contextlib
import signal
import sys
import time

import psutil

MARK = "BENCHMARKS_JOB"  # the variable in a job's environment
SEARCH_SECONDS = 1.0  # that a job may take from its start until its environment can be read


def end_tree(process: psutil.Process) -> None:
    """End a process, and those that it has started."""
    with contextlib.suppress(psutil.Error):
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                member.kill()


def find_marked(marks: set[str]) -> list[psutil.Process]:
    """The processes whose environment has one of the marks."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
            if process.environ().get(MARK) in marks:
                found.append(process)
    return found


def search(mark: str) -> list[psutil.Process]:
    """The same, of a job that may be about to start."""
    end = time.monotonic() + SEARCH_SECONDS
    found = find_marked({mark})
    while not found and time.monotonic() < end:
        time.sleep(0.05)
        found = find_marked({mark})
    return found


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs = []
    marks = set()
    starting = None
    for line in sys.stdin:
        event, value = line.split()
        if event == "start":
            starting = value
            marks.add(value)
        else:
            starting = None
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended already
                jobs.append(psutil.Process(int(value)))
    if starting is not None:
        jobs += search(starting)
    for job in jobs:
        if job.is_running():  # and its number has not gone to another process
            end_tree(job)
    for process in find_marked(marks):
        end_tree(process)


if __name__ == "__main__":
    main()
