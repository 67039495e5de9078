import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT

# A script that learns nothing: it notes that it ran, waits, and does what its environment's name
# says.
FAKE_SCRIPT = """
import argparse, os, pathlib, sys, time
parser = argparse.ArgumentParser()
for flag in ("--env-id", "--seed", "--total-timesteps", "--run-dir", "--resume"):
    parser.add_argument(flag)
parser.add_argument("--seconds", type=float, default=0)
args = parser.parse_args()
here = pathlib.Path(__file__).parent
with open(here / "jobs run", "a") as jobs:
    print(args.env_id, args.seed, args.total_timesteps, os.environ["OMP_NUM_THREADS"], file=jobs)
print("line", *range(20), sep="\\nline ")
time.sleep(args.seconds)
while (here / "wait").exists():
    time.sleep(0.05)
tried = here / f"tried {args.env_id} {args.seed}"
if args.env_id == "Fails-v0" or args.env_id == "FailsOnce-v0" and not tried.exists():
    tried.touch()
    sys.exit("this went wrong")
if args.env_id != "Silent-v0":
    pathlib.Path(args.run_dir or args.resume, "summary.json").write_text("{}")
"""


@pytest.fixture
def suite(tmp_path):
    """Writes a suite of the fake script: one cell an environment, with more entries if given."""
    (tmp_path / "fake.py").write_text(FAKE_SCRIPT)

    def suite(*env_ids: str, seeds: str = "1-2", more: str = "") -> Path:
        script = f'script = "{tmp_path}/fake.py"'
        cells = [f'{{ {script}, env_id = "{env_id}", steps = 9 {more} }}' for env_id in env_ids]
        path = tmp_path / "s.toml"
        path.write_text(f'seeds = "{seeds}"\ncells = [{", ".join(cells)}]')
        return path

    return suite


@pytest.fixture
def harness(tmp_path):
    """Starts `python -m benchmarks`; whatever still runs at the end of the test is killed."""
    processes = []

    def harness(*words, wait: bool = True, cwd: Path = ROOT) -> subprocess.Popen:
        command = [sys.executable, "-m", "benchmarks", *map(str, words)]
        if words[0] == "run":
            command += ["--runs-dir", str(tmp_path / "runs")]
        process = subprocess.Popen(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        if wait:
            process.out, process.err = process.communicate(timeout=120)
        return process

    yield harness
    for process in processes:
        process.kill()
        process.communicate()
