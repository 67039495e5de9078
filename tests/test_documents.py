"""What README.md and docs/ tell a reader to type, typed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import results
from benchmarks import jobs
from benchmarks.jobs import read_suite
from helpers import ROOT, process_environment

README = (ROOT / "README.md").read_text()
USING = (ROOT / "docs" / "using.md").read_text()
RECIPES = (ROOT / "docs" / "recipes.md").read_text()
HARNESS = (ROOT / "benchmarks" / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS += [
    ROOT / "LECTURES.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "benchmarks" / "results" / "README.md",
    ROOT / "benchmarks" / "results" / "choices.md",
    ROOT / "benchmarks" / "results" / "lectures" / "README.md",
]
MADE_BY_TOOLS = ROOT / "benchmarks" / "results" / "README.md"


def snippets(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def python(*arguments, cwd) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, arguments)]
    environment = process_environment()
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


def installed_by(command: str) -> tuple[str, list[str]]:
    """The file of requirements and what is run, of a command that installs and runs."""
    pattern = (
        r"python3 -m venv \.venv && \.venv/bin/pip install -q -r (\S+) && \.venv/bin/python (.*)"
    )
    requirements, program = re.fullmatch(pattern, command.strip()).groups()
    return requirements, program.split()


@pytest.mark.slow
def test_the_first_command(tmp_path):
    requirements, program = installed_by(snippets(README, "bash")[0])
    assert requirements == "requirements.txt"
    done = python(ROOT / program[0], *program[1:], cwd=tmp_path)
    assert "CartPole-v1: return 500.0" in done.stdout
    [run_dir] = (tmp_path / "runs").iterdir()
    return_again = python(ROOT / program[0], "--evaluate", run_dir, cwd=tmp_path).stdout
    assert "return 500.0" in return_again


def test_the_second_command_is_what_the_gate_runs():
    requirements, program = installed_by(snippets(README, "bash")[1])
    assert requirements == "tests/requirements.txt" and program == ["-m", "pytest", "-q"]
    assert "grep -m 1 -e '-m pytest' README.md" in (ROOT / ".ci" / "run").read_text()


def test_requirements_build_on_each_other():
    """Each file installs what the one before it does."""
    for file, included in (("benchmarks", "../requirements.txt"), ("tests", "../benchmarks/")):
        lines = (ROOT / file / "requirements.txt").read_text().splitlines()
        assert any(line.startswith(f"-r {included}") for line in lines)


@pytest.mark.slow
def test_another_loss(tmp_path):
    """README's, put into a copy of ppo_clip.py, learns CartPole."""
    [loss] = snippets(README, "python")
    text = (ROOT / "ppo_clip.py").read_text()
    pattern = r"^def policy_loss\(.*?\n\n\n"
    assert len(re.findall(pattern, text, re.M | re.S)) == 1
    changed = re.sub(pattern, lambda _: f"{loss}\n\n", text, flags=re.M | re.S)
    (tmp_path / "my_ppo.py").write_text(changed)
    done = python("my_ppo.py", "--env-id", "CartPole-v1", cwd=tmp_path)
    assert float(re.search(r"CartPole-v1: return (\S+)", done.stdout)[1]) >= 475


def test_every_file_that_is_linked_is_there():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_link_into_a_document_meets_a_heading():
    for document in DOCUMENTS:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", document.read_text()):
            text = (document.parent / target).read_text() if target else document.read_text()
            headings = re.findall(r"^#+ (.*)$", text, re.M)
            anchors = [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings]
            assert anchor in anchors, f"{document.name}: {target}#{anchor}"


def test_every_flag_that_is_named_is_one():
    help_text = python(ROOT / "ppo_clip.py", "--help", cwd=ROOT).stdout
    for document in (README, USING):
        rows = re.findall(r"^\| (`--.*?) \|", document, re.M)
        assert rows
        for row in rows:
            for flag in re.findall(r"--[a-z-]+", row):
                assert flag in help_text, flag


def test_an_environment_of_ones_own(tmp_path):
    [module] = [text for text in snippets(USING, "python") if "gym.register" in text]
    (tmp_path / "my_env.py").write_text(module)
    [command] = [line for line in snippets(USING, "bash") if "my_env" in line]
    _, script, *flags = command.split()
    short = ("--total-timesteps", 4096, "--eval-episodes", 2)
    done = python(ROOT / script, *flags, *short, cwd=tmp_path)
    assert "my_env:MyEnv-v0: return" in done.stdout


def test_a_saved_policy(tmp_path):
    short = ("--total-timesteps", 2048, "--eval-episodes", 2, "--run-dir", "runs/r")
    python(ROOT / "ppo_clip.py", *short, cwd=tmp_path)
    snippet = next(text for text in snippets(USING, "python") if "load_policy" in text)
    program = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport numpy as np\n"
    program += "obs = np.zeros(4)\n" + snippet.replace("<run>", "r") + "print(int(action))\n"
    assert python("-c", program, cwd=tmp_path).stdout.strip() in ("0", "1")


