"""`python -m exercises.measure_bugs`: what it refuses before it measures anything."""

import csv
import sys

import pytest

from exercises import measure_bugs


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Calls the command line; returns its exit status and the numbers in the CSV file."""
    path = tmp_path / "bug_curves.csv"
    monkeypatch.setattr(measure_bugs, "CSV", path)
    monkeypatch.setattr(measure_bugs, "runs_of", lambda number: [[number, "bug", 1, 2, 3]])

    def measured(*arguments) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["measure_bugs", *arguments])
        status = measure_bugs.main()
        if not path.exists():
            return status, []
        with path.open(newline="") as file:
            return status, [row["bug"] for row in csv.DictReader(file)]

    return measured


@pytest.mark.parametrize("number", ["0", "-1", "11", "1.5", "x", "1 x"])
def test_a_number_of_no_bug(measured, capsys, number):
    assert measured(*number.split()) == (2, [])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m exercises.measure_bugs: ")


def test_help(measured, capsys):
    with pytest.raises(SystemExit) as end:
        measured("--help")
    assert end.value.code == 0 and "1 to 10" in capsys.readouterr().out


def test_some_bugs_and_all(measured):
    assert measured("7", "3") == (0, ["3", "7"])
    assert measured("7", "7") == (0, ["3", "7"])
    assert measured() == (0, [str(number) for number in range(1, 11)])
