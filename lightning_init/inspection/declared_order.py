"""Which activation stands in front of a weight, read off the declared order of modules.

Nothing is run. Only `nn.Sequential` declares an order; a module with a forward of its own could do
anything, so whatever follows it is left undecided rather than guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from lightning_init.inspection.parameter_walk import module_at, parameters_below, tensor_at
from lightning_init.inspection.signals import (
    ActivationInFront,
    Rule,
    Signal,
    activate,
    alpha_drop,
    drop,
    in_front,
    max_pool,
    normalize,
    pool,
    prelu_rule,
)
from lightning_init.inspection.weights import Weight, WeightInventory

ACTIVATIONS: dict[type[nn.Module], Callable[[Any], Rule]] = {
    nn.ReLU: lambda module: ("relu", None),
    nn.LeakyReLU: lambda module: ("leaky_relu", float(module.negative_slope)),
    nn.PReLU: lambda module: prelu_rule(module.weight),
    nn.RReLU: lambda module: ("rrelu", (float(module.lower), float(module.upper))),
    nn.GELU: lambda module: ("gelu_tanh" if module.approximate == "tanh" else "gelu", None),
    nn.SiLU: lambda module: ("silu", None),
    nn.Mish: lambda module: ("mish", None),
    nn.ELU: lambda module: ("elu", float(module.alpha)),
    nn.CELU: lambda module: ("celu", float(module.alpha)),
    nn.SELU: lambda module: ("selu", None),
    nn.Softplus: lambda module: ("softplus", (float(module.beta), float(module.threshold))),
    nn.Tanh: lambda module: ("tanh", None),
    nn.Sigmoid: lambda module: ("sigmoid", None),
    nn.Hardtanh: lambda module: ("hardtanh", (float(module.min_val), float(module.max_val))),
    nn.ReLU6: lambda module: ("relu6", None),
    nn.Hardswish: lambda module: ("hardswish", None),
}
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
ALPHA_DROPOUTS = (nn.AlphaDropout, nn.FeatureAlphaDropout)
NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)
MAX_POOLS = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.FractionalMaxPool2d, nn.FractionalMaxPool3d),
)
POOLS = (
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
)
LAYOUTS = (
    *(nn.Flatten, nn.Unflatten, nn.Identity, nn.PixelShuffle, nn.PixelUnshuffle),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.CircularPad1d, nn.CircularPad2d),
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d),
)

_LAYERS = (nn.Linear, _ConvNd)
_KNOWN = (*_LAYERS, nn.Sequential)
PASSIVE = frozenset(
    {*ACTIVATIONS, *DROPOUTS, *ALPHA_DROPOUTS, *NORMS, *MAX_POOLS, *POOLS, *LAYOUTS}
)


def declared_activations(
    model: nn.Module, weights: WeightInventory | Iterable[Weight]
) -> dict[str, ActivationInFront]:
    """Read the activation in front of each weight off the order of `nn.Sequential` containers.

    Looks through Flatten, Identity, padding, pooling ("pooled") and norms ("normalized"). The
    first layer of a chain is the model's first layer only when the chain is all that the model
    computes with; otherwise (two heads, encoder and decoder, a free activation beside the chain)
    what feeds the chain is declared nowhere and its first layer is absent from the result.

    Args:
        model: The model; it is only read.
        weights: The weights to look for, as found by `find_weights`.

    Returns:
        By weight name, one record per weight whose predecessor is declared; others are absent.

    Example:
        >>> from lightning_init.inspection.weights import find_weights
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 2))
        >>> found = declared_activations(model, find_weights(model))
        >>> found["2"].nonlinearity, found["2"].param
        ('leaky_relu', 0.2)
        >>> found["0"].first_layer
        True
    """
    reader = _Reader(model, listed(weights))
    reader.visit(model, Signal(from_input=True), alone=True)
    return {
        name: in_front(signals[0], "declared", scale_free=name in reader.scale_free)
        for name, signals in reader.found.items()
        # A module that stands at two places of the chain has no single predecessor.
        if signals[0] is not None and (len(signals) == 1 or len(set(signals)) == 1)
    }


def listed(weights: WeightInventory | Iterable[Weight]) -> tuple[Weight, ...]:
    """Return the weights of an inventory, or of any iterable of them."""
    return weights.weights if isinstance(weights, WeightInventory) else tuple(weights)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside a `torch.compile` wrapper, or `model` itself."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def tensors_behind(model: nn.Module, weight: Weight) -> list[nn.Parameter]:
    """Return the parameters that make up a weight: itself, or those of its parametrization."""
    module = module_at(model, weight.module_name)
    if weight.parametrization is None:
        direct = tensor_at(module, weight.attribute)
        if isinstance(direct, nn.Parameter):
            return [direct]
    prefixes = (f"parametrizations.{weight.attribute}.",)
    plain = (weight.attribute, f"{weight.attribute}_v", f"{weight.attribute}_g")
    return [
        parameter
        for name, parameter in module.named_parameters()
        if name in plain or name.startswith(prefixes)
    ]


class _Reader:
    """Walks the containers in order and notes the signal in front of each weight."""

    def __init__(self, model: nn.Module, weights: tuple[Weight, ...]) -> None:
        self.found: dict[str, list[Signal | None]] = {}
        self.scale_free: set[str] = set()
        # By parameter, not by module: a tied weight is one weight that stands at several places.
        self._names: dict[int, list[str]] = {}
        for weight in weights:
            for parameter in tensors_behind(model, weight):
                self._names.setdefault(id(parameter), []).append(weight.name)

    def visit(self, module: nn.Module, signal: Signal | None, *, alone: bool) -> Signal | None:
        """Return the signal behind `module`; None where the order is not declared.

        `alone` says that nothing but `module` computes, so that `signal` reaches it even though a
        forward of its own passes it on.
        """
        if type(module) in PASSIVE:
            return None if signal is None else self._pass(module, signal)
        # Not asked of the known ones: an attribute that a module does not have costs most.
        if not isinstance(module, _KNOWN):
            module = unwrapped(module)
        if isinstance(module, _LAYERS) and has_library_forward(module):
            return self._reach(module, signal)
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            for element in vars(module)["_modules"].values():
                if element is not None:  # None may hold a place
                    signal = self.visit(element, signal, alone=False)
            return signal
        self._read_inside(module, signal if alone else None)
        return None

    def _reach(self, module: nn.Module, signal: Signal | None) -> Signal:
        names: dict[str, None] = {}
        for parameter in parameters_below(module):
            names.update(dict.fromkeys(self._names.get(id(parameter), ())))
        for name in names:
            self.found.setdefault(name, []).append(signal)
        return Signal(straight_from=frozenset(names))

    def _pass(self, module: nn.Module, signal: Signal) -> Signal:
        if type(module) in NORMS:
            self.scale_free |= signal.straight_from
        return _behind(module, signal)

    def _read_inside(self, module: nn.Module, signal: Signal | None) -> None:
        """Read the chains inside a module whose own forward decides what feeds them."""
        computing = [child for child in module.children() if not _is_bystander(child)]
        alone = len(computing) == 1 and not list(module.parameters(recurse=False))
        for child in computing:
            self.visit(child, signal if alone else None, alone=alone)


def has_library_forward(module: nn.Module) -> bool:
    """Tell whether the forward is torch's own; a subclass that overrides it may do anything."""
    return type(module).forward.__module__.startswith("torch.nn.")


def _is_bystander(module: nn.Module) -> bool:
    """Tell whether a child of a module with its own forward cannot change what feeds a chain."""
    if list(module.parameters()):
        return False
    kind = type(module).__module__
    return (
        kind == "torch.nn.modules.loss"
        or kind.startswith("torchmetrics.")
        or (type(module) in (nn.Flatten, nn.Unflatten, nn.Identity))
    )


def _behind(module: Any, signal: Signal) -> Signal:
    kind = type(module)
    if kind in ACTIVATIONS:
        return activate(signal, *ACTIVATIONS[kind](module))
    if kind in DROPOUTS:
        return drop(signal, float(module.p))
    if kind in ALPHA_DROPOUTS:
        return alpha_drop(signal, float(module.p))
    if kind in NORMS:
        return normalize(signal)
    if kind in MAX_POOLS:
        return max_pool(signal)
    return pool(signal) if kind in POOLS else signal
