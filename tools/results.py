"""Make the page of all results, and README's table, from what is committed in benchmarks/results.

    python tools/results.py

It writes benchmarks/results/README.md and curves.png, and README's table, which stands between two
comments, `<!-- results -->` and `<!-- end of results -->`.
"""

import collections
import csv
import re
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.groups import Group, group_curves  # noqa: E402
from benchmarks.jobs import digest, read_suite  # noqa: E402
from benchmarks.plots import DPI, FONT, SCRIPT_COLOURS, draw_legend, picture_names  # noqa: E402
from benchmarks.readers import read_curves  # noqa: E402
from benchmarks.tables import format_number, markdown_table  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SUITES = {"cartpole": "CartPole, fifty seeds", "classic": "Classic control", "mujoco": "MuJoCo"}
LADDER = [*SCRIPT_COLOURS, "cleanrl-ppo", "cleanrl-ddpg", "cleanrl-sac"]
README_COLUMNS = {
    "CartPole-v1": "classic",
    "LunarLander-v3": "classic",
    "Pendulum-v1": "classic",
    "HalfCheetah-v4": "mujoco",
    "Hopper-v4": "mujoco",
}
README_TABLE = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end of results -->)", re.S)


# ---------------------------------------------------------------- what is committed


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measured_suites() -> list[str]:
    """The suites of which there are results."""
    return [suite for suite in SUITES if (RESULTS / suite / "table.csv").exists()]


def describe_suite(suite: str) -> str:
    """The comment at the top of the suite's file."""
    lines = []
    for line in (ROOT / "benchmarks" / "suites" / f"{suite}.toml").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("# "))
    return "\n".join(lines)


def section(report: str, title: str) -> str:
    """The text of a report below a title, as far as the next; empty if there is none."""
    match = re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", report, re.M | re.S)
    return match.group(1).strip() if match else ""


# ---------------------------------------------------------------- tables


def in_ladders_order(algorithms: set[str]) -> list[str]:
    """The scripts in the order in which they are read; then the others by name."""
    known = [name for name in LADDER if name in algorithms]
    return known + sorted(algorithms - set(known))


def readme_table() -> str:
    """Interquartile means of the final return: a row an algorithm, a column an environment."""
    returns = {}
    for suite in set(README_COLUMNS.values()):
        for row in read_csv(RESULTS / suite / "table.csv"):
            returns[row["algorithm"], row["environment"]] = float(row["IQM"])
    rows = [["", *README_COLUMNS]]
    for algorithm in LADDER:
        cells = [returns.get((algorithm, env_id)) for env_id in README_COLUMNS]
        if any(cell is not None for cell in cells):
            rows.append([algorithm, *map(format_number, cells)])
    return markdown_table(rows)


def evaluation_table(suite: str) -> str:
    """Evaluations, the mean of the seeds, with the lowest, the highest and their number."""
    ranges = evaluation_ranges(RESULTS / suite / "runs.csv")
    cells = {}
    for row in read_csv(RESULTS / suite / "table.csv"):
        if row["evaluation"]:
            group = row["algorithm"], row["environment"]
            mean = format_number(float(row["evaluation"]))
            seeds = row["seeds"]
            cells[group] = f"{mean} ({ranges.get(group, '')}{seeds})"
    env_ids = sorted({env_id for _, env_id in cells})
    rows = [["", *env_ids]]
    for algorithm in in_ladders_order({algorithm for algorithm, _ in cells}):
        rows.append([algorithm, *[cells.get((algorithm, env_id), "") for env_id in env_ids]])
    return markdown_table(rows)


def evaluation_ranges(path: Path) -> dict[tuple[str, str], str]:
    """The lowest and the highest evaluation of each group in a runs.csv: `−85 to −75; `.

    There are none where that file is missing: reports that are older than it lack it.
    """
    if not path.exists():
        return {}
    evaluations = {}
    for row in read_csv(path):
        if row["evaluation"]:
            group = row["algorithm"], row["environment"]
            evaluations.setdefault(group, []).append(float(row["evaluation"]))
    ranges = {}
    for group, values in evaluations.items():
        ranges[group] = f"{format_number(min(values))} to {format_number(max(values))}; "
    return ranges


