"""Photograph the TensorBoard page of a run: the pictures in README and docs come from here.

    python examples/quickstart.py --log-dir logs
    python docs/screenshots.py logs docs/images

Needs selenium, Debian's `chromium` and `chromium-driver`, and tensorboard.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

# Dashboards to show.
PAGES = {
    "time_series": "?darkMode=false&tagFilter=OptimalVarianceInit%2F(variance%7Cdrift)#timeseries",
    "scalars": "?darkMode=false#scalars",
    "custom_scalars": "?darkMode=false#custom_scalars",
    "images": "?darkMode=false#images",
    "text": "?darkMode=false#text",
}
# Everything below the open shadow roots of the page, as a list of elements.
DEEP = """
const found = [];
const walk = (root) => root.querySelectorAll("*").forEach((element) => {
  found.push(element);
  if (element.shadowRoot) walk(element.shadowRoot);
});
walk(document);
"""


@contextmanager
def tensorboard(log_dir: Path) -> Iterator[str]:
    """A TensorBoard server on a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{url}data/runs", timeout=5).read()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


@contextmanager
def browser(profile: str, width: int = 1400, height: int = 1000) -> Iterator[webdriver.Chrome]:
    """Headless Chromium without any traffic of its own."""
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--force-device-scale-factor=1",
        f"--window-size={width},{height}",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


def visible_text(driver: webdriver.Chrome) -> str:
    """All text of the page, also below shadow roots, that is shown."""
    script = f"""{DEEP}
    return found
      .filter((e) => !["STYLE", "SCRIPT", "TEMPLATE", "DOM-MODULE"].includes(e.tagName))
      .filter((e) => e.getClientRects().length)
      .map((e) => [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data).join(""))
      .filter((text) => text.trim()).join("\\n");"""
    return str(driver.execute_script(script))


def elements(driver: webdriver.Chrome, selector: str) -> list[WebElement]:
    """Elements that are shown and match, also below shadow roots."""
    script = f"""{DEEP}
    return found.filter((e) => e.matches(arguments[0]) && e.getClientRects().length);"""
    return list(driver.execute_script(script, selector))


def open_page(driver: webdriver.Chrome, url: str, fragment: str, wait: float) -> None:
    """Load one dashboard, and wait until its text has stopped changing, `wait` seconds at most."""
    driver.get("about:blank")
    driver.get(url + fragment)
    deadline, before = time.monotonic() + wait, None
    while time.monotonic() < deadline:
        time.sleep(2.0)
        now = visible_text(driver)
        if now == before and "OptimalVarianceInit" in now:
            return
        before = now


def photograph(log_dir: Path, out: Path, wait: float = 30.0) -> dict[str, Path]:
    """Write one PNG per dashboard.

    Args:
        log_dir: What TensorBoard reads.
        out: Directory of the pictures.
        wait: Most seconds that a dashboard gets to draw its charts.
    """
    out.mkdir(parents=True, exist_ok=True)
    pictures = {}
    with (
        tempfile.TemporaryDirectory() as profile,
        tensorboard(log_dir) as url,
        browser(profile) as driver,
    ):
        for name, fragment in PAGES.items():
            open_page(driver, url, fragment, wait)
            pictures[name] = out / f"tensorboard_{name}.png"
            driver.save_screenshot(str(pictures[name]))
    return pictures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--wait", type=float, default=30.0)
    arguments = parser.parse_args()
    for path in photograph(arguments.log_dir, arguments.out, arguments.wait).values():
        print(path)
