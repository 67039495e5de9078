"""LECTURES.md: every heading of the decks has a row, in the deck's order, and what a row names is
there.
"""

import re

import pytest

from helpers import ROOT, TESTS
from readability import TEXTS, pieces

LECTURES = (ROOT / "LECTURES.md").read_text()
CLAIMS = (ROOT / "benchmarks/results/lectures/README.md").read_text()
DECKS = ["L1", "L2", "L3", "L4", "L5"]
TEST_TEXTS = "\n".join(path.read_text() for path in TESTS.rglob("test_*.py"))


def listed(deck: str) -> list[str]:
    """The headings of a deck, of tests/lecture_headings.txt, in the deck's order."""
    lines = (TESTS / "lecture_headings.txt").read_text().splitlines()
    return [line.removeprefix(f"{deck} ") for line in lines if line.startswith(f"{deck} ")]


def section(title: str) -> str:
    """The text below the heading that begins with the title."""
    return re.search(rf"^## {title}\b.*?\n(.*?)(?=^## |\Z)", LECTURES, re.M | re.S)[1]


def rows(title: str, num_cells: int) -> list[tuple[str, ...]]:
    """The rows of the table in a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    table = [tuple(line.removeprefix("| ").removesuffix(" |").split(" | ")) for line in lines]
    assert all(len(row) == num_cells for row in table)
    return table[1:]


def headings(cell: str) -> list[str]:
    """What a cell stands for: `Proof ×2` twice, `p22–23 CREDIT` each page of it."""
    pattern = r"(?:(p|no\. )(\d+)(?:–(\d+))? )?(.*?)(?: ×(\d+))?"
    prefix, first, last, title, times = re.fullmatch(pattern, cell).groups()
    if prefix is None:
        return [title] * int(times or 1)
    numbers = range(int(first), int(last or first) + 1)
    return [f"{prefix}{number} {title}" for number in numbers]


def test_a_cell_stands_for_one_heading_or_several():
    assert headings("Proof") == ["Proof"]
    assert headings("Proof ×2") == ["Proof", "Proof"]
    assert headings("p5 STATES") == ["p5 STATES"]
    assert headings("no. 9–11 RL") == ["no. 9 RL", "no. 10 RL", "no. 11 RL"]


@pytest.mark.parametrize("deck", DECKS)
def test_every_heading_of_a_deck_has_a_row_in_the_decks_order(deck):
    in_table = [heading for row in rows(deck, 3) for heading in headings(row[0])]
    assert in_table == listed(deck)
    assert len(in_table) > 20


def test_every_slip_is_of_a_slide():
    for deck, heading, says, has in rows("Slips in the decks", 4):
        assert heading in listed(deck)
        assert says and has


def resolves(name: str) -> bool:
    """Whether what stands in backticks is a script's function, a test, a flag or a path."""
    file, _, function = name.partition(":")
    script = file.removesuffix(".py")
    if script in TEXTS:
        return function in ("", "docstring") or function in pieces(TEXTS[script])
    if re.match("test_|Test", name):
        is_file = bool(list(TESTS.rglob(name)))
        return is_file or bool(re.search(rf"^(def|class) {name}\b", TEST_TEXTS, re.M))
    if name.startswith("--"):
        # A flag is a field of Args; --no- in front of one turns it off.
        field = name.removeprefix("--").removeprefix("no-").replace("-", "_")
        return any(re.search(rf"^    {field}: ", text, re.M) for text in TEXTS.values())
    return (ROOT / name).exists()


def test_what_is_not_there_does_not_resolve():
    for name in ("ppo_clip.py:clip", "a3c.py:train", "test_nothing", "--no-such-flag", "no/file"):
        assert not resolves(name)


def without_formulas(text: str) -> str:
    return re.sub(r"\$`[^`]*`\$", "", text)


def names(text: str) -> list[str]:
    """What stands in backticks, but for formulas, which stand in $`…`$, and whole commands."""
    found = re.findall(r"`([^`]+)`", without_formulas(text))
    return [name for name in found if not name.startswith("grep ")]


def test_every_function_test_flag_and_file_that_is_named_is_there():
    named = names(LECTURES)
    assert [name for name in named if not resolves(name)] == []
    assert len(named) > 100


def test_every_tag_that_is_named_is_an_equation():
    """And every equation but [temperature], which no deck has, is on a slide."""
    known = [row[0] for row in rows("Equations", 4)]
    named = set(re.findall(r"\[[a-z]+(?:-[a-z]+)*\](?!\()", without_formulas(LECTURES)))
    on_slides = set()
    for deck in DECKS:
        for _, _, here in rows(deck, 3):
            on_slides.update(re.findall(r"\[[a-z]+(?:-[a-z]+)*\]", here))
    assert named == set(known)
    assert on_slides == named - {"[temperature]"}
    assert len(known) == len(set(known))


def test_every_claim_that_is_named_is_measured():
    measured = re.findall(r"^## (C\w+):", CLAIMS, re.M)
    named = re.findall(r"\bC\d+b?\b", LECTURES)
    assert set(named) == set(measured)


@pytest.mark.parametrize("deck", DECKS)
def test_every_row_leads_somewhere_or_says_why_not(deck):
    for heading, _, here in rows(deck, 3):
        leads = re.search(r"\bC\d|\[[a-z-]+\]", here) or names(here)
        reason = re.search(r"not here: .{5}", here)
        assert leads or reason, heading


@pytest.mark.parametrize("title", [*DECKS, "Equations", "Slips in the decks"])
def test_formulas_are_whole(title):
    """GitHub renders $`…`$ in a table as long as no | is in it and every brace is closed."""
    for row in re.findall(r"^\| .*$", section(title), re.M):
        for formula in re.findall(r"\$`([^`]*)`\$", row):
            assert "|" not in formula and formula.count("{") == formula.count("}")
        assert "$" not in without_formulas(row)


@pytest.mark.parametrize("script", TEXTS)
def test_a_scripts_docstring_names_slides_of_the_decks(script):
    [line] = re.findall(r"^Lectures    (.*(?:\n            .*)*)", TEXTS[script], re.M)
    line = " ".join(line.split())
    for part in line.split("; "):
        deck = part[:2]
        assert deck in DECKS
        for title in re.findall(r'"([^"]*)"', part):
            assert any(title in heading for heading in listed(deck)), title
        pages = [int(page) for page in re.findall(r"\b\d+\b", part)]
        assert all(3 <= page <= 73 for page in pages)
