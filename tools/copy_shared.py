"""Copy the part that is the same in every script from one script into all the others.

    python tools/copy_shared.py ppo_clip.py

The shared part begins at the line `# ---…--- the same in every script` and ends with the file. What
stands above that line is left as it is. A script without the line is left alone, and named. One
called my_… is its owner's, and left alone.
"""

import argparse
import sys
from pathlib import Path

MARKER = "the same in every script"
# Scripts whose shared part differs from the others', and the names of the functions and classes
# which do. This program leaves these scripts alone: change them by hand.
EXCEPTIONS: dict[str, set[str]] = {}


def split_at_marker(text: str) -> tuple[str, str]:
    """What stands above the line with the marker, and the shared part; it is empty without one."""
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.startswith("# -") and line.strip("#- \n") == MARKER:
            return "".join(lines[:number]), "".join(lines[number:])
    return text, ""


def copy_shared(source: Path) -> None:
    _, shared = split_at_marker(source.read_text(encoding="utf-8"))
    if not shared:
        print(f"{source} has no line '# ---- {MARKER}'", file=sys.stderr)
        sys.exit(2)
    for path in sorted(source.resolve().parent.glob("*.py")):
        if path.stem.startswith("my_"):
            continue  # a copy that is its owner's to change
        own, old_shared = split_at_marker(path.read_text(encoding="utf-8"))
        if not old_shared:
            print(f"{path.name} has no such line: left alone")
        elif path.stem in EXCEPTIONS:
            print(f"{path.name} has a part of its own: left alone")
        elif old_shared != shared:
            path.write_text(own + shared, encoding="utf-8")
            print(f"{path.name} changed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("script", type=Path, help="the script to copy from")
    source = parser.parse_args().script
    if not source.is_file():
        parser.exit(2, f"{source}: no such file\n")
    copy_shared(source)