def unmeasured_cells(suite: str) -> str:
    """A sentence on the suite's cells of which seeds are missing; empty if there are none."""
    wanted = collections.Counter()
    for job in read_suite(ROOT / "benchmarks" / "suites" / f"{suite}.toml"):
        wanted[job.env_id, job.algorithm] += 1
    measured = collections.Counter()
    for row in read_csv(RESULTS / suite / "runs.csv"):
        measured[row["environment"], row["algorithm"]] += 1
    missing = {}
    for cell, seeds in wanted.items():
        env_id, algorithm = cell
        if measured[cell] == 0:
            missing.setdefault(env_id, []).append(algorithm)
        elif measured[cell] < seeds:
            part = f"{algorithm} (has {measured[cell]} of {seeds} seeds)"
            missing.setdefault(env_id, []).append(part)
    if not missing:
        return ""
    cells = "; ".join(f"{env_id}: {', '.join(names)}" for env_id, names in missing.items())
    return f"Still to be measured, of {sum(wanted.values())} runs: {cells}.\n\n"


def cells_of_older_scripts(suite: str) -> str:
    """A sentence on the cells that were measured before their script was changed last.

    Changes of comments and docstrings do not count. It is empty if there are none.
    """
    script_of = {}
    for job in read_suite(ROOT / "benchmarks" / "suites" / f"{suite}.toml"):
        script_of[job.env_id, job.algorithm] = job.script
    older = {}
    for row in read_csv(RESULTS / suite / "runs.csv"):
        cell = row["environment"], row["algorithm"]
        if cell in script_of and row["script"] != digest(script_of[cell]):
            older.setdefault(row["environment"], {})[row["algorithm"]] = True
    if not older:
        return ""
    cells = "; ".join(f"{env_id}: {', '.join(names)}" for env_id, names in older.items())
    return f"Measured with an older version of the script: {cells}.\n\n"


def below_published(suite: str) -> list[tuple[str, str, str, str]]:
    """Environment, algorithm, own and highest published figure of the cells that are below it."""
    report = (RESULTS / suite / "report.md").read_text("utf-8")
    note = r"^- (\S+), (\S+): (.*) is below the highest published, (.*)$"
    return re.findall(note, report, re.M)


def reasons() -> dict[tuple[str, str], str]:
    """Why a cell is below what others publish: the table of choices.md."""
    choices = (RESULTS / "choices.md").read_text("utf-8")
    rows = section(choices, "Below what others publish")
    found = re.findall(r"^\| (\S+) \| `(\S+)\.py` \| (.*) \|$", rows, re.M)
    return {(env_id, script): reason for env_id, script, reason in found}


def below_list(suite: str) -> str:
    """A line for each cell below the highest published figure, with the reason; may be empty."""
    lines = []
    for env_id, algorithm, own, highest in below_published(suite):
        reason = reasons().get((env_id, algorithm.removesuffix("-1m")), "no reason found yet")
        lines.append(f"- {env_id}, {algorithm}, {own}, beside {highest}: {reason}.")
    return "\n".join(lines)


# ---------------------------------------------------------------- the picture of all curves


def all_groups() -> dict[str, list[Group]]:
    """The scripts' curves in all suites, by environment, in the order in which they are read.

    Of an environment in two suites the later one's are taken. References are left out.
    """
    groups = {}
    for suite in measured_suites():
        curves, _ = read_curves((RESULTS / suite,), None)
        for env_id, of_env in group_curves(curves, None, of_returns=True).items():
            groups[env_id] = [group for group in of_env if group.algorithm in SCRIPT_COLOURS]
    return groups


