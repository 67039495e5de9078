"""What keeps the scripts one family: each stands alone, shared blocks are one text, every equation
tag resolves.
"""

import ast
import functools
import io
import re
import shutil
import tokenize

import pytest

from copy_shared import EXCEPTIONS as OWN_SHARED_PARTS
from copy_shared import split_at_marker
from helpers import ROOT, SCRIPTS, short_run_flags
from readability import RUNGS, TEXTS, changed_lines_of_rungs, pieces

# Every script has its own of these.
OWN = {"Args", "train", "check_own"}
# Blocks with another text in some scripts: name → groups of scripts, each with a text of its own.
VARIANTS = {
    # Its statistics are of the data of all processes.
    "RunningStats.update": [["ppo_ddp"]],
    "Agent": [
        ["reinforce"],  # no critic
        ["ppo_clip", "ppo_ddp"],  # new statistics that leave the policy
        ["ppo_kl"],  # those and a KL
        ["dagger"],  # it learns from labels: no distribution
        ["ddpg"],  # a policy without a distribution
        ["td3"],  # a policy without a distribution, and twin critics
        ["sac"],  # twin critics and a distribution
        ["trpo"],  # those, a KL, and parameters of the policy alone
    ],
    # The networks that each needs, and their first values.
    "Agent.__init__": [
        ["reinforce"],
        ["reinforce_baseline"],
        ["a2c"],  # a smaller σ to begin with
        ["ppo_clip", "ppo_ddp", "ppo_kl"],  # a tanh behind the means of Box actions
        ["dagger"],
        ["ddpg"],
        ["td3"],
        ["sac"],
    ],
    # Layer norm, which sac.py has no use for.
    "Critic": [["sac"]],
    "Critic.__init__": [["sac"]],
    "Agent.normalize": [["dagger"]],  # it always normalises
    "Agent.to_env": [["ddpg", "sac", "td3"]],  # Box actions alone, within the bounds by themselves
    "Agent.sample": [["sac"]],  # with log π, by the tanh's density
    # What the rungs from a2c.py on are about.
    "policy_loss": [["a2c"], ["ppo_kl"]],
    # A tanh at the end, and off-policy other networks.
    "export": [["ppo_clip", "ppo_ddp", "ppo_kl"], ["ddpg", "td3"], ["sac"]],
    # Networks of 256 units gain by a second thread.
    "set_threads": [["ddpg", "sac", "td3"]],
}


@functools.cache
def blocks() -> dict[str, dict[str, list[str]]]:
    """Name of a piece → its source → the scripts where it stands so; above the shared part."""
    found = {}
    for script, text in TEXTS.items():
        own_part, _ = split_at_marker(text)
        for name, source in pieces(own_part).items():
            if name.split(".")[0] not in OWN:
                found.setdefault(name, {}).setdefault(source, []).append(script)
    return found


@pytest.mark.parametrize("name", sorted(blocks()))
def test_a_shared_block_is_the_same_everywhere(name):
    """But for the groups of scripts in VARIANTS; in a group it is the same, too."""
    found = sorted(blocks()[name].values())
    own = VARIANTS.get(name, [])
    having_their_own = [script for group in own for script in group]
    others = [script for group in found for script in group if script not in having_their_own]
    expected = [*own, sorted(others)] if others else own
    assert found == sorted(expected)


def test_every_listed_variant_is_there():
    assert VARIANTS.keys() <= blocks().keys()


def test_the_shared_part_is_the_same_in_every_script(script):
    """tools/copy_shared.py copies it from one script to all."""
    _, shared = split_at_marker(TEXTS[script])
    _, model = split_at_marker(TEXTS["ppo_clip"])
    assert shared, "there is no line `# ---- the same in every script`"
    if script not in OWN_SHARED_PARTS:
        assert shared == model
    else:
        differing = pieces(shared).items() ^ pieces(model).items()
        assert {name for name, _ in differing} == OWN_SHARED_PARTS[script]


def test_every_rung_of_the_ladder_changes_something():
    changed = changed_lines_of_rungs()
    assert list(changed) == RUNGS
    assert min(changed.values()) > 0


def test_no_script_imports_another_file_of_ours(script):
    ours = {*SCRIPTS, "benchmarks", "exercises", "tests", "tools"}
    for node in ast.walk(ast.parse(TEXTS[script])):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not ours & {name.split(".")[0] for name in names}


@pytest.mark.quick_for("ppo_clip")
@pytest.mark.parametrize("script", ["ppo_clip", "ppo_ddp", "sac"])
def test_a_copied_script_runs_alone(script, run, tmp_path):
    copy = tmp_path / "elsewhere" / "mine.py"
    copy.parent.mkdir()
    shutil.copy(ROOT / f"{script}.py", copy)
    done = run(script, *short_run_flags(script), path=copy, cwd=copy.parent, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert [path.name.split("__")[1] for path in (copy.parent / "runs").iterdir()] == ["mine"]


def test_the_inline_metadata_names_every_package(script):
    """PEP 723: what `uv run` installs is what the script imports, and mujoco, which has a bound."""
    block = re.search(r"^# /// script\n(.*?)^# ///$", TEXTS[script], re.M | re.S).group(1)
    named = set(re.findall(r'"([a-z]+)', block.split("dependencies")[1]))
    imported = set(re.findall(r"^(?:import|from) (\w+)", TEXTS[script], re.M))
    installed = {"torch", "gymnasium", "tyro", "tqdm", "filelock"}
    packages = installed & imported | {"tensorboard", "mujoco"}
    assert named == packages
    assert "import wandb" in TEXTS[script] and "wandb" not in imported  # only when tracking is on


def test_every_argument_is_documented(script):
    [args] = [node for node in ast.parse(TEXTS[script]).body if getattr(node, "name", "") == "Args"]
    assert ast.get_docstring(args).endswith("the run.")  # the groups, which --help shows
    fields = args.body[1:]
    for field, doc in zip(fields[::2], fields[1::2], strict=True):
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
