"""The scripts as text: their parts, what breaks the rules of plain code, and how they read.

Every function takes the text of a script, so that it can be tried on a text that is made up.
"""

import ast
import difflib
import functools
import io
import tokenize

from helpers import ROOT, SCRIPTS

TEXTS = {script: (ROOT / f"{script}.py").read_text() for script in SCRIPTS}
ALGORITHM_BANNER = "the algorithm"
REST_BANNER = "the rest is not the algorithm, and can be skipped"
ROLLOUT_CLASSES = {"Rollout", "Collector", "ReplayBuffer", "Dataset"}
# Neighbours whose difference is one idea.
RUNGS = [
    ("reinforce", "reinforce_baseline"),
    ("reinforce_baseline", "a2c"),
    ("a2c", "ppo_clip"),
    ("ppo_clip", "ppo_kl"),
    ("ppo_clip", "ppo_ddp"),
    ("a2c", "trpo"),
    ("ddpg", "td3"),
    ("td3", "sac"),
]


# ---------------------------------------------------------------- parts


def source_of(node: ast.AST, lines: list[str]) -> str:
    """The text of a function or class, decorators included."""
    first = min(part.lineno for part in [node, *node.decorator_list])
    return "\n".join(lines[first - 1 : node.end_lineno])


@functools.cache
def pieces(text: str) -> dict[str, str]:
    """Name → source: of each top-level function; of a class without its methods, and of each method
    as Class.method.
    """
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = source_of(node, lines)
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            for method in methods:
                source = source_of(method, lines)
                found[f"{node.name}.{method.name}"] = source
                found[node.name] = found[node.name].replace(source, f"    def {method.name}")
    return found


def banner_lines(text: str, title: str) -> list[int]:
    """Numbers of the comment lines `# ==== title ====`."""
    numbered = enumerate(text.splitlines(), 1)
    return [n for n, line in numbered if line.startswith("# =") and line.strip("#= ") == title]


def algorithm_lines(text: str) -> range | None:
    """Numbers of the lines between the two banners; None without exactly one of each."""
    begins = banner_lines(text, ALGORITHM_BANNER)
    ends = banner_lines(text, REST_BANNER)
    if len(begins) != 1 or len(ends) != 1:
        return None
    return range(begins[0] + 1, ends[0])


