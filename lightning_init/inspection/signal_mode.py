"""Follows signals through one forward pass, operation by operation.

A `TorchFunctionMode` sees every torch call of the eager program: modules and functional code,
methods, operators and in-place twins alike, with the arguments that the user wrote (a dropout's
probability, a leaky slope). `torch.fx` stops at data-dependent control flow; `torch.export` wants
the whole model to be traceable and has turned dropout and attention into other operations by then;
module hooks do not see `F.relu`, and leave something to remove. While the mode is active the
attention modules also stay off their fused inference kernels, which would hide what is inside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from lightning_init.inspection.operation_names import (
    LAYERS,
    MATRIX_PRODUCTS,
    NORMS,
    RANDOM,
    RECURRENT,
    operation_name,
)
from lightning_init.inspection.operations import PRODUCT_NOTE, Call, attention, behind, product
from lightning_init.inspection.signals import (
    Signal,
    activate,
    add,
    concatenate,
    drop,
    pool,
    undecided,
)
from lightning_init.inspection.weights import Weight

CONSTANT_MATRIX_NOTE = "mixed by a constant matrix: rule in front of it used"
STATE_NOTE = "the state of an LSTM or GRU has no known law: linear rule used"
UNSEEN_NOTE = "its input is made by something that the trace cannot follow: linear rule used"


class SignalMode(TorchFunctionMode):
    """Records which signal reaches each weight while it is active.

    Args:
        parameters: Every parameter of the model, with the weights that it makes up (none for
            biases and whatever else is left out).
        inputs: The tensors given to the model.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[nn.Parameter, tuple[Weight, ...]]],
        inputs: Iterable[Tensor],
    ) -> None:
        super().__init__()
        self.reached: dict[str, list[Signal]] = {}
        self._normalized: set[str] = set()
        self._used_otherwise: set[str] = set()
        # Keyed by identity, held weakly: a tensor takes its record with it when it goes.
        self._signals: Any = WeakTensorKeyDictionary()
        self._made_of: Any = WeakTensorKeyDictionary()
        for parameter, weights in parameters:
            self._made_of[parameter] = weights
        for tensor in inputs:
            self._signals[tensor] = Signal(from_input=True)

    def scale_free(self, outputs: Any) -> set[str]:
        """Return the weights whose output went into norms only, given the model's outputs."""
        returned: set[str] = set()
        for tensor in tensors_in(outputs):
            signal = self._signals.get(tensor)
            returned |= signal.straight_from if signal is not None else frozenset()
        return self._normalized - self._used_otherwise - returned

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        call = self._call(operation_name(func), args, kwargs)
        weights = self._weights_in((args, kwargs))
        single = _refuses_single_values(call)
        result = args[0].clone() if single else func(*args, **kwargs)
        outputs = list(tensors_in(result)) or ([args[0]] if call.name == "setitem" else [])
        if outputs:
            self._follow(call, weights, outputs)
        return result

    def _call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        tensors = list(tensors_in((args, kwargs)))
        carriers = tuple((t, self._signals[t]) for t in tensors if t in self._signals)
        has_parameters = any(tensor in self._made_of for tensor in tensors)
        return Call(name, args, kwargs, carriers, has_parameters)

    def _weights_in(self, value: Any) -> tuple[Weight, ...]:
        found = (w for tensor in tensors_in(value) for w in self._made_of.get(tensor, ()))
        return tuple(dict.fromkeys(found))

    def _follow(self, call: Call, weights: tuple[Weight, ...], outputs: list[Tensor]) -> None:
        if call.name in RANDOM or call.name.startswith("embedding"):
            after: Signal | None = Signal(from_input=True)
        elif call.name in RECURRENT:
            after = self._recurrent(call, weights)
        elif call.name == "multi_head_attention_forward":
            after = self._multi_head_attention(call)
        elif call.name in LAYERS or call.name in MATRIX_PRODUCTS:
            after = self._linear_map(call, weights)
        else:
            after = behind(call) if call.carriers else None
        self._note_use(call, after)
        changed = call.args[0] if call.args else None
        for tensor in outputs:
            if tensor is changed and after is not None:
                self._change_aliases(tensor, after)
            self._keep(tensor, after, weights if call.has_parameters else None)

    def _change_aliases(self, changed: Tensor, after: Signal) -> None:
        """Carry an in-place change over to the live tensors that share its memory."""
        memory = _memory(changed)
        for alias, signal in list(self._signals.items()):
            if alias is changed or not memory or _memory(alias) != memory:
                continue
            rest = alias.numel() - changed.numel()
            both = (signal, after), (rest, changed.numel())
            self._signals[alias] = concatenate(*both) if rest > 0 else after

    def _keep(
        self, tensor: Tensor, signal: Signal | None, weights: tuple[Weight, ...] | None
    ) -> None:
        if signal is not None:
            self._signals[tensor] = signal
            return
        self._signals.pop(tensor, None)
        if weights is not None and tensor not in self._made_of:
            self._made_of[tensor] = weights

    def _note_use(self, call: Call, after: Signal | None) -> None:
        used = frozenset().union(*(signal.straight_from for signal in call.signals))
        used -= after.straight_from if after is not None else frozenset()
        (self._normalized if call.name in NORMS else self._used_otherwise).update(used)

    def _reach(self, weights: Iterable[Weight], signal: Signal) -> Signal:
        names = [weight.name for weight in weights]
        for name in names:
            self.reached.setdefault(name, []).append(signal)
        return Signal(straight_from=frozenset(names))

    def _input_of(self, value: Any) -> Signal:
        signal: Signal | None = self._signals.get(value) if isinstance(value, Tensor) else None
        if signal is not None:
            return signal
        if isinstance(value, Tensor) and value in self._made_of:
            return Signal(from_input=True)  # learned tokens
        return undecided(Signal(), UNSEEN_NOTE)

    def _linear_map(self, call: Call, weights: tuple[Weight, ...]) -> Signal | None:
        if call.name in LAYERS:
            return self._layer(call, weights)
        if not call.carriers:
            return None
        # addmm and its kin add their first argument to the product of the others.
        trunk = call.first if "add" in call.name else None
        factors = [signal for signal in call.signals if signal is not trunk]
        if call.has_parameters and (weights or len(factors) == 1):
            output = self._reach(weights, _factor(factors))
            return output if trunk is None else add((trunk, output))
        if len(factors) > 1:
            return product(call)
        return undecided(pool(call.signals[0]), CONSTANT_MATRIX_NOTE)

    def _layer(self, call: Call, weights: tuple[Weight, ...]) -> Signal:
        """Follow `F.linear`, `F.bilinear` or a convolution, frozen ones included."""
        inputs = 2 if call.name == "bilinear" else 1
        matrix = call.argument(inputs, "weight")
        if matrix in self._signals:
            return product(call)  # the matrix is itself computed from the input
        entering = [self._input_of(call.argument(0, "input" if inputs == 1 else "input1"))]
        if inputs == 2:
            entering.append(self._input_of(call.argument(1, "input2")))
        if matrix not in self._made_of:
            return undecided(pool(entering[0]), CONSTANT_MATRIX_NOTE)
        return self._reach(weights, _factor(entering))

    def _recurrent(self, call: Call, weights: tuple[Weight, ...]) -> Signal:
        nonlinearity = {"rnn_tanh": "tanh", "rnn_relu": "relu"}.get(call.name.removesuffix("_cell"))
        if nonlinearity is None:
            state = undecided(Signal(), STATE_NOTE)
        else:
            state = activate(Signal(), nonlinearity, None)
        # The dropout between stacked layers is the only float among the arguments.
        dropout = next((value for value in call.args if isinstance(value, float)), 0.0)
        for weight in weights:
            if weight.kind != "recurrent_input":
                note = f"the same weight acts at every step: rule of {state.nonlinearity} used"
                self._reach([weight], undecided(state, note) if state.decided else state)
            elif re.search(r"_l[1-9]", weight.attribute):
                self._reach([weight], drop(state, dropout))
            else:
                self._reach([weight], self._input_of(call.argument(0, "input")))
        return state

    def _multi_head_attention(self, call: Call) -> Signal:
        inputs = [
            self._input_of(call.argument(i, k)) for i, k in enumerate(("query", "key", "value"))
        ]
        width = call.argument(3, "embed_dim_to_check")
        for weight in self._weights_in(call.argument(5, "in_proj_weight")):
            self._reach([weight], inputs[weight.rows[0] // width if weight.rows else 0])
        for signal, letter in zip(inputs, "qkv", strict=True):
            self._reach(self._weights_in(call.kwargs.get(f"{letter}_proj_weight")), signal)
        mixed = attention(call)
        return self._reach(self._weights_in(call.argument(11, "out_proj_weight")), mixed)


def _factor(signals: list[Signal]) -> Signal:
    """Return what a weight matrix is multiplied by: one signal, or the product of several."""
    if len(signals) == 1:
        return signals[0]
    marks = frozenset().union(*(signal.marks for signal in signals))
    merged = Signal(marks=marks, from_input=all(signal.from_input for signal in signals))
    plain = all(signal.rule == merged.rule and signal.decided for signal in signals)
    return merged if plain else undecided(merged, PRODUCT_NOTE)


def _memory(tensor: Tensor) -> int:
    """Return where a tensor's storage begins; 0 if it has no memory that could be shared."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _refuses_single_values(call: Call) -> bool:
    """Tell whether a norm in train mode would refuse one position per sample, as it may."""
    if call.name not in ("batch_norm", "instance_norm"):
        return False
    shape = call.args[0].shape
    return bool(shape.numel() == shape[:2].numel())


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors inside nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
