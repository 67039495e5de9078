"""docs/metrics.md: a row for every tag that a script logs, with the scripts that log it."""

import ast
import re

import pytest

from helpers import ROOT, SCRIPTS
from readability import TEXTS

PAGE = (ROOT / "docs" / "metrics.md").read_text()


def logged_tags(text: str) -> set[str]:
    """First argument of every call of `metric` and `add_scalar`: a tag, or Run.log's variable."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("metric", "add_scalar"):
                tag = node.args[0]
                if not isinstance(tag, ast.Constant):
                    assert ast.unparse(tag) == "tag"
                    continue
                found.add(tag.value)
    return found


def rows() -> dict[str, list[str]]:
    """Tag → the cells after it."""
    found = {}
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            tag, *cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
            assert tag not in found
            found[tag.strip("`")] = cells
    return found


def test_tags_are_found():
    text = 'run.metric("losses/a", 1)\nself.writer.add_scalar("eval/b", 2, 3)\nprint("losses/c")'
    assert logged_tags(text) == {"losses/a", "eval/b"}


def test_every_tag_that_is_logged_has_a_row_and_no_row_names_another():
    logged = set().union(*[logged_tags(text) for text in TEXTS.values()])
    assert set(rows()) == logged
    assert len(logged) > 20


@pytest.mark.slow
def test_a_row_names_the_scripts_that_log_the_tag():
    for tag, (scripts, *_) in rows().items():
        logging = {script for script in SCRIPTS if tag in logged_tags(TEXTS[script])}
        named = set(re.findall(r"`(\w+)\.py`", scripts))
        assert named == logging or (scripts == "all" and logging == set(SCRIPTS)), tag


def test_a_row_says_what_is_healthy_and_what_to_do_when_it_is_not():
    for tag, cells in rows().items():
        assert len(cells) == 4 and all(len(cell) > 10 for cell in cells[1:]), tag


def test_every_flag_and_tag_that_the_page_names_is_one():
    for flag in re.findall(r"--([a-z][a-z-]+)", PAGE):
        field = flag.removeprefix("no-").replace("-", "_")
        known = any(re.search(rf"^    {field}: ", text, re.M) for text in TEXTS.values())
        assert known or flag == "logdir", flag
    assert set(re.findall(r"`((?:losses|charts|eval)/\w+)`", PAGE)) == set(rows())
