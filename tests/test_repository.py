"""What keeps the scripts one family: each stands alone, shared blocks are one text, every equation tag resolves."""

import ast
import io
import re
import shutil
import tokenize

import pytest
from conftest import ROOT, SCRIPTS

TEXTS = {script: (ROOT / f"{script}.py").read_text() for script in SCRIPTS}
# Names that may differ from script to script, beside those.
OWN = {"Args", "train", "check"}


def blocks() -> dict[str, dict[str, list[str]]]:
    """Name of a top-level function or class → its source → the scripts where it stands so."""
    found = {}
    for script, text in TEXTS.items():
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in OWN:
                source = ast.get_source_segment(text, node)
                found.setdefault(node.name, {}).setdefault(source, []).append(script)
    return found


@pytest.mark.parametrize("name", sorted(blocks()))
def test_a_shared_block_is_the_same_everywhere(name):
    variants = list(blocks()[name].values())
    assert len(variants) == 1, f"{name} differs between {variants}"


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
    flags = ("--total-timesteps", 8192, "--eval-episodes", 2)
    done = run(script, *flags, path=copy, cwd=copy.parent, PYTHONPATH="")
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
        assert isinstance(field, ast.AnnAssign) and isinstance(doc.value.value, str), field.target.id


def lectured() -> list[tuple[str, str]]:
    """(tag, script:function) of every place that LECTURES.md names."""
    rows = re.findall(r"^\| \[([a-z-]+)\] \|.*\| ([^|]*) \|$", (ROOT / "LECTURES.md").read_text(), re.M)
    return [(tag, place) for tag, places in rows for place in re.findall(r"`([^`]+)`", places)]


def functions(script: str) -> dict[str, str]:
    """Source of each function, class and method of a script, and of its docstring as `docstring`."""
    text, found = TEXTS[script], {}
    tree = ast.parse(text)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = ast.get_source_segment(text, node)
            for method in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(method, ast.FunctionDef):
                    found[f"{node.name}.{method.name}"] = ast.get_source_segment(text, method)
    return {**found, "docstring": ast.get_docstring(tree)}


@pytest.mark.parametrize("tag, place", lectured())
def test_what_lectures_md_names_carries_the_tag(tag, place):
    script, _, function = place.partition(":")
    assert f"[{tag}]" in functions(script.removesuffix(".py"))[function]


def test_every_tag_of_a_script_is_in_lectures_md(script):
    tokens = tokenize.generate_tokens(io.StringIO(TEXTS[script]).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    text = "\n".join([*comments, ast.get_docstring(ast.parse(TEXTS[script]))])
    tags = set(re.findall(r"\[([a-z]+(?:-[a-z]+)*)\]", text))
    assert tags == {tag for tag, place in lectured() if place.startswith(f"{script}.py:")} and tags