def is_network(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any("Module" in ast.unparse(b) for b in node.bases)


IMPORT, ARGS, NETWORK, ROLLOUT, TRAIN = range(5)  # in the order in which they stand


def rank_of_part(node: ast.AST, rank_above: int) -> int | None:
    """Where a part of the first half belongs; None for what may stand anywhere, as a constant may.

    A function may be a network's, a formula, or the rollout's. It counts as what it stands among.
    """
    if isinstance(node, ast.Import | ast.ImportFrom):
        return IMPORT
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
        return None
    if is_network(node):
        return NETWORK
    by_name = {"Args": ARGS, "train": TRAIN} | dict.fromkeys(ROLLOUT_CLASSES, ROLLOUT)
    between = min(max(rank_above, NETWORK), ROLLOUT)
    return by_name.get(node.name, between)


def misplaced_parts(text: str) -> list[str]:
    """What breaks the order of a script's parts.

    They are the PEP 723 block, docstring, imports, Args, first banner, networks, mathematics,
    rollout, train, second banner, the rest.
    """
    half = algorithm_lines(text)
    if half is None:
        return ["there is not exactly one of each banner"]
    found = []
    tree = ast.parse(text)
    if not text.startswith("# /// script\n") or ast.get_docstring(tree) is None:
        found.append("the file does not begin with the PEP 723 block and the docstring")
    rank_above = IMPORT
    for node in tree.body:
        rank = rank_of_part(node, rank_above)
        if node.lineno >= half.stop or rank is None:
            continue
        if rank < rank_above:
            found.append(f"line {node.lineno} belongs further up")
        elif (rank <= ARGS) != (node.lineno < half.start):
            found.append(f"line {node.lineno} stands on the wrong side of the first banner")
        rank_above = max(rank, rank_above)
    ends = [node.end_lineno for node in tree.body if getattr(node, "name", None) == "train"]
    if len(ends) != 1 or ends[0] not in half:
        found.append("train does not end before the second banner")
    last = tree.body[-1]
    if not isinstance(last, ast.If) or ast.unparse(last.test) != "__name__ == '__main__'":
        found.append('the file does not end with `if __name__ == "__main__":`')
    return found


# ---------------------------------------------------------------- the rules of plain code
# Each gives the numbers of the lines that break it.


def long_lines(text: str) -> list[int]:
    """Lines of more than 100 columns."""
    return [number for number, line in enumerate(text.splitlines(), 1) if len(line) > 100]


def packed_assignments(text: str) -> list[int]:
    """Assignments of several values to several names, such as `a, b = x, y`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            if any(isinstance(target, ast.Tuple) for target in node.targets):
                found.append(node.lineno)
    return found


def walruses_in_calls(text: str) -> list[int]:
    """`:=` anywhere inside a call's arguments."""
    found = set()
    for call in ast.walk(ast.parse(text)):
        if isinstance(call, ast.Call):
            for argument in [*call.args, *call.keywords]:
                inside = ast.walk(argument)
                found.update(node.lineno for node in inside if isinstance(node, ast.NamedExpr))
    return sorted(found)


def nested_conditionals(text: str) -> list[int]:
    """Conditional expressions inside a conditional expression."""
    found = set()
    for outer in ast.walk(ast.parse(text)):
        if isinstance(outer, ast.IfExp):
            inside = [node for node in ast.walk(outer) if node is not outer]
            found.update(node.lineno for node in inside if isinstance(node, ast.IfExp))
    return sorted(found)


def docstring_length(text: str) -> int:
    """Lines of text in the docstring of the module."""
    return len(ast.get_docstring(ast.parse(text)).splitlines())


# ---------------------------------------------------------------- figures


def lines_of_docstrings(tree: ast.Module) -> set[int]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                found.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return found


def lines_of_args(tree: ast.Module) -> set[int]:
    """The lines of `Args`, without its decorator's."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Args":
            found.update(range(node.lineno, node.end_lineno + 1))
    return found


NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(text: str) -> list[int]:
    """Numbers of the lines of code: no docstrings, `Args`, comments, blanks."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    tree = ast.parse(text)
    args = lines_of_args(tree)
    decorator = {min(args) - 1} if args else set()
    return sorted(found - lines_of_docstrings(tree) - args - decorator)


def share_of_algorithm(text: str) -> float | None:
    """Lines of code between the banners, of all lines of code; None without the banners.

    Imports count in the whole, not in the half.
    """
    half = algorithm_lines(text)
    if half is None:
        return None
    numbers = code_lines(text)
    return sum(number in half for number in numbers) / len(numbers)


def nodes_a_line(text: str) -> float:
    """Nodes of the syntax tree for each line on which one begins; no docstrings, no `Args`."""
    tree = ast.parse(text)
    begins = [node.lineno for node in ast.walk(tree) if hasattr(node, "lineno")]
    lines = set(begins) - lines_of_docstrings(tree) - lines_of_args(tree)
    return sum(number in lines for number in begins) / len(lines)


def changed_lines(lower: str, upper: str) -> int:
    """Lines of code that differ; a line that replaces another counts once."""
    codes = []
    for text in (lower, upper):
        lines = text.splitlines()
        codes.append([lines[number - 1] for number in code_lines(text)])
    changed = 0
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, *codes, autojunk=False).get_opcodes():
        if tag != "equal":
            changed += max(i2 - i1, j2 - j1)
    return changed


def changed_lines_of_rungs() -> dict[tuple[str, str], int]:
    """Of each rung whose two scripts are there."""
    there = [rung for rung in RUNGS if rung[0] in TEXTS and rung[1] in TEXTS]
    return {(lower, upper): changed_lines(TEXTS[lower], TEXTS[upper]) for lower, upper in there}


def figures() -> list[str]:
    """A table of how each script reads, and the changes of each rung. They gate nothing."""
    rows = [f"{'':20}{'lines':>6}{'of code':>9}{'algorithm':>11}{'nodes a line':>14}"]
    for script, text in TEXTS.items():
        share = share_of_algorithm(text)
        percent = "–" if share is None else f"{share:.0%}"
        lines = f"{len(text.splitlines()):6}{len(code_lines(text)):9}"
        rows.append(f"{script:20}{lines}{percent:>11}{nodes_a_line(text):14.1f}")
    changes = changed_lines_of_rungs()
    rungs = [f"{lower} → {upper} {changed}" for (lower, upper), changed in changes.items()]
    rows.append(f"lines of code that a rung changes: {', '.join(rungs)}")
    return rows
