"""The tables of a study's text, read back."""

import itertools
import re


def cells_of_tables(text: str) -> list[list[list[str]]]:
    """Of each table of a text its rows, without the line below the head; of each row its cells."""
    tables = []
    for piped, lines in itertools.groupby(text.splitlines(), lambda line: line.startswith("|")):
        if piped:
            head, _, *rows = [line.strip("|").split("|") for line in lines]
            tables.append([[cell.strip() for cell in row] for row in (head, *rows)])
    return tables


def table(text: str, number: int = 0) -> list[dict[str, str]]:
    """The rows of one of a text's tables, by column."""
    head, *rows = cells_of_tables(text)[number]
    return [dict(zip(head, row)) for row in rows]


def leading_number(cell: str) -> float:
    """The number that a cell begins with."""
    digits = re.match(r"[>≥ ]*(−?[\d,.]+)", cell)[1]
    return float(digits.replace(",", "").replace("−", "-"))
