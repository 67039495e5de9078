"""The report's page in a real browser without a network: it is opened, read, pointed at and clicked
on.
"""

import io
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from playwright.sync_api import sync_playwright

from benchmarks.compare import compare_runs
from benchmarks.groups import group_curves
from benchmarks.options import CompareOptions
from benchmarks.plots import SCRIPT_COLOURS
from benchmarks.readers import read_curves
from benchmarks.tables import format_number
from helpers import ROOT
from made_up_logs import (
    MEASURED,
    MEASURED_SENTENCE,
    job_manifest,
    read_csv,
    run_config,
    straight_line,
    write_log,
)

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]
DRAWN = (
    "() => window.Bokeh?.documents[0]?.is_idle && document.querySelector('#improvements tbody td')"
)
HOSTILE = '"><img src=x onerror=alert(1)></script>{{ 7 * 7 }}$x@y'
"""an algorithm's and an environment's name"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A report's folder: ppo_clip and a2c in two environments, and somebody's who means no good."""
    runs = tmp_path_factory.mktemp("runs")
    out = tmp_path_factory.mktemp("report")
    times = {"start": "2026-01-02T03:04:05+00:00", "end": "2026-01-02T04:05:06+00:00"}
    for seed in (1, 2, 3):
        manifest = job_manifest("CartPole-v1", "ppo_clip", seed, threshold=300, **MEASURED, **times)
        manifest["command"] = ["python", "ppo_clip.py", "--flag", f"a & b < {seed}"]
        write_log(runs / f"ppo{seed}", straight_line(0.3 + 0.08 * seed), manifest=manifest)
        write_log(runs / f"Acrobot-v1__ppo_clip__{seed}__1", straight_line(-0.1 - 0.05 * seed))
    for seed, end in ((1, 1000), (2, 800)):
        write_log(runs / f"CartPole-v1__a2c__{seed}__1", straight_line(0.05 * seed, end))
        write_log(runs / f"Acrobot-v1__a2c__{seed}__1", straight_line(-0.4 - 0.05 * seed))
    config = run_config(HOSTILE, HOSTILE, 1)
    summary = {"eval_return_mean": 1}
    write_log(runs / "hostile", straight_line(1), config=config, summary=summary)
    words = [sys.executable, "-m", "benchmarks", "compare", runs, "--out", out, "--html"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM)


@pytest.fixture
def opened(browser):
    """Opens a page from disk, 1280 wide or as on a telephone, and waits until it is drawn.

    At the end of the test there must have been no request for anything outside the file, no error,
    no warning.
    """
    contexts = []
    requests = []
    complaints = []

    def dismiss(dialog):
        complaints.append(dialog.message)
        dialog.dismiss()

    def listen(message):
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def opened(path: Path, width: int = 1280):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, offline=True))
        page = contexts[-1].new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("dialog", dismiss)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", listen)
        page.goto(path.as_uri())
        page.wait_for_function(DRAWN)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints
    assert requests and all(url.startswith(("file:", "data:", "blob:")) for url in requests)


def column(page, table: str, head: str) -> list[str]:
    """The cells under a head, from above."""
    number = page.locator(f"#{table} thead th").all_inner_texts().index(head) + 1
    cells = page.locator(f"#{table} tbody td:nth-child({number})").all_inner_texts()
    return [text.replace("\xa0", " ") for text in cells]


def pixels(locator, colour: str, alpha: float = 1) -> np.ndarray:
    """Where an element shows a colour laid on white: x and y in the page's window, (points, 2)."""
    image = imread(io.BytesIO(locator.screenshot()))[..., :3]
    wanted = 1 - alpha + alpha * np.array(to_rgb(colour))
    y, x = np.nonzero(np.abs(image - wanted).max(-1) < 0.01)
    box = locator.bounding_box()
    return np.stack([x + box["x"], y + box["y"]], axis=1)


def is_drawn(panel, colour: str, alpha: float = 1) -> bool:
    return len(pixels(panel, colour, alpha)) > 50


