"""tools/copy_shared.py, on scripts that are made up."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT

MARKER = f"# {'-' * 64} the same in every script\n"


def copy_shared(script: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "copy_shared.py"), str(script)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def scripts(tmp_path):
    """Three scripts; the last has no shared part yet."""
    texts = {
        "one": f"x = 1\n\n{MARKER}\ndef shared():\n    return 'π'\n",
        "two": f"y = 2\n{MARKER}\ndef old():\n    pass\n",
        "three": "z = 3  # the same in every script\n",
    }
    paths = {name: tmp_path / f"{name}.py" for name in texts}
    for name, text in texts.items():
        paths[name].write_text(text, encoding="utf-8")
    return paths


def test_the_shared_part_alone_is_copied(scripts):
    one = scripts["one"].read_bytes()
    three = scripts["three"].read_bytes()
    done = copy_shared(scripts["one"])
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == "three.py has no such line: left alone\ntwo.py changed\n"
    assert scripts["two"].read_text() == f"y = 2\n{MARKER}\ndef shared():\n    return 'π'\n"
    assert scripts["one"].read_bytes() == one
    assert scripts["three"].read_bytes() == three
    assert "two.py" not in copy_shared(scripts["one"]).stdout  # there is nothing left to do


def test_a_readers_own_copy_is_left_alone(scripts, tmp_path):
    text = f"my = 4\n{MARKER}\ndef mine():\n    pass\n"
    (tmp_path / "my_two.py").write_text(text)
    assert "my_two" not in copy_shared(scripts["one"]).stdout
    assert (tmp_path / "my_two.py").read_text() == text


@pytest.mark.parametrize(
    "name, said", [("three", "has no line '# ---- the same"), ("four", "no such file")]
)
def test_bad_input_is_one_line_and_changes_nothing(scripts, tmp_path, name, said):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = copy_shared(tmp_path / f"{name}.py")
    assert done.returncode == 2 and done.stdout == ""
    assert (
        len(done.stderr.splitlines()) == 1 and f"{name}.py" in done.stderr and said in done.stderr
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
