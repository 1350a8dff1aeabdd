"""What enters every layer in one forward pass: its log-norm, and which layer it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
from lightning_init.inspection.traced_norms import (
    CONVOLUTIONS,
    DENSE,
    log_norm,
    mean_logs,
    norms_of,
)
from lightning_init.inspection.trial_run import arguments_of, trial_run
from lightning_init.inspection.weights import Weight

_NOT_OPTIONS = ("input", "weight", "bias", "groups")
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
        mode = _watched(model, example_input, names, origins, gradients=False)
    except ValueError:  # a forward may need gradients, at the price of their graph
        mode = _watched(model, example_input, names, origins, gradients=True)
    once = {name: found[0] for name, found in mode.recorded.items() if len(found) == 1}
    means = mean_logs([one[0] for one in once.values()])
    return {
        name: LayerInput(log_norm(mean, fan_in[name], one[0].numel(), one[1]), *one[2:])
        for (name, one), mean in zip(once.items(), means, strict=True)
    }


def _watched(
    model: nn.Module,
    example_input: Any,
    names: TensorTable[frozenset[str]],
    origins: bool,
    *,
    gradients: bool,
) -> _InputMode:
    args, kwargs = arguments_of(example_input)
    inner = unwrapped(model)
    mode = _InputMode(inner, names, arguments_in(args, kwargs) if origins else None)
    trial_run(inner, mode, args, kwargs, gradients=gradients)
    return mode


class _InputMode(TorchFunctionMode):
    """Carries the name of the last layer along every tensor that is computed from its output."""

    def __init__(
        self,
        model: nn.Module,
        names: TensorTable[frozenset[str]],
        inputs: Iterable[Tensor] | None,
    ) -> None:
        super().__init__()
        self._model = model
        # By layer: norms, entries, and what `LayerInput` has beside their log.
        self.recorded: dict[str, list[tuple[Tensor, int, str | None, int, float]]] = {}
        self._made_of = names
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
        if layers and name in DENSE:
            self._record(func, name, args, kwargs, layers)
        result = func(*args, **kwargs)
        if type(result) in PLAIN:
            return result
        if self._origins is not None or name not in DENSE:
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
        convolution = operation in CONVOLUTIONS
        norms = norms_of(entered, matrix.dim() - 1 if convolution else 1)
        covered = 1.0
        if convolution:
            rest = {k: v for k, v in kwargs.items() if k not in _NOT_OPTIONS}
            options = tuple([tuple(v) if isinstance(v, list) else v for v in args[3:6]])
            places = entered.shape[2 - matrix.dim() :], matrix.shape[2:]
            covered = _covered(func, *places, options, tuple(rest.items()))
        (origin,) = origins if len(origins) == 1 else (None,)
        one = (norms, entered.numel(), origin, int(matrix.shape[0]), covered)
        self.recorded.setdefault(layer, []).append(one)


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
