"""Compare learning curves: write tables, pictures and CSV files of all runs."""

import collections
import csv
import shlex
import sys
from pathlib import Path

import numpy as np

from . import BadInput
from .files import NUMBER, Damaged, check_encodable, check_folder
from .groups import Group, Result, caveats, first_bin, group_curves, summarise
from .options import CompareOptions
from .plots import draw_pictures, picture_names
from .published import Figure, below_published, published_table, read_published
from .readers import (
    CURVES_COLUMNS,
    RUNS_COLUMNS,
    Curve,
    is_return,
    metric_name,
    read_curves,
    read_rows,
)
from .report import (
    Report,
    across_table,
    bullets,
    escaped_table,
    finals_table,
    improvements_table,
    markdown_report,
    results_table,
)
from .stats import BINS

RANDOM_RETURNS = Path(__file__).parent / "reference" / "random.csv"
PUBLISHED = Path(__file__).parent / "reference" / "published.csv"


def compare_runs(options: CompareOptions) -> int:
    """Write the report on all runs under the paths to `options.out`, and return exit status 0.

    The files are report.md, table.csv, runs.csv, curves.csv, a picture an environment and
    overview.png; with `options.html` report.html as well. Raises BadInput if there are no runs.
    """
    check_folder(options.out, "--out")
    if options.threshold is not None and not NUMBER.holds(options.threshold):
        raise BadInput(f"--threshold must be {NUMBER.name}, not {options.threshold}")
    figures = published_figures(options)
    curves, notes = read_curves(options.paths, options.metric)
    by_env = group_curves(curves, options.threshold, is_return(options.metric))
    groups = [group for env_groups in by_env.values() for group in env_groups]
    results = [summarise(group) for group in groups]
    if is_return(options.metric):
        scores, unscored = normalised_scores(by_env)
    else:
        scores = {}
        what = "normalised scores, the thresholds of suites and gymnasium, and published results"
        unscored = [f"{options.metric} is not the training return: {what} are left out"]
    notes += left_out(curves, by_env)
    notes += caveats(by_env)
    notes += below_threshold(results)
    notes += below_published(results, figures)
    notes += unscored
    report = Report(
        title=f"{sum(len(group.seeds) for group in groups)} runs compared",
        command=f"python -m benchmarks {shlex.join(sys.argv[1:])}",
        by_env=by_env,
        ylabel=metric_name(options.metric),
        facts=measurements(curves),
        notes=notes,
        finals=finals_table(results),
        results=results_table(results),
        published=published_table(results, figures),
        across=across_table(scores),
        improvements=improvements_table(groups),
    )

    out = options.out
    for picture in picture_names(list(by_env)).values():
        check_encodable(str(out / picture), "a picture")
    out.mkdir(parents=True, exist_ok=True)
    write_results(out / "table.csv", results)
    write_runs(out / "runs.csv", groups)
    write_curves(out / "curves.csv", groups, options.metric)
    draw_pictures(by_env, f"{report.ylabel} (IQM, 95 % interval)", out)
    write_text(out / "report.md", markdown_report(report))
    print(f"{escaped_table(report.results)}\n\n{bullets(notes)}\n{out}/report.md")
    if options.html:
        from .page import html_report  # Bokeh and pandas take a second to import

        write_text(out / "report.html", html_report(report))
        print(f"{out}/report.html")
    return 0


def published_figures(options: CompareOptions) -> list[Figure]:
    """The published results to be compared with, which are returns. Raises BadInput."""
    if not is_return(options.metric):
        return []
    try:
        return read_published(options.published or PUBLISHED)
    except Damaged as error:
        raise BadInput(f"--published {error}") from error


# ---------------------------------------------------------------- notes


def left_out(curves: list[Curve], by_env: dict[str, list[Group]]) -> list[str]:
    """A note on the environments that only references know."""
    undrawn = {curve.env_id for curve in curves} - by_env.keys()
    if not undrawn:
        return []
    return [f"references only, left out: {', '.join(sorted(undrawn))}"]


def below_threshold(results: list[Result]) -> list[str]:
    """A note on each group that misses its threshold and is no reference."""
    notes = []
    for result in results:
        if result.goal is not None and not result.goal.met and not result.reference:
            notes.append(f"{result.env_id}, {result.algorithm}: below its threshold")
    return notes


