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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_init.inspection.attention_scale import AttentionScale
from lightning_init.inspection.calls import Call, refuses_single_values
from lightning_init.inspection.fans import Fans
from lightning_init.inspection.max_pools import MaxPools
from lightning_init.inspection.mixing import attention, factor, product, softmax_weights
from lightning_init.inspection.operation_names import (
    ENDS,
    LAYERS,
    LAYOUTS,
    MAPS,
    MAX_POOLS,
    MERGES,
    NORMS,
    RANDOM,
    RECURRENT,
    SELECTIONS,
    SOURCES,
    SUMS,
    TABLES,
    operation_name,
)
from lightning_init.inspection.operations import behind
from lightning_init.inspection.parameter_matrices import ParameterMatrices
from lightning_init.inspection.region_memory import RegionMemory
from lightning_init.inspection.regions import PLAIN, arguments_in, memory_of, tensors_in
from lightning_init.inspection.seen_fans import SeenFans
from lightning_init.inspection.signals import (
    Signal,
    activate,
    add,
    concatenate,
    drop,
    pool,
    undecided,
)
from lightning_init.inspection.tensor_table import TensorTable
from lightning_init.inspection.traced_norms import TracedNorms
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
        candidates: By identity, the parameters that are a weight if they turn out to be the matrix
            of a linear map, with the name to report them under.
        growths: What `PoolMode` measured.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[nn.Parameter, tuple[Weight, ...]]],
        inputs: Iterable[Tensor],
        candidates: Mapping[int, str] | None = None,
        growths: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.reached: dict[str, list[Signal]] = {}
        self._used_otherwise: set[str] = set()
        self._normalized: set[str] = set()
        # Keyed by identity, held weakly: a tensor takes its record with it when it goes.
        self._signals: TensorTable[Signal] = TensorTable()
        self._constants: TensorTable[bool] = TensorTable(self._signals)
        self._parameters = ParameterMatrices(parameters, candidates or {})
        self._regions = RegionMemory(self._signals)
        self.fans = SeenFans()
        self.scores = AttentionScale()
        self.max_pools = MaxPools(growths)
        self.norms = TracedNorms()
        for tensor in inputs:
            self._signals[tensor] = given = Signal(from_input=True)
            self._regions.begin(tensor, given, given=True)

    @property
    def matrices(self) -> dict[str, tuple[int, Fans]]:
        """The candidates that turned out to be matrices: by name, identity and fans."""
        return self._parameters.found

    def scale_free(self, outputs: Any) -> set[str]:
        """Return the weights whose output went into norms only, given the model's outputs.

        Standardised weights too: their scale never reaches the output.
        """
        returned: set[str] = set()
        for tensor in tensors_in(outputs):
            signal = self._signals.get(tensor)
            returned |= signal.straight_from if signal is not None else frozenset()
        into_norms = self._normalized | self._regions.into_norms()
        otherwise = self._used_otherwise | self._regions.used_outside_norms() | returned
        return (into_norms - otherwise) | self._parameters.standardized

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = operation_name(func)
        if refuses_single_values(name, args):
            result, self.norms.complete = args[0].clone(), False
        else:
            result = func(*args, **kwargs)
        if type(result) in PLAIN and name != "setitem":
            return result
        outputs = tensors_in(result) or ([args[0]] if name == "setitem" else [])
        if outputs:
            tensors, signals = tuple(arguments_in(args, kwargs)), self._signals.values
            carriers = tuple([(t, signals[id(t)]) for t in tensors if id(t) in signals])
            has_parameters = self._parameters.any_in(tensors)
            call = Call(func, name, args, kwargs, carriers, has_parameters, tensors)
            if carriers or has_parameters or name in ENDS:
                self._follow(call, outputs)
            else:  # tables, masks
                for place, tensor in enumerate(outputs):
                    self._keep(call, tensor, place, ())
        return result

    def _follow(self, call: Call, outputs: list[Tensor]) -> None:
        weights = self._parameters.weights_in(call.tensors) if call.has_parameters else ()
        if weights:
            self.norms.note_use(weights)
        several = len(call.carriers) > 1 and (
            (call.name in SELECTIONS and not call.signals[-1].from_input)  # by another signal
            or (call.name in SUMS and not self._regions.share_a_root(call.carriers))
        )
        self.norms.branches |= several
        if call.name in MERGES or several:
            resolved = [(tensor, self._resolved(tensor)) for tensor, _ in call.carriers]
            call = call._replace(carriers=tuple(resolved))
        after = self._after(call, weights)
        self.fans.follow(call, outputs)
        self.scores.follow(call, outputs)
        changed = call.args[0] if call.args else None
        ends = several or call.name in ENDS
        nodes = self._regions.extend(call, outputs, after) if not ends and after else ()
        if self._regions.is_softmax(call, nodes):
            after, nodes = softmax_weights(call), ()
        self._note_use(call, after, nodes)
        for place, tensor in enumerate(outputs):
            if after is None:
                self._keep(call, tensor, place, weights)
                continue
            if tensor is changed and call.name not in LAYOUTS:
                self._change_aliases(tensor, after)
            self._signals[tensor] = after
            if nodes:
                self._regions.put(tensor, nodes[place])
            else:
                of_weight = call.has_parameters and call.name in MAPS
                self._regions.begin(tensor, after, given=call.name in RANDOM, from_weight=of_weight)

    def _after(self, call: Call, weights: tuple[Weight, ...]) -> Signal | None:
        if call.name in SOURCES:
            return Signal(from_input=True)
        if call.name in RECURRENT:
            return self._recurrent(call, weights)
        if call.name == "multi_head_attention_forward":
            return self._multi_head_attention(call)
        if call.name in MAPS:
            return self._linear_map(call, weights)
        if call.name in MAX_POOLS and call.carriers:
            return self.max_pools.behind(call)
        return behind(call) if call.carriers else None

    def _resolved(self, tensor: Tensor) -> Signal:
        """The signal of a tensor, by the values of what made it where the names do not tell."""
        signal = self._signals.values[id(tensor)]
        known = self._regions.resolve(tensor, signal)
        if known is not signal:
            self._signals[tensor] = known
        return known

    def _change_aliases(self, changed: Tensor, after: Signal) -> None:
        """Carry an in-place change over to the live tensors that share its memory."""
        memory = memory_of(changed)
        for alias, signal in self._signals.living():
            if alias is changed or not memory or memory_of(alias) != memory:
                continue
            rest = alias.numel() - changed.numel()
            both = (signal, after), (rest, changed.numel())
            mixed = concatenate(*both) if rest > 0 else after
            self._signals[alias] = mixed
            self._regions.begin(alias, mixed)

    def _keep(self, call: Call, tensor: Tensor, place: int, weights: tuple[Weight, ...]) -> None:
        """Note what is no signal: made of parameters only, a table, or nothing known."""
        self._signals.discard(tensor)
        if call.has_parameters:
            self._parameters.extend(call, tensor, place, weights)
        elif (call.tensors or call.name in TABLES) and all(
            t in self._constants for t in call.tensors
        ):
            self._constants[tensor] = True  # a table, as of positions, and not data unseen

    def _note_use(self, call: Call, after: Signal | None, nodes: Any) -> None:
        straight = [one.straight_from for _, one in call.carriers if one.straight_from]
        if not straight:
            return
        used = frozenset().union(*straight)
        used -= after.straight_from if after is not None else frozenset()
        if not used:
            return
        if nodes:
            self._regions.note_use(used, nodes[0])
        else:
            (self._normalized if call.name in NORMS else self._used_otherwise).update(used)

    def _reach(self, names: Iterable[str], signal: Signal) -> Signal:
        names = tuple(names)
        for name in names:
            self.reached.setdefault(name, []).append(signal)
        return Signal(straight_from=frozenset(names))

    def _input_of(self, value: Any) -> Signal:
        if isinstance(value, Tensor):
            if value in self._signals:
                return self._resolved(value)
            if self._parameters.any_in([value]) or value in self._constants:
                return Signal(from_input=True)  # learned tokens, tables of positions
        return undecided(Signal(), UNSEEN_NOTE)

    def _linear_map(self, call: Call, weights: tuple[Weight, ...]) -> Signal | None:
        if call.name in LAYERS:
            return self._layer(call, weights)
        # What counts or indexes is no factor, as the offsets of grouped products.
        numbers = tuple(one for one in call.carriers if one[0].dtype.is_floating_point)
        call = call._replace(carriers=numbers)
        found = (*(weight.name for weight in weights), *self._parameters.matrices_in(call))
        if not call.carriers:
            constant = call.has_parameters and any(t in self._constants for t in call.tensors)
            return self._reach(found, Signal(from_input=True)) if constant else None
        # addmm and its kin add their first argument to the product of the others.
        trunk = call.first if "add" in call.name else None
        factors = [signal for signal in call.signals if signal is not trunk]
        if call.has_parameters and (found or len(factors) == 1):
            output = self._reach(found, factor(factors))
            return output if trunk is None else add((trunk, output))
        if len(factors) > 1:
            return self._regions.product(call)
        return undecided(pool(call.signals[0]), CONSTANT_MATRIX_NOTE)

    def _layer(self, call: Call, weights: tuple[Weight, ...]) -> Signal:
        """Follow `F.linear`, `F.bilinear` or a convolution, frozen ones included."""
        inputs = 2 if call.name == "bilinear" else 1
        matrix = call.argument(inputs, "weight")
        if matrix in self._signals:
            return product(call)  # the matrix is itself computed from the input
        given = call.argument(0, "input" if inputs == 1 else "input1")
        entering = [self._input_of(given)]
        if inputs == 2:
            entering.append(self._input_of(call.argument(1, "input2")))
        if not self._parameters.any_in([matrix]):
            return undecided(pool(entering[0]), CONSTANT_MATRIX_NOTE)
        self.fans.note(call, matrix, self._parameters.mask_of(matrix), weights)
        found = (*(weight.name for weight in weights), *self._parameters.matrices_in(call))
        self.norms.note_input(call.name, given, matrix, found, known=given in self._signals)
        return self._reach(found, factor(entering))

    def _recurrent(self, call: Call, weights: tuple[Weight, ...]) -> Signal:
        nonlinearity = {"rnn_tanh": "tanh", "rnn_relu": "relu"}.get(call.name.removesuffix("_cell"))
        unknown = undecided(Signal(), STATE_NOTE)
        state = activate(Signal(), nonlinearity, None) if nonlinearity else unknown
        # The dropout between stacked layers is the only float among the arguments.
        dropout = next((value for value in call.args if isinstance(value, float)), 0.0)
        for weight in weights:
            if weight.kind != "recurrent_input":
                note = f"the same weight acts at every step: rule of {state.nonlinearity} used"
                self._reach([weight.name], undecided(state, note) if state.decided else state)
            elif re.search(r"_l[1-9]", weight.attribute):
                self._reach([weight.name], drop(state, dropout))
            else:
                self._reach([weight.name], self._input_of(call.argument(0, "input")))
        return state

    def _multi_head_attention(self, call: Call) -> Signal:
        inputs = [
            self._input_of(call.argument(i, k)) for i, k in enumerate(("query", "key", "value"))
        ]
        width = call.argument(3, "embed_dim_to_check")
        for weight in self._parameters.weights_in([call.argument(5, "in_proj_weight")]):
            signal = inputs[weight.rows[0] // width if weight.rows else 0]
            self._reach([weight.name], signal)
        for signal, letter in zip(inputs, "qkv", strict=True):
            weights = self._parameters.weights_in([call.kwargs.get(f"{letter}_proj_weight")])
            self._reach([weight.name for weight in weights], signal)
        out = self._parameters.weights_in([call.argument(11, "out_proj_weight")])
        return self._reach([weight.name for weight in out], attention(call))
