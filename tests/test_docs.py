"""Every Python block of the documentation runs, and what its pages name exists."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from logged_tags import FRACTIONAL_MOMENT_TAGS, OPTIMAL_VARIANCE_TAGS

import lightning_init
import lightning_init.compare as lightning_init_compare

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
WITH_LINKS = [*PAGES, NOTEBOOK, *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING"))]
# Made by a script, and included from elsewhere.
WITHOUT_A_PROMISE = {"study_tables", "changelog"}
# Arguments of jsonargparse, and of the reader's own modules.
OF_OTHERS = {"config", "model", "data", "help", "print_config", "width"}


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


def test_every_page_begins_with_what_the_reader_can_do_after_it() -> None:
    for page in PAGES:
        if page.stem not in WITHOUT_A_PROMISE:
            begin = page.read_text().split("\n\n")[1]
            assert begin.startswith("After this page you "), page.name


def text_of(page: Path) -> str:
    """The text of a page; of a notebook, that between its code."""
    if page.suffix == ".md":
        return page.read_text()
    return "\n\n".join(
        "".join(cell["source"])
        for cell in json.loads(page.read_text())["cells"]
        if cell["cell_type"] == "markdown"
    )


def anchors(page: Path) -> set[str]:
    """What a link to a place on the page may name: its headings, and objects of the reference."""
    text = text_of(page)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    slugs = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in headings}
    return slugs | set(re.findall(r"^::: ([\w.]+)$", text, flags=re.MULTILINE))


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda page: page.stem)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def public_callables() -> dict[str, set[str]]:
    """Arguments of each public function, class and method by its name, and of the Trainer."""
    found = {"Trainer": set(inspect.signature(Trainer).parameters)}
    for module in (lightning_init, lightning_init_compare):
        for name in module.__all__:
            public = getattr(module, name)
            methods = inspect.getmembers(public, callable) if inspect.isclass(public) else []
            for key, value in [(name, public), *methods]:
                if not key.startswith("_") and callable(value):
                    found.setdefault(key, set()).update(inspect.signature(value).parameters)
    return found


CALLABLES = public_callables()
ARGUMENTS = set().union(*CALLABLES.values())
COMMAND_LINES = [
    *(ROOT / "lightning_init" / "cli").glob("*.py"),
    *(ROOT / "examples").rglob("*.py"),
    *(ROOT / "tests" / "zoo").glob("*.py"),
]
FLAGS = {
    flag.replace("-", "_")
    for path in COMMAND_LINES
    for flag in re.findall(r"\"--([\w-]+)\"", path.read_text())
}


def unknown_arguments(text: str) -> list[str]:
    """What a page names as an argument, and nothing has: in code, in `name=`, and in `--name`."""
    found = []
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                given = {keyword.arg for keyword in node.keywords} - {None}
                if name in lightning_init.__all__:
                    found += [f"{name}({key}=)" for key in given - CALLABLES[name]]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for code in inline:
        if re.match(r"\w+:\w+=", code):  # a scheme of the comparison and its options
            continue
        called = re.match(r"(\w+)\(", code)
        known = CALLABLES.get(called[1] if called else "", ARGUMENTS)
        names = re.findall(r"(?:^|[(,] ?)(\w+)=(?!=)", code)
        found += [code for name in names if name not in known]
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    for command in [line for line in lines + inline if line.startswith(("python ", "--"))]:
        for flag in re.findall(r"--([\w.-]+)", command):
            name = flag.rpartition(".")[2].replace("-", "_")
            if name not in ARGUMENTS | FLAGS | OF_OTHERS:
                found.append(f"--{flag}")
    return found


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda page: page.stem)
def test_every_argument_that_a_page_names_exists(page: Path) -> None:
    assert unknown_arguments(text_of(page)) == []


def test_a_page_that_names_what_is_gone_is_noticed() -> None:
    assert unknown_arguments("`persistence=3`") == ["persistence=3"]
    assert unknown_arguments("`InitRecipe(order=1)`") == ["InitRecipe(order=1)"]
    assert unknown_arguments("```python\nFractionalMomentInit(scheme='exact')\n```") == [
        "FractionalMomentInit(scheme=)"
    ]
    assert unknown_arguments("```console\npython x.py --log-summary\n```") == ["--log-summary"]
    assert unknown_arguments("`rounds=3` `OptimalVarianceInit(recipe=...)` `--order=1`") == []


def notebook_code() -> list[dict[str, object]]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_tutorial_is_shown_with_the_outputs_of_one_whole_run() -> None:
    code = notebook_code()
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(outputs) >= 6
    assert not [one for one in outputs if one["output_type"] == "error" or "stderr" in str(one)]
    assert NOTEBOOK.stat().st_size < 300_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # put back afterwards: the notebook goes to a folder of its own
    names: dict[str, object] = {"__name__": "tutorial"}
    for cell in notebook_code():
        lines = "".join(cell["source"]).splitlines()
        source = "\n".join(line for line in lines if not line.startswith("%"))
        exec(compile(source, NOTEBOOK.name, "exec"), names)
    # What the text says of it: guessing among ten digits has a loss of log 10.
    assert names["drawn"] < 1.0 < 2.2 < names["plain"]
    assert names["probe"].report is not None


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
