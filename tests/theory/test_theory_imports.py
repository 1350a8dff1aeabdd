from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import lightning_init.theory

FILES = sorted(Path(lightning_init.theory.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_theory_knows_only_numbers(file: Path) -> None:
    """Pure formulas: the standard library, numpy and this room; no torch, scipy or lightning."""
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            imported.add(str(node.module))
    for name in imported:
        root = name.split(".")[0]
        inside = name.startswith("lightning_init.theory.")
        assert inside or root == "numpy" or root in sys.stdlib_module_names, name


def test_every_module_was_looked_at() -> None:
    assert {"activation_laws", "fractional_moments", "log_norm"} <= {file.stem for file in FILES}
