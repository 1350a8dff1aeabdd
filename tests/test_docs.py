"""Every Python block of the documentation runs, and what its pages name exists."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_init
import lightning_init.compare as lightning_init_compare
from lightning_init.reporting.tags import FRACTIONAL_MOMENT_TAGS, OPTIMAL_VARIANCE_TAGS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: page.stem)
def test_python_blocks_run(page: Path) -> None:
    """One after the other: a block may use what those above it on the page have made."""
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), names)


def test_most_pages_of_the_guide_have_blocks() -> None:
    assert {page.stem for page in PAGES if blocks(page)} >= {
        "index",
        "fractional_moments",
        "optimal_variance",
        "recipes",
        "theory",
    }


def test_every_function_in_the_table_of_equations_exists() -> None:
    named = re.findall(
        r"\| `((?:theory|stationarity)\.[\w.]+)` \|", (ROOT / "docs/theory.md").read_text()
    )
    assert len(named) >= 10
    for name in named:
        module, _, function = name.rpartition(".")
        assert callable(getattr(importlib.import_module(f"lightning_init.{module}"), function)), (
            name
        )


def test_the_reference_has_everything_public() -> None:
    listed = re.findall(r"::: lightning_init\.([\w.]+)", (ROOT / "docs/api.md").read_text())
    compared = {f"compare.{name}" for name in lightning_init_compare.__all__}
    assert set(listed) == {*lightning_init.__all__, *compared} - {"compare.summarize"}


def test_the_page_on_tensorboard_lists_every_tag() -> None:
    text = (ROOT / "docs" / "tensorboard.md").read_text()
    listed = set(re.findall(r"\| `(\w+Init/[^`]+)` \|", text))
    assert listed == {name for name, _ in OPTIMAL_VARIANCE_TAGS + FRACTIONAL_MOMENT_TAGS}


def test_every_argument_that_the_guide_names_exists() -> None:
    import inspect

    known = {
        name
        for public in (
            lightning_init.OptimalVarianceInit,
            lightning_init.FractionalMomentInit,
            lightning_init.fractional_moment_init_,
            lightning_init.InitRecipe.apply,
        )
        for name in inspect.signature(public).parameters
    }
    for page in ("optimal_variance", "fractional_moments", "limits", "recipes"):
        text = re.sub(r"```.*?```", "", (ROOT / "docs" / f"{page}.md").read_text(), flags=re.DOTALL)
        for name in re.findall(r"`(\w+)=[^`]*`", text):
            assert name in known, f"{page}: {name}"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mkdocstrings") is None,
    reason="mkdocs is not installed: pip install '.[docs]'",
)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api" / "index.html").exists()
