"""The Ray back end: the same jobs with the same outcome, on nodes that share no folder and may be lost."""

import os
import re
import shutil
import signal
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from fake_jobs import jobs_alive, jobs_run, manifests
from helpers import ROOT, wait_for

pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    """A cluster of processes of this machine; its head has a CPU and, as far as Ray knows, a GPU."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
    yield cluster
    cluster.shutdown()


def test_jobs_end_as_they_do_without_ray(suite, harness, tmp_path):
    path = suite("Fails-v0", "Silent-v0", "Fine-v0", "FailsOnce-v0", seeds="1")
    done = harness("run", path, "--backend", "ray")
    assert done.returncode == 1 and "2 done, 0 finished before, 2 failed" in done.out, done.err
    assert re.search(
        r"Fails-v0__fake__1 failed twice, exit status 1.*\n( +line \d+\n){9} +this went wrong\n",
        done.err,
    )
    assert "Silent-v0__fake__1 failed twice, no summary.json" in done.err and "Fine" not in done.err
    states = {
        name.split("__")[0]: (m["complete"], m["attempts"])
        for name, m in manifests(tmp_path).items()
    }
    assert states == {
        "Fails-v0": (False, 2),
        "Silent-v0": (False, 2),
        "Fine-v0": (True, 1),
        "FailsOnce-v0": (True, 2),
    }
    again = harness("run", path, "--backend", "ray", "--only", "Fine")
    assert (
        again.returncode == 0
        and "0 done, 1 finished before, 0 failed" in again.out
        and len(jobs_run(tmp_path)) == 7
    )


def test_a_folder_comes_home_from_a_node_that_has_a_copy_of_the_repository(
    cluster, harness, tmp_path
):
    """The copy has what the repository has, less what .gitignore names."""
    repository, home = tmp_path / "repository", tmp_path / "runs" / "s"
    shutil.copytree(
        ROOT / "benchmarks", repository / "benchmarks", ignore=shutil.ignore_patterns("runs")
    )
    script = """
        import os
        print(os.getcwd(), __file__, os.environ["CUDA_VISIBLE_DEVICES"])
        os.mkdir("a")
        open("a/b", "wb").write(bytes(range(256)))
    """
    for name in ("own.py", "ignored.py"):
        (repository / name).write_text(textwrap.dedent(script))
    (repository / ".gitignore").write_text("ignored.py")
    cell = '{{ env_id = "A-v0", name = "{0}", command = "python {0}.py" }}'
    (tmp_path / "s.toml").write_text(
        f'seeds = "1"\ncells = [{cell.format("own")}, {cell.format("ignored")}]'
    )
    words = ("--backend", "ray", "--address", cluster.address, "--num-gpus", 0.25)
    done = harness("run", tmp_path / "s.toml", *words, cwd=repository)
    assert done.returncode == 1 and "1 done, 0 finished before, 1 failed" in done.out, done.err
    assert re.search(r"A-v0__ignored__1 failed twice.*\n(.*\n)*.*no script .*ignored.py", done.err)
    assert (home / "A-v0__own__1" / "a" / "b").read_bytes() == bytes(range(256))
    there = (home / "A-v0__own__1" / "log.txt").read_text()
    assert there.endswith("own.py 0\n") and str(tmp_path) not in there


def test_a_lost_nodes_jobs_run_elsewhere(cluster, suite, harness, tmp_path):
    node = cluster.add_node(num_cpus=1)
    (tmp_path / "wait").touch()
    path = suite("A-v0", seeds="1-24")
    process = harness("run", path, "--backend", "ray", "--address", cluster.address, wait=False)
    wait_for(lambda: len(jobs_run(tmp_path)) == 2)  # one on either node
    cluster.remove_node(node, allow_graceful=False)
    wait_for(lambda: len(jobs_alive(tmp_path)) == 1)
    (tmp_path / "wait").unlink()
    process.out, process.err = process.communicate(timeout=60)
    assert process.returncode == 0 and process.out.startswith(
        "s: 24 done, 0 finished before, 0 failed"
    ), process.err
    assert len(manifests(tmp_path)) == 24 == len(list(tmp_path.glob("runs/s/*/summary.json")))
    assert all(
        manifest["complete"] and manifest["attempts"] == 1
        for manifest in manifests(tmp_path).values()
    )
    assert sorted(Counter(jobs_run(tmp_path)).values()) == [1] * 23 + [2]
    assert "node it was running on is dead" in (tmp_path / "runs" / "s" / "ray.log").read_text()


def test_a_killed_worker_takes_its_job_with_it_and_the_job_runs_again(
    cluster, suite, harness, tmp_path
):
    (tmp_path / "wait").touch()
    path = suite("A-v0", seeds="1")
    process = harness("run", path, "--backend", "ray", "--address", cluster.address, wait=False)
    wait_for(lambda: len(jobs_run(tmp_path)) == 1)
    [job] = jobs_alive(tmp_path)
    worker = int(Path(f"/proc/{job}/stat").read_text().split()[3])
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: len(jobs_run(tmp_path)) == 2)
    assert len(jobs_alive(tmp_path)) == 1
    (tmp_path / "wait").unlink()
    process.out, process.err = process.communicate(timeout=60)
    assert process.returncode == 0 and "1 done, 0 finished before, 0 failed" in process.out, (
        process.err
    )


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
def test_no_job_outlives_the_harness(cluster, suite, harness, tmp_path, number, status):
    path = suite("A-v0", more=', flags = "--seconds 60"')
    process = harness("run", path, "--backend", "ray", "--address", cluster.address, wait=False)
    wait_for(lambda: len(jobs_run(tmp_path)) == 1)
    process.send_signal(number)
    assert process.wait(20) == status
    wait_for(lambda: not jobs_alive(tmp_path), seconds=5)
    assert len(jobs_run(tmp_path)) == 1 and not any(
        manifest["complete"] for manifest in manifests(tmp_path).values()
    )


def test_an_address_that_is_none(suite, harness):
    done = harness("run", suite("A-v0"), "--backend", "ray", "--address", "nowhere")
    assert (
        done.returncode == 2 and "--address nowhere" in done.err and len(done.err.splitlines()) == 1
    )
