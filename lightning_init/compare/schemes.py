"""Initializations by name: what each one does to a model before its run starts.

Where a scheme allows it the values are the same standard normals for one seed and one layer name,
scaled or transformed: two schemes then differ in what they prescribe and not in their luck.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from lightning_init import FractionalMomentInit, InitRecipe, OptimalVarianceInit
from lightning_init.compare import draws

Initialize = Callable[[nn.Module, int], Any]
# From a seed and one batch of training data to the callbacks that initialize.
Build = Callable[[int, Any], Sequence[Callback]]

# For every weight alike: what a comparison names, it draws.
HE: dict[str, Any] = {
    "order": 2.0,
    "first_layer": "activation",
    "recurrent": "same",
    "bias": "zero",
    "respect": "nothing",
}


@dataclass(frozen=True)
class Scheme:
    """One initialization of a comparison.

    Args:
        label: Its name in every table.
        build: From a seed and one training batch (None unless `needs_batch`) to the callbacks that
            initialize the model. Picklable if runs are spread over processes.
        needs_batch: Whether `build` looks at data.
    """

    label: str
    build: Build
    needs_batch: bool = False

    @classmethod
    def from_function(cls, function: Initialize, label: str | None = None) -> Scheme:
        """Make a scheme of a function that changes a model in place.

        Args:
            function: Called with the module and the seed just before training; the global random
                generators are seeded before and put back after.
            label: Name in the tables; the function's own by default.
        """
        named = function.func if isinstance(function, partial) else function
        own_name: str = getattr(named, "__name__", type(named).__name__)
        return cls(label or own_name, partial(_apply, function))


class ApplyInitialization(Callback):
    """Calls a function on the whole module before the first step, with random numbers of its own.

    Args:
        function: Called with the module and the seed.
        seed: Of this run.
    """

    def __init__(self, function: Initialize, seed: int) -> None:
        self._function = function
        self._seed = seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Initialize: everything exists by now, and no optimizer has stepped."""
        with isolate_rng():
            torch.manual_seed(self._seed)
            self._function(pl_module, self._seed)


def make_scheme(given: str | Scheme | Initialize) -> Scheme:
    """Read one initialization.

    Args:
        given: A name with options, `"fractional:order=1.0"`; `"package.function"`, called with the
            module and the seed; a function; or a scheme.

    Returns:
        The scheme; its label is the text.

    Raises:
        ValueError: The name is unknown, an option is wrong, or a package is not installed.

    Example:
        >>> make_scheme("fractional:order=1.5").label
        'fractional:order=1.5'
        >>> make_scheme("glorot")
        Traceback (most recent call last):
        ...
        ValueError: `inits` has no scheme 'glorot'; it knows anyinit, default, fractional, he, \
he_uniform, lsuv, optimal, orthogonal, random_walk, recipe, scaled_he, xavier, xavier_uniform, or \
name a function as 'package.function'.
    """
    if isinstance(given, Scheme):
        return given
    if not isinstance(given, str):
        return Scheme.from_function(given)
    name, _, text = given.partition(":")
    options = _options(given, text)
    if name not in SCHEMES and "." in name:
        function = _imported(name)
        return Scheme.from_function(partial(function, **options) if options else function, given)
    if name not in SCHEMES:
        raise ValueError(
            f"`inits` has no scheme {name!r}; it knows {', '.join(sorted(SCHEMES))}, or name a"
            " function as 'package.function'."
        )
    if name in PACKAGES and importlib.util.find_spec(name) is None:
        raise ValueError(f"`inits`: {name!r} needs its package; run `pip install {name}`.")
    factory = SCHEMES[name]
    try:
        inspect.signature(factory).bind(seed=0, batch=None, **options)
        if name not in PACKAGES:
            factory(seed=0, batch=None, **options)
    except (TypeError, ValueError, OSError) as error:
        raise ValueError(f"`inits`: {given!r} cannot be used: {error}") from None
    return Scheme(given, partial(_build, name, options), name in PACKAGES)


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
        schemes.append(Scheme(label, scheme.build, scheme.needs_batch))
    return tuple(schemes)


