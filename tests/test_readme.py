"""Every code block of the README runs, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import lightning_init

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_block_runs(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_there_are_blocks_to_run() -> None:
    assert len(BLOCKS) >= 3


def test_its_sentences_are_short_and_without_symbols() -> None:
    prose = re.sub(r"```.*?```|^[|#][^\n]*$", "\n\n", README, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"!?\[([^]]*)\]\([^)]*\)|`[^`]*`", r"\1", prose)
    for sentence in re.split(r"(?<=[.:!?])\s|\n\n|\n\* ", prose):
        assert len(sentence.split()) <= 25, sentence
    assert not re.search(r"[σφηλ‖₀²]|V\(W\)", README)


def test_the_citation_is_of_this_version() -> None:
    assert f"version: {lightning_init.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_test_command_is_the_one_that_ci_runs() -> None:
    assert "\npytest\n" in README
    assert "\npytest\n" in (ROOT / ".ci" / "run").read_text()
