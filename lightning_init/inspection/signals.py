"""What has happened to a signal since the last weight matrix, and the rules by which it changes.

A :class:`Signal` is a small immutable record that is passed along a declared chain of modules or
along a traced forward pass; :class:`ActivationInFront` is what is left of it at a weight. The
moment condition of Gurbuzbalaban & Hu 2021 (arXiv 2005.11878) asks for the function between two
weight matrices, so every rule here answers one question: is the law of that function still known?
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.composed_activations import POOLED
from lightning_init.theory.max_pooling import effective_draws, pooled_name

Param = float | tuple[float, ...] | None
Rule = tuple[str, Param]

MARKS = ("residual", "normalized", "concatenated", "pooled", "summed", "attention", "scale-free")

# phi(c x) = c phi(x) for c > 0: dropout in front of these equals dropout behind them.
HOMOGENEOUS = frozenset({"linear", "relu", "leaky_relu", "prelu", "rrelu", "abs"})

SUM_NOTE = (
    "a sum of branches reaches this weight, its scale is not held by the rule: linear rule used"
)

# How notes name the rule; what follows later may have changed it.
_RULE_USED = re.compile(r"(linear rule|rule of \S+) used")

SCALE_NOTE = "scaled by a factor that the rule does not undo"


class ActivationInFront(NamedTuple):
    """The activation and dropout that stand between the previous weight matrix and this one.

    Args:
        nonlinearity: Name of the activation law, "linear" when there is none.
        param: Parameters of the law: slope (leaky_relu), slope or slopes (prelu), (lower, upper)
            (rrelu), alpha (elu, celu), (beta, threshold) (softplus), (min, max) (hardtanh).
        dropout: Probability of inverted dropout between the activation and this weight.
        source: "declared" (read off the order of modules), "traced" (seen in a forward pass) or
            "assumed" (could not be decided; `note` names the rule that was used).
        first_layer: The model's input arrives with no activation and no weight matrix in between.
        marks: What else lies on the way: "residual", "normalized", "concatenated", "pooled" (pooled
            or resampled over positions), "summed" (over neighbours), "attention"; and "scale-free":
            the output of this weight goes straight into a norm, so that its scale does not change
            what the model computes.
        note: Empty, or what could not be decided and which rule was then used.
    """

    nonlinearity: str
    param: Param
    dropout: float
    source: str
    first_layer: bool
    marks: tuple[str, ...]
    note: str


class Signal(NamedTuple):
    """A signal on its way from one weight matrix (or from the model's input) to the next.

    Args:
        nonlinearity: Activation that it went through, "linear" so far.
        param: Parameters of the activation.
        dropout: Probability of inverted dropout so far.
        marks: Marks of :class:`ActivationInFront` collected so far.
        notes: What could not be decided so far.
        decided: False once the law is only assumed.
        from_input: True until a weight matrix or an activation is passed.
        straight_from: Names of the weights whose output this still is, up to views and biases.
    """

    nonlinearity: str = "linear"
    param: Param = None
    dropout: float = 0.0
    marks: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    decided: bool = True
    from_input: bool = False
    straight_from: frozenset[str] = frozenset()

    @property
    def rule(self) -> tuple[str, Param, float]:
        """The law that a weight behind this signal would be given."""
        return self.nonlinearity, self.param, self.dropout


# Cached, because the layers of a stack are reached by equal signals.
@lru_cache(maxsize=256)
def in_front(signal: Signal, source: str, *, scale_free: bool) -> ActivationInFront:
    """Return the record of a weight that a signal reaches."""
    marks = signal.marks | {"scale-free"} if scale_free else signal.marks
    words = "linear rule" if signal.nonlinearity == "linear" else f"rule of {signal.nonlinearity}"
    notes = [_RULE_USED.sub(f"{words} used", note) for note in signal.notes]
    return ActivationInFront(
        *signal.rule,
        source=source if signal.decided else "assumed",
        first_layer=signal.from_input and signal.nonlinearity == "linear",
        marks=tuple([mark for mark in MARKS if mark in marks]) if marks else (),
        note="; ".join(dict.fromkeys(notes)),
    )


def undecided(signal: Signal, note: str) -> Signal:
    """Keep the rule of `signal`, but as an assumption that `note` explains."""
    notes = signal.notes if note in signal.notes else (*signal.notes, note)
    return signal._replace(decided=False, notes=notes, straight_from=frozenset())


def activate(signal: Signal, nonlinearity: str, param: Param) -> Signal:
    """Pass `signal` through an elementwise activation."""
    if signal.nonlinearity == POOLED and isinstance(signal.param, tuple):
        nonlinearity, param = pooled_rule(nonlinearity, param, signal.param[-1])
        signal = signal._replace(nonlinearity="linear")
    once = signal.nonlinearity == "linear" or (signal.nonlinearity == nonlinearity == "relu")
    # The activation is the rule now, whatever the branches of the sum were.
    notes = tuple([note for note in signal.notes if note != SUM_NOTE]) if signal.notes else ()
    after = Signal(nonlinearity, param, signal.dropout, signal.marks, notes, signal.decided)
    if not once:
        return undecided(
            after, f"{nonlinearity} follows {signal.nonlinearity}: rule of {nonlinearity} used"
        )
    if signal.dropout and nonlinearity not in HOMOGENEOUS:
        return undecided(
            after, f"dropout stands before {nonlinearity}: rule for dropout behind it used"
        )
    return after


def pooled_rule(nonlinearity: str, param: Param, draws: float) -> Rule:
    """The rule of the largest of `draws`; the one that is given if that has no law.

    A rising activation of the largest draw is the largest activation.
    """
    own = param if isinstance(param, tuple) else () if param is None else (param,)
    name, both = pooled_name(nonlinearity), (*own, round(draws, 3))
    try:
        activation_law(name, both)
    except ValueError:
        return nonlinearity, param
    return name, both


def prelu_rule(weight: Tensor) -> Rule:
    """Return the PReLU law of the slopes held by `weight`, one or one per channel."""
    slopes = tuple(float(slope) for slope in weight.detach().reshape(-1).tolist())
    return "prelu", slopes[0] if len(slopes) == 1 else slopes


def drop(signal: Signal, probability: float) -> Signal:
    """Pass `signal` through inverted dropout; two dropouts keep (1-p)(1-q)."""
    if probability == 0.0:
        return signal
    if signal.dropout:
        probability = 1.0 - (1.0 - signal.dropout) * (1.0 - probability)
    return signal._replace(dropout=probability, straight_from=frozenset())


def alpha_drop(signal: Signal, probability: float) -> Signal:
    """Refuse to give alpha dropout a law: it shifts and rescales instead of masking with zeros."""
    if probability == 0.0:
        return signal
    return undecided(
        signal,
        f"alpha dropout (p={probability:g}) is not inverted dropout and has no law here: "
        f"rule of {signal.nonlinearity} without it used",
    )


def scale(signal: Signal) -> Signal:
    """Multiply `signal` by a constant or a learned factor; what is fed in has no scale to keep."""
    if signal.from_input or SCALE_NOTE in signal.notes:
        return signal
    return signal._replace(notes=(*signal.notes, SCALE_NOTE))


def pool(signal: Signal) -> Signal:
    """Pool or resample `signal` over positions."""
    return signal._replace(marks=signal.marks | {"pooled"}, straight_from=frozenset())


def max_pool(signal: Signal, draws: float | None = None) -> Signal:
    """Take the largest of a window, which amounts to this many independent draws."""
    after = pool(signal)
    if signal.from_input and signal.nonlinearity == "linear":
        return after
    name, param = signal.nonlinearity, signal.param
    if draws is not None:
        name, param = pooled_rule(name, param, draws)
    if name != signal.nonlinearity:
        return after._replace(nonlinearity=name, param=param)
    return undecided(after, f"the largest of a window is not measured: rule of {name} used")


def normalize(signal: Signal) -> Signal:
    """Normalize `signal`: at unit scale the linear rule holds until an activation follows."""
    return Signal(marks=signal.marks | {"normalized"}, from_input=signal.from_input)


def add(signals: Sequence[Signal]) -> Signal:
    """Add branches: a residual sum, unless all of them are the model's input."""
    marks = frozenset().union(*(signal.marks for signal in signals))
    if all(signal.from_input for signal in signals):
        return Signal(marks=marks, from_input=True)
    kept = tuple(dict.fromkeys(note for s in signals if not s.decided for note in s.notes))
    decided = all(signal.decided for signal in signals)
    notes = (*(note for note in kept if note != SUM_NOTE), SUM_NOTE)
    return Signal(marks=marks | {"residual"}, notes=notes, decided=decided)


def concatenate(signals: Sequence[Signal], sizes: Sequence[int]) -> Signal:
    """Concatenate branches; when their rules differ, that of the largest share is assumed.

    Equal shares go to the linear rule, which gives the smaller weights, else to the first branch.
    """
    share: dict[tuple[str, Param, float], int] = {}
    for signal, size in zip(signals, sizes, strict=True):
        share[signal.rule] = share.get(signal.rule, 0) + size
    nonlinearity, param, dropout = max(share, key=lambda rule: (share[rule], rule[0] == "linear"))
    merged = Signal(
        nonlinearity=nonlinearity,
        param=param,
        dropout=dropout,
        marks=frozenset().union(*(signal.marks for signal in signals)) | {"concatenated"},
        notes=tuple(dict.fromkeys(note for signal in signals for note in signal.notes)),
        decided=all(signal.decided for signal in signals),
        from_input=all(signal.from_input for signal in signals),
    )
    if len(share) == 1:
        return merged
    if (mixed := _rectified(share)) is not None:
        return merged._replace(nonlinearity=mixed[0], param=mixed[1])
    names = " and ".join(dict.fromkeys(_words(rule) for rule in share))
    return undecided(
        merged, f"branches behind {names} are concatenated: rule of {_words(merged.rule)} used"
    )


def _rectified(share: Mapping[tuple[str, Param, float], int]) -> Rule | None:
    """The rule of ReLU branches of which some are max pooled: the draws that their mean square has.

    None if a branch is anything else.
    """
    if {name for name, _, _ in share} != {"relu", pooled_name("relu")}:
        return None
    if len({dropout for _, _, dropout in share}) > 1:
        return None
    total = sum(share.values())
    moment = sum(size * activation_law(*rule[:2]).mean for rule, size in share.items()) / total
    return pooled_rule("relu", None, effective_draws("relu", None, moment))


def _words(rule: tuple[str, Param, float]) -> str:
    nonlinearity, _, dropout = rule
    return f"{nonlinearity} with dropout {dropout:g}" if dropout else nonlinearity
