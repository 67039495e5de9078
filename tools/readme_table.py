"""Put the table of results into README.md, from what is committed in benchmarks/results.

    python tools/readme_table.py

The table stands between two comments, `<!-- results -->` and `<!-- end of results -->`.
"""

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.tables import format_number, markdown_table  # noqa: E402

ENVIRONMENTS = {
    "CartPole-v1": "classic",
    "LunarLander-v3": "classic",
    "Pendulum-v1": "classic",
    "HalfCheetah-v4": "mujoco",
    "Hopper-v4": "mujoco",
}
LADDER = ["reinforce", "reinforce_baseline", "a2c", "ppo_clip", "ppo_kl", "trpo"]
LADDER += ["ddpg", "td3", "sac", "dagger", "cleanrl-ppo", "cleanrl-ddpg", "cleanrl-sac"]
BETWEEN = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end of results -->)", re.S)


def table() -> str:
    """Interquartile means of the final return: a row an algorithm, a column an environment."""
    returns = {}
    for suite in set(ENVIRONMENTS.values()):
        with open(ROOT / "benchmarks" / "results" / suite / "table.csv", newline="") as file:
            for row in csv.DictReader(file):
                returns[row["algorithm"], row["environment"]] = float(row["IQM"])
    rows = [["", *ENVIRONMENTS]]
    for algorithm in LADDER:
        cells = [returns.get((algorithm, env_id)) for env_id in ENVIRONMENTS]
        if any(cell is not None for cell in cells):
            rows.append([algorithm, *map(format_number, cells)])
    return markdown_table(rows)


def put_into(readme: str) -> str:
    """README's text with the table of now."""
    return BETWEEN.sub(lambda _: f"\n{table()}\n\n", readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(put_into(path.read_text(encoding="utf-8")), encoding="utf-8")
