"""Numbers and tables as text. A table is a list of rows of cells; its first row is the head."""

import re

import numpy as np

# What Markdown does not show as it is. An underscore within a word is only that.
MARKUP = re.compile(r"[&<>\\`*~$|\[\]]|(?<!\w)_+|_+(?!\w)")
TEXT_COLUMNS = 2  # the first columns of a table are text, the others numbers


def format_number(number: float | None) -> str:
    """A return to about four digits; a dash for None, NaN and infinity."""
    if number is None or not np.isfinite(number):
        return "–"
    if abs(number) >= 1000:
        digits = 0
    elif abs(number) >= 10:
        digits = 1
    else:
        digits = 2
    return f"{number:,.{digits}f}".replace("-", "−")


def format_steps(steps: float) -> str:
    """A number of steps to three digits: 60 k, 1.25 M."""
    if steps >= 999_500_000:
        return f"{steps / 1e6:,.0f} M"
    if steps >= 999_500:
        return f"{steps / 1e6:.3g} M"
    if steps >= 999.5:
        return f"{steps / 1e3:.3g} k"
    return f"{steps:.3g}"


def format_interval(low: float | None, high: float | None) -> str:
    """An interval as `low to high`; a dash if there is none."""
    if low is None:
        return "–"
    return f"{format_number(low)} to {format_number(high)}"


def escape_markdown(text: str) -> str:
    """A text that Markdown shows as it is, on one line, in a cell or anywhere else."""

    def entities(match: re.Match) -> str:
        return "".join(f"&#{ord(character)};" for character in match[0])

    return MARKUP.sub(entities, " ".join(text.split()))


def markdown_table(rows: list[list[str]]) -> str:
    """A table in Markdown, whose columns are aligned in the source, too."""
    num_columns = len(rows[0])
    widths = [max(len(row[column]) for row in rows) for column in range(num_columns)]
    rule = []
    for column, width in enumerate(widths):
        rule.append("-" * width if column < TEXT_COLUMNS else "-" * (width - 1) + ":")
    lines = []
    for row in [rows[0], rule, *rows[1:]]:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths)):
            cells.append(cell.ljust(width) if column < TEXT_COLUMNS else cell.rjust(width))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
