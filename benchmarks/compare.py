"""Compare learning curves: group runs by environment and algorithm, compute, write report, pictures and CSV."""

import csv
import itertools
import shlex
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np

from .plots import COLOURS, picture_name, pictures
from .readers import RETURN_TAGS, Curve, read_runs
from .stats import BINS, LAST, crossing, improvement, interval, iqm, resample

RANDOM = Path(__file__).parent / "reference" / "random.csv"
EXPLANATION = f"""\
A run's curve is its mean return in each of {BINS} equal bins of its steps, interpolated linearly where a bin is empty,
before the first point that point's; the runs of a group are cut where the shortest ends.

- *final return*: the mean over the last tenth of training, then over the seeds. *area*: the mean over all of training.
- *IQM*: interquartile mean of the seeds' final returns (of fewer than four seeds the mean), with a 95 % bootstrap
  interval over the seeds by the percentile method, which is too narrow with few seeds.
- *evaluation*: mean return of the deterministic policy at the end, where the script reports it.
- *met*: whether the evaluation, or else the final return, reaches the threshold. *steps to*, *seconds to*: where the
  mean of the last twentieth of training first reaches it, the median of the seeds; in brackets how many of them do.
- *steps/s*: of training, the median of the seeds. A reference's seconds hold whatever else ran on its machine.
- A normalised score is 0 for the random policy (`benchmarks/reference/random.csv`) and 1 for the best mean final
  return compared here in that environment. Its IQM is over all seeds of all environments that an algorithm ran in, with
  a bootstrap stratified by environment. Rows over different environments are not comparable.
- The probability of improvement is the chance that a seed of the row's algorithm ends above one of the column's, ties
  counted half, averaged over the environments that both ran in, with a bootstrap stratified by environment.
"""


@dataclass
class Group:
    """The runs of an algorithm in an environment."""

    env_id: str
    algorithm: str
    curves: list[Curve]
    threshold: float | None

    def __post_init__(self):
        self.reference = self.curves[0].reference
        self.seeds = [curve.seed for curve in self.curves]
        self.ends = [curve.step[-1] for curve in self.curves]
        self.end = min(self.ends)
        self.values = np.stack([resample(c.step, c.value, self.end) for c in self.curves])  # (seeds, BINS)
        self.first = int(min(max(c.step[0] for c in self.curves) / self.end * BINS, BINS - 1))  # bin all have begun by
        self.steps = (np.arange(BINS) + 0.5) * self.end / BINS  # (BINS,), the bins' centres
        self.seconds = np.mean([np.interp(self.steps, c.step, c.seconds) for c in self.curves], axis=0)  # (BINS,)
        self.curve, self.band = iqm(self.values, axis=0), interval(iqm, self.values)  # (BINS,), (2, BINS) or None
        self.final = self.values[:, -LAST:].mean(1)  # (seeds,)

    def row(self) -> dict:
        """What the table says of the group."""
        evaluations = [curve.evaluation for curve in self.curves if curve.evaluation is not None]
        evaluation = np.mean(evaluations) if evaluations else None
        low, high = (None, None) if (ends := interval(iqm, self.final)) is None else ends
        row = {"environment": self.env_id, "algorithm": self.algorithm, "seeds": len(self.seeds), "steps": self.end}
        row |= {"final return": self.final.mean(), "IQM": iqm(self.final), "low": low, "high": high}
        row |= {"area": self.values.mean(), "evaluation": evaluation, "threshold": self.threshold}
        if self.threshold is not None:
            reached = [crossing(values, self.threshold) * self.end / BINS for values in self.values]
            times = [np.interp(at, c.step, c.seconds) if at < np.inf else at for at, c in zip(reached, self.curves)]
            result = self.final.mean() if evaluation is None else evaluation
            row |= {"met": bool(result >= self.threshold), "reached by": int(np.isfinite(reached).sum())}
            row |= {"steps to": median(reached), "seconds to": median(times)}
        return row | {"steps/s": np.median([c.step[-1] / c.seconds[-1] for c in self.curves])}


