"""The scripts as text: the pieces they are made of, and figures on how they read."""

import ast
import difflib
import io
import tokenize

from helpers import ROOT, SCRIPTS

TEXTS = {script: (ROOT / f"{script}.py").read_text() for script in SCRIPTS}
LADDER = {  # lines that a rung may change
    ("reinforce", "reinforce_baseline"): 50,
    ("reinforce_baseline", "a2c"): 80 + 29,  # the rest is what makes it data parallel
    ("a2c", "ppo_clip"): 60,
    ("ppo_clip", "ppo_kl"): 40,
    ("ddpg", "sac"): 90,
}


def code(script: str) -> list[str]:
    """A script's lines of code: no docstrings, `Args`, comments, blanks."""
    text, dropped = TEXTS[script], set()
    for node in ast.walk(tree := ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            dropped |= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    [args] = [node for node in tree.body if getattr(node, "name", "") == "Args"]
    dropped |= {*range(args.lineno - 1, args.end_lineno + 1)}
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    tokens = [
        t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in skipped
    ]
    kept = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - dropped
    return [text.splitlines()[line - 1] for line in sorted(kept)]


def changed_lines() -> dict[tuple[str, str], int]:
    """Lines that differ from each rung to the next, a line replaced by another counted once."""
    changed = {}
    for lower, upper in LADDER:
        opcodes = difflib.SequenceMatcher(
            None, code(lower), code(upper), autojunk=False
        ).get_opcodes()
        changed[lower, upper] = sum(
            max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in opcodes if tag != "equal"
        )
    return changed