def measurements(curves: list[Curve]) -> list[str]:
    """With what the runs were measured, a sentence for each machine, where that is known."""
    commits = collections.defaultdict(set)  # those measured with the same
    for curve in curves:
        if curve.measured_with is not None:
            commits[curve.measured_with].add(curve.manifest["commit"] or "unknown")
    sentences = []
    for measured_with, its_commits in sorted(commits.items()):
        noun = "commit" if len(its_commits) == 1 else "commits"
        names = ", ".join(sorted(its_commits))
        sentences.append(f"Measured at {noun} {names}: {measured_with}.")
    return sentences


# ---------------------------------------------------------------- scores


def random_returns() -> dict[str, float]:
    """Mean return of the random policy in each environment where it was measured.

    Raises Damaged if they cannot be read.
    """
    rows = read_rows(RANDOM_RETURNS)
    try:
        return {row[0]: float(row[1]) for row in rows[1:]}
    except (IndexError, ValueError) as error:
        raise Damaged(f"{RANDOM_RETURNS}: {error}") from error


def normalised_scores(
    by_env: dict[str, list[Group]],
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """Scores (seeds,) by algorithm and environment, and a note on each environment without any.

    A score is 0 for the random policy and 1 for the best mean final return compared here.
    """
    try:
        random = random_returns()
    except Damaged as error:
        return {}, [f"{error}: there are no normalised scores"]
    scores = {}
    notes = []
    for env_id, groups in by_env.items():
        best = max(group.finals.mean() for group in groups)
        reason = None
        if env_id not in random:
            reason = f"not in {RANDOM_RETURNS.name}"
        elif best <= random[env_id]:
            reason = "nothing is better than the random policy"
        if reason is not None:
            notes.append(f"{env_id}: {reason}, so that there are no normalised scores")
            continue
        for group in groups:
            score = (group.finals - random[env_id]) / (best - random[env_id])
            scores.setdefault(group.algorithm, {})[env_id] = score
    return scores, notes


# ---------------------------------------------------------------- files


def write_text(path: Path, text: str) -> None:
    """Write a file. What is no text, as in a folder's name in a note, is escaped."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_results(path: Path, results: list[Result]) -> None:
    """Write table.csv, a group a row. A row without a threshold lacks what depends on it."""
    rows = []
    for result in results:
        row = {
            "environment": result.env_id,
            "algorithm": result.algorithm,
            "seeds": result.seeds,
            "steps": result.steps,
            "final return": result.final_return,
            "IQM": result.iqm,
            "low": result.low,
            "high": result.high,
            "area": result.area,
            "evaluation": result.evaluation,
            "threshold": result.threshold,
        }
        if result.goal is not None:
            row["met"] = result.goal.met
            row["reached by"] = result.goal.reached_by
            row["steps to"] = result.goal.steps_to
            row["seconds to"] = result.goal.seconds_to
        row["steps/s"] = result.steps_per_second
        rows.append(row)
    longest = max(rows, key=len)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(longest))
        writer.writeheader()
        writer.writerows(rows)


def write_runs(path: Path, groups: list[Group]) -> None:
    """Write runs.csv: how each run ended, a run a row. References are left out."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=RUNS_COLUMNS)
        writer.writeheader()
        for group in groups:
            if group.reference:
                continue
            for curve, end, final in zip(group.curves, group.ends, group.finals):
                row = {
                    "environment": group.env_id,
                    "algorithm": group.algorithm,
                    "seed": curve.seed,
                    "steps": round(end),
                    "final return": final.round(3),
                    "evaluation": curve.evaluation,
                    "trained": curve.trained,
                    "threshold": curve.manifest.get("threshold"),
                    "commit": curve.manifest.get("commit"),
                    "script": curve.manifest.get("script"),
                    "measured with": curve.measured_with,
                }
                writer.writerow(row)


def write_curves(path: Path, groups: list[Group], metric: str | None) -> None:
    """Write curves.csv: the mean of each run in each bin of its steps. References are left out.

    A row says at which step and second the bin ends. Bins before a run's first point are left out.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*CURVES_COLUMNS, metric_name(metric)])
        for group in groups:
            if group.reference:
                continue
            bin_ends = np.floor((np.arange(BINS) + 1) * group.end / BINS)
            for curve, values in zip(group.curves, group.values):
                seconds = np.interp(bin_ends, curve.step, curve.seconds)
                key = [group.env_id, group.algorithm, curve.seed]
                for b in range(first_bin(curve.step[0], group.end), BINS):
                    point = [round(bin_ends[b]), seconds[b].round(2), values[b].round(3)]
                    writer.writerow([*key, *point])
