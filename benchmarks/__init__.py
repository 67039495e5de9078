"""The benchmark harness: run the scripts, compare their learning curves, measure their speed."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "gymnasium", "mujoco", "numpy")  # what a measurement depends on


class BadInput(Exception):
    """What the user can put right. The command line prints it as one line; its status is 2."""


def provenance() -> dict:
    """What a measurement depends on beside its command: the commit, the versions, the machine."""
    return {"commit": commit(), **this_machine()}


def commit() -> str | None:
    """The repository's commit, with -dirty if files have changed.

    None outside a repository, and on a machine without git.
    """
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True)
    except OSError:  # there is no git
        return None
    return answer.stdout.decode().strip() or None


def this_machine() -> dict:
    """This machine and the versions of the packages that are installed on it."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = version(package)
    machine = {
        "system": platform.system(),
        "processor": processor(),
        "cores": os.cpu_count(),
    }
    return {"versions": versions, "machine": machine}


def processor() -> str:
    """The processor's name, as Linux tells it or else as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if "model name" in line:
                return line.split(":")[1].strip()
    return platform.processor()
