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
def quickstart_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import quickstart
    finally:
        sys.path.pop(0)
    logs = tmp_path_factory.mktemp("logs")
    quickstart.main(["--epochs", "8", "--max-probe-steps", "400", "--log-dir", str(logs)])
    return logs


@pytest.fixture(scope="module")
def chromium(screenshots: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    # So high that every chart is in view: TensorBoard draws no others.
    profile = str(tmp_path_factory.mktemp("profile"))
    with screenshots.browser(profile, height=4000) as driver:
        yield driver


@pytest.fixture(scope="module")
def url(screenshots: Any, quickstart_logs: Path) -> Iterator[str]:
    with screenshots.tensorboard(quickstart_logs) as address:
        yield address


@pytest.fixture
def page(screenshots: Any, chromium: Any, url: str, pictures: Path, request: Any) -> str:
    """The text of one dashboard, which is open in the browser."""
    screenshots.open_page(chromium, url, screenshots.PAGES[request.param], wait=60.0)
    chromium.save_screenshot(str(pictures / f"{request.param}.png"))
    return str(screenshots.visible_text(chromium))


def assert_charts(screenshots: Any, driver: Any, selector: str, count: int) -> None:
    charts = screenshots.elements(driver, selector)
    assert len(charts) == count
    for number, chart in enumerate(charts):
        assert driver.execute_script(DRAWN, chart) > 0, f"{selector} {number} is empty"


def assert_no_complaint(text: str) -> None:
    assert not re.findall(rf".*(?:{COMPLAINTS}).*", text, flags=re.IGNORECASE)


@pytest.mark.parametrize("page", ["time_series"], indirect=True)
def test_time_series(page: str, screenshots: Any, chromium: Any) -> None:
    assert_no_complaint(page)
    for quantity in ("variance", "drift"):
        for layer in LAYERS:
            assert re.search(rf"OptimalVarianceInit/{quantity}\s*/{re.escape(layer)}", page)
    assert_charts(screenshots, chromium, "line-chart", 2 * len(LAYERS))


@pytest.mark.parametrize("page", ["scalars"], indirect=True)
def test_scalars(page: str, screenshots: Any, chromium: Any) -> None:
    assert_no_complaint(page)
    for layer in LAYERS:
        assert f"FractionalMomentInit/std/{layer}" in page
    charts = screenshots.elements(chromium, "vz-line-chart2")
    assert len(charts) > 10
    assert all(chromium.execute_script(DRAWN, chart) for chart in charts)


@pytest.mark.parametrize("page", ["custom_scalars"], indirect=True)
def test_custom_scalars(page: str, screenshots: Any, chromium: Any) -> None:
    assert_no_complaint(page)
    assert "OptimalVarianceInit: confidence bands" in page
    for title in ("V", "drift and tolerance", "KL"):
        assert f"{title}, layers 1-4 of 4 by drift" in page
    for layer in LAYERS:
        assert f"V: {layer}" in page
        assert f"drift: {layer}" in page
    assert len(screenshots.elements(chromium, "tf-custom-scalar-multi-line-chart-card")) == 3
    assert len(screenshots.elements(chromium, "tf-custom-scalar-margin-chart-card")) == 8
    assert_charts(screenshots, chromium, "vz-line-chart2", 11)
    # The tolerance is drawn beside the four layers.
    assert re.findall(r"Matches \((\d+)\)", page) == ["4", "5", "4", *["1"] * 8]


@pytest.mark.parametrize("page", ["images"], indirect=True)
def test_images(page: str, screenshots: Any, chromium: Any) -> None:
    assert_no_complaint(page)
    for name in (
        "FractionalMomentInit/figure/log_norm",
        "OptimalVarianceInit/figure/bound",
        "OptimalVarianceInit/figure/trajectories",
        "OptimalVarianceInit/figure/weights",
    ):
        assert name in page
    images = screenshots.elements(chromium, "img")
    widths = [chromium.execute_script("return arguments[0].naturalWidth", i) for i in images]
    assert widths == [800, 800, 800, 800]


@pytest.mark.parametrize("page", ["text"], indirect=True)
def test_text(page: str, screenshots: Any, chromium: Any) -> None:
    assert_no_complaint(page)
    assert re.search(r"over a horizon of \d+ optimizer steps", page)
    lines = page.splitlines()
    for word in ("V before", "ratio", "drift", "verdict", "sigma0", *LAYERS):
        assert word in lines
    # No cell is so narrow that its words are broken: one line each.
    cells = screenshots.elements(chromium, "tr:has(> :nth-child(8)) > td")
    assert len(cells) == 8 * len(LAYERS)
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
