"""The report: its tables, and report.md. A table is a list of rows; the first is its head."""

from dataclasses import dataclass
from urllib.parse import quote

import numpy as np

from .groups import Group, Result
from .plots import picture_names
from .stats import BINS, bootstrap_interval, iqm, probability_of_improvement
from .tables import (
    escape_markdown,
    format_interval,
    format_number,
    format_steps,
    markdown_table,
)

EXPLANATION = f"""\
A run's curve is its mean return in each of {BINS} equal bins of its steps, interpolated linearly
where a bin is empty, before the first point that point's; the runs of a group are cut where the
shortest ends.

- *final return*: the mean over the last tenth of training, then over the seeds. *area*: the mean
  over all of training.
- *IQM*: interquartile mean of the seeds' final returns (of fewer than four seeds the mean), with a
  95 % bootstrap interval over the seeds by the percentile method, which is too narrow with few
  seeds.
- *evaluation*: mean return of the deterministic policy at the end, where the script reports it.
- *met*: whether the evaluation, or else the final return, reaches the threshold. *steps to*,
  *seconds to*: where the mean over a sliding window, a twentieth of the training, first reaches it;
  the median of the seeds; in brackets how many of them do.
- *steps/s*: of training, the median of the seeds. A reference's seconds hold whatever else ran on
  its machine.
- *published*: what others report of the same algorithm after as many steps, within 2 %, the highest
  first; in brackets the source, its version of the environment, its seeds. Evaluations stand beside
  the evaluation, returns of the training beside the final return.
- A normalised score is 0 for the random policy (`benchmarks/reference/random.csv`) and 1 for the
  best mean final return compared here in that environment. Its IQM is over all seeds of all
  environments that an algorithm ran in, with a bootstrap stratified by environment. Rows over
  different environments are not comparable.
- The probability of improvement is the chance that a seed of the row's algorithm ends above one of
  the column's, ties counted half, averaged over the environments that both ran in, with a
  bootstrap stratified by environment.
"""


@dataclass
class Report:
    """What report.md and report.html show."""

    title: str
    command: str
    """the command line that makes the report"""
    by_env: dict[str, list[Group]]
    ylabel: str
    facts: list[str]
    """what the runs were measured with"""
    notes: list[str]
    """what to be careful about"""
    finals: list[list[str]]
    """table of the final returns: an algorithm a row, an environment a column"""
    results: list[list[str]]
    """table of all figures: a group a row"""
    published: list[list[str]]
    """table of published figures beside ours; only its head if there are none"""
    across: list[list[str]]
    """table of normalised scores; only its head if there are none"""
    improvements: list[list[str]]
    """table of probabilities of improvement"""


# ---------------------------------------------------------------- tables


def finals_table(results: list[Result]) -> list[list[str]]:
    """The final return of each algorithm in each environment, with its interval."""
    cells = {}
    for result in results:
        interval = format_interval(result.low, result.high)
        cell = f"{format_number(result.iqm)} ({interval})"
        cells[result.algorithm, result.env_id] = cell
    algorithms = unique(result.algorithm for result in results)
    env_ids = unique(result.env_id for result in results)
    rows = [["", *env_ids]]
    for algorithm in algorithms:
        rows.append([algorithm, *[cells.get((algorithm, env_id), "") for env_id in env_ids]])
    return rows


def unique(names) -> list[str]:
    """The names without repetition, in order of their first appearance."""
    return list(dict.fromkeys(names))


def results_table(results: list[Result]) -> list[list[str]]:
    """All figures of all groups."""
    rows = [results_row(result) for result in results]
    head = list(rows[0].keys())
    return [head, *[list(row.values()) for row in rows]]


def results_row(result: Result) -> dict[str, str]:
    """All figures of a group, by the head of their column."""
    goal = result.goal
    met = "–"
    steps_to = "–"
    seconds_to = "–"
    if goal is not None:
        met = "yes" if goal.met else "no"
        if np.isfinite(goal.steps_to):
            steps_to = format_steps(goal.steps_to)
            seconds_to = format_number(goal.seconds_to)
        steps_to += f" ({goal.reached_by}/{result.seeds})"
    return {
        "environment": result.env_id,
        "algorithm": result.algorithm,
        "seeds": str(result.seeds),
        "steps": format_steps(result.steps),
        "final return": format_number(result.final_return),
        "IQM": format_number(result.iqm),
        "95 % interval": format_interval(result.low, result.high),
        "area": format_number(result.area),
        "evaluation": format_number(result.evaluation),
        "threshold": format_number(result.threshold),
        "met": met,
        "steps to": steps_to,
        "seconds to": seconds_to,
        "steps/s": f"{result.steps_per_second:,.0f}",
    }


