import os
import signal

from readability import figures

# Two tests run at once: with two threads each, they wait for each other. It has to be set before
# torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

if hasattr(signal, "SIGHUP"):  # nohup ignores it, and the processes of the tests would, too
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_terminal_summary(terminalreporter):
    """How the scripts read: figures to look at, which no test asks for."""
    for row in figures():
        terminalreporter.write_line(row)
