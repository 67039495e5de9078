"""Group learning curves by environment and algorithm, and say what is measured of each group."""

import warnings
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from .plots import SCRIPT_COLOURS
from .readers import Curve
from .stats import BINS, LAST, bootstrap_interval, crossing, iqm, resample, upper_median
from .tables import format_steps


class Group:
    """The runs of an algorithm in an environment, on the same BINS bins of their steps.

    seeds       of the runs, in order
    ends        the last step of each run
    end         the step at which the runs are cut: the last point of the shortest log
    trained     environment steps of the shortest training
    values      (seeds, BINS) mean return in each bin
    steps       (BINS,) the bins' centres
    seconds     (BINS,) mean seconds of the runs at these steps
    iqm_curve   (BINS,) interquartile mean of `values` over the seeds
    band        (2, BINS) its 95 % interval; None of a single seed
    finals      (seeds,) final returns
    first_bin   the first bin by whose end every run has logged a point
    reference   whether the runs are from a reference CSV
    """

    def __init__(
        self, env_id: str, algorithm: str, curves: list[Curve], threshold: float | None = None
    ):
        self.env_id = env_id
        self.algorithm = algorithm
        self.curves = curves
        self.threshold = threshold
        self.reference = curves[0].reference
        self.seeds = [curve.seed for curve in curves]
        self.ends = [curve.step[-1] for curve in curves]
        self.end = min(self.ends)
        self.trained = min(c.step[-1] if c.trained is None else c.trained for c in curves)
        self.values = np.stack([resample(c.step, c.value, self.end) for c in curves])
        self.steps = (np.arange(BINS) + 0.5) * self.end / BINS
        seconds = [np.interp(self.steps, curve.step, curve.seconds) for curve in curves]
        self.seconds = np.mean(seconds, axis=0)
        self.iqm_curve = iqm(self.values, axis=0)
        self.band = bootstrap_interval(iqm, self.values)
        self.finals = self.values[:, -LAST:].mean(1)
        last_start = max(curve.step[0] for curve in curves)
        self.first_bin = first_bin(last_start, self.end)

    def axis(self, name: str) -> np.ndarray:
        """The group's "steps" or "seconds", (BINS,)."""
        return self.steps if name == "steps" else self.seconds

    def length(self, axis: str) -> float:
        """How many "steps" or "seconds" the runs take to where they are cut."""
        return self.axis(axis)[-1] * self.end / self.steps[-1]

    def steps_to(self, level: float) -> np.ndarray:
        """Steps after which each run has reached a return, (seeds,); infinite if it never does.

        It has reached it where the mean over a sliding window, a twentieth of all steps, does.
        """
        bins = np.array([crossing(values, level) for values in self.values])
        return bins * self.end / BINS

    def seconds_at(self, steps: np.ndarray) -> np.ndarray:
        """Seconds that each run took for its number of steps, (seeds,); infinite where that is."""
        seconds = np.full(len(self.curves), np.inf)
        for i, curve in enumerate(self.curves):
            if np.isfinite(steps[i]):
                seconds[i] = np.interp(steps[i], curve.step, curve.seconds)
        return seconds


def first_bin(step: float, end: float) -> int:
    """The bin of (0, end] in which a run begins whose first point is at `step`."""
    return int(np.clip(np.ceil(step * BINS / end) - 1, 0, BINS - 1))


@dataclass
class Goal:
    """Whether and when a group has reached its threshold."""

    met: bool
    """whether the evaluation does, or else the mean final return"""
    reached_by: int
    """seeds that reached it in training"""
    steps_to: float
    """median of the seeds, infinite if it is not known"""
    seconds_to: float


@dataclass
class Result:
    """What the tables say of a group. Returns are over the seeds."""

    env_id: str
    algorithm: str
    reference: bool
    seeds: int
    steps: float
    """at which the runs are cut"""
    trained: float
    """of the shortest training"""
    final_return: float
    iqm: float
    low: float | None
    """the low end of the interquartile mean's 95 % interval; None of a single seed"""
    high: float | None
    area: float
    evaluation: float | None
    """None if no run was evaluated"""
    threshold: float | None
    goal: Goal | None
    """None if there is no threshold"""
    steps_per_second: float


def summarise(group: Group) -> Result:
    """What the tables say of a group."""
    evaluations = [c.evaluation for c in group.curves if c.evaluation is not None]
    evaluation = np.mean(evaluations) if evaluations else None
    interval = bootstrap_interval(iqm, group.finals)
    low = None
    high = None
    if interval is not None:
        low, high = interval
    rates = [curve.step[-1] / curve.seconds[-1] for curve in group.curves]
    goal = None
    if group.threshold is not None:
        goal = judge(group, group.threshold, evaluation)
    return Result(
        env_id=group.env_id,
        algorithm=group.algorithm,
        reference=group.reference,
        seeds=len(group.seeds),
        steps=group.end,
        trained=group.trained,
        final_return=group.finals.mean(),
        iqm=iqm(group.finals),
        low=low,
        high=high,
        area=group.values.mean(),
        evaluation=evaluation,
        threshold=group.threshold,
        goal=goal,
        steps_per_second=np.median(rates),
    )


