"""One row of a plan: what one weight gets, and why."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from lightning_init.inspection.activation_tracing import ActivationInFront
from lightning_init.inspection.weights import Weight
from lightning_init.theory.activation_laws import ActivationLaw, activation_law

Treatment = Literal["normal", "orthogonal", "keep"]


class PlannedWeight(NamedTuple):
    """What one weight gets.

    Args:
        weight: The weight.
        activation: What stands in front of it, and how that is known.
        treatment: "normal" (drawn from N(0, std^2)), "orthogonal", or "keep".
        std: Standard deviation of the draw; nan for a weight that is not drawn from it.
        kaiming_std: What order 2 gives under the same law; nan likewise.
        formula: The rule in words, e.g. "order 1 of relu".
        note: Empty, or how much of the scale pays for dead layers, or for depth.
        before: Root mean square of what was there; nan while that is not known.
        author: Empty, or why what an author set is kept.
        zeroes: Attributes of the biases that are set to zero with it, and were not.
        row_stds: Standard deviation of every row, where a mask gives the rows different fan-ins.
    """

    weight: Weight
    activation: ActivationInFront
    treatment: Treatment
    std: float
    kaiming_std: float
    formula: str
    note: str = ""
    before: float = math.nan
    author: str = ""
    zeroes: tuple[str, ...] = ()
    row_stds: tuple[float, ...] = ()

    @property
    def change(self) -> float:
        """Standard deviation relative to what was there."""
        return self.std / self.before if self.before else math.inf

    @property
    def ratio(self) -> float:
        """Standard deviation relative to order 2 (Kaiming, LeCun) under the same law."""
        return self.std / self.kaiming_std

    @property
    def law(self) -> ActivationLaw:
        """The law of the activation in front; equal ones give the same object."""
        one = self.activation
        return activation_law(one.nonlinearity, one.param, one.dropout)


def law_words(activation: ActivationInFront) -> str:
    """Name a law for people, its parameters and dropout included.

    Example:
        >>> law_words(ActivationInFront("leaky_relu", 0.2, 0.5, "traced", False, (), ""))
        'leaky_relu(0.2) + dropout 0.5'
    """
    return rule_words(activation.nonlinearity, activation.param, activation.dropout)


def rule_words(nonlinearity: str, param: float | tuple[float, ...] | None, dropout: float) -> str:
    """The same of the activation's name, its parameters and the dropout alone."""
    if isinstance(param, tuple):
        inside = ", ".join(f"{value:.3g}" for value in param[:2]) + (", ..." * (len(param) > 2))
        words = f"{nonlinearity}({inside})"
    else:
        words = nonlinearity + ("" if param is None else f"({param:.3g})")
    return words + (f" + dropout {dropout:g}" if dropout else "")
