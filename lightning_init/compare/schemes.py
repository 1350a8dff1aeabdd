"""Initializations by name: what each one does to a model before its run starts.

Where a scheme allows it the values are the same standard normals for one seed and one layer name,
scaled or transformed: two schemes then differ in what they prescribe and not in their luck.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lightning_init import (
    FractionalMomentInit,
    OptimalVarianceInit,
    fractional_moment_init_,
)
from lightning_init.initialization import reference_draws as draws

Initialize = Callable[[nn.Module, int], Any]
FirstBatch = Callable[[], Any]
Build = Callable[[int, FirstBatch], Sequence[Callback]]

# For every weight alike: what a comparison names, it draws.
HE: dict[str, Any] = {
    "order": 2.0,
    "first_layer": "activation",
    "recurrent": "same",
    "bias": "zero",
    "respect": "nothing",
}


@dataclass(frozen=True)
class Pilot:
    """An earlier run whose V(W) the runs of a comparison start from.

    Args:
        seed: Of the pilot; outside the seeds of the comparison.
        share: How much of the planned steps it trains.
        start: Scheme of its own first weights, and of what is not redrawn from it.
        include: Glob patterns of layer names to draw, parted by "|"; None is all.
    """

    seed: int = 1000
    share: float = 1.0
    start: str = "default"
    include: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"`share` must be above 0 and at most 1, got {self.share!r}.")

    @property
    def name(self) -> str:
        """What the runs have in common that may share this pilot."""
        return re.sub(r"[^A-Za-z0-9_.=-]+", "_", f"{self.start}-{self.seed}-{self.share:g}")

    def __call__(self, seed: int, first_batch: FirstBatch, recipe: str = "") -> list[Callback]:
        """Draw the included layers of a run from the recipe that the pilot left."""
        include = None if self.include is None else self.include.split("|")
        drawn = OptimalVarianceInit(recipe=recipe, include=include, seed=seed, verbose=False)
        return [*make_scheme(self.start).build(seed, first_batch), drawn]


@dataclass(frozen=True)
class Scheme:
    """One initialization of a comparison.

    Args:
        label: Its name in every table.
        build: From a seed, and a function that returns the first training batch, to the callbacks
            that initialize the model.
        pilot_steps: Optimizer steps of an earlier run that all seeds start from.
    """

    label: str
    build: Build
    pilot_steps: int = 0

    @classmethod
    def from_function(cls, function: Initialize, label: str | None = None) -> Scheme:
        """Make a scheme of a function that changes a model in place.

        It is called with the module and the seed just before training; the global random generators
        are seeded before and put back after. The label is its own name by default.
        """
        named = function.func if isinstance(function, partial) else function
        own_name: str = getattr(named, "__name__", type(named).__name__)
        return cls(label or own_name, partial(_apply, function))


class ApplyInitialization(Callback):
    """Calls a function on the module before the first step, with random numbers of its own."""

    def __init__(self, function: Initialize, seed: int) -> None:
        self._function = function
        self._seed = seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Initialize: everything exists by now, and no optimizer has stepped."""
        with isolate_rng():
            torch.manual_seed(self._seed)
            self._function(pl_module, self._seed)


def make_scheme(given: str | Scheme | Initialize) -> Scheme:
    """Read one initialization: a name with options, a function or its name, or a scheme.

    Raises:
        ValueError: The name is unknown, or an option is wrong.

    Example:
        >>> make_scheme("fractional:order=1.5").label
        'fractional:order=1.5'
        >>> make_scheme("glorot")
        Traceback (most recent call last):
        ...
        ValueError: `inits` has no scheme 'glorot'; it knows default, fractional, he, he_uniform, \
optimal, orthogonal, pilot, random_walk, scaled_he, xavier, xavier_uniform, or name a function as \
'package.function'.
    """
    if isinstance(given, Scheme):
        return given
    if not isinstance(given, str):
        return Scheme.from_function(given)
    name, _, text = given.partition(":")
    options = _options(given, text)
    if name not in KNOWN and "." in name:
        try:
            function: Initialize = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"`inits`: {name!r} cannot be imported: {error}.") from None
        return Scheme.from_function(partial(function, **options) if options else function, given)
    if name not in KNOWN:
        raise ValueError(
            f"`inits` has no scheme {name!r}; it knows {', '.join(KNOWN)}, or name a function as"
            " 'package.function'."
        )
    try:
        build: Build = Pilot(**options) if name == "pilot" else partial(SCHEMES[name], **options)
        if name != "pilot":
            build(0, int)  # options are read, and no data
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"`inits`: {given!r} cannot be used: {error}") from None
    return Scheme(given, build)


