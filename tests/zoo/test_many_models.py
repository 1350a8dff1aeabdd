"""Architectures that others wrote: each runs, stays finite, and is read as docs/models.md says."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

import pytest
from many_models import Read, architectures, read, row_of

pytest.importorskip("transformers")
pytest.importorskip("torch_geometric")
if importlib.util.find_spec("timm") is None:  # imported later, as it looks for torchvision
    pytest.skip("pip install '.[zoo]'", allow_module_level=True)
pytestmark = pytest.mark.slow

NAMES = tuple(architectures())
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
MOST_ASSUMED = 0.05


@functools.cache
def found(name: str) -> Read:
    return read(architectures()[name])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_is_read_as_the_page_says(name: str) -> None:
    one = found(name)
    assert len(set(one.names)) == len(one.names)
    assert all(one.reasons)
    assert row_of(name, one) in PAGE.read_text().splitlines()


def test_the_page_lists_at_least_sixty_and_few_weights_are_assumed() -> None:
    rows = re.findall(r"^\| \w+ .+? \| (\d+) \| (\d+) \| (\d+) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == len(NAMES) >= 60
    decided, assumed = (sum(int(row[i]) for row in rows) for i in (0, 1))
    assert assumed <= MOST_ASSUMED * (decided + assumed)
