"""The page that a user sees: the real TensorBoard server, driven by headless Chromium.

Run with `pytest -m browser`. With LIGHTNING_INIT_REQUIRE_BROWSER=1 a missing browser is a failure;
with LIGHTNING_INIT_SCREENSHOTS=<directory> the screenshots are kept there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
MISSING += [] if importlib.util.find_spec("selenium") else ["selenium"]
REQUIRED = os.environ.get("LIGHTNING_INIT_REQUIRE_BROWSER") == "1"
LAYERS = ("net.0", "net.2", "net.4", "net.6")
COMPLAINTS = (
    r"error|fail|could not|mismatch|not found|no data|no scalar|no image|no text|no dashboards"
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        bool(MISSING) and not REQUIRED,
        reason=f"not installed: {', '.join(MISSING)} (apt-get install chromium chromium-driver)",
    ),
]

# Curves, points and error bars of one chart: what is drawn beside its axes and its grid.
DRAWN = """
let count = 0;
const walk = (root) => root.querySelectorAll("*").forEach((element) => {
  if (element.shadowRoot) walk(element.shadowRoot);
  const long = element.tagName === "path" && element.getTotalLength() > 5;
  if (long || element.tagName === "circle") count += 1;
});
walk(arguments[0].shadowRoot || arguments[0]);
return count;
"""


# The colours of the long curves of one chart.
COLOURS = """
const colours = new Set();
const walk = (root) => root.querySelectorAll("*").forEach((element) => {
  if (element.shadowRoot) walk(element.shadowRoot);
  if (element.tagName !== "path" || element.getTotalLength() < 5) return;
  const stroke = getComputedStyle(element).stroke;
  if (stroke !== "none") colours.add(stroke);
});
walk(arguments[0].shadowRoot || arguments[0]);
return [...colours];
"""


# Labels of the vertical axis of one chart.
LABELS = """
const found = [];
const walk = (root) => root.querySelectorAll("*").forEach((element) => {
  if (element.shadowRoot) walk(element.shadowRoot);
  if (element.matches(".y-axis .tick-label")) found.push(element.textContent);
});
walk(arguments[0].shadowRoot || arguments[0]);
return found;
"""


@pytest.fixture(scope="module")
def screenshots() -> Any:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import screenshots
    finally:
        sys.path.pop(0)
    return screenshots


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = os.environ.get("LIGHTNING_INIT_SCREENSHOTS")
    path = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory, screenshots: Any) -> Path:
    """Networks of 4, 50 and 500 layers; the second with rounds, a test of memory and a guard."""
    folder = tmp_path_factory.mktemp("logs")
    short = ["--epochs", "8", "--max-probe-steps", "400"]
    screenshots.quickstart.main([*short, "--log-dir", str(folder / "4")])
    screenshots.train_deep(50, folder / "50", 200, **screenshots.EVERYTHING)
    screenshots.train_deep(500, folder / "500", 100)
    return folder


@pytest.fixture(scope="module")
def chromium(screenshots: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    # So high that every chart is in view: TensorBoard draws no others.
    profile = str(tmp_path_factory.mktemp("profile"))
    with screenshots.browser(profile, height=4000) as driver:
        yield driver


@pytest.fixture(scope="module")
def urls(screenshots: Any, logs: Path) -> Iterator[dict[int, str]]:
    with ExitStack() as servers:
        yield {
            layers: servers.enter_context(screenshots.tensorboard(logs / str(layers)))
            for layers in (4, 50, 500)
        }


@pytest.fixture
def page(
    screenshots: Any, chromium: Any, urls: dict[int, str], pictures: Path, request: Any
) -> str:
    """The text of one dashboard, which is open in the browser."""
    dashboard, layers = request.param
    screenshots.open_page(chromium, urls[layers], screenshots.PAGES[dashboard], wait=60.0)
    screenshots.save(chromium, pictures / f"{dashboard}_{layers}_layers.png")
    return str(screenshots.visible_text(chromium))


def of_networks(dashboard: str, *layers: int) -> Any:
    """Run a test on one dashboard of networks of so many layers."""
    pages = [pytest.param((dashboard, count), id=f"{count}-layers") for count in layers]
    return pytest.mark.parametrize("page", pages, indirect=True)


def assert_charts(screenshots: Any, driver: Any, selector: str, count: int) -> None:
    charts = screenshots.elements(driver, selector)
    assert len(charts) == count
    for number, chart in enumerate(charts):
        assert driver.execute_script(DRAWN, chart) > 0, f"{selector} {number} is empty"


def lower_end(driver: Any, chart: Any) -> float:
    """The smallest number beside the vertical axis of a chart."""
    texts = driver.execute_script(LABELS, chart)
    numbers = [float(text) for text in texts if re.fullmatch(r"-?\d*\.?\d+(e-?\d+)?", text)]
    return min(numbers)


def assert_no_complaint(text: str) -> None:
    assert not re.findall(rf".*(?:{COMPLAINTS}).*", text, flags=re.IGNORECASE)


@of_networks("time_series", 4, 50, 500)
def test_the_page_that_opens_begins_with_all_at_a_glance(
    page: str, screenshots: Any, chromium: Any
) -> None:
    assert_no_complaint(page)
    cards = screenshots.elements(chromium, "card-view")
    titles = [chromium.execute_script("return arguments[0].innerText", c) for c in cards]
    # A title is broken where its card is narrow.
    kinds = "first_weights|log_norm|variance|drift|weights"
    found = [re.search(rf"/\s*((?:\d_)?(?:{kinds}))", "".join(t.split())) for t in titles]
    assert [match.group(1) for match in found[:8] if match] == [
        *("first_weights", "log_norm"),
        "1_first_weights",
        *("2_variance", "2_variance"),
        *("3_drift", "3_drift"),
        "4_weights",
    ]
    # No chart has a single dot.
    assert "FractionalMomentInit/std" not in page
    charts = screenshots.elements(chromium, "line-chart")
    assert charts
    assert all(chromium.execute_script(DRAWN, chart) for chart in charts)


@of_networks("scalars", 4)
def test_scalars(page: str, screenshots: Any, chromium: Any) -> None:
    assert_no_complaint(page)
    assert "FractionalMomentInit" not in page
    charts = screenshots.elements(chromium, "vz-line-chart2")
    assert len(charts) > 10
    assert all(chromium.execute_script(DRAWN, chart) for chart in charts)


@of_networks("custom_scalars", 4, 50, 500)
def test_custom_scalars(page: str, screenshots: Any, chromium: Any, request: Any) -> None:
    assert_no_complaint(page)
    for title in ("V / V before the probe", "drift, settled below the tolerance"):
        assert title in page
    assert len(screenshots.elements(chromium, "tf-custom-scalar-multi-line-chart-card")) == 2
    assert_charts(screenshots, chromium, "vz-line-chart2", 2)
    shown = min(6, request.node.callspec.params["page"][1])
    # The tolerance is drawn beside the layers, each in a colour of its own.
    assert re.findall(r"Matches \((\d+)\)", page) == [str(shown), str(shown + 1)]
    assert re.search(r"probe/tolerance_0\.1", page)
    curves, drifts = screenshots.elements(chromium, "vz-line-chart2")
    assert len(chromium.execute_script(COLOURS, curves)) == shown
    assert lower_end(chromium, drifts) <= 0.1


@of_networks("images", 4, 50, 500)
def test_images(page: str, screenshots: Any, chromium: Any) -> None:
    assert_no_complaint(page)
    names = re.findall(r"^(?:Fractional|Optimal)\S+$", page, flags=re.MULTILINE)
    expected = ["FractionalMomentInit/figure/first_weights", "FractionalMomentInit/figure/log_norm"]
    figures = ("1_first_weights", "2_variance", "3_drift", "4_weights")
    expected += [f"OptimalVarianceInit/at_a_glance/{name}" for name in figures]
    assert [name for name in names if "/" in name] == expected
    images = screenshots.elements(chromium, "img")
    widths = [chromium.execute_script("return arguments[0].naturalWidth", i) for i in images]
    assert widths == [800] * 6


@of_networks("text", 4)
def test_text(page: str, screenshots: Any, chromium: Any) -> None:
    assert_no_complaint(page)
    assert re.search(r"over a horizon of \d+ optimizer steps", page)
    lines = page.splitlines()
    for word in ("V/V before", "drift", "verdict", "sigma0", "/ Kaiming", *LAYERS):
        assert word in lines
    # No cell is so narrow that its words are broken: one line each.
    for columns in (8, 10):
        cells = screenshots.elements(chromium, f"tr:has(> :last-child:nth-child({columns})) > td")
        assert len(cells) == columns * len(LAYERS)
        heights = chromium.execute_script("return arguments[0].map((e) => e.clientHeight)", cells)
        assert max(heights) < 50


def test_an_empty_chart_and_a_missing_series_are_noticed(
    screenshots: Any, chromium: Any, tmp_path: Path, pictures: Path
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        for step in range(10):
            writer.add_scalar("OptimalVarianceInit/variance/net.0", 1.0 + step, step)
        charts = {
            "hit": ["Multiline", ["^OptimalVarianceInit/variance/(net\\.0)$"]],
            "miss": ["Multiline", ["^OptimalVarianceInit/variance/(other)$"]],
        }
        writer.add_custom_scalars({"OptimalVarianceInit": charts})
    with screenshots.tensorboard(tmp_path) as url:
        screenshots.open_page(chromium, url, screenshots.PAGES["custom_scalars"], wait=60.0)
        chromium.save_screenshot(str(pictures / "negative_control.png"))
        hit, miss = screenshots.elements(chromium, "vz-line-chart2")
        assert chromium.execute_script(DRAWN, hit) > 0
        assert chromium.execute_script(DRAWN, miss) == 0
