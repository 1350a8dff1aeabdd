"""Make the pictures of the documentation: everything that people see, on one machine.

    python docs/screenshots.py docs/images

Trains a network of 4 layers (`examples/quickstart.py`), one of 50 and one of 500, compares two
initializations, and photographs TensorBoard, the terminal and the HTML forms of a notebook.
Needs selenium, Debian's `chromium` and `chromium-driver`, tensorboard, rich, and Pillow.
"""

from __future__ import annotations

import argparse
import base64
import os
import pty
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from rich.console import Console
from rich.text import Text
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import FractionalMomentInit, OptimalVarianceInit, fractional_moment_init_
from lightning_init.compare import ComparisonReport, compare

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
import quickstart  # noqa: E402

# Dashboards to show.
PAGES = {
    dashboard: f"?darkMode=false#{dashboard.replace('time_series', 'timeseries')}"
    for dashboard in ("time_series", "scalars", "custom_scalars", "images", "text")
}
# Pixels of a window that shows what matters of it.
HEIGHTS = {"time_series": 1950, "custom_scalars": 760, "images": 1550, "text": 1350}
# Everything below the open shadow roots of the page, as a list of elements.
DEEP = """
const found = [];
const walk = (root) => root.querySelectorAll("*").forEach((element) => {
  found.push(element);
  if (element.shadowRoot) walk(element.shadowRoot);
});
walk(document);
"""
# A notebook's look, without a notebook.
STYLE = """<!doctype html><meta charset="utf-8"><style>
main { font: 14px sans-serif; padding: 16px; display: inline-block; max-width: 1150px; }
table { border-collapse: collapse; margin: 8px 0; font-size: 13px; }
td, th { padding: 3px 8px; text-align: left; border-bottom: 1px solid #ddd; }
code { color: #307fc1; display: block; margin: 14px 0 6px; }
pre { font: 13px monospace; background: #1e1e1e; color: #ddd; padding: 12px; margin: 0; }
</style>"""


class DeepMLP(LightningModule):
    """A tanh network of many narrow layers, trained by AdamW with strong decay."""

    def __init__(self, layers: int, width: int = 8) -> None:
        super().__init__()
        hidden = [m for _ in range(layers - 1) for m in (nn.Linear(width, width), nn.Tanh())]
        self.net = nn.Sequential(*hidden, nn.Linear(width, 1))
        self.example_input_array = torch.randn(32, width)

    def forward(self, x: Tensor) -> Tensor:
        """One number per input."""
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Mean squared error."""
        loss = nn.functional.mse_loss(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Strong decay, so that the variance moves in few steps."""
        return torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.5)


# What a probe can be asked for; "use" keeps it going though nothing will settle.
EVERYTHING: dict[str, Any] = {
    "rounds": 2,
    "forgetting": True,
    "guard_steps": 10,
    "on_unsettled": "use",
}