def make_schemes(inits: Sequence[str | Scheme | Initialize]) -> tuple[Scheme, ...]:
    """Read all initializations; one that is named twice gets a number behind its label.

    Raises:
        ValueError: There are none, or one cannot be used.

    >>> [scheme.label for scheme in make_schemes(["he", "he"])]
    ['he', 'he (2)']
    """
    if isinstance(inits, str) or not inits:
        raise ValueError(f"`inits` must be a list of at least one initialization, got {inits!r}.")
    schemes: list[Scheme] = []
    for given in inits:
        scheme = make_scheme(given)
        same = sum(other.label.partition(" (")[0] == scheme.label for other in schemes)
        label = f"{scheme.label} ({same + 1})" if same else scheme.label
        schemes.append(replace(scheme, label=label))
    return tuple(schemes)


def _options(given: str, text: str) -> dict[str, Any]:
    options = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"`inits`: {given!r} has {item!r} where it needs option=value.")
        try:
            options[key.strip()] = json.loads(value.strip())
        except ValueError:
            options[key.strip()] = value.strip()
    return options


def _default(seed: int, first_batch: FirstBatch) -> list[Callback]:
    return []


def _apply(function: Initialize, seed: int, first_batch: FirstBatch) -> list[Callback]:
    return [ApplyInitialization(function, seed)]


def _fractional(seed: int, first_batch: FirstBatch, **options: Any) -> list[Callback]:
    return [FractionalMomentInit(seed=seed, verbose=False, **options)]


def _after_he(
    change: Callable[..., None], seed: int, first_batch: FirstBatch, **options: float
) -> list[Callback]:
    he = FractionalMomentInit(seed=seed, verbose=False, **HE)

    def initialize(module: nn.Module, seed: int) -> None:
        change(module, he.plan, seed, **options)

    return [he, ApplyInitialization(initialize, seed)]


def _scaled_he(seed: int, first_batch: FirstBatch, factor: float = 1.0) -> list[Callback]:
    if not factor > 0:
        raise ValueError(f"`factor` must be above 0, got {factor!r}.")
    return _after_he(draws.scale_variance_, seed, first_batch, factor=factor)


def _xavier(module: nn.Module, seed: int, *, uniform: bool) -> None:
    plan = fractional_moment_init_(module, nonlinearity="linear", seed=seed, **HE)
    draws.xavier_(module, plan, seed, uniform=uniform)


def _optimal(
    seed: int, first_batch: FirstBatch, start: str = "he", **options: Any
) -> list[Callback]:
    probe = OptimalVarianceInit(seed=seed, verbose=False, **options)
    return [*make_scheme(start).build(seed, first_batch), probe]


SCHEMES: dict[str, Callable[..., list[Callback]]] = {
    "default": _default,
    "he": partial(_fractional, **HE),
    "he_uniform": partial(_after_he, draws.make_uniform_),
    "scaled_he": _scaled_he,
    "xavier": partial(_apply, partial(_xavier, uniform=False)),
    "xavier_uniform": partial(_apply, partial(_xavier, uniform=True)),
    "orthogonal": partial(_after_he, draws.make_orthogonal_),
    "random_walk": partial(_after_he, draws.random_walk_),
    "fractional": _fractional,
    "optimal": _optimal,
}
KNOWN = sorted([*SCHEMES, "pilot"])
