"""Measure scripts' speed in this process: they are imported, and their own training loop is timed from outside."""

import contextlib
import importlib.util
import io
import itertools
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import numpy as np

from . import ROOT, BadInput, provenance


def load(script: str) -> ModuleType:
    """A fresh copy of a script's module, so that what is replaced in it is nobody else's."""
    path = ROOT / f"{Path(script).stem}.py"
    if not path.exists():
        raise BadInput(f"no script {path.name}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)  # where a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def environment_speed(module: ModuleType, env_id: str, num_envs: int) -> float:
    """Steps per second of the script's vector environment, over half a second; resets are no steps."""
    envs = module.make_envs(env_id, num_envs)
    envs.action_space.seed(1)
    envs.reset(seed=1)
    actions, steps, resets = itertools.cycle([envs.action_space.sample() for _ in range(64)]), 0, 0
    start = time.perf_counter()
    while (seconds := time.perf_counter() - start) < 0.5:
        steps += num_envs - resets
        _, _, terminated, truncated, _ = envs.step(next(actions))
        resets = int((terminated | truncated).sum())
    envs.close()
    return steps / seconds


def training_speed(module: ModuleType, env_id: str, steps: int) -> dict[str, float]:
    """Rates over the second half of a training, whose rollout, optimiser and log are given a clock.

    training: steps per second; rollout: steps per second spent in it, for a script that has one; updates: steps of its
    busiest optimiser per second spent outside the rollout. Raises BadInput with the script's own words if it refuses.
    """
    updates, rollout_seconds, clock = {}, [0.0], []  # by optimiser; in all; (seconds, steps, updates, rollout seconds)
    optimizer_step, log = module.Adam.step, module.Run.log

    def counted_step(self, *args, **kwargs):
        updates[id(self)] = updates.get(id(self), 0) + 1
        return optimizer_step(self, *args, **kwargs)

    def timed_log(self, *args):
        log(self, *args)
        clock.append(
            (time.perf_counter(), self.count["global_step"], max(updates.values(), default=0), *rollout_seconds)
        )

    def timed(collect):
        def batches(*args):
            generator = collect(*args)
            while True:
                start = time.perf_counter()
                batch = next(generator)
                rollout_seconds[0] += time.perf_counter() - start
                yield batch

        return batches

    module.Adam.step, module.Run.log = counted_step, timed_log
    for name in {"collect", "collect_episodes"} & vars(module).keys():
        setattr(module, name, timed(getattr(module, name)))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
        args = module.Args(env_id=env_id, total_timesteps=steps, eval_episodes=1, run_dir=str(Path(folder, "run")))
        try:
            with contextlib.redirect_stderr(said):
                module.train(args)
        except SystemExit as stop:
            raise BadInput(said.getvalue().strip() or stop.code) from stop
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the script has set its own
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if len(clock) < 2:
        raise BadInput(f"{module.__name__}.py: {steps} steps are only {len(clock)} iteration; give more")
    seconds, taken, updated, in_rollout = np.subtract(clock[-1], clock[(len(clock) - 1) // 2]).tolist()
    rates = {"updates": updated / (seconds - in_rollout), "training": taken / seconds}
    return rates | ({"rollout": taken / in_rollout} if in_rollout else {})


def speed(scripts: tuple[str, ...], env_id: str, total_timesteps: int | None, repeats: int, out: Path | None) -> int:
    """Print medians as a table, write them and every repeat to a JSON file; exit status 0, or 1 if a script refused."""
    if repeats < 1:
        raise BadInput(f"--repeats must be at least 1, not {repeats}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    columns, results = ("environment", "rollout", "updates", "training", "training / environment"), {}
    defaults = {script: load(script).Args for script in scripts or sorted(path.stem for path in ROOT.glob("*.py"))}
    print(f"{env_id}, per second, median of {repeats}\n\n| script | {' | '.join(columns)} |")
    print("| --- " + "| ---: " * len(columns) + "|")
    for script, args in defaults.items():
        samples, off_policy = [], hasattr(args, "learning_starts")  # no update before that
        steps = total_timesteps or (2 * args.learning_starts + 2000 if off_policy else 20_000)
        try:
            for _ in range(1 + repeats):
                rates = training_speed(module := load(script), env_id, steps)
                rates["environment"] = environment_speed(module, env_id, getattr(module.Args, "num_envs", 1))
                samples.append(rates | {"training / environment": rates["training"] / rates["environment"]})
        except BadInput as error:
            print(error, file=sys.stderr)
        del samples[:1]  # warm-up
        medians = {name: statistics.median(rates[name] for rates in samples) for name in (samples or [{}])[0]}
        results[script] = {"steps": steps, "median": medians, "repeats": samples}
        cells = [medians.get(name) for name in columns]
        texts = ["–" if cell is None else f"{cell:.3f}" if cell < 1 else f"{cell:,.0f}" for cell in cells]
        print(f"| {script} | {' | '.join(texts)} |", flush=True)
    if not any(result["median"] for result in results.values()):
        return 2
    out = out or Path(f"benchmarks/runs/speed-{re.sub('[:/]', '-', env_id)}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"env_id": env_id, "scripts": results, **provenance()}, indent=2))
    print(f"\n{out}")
    return 0 if all(result["median"] for result in results.values()) else 1
