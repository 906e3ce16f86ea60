"""The report page and TensorBoard as a person sees them, in headless Chromium; screenshots in $IGB_SCREENSHOTS."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from igb import report
from tests.conftest import tiny_run
from tests.helpers.runs import HEADER, made_run

pytestmark = pytest.mark.browser
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
VIEWS = {"light": (1280, 900, "light"), "dark": (1280, 900, "dark"), "phone": (390, 844, "light")}
# Pairs of texts that run into each other: those of the charts are drawn on canvases, where axes keep them apart.
OVERLAPS = """() => {
  const boxes = [...document.querySelectorAll(
      'h1,h2,h3,p,dt,dd,li,button,label,figcaption,.name,.value,.label,.chart,th,td,caption')]
    .filter((one) => one.checkVisibility() && one.textContent.trim())
    .map((one) => ({ one, box: one.getBoundingClientRect() }));
  const found = [];
  for (const a of boxes) for (const b of boxes) {
    if (a === b || a.one.contains(b.one) || b.one.contains(a.one)) continue;
    const wide = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
    const high = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
    if (wide > 1 && high > 1) found.push([a, b].map(({ one }) => one.textContent.trim().slice(0, 40)).join(' | '));
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    if not shutil.which("chromium"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
            subprocess.run(["apt-get", "--quiet", *command], check=True, env=environment)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three losses, two learning rates and two seeds of a tiny network, with their report."""
    folder = tmp_path_factory.mktemp("sweep")
    for loss in ("ce", "bl", "pz"):
        for rate in ("0.001", "0.1"):
            for seed in (0, 1):
                overrides = [f"loss={loss}", f"optimizer.lr={rate}", f"seed={seed}"]
                name = ",".join(overrides)
                (folder / name / ".hydra").mkdir(parents=True)
                (folder / name / ".hydra" / "overrides.yaml").write_text("".join(f"- {one}\n" for one in overrides))
                tiny_run(folder / name, *overrides, "trainer.max_epochs=2", "probe.images=100")
    report.write([folder], align="favoured")
    return folder


class Page:
    """A page with what its console said and what it asked the network for."""

    def __init__(self, browser, view, url):
        width, height, scheme = VIEWS[view]
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def scroll_through(self):
        for top in range(0, self.page.evaluate("document.documentElement.scrollHeight"), 500):
            self.page.evaluate(f"window.scrollTo(0, {top})")
            self.page.wait_for_timeout(80)
        self.page.evaluate("window.scrollTo(0, 0)")

    def keep(self, name):
        if folder := os.environ.get("IGB_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture(params=VIEWS)
def opened(request, browser, sweep):
    shown = Page(browser, request.param, (sweep / "report" / "index.html").as_uri())
    shown.scroll_through()
    shown.keep(f"report-{request.param}")
    yield shown
    assert shown.said == []
    assert [url for url in shown.asked if not url.startswith(("file:", "data:"))] == []
    shown.context.close()


def test_the_page_draws_all_and_nothing_overlaps(opened):
    page = opened.page
    charts = page.locator(".chart")
    assert charts.count() == 2 + 6 * 2 + 1 + 3 + 6 * 2  # comparison, figure 2, explorer, landscape, drivers
    assert page.locator(".chart canvas").count() == charts.count()
    assert page.locator(".map").count() == 4
    for details in page.locator("details").all():
        details.evaluate("one => one.open = true")
    assert page.evaluate(OVERLAPS) == []
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]


def test_hover_shows_the_values_under_the_pointer(opened):
    page = opened.page
    chart = page.locator("#figure2 .chart").first
    chart.scroll_into_view_if_needed()
    box = chart.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
    tip = chart.locator(".tip")
    text = tip.inner_text()
    assert re.match(r"step \d+, epoch [\d.]+", text)
    values = [float(value) for value in re.findall(r"\t([\d.e-]+)$", text, re.MULTILINE)]
    assert len(values) == 10
    assert values == sorted(values, reverse=True)
    around, inside = page.evaluate("[0, window.innerWidth]"), tip.bounding_box()
    assert around[0] <= inside["x"]
    assert inside["x"] + inside["width"] <= around[1]


def test_values_are_read_with_the_arrow_keys(opened):
    page = opened.page
    chart = page.locator("#figure2 .chart").first
    chart.focus()
    said = []
    for key in ("ArrowRight", "ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home", "ArrowLeft"):
        page.keyboard.press(key)
        page.wait_for_timeout(100)
        said.append(chart.locator(".spoken").text_content())
        assert chart.locator(".tip b").inner_text() == re.match(r"initialisation|step \d+, epoch [\d.]+", said[-1])[0]
    first, second, last, still_last, before, *again = said
    assert first.startswith("initialisation, ")
    assert again == [first, first]
    assert last == still_last
    assert len({first, second, last, before}) == 4
    assert len(re.findall(r", [^,]+ [\d.e-]+(?=,|$)", last)) == 10 + 1  # each class, and the epoch
    page.keyboard.press("Escape")
    assert chart.locator(".tip").count() == 0


def test_a_term_is_explained_where_the_keyboard_rests(opened):
    term = opened.page.locator("header .term").last
    shown = "one => getComputedStyle(one, '::after').content"
    assert term.evaluate(shown) == "none"
    term.focus()
    assert "From some probe to the last, no class took 50 % or more" in term.evaluate(shown)


def test_a_printed_page_is_not_cut_off_at_the_right(opened):
    page = opened.page
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 1000})  # of A4
    assert not page.locator("nav").is_visible()
    cut = "tables => tables.filter((one) => one.getBoundingClientRect().right > window.innerWidth + 1).length"
    assert page.locator("table").evaluate_all(cut) == 0


def picture(chart):
    """What a chart shows now."""
    chart.page.wait_for_timeout(100)
    return chart.locator("canvas").evaluate("canvas => canvas.toDataURL()")


def test_a_class_can_be_toggled_in_every_chart(opened):
    page = opened.page
    charts = [page.locator("#figure2 .chart").nth(2), page.locator("#why .row .chart").nth(3)]
    before = [picture(chart) for chart in charts]
    button = page.locator("#figure2 .legend button", has_text="favoured")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.locator("#explorer .legend button").first.get_attribute("aria-pressed") == "false"
    assert all(picture(chart) != old for chart, old in zip(charts, before, strict=True))
    button.click()
    page.mouse.move(0, 0)
    assert [picture(chart) for chart in charts] == before


def test_a_setting_can_be_toggled_and_singled_out_in_the_comparison(opened):
    page = opened.page
    charts = [page.locator("#overall .chart").nth(place) for place in (0, 1)]
    points = page.locator('#comparison [data-setting="2"]')
    before = [picture(chart) for chart in charts]
    assert points.count() == 2 * 2  # in two scatter charts, for two seeds
    assert "weight" in points.first.get_attribute("title")
    button = page.locator("#comparison .legend button").nth(2)
    button.hover()
    assert all(picture(chart) != old for chart, old in zip(charts, before, strict=True))
    assert page.locator("#comparison .faint").count() == 5 * 2 * 2
    page.mouse.move(0, 0)
    assert [picture(chart) for chart in charts] == before
    button.click()
    page.mouse.move(0, 0)
    assert button.get_attribute("aria-pressed") == "false"
    assert not points.first.is_visible()
    assert all(picture(chart) != old for chart, old in zip(charts, before, strict=True))
    button.click()
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    assert points.first.is_visible()
    assert [picture(chart) for chart in charts] == before


@pytest.mark.parametrize("view", VIEWS)
def test_many_settings_and_wrong_labels_stay_in_the_window_and_nothing_overlaps(browser, tmp_path, view):
    for loss in range(14):
        for seed in range(3):
            rows = [(0, 1, 0.0, 1), (1, 0.9, 0.1, 0.9), (4, 0.6, 0.3, 0.6), (8, 0.5 + loss / 60, 0.5, 0.55 - loss / 60)]
            made_run(
                tmp_path / f"{loss}-{seed}", rows, overrides=[f"loss=loss_{loss}", f"seed={seed}"],
                started=f"{loss:02}{seed}", seeds={"seed": seed}, config={"seed": seed, "loss": {"name": loss}},
                weight=10 ** (-loss / 4 - seed / 9), wrong=[(0.1, 0.1), (0.2, 0.3), (0.3, 0.6), (0.5 + loss / 60, 0.2)],
            )  # fmt: skip
    report.write([tmp_path], threshold=0.5)
    shown = Page(browser, view, (tmp_path / "report" / "index.html").as_uri())
    shown.scroll_through()
    shown.keep(f"many-settings-{view}")
    page = shown.page
    assert page.locator("#overall .chart").count() == 4
    assert page.locator("#of-labels .chart").count() == 14 * 2
    assert page.locator(".chart canvas").count() == page.locator(".chart").count()
    assert page.evaluate(OVERLAPS) == []
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]
    button = page.locator("#labels .legend button").first
    chart = page.locator("#of-labels .chart").first
    before = picture(chart)
    button.click()
    assert picture(chart) != before
    assert shown.said == []
    shown.context.close()


def test_the_axis_zooms_and_comes_back(opened):
    page = opened.page
    chart = page.locator("#figure2 .chart").first
    chart.scroll_into_view_if_needed()
    whole = picture(chart)
    buttons = page.locator("#figure2 .zoom button")
    assert buttons.all_inner_texts() == ["all", "first ten batches", "epoch one", "after it"]
    buttons.nth(1).click()
    assert picture(chart) != whole
    buttons.nth(0).click()
    assert picture(chart) == whole
    box = chart.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 40, steps=5)
    page.mouse.up()
    page.mouse.move(0, 0)
    assert picture(chart) != whole
    page.mouse.dblclick(box["x"] + box["width"] * 0.5, box["y"] + 40)
    page.mouse.move(0, 0)
    assert picture(chart) == whole


def test_a_chart_that_is_drawn_later_has_the_part_that_is_chosen(browser, sweep):
    shown = Page(browser, "light", (sweep / "report" / "index.html").as_uri())
    page = shown.page
    page.locator("#figure2 .zoom button").nth(1).click()
    late = page.locator("#why .row .chart").last
    assert late.locator("canvas").count() == 0
    late.scroll_into_view_if_needed()
    late.locator("canvas").wait_for()
    zoomed = picture(late)
    page.locator("#why .zoom button").nth(0).click()
    assert picture(late) != zoomed
    page.locator("#why .zoom button").nth(1).click()
    page.mouse.move(0, 0)
    assert picture(late) == zoomed
    shown.context.close()


@pytest.mark.parametrize("view", VIEWS)
def test_many_classes_with_long_names_stay_in_the_window(browser, tmp_path, view):
    names = [f"{k} 猫 " + "a-name-that-goes-on-and-on-" * 8 for k in range(60)]
    folder = made_run(tmp_path / "a", [], class_names=names)
    rows = [f"{s},{s / 4},running,{k},{names[k]},5,0.1,0.1,0.1,0.1,1,1,1" for s in (0, 4, 8) for k in range(60)]
    (folder / "metrics.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    report.write([tmp_path])
    shown = Page(browser, view, (tmp_path / "report" / "index.html").as_uri())
    shown.scroll_through()
    shown.keep(f"long-{view}")
    width = shown.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]
    assert shown.said == []
    shown.context.close()


def test_the_explorer_shows_any_run_and_quantity(opened):
    page = opened.page
    chart = page.locator("#explored")
    chart.scroll_into_view_if_needed()
    runs = page.locator("#explored-run option").all_inner_texts()
    assert len(runs) == 6 + 12
    assert runs[0] == "loss=ce, optimizer.lr=0.001 (mean, n = 2)"
    pictures = {picture(chart)}
    page.select_option("#explored-quantity", "loss")
    pictures.add(picture(chart))
    page.check("#explored-log")
    pictures.add(picture(chart))
    page.select_option("#explored-run", label=next(run for run in runs if "seed=1" in run))
    pictures.add(picture(chart))
    assert len(pictures) == 4


@pytest.fixture(scope="module")
def board(sweep):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(sweep), "--port", str(port)]
    command += ["--samples_per_plugin", "scalars=100000"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"http://localhost:{port}"
    for _ in range(120):
        try:
            runs = urllib.request.urlopen(f"{url}/data/runs").read().decode()
            if runs.count("loss=") >= 24:
                break
        except OSError:
            pass
        time.sleep(1)
    yield url
    process.terminate()
    process.wait()


def test_tensorboard_draws_ten_lines_a_chart(browser, board):
    shown = Page(browser, "light", f"{board}/#custom_scalars&_smoothingWeight=0")
    page = shown.page
    cards = page.locator("tf-custom-scalar-multi-line-chart-card")
    cards.nth(7).locator("path.line").first.wait_for(state="attached", timeout=60_000)
    page.wait_for_timeout(2000)
    shown.keep("tensorboard-all")
    assert cards.first.locator("path.line").count() == 12  # dominance of all runs
    page.locator("tf-runs-selector input").first.fill("^loss=ce,optimizer.lr=0.001,seed=0$")
    page.wait_for_timeout(4000)
    shown.keep("tensorboard-one")
    assert [cards.nth(at).locator("path.line").count() for at in range(8)] == [1, *[10] * 7]
    titles = [cards.nth(at).locator("tf-card-heading").first.evaluate("one => one.displayName") for at in range(5)]
    assert titles == ["dominance", "probability", "accuracy", "guess_fraction", "gradient_norm"]
    points = page.evaluate(
        "async () => (await (await fetch('data/plugin/custom_scalars/scalars?run=loss%3Dce%2Coptimizer.lr%3D0.001%2C"
        "seed%3D0&tag=%5Eprobability%2Frunning%2F3%24')).json()).tag_to_events['probability/running/3'].length"
    )
    assert points == 47  # every batch of epoch one, and epoch two
    shown.context.close()


def test_tensorboard_has_the_swept_keys_in_hparams(browser, board):
    shown = Page(browser, "light", f"{board}/#hparams")
    page = shown.page
    page.get_by_text("dominance_end").first.wait_for(timeout=60_000)
    page.wait_for_timeout(2000)
    shown.keep("tensorboard-hparams")
    for key in (
        "loss",
        "optimizer.lr",
        "seed",
        "dominance_end",
        "worst_accuracy",
        "loss=bl, optimizer.lr=0.001, seed=0",
    ):
        assert page.get_by_text(key, exact=True).count() > 0
    shown.context.close()


def test_tensorboard_has_the_figures_and_the_config(browser, board):
    shown = Page(browser, "light", f"{board}/#images")
    page = shown.page
    page.locator("tf-image-loader img").nth(1).wait_for(timeout=60_000)
    shown.keep("tensorboard-images")
    assert page.get_by_text("figure2").count() > 0
    shown.context.close()
    shown = Page(browser, "light", f"{board}/#text")
    page = shown.page
    page.get_by_text("igb.losses.BlurryLoss").first.wait_for(timeout=60_000)
    shown.keep("tensorboard-text")
    shown.context.close()


def test_classes_are_shown_by_rank_and_one_click_away_by_name(opened):
    """Of two seeds that favour different classes."""
    page = opened.page
    button, first = page.locator("#by-class"), page.locator("#figure2 .legend button").first
    bars = page.locator("#figure1 .panels:visible .name")
    chart = page.locator("#figure2 .chart").first
    by_rank = picture(chart)
    assert (first.inner_text(), bars.first.inner_text()) == ("favoured", "favoured")
    button.click()
    assert (first.inner_text(), bars.first.inner_text()) == ("0", "0")
    assert picture(chart) != by_rank
    run = page.locator("#explored-run")
    last = run.locator("option").last.get_attribute("value")
    run.select_option(last)  # a single run, whose numbers stand with its setting
    button.click()
    page.mouse.move(0, 0)
    assert picture(chart) == by_rank
    assert first.inner_text() == "favoured"
