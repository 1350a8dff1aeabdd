"""What enters every layer in one forward pass: its log-norm, and which layer it comes from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_init.inspection.declared_order import tensors_behind, unwrapped
from lightning_init.inspection.operation_names import operation_name
from lightning_init.inspection.parameter_walk import modules_of, own_parameters
from lightning_init.inspection.regions import PLAIN, arguments_in, tensors_in
from lightning_init.inspection.tensor_table import TensorTable
from lightning_init.inspection.trial_run import arguments_of, trial_run
from lightning_init.inspection.weights import Weight

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_MAPS = frozenset({"linear", *_CONVOLUTIONS})
_NOT_OPTIONS = ("input", "weight", "bias", "groups")
_CHAIN = 8  # layers without a sum of branches: all will be drawn
_NONE: frozenset[str] = frozenset()
_SEVERAL = "?"  # in place of a layer name: a layer that is not among those asked for


@dataclass(frozen=True)
class LayerInput:
    """What entered one layer.

    Args:
        log_norm: Mean over samples (and tokens) of log||x||, x the inputs that one output unit
            sums; of a convolution, sqrt(fan_in) times the root mean square over channels and
            positions. Zero samples are left out, as the law does; -inf if all are zero.
        origin: The one layer whose output this is a function of, or None if there is none or there
            are several.
        units: Number of output units (of a convolution, channels) of the layer itself.
        covered: Share of its taps that do not fall on zero padding; 1 for a dense layer.
    """

    log_norm: float
    origin: str | None
    units: int
    covered: float


class TracedNorms:
    """Log-norms of what enters each layer in a trace, before anything is drawn.

    They stand after the draw too, if nothing runs behind the first weight that is drawn. That is so
    in a network of branches of which only the head is drawn. Elsewhere nothing is noted for long.
    """

    def __init__(self) -> None:
        self.complete, self.branches = True, False
        self._entered: list[tuple[str, float, int, int]] = []
        self._first_use: dict[str, int] = {}

    def note_use(self, weights: Iterable[Weight]) -> None:
        """Note that a call makes use of these weights."""
        for weight in weights:
            self._first_use.setdefault(weight.name, len(self._entered))

    def note_input(
        self,
        operation: str,
        entered: Tensor,
        matrix: Tensor,
        names: Iterable[str],
        *,
        known: bool,
    ) -> None:
        """Note what enters a layer, if `record_layer_inputs` would; it may not be `known` what."""
        chain = len(self._entered) == _CHAIN and not self.branches
        self.complete &= known and not chain
        names = [*set(names)]
        if operation not in _MAPS or len(names) != 1 or not self.complete:
            return
        try:
            sizes = _norms(entered, 1 if operation == "linear" else matrix.dim() - 1)
        except Exception:  # on no device, or of a kind that has no norm: it is measured again
            self.complete = False
            return
        self._entered.append((names[0], *sizes))

    def unchanged_by(
        self, drawn: Collection[str], fan_in: Mapping[str, int]
    ) -> dict[str, float] | None:
        """By layer, its log-norm; None if the draw of these weights may change one.

        Args:
            drawn: Names of the weights that are drawn.
            fan_in: Of every weight.
        """
        if not self.complete or not drawn or not self._first_use.keys() >= set(drawn):
            return None
        first = min(self._first_use[name] for name in drawn)
        behind = [name for name, *_ in self._entered[first:]]
        at_first = [name for name in drawn if self._first_use[name] == first]
        if behind and behind != at_first:
            return None
        times = Counter(name for name, *_ in self._entered)
        return {
            name: _log_norm(mean, fan_in[name], *sizes)
            for name, mean, *sizes in self._entered
            if times[name] == 1
        }


def record_layer_inputs(
    model: nn.Module, weights: Iterable[Weight], example_input: Any, *, origins: bool = True
) -> dict[str, LayerInput]:
    """Run a model once, in train mode, and record what enters its dense layers and convolutions.

    Args:
        model: The model; it is left as it was.
        weights: The layers to look at. Those whose weight is stacked with others, is transposed,
            or acts several times are not recorded.
        example_input: A tensor, a tuple or list of positional arguments, or a dict of keyword
            arguments.
        origins: Whether to follow which layer an input comes from, for half of the time.

    Returns:
        By layer name, in the order of execution.

    Raises:
        ValueError: If the forward pass fails.

    Example:
        >>> from lightning_init.inspection.weights import find_weights
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = record_layer_inputs(model, find_weights(model).weights, torch.ones(1, 4))
        >>> round(found["0"].log_norm, 6), found["2"].origin
        (0.693147, '0')
    """
    names: TensorTable[frozenset[str]] = TensorTable()
    # The model holds its parameters: no reference is needed.
    for part in modules_of(model):
        names.values.update([(id(one), _NONE) for _, one in own_parameters(part)])
    fan_in: dict[str, int] = {}
    for weight in weights:
        fan_in[weight.name] = weight.fan_in
        for parameter in tensors_behind(model, weight):
            names.values[id(parameter)] = (names.get(parameter) or _NONE) | {weight.name}
    try:
        mode = _watched(model, example_input, names, fan_in, origins, gradients=False)
    except ValueError:  # a forward may need gradients, at the price of their graph
        mode = _watched(model, example_input, names, fan_in, origins, gradients=True)
    return {name: found[0] for name, found in mode.recorded.items() if len(found) == 1}


def _watched(
    model: nn.Module,
    example_input: Any,
    names: TensorTable[frozenset[str]],
    fan_in: Mapping[str, int],
    origins: bool,
    *,
    gradients: bool,
) -> _InputMode:
    args, kwargs = arguments_of(example_input)
    inner = unwrapped(model)
    mode = _InputMode(inner, names, fan_in, arguments_in(args, kwargs) if origins else None)
    trial_run(inner, mode, args, kwargs, gradients=gradients)
    return mode


class _InputMode(TorchFunctionMode):
    """Carries the name of the last layer along every tensor that is computed from its output."""

    def __init__(
        self,
        model: nn.Module,
        names: TensorTable[frozenset[str]],
        fan_in: Mapping[str, int],
        inputs: Iterable[Tensor] | None,
    ) -> None:
        super().__init__()
        self._model = model
        self.recorded: dict[str, list[LayerInput]] = {}
        self._made_of = names
        self._fan_in = fan_in
        self._origins: TensorTable[frozenset[str]] | None = None
        if inputs is not None:
            self._origins = TensorTable()
            for tensor in inputs:
                self._origins[tensor] = frozenset()

    @cached_property
    def _constants(self) -> frozenset[int]:
        """By identity, what the model holds beside its parameters: a mask is no signal."""
        modules = modules_of(self._model)
        tables = [
            table for one in modules for table in (vars(one), vars(one).get("_buffers") or {})
        ]
        held = [one for table in tables for one in table.values() if isinstance(one, Tensor)]
        return frozenset(map(id, held))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        given = [*map(id, arguments_in(args, kwargs))]
        held = self._made_of.values
        if self._origins is None and held.keys().isdisjoint(given):
            return func(*args, **kwargs)
        made_of = [held[one] for one in given if one in held]
        layers = frozenset[str]().union(*made_of) if made_of else _NONE
        if layers and name in _MAPS:
            self._record(func, name, args, kwargs, layers)
        result = func(*args, **kwargs)
        if type(result) in PLAIN:
            return result
        if self._origins is not None or name not in _MAPS:
            self._follow(name, given, made_of, layers, tensors_in(result))
        return result

    def _follow(
        self,
        name: str,
        given: list[int],
        made_of: list[frozenset[str]],
        layers: frozenset[str],
        outputs: list[Tensor],
    ) -> None:
        there = {} if self._origins is None else self._origins.values
        origins = [there[one] for one in given if one in there]
        if self._origins is None:
            computed = len(made_of) < len(given) and not (layers and self._holds(given))
        else:
            computed = bool(origins) or not made_of
        if not computed:
            for tensor in outputs:
                if tensor not in self._made_of:
                    self._made_of[tensor] = layers
        elif self._origins is not None:
            origin = self._behind(name, layers, bool(made_of), origins)
            for tensor in outputs:
                self._origins[tensor] = origin

    def _behind(
        self, name: str, layers: frozenset[str], parameters: bool, origins: list[frozenset[str]]
    ) -> frozenset[str]:
        if layers:
            return layers
        if parameters and (name == "linear" or name.startswith("conv")):
            return frozenset({_SEVERAL})
        return origins[0] if len(origins) == 1 else frozenset[str]().union(*origins)

    def _holds(self, given: list[int]) -> bool:
        return all(one in self._made_of.values or one in self._constants for one in given)

    def _is_signal(self, tensor: Tensor) -> bool:
        return tensor not in self._made_of if self._origins is None else tensor in self._origins

    def _record(
        self,
        func: Callable[..., Any],
        operation: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        layers: frozenset[str],
    ) -> None:
        entered = args[0] if args else kwargs["input"]
        matrix = args[1] if len(args) > 1 else kwargs["weight"]
        if len(layers) != 1 or not self._is_signal(entered):
            return
        (layer,) = layers
        origins = _NONE if self._origins is None else self._origins.values[id(entered)]
        convolution = operation in _CONVOLUTIONS
        sizes = _norms(entered, matrix.dim() - 1 if convolution else 1)
        norm = _log_norm(sizes[0], self._fan_in[layer], *sizes[1:])
        covered = 1.0
        if convolution:
            rest = {k: v for k, v in kwargs.items() if k not in _NOT_OPTIONS}
            options = tuple([tuple(v) if isinstance(v, list) else v for v in args[3:6]])
            places = entered.shape[2 - matrix.dim() :], matrix.shape[2:]
            covered = _covered(func, *places, options, tuple(rest.items()))
        (origin,) = origins if len(origins) == 1 else (None,)
        one = LayerInput(norm, origin, int(matrix.shape[0]), covered)
        self.recorded.setdefault(layer, []).append(one)


def _norms(entered: Tensor, dimensions: int) -> tuple[float, int, int]:
    """Mean log of the norms over the last dimensions, their number, and that of the entries."""
    axes = tuple(range(max(-dimensions, -entered.dim()), 0))
    norms = torch.linalg.vector_norm(entered, dim=axes, dtype=torch.float64)
    mean: float = norms.log().mean().item()
    if not math.isfinite(mean):  # zeros among them
        alive = norms[norms > 0]
        mean = alive.log().mean().item() if alive.numel() else -math.inf
    return mean, norms.numel(), entered.numel()


def _log_norm(mean: float, fan_in: int, norms: int, entries: int) -> float:
    return mean + 0.5 * math.log(fan_in * norms / entries)


@lru_cache(maxsize=1024)
@torch.no_grad()
def _covered(
    func: Callable[..., Any],
    places: torch.Size,
    taps: torch.Size,
    options: tuple[Any, ...],
    named: tuple[tuple[str, Any], ...],
) -> float:
    """Share of the taps that see the input: the same convolution of one channel, all of ones."""
    seen = func(torch.ones(1, 1, *places), torch.ones(1, 1, *taps), None, *options, **dict(named))
    return float(seen.mean()) / taps.numel()