def point_at_middle(page, panel, colour: str) -> None:
    """Moves the pointer to the middle of a curve."""
    points = pixels(panel, colour)
    x, y = points[len(points) // 2]
    page.mouse.move(x, y)


def panels(page) -> list:
    """The curves' panels of CartPole-v1 and Acrobot-v1."""
    titles = [page.get_by_text(env_id, exact=True) for env_id in ("CartPole-v1", "Acrobot-v1")]
    return [page.locator("figure", has=title) for title in titles]


@pytest.mark.parametrize("width", [1280, 390])
def test_it_reads_as_a_page(report, opened, width):
    page = opened(report / "report.html", width)
    assert page.title() == "11 runs compared" and page.locator("html").get_attribute("lang") == "en"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    text = page.locator("main").inner_text()
    for said in (
        "CartPole-v1, a2c: runs end between 800 and 1,000 steps",
        "CartPole-v1, a2c: no seed 3, which others have",
        MEASURED_SENTENCE,
        "began on 2026-01-02 at 03:04:05+00:00",
        "interquartile mean of the seeds' final returns",
    ):
        assert said in text, said
    assert f"--out {report} --html" in page.locator("header pre").inner_text()
    page.get_by_text("Command lines of 3 runs").click()
    assert "python ppo_clip.py --flag 'a & b < 2'" in page.locator("details pre").inner_text()


def test_names_from_files_are_only_text(report, opened):
    page = opened(report / "report.html")
    assert page.locator("img").count() == 0
    assert HOSTILE in column(page, "results", "algorithm")
    assert HOSTILE in column(page, "results", "environment")
    assert HOSTILE in page.locator("#improvements thead th").all_inner_texts()
    assert page.locator(".controls label", has_text=HOSTILE).count() == 1
    caption = page.locator("figcaption", has_text=HOSTILE)
    assert caption.count() == 1
    caption.scroll_into_view_if_needed()
    first_colour_of_no_script = "#8B4513"
    point_at_middle(page, page.locator("figure", has_text=HOSTILE), first_colour_of_no_script)
    assert page.locator(".bk-tooltip-content b").first.inner_text() == HOSTILE


def test_the_table_is_that_of_the_csv_and_a_click_on_a_head_sorts(report, opened):
    page = opened(report / "report.html")
    rows = read_csv(report / "table.csv")
    for head in ("final return", "IQM", "area"):
        assert column(page, "results", head) == [format_number(float(row[head])) for row in rows]
    intervals = []
    cells = []
    for row in rows:
        iqm, low, high = (format_number(float(row[x] or "nan")) for x in ("IQM", "low", "high"))
        intervals.append(f"{low} to {high}" if row["low"] else "–")
        cells.append(f"{iqm} ({intervals[-1]})")
    assert column(page, "results", "95 % interval") == intervals
    assert column(page, "finals", "CartPole-v1") == ["", *cells[-2:]]
    assert rows[-1]["environment"] == "CartPole-v1"

    known = {(row["environment"], row["algorithm"]): row for row in rows}
    # Negative numbers, 1 k beside 800, a dash where it is never reached.
    for head in ("IQM", "steps", "steps to"):
        title = re.compile(f"^{head}$")
        for order in ("ascending", "descending"):
            page.locator("#results th", has_text=title).click()
            page.locator(f"#results th[aria-sort={order}]", has_text=title).wait_for()
            env_ids = column(page, "results", "environment")
            names = zip(env_ids, column(page, "results", "algorithm"))
            values = [float(known[name][head] or "inf") for name in names]
            upwards = sorted(values)
            downwards = upwards[::-1]
            assert upwards != downwards
            assert values == (upwards if order == "ascending" else downwards), (head, order)


def test_the_legend_shows_and_hides_an_algorithm_in_every_environment(report, opened):
    page = opened(report / "report.html")
    entry = page.locator(".controls label", has_text="ppo_clip")

    def drawn() -> list[tuple[bool, bool, bool]]:
        """In each environment: the curve and the interval of ppo_clip, and the curve of a2c."""
        page.mouse.move(0, 0)
        found = []
        for panel in panels(page):
            curve = is_drawn(panel, SCRIPT_COLOURS["ppo_clip"])
            interval = is_drawn(panel, SCRIPT_COLOURS["ppo_clip"], alpha=0.18)
            found.append((curve, interval, is_drawn(panel, SCRIPT_COLOURS["a2c"])))
        return found

    assert drawn() == [(True, True, True)] * 2
    entry.click()
    assert not entry.locator("input").is_checked() and drawn() == [(False, False, True)] * 2
    page.get_by_text("wall-clock seconds").click()
    assert drawn() == [(False, False, True)] * 2
    entry.click()
    assert drawn() == [(True, True, True)] * 2


@pytest.mark.parametrize(
    "x, label, end", [("steps", "environment steps", 1000), ("seconds", "wall-clock seconds", 10)]
)
def test_a_curve_is_read_off_under_the_pointer(report, opened, x, label, end):
    page = opened(report / "report.html")
    page.get_by_text(label).click()
    found = page.evaluate(f"Bokeh.documents[0].get_model_by_name('CartPole-v1 by {x}').x_range.end")
    assert found == pytest.approx(end, rel=0.02)
    panel = panels(page)[0]
    panel.scroll_into_view_if_needed()
    point_at_middle(page, panel, SCRIPT_COLOURS["ppo_clip"])
    said = page.locator(".bk-tooltip-content").inner_text().replace(",", "")
    found = re.search(r"ppo_clip\s+IQM (.*) 95 % interval (.*) to (.*)\s+(\d+) steps (.*) s", said)
    names = ("iqm", "low", "high", "step", "seconds")
    shown = {name: float(text) for name, text in zip(names, found.groups())}
    curves, _ = read_curves((report,), None)
    groups = {group.algorithm: group for group in group_curves(curves, None, True)["CartPole-v1"]}
    group = groups["ppo_clip"]
    b = np.abs(group.steps - shown["step"]).argmin()
    low, high = group.band[:, b]
    expected = (group.iqm_curve[b], low, high, group.steps[b], group.seconds[b])
    for name, number in zip(names, expected):
        tolerance = 0.06 if name == "seconds" else 1
        assert shown[name] == pytest.approx(number, abs=tolerance), name


def test_two_hundred_runs_fit_and_open_fast(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.stats.RESAMPLES", 50)
    monkeypatch.setattr("benchmarks.compare.draw_pictures", lambda *_: None)
    rng = np.random.default_rng(0)
    env_ids = [f"Env{i}-v0" for i in range(10)]
    for env_id, algorithm in itertools.product(env_ids, list(SCRIPT_COLOURS)[:5]):
        rows = ["run,step,episodic_return,seconds"]
        for seed in range(4):
            for step in range(1000, 100_001, 1000):
                rows.append(f"{env_id}__x__{seed},{step},{rng.normal(step, 5000)},{step / 500}")
        (tmp_path / f"{algorithm}-{env_id}.csv").write_text("\n".join(rows) + "\n")
    compare_runs(CompareOptions((tmp_path,), out=tmp_path / "report", html=True))
    path = tmp_path / "report" / "report.html"
    assert path.stat().st_size < 5e6
    page = opened(path)  # in 2 s on a quiet machine, which a machine of tests is not
    assert page.evaluate("performance.now()") < 15_000
