"""Lightning is published twice, as ``lightning.pytorch`` and as ``pytorch_lightning``: which one?

The two packages hold the same code and different classes. What is built for a Trainer comes from
the package of that Trainer; what is asked of an object is asked for every package that is loaded.
This package imports the first name only, and never makes a user load the second.
"""

from __future__ import annotations

import functools
import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

#: Both names, the one that this package imports first.
PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def package_of(trainer: object) -> str:
    """The package that the class of ``trainer``, or a base of it, comes from."""
    for base in type(trainer).__mro__:
        for package in PACKAGES:
            if base.__module__.startswith(f"{package}."):
                return package
    return PACKAGES[0]


def module_for(trainer: object, name: str) -> ModuleType:
    """The module ``name`` of the package that ``trainer`` comes from."""
    return importlib.import_module(f"{package_of(trainer)}.{name}")


def classes(name: str) -> tuple[Any, ...]:
    """The class ``name`` of each package that is loaded, for ``isinstance``.

    >>> classes("callbacks.Timer")[0].__name__
    'Timer'
    """
    return _classes(name, tuple(package for package in PACKAGES if package in sys.modules))


@functools.cache
def _classes(name: str, loaded: tuple[str, ...]) -> tuple[Any, ...]:
    module, _, attribute = name.rpartition(".")
    holders = [importlib.import_module(f"{package}.{module}".rstrip(".")) for package in loaded]
    return tuple(getattr(holder, attribute) for holder in holders)


def is_a(item: object, *names: str) -> bool:
    """Whether ``item`` is an instance of one of these classes, in either package."""
    return any(isinstance(item, classes(name)) for name in names)


def also_a_callback_of_the_other_name(callback: type) -> None:
    """Let a subclass of one ``Callback`` pass for one of the other package, once that is loaded.

    A Trainer calls its callbacks by the names of their hooks, but a single callback in place of a
    list, and the command line, are recognized by their class.
    """
    name = f"{PACKAGES[1]}.callbacks.callback"

    def add_base(module: Any) -> None:
        callback.__bases__ = (*callback.__bases__, module.Callback)

    if name in sys.modules:
        add_base(sys.modules[name])
    else:
        sys.meta_path.insert(0, _OnceLoaded(name, add_base))


class _OnceLoaded(MetaPathFinder):
    """Runs a function on one module after its import, then steps aside."""

    def __init__(self, name: str, then: Any) -> None:
        self._name = name
        self._then = then

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Find what the other finders find, and let its loader call us back."""
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self._then(module)

            loader.exec_module = exec_module
        return spec