def across_table(scores: dict[str, dict[str, np.ndarray]]) -> list[list[str]]:
    """The interquartile mean of each algorithm's normalised scores over its environments."""
    rows = [["algorithm", "environments", "runs", "normalised IQM", "95 % interval"]]
    all_envs = {env_id for by_env in scores.values() for env_id in by_env}
    for algorithm, by_env in scores.items():
        samples = list(by_env.values())
        environments = "all" if by_env.keys() == all_envs else ", ".join(by_env)
        runs = sum(len(sample) for sample in samples)
        interval = bootstrap_interval(iqm, *samples)
        if interval is None:
            interval_text = "– (a single seed)"
        else:
            low, high = interval
            interval_text = f"{low:.3f} to {high:.3f}"
        score = f"{iqm(*samples):.3f}"
        rows.append([algorithm, environments, str(runs), score, interval_text])
    return rows


def improvements_table(groups: list[Group]) -> list[list[str]]:
    """The probability that the row's algorithm ends above the column's."""
    finals = {}
    for group in groups:
        finals.setdefault(group.algorithm, {})[group.env_id] = group.finals
    rows = [["", *finals]]
    for algorithm in finals:
        row = [algorithm]
        for other in finals:
            if other == algorithm:
                row.append("–")
            else:
                row.append(improvement_cell(finals[algorithm], finals[other]))
        rows.append(row)
    return rows


def improvement_cell(x: dict[str, np.ndarray], y: dict[str, np.ndarray]) -> str:
    """P(X > Y) of the final returns (seeds,) in each environment, with its interval."""
    common = [env_id for env_id in x if env_id in y]
    if not common:
        return "–"
    samples = [x[env_id] for env_id in common] + [y[env_id] for env_id in common]
    text = f"{probability_of_improvement(*samples):.2f}"
    interval = bootstrap_interval(probability_of_improvement, *samples)
    if interval is None:
        return text
    low, high = interval
    return f"{text} ({low:.2f} to {high:.2f})"


# ---------------------------------------------------------------- report.md


def bullets(notes: list[str]) -> str:
    """The notes as a list in Markdown."""
    lines = notes or ["nothing"]
    return "".join(f"- {line}\n" for line in lines)


def escaped_table(rows: list[list[str]]) -> str:
    """A table in Markdown, with names in it that nobody has chosen for Markdown."""
    return markdown_table([[escape_markdown(cell) for cell in row] for row in rows])


def markdown_report(report: Report) -> str:
    """report.md: the tables, the notes, what the columns are, and the pictures."""
    notes = [escape_markdown(note) for note in report.notes]
    sections = [f"# {report.title}\n\n    {report.command}\n"]
    for fact in report.facts:
        sections.append(f"{escape_markdown(fact)}\n")
    sections.append("![learning curves](overview.png)\n")
    sections.append(f"Final return, IQM (95 % interval)\n\n{escaped_table(report.finals)}\n")
    sections.append(f"## All figures\n\n{escaped_table(report.results)}\n")
    if len(report.published) > 1:
        sections.append(f"## Published\n\n{escaped_table(report.published)}\n")
    sections.append(f"## To be borne in mind\n\n{bullets(notes)}")
    if len(report.across) > 1:
        sections.append(f"## Across environments\n\n{escaped_table(report.across)}\n")
    improvements = escaped_table(report.improvements)
    sections.append(f"Probability of improvement of the row over the column\n\n{improvements}\n")
    sections.append(f"## What the columns are\n\n{EXPLANATION}\n## Curves\n")
    for env_id, picture in picture_names(list(report.by_env)).items():
        sections.append(f"![{escape_markdown(env_id)}]({quote(picture)})\n")
    return "\n".join(sections)
