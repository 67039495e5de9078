"""The benchmark harness: run the scripts, compare their learning curves, measure their speed."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent


class BadInput(Exception):
    """What the user can put right: printed as one line, exit status 2."""


def provenance() -> dict:
    """What a measurement depends on beside its command: commit, versions, machine."""
    return {"commit": commit()} | machine()


def commit() -> str | None:
    """The repository's commit, with -dirty if it has changed since; None outside of a repository."""
    describe = ("git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return subprocess.run(describe, capture_output=True, text=True).stdout.strip() or None


def machine() -> dict:
    """This machine, and the versions of what is installed on it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    processor = names[0].split(":")[1].strip() if names else platform.processor()
    packages = ("torch", "gymnasium", "mujoco", "numpy")
    return {
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        "machine": {"system": platform.system(), "processor": processor, "cores": os.cpu_count()},
    }
