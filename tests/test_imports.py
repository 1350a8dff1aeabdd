"""What importing the package brings along, beyond what Lightning itself imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = ("scipy", "matplotlib", "pandas", "rich", "jsonargparse", "sklearn")
PROGRAM = """
import sys
import lightning.pytorch
before = set(sys.modules)
import lightning_init
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


@pytest.fixture(scope="module")
def brought() -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
    )
    return set(run.stdout.split())


@pytest.mark.parametrize("package", OPTIONAL)
def test_no_optional_package_is_imported(package: str, brought: set[str]) -> None:
    assert "lightning_init" in brought
    assert package not in brought


COMPARISON = """
import sys
import lightning_init
before = set(sys.modules)
assert "lightning_init.compare" not in before
import lightning_init.compare
print(lightning_init.compare.compare.__name__)
brought = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(brought & {"scipy", "pandas", "matplotlib", "distributed"}))
try:
    lightning_init.comparison
except AttributeError as error:
    print(error)
"""


def test_the_comparison_is_imported_when_it_is_named_and_brings_no_optional_package() -> None:
    run = subprocess.run(
        [sys.executable, "-c", COMPARISON], check=True, capture_output=True, text=True
    )
    assert run.stdout.splitlines() == [
        "compare",
        "",
        "module 'lightning_init' has no attribute 'comparison'",
    ]
