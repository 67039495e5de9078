"""Measure scripts' speed in this process.

A script is imported, and its own training loop is timed from outside.
"""

import contextlib
import importlib.util
import io
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from . import ROOT, BadInput, provenance
from .files import check_folder, explain, file_name
from .options import SpeedOptions

COLUMNS = ("environment", "rollout", "updates", "training", "training / environment")
MEASURED_PARTS = ("Args", "Run", "Adam", "make_envs", "train")  # that every script has
COLLECTORS = ("Collector", "EpisodeCollector")  # what the scripts' `collect` is a method of
ENVIRONMENT_SECONDS = 0.5  # that the environment alone is timed for
DEFAULT_STEPS = 20_000  # of a training, if nothing else is asked for
INTERRUPTED_SCRIPT = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # its exit status
OFF_POLICY_UPDATES = 2000  # of a training of an off-policy script


def import_script(name: str) -> ModuleType:
    """A fresh copy of a script's module: what is replaced in it is nobody else's.

    Raises BadInput if there is no such script.
    """
    path = ROOT / f"{Path(name).stem}.py"
    if not path.is_file():
        raise BadInput(f"no script {path.name}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where a dataclass looks its module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever is wrong with it
        raise BadInput(f"{path.name}: {type(error).__name__}: {explain(error)}") from error
    missing = [part for part in MEASURED_PARTS if not hasattr(module, part)]
    if missing:
        raise BadInput(f"{path.name} is not a script of ours: it has no {missing[0]}")
    return module


def environment_speed(module: ModuleType, env_id: str, num_envs: int) -> float:
    """Steps per second of the script's vector environment with random actions.

    A reset is no step.
    """
    envs = module.make_envs(env_id, num_envs)
    envs.action_space.seed(1)
    envs.reset(seed=1)
    actions = [envs.action_space.sample() for _ in range(64)]
    calls = 0
    steps = 0
    resets = 0
    start = time.perf_counter()
    seconds = 0.0
    while seconds < ENVIRONMENT_SECONDS:
        steps += num_envs - resets
        _, _, terminated, truncated, _ = envs.step(actions[calls % len(actions)])
        calls += 1
        resets = int((terminated | truncated).sum())
        seconds = time.perf_counter() - start
    envs.close()
    return steps / seconds


@dataclass
class Reading:
    """What the clock shows at the end of an iteration of a training."""

    seconds: float
    steps: int
    """environment steps so far"""
    updates: int
    """steps of the busiest optimiser so far"""
    rollout_seconds: float
    """seconds spent in the rollout so far"""


class Clock:
    """Times a script's rollout, counts its optimisers' steps, and reads both at each log."""

    def __init__(self, module: ModuleType):
        """Put the clock into a script's module."""
        self.updates: dict[int, int] = {}
        """by the optimiser's id"""
        self.rollout_seconds = 0.0
        self.readings: list[Reading] = []
        module.Adam.step = self.counted(module.Adam.step)
        module.Run.log = self.read_at(module.Run.log)
        for name in COLLECTORS:
            if hasattr(module, name):
                collector = getattr(module, name)
                collector.collect = self.timed(collector.collect)

    def counted(self, optimizer_step):
        """An optimiser's `step` that counts itself."""

        def step(optimizer, *args, **kwargs):
            self.updates[id(optimizer)] = self.updates.get(id(optimizer), 0) + 1
            return optimizer_step(optimizer, *args, **kwargs)

        return step

    def read_at(self, log):
        """A run's `log` after which the clock is read."""

        def log_and_read(run, *args, **kwargs):
            log(run, *args, **kwargs)
            reading = Reading(
                seconds=time.perf_counter(),
                steps=run.count.global_step,
                updates=max(self.updates.values(), default=0),
                rollout_seconds=self.rollout_seconds,
            )
            self.readings.append(reading)

        return log_and_read

    def timed(self, collect):
        """A collector's `collect` whose seconds are counted."""

        def timed_collect(collector, *args, **kwargs):
            start = time.perf_counter()
            rollout = collect(collector, *args, **kwargs)
            self.rollout_seconds += time.perf_counter() - start
            return rollout

        return timed_collect

    def rates(self) -> dict[str, float]:
        """Rates per second over the second half of the iterations; see `training_speed`."""
        first = self.readings[(len(self.readings) - 1) // 2]
        last = self.readings[-1]
        seconds = last.seconds - first.seconds
        steps = last.steps - first.steps
        updates = last.updates - first.updates
        rollout_seconds = last.rollout_seconds - first.rollout_seconds
        rates = {
            "updates": updates / (seconds - rollout_seconds),
            "training": steps / seconds,
        }
        if rollout_seconds:
            rates["rollout"] = steps / rollout_seconds
        return rates


def training_speed(module: ModuleType, env_id: str, steps: int) -> dict[str, float]:
    """Rates per second over the second half of a training of so many steps.

    training: environment steps. rollout: environment steps, of the time that is spent in the
    rollout; only for a script that has one. updates: steps of the busiest optimiser, of the time
    that is spent outside the rollout. Raises BadInput with the script's own words if it refuses,
    and KeyboardInterrupt if it was asked to end.
    """
    clock = Clock(module)
    printed = io.StringIO()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        run_dir = str(Path(folder, "run"))
        args = module.Args(env_id=env_id, total_timesteps=steps, eval_episodes=1, run_dir=run_dir)
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                module.train(args)
        except SystemExit as stop:
            if stop.code in INTERRUPTED_SCRIPT:
                raise KeyboardInterrupt from stop
            raise BadInput(printed.getvalue().strip() or stop.code) from stop
        finally:
            # The script has set its own.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    iterations = len(clock.readings)
    if iterations < 2:
        script = f"{module.__name__}.py"
        raise BadInput(f"{script}: {steps} steps are only {iterations} iteration; give more")
    return clock.rates()


def default_steps(module: ModuleType) -> int:
    """Steps of a training, half of which is warm-up."""
    if hasattr(module.Args, "learning_starts"):  # an off-policy script, without updates before it
        return 2 * module.Args.learning_starts + OFF_POLICY_UPDATES
    return DEFAULT_STEPS


def measure_script(name: str, steps: int, options: SpeedOptions) -> list[dict[str, float]]:
    """The rates of `options.repeats` trainings of so many steps, after one that is warm-up.

    Raises BadInput if the script refuses.
    """
    repeats = []
    for _ in range(1 + options.repeats):
        module = import_script(name)
        rates = training_speed(module, options.env_id, steps)
        num_envs = getattr(module.Args, "num_envs", 1)
        rates["environment"] = environment_speed(module, options.env_id, num_envs)
        rates["training / environment"] = rates["training"] / rates["environment"]
        repeats.append(rates)
    return repeats[1:]


def format_rate(rate: float | None) -> str:
    if rate is None:
        return "–"
    return f"{rate:.3f}" if rate < 1 else f"{rate:,.0f}"


def measure_scripts(options: SpeedOptions) -> int:
    """Print the medians as a table, and write them and every repeat to a JSON file.

    Returns the exit status: 0, 1 if a script refused, 2 if all did. Raises BadInput.
    """
    if options.repeats < 1:
        raise BadInput(f"--repeats must be at least 1, not {options.repeats}")
    out = options.out
    if out is None:
        out = Path(f"benchmarks/runs/speed-{file_name(options.env_id)}.json")
    if out.is_dir():
        raise BadInput(f"--out {out}: is a folder, not a file")
    check_folder(out.parent, "--out: its folder")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    names = options.scripts or sorted(path.stem for path in ROOT.glob("*.py"))
    steps = {}
    for name in names:  # an unknown script is refused before anything is measured
        module = import_script(name)
        steps[name] = options.total_timesteps
        if options.total_timesteps is None:
            steps[name] = default_steps(module)
    print(f"{options.env_id}, per second, median of {options.repeats}\n")
    print(f"| script | {' | '.join(COLUMNS)} |")
    print("| --- " + "| ---: " * len(COLUMNS) + "|")
    results = {}
    for name in names:
        medians = {}
        repeats = []
        try:
            repeats = measure_script(name, steps[name], options)
        except BadInput as error:
            print(error, file=sys.stderr)
        else:
            for column in repeats[0]:
                medians[column] = statistics.median(rates[column] for rates in repeats)
        results[name] = {"steps": steps[name], "median": medians, "repeats": repeats}
        cells = [format_rate(medians.get(column)) for column in COLUMNS]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    refused = [name for name in names if not results[name]["median"]]
    if len(refused) == len(names):
        return 2
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {"env_id": options.env_id, "scripts": results, **provenance()}
    out.write_text(json.dumps(report, indent=2), encoding="utf-8")
    print(f"\n{out}")
    return 1 if refused else 0
