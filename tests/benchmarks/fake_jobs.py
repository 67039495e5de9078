"""What the fake script has left in a test's folder, and what the harness says of its runs."""

import contextlib
import json
import re
import signal
from pathlib import Path

# A signal to the harness, and its exit status.
INTERRUPTIONS = [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
# Environments in which the fake script ends in all the ways that a script may end.
ALL_ENDS = ("Fails-v0", "Silent-v0", "Fine-v0", "FailsOnce-v0")


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


def num_finished(tmp_path: Path) -> int:
    """Jobs that have written what a script writes last."""
    return len(list(tmp_path.glob("runs/s/*/summary.json")))


def assert_all_ends_are_reported(done, tmp_path: Path) -> None:
    """Of a suite of ALL_ENDS: each failing job was tried twice and is named, the others went on."""
    assert done.returncode == 1 and "2 done, 0 finished before, 2 failed" in done.out, done.err
    end_of_log = r"\n( +line \d+\n){9} +this went wrong\n"
    assert re.search(f"Fails-v0__fake__1 failed twice, exit status 1.*{end_of_log}", done.err)
    assert "Silent-v0__fake__1 failed twice, no summary.json" in done.err
    assert "Fine" not in done.err
    complete = {}
    attempts = {}
    for name, manifest in manifests(tmp_path).items():
        env_id = name.split("__")[0]
        complete[env_id] = manifest["complete"]
        attempts[env_id] = manifest["attempts"]
    assert complete == {
        "Fails-v0": False,
        "Silent-v0": False,
        "Fine-v0": True,
        "FailsOnce-v0": True,
    }
    assert attempts == {"Fails-v0": 2, "Silent-v0": 2, "Fine-v0": 1, "FailsOnce-v0": 2}


def assert_refused(done, said: str) -> None:
    """Bad input: one line on stderr, exit status 2."""
    assert done.returncode == 2
    assert said in done.err and len(done.err.splitlines()) == 1, done.err
