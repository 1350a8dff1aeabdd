"""The arrows between the rooms: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lightning_init

PACKAGE = Path(__file__).parents[1] / "lightning_init"

# Outside packages that a room may import; the standard library is free.
THIRD_PARTY = {
    "theory": {"numpy"},
    "stationarity": {"numpy"},
    "inspection": {"torch"},
    "metrics": {"torch", "torchmetrics"},
    "initialization": {"torch"},
    "probe": {"lightning", "torch", "numpy"},
    "reporting": {"lightning", "torch", "tensorboard", "numpy", "matplotlib"},
    "callbacks": {"lightning", "torch", "tqdm"},
    "tables": set(),
    "functional": {"torch"},
    "cli": {"lightning", "jsonargparse"},
    "compare": {
        "lightning",
        "torch",
        "numpy",
        "scipy",
        "pandas",
        "matplotlib",
        "tqdm",
        "distributed",
        "lsuv",
        "anyinit",
    },
    "__init__": set(),
    "__main__": {"lightning"},
}
ROOMS = {
    "theory": set(),
    "stationarity": set(),
    "inspection": set(),
    "metrics": set(),
    "tables": set(),
    "initialization": {"inspection", "theory", "tables"},
    "probe": set(),
    # A recipe draws what it holds: `InitRecipe.apply`.
    "reporting": {"stationarity", "inspection", "theory", "initialization", "tables"},
    "callbacks": {
        "probe",
        "reporting",
        "initialization",
        "metrics",
        "inspection",
        "stationarity",
        "theory",
    },
    "functional": {"theory", "inspection", "initialization"},
    "__init__": {"callbacks", "functional", "reporting", "stationarity"},
    "cli": {"functional", "reporting", "tables", "compare"},
    # Public names, and what they are made of: the rows of a plan and the layers of a recipe.
    "compare": {"__init__", "initialization", "reporting", "tables"},
    "__main__": {"callbacks", "cli"},
}
STANDARD = set(__import__("sys").stdlib_module_names)
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            base = node.module or ""
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "lightning_init":
            target = rest.split(".")[0]
            # A name of the package itself, as users import it.
            target = "__init__" if target in lightning_init.__all__ else target
            assert target == room or target in ROOMS[room], f"{room} imports {name}"
        else:
            assert top in STANDARD | THIRD_PARTY[room], f"{room} imports {name}"


def test_the_test_notices_a_forbidden_arrow(tmp_path: Path) -> None:
    culprit = tmp_path / "culprit.py"
    culprit.write_text("from lightning_init.callbacks.base import x\nimport torch.nn\n")
    assert imports(culprit) == {"lightning_init.callbacks.base.x", "torch.nn"}
    assert "callbacks" not in ROOMS["theory"]
    assert "torch" not in THIRD_PARTY["theory"]


def test_no_file_grows_past_three_hundred_lines() -> None:
    long = {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 320}
    assert not long