def split_inits(text: str) -> list[str]:
    """Split a command line's list, in which commas also part the options of one scheme.

    >>> split_inits("he,optimal:granularity=gain,rounds=2,xavier")
    ['he', 'optimal:granularity=gain,rounds=2', 'xavier']
    """
    parts: list[str] = []
    for token in filter(None, (piece.strip() for piece in text.split(","))):
        if "=" in token and ":" not in token and parts:
            parts[-1] += f",{token}"
        else:
            parts.append(token)
    return parts


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


def _imported(name: str) -> Initialize:
    module, _, attribute = name.rpartition(".")
    try:
        function: Initialize = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"`inits`: {name!r} cannot be imported: {error}.") from None
    return function


def _build(name: str, options: Mapping[str, Any], seed: int, batch: Any) -> Sequence[Callback]:
    return SCHEMES[name](seed=seed, batch=batch, **options)


def _apply(function: Initialize, seed: int, batch: Any) -> list[Callback]:
    return [ApplyInitialization(function, seed)]


def _default(*, seed: int, batch: Any) -> list[Callback]:
    return []


def _fractional(*, seed: int, batch: Any, **options: Any) -> list[Callback]:
    return [FractionalMomentInit(seed=seed, verbose=False, **options)]


def _he(*, seed: int, batch: Any, **options: Any) -> list[Callback]:
    return _fractional(seed=seed, batch=batch, **{**HE, **options})


def _after_he(change: Callable[..., None], *, seed: int) -> list[Callback]:
    he = FractionalMomentInit(seed=seed, verbose=False, **HE)

    def rescale(module: nn.Module, seed: int) -> None:
        assert he.plan is not None
        change(module, he.plan, seed=seed)

    return [he, ApplyInitialization(rescale, seed)]


def _scaled_he(*, seed: int, batch: Any, factor: float = 1.0) -> list[Callback]:
    if not factor > 0:
        raise ValueError(f"`factor` must be above 0, got {factor!r}.")
    return _after_he(partial(draws.scale_variance_, factor=factor), seed=seed)


def _he_uniform(*, seed: int, batch: Any) -> list[Callback]:
    return _after_he(draws.make_uniform_, seed=seed)


def _orthogonal(*, seed: int, batch: Any) -> list[Callback]:
    return _after_he(draws.make_orthogonal_, seed=seed)


def _random_walk(*, seed: int, batch: Any) -> list[Callback]:
    return _after_he(draws.random_walk_, seed=seed)


def _xavier(*, seed: int, batch: Any) -> list[Callback]:
    return [ApplyInitialization(draws.xavier_normal_, seed)]


def _xavier_uniform(*, seed: int, batch: Any) -> list[Callback]:
    return [ApplyInitialization(draws.xavier_uniform_, seed)]


def _optimal(*, seed: int, batch: Any, start: str = "he", **options: Any) -> list[Callback]:
    probe = OptimalVarianceInit(seed=seed, verbose=False, log_summary=False, **options)
    return [*make_scheme(start).build(seed, None), probe]


def _recipe(*, seed: int, batch: Any, path: str) -> list[Callback]:
    InitRecipe.load(path)  # refuses a file that is missing or wrong before the first run
    he = FractionalMomentInit(seed=seed, verbose=False, **HE)
    return [he, OptimalVarianceInit(recipe=path, seed=seed, verbose=False, log_summary=False)]


def _lsuv(*, seed: int, batch: Any, **options: Any) -> list[Callback]:
    return [ApplyInitialization(partial(draws.lsuv_, batch=batch, options=options), seed)]


def _anyinit(*, seed: int, batch: Any, mode: str = "analytic", **options: Any) -> list[Callback]:
    given = {"mode": mode, **options}
    return [ApplyInitialization(partial(draws.anyinit_, batch=batch, options=given), seed)]


PACKAGES = ("lsuv", "anyinit")
SCHEMES: dict[str, Callable[..., list[Callback]]] = {
    "default": _default,
    "he": _he,
    "he_uniform": _he_uniform,
    "scaled_he": _scaled_he,
    "xavier": _xavier,
    "xavier_uniform": _xavier_uniform,
    "orthogonal": _orthogonal,
    "random_walk": _random_walk,
    "fractional": _fractional,
    "optimal": _optimal,
    "recipe": _recipe,
    "lsuv": _lsuv,
    "anyinit": _anyinit,
}
