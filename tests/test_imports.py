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
print(*sorted(name for name in set(sys.modules) - before if name.startswith("lightning_init")))
from lightning_init import *
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


@pytest.fixture(scope="module")
def brought() -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
    )
    at_once, with_all_names = run.stdout.splitlines()
    # Each of the package's own rooms waits until a name of it is asked for.
    assert at_once == "lightning_init"
    return set(with_all_names.split())


@pytest.mark.parametrize("package", OPTIONAL)
def test_no_optional_package_is_imported(package: str, brought: set[str]) -> None:
    assert "lightning_init" in brought
    assert package not in brought


COMPARISON = """
import sys
import lightning.pytorch
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


def test_every_public_name_is_there_and_no_other() -> None:
    import lightning_init

    assert all(getattr(lightning_init, name) for name in lightning_init.__all__)
    assert set(lightning_init.__all__) <= set(dir(lightning_init))
    with pytest.raises(AttributeError, match="no attribute 'FractionalMoment'"):
        lightning_init.FractionalMoment  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'FractionalMoment'"):
        from lightning_init import FractionalMoment  # noqa: F401