def median(values: list[float]) -> float:
    """The upper one of an even number: infinite unless more than half of the seeds got there."""
    return sorted(values)[len(values) // 2]


def known_threshold(env_id: str) -> float | None:
    """The return at which gymnasium calls the environment solved, where it knows it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return gym.spec(env_id).reward_threshold
    except gym.error.Error:
        return None


def group_runs(curves: list[Curve], threshold: float | None, returns: bool) -> dict[str, list[Group]]:
    """Groups of each environment; environments of which only references know are left out beside others."""
    ours = {curve.env_id for curve in curves if not curve.reference} or {curve.env_id for curve in curves}
    by_env = {}
    for env_id in sorted(ours):
        members = [curve for curve in curves if curve.env_id == env_id]
        of_suite = {curve.algorithm: curve.manifest.get("threshold") for curve in members if curve.manifest}
        known = known_threshold(env_id) if returns else None
        shared = max((goal for goal in of_suite.values() if goal is not None), default=known)
        by_env[env_id] = []
        for algorithm in {curve.algorithm for curve in members}:
            runs = sorted((curve for curve in members if curve.algorithm == algorithm), key=lambda curve: curve.seed)
            goal = of_suite.get(algorithm, shared) if threshold is None else threshold
            by_env[env_id].append(Group(env_id, algorithm, runs, goal))
        order = [*COLOURS, *sorted({curve.algorithm for curve in members})]
        by_env[env_id].sort(key=lambda group: (group.reference, order.index(group.algorithm)))
    return by_env


def caveats(by_env: dict[str, list[Group]]) -> list[str]:
    """What a reader must know before believing the averages."""
    notes = []
    for env_id, groups in by_env.items():
        every = {seed for group in groups for seed in group.seeds}
        for group in groups:
            name = f"{env_id}, {group.algorithm}"
            if len(group.seeds) == 1:
                notes.append(f"{name}: one seed only, so no interval")
            if missing := sorted(every - set(group.seeds)):
                notes.append(f"{name}: no seed {', '.join(map(str, missing))}, which others have")
            if max(group.ends) > 1.02 * group.end:
                ends = f"{group.end:,.0f} and {max(group.ends):,.0f}"
                notes.append(f"{name}: runs end between {ends} steps; cut at the first")
        if max(group.end for group in groups) > 1.1 * min(group.end for group in groups):
            lengths = ", ".join(f"{group.algorithm} {si(group.end)}" for group in groups)
            notes.append(f"{env_id}: not the same number of steps: {lengths}")
    manifests = [curve.manifest for groups in by_env.values() for g in groups for curve in g.curves if curve.manifest]
    if len(commits := {str(manifest["commit"]) for manifest in manifests}) > 1:
        notes.append(f"the runs are of several commits: {', '.join(sorted(commits))}")
    return notes


def normalised(by_env: dict[str, list[Group]], notes: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Scores (seeds,) by algorithm and environment: 0 is the random policy, 1 the best mean final return here."""
    with RANDOM.open(newline="") as file:
        random = {row["env_id"]: float(row["mean"]) for row in csv.DictReader(file)}
    scores = {}
    for env_id, groups in by_env.items():
        best = max(group.final.mean() for group in groups)
        if best <= random.get(env_id, np.inf):
            reason = "nothing is better than the random policy" if env_id in random else f"not in {RANDOM.name}"
            notes.append(f"{env_id}: {reason}, so that there are no normalised scores")
            continue
        for group in groups:
            score = (group.final - random[env_id]) / (best - random[env_id])
            scores.setdefault(group.algorithm, {})[env_id] = score
    return scores


def si(number: float) -> str:
    """60 k, 1.25 M."""
    unit, letter = (1e6, " M") if number >= 999_500 else (1e3, " k") if number >= 1000 else (1, "")
    return f"{number / unit:.3g}{letter}"


def figure(number: float | None) -> str:
    """A return to about four digits; a dash for what there is not."""
    if number is None or not np.isfinite(number):
        return "–"
    digits = 0 if abs(number) >= 1000 else 1 if abs(number) >= 10 else 2
    return f"{number:,.{digits}f}".replace("-", "−")


def markdown(rows: list[list[str]]) -> str:
    """A table whose columns are aligned in the source, too; the first two are text, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    padded = [[c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [padded[0], rule, *padded[1:]])


def spread(row: dict) -> str:
    """A group's 95 % interval; a dash for a single seed."""
    return "–" if row["low"] is None else f"{figure(row['low'])} to {figure(row['high'])}"


def finals(rows: list[dict]) -> list[list[str]]:
    """The table of the final return and its interval of each algorithm in each environment, its head first."""
    cells = {(row["algorithm"], row["environment"]): f"{figure(row['IQM'])} ({spread(row)})" for row in rows}
    algorithms, environments = (list(dict.fromkeys(row[key] for row in rows)) for key in ("algorithm", "environment"))
    return [["", *environments], *([a, *(cells.get((a, e), "") for e in environments)] for a in algorithms)]


def results(rows: list[dict]) -> list[list[str]]:
    """The table of all groups, its head first."""
    lines = [["environment", "algorithm", "seeds", "steps", "final return", "IQM", "95 % interval", "area"]]
    lines[0] += ["evaluation", "threshold", "met", "steps to", "seconds to", "steps/s"]
    for row in rows:
        known = row["threshold"] is not None
        count = f" ({row['reached by']}/{row['seeds']})" if known else ""
        reached = known and np.isfinite(row["steps to"])
        lines.append([row["environment"], row["algorithm"], str(row["seeds"]), si(row["steps"])])
        lines[-1] += [figure(row["final return"]), figure(row["IQM"]), spread(row), figure(row["area"])]
        lines[-1] += [figure(row["evaluation"]), figure(row["threshold"]), ("no", "yes")[row["met"]] if known else "–"]
        lines[-1] += [(si(row["steps to"]) if reached else "–") + count, figure(row["seconds to"]) if reached else "–"]
        lines[-1].append(f"{row['steps/s']:,.0f}")
    return lines


def across(scores: dict[str, dict[str, np.ndarray]]) -> list[list[str]]:
    """The table of normalised interquartile means, its head first."""
    lines = [["algorithm", "environments", "runs", "normalised IQM", "95 % interval"]]
    every = {env_id for by_env in scores.values() for env_id in by_env}
    for algorithm, by_env in scores.items():
        strata, names = list(by_env.values()), "all" if set(by_env) == every else ", ".join(by_env)
        ends = interval(iqm, *strata)
        lines.append([algorithm, names, str(sum(map(len, strata))), f"{iqm(*strata):.3f}"])
        lines[-1].append("– (a single seed)" if ends is None else "{:.3f} to {:.3f}".format(*ends))
    return lines


def improvements(by_env: dict[str, list[Group]]) -> list[list[str]]:
    """The table of probabilities of improvement of each row's algorithm over each column's, its head first."""
    final = {}
    for group in itertools.chain(*by_env.values()):
        final.setdefault(group.algorithm, {})[group.env_id] = group.final
    lines = [["", *final]]
    for x in final:
        lines.append([x])
        for y in final:
            common = [env_id for env_id in final[x] if env_id in final[y]]
            samples = [final[name][env_id] for name in (x, y) for env_id in common]
            if x == y or not common:
                lines[-1].append("–")
                continue
            ends = interval(improvement, *samples)
            spread = "" if ends is None else " ({:.2f} to {:.2f})".format(*ends)
            lines[-1].append(f"{improvement(*samples):.2f}{spread}")
    return lines


def machine_of(manifest: dict) -> str:
    """What a run was measured with."""
    machine, versions = manifest["machine"], ", ".join(f"{name} {v}" for name, v in manifest["versions"].items())
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"
    return f"Measured at commit {manifest['commit']}: {where}, {manifest['workers']} jobs at once; {versions}."


def compare(paths: tuple[Path, ...], metric: str | None, threshold: float | None, out: Path, html: bool) -> int:
    """Write report.md, table.csv, curves.csv and pictures of all runs under the paths to `out`; exit status 0.

    With `html` report.html as well.
    """
    curves, notes = read_runs(paths, metric)
    by_env = group_runs(curves, threshold, returns=metric in (None, *RETURN_TAGS))
    if undrawn := sorted({curve.env_id for curve in curves} - by_env.keys()):
        notes.append(f"references only, left out: {', '.join(undrawn)}")
    groups = list(itertools.chain(*by_env.values()))
    rows = [group.row() for group in groups]
    missed = [row for row, group in zip(rows, groups) if row.get("met") is False and not group.reference]
    notes += caveats(by_env)
    notes += [f"{r['environment']}, {r['algorithm']}: below its threshold" for r in missed]
    scores = normalised(by_env, notes)

    out.mkdir(parents=True, exist_ok=True)
    with (out / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, max(rows, key=len))
        writer.writeheader()
        writer.writerows(rows)
    with (out / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["environment", "algorithm", "step", "seconds", "mean", "iqm", "low", "high"])
        for group in groups:
            band = [[""] * BINS] * 2 if group.band is None else group.band.round(3)
            columns = group.steps.round(1), group.seconds.round(2), group.values.mean(0).round(3), group.curve.round(3)
            writer.writerows([group.env_id, group.algorithm, *point] for point in zip(*columns, *band))
    ylabel = metric or "episode return"
    pictures(by_env, f"{ylabel} (IQM, 95 % interval)", out)

    title, command = f"{len(curves)} runs compared", f"python -m benchmarks {shlex.join(sys.argv[1:])}"
    facts = sorted({machine_of(curve.manifest) for curve in curves if curve.manifest})
    tables = {"finals": finals(rows), "results": results(rows)}
    tables |= {"across": across(scores), "improvements": improvements(by_env)}
    texts = {name: markdown(lines) for name, lines in tables.items()}
    listed = "".join(f"- {note}\n" for note in notes) or "- nothing\n"
    sections = [
        f"# {title}\n\n    {command}\n",
        *(f"{fact}\n" for fact in facts),
        f"![learning curves](overview.png)\n\nFinal return, IQM (95 % interval)\n\n{texts['finals']}\n",
        f"## All figures\n\n{texts['results']}\n\n## To be borne in mind\n\n{listed}",
        f"## Across environments\n\n{texts['across']}\n" if scores else "",
        f"Probability of improvement of the row over the column\n\n{texts['improvements']}\n",
        f"## What the columns are\n\n{EXPLANATION}\n## Curves\n",
        *(f"![{env_id}]({picture_name(env_id)})\n" for env_id in by_env),
    ]
    (out / "report.md").write_text("\n".join(section for section in sections if section))
    print(f"{texts['results']}\n\n{listed}\n{out}/report.md")
    if html:
        from .page import page  # Bokeh and pandas take a second to import

        said = {"command": command, "facts": facts, "notes": notes, "explanation": EXPLANATION}
        (out / "report.html").write_text(page(title, by_env, ylabel, tables, **said))
        print(f"{out}/report.html")
    return 0
