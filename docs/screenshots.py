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

# Dashboards to show, each with the time that its charts need to appear, in seconds.
PAGES = {
    "scalars": "?darkMode=false#timeseries&tagFilter=OptimalVarianceInit%2F(variance%7Cdrift)",
    "custom_scalars": "?darkMode=false#custom_scalars",
    "images": "?darkMode=false#images",
    "text": "?darkMode=false#text",
}


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


def photograph(log_dir: Path, out: Path, wait: float = 12.0) -> dict[str, Path]:
    """Write one PNG per dashboard.

    Args:
        log_dir: What TensorBoard reads.
        out: Directory of the pictures.
        wait: Seconds that a dashboard gets to draw its charts.
    """
    out.mkdir(parents=True, exist_ok=True)
    pictures = {}
    with (
        tempfile.TemporaryDirectory() as profile,
        tensorboard(log_dir) as url,
        browser(profile) as driver,
    ):
        for name, fragment in PAGES.items():
            driver.get("about:blank")
            driver.get(url + fragment)
            time.sleep(wait)
            pictures[name] = out / f"tensorboard_{name}.png"
            driver.save_screenshot(str(pictures[name]))
    return pictures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--wait", type=float, default=12.0)
    arguments = parser.parse_args()
    for path in photograph(arguments.log_dir, arguments.out, arguments.wait).values():
        print(path)