def judge(group: Group, threshold: float, evaluation: float | None) -> Goal:
    """Whether and when a group has reached a threshold."""
    judged = group.finals.mean() if evaluation is None else evaluation
    steps = group.steps_to(threshold)
    seconds = group.seconds_at(steps)
    return Goal(
        met=bool(judged >= threshold),
        reached_by=int(np.isfinite(steps).sum()),
        steps_to=upper_median(steps),
        seconds_to=upper_median(seconds),
    )


def gymnasium_threshold(env_id: str) -> float | None:
    """The return at which gymnasium calls the environment solved; None if it knows none.

    The environment's id may name a module, which is then imported.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return gym.spec(env_id).reward_threshold
    except Exception:  # gymnasium's, or an import's
        return None


def thresholds(curves: list[Curve], default: float | None) -> dict[str, float | None]:
    """The threshold of each algorithm in an environment, from the manifests of its runs.

    An algorithm without a manifest, such as a reference, has the default.
    """
    from_suite = {}
    for curve in curves:
        if curve.manifest:
            from_suite[curve.algorithm] = curve.manifest.get("threshold")
    return {curve.algorithm: from_suite.get(curve.algorithm, default) for curve in curves}


def rank(group: Group) -> tuple[bool, int, str]:
    """What groups are sorted by: references last, the scripts in their own order, then by name."""
    scripts = list(SCRIPT_COLOURS)
    position = scripts.index(group.algorithm) if group.algorithm in scripts else len(scripts)
    return group.reference, position, group.algorithm


def group_curves(
    curves: list[Curve], threshold: float | None, of_returns: bool
) -> dict[str, list[Group]]:
    """The groups of each environment.

    An environment that only references know is left out, unless all are such. `threshold` is
    everybody's if it is given. `of_returns` says that the curves are returns, so that the suites'
    and gymnasium's thresholds hold for them.
    """
    all_envs = {curve.env_id for curve in curves}
    own_envs = {curve.env_id for curve in curves if not curve.reference}
    by_env = {}
    for env_id in sorted(own_envs or all_envs):
        members = [curve for curve in curves if curve.env_id == env_id]
        by_algorithm = {}
        for curve in sorted(members, key=lambda curve: curve.seed):
            by_algorithm.setdefault(curve.algorithm, []).append(curve)
        env_thresholds = thresholds(members, gymnasium_threshold(env_id)) if of_returns else {}
        groups = []
        for algorithm, runs in by_algorithm.items():
            chosen = env_thresholds.get(algorithm) if threshold is None else threshold
            groups.append(Group(env_id, algorithm, runs, chosen))
        by_env[env_id] = sorted(groups, key=rank)
    return by_env


# ---------------------------------------------------------------- what to be careful about


def caveats(by_env: dict[str, list[Group]]) -> list[str]:
    """What a reader must know before believing the averages."""
    notes = []
    for env_id, groups in by_env.items():
        for group in groups:
            notes += group_caveats(group, groups)
        notes += length_caveats(env_id, groups)
    commits = set()
    for groups in by_env.values():
        for group in groups:
            manifests = [curve.manifest for curve in group.curves]
            commits |= {m["commit"] or "an unknown one" for m in manifests if "commit" in m}
    if len(commits) > 1:
        notes.append(f"the runs are of several commits: {', '.join(sorted(commits))}")
    return notes


def group_caveats(group: Group, groups: list[Group]) -> list[str]:
    """Single and missing seeds, missing evaluations, and runs of unequal length.

    `groups` are those of the environment. One that shares no seed was run on others on purpose.
    """
    name = f"{group.env_id}, {group.algorithm}"
    notes = []
    if len(group.seeds) == 1:
        notes.append(f"{name}: one seed only, so no interval")
    own = set(group.seeds)
    missing = set()
    for other in groups:
        if not own.isdisjoint(other.seeds):
            missing |= set(other.seeds) - own
    if missing:
        seeds = ", ".join(str(seed) for seed in sorted(missing))
        notes.append(f"{name}: no seed {seeds}, which others have")
    evaluated = [curve for curve in group.curves if curve.evaluation is not None]
    if 0 < len(evaluated) < len(group.curves):
        notes.append(f"{name}: the evaluation is of {len(evaluated)} of {len(group.seeds)} seeds")
    longest = max(group.ends)
    if longest > 1.02 * group.end:
        ends = f"{group.end:,.0f} and {longest:,.0f}"
        notes.append(f"{name}: runs end between {ends} steps; cut at the first")
    return notes


def length_caveats(env_id: str, groups: list[Group]) -> list[str]:
    """Groups of an environment that differ in length by more than a tenth."""
    ends = [group.end for group in groups]
    if max(ends) <= 1.1 * min(ends):
        return []
    lengths = ", ".join(f"{group.algorithm} {format_steps(group.end)}" for group in groups)
    return [f"{env_id}: not the same number of steps: {lengths}"]
