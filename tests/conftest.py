import os
import signal

import pytest

from readability import figures

# Two tests run at once: with two threads each, they wait for each other. It has to be set before
# torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

if hasattr(signal, "SIGHUP"):  # nohup ignores it, and the processes of the tests would, too
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """A test with `quick_for` is slow for the scripts that it does not name."""
    for item in items:
        mark = item.get_closest_marker("quick_for")
        if mark is None:
            continue
        parameters = item.callspec.params
        script = parameters.get("script") or parameters["module"].__name__
        if script not in mark.args:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter):
    """How the scripts read: figures to look at, which no test asks for."""
    for row in figures():
        terminalreporter.write_line(row)
