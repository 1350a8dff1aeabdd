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
    "monitoring": {"lightning", "torch", "torchmetrics"},
    "initialization": {"torch", "matplotlib"},
    "probe": {"lightning", "torch", "numpy"},
    "recipes": {"msgspec", "safetensors", "torch", "matplotlib"},
    "search": {"lightning", "torch", "tqdm"},
    "reporting": {"lightning", "torch", "tensorboard", "numpy", "matplotlib"},
    "callbacks": {"lightning", "torch", "msgspec"},
    "validation": {"msgspec"},
    "tables": set(),
    "pages": {"rich", "matplotlib"},
    "figure_style": {"matplotlib"},
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
    # A traced formula is told from the named activations by its values.
    "inspection": {"theory"},
    "tables": set(),
    # What a plan, a report and a recipe have in common for the eye.
    "pages": {"tables"},
    "figure_style": {"tables"},
    "validation": set(),
    "probe": set(),
    "initialization": {"figure_style", "inspection", "pages", "tables", "theory"},
    "monitoring": {"inspection", "initialization", "stationarity"},
    "reporting": {
        "figure_style",
        "initialization",
        "inspection",
        "monitoring",
        "pages",
        "stationarity",
        "tables",
        "theory",
    },
    # A recipe is made from a report, and draws what it holds: `InitRecipe.apply`.
    "recipes": {
        "figure_style",
        "initialization",
        "inspection",
        "monitoring",
        "pages",
        "reporting",
        "stationarity",
        "tables",
        "validation",
    },
    "search": {
        "initialization",
        "inspection",
        "monitoring",
        "probe",
        "recipes",
        "reporting",
        "stationarity",
        "theory",
    },
    "callbacks": {
        "initialization",
        "inspection",
        "probe",
        "recipes",
        "reporting",
        "search",
        "stationarity",
        "validation",
    },
    "functional": {"theory", "inspection", "initialization"},
    "__init__": {"callbacks", "functional", "recipes", "reporting", "stationarity"},
    "cli": {"compare", "functional", "initialization", "probe", "recipes", "tables"},
    # Public names, and what they are made of: the rows of a plan and the layers of a recipe.
    "compare": {"__init__", "figure_style", "initialization", "recipes", "reporting", "tables"},
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


def files_that_import_each_other(package: Path) -> list[list[str]]:
    """Groups of files that reach each other, imports in functions and under TYPE_CHECKING too."""
    modules = {module_name(path, package): path for path in package.rglob("*.py")}
    arrows = {
        name: {
            target
            for imported in imports(path)
            if (target := longest_module(imported, modules)) is not None and target != name
        }
        for name, path in modules.items()
    }
    reached = {name: reachable(name, arrows) for name in arrows}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in arrows
        if name in reached[name]
    }
    return sorted(map(list, groups))


def module_name(path: Path, package: Path) -> str:
    name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


def longest_module(imported: str, modules: dict[str, Path]) -> str | None:
    """The file behind an imported name: itself a module, or a name inside one."""
    while imported and imported not in modules:
        imported = imported.rpartition(".")[0]
    return imported or None


def reachable(start: str, arrows: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = set(arrows[start])
    while ahead:
        name = ahead.pop()
        found.add(name)
        ahead |= arrows[name] - found
    return found


def test_no_two_files_import_each_other() -> None:
    assert files_that_import_each_other(PACKAGE) == []


@pytest.mark.parametrize(
    "arrow_back",
    [
        "from package.first import name\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.first import name\n",
        "def late():\n    from package import first\n",
    ],
)
@pytest.mark.parametrize("between", [False, True])
def test_the_test_notices_a_planted_circle(arrow_back: str, between: bool, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text(f"import package.{'third' if between else 'second'}\n")
    (package / "third.py").write_text("import package.second\n")
    (package / "second.py").write_text(arrow_back)
    names = ["first", "second", "third"] if between else ["first", "second"]
    expected = [[f"package.{name}" for name in names]]
    assert files_that_import_each_other(package) == expected
