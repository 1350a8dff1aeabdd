"""What each torch operation does to the law of the signal that passes through it.

One entry per operation, by the name that `F.relu`, `torch.relu`, `x.relu()` and `x.relu_()` share.
An operation without an entry is never taken for harmless: behind it the rule is an assumption.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lightning_init.inspection.calls import Call
from lightning_init.inspection.mixing import (
    WEIGHTED_NOTE,
    attention,
    chooses_rows,
    merged,
    product,
    softmax_weights,
)
from lightning_init.inspection.operation_names import (
    ALPHA_DROPOUTS,
    CHOICES,
    CONSTANTS,
    DROPOUTS,
    JOINS,
    LAYOUTS,
    NEIGHBOURS,
    NORMS,
    POOLS,
    PRODUCTS,
    REDUCTIONS,
    SELECTIONS,
    SUMS,
)
from lightning_init.inspection.signals import (
    Rule,
    Signal,
    activate,
    add,
    alpha_drop,
    concatenate,
    drop,
    max_pool,
    normalize,
    pool,
    prelu_rule,
    scale,
    undecided,
)


def _rrelu_rule(call: Call) -> Rule:
    lower, upper = call.number(1, "lower", 1.0 / 8), call.number(2, "upper", 1.0 / 3)
    if call.argument(3, "training", False):
        return "rrelu", (lower, upper)
    return "leaky_relu", (lower + upper) / 2


def _hardtanh_rule(call: Call, low: str = "min_val", high: str = "max_val") -> Rule:
    bounds = call.number(1, low, -1.0), call.number(2, high, 1.0)
    return ("relu6", None) if bounds == (0.0, 6.0) else ("hardtanh", bounds)


def _clamp_rule(call: Call) -> Rule | None:
    low, high = call.argument(1, "min"), call.argument(2, "max")
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return None
    if low == 0 and high is None:
        return "relu", None
    return None if low is None or high is None else _hardtanh_rule(call, "min", "max")


def _threshold_rule(call: Call) -> Rule | None:
    at, value = call.number(1, "threshold", 0.0), call.number(2, "value", 0.0)
    return ("relu", None) if at == value == 0.0 else None


ACTIVATIONS: dict[str, Callable[[Call], Rule | None]] = {
    "relu": lambda call: ("relu", None),
    "leaky_relu": lambda call: ("leaky_relu", call.number(1, "negative_slope", 0.01)),
    "prelu": lambda call: prelu_rule(call.argument(1, "weight")),
    "rrelu": _rrelu_rule,
    "abs": lambda call: ("abs", None),
    "absolute": lambda call: ("abs", None),
    "gelu": lambda call: (
        "gelu_tanh" if call.argument(1, "approximate", "none") == "tanh" else "gelu",
        None,
    ),
    "silu": lambda call: ("silu", None),
    "mish": lambda call: ("mish", None),
    "elu": lambda call: ("elu", call.number(1, "alpha", 1.0)),
    "celu": lambda call: ("celu", call.number(1, "alpha", 1.0)),
    "selu": lambda call: ("selu", None),
    "softplus": lambda call: (
        "softplus",
        (call.number(1, "beta", 1.0), call.number(2, "threshold", 20.0)),
    ),
    "tanh": lambda call: ("tanh", None),
    "sigmoid": lambda call: ("sigmoid", None),
    "hardtanh": _hardtanh_rule,
    "relu6": lambda call: ("relu6", None),
    "hardswish": lambda call: ("hardswish", None),
    "clamp": _clamp_rule,
    "clip": _clamp_rule,
    "clamp_min": _clamp_rule,
    "threshold": _threshold_rule,
}


def behind(call: Call) -> Signal | None:
    """Return the signal that a call gives, None when its result is no signal.

    Calls that apply a weight matrix are not answered here.
    """
    if call.name in _BINARY:
        return _BINARY[call.name](call)
    if call.name not in _UNARY:
        return _unknown(call)
    if call.first is None:
        return None  # the signal only lent its shape or its type, as in `mask.type_as(x)`
    return _UNARY[call.name](call, call.first)


def _unknown(call: Call) -> Signal:
    together = merged(call.signals)
    if together.from_input:
        return together  # still the model's input, prepared in some way
    return undecided(together, f"`{call.name}` has no known law: linear rule used")


def _activation(call: Call, signal: Signal) -> Signal:
    rule = ACTIVATIONS[call.name](call)
    return _unknown(call) if rule is None else activate(signal, *rule)


def _dropout_probability(call: Call) -> float:
    training = call.argument(2, "training", call.kwargs.get("train", True))
    return call.number(1, "p", 0.5) if training else 0.0


def _glu(call: Call, signal: Signal) -> Signal:
    plain = signal.nonlinearity == "linear" and not signal.dropout
    return activate(signal, "glu", None) if plain else _unknown(call)


def _pool(call: Call, signal: Signal) -> Signal:
    # torch.max(a, b) is the larger of two tensors, not a pooling.
    larger_of_two = call.name in ("max", "min") and isinstance(call.argument(1, "other"), Tensor)
    return _unknown(call) if larger_of_two else pool(signal)


def _layout(call: Call, signal: Signal) -> Signal:
    if call.name in SELECTIONS and any(not other.from_input for other in call.signals[1:]):
        if chooses_rows(call):
            notes = (*signal.notes, "its rows are chosen by another signal, as by a router")
            return signal._replace(notes=tuple(dict.fromkeys(notes)))
        note = f"entries are chosen by another signal: rule of {signal.nonlinearity} used"
        return undecided(signal, note)
    return signal


def _reduction(call: Call) -> Signal:
    signal = pool(call.signals[-1])
    if signal.from_input:
        return signal
    if call.name not in NEIGHBOURS:
        return undecided(signal, f"summed over positions: rule of {signal.nonlinearity} used")
    if WEIGHTED_NOTE in signal.notes:
        return attention(call)._replace(marks=signal.marks)
    if call.argument(4, "reduce", "sum") not in ("sum", "mean"):
        return max_pool(call.signals[-1])
    before = call.signal_of(call.argument(0, "input"))
    if before is not None and not before.from_input and "summed" not in before.marks:
        return add((before, signal))
    rule = f"rule of {signal.nonlinearity} used"
    note = f"summed over neighbours, whose number the rule does not undo: {rule}"
    notes = tuple(dict.fromkeys((*signal.notes, note)))
    return signal._replace(marks=signal.marks | {"summed"}, notes=notes)


def _join(call: Call) -> Signal:
    if len(call.signals) == 1:
        return call.signals[0]
    return concatenate(call.signals, [tensor.numel() for tensor, _ in call.carriers])


def _choice(call: Call) -> Signal | None:
    position, keyword = (0, "condition") if call.name == "where" else (1, "mask")
    mask = call.argument(position, keyword)
    chosen_by = call.signal_of(mask)
    if chosen_by is not None and not chosen_by.from_input:
        return _unknown(call)  # a hand-written activation: what is kept depends on the signal
    branches = tuple((tensor, signal) for tensor, signal in call.carriers if tensor is not mask)
    return _join(call._replace(carriers=branches)) if branches else None


def _sum(call: Call) -> Signal:
    if len(call.signals) > 1:
        return add(call.signals)
    signal = call.signals[0]
    if signal.nonlinearity == "linear" or call.has_parameters:
        return signal
    if not any(_shifts(value) for value in call.args if call.signal_of(value) is None):
        return signal
    return undecided(
        signal, f"a constant is added behind {signal.nonlinearity}: rule without it used"
    )


def _shifts(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (int, float)) and value != 0)


def _scale(call: Call) -> Signal:
    if "div" in call.name and call.first is None:
        return _unknown(call)
    if len(call.signals) == 1:
        return scale(call.signals[0])
    inner = [signal for signal in call.signals if not signal.from_input]
    if len(inner) != 1:
        return product(call) if inner else merged(call.signals)
    if all(_is_one_per_row(tensor) for tensor, signal in call.carriers if signal.from_input):
        return scale(inner[0])
    rule = f"rule of {inner[0].nonlinearity} used"
    return undecided(inner[0], f"multiplied by what the model's input decides (a mask?): {rule}")


def _is_one_per_row(factor: Tensor) -> bool:
    """Whether all that a weight sums over is multiplied by the same, as a node's features are."""
    return factor.dim() == 2 and (factor.shape[1] == 1 or factor.stride(1) == 0)


_BINARY: dict[str, Callable[[Call], Signal | None]] = {
    **dict.fromkeys(SUMS, _sum),
    **dict.fromkeys(PRODUCTS, _scale),
    **dict.fromkeys(JOINS, _join),
    **dict.fromkeys(CHOICES, _choice),
    **dict.fromkeys(REDUCTIONS, _reduction),
    **dict.fromkeys(CONSTANTS, lambda call: None),
    **dict.fromkeys(("softmax", "safesoftmax_weights"), softmax_weights),
    "scaled_dot_product_attention": attention,
    **dict.fromkeys(("neg", "negative"), lambda call: call.signals[0]),
    "copy": lambda call: call.signals[-1],
}
_UNARY: dict[str, Callable[[Call, Signal], Signal]] = {
    **dict.fromkeys(ACTIVATIONS, _activation),
    "glu": _glu,
    **dict.fromkeys(DROPOUTS, lambda call, signal: drop(signal, _dropout_probability(call))),
    **dict.fromkeys(
        ALPHA_DROPOUTS, lambda call, signal: alpha_drop(signal, _dropout_probability(call))
    ),
    **dict.fromkeys(NORMS, lambda call, signal: normalize(signal)),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(LAYOUTS | SELECTIONS, _layout),
}
