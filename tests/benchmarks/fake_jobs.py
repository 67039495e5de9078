"""What the runs of the fake script have left in a test's folder."""

import contextlib
import json
from pathlib import Path


def jobs_run(tmp_path: Path) -> list[str]:
    """A line for each time that the fake script was started: environment, seed, steps, threads."""
    path = tmp_path / "jobs run"
    return path.read_text().splitlines() if path.exists() else []


def jobs_alive(tmp_path: Path) -> list[str]:
    """Processes of the fake script, as Linux lists them; a dead one has no command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            if f"\0{tmp_path}/fake.py\0" in path.read_text():
                found.append(path.parent.name)
    return found


def manifests(tmp_path: Path) -> dict[str, dict]:
    """Each job's manifest, by the name of its folder."""
    paths = tmp_path.glob("runs/s/*/manifest.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}
