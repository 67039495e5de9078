import contextlib
import importlib
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from gymnasium.spaces import Discrete

TESTS = Path(__file__).parent
ROOT = TESTS.parent
sys.path[:0] = [str(ROOT), str(TESTS)]
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))


OFF_POLICY = [script for script in SCRIPTS if script in ("ddpg", "sac")]
ON_POLICY = [script for script in SCRIPTS if script not in ("ddpg", "sac", "dagger")]


def budget(script: str) -> int:
    """Environment steps of a short run: a few seconds, several log lines."""
    return 1200 if script in OFF_POLICY else 8192


def on(script: str, env_id: str, folder: Path) -> tuple:
    """Flags for an environment; dagger.py gets an expert that answers with its observation: Identity's is right."""
    if script != "dagger" or env_id == "CartPole-v1":
        return ("--env-id", env_id)
    import dagger

    envs = dagger.make_envs(env_id, 1)
    obs, action = envs.single_observation_space, envs.single_action_space
    layers, size = [(torch.eye(obs.shape[0]), torch.zeros(obs.shape[0]))], obs.shape[0]
    net = {"layers": layers, "activation": "relu", "head": "argmax" if isinstance(action, Discrete) else "clip"}
    agent = dagger.Agent(obs, action)
    stats = {"obs_mean": torch.zeros(size), "obs_var": torch.ones(size), "low": agent.low, "high": agent.high}
    path = folder / f"expert of {env_id.split(':')[-1]}.pt"
    torch.save({"observation_space": str(obs), "action_space": str(action), **net, **stats}, path)
    return ("--env-id", env_id, "--expert", path)


def short(script: str, env_id: str | None = None, folder: Path = TESTS) -> tuple:
    """Flags of a short run, on CartPole or Pendulum if nothing else is asked for."""
    flags = ("--total-timesteps", budget(script), "--eval-episodes", 5)
    if script in OFF_POLICY:
        flags += ("--learning-starts", 200, "--batch-size", 32)
    return *flags, *on(script, env_id or ("Pendulum-v1" if script in OFF_POLICY else "CartPole-v1"), folder)


def having(*names: str) -> list:
    """The scripts that define all of `names`, imported, as parameters: a shared block is tested wherever it stands."""
    modules = [importlib.import_module(script) for script in SCRIPTS]
    return [pytest.param(m, id=m.__name__) for m in modules if all(hasattr(m, name) for name in names)]


def pytest_terminal_summary(terminalreporter):
    from test_repository import changed_lines

    rungs = ", ".join(f"{lower} → {upper} {lines}" for (lower, upper), lines in changed_lines().items())
    terminalreporter.write_line(f"lines changed along the ladder: {rungs}")


@pytest.fixture(params=SCRIPTS)
def script(request) -> str:
    """Each script's name in turn."""
    return request.param


@pytest.fixture
def module(script):
    """Each script in turn, imported."""
    return importlib.import_module(script)


def environment(**extra: str) -> dict[str, str]:
    """Of a script's process: one thread, and the tiny environments within reach."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), **extra}


FORKSERVER = multiprocessing.get_context("forkserver")  # its processes begin with the packages imported: 2 s less each
FORKSERVER.set_forkserver_preload(["conftest", "gymnasium", "tyro", "torch.utils.tensorboard"])


def forked(path: Path, argv: list[str], cwd: Path) -> None:
    """What a process forked to run a script does; what it prints goes to files beside its folder."""
    os.environ.update(environment())
    os.chdir(cwd)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{cwd}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = [str(path), *argv]
    runpy.run_path(str(path), run_name="__main__")


@pytest.fixture
def run(tmp_path):
    """Runs a script's command line in an empty folder and returns the finished process."""

    def run(script: str, *flags, cwd=tmp_path, path=None, fresh=False, **extra: str) -> subprocess.CompletedProcess:
        path, argv = path or ROOT / f"{script}.py", [*map(str, flags)]
        if fresh or extra:
            options = {"cwd": cwd, "env": environment(**extra), "capture_output": True, "text": True, "timeout": 300}
            return subprocess.run([sys.executable, str(path), *argv], **options)
        process = FORKSERVER.Process(target=forked, args=(path, argv, cwd))
        process.start()
        process.join(300)
        process.kill()
        printed = [Path(f"{cwd}.{name}").read_text() for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess([str(path), *argv], process.exitcode, *printed)

    return run


@pytest.fixture
def start(tmp_path):
    """Starts a script's command line in an empty folder; whatever still runs at the end of the test is killed."""
    processes = []

    def start(script: str, *flags) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / f"{script}.py"), *map(str, flags)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment(), **pipes))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


# A script that learns nothing: it notes that it ran, waits, and does what its environment's name says.
FAKE = """
import argparse, os, pathlib, sys, time
parser = argparse.ArgumentParser()
for flag in ("--env-id", "--seed", "--total-timesteps", "--run-dir"):
    parser.add_argument(flag)
parser.add_argument("--seconds", type=float, default=0)
args = parser.parse_args()
with open(pathlib.Path(__file__).parent / "ran", "a") as ran:
    ran.write(f"{args.env_id} {args.seed} {args.total_timesteps} {os.environ['OMP_NUM_THREADS']}\\n")
print("line", *range(20), sep="\\nline ")
time.sleep(args.seconds)
while (pathlib.Path(__file__).parent / "wait").exists():
    time.sleep(0.05)
tried = pathlib.Path(__file__).parent / f"tried {args.env_id} {args.seed}"
if args.env_id == "Fails-v0" or args.env_id == "FailsOnce-v0" and not tried.exists():
    tried.touch()
    sys.exit("this went wrong")
if args.env_id != "Silent-v0":
    pathlib.Path(args.run_dir, "summary.json").write_text("{}")
"""


@pytest.fixture
def suite(tmp_path):
    """Writes a suite of the fake script: one cell an environment, with more entries if given."""
    (tmp_path / "fake.py").write_text(FAKE)

    def suite(*env_ids: str, seeds: str = "1-2", more: str = ""):
        cells = [f'{{ script = "{tmp_path}/fake.py", env_id = "{env_id}", steps = 9 {more} }}' for env_id in env_ids]
        (tmp_path / "s.toml").write_text(f'seeds = "{seeds}"\ncells = [{", ".join(cells)}]')
        return tmp_path / "s.toml"

    return suite


@pytest.fixture
def harness(tmp_path):
    """Starts `python -m benchmarks`; whatever still runs at the end of the test is killed."""
    processes = []

    def harness(*words, wait: bool = True, cwd: Path = ROOT):
        words = [*map(str, words), *(("--runs-dir", str(tmp_path / "runs")) if words[0] == "run" else ())]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-m", "benchmarks", *words], cwd=cwd, **pipes)
        processes.append(process)
        if wait:
            process.out, process.err = process.communicate(timeout=120)
        return process

    yield harness
    for process in processes:
        process.kill()
        process.communicate()


def ran(tmp_path) -> list[str]:
    path = tmp_path / "ran"
    return path.read_text().splitlines() if path.exists() else []


def jobs_alive(tmp_path) -> list[str]:
    """Processes of the fake script, as Linux lists them; a dead one has no command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            found += [path.parent.name] if f"\0{tmp_path}/fake.py\0" in path.read_text() else []
    return found


def wait_for(condition, seconds=30):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(0.01)


def manifests(tmp_path) -> dict:
    return {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("runs/s/*/manifest.json")}
