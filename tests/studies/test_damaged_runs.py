"""A study leaves a damaged run out, and names it."""

import numpy as np
import pytest

from benchmarks import BadInput
from benchmarks.studies import c05_penalty, c09_imitation, c10_off_policy
from benchmarks.studies.common import read_cell
from conftest import STEPS


@pytest.fixture
def cell(finished_run):
    """The folders of a cell's three runs."""
    returns = np.ones(len(STEPS))
    return [finished_run("A-v0", "x", seed, returns, eval_return_mean=5) for seed in (1, 2, 3)]


def damage_summary(folder):
    (folder / "summary.json").write_text('{"seed": ')


def forget_evaluation(folder):
    (folder / "summary.json").write_text('{"seed": 2}')


def damage_log(folder):
    [path] = folder.glob("events.out.tfevents.*")
    data = path.read_bytes()
    path.write_bytes(data[:500] + data[600:])


@pytest.mark.parametrize("damage", [damage_summary, forget_evaluation, damage_log])
def test_a_damaged_run_is_left_out(cell, tmp_path, capsys, damage):
    damage(cell[1])
    found = read_cell(tmp_path, "A-v0", "x", "eval_return_mean")
    assert [run.summary["seed"] for run in found] == [1, 3]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(str(cell[1])) and line.endswith("left out")


def test_a_cell_of_which_too_little_is_left(cell, tmp_path):
    damage_summary(cell[0])
    damage_log(cell[2])
    with pytest.raises(BadInput, match="x in A-v0 needs two finished runs, not 1"):
        read_cell(tmp_path, "A-v0", "x")
    with pytest.raises(BadInput, match="needs two finished runs, not 0"):
        read_cell(tmp_path, "A-v0", "y")


def test_a_log_that_lacks_what_a_study_is_about(finished_run, tmp_path):
    for seed in (1, 2):
        finished_run("A-v0", "x", seed, np.ones(len(STEPS)))
        finished_run("A-v0", "c10-sac", seed)
    [run, _] = read_cell(tmp_path, "A-v0", "x")
    with pytest.raises(BadInput, match="no losses/kl_coef in its log"):
        c05_penalty.beta_course(run)
    with pytest.raises(BadInput, match="no charts/episodic_return"):
        c10_off_policy.read_group(tmp_path, "A-v0", "sac")


@pytest.mark.parametrize("content", [None, b"", b"no policy"])
def test_a_policy_that_is_none(tmp_path, content):
    path = tmp_path / "policy.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match="policy.pt: "):
        c09_imitation.load_policy(path)