def draw_all(groups: dict[str, list[Group]]) -> Figure:
    """All curves on one page, a panel an environment, from the first steps on a logarithmic axis.

    The logarithm shows the off-policy scripts' first hundred thousand steps beside a million.
    """
    columns = 3
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(12, 3 * rows + 0.7), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, (env_id, of_env) in zip(axes, groups.items()):
        for group in of_env:
            colour = SCRIPT_COLOURS[group.algorithm]
            begun = slice(group.first_bin, None)
            steps = group.steps[begun]
            ax.plot(
                steps,
                group.iqm_curve[begun],
                color=colour,
                label=group.algorithm,
                linewidth=1.6,
                marker="o" if len(steps) == 1 else None,  # a single point is no line
                markersize=4,
            )
            if group.band is not None:
                low, high = group.band[:, begun]
                ax.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        ax.set_xscale("log")
        ax.set_xlim(left=1000)
        ax.xaxis.set_major_formatter(EngFormatter(sep=" "))
        ax.set_xlabel("environment steps")
        ax.set_title(env_id, fontsize=10)
    for ax in axes[len(groups) :]:
        ax.remove()
    figure.supylabel("episode return (IQM, 95 % interval)", fontsize=10)
    draw_legend(figure)
    return figure


# ---------------------------------------------------------------- the page


def suite_section(suite: str) -> str:
    """A suite's results: what was run, with what, the evaluations, the pictures, the published."""
    report = (RESULTS / suite / "report.md").read_text("utf-8")
    command = re.search(r"^    (python -m benchmarks compare .*)$", report, re.M).group(1)
    measured = "\n".join(re.findall(r"^Measured at commits? .*$", report, re.M))
    env_ids = dict.fromkeys(row["environment"] for row in read_csv(RESULTS / suite / "table.csv"))
    named = picture_names(list(env_ids)).items()
    pictures = ", ".join(f"[{env_id}]({suite}/{name})" for env_id, name in named)
    published = section(report, "Published")
    text = f"""\
## {SUITES[suite]}

{describe_suite(suite)}

{unmeasured_cells(suite)}{cells_of_older_scripts(suite)}![learning curves]({suite}/overview.png)

{measured}

Evaluation of the deterministic policy at the end of training: the mean of the seeds, and in
brackets the lowest, the highest and how many they are.

{evaluation_table(suite)}

Each environment by steps and by wall-clock: {pictures}. Returns of the training with intervals,
speed, and what to be careful about: [{suite}/report.md]({suite}/report.md). Made by

    {command}
"""
    if published:
        text += f"\nWhat others report of the same algorithms after as many steps:\n\n{published}\n"
    if below := below_list(suite):
        text += f"\nBelow the highest of them:\n\n{below}\n"
    return text


def lectures_section() -> str:
    """A link to each claim of the lectures, with its picture and its tables."""
    rows = [["claim", "picture", "tables"]]
    titles = re.findall(
        r"^## (C\w+): (.*)$", (RESULTS / "lectures" / "README.md").read_text("utf-8"), re.M
    )
    for claim, title in titles:
        picture = f"[{claim}.png](lectures/{claim}.png)"
        rows.append([f"{claim}: {title}", picture, f"[{claim}.md](lectures/{claim}.md)"])
    return f"## The lectures' claims, measured\n\n{markdown_table(rows)}\n"


def page() -> str:
    """benchmarks/results/README.md."""
    begin = """\
# Results

Everything that was measured, on seeds that have chosen no default. `python tools/results.py` makes
this page from what is committed in this folder. How the defaults were chosen, on how many settings
and seeds, and what else was measured by hand: [choices.md](choices.md).

The learning curves of all scripts on one page:

![learning curves of all scripts](curves.png)
"""
    parts = [begin, *map(suite_section, measured_suites()), lectures_section()]
    return "\n".join(parts)


def put_into(readme: str) -> str:
    """README's text with the table of now."""
    return README_TABLE.sub(lambda _: f"\n{readme_table()}\n\n", readme)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(put_into(readme.read_text("utf-8")), "utf-8")
    (RESULTS / "README.md").write_text(page(), "utf-8")
    with matplotlib.rc_context(FONT):
        draw_all(all_groups()).savefig(RESULTS / "curves.png")