def test_the_array_of_slurm_jobs(tmp_path):
    """One task of it, as a dry run: it has its seed of each cell, and a folder of its own."""
    [script] = [text for text in snippets(HARNESS, "bash") if "#SBATCH" in text]
    (tmp_path / "suite.sh").write_text(script)
    folder_of_python = Path(sys.executable).parent
    environment = process_environment(
        SLURM_ARRAY_TASK_ID="102",
        SLURM_CPUS_PER_TASK="8",
        PATH=f"{folder_of_python}:{os.environ['PATH']}",
    )
    command = ["bash", tmp_path / "suite.sh", "--only", "HalfCheetah*", "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    jobs = read_suite(ROOT / "benchmarks" / "suites" / "mujoco.toml", "102")
    names = [job.dir.name for job in jobs if job.env_id == "HalfCheetah-v4"]
    assert [line.split()[2] for line in done.stdout.splitlines()] == names
    words = next(line for line in script.splitlines() if "--runs-dir" in line).split()
    assert "$SLURM_ARRAY_TASK_ID" in words[words.index("--runs-dir") + 1]


@pytest.mark.parametrize("number", range(len(snippets(RECIPES, "python"))))
def test_recipes_are_python(number):
    """What they need is not installed for the tests."""
    compile(snippets(RECIPES, "python")[number], "recipe", "exec")


def test_the_table_of_results_is_that_of_what_is_committed():
    assert results.README_TABLE.search(README)
    assert results.put_into(README) == README


def test_the_page_of_results_is_that_of_what_is_committed():
    assert MADE_BY_TOOLS.read_text() == results.page()


def figures(text: str) -> set[str]:
    """The results in a text: numbers such as 6,220; not 10,000, which is a number of steps."""
    numbers = re.findall(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", text)
    return {number for number in numbers if not number.endswith("00")}


def test_cells_that_were_measured_before_their_script_changed_are_named(tmp_path, monkeypatch):
    suites = tmp_path / "benchmarks" / "suites"
    suites.mkdir(parents=True)
    cells = [f'{{ env_id = "{env_id}", script = "s.py" }}' for env_id in "AB"]
    (suites / "classic.toml").write_text(f'seeds = "1-2"\ncells = [{", ".join(cells)}]\n')
    (tmp_path / "s.py").write_bytes(b"one = 1\r\n")  # as on Windows: the same text
    now = "181d2eef7e05"  # of sha256sum of one = 1
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(jobs, "ROOT", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    (tmp_path / "classic").mkdir()
    runs = tmp_path / "classic" / "runs.csv"
    runs.write_text(f"environment,algorithm,script\nA,s,{now}\nB,s,{now}\n")
    assert results.cells_of_older_scripts("classic") == ""
    runs.write_text(f"environment,algorithm,script\nA,s,{now}\nB,s,{now}\nB,s,0123456789ab\n")
    said = "Measured with an older version of the script: B: s.\n\n"
    assert results.cells_of_older_scripts("classic") == said


def test_a_cell_below_what_is_published_stands_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    reason = "the published one has a wider network"
    (tmp_path / "choices.md").write_text(
        "## Below what others publish\n\n| environment | script | reason |\n|---|---|---|\n"
        f"| A-v4 | `sac.py` | {reason} |\n\n## Others\n\n| B-v4 | `sac.py` | of another table |\n"
    )
    report = tmp_path / "mujoco" / "report.md"
    report.parent.mkdir()
    report.write_text("- A-v4, sac: no seed 3, which others have\n")
    assert results.below_list("mujoco") == ""
    below = "evaluation 9,100 is below the highest published, 9,500 (they, v4, 10 seeds)"
    report.write_text(f"- A-v4, sac-1m: {below}\n- B-v4, sac: {below}\n")
    said = "evaluation 9,100, beside 9,500 (they, v4, 10 seeds)"
    assert results.below_list("mujoco").splitlines() == [
        f"- A-v4, sac-1m, {said}: {reason}.",
        f"- B-v4, sac, {said}: no reason found yet.",
    ]


def test_a_figure_stands_in_one_document():
    """What is made by tools is left out: it is always that of the committed results."""
    assert figures("6,220 after 10,000 steps, 1,234,567 of 12,345.") == {
        "6,220",
        "1,234,567",
        "12,345",
    }
    found = {}
    for path in [*DOCUMENTS, *ROOT.glob("*.py")]:
        if path != MADE_BY_TOOLS:
            text = results.README_TABLE.sub("", path.read_text())
            for figure in figures(text):
                found.setdefault(figure, set()).add(path.name)
    assert len(found) > 30
    assert {figure: names for figure, names in found.items() if len(names) > 1} == {}
