"""The Ray back end: the same jobs with the same outcome, on nodes that share no folder and may be
lost.
"""

import os
import re
import shutil
import signal
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from fake_jobs import (
    ALL_ENDS,
    INTERRUPTIONS,
    assert_all_ends_are_reported,
    assert_refused,
    jobs_alive,
    jobs_run,
    manifests,
    num_finished,
)
from helpers import ROOT, wait_for

pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """A cluster of processes of this machine. Its head has a CPU and, Ray believes, a GPU."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
    yield cluster
    cluster.shutdown()


def test_jobs_end_as_they_do_without_ray(suite, harness, tmp_path):
    path = suite(*ALL_ENDS, seeds="1")
    assert_all_ends_are_reported(harness("run", path, "--backend", "ray"), tmp_path)
    again = harness("run", path, "--backend", "ray", "--only", "Fine")
    assert again.returncode == 0 and "0 done, 1 finished before, 0 failed" in again.out
    assert len(jobs_run(tmp_path)) == 7


def test_a_folder_comes_home_from_a_node_that_has_a_copy_of_the_repository(
    cluster, harness, tmp_path
):
    """The copy has what the repository has, less what .gitignore names."""
    repository = tmp_path / "repository"
    home = tmp_path / "runs" / "s"
    without_runs = shutil.ignore_patterns("runs")
    shutil.copytree(ROOT / "benchmarks", repository / "benchmarks", ignore=without_runs)
    script = """
        import os
        print(os.getcwd(), __file__, os.environ["CUDA_VISIBLE_DEVICES"])
        os.mkdir("a")
        open("a/b", "wb").write(bytes(range(256)))
    """
    for name in ("own.py", "ignored.py"):
        (repository / name).write_text(textwrap.dedent(script))
    (repository / ".gitignore").write_text("ignored.py")
    cells = []
    for name in ("own", "ignored"):
        cells.append(f'{{ env_id = "A-v0", name = "{name}", command = "python {name}.py" }}')
    (tmp_path / "s.toml").write_text(f'seeds = "1"\ncells = [{", ".join(cells)}]')
    words = ("--backend", "ray", "--address", cluster.address, "--num-gpus", 0.25)
    done = harness("run", tmp_path / "s.toml", *words, cwd=repository)
    assert done.returncode == 1 and "1 done, 0 finished before, 1 failed" in done.out, done.err
    assert re.search(r"A-v0__ignored__1 failed twice.*\n(.*\n)*.*no script .*ignored.py", done.err)
    assert (home / "A-v0__own__1" / "a" / "b").read_bytes() == bytes(range(256))
    there = (home / "A-v0__own__1" / "log.txt").read_text()
    assert there.endswith("own.py 0\n") and str(tmp_path) not in there


@pytest.fixture
def run_on_cluster(cluster, harness):
    """Starts the harness on a suite, and does not wait for its end."""

    def run_on_cluster(path):
        words = ("--backend", "ray", "--address", cluster.address)
        return harness("run", path, *words, wait=False)

    return run_on_cluster


def assert_all_done(process, count: int) -> None:
    process.out, process.err = process.communicate(timeout=60)
    assert process.returncode == 0, process.err
    assert process.out.startswith(f"s: {count} done, 0 finished before, 0 failed")


def test_a_lost_nodes_jobs_run_elsewhere(cluster, suite, run_on_cluster, tmp_path):
    node = cluster.add_node(num_cpus=1)
    (tmp_path / "wait").touch()
    process = run_on_cluster(suite("A-v0", seeds="1-12"))
    wait_for(lambda: len(jobs_run(tmp_path)) == 2)  # one on either node
    cluster.remove_node(node, allow_graceful=False)
    wait_for(lambda: len(jobs_alive(tmp_path)) == 1)
    (tmp_path / "wait").unlink()
    assert_all_done(process, 12)
    assert len(manifests(tmp_path)) == num_finished(tmp_path) == 12
    for manifest in manifests(tmp_path).values():
        assert manifest["complete"] and manifest["attempts"] == 1
    times_run = Counter(jobs_run(tmp_path)).values()
    assert sorted(times_run) == [1] * 11 + [2]
    assert "node it was running on is dead" in (tmp_path / "runs" / "s" / "ray.log").read_text()


def test_a_killed_worker_takes_its_job_with_it_and_the_job_runs_again(
    suite, run_on_cluster, tmp_path
):
    (tmp_path / "wait").touch()
    process = run_on_cluster(suite("A-v0", seeds="1"))
    wait_for(lambda: len(jobs_run(tmp_path)) == 1)
    [job] = jobs_alive(tmp_path)
    parent = Path(f"/proc/{job}/stat").read_text().split()[3]
    os.kill(int(parent), signal.SIGKILL)  # the worker
    wait_for(lambda: len(jobs_run(tmp_path)) == 2)
    assert len(jobs_alive(tmp_path)) == 1
    (tmp_path / "wait").unlink()
    assert_all_done(process, 1)


@pytest.mark.parametrize("number, status", INTERRUPTIONS)
def test_no_job_outlives_the_harness(suite, run_on_cluster, tmp_path, number, status):
    process = run_on_cluster(suite("A-v0", more=', flags = "--seconds 60"'))
    wait_for(lambda: len(jobs_run(tmp_path)) == 1)
    process.send_signal(number)
    assert process.wait(20) == status
    wait_for(lambda: not jobs_alive(tmp_path), seconds=5)
    assert len(jobs_run(tmp_path)) == 1
    assert not any(manifest["complete"] for manifest in manifests(tmp_path).values())


def test_an_address_that_is_none(suite, harness):
    words = ("--backend", "ray", "--address", "nowhere")
    assert_refused(harness("run", suite("A-v0"), *words), "--address nowhere")
