"""The rules of plain code and the order of a script's parts, of every script; and that the checks
find what they look for, on a script that is made up.
"""

import pytest

from readability import (
    TEXTS,
    algorithm_lines,
    changed_lines,
    code_lines,
    docstring_length,
    long_lines,
    misplaced_parts,
    nested_conditionals,
    nodes_a_line,
    packed_assignments,
    pieces,
    share_of_algorithm,
    walruses_in_calls,
)


@pytest.mark.parametrize(
    "breaches", [long_lines, packed_assignments, walruses_in_calls, nested_conditionals]
)
def test_no_line_breaks_a_rule_of_plain_code(script, breaches):
    assert breaches(TEXTS[script]) == []


def test_the_docstring_has_at_most_40_lines(script):
    assert docstring_length(TEXTS[script]) <= 40


def test_the_algorithm_comes_first_and_the_rest_after_it(script):
    assert misplaced_parts(TEXTS[script]) == []


PLAIN = '''# /// script
# ///
"""An algorithm.

Objective   J
"""

import torch
from torch import nn

SCRIPT = "plain"


@dataclass
class Args:
    gamma: float = 0.99
    """discount"""


# ================================ the algorithm ================================


def mlp():
    return nn.Linear(3, 3)


class Agent(nn.Module):
    """A network."""

    @torch.no_grad()
    def act(self, x):
        # the mode
        return self(x)


def loss(x):
    return x.square()


class Rollout:
    obs: int


def train(args):
    loss(1)


# ============ the rest is not the algorithm, and can be skipped ============


def export():
    pass


# ---------------------------------------------------------------- the same in every script


class Float(nn.Module):
    pass


if __name__ == "__main__":
    train(Args())
'''


def test_the_made_up_script_is_plain():
    assert misplaced_parts(PLAIN) == []
    for breaches in (long_lines, packed_assignments, walruses_in_calls, nested_conditionals):
        assert breaches(PLAIN) == []


FIRST_BANNER = "# ================================ the algorithm ================================\n"
SECOND_BANNER = "# ============ the rest is not the algorithm, and can be skipped ============\n"
TRAIN = "def train(args):\n    loss(1)\n"


@pytest.mark.parametrize(
    "old, new, complaint",
    [
        (FIRST_BANNER, "", "not exactly one"),
        (FIRST_BANNER, FIRST_BANNER * 2, "not exactly one"),
        (SECOND_BANNER, "", "not exactly one"),
        ("# /// script\n", "", "begin with the PEP 723 block"),
        ('"""An algorithm.', 'text = """An algorithm.', "the docstring"),
        ("def mlp", "import numpy\n\n\ndef mlp", "line 23 belongs further up"),
        (FIRST_BANNER, f"def early():\n    pass\n\n\n{FIRST_BANNER}", "wrong side of the first"),
        (FIRST_BANNER, f"{FIRST_BANNER}class Args:\n    pass\n\n\n", "wrong side of the first"),
        ("class Rollout", "class Q(nn.Module):\n    pass\n\n\nclass Rollout", None),
        ("def train", "class Q(nn.Module):\n    pass\n\n\ndef train", "line 44 belongs further up"),
        (SECOND_BANNER, f"def late():\n    pass\n\n\n{SECOND_BANNER}", "belongs further up"),
        (TRAIN, "", "train does not end"),
        (f"{TRAIN}\n\n{SECOND_BANNER}", f"{SECOND_BANNER}\n\n{TRAIN}", "train does not end"),
        ("    train(Args())\n", "    train(Args())\n\nx = 1\n", "does not end with"),
    ],
)
def test_parts_in_another_order_are_found(old, new, complaint):
    text = PLAIN.replace(old, new)
    assert text != PLAIN
    found = misplaced_parts(text)
    if complaint is None:
        assert found == []
    else:
        assert len(found) == 1 and complaint in found[0]


PACKED = """\
a, b = f()
a, b = x, y
(a, b), c = (x, y), z
a = x, y
a = b, c = x, y
for a, b in x, y: pass
"""
WALRUSES = """\
f(a := 1)
f(
    [b for c in d if (b := c)],
    e=(g := 2),
)
if x := f():
    y = (z := f(1))
"""
CONDITIONALS = """\
a if b else c
a if b else c if d else e
f(a if b else [c if d else e])
x = [a if b else c, a if b else c]
a if (b if c else d) else e
"""


def test_lines_that_break_a_rule_of_plain_code_are_found():
    assert long_lines(f"{'x' * 100}\n{'ä' * 101}\n") == [2]
    assert packed_assignments(PACKED) == [2, 3, 5]
    assert walruses_in_calls(WALRUSES) == [1, 3, 4]
    assert nested_conditionals(CONDITIONALS) == [2, 3, 5]


def test_what_counts_as_code():
    lines = PLAIN.splitlines()
    code = [lines[number - 1].strip() for number in code_lines(PLAIN)]
    first_half = ["import torch", "from torch import nn", 'SCRIPT = "plain"', "def mlp():"]
    first_half += ["return nn.Linear(3, 3)", "class Agent(nn.Module):", "@torch.no_grad()"]
    first_half += ["def act(self, x):", "return self(x)", "def loss(x):", "return x.square()"]
    first_half += ["class Rollout:", "obs: int", "def train(args):", "loss(1)"]
    rest = ["def export():", "pass", "class Float(nn.Module):", "pass"]
    rest += ['if __name__ == "__main__":', "train(Args())"]
    assert code == first_half + rest
    assert share_of_algorithm(PLAIN) == 12 / 21  # of the first half less three lines
    assert [lines[number - 1] for number in algorithm_lines(PLAIN)][-3] == "    loss(1)"
    assert share_of_algorithm(PLAIN.replace(FIRST_BANNER, "")) is None


def test_nodes_a_line():
    # line 1: Assign, Name, Constant; line 3: Assign, Name, Call, Name; line 4: Constant
    assert nodes_a_line("x = 1\n\ny = f(\n    2\n)\nclass Args:\n    z: int = 3\n") == 8 / 3


def test_changed_lines():
    lower = '"""A text."""\na = 1\nb = 2\nc = 3\n\n\nd = 4\n'
    upper = '"""Another."""\na = 1\nb = 5\n# why\nb2 = 6\nc = 3\nd = 4\ne = 7\n'
    assert changed_lines(lower, upper) == changed_lines(upper, lower) == 3
    assert changed_lines(lower, lower) == 0


def test_pieces():
    found = pieces(PLAIN)
    names = ["Args", "mlp", "Agent", "Agent.act", "loss", "Rollout", "train", "export", "Float"]
    assert list(found) == names
    assert found["Agent"] == 'class Agent(nn.Module):\n    """A network."""\n\n    def act'
    assert found["Agent.act"].startswith("    @torch.no_grad()\n    def act(self, x):")
    assert found["Args"].startswith("@dataclass\n")