def train_deep(layers: int, log_dir: Path, steps: int, **settings: Any) -> OptimalVarianceInit:
    """Train a deep network with both callbacks, half of `steps` in the probe."""
    seed_everything(0)
    x = torch.randn(256, 8)
    data = TensorDataset(x, x.sum(1, keepdim=True).tanh())
    optimal = OptimalVarianceInit(max_probe_steps=steps // 2, verbose=False, **settings)
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        callbacks=[FractionalMomentInit(verbose=False), optimal],
        logger=TensorBoardLogger(log_dir, name="deep", version=f"{layers}_layers"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        log_every_n_steps=5,
    )
    trainer.fit(DeepMLP(layers), DataLoader(data, batch_size=32, shuffle=True))
    return optimal


@contextmanager
def tensorboard(log_dir: Path) -> Iterator[str]:
    """A TensorBoard server on a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    # From within: the page shows the directory that it is given.
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "."]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--load_fast", "false"],
        cwd=log_dir,
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
    driver.set_script_timeout(240)  # a busy machine takes long for a large page
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


def all_drawn(driver: webdriver.Chrome) -> bool:
    """Whether every image of the page is there, and nothing turns to say that it is loading."""
    images = elements(driver, "img")
    complete = all(i.get_property("naturalWidth") for i in images)
    return complete and not elements(driver, "mat-spinner, paper-spinner-lite[active]")


def open_page(driver: webdriver.Chrome, url: str, fragment: str, wait: float) -> None:
    """Load one dashboard, and wait until its text has stopped changing, `wait` seconds at most."""
    driver.get("about:blank")
    driver.get(url + fragment)
    deadline, before = time.monotonic() + wait, None
    while time.monotonic() < deadline:
        time.sleep(2.0)
        now = visible_text(driver)
        if now == before and "Init" in now and all_drawn(driver):
            break
        before = now
    # The settings hide a third of the page.
    for button in elements(driver, ".settings-button.checked"):
        driver.execute_script("arguments[0].click()", button)
        time.sleep(1.0)


def photograph(
    driver: webdriver.Chrome, log_dir: Path, out: Path, dashboards: dict[str, str]
) -> None:
    """Write pictures of dashboards, by the name of the file."""
    with tensorboard(log_dir) as url:
        for name, dashboard in dashboards.items():
            driver.set_window_size(1400, HEIGHTS[dashboard])
            open_page(driver, url, PAGES[dashboard], wait=60.0)
            save(driver, out / f"{name}.png")


def photograph_html(driver: webdriver.Chrome, body: str, path: Path) -> None:
    """Write a picture of a piece of HTML, as large as that is."""
    page = path.with_suffix(".html")
    page.write_text(f"{STYLE}<main>{body}</main>", encoding="utf-8")
    driver.get(page.as_uri())
    page.unlink()
    (shown,) = driver.find_elements("css selector", "main")
    # What lies outside the window is not drawn.
    driver.set_window_size(1400, shown.size["height"] + 300)
    shown.screenshot(str(path))
    compress(path)


def save(driver: webdriver.Chrome, path: Path) -> None:
    """Write a picture of the window."""
    driver.save_screenshot(str(path))
    compress(path)


def compress(path: Path) -> None:
    """Keep 256 colours, of which such pages have hardly more."""
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


def terminal(command: list[str], columns: int) -> str:
    """What a command shows in a terminal of so many columns, as HTML."""
    own, other = pty.openpty()
    size = {"COLUMNS": str(columns), "LINES": "60", "TERM": "xterm-256color"}
    # Warnings name the files of this machine; what they say is in the report too.
    environment = {**os.environ, **size, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, stdout=other, stderr=other, stdin=other, env=environment)
    os.close(other)
    shown = b""
    with suppress(OSError):  # the end of a pseudo terminal
        while part := os.read(own, 65536):
            shown += part
    process.wait()
    os.close(own)
    return ansi_page(shown.decode(), columns)


def ansi_page(shown: str, columns: int) -> str:
    """The package's own part of what a terminal was sent, between Lightning's, as HTML."""
    # What a carriage return wrote over is not seen any more.
    lines = [line.rsplit("\r", 1)[-1] for line in shown.replace("\r\n", "\n").split("\n")]
    start = lines.index("") + 1
    # The last frame is that of Lightning's own summary.
    end = max((i for i, line in enumerate(lines) if "┏" in line), default=len(lines))
    console = Console(width=columns, record=True, file=StringIO())
    console.print(Text.from_ansi("\n".join(lines[start:end]).rstrip()))
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def cell(source: str, value: Any) -> str:
    """A notebook's cell: what was typed, and the HTML form of its value."""
    return f"<code>{source}</code>{value._repr_html_()}"


def figure_cell(source: str, figure: Any) -> str:
    """A notebook's cell whose value is a figure."""
    content = BytesIO()
    figure.savefig(content, dpi=120)
    picture = base64.b64encode(content.getvalue()).decode()
    return f'<code>{source}</code><img src="data:image/png;base64,{picture}">'


def tensorboard_pictures(driver: webdriver.Chrome, folder: Path, out: Path) -> None:
    """The page of 4, 50 and 500 layers, and the other tabs of 4."""
    quickstart.main(["--log-dir", str(folder / "4")])
    train_deep(50, folder / "50", 300, **EVERYTHING)
    train_deep(500, folder / "500", 100)
    for layers in (4, 50, 500):
        page = {f"tensorboard_{layers}_layers": "time_series"}
        photograph(driver, folder / str(layers), out, page)
    names = ("custom_scalars", "images", "text")
    few = {f"tensorboard_{dashboard}": dashboard for dashboard in names}
    photograph(driver, folder / "4", out, few)


def terminal_picture(driver: webdriver.Chrome, folder: Path, out: Path) -> None:
    """The quickstart in a terminal of 80 columns."""
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), "--log-dir", str(folder)]
    photograph_html(driver, terminal(command, 80), out / "terminal_80_columns.png")


def notebook_pictures(driver: webdriver.Chrome, folder: Path, out: Path) -> None:
    """Plan and report of the quickstart, as a notebook shows them."""
    plan = fractional_moment_init_(quickstart.DigitsMLP(), dry_run=True)
    report = quickstart.main(["--log-dir", str(folder)]).report
    for name, value in (("plan", plan), ("report", report)):
        if hasattr(value, "_repr_html_"):
            drawn = figure_cell(f"callback.{name}.plot()", value.plot())
            shown = cell(f"callback.{name}", value) + drawn
            photograph_html(driver, shown, out / f"notebook_{name}.png")


def comparison_picture(driver: webdriver.Chrome, folder: Path, out: Path) -> None:
    """The page of a comparison of three initializations, as a notebook shows it."""
    if not hasattr(ComparisonReport, "_repr_html_"):
        return
    trainer = {"max_epochs": 3, "enable_progress_bar": False}
    report: Any = compare(
        quickstart.DigitsMLP,
        quickstart.digits_loader,
        ["default", "he", "fractional"],
        seeds=8,
        out=folder,
        trainer=trainer,
        reference="default",
        progress=False,
    ).report
    drawn = figure_cell("comparison.report.plot()", report.plot())
    photograph_html(driver, drawn + cell("comparison.report", report), out / "comparison.png")


PARTS = {
    "tensorboard": tensorboard_pictures,
    "terminal": terminal_picture,
    "notebook": notebook_pictures,
    "comparison": comparison_picture,
}


def make_pictures(out: Path, parts: list[str]) -> None:
    """Write the pictures of some parts of the documentation."""
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        with tempfile.TemporaryDirectory() as name, browser(f"{name}/profile") as driver:
            PARTS[part](driver, Path(name, "logs"), out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    make_pictures(arguments.out, arguments.parts)
