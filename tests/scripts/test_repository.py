"""What keeps the scripts one family: each stands alone, shared blocks are one text, every equation tag resolves."""

import ast
import io
import re
import shutil
import tokenize

import pytest

from helpers import ROOT, SCRIPTS, short_run_flags
from readability import LADDER, TEXTS, changed_lines, code

# Names that may differ from script to script, and a block that differs in one script for a reason.
OWN = {"Args", "train", "check"}
EXCEPTIONS = {
    ("reinforce", "Agent", "has no critic"): ("", ".__init__"),
    ("dagger", "Agent", "its statistics are its dataset's"): (
        "",
        ".__init__",
        ".normalize",
        ".export",
    ),
    ("ddpg", "Agent", "Box actions alone, a tanh"): (
        "",
        ".__init__",
        ".normalize",
        ".act",
        ".to_env",
        ".export",
    ),
    ("sac", "Agent", "likewise, two critics"): (
        "",
        ".__init__",
        ".normalize",
        ".sample",
        ".q",
        ".to_env",
        ".export",
    ),
}
EXCEPTIONS = {
    (script, name + part) for (script, name, _), parts in EXCEPTIONS.items() for part in parts
}


def pieces(text: str) -> dict[str, str]:
    """Source of each top-level function; of a class without its methods, and of each of these as Class.method."""
    lines, found = text.splitlines(), {}

    def source(node) -> str:
        first = min(part.lineno for part in [node, *node.decorator_list])
        return "\n".join(lines[first - 1 : node.end_lineno])

    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = source(node)
        for method in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(method, ast.FunctionDef):
                found[f"{node.name}.{method.name}"] = source(method)
                found[node.name] = found[node.name].replace(
                    source(method), f"    def {method.name}"
                )
    return found


def blocks() -> dict[str, dict[str, list[str]]]:
    """Name of a piece → its source → the scripts where it stands so."""
    found = {}
    for script, text in TEXTS.items():
        for name, source in pieces(text).items():
            if name.split(".")[0] not in OWN and (script, name) not in EXCEPTIONS:
                found.setdefault(name, {}).setdefault(source, []).append(script)
    return found


@pytest.mark.parametrize("name", sorted(blocks()))
def test_a_shared_block_is_the_same_everywhere(name):
    variants = list(blocks()[name].values())
    assert len(variants) == 1, f"{name} differs between {variants}"


def test_the_exceptions_are_needed():
    shared = blocks()
    for script, name in EXCEPTIONS:
        assert pieces(TEXTS[script])[name] not in shared[name]


def test_a_script_has_at_most_320_lines_of_code(script):
    data_parallel = 29 * (
        script in ("a2c", "ppo_clip", "ppo_kl")
    )  # which every other script is without
    assert 200 < len(code(script)) - data_parallel <= (300 if script == "dagger" else 320)


def test_each_rung_of_the_ladder_changes_little():
    """The figures are printed at the end of the tests."""
    for rung, lines in changed_lines().items():
        assert 0 < lines <= LADDER[rung], rung


def test_no_script_imports_another_file_of_ours(script):
    ours = {*SCRIPTS, "benchmarks", "tests"}
    for node in ast.walk(ast.parse(TEXTS[script])):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not ours & {name.split(".")[0] for name in names}


def test_a_copied_script_runs_alone(script, run, tmp_path):
    copy = tmp_path / "elsewhere" / "mine.py"
    copy.parent.mkdir()
    shutil.copy(ROOT / f"{script}.py", copy)
    done = run(script, *short_run_flags(script), path=copy, cwd=copy.parent, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert [path.name.split("__")[1] for path in (copy.parent / "runs").iterdir()] == ["mine"]


def test_the_inline_metadata_names_every_package(script):
    """PEP 723: what `uv run` installs is what the script imports."""
    block = re.search(r"^# /// script\n(.*?)^# ///$", TEXTS[script], re.M | re.S).group(1)
    named = set(re.findall(r'"([a-z]+)', block.split("dependencies")[1]))
    imported = set(re.findall(r"^(?:import|from) (\w+)", TEXTS[script], re.M))
    packages = {"torch", "gymnasium", "tyro", "tqdm"} & imported | {"tensorboard"}
    assert named == packages
    assert "import wandb" in TEXTS[script] and "wandb" not in imported  # only when tracking is on


def test_every_argument_is_documented(script):
    [args] = [node for node in ast.parse(TEXTS[script]).body if getattr(node, "name", "") == "Args"]
    for field, doc in zip(args.body[::2], args.body[1::2], strict=True):
        assert isinstance(field, ast.AnnAssign) and isinstance(doc.value.value, str), (
            field.target.id
        )


def lectured() -> list[tuple[str, str]]:
    """(tag, script:function) of every place that LECTURES.md names."""
    rows = re.findall(
        r"^\| \[([a-z-]+)\] \|.*\| ([^|]*) \|$", (ROOT / "LECTURES.md").read_text(), re.M
    )
    return [(tag, place) for tag, places in rows for place in re.findall(r"`([^`]+)`", places)]


@pytest.mark.parametrize("tag, place", lectured())
def test_what_lectures_md_names_carries_the_tag(tag, place):
    file, _, name = place.partition(":")
    text = TEXTS[file.removesuffix(".py")]
    assert f"[{tag}]" in {**pieces(text), "docstring": ast.get_docstring(ast.parse(text))}[name]


def test_every_tag_of_a_script_is_in_lectures_md(script):
    tokens = tokenize.generate_tokens(io.StringIO(TEXTS[script]).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    text = "\n".join([*comments, ast.get_docstring(ast.parse(TEXTS[script]))])
    tags = set(re.findall(r"\[([a-z]+(?:-[a-z]+)*)\]", text))
    assert tags == {tag for tag, place in lectured() if place.startswith(f"{script}.py:")} and tags
