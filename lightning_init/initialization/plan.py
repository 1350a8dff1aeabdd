"""What `FractionalMomentInit` will draw: one row per weight, decided before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from lightning_init.initialization import fill
from lightning_init.inspection.activation_tracing import ActivationInFront
from lightning_init.inspection.weights import LeftOut, Weight, WeightInventory
from lightning_init.tables import number, shape_text, text_table
from lightning_init.theory.activation_laws import ActivationLaw, activation_law
from lightning_init.theory.fractional_moments import dead_layer_warning, moment_preserving_std
from lightning_init.theory.squared_norm import check_order

Mode = Literal["fan_in", "fan_out"]
FirstLayer = Literal["linear", "activation"]
ConvWidth = Literal["taps", "channels"]
Recurrent = Literal["orthogonal", "keep", "same"]
Bias = Literal["zero", "keep"]
Scheme = Literal["exact", "asymptotic", "authors"]
Treatment = Literal["normal", "orthogonal", "keep"]


@dataclass(frozen=True)
class FractionalMomentSettings:
    """Which moment is preserved, and the conventions where the theorem leaves a choice.

    Args:
        order: Order s of the preserved moment, in [0, 2].
        scheme: "exact", "asymptotic" (large widths) or "authors" (the published code's formulas).
        mode: "fan_in" preserves each pre-activation, "fan_out" the norm of the activations.
        first_layer: Law of a weight with no activation in front: "linear" is exact for standardised
            inputs, "activation" uses the following layer's law, as Kaiming's habit is.
        conv_width: Independent inputs of a convolution: "taps" counts every kernel position
            (Kaiming's convention), "channels" only the channels.
        recurrent: What hidden-to-hidden weights get, which no theorem covers: "orthogonal" blocks,
            "keep", or the "same" law as the others.
        bias: "zero", which the theorem needs, or "keep".
        conditional: Preserve the moment given that the layer is alive.

    Raises:
        ValueError: If an argument is outside its range.
    """

    order: float = 1.0
    scheme: Scheme = "exact"
    mode: Mode = "fan_in"
    first_layer: FirstLayer = "linear"
    conv_width: ConvWidth = "taps"
    recurrent: Recurrent = "orthogonal"
    bias: Bias = "zero"
    conditional: bool = False

    def __post_init__(self) -> None:
        check_order(self.order)
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")


_CHOICES: dict[str, tuple[str, ...]] = {
    "scheme": get_args(Scheme),
    "mode": get_args(Mode),
    "first_layer": get_args(FirstLayer),
    "conv_width": get_args(ConvWidth),
    "recurrent": get_args(Recurrent),
    "bias": get_args(Bias),
}


@dataclass(frozen=True)
class PlannedWeight:
    """What one weight gets.

    Args:
        weight: The weight.
        activation: What stands in front of it, and how that is known.
        treatment: "normal" (drawn from N(0, std^2)), "orthogonal", or "keep".
        std: Standard deviation of the draw; nan for a kept weight.
        kaiming_std: What order 2 gives under the same law; nan for a kept weight.
        formula: The rule in words, e.g. "order 1 of relu".
        note: Empty, or what the reader should know.
    """

    weight: Weight
    activation: ActivationInFront
    treatment: Treatment
    std: float
    kaiming_std: float
    formula: str
    note: str = ""

    @property
    def ratio(self) -> float:
        """Standard deviation relative to order 2 (Kaiming, LeCun) under the same law."""
        return self.std / self.kaiming_std


@dataclass(frozen=True)
class InitPlan:
    """One row per weight, and why the others are left out; `str(plan)` is the table."""

    rows: tuple[PlannedWeight, ...]
    left_out: tuple[LeftOut, ...]
    settings: FractionalMomentSettings
    notes: tuple[str, ...] = ()

    def apply_(self, model: nn.Module, seed: int) -> None:
        """Draw every planned weight of ``model`` in place.

        Args:
            model: The model that the plan was made for.
            seed: Each layer's stream depends on this and on the layer's name alone.
        """
        for row in self.rows:
            if row.treatment == "normal":
                fill.fill_normal_(model, row.weight, row.std, seed)
            elif row.treatment == "orthogonal":
                fill.fill_orthogonal_(model, row.weight, seed)
            if row.treatment != "keep" and self.settings.bias == "zero":
                fill.zero_biases_(model, row.weight)

    def __str__(self) -> str:
        return self.table()

    def table(self, max_rows: int = 60) -> str:
        """Render as plain text; rows beyond ``max_rows`` are counted."""
        rows = [_cells(row) for row in self.rows[:max_rows]]
        rows += [
            (skipped.name, shape_text(skipped.shape), f"left out: {skipped.reason}")
            for skipped in self.left_out[: max(0, max_rows - len(rows))]
        ]
        hidden = len(self.rows) + len(self.left_out) - len(rows)
        tail = [f"... and {hidden} more"] if hidden else []
        headers = ("layer", "shape", "law", "fan_in", "std", "/ Kaiming", "note")
        return "\n".join([text_table(headers, rows), *tail, *self.notes])


def _cells(row: PlannedWeight) -> tuple[str, ...]:
    law = f"{row.formula} ({row.activation.source})"
    marks = ", ".join(row.activation.marks)
    note = "; ".join(part for part in (marks, row.note, row.activation.note) if part)
    std = row.treatment if row.treatment != "normal" else number(row.std, 5)
    ratio = number(row.ratio, 5)
    weight = row.weight
    return (weight.name, shape_text(weight.shape), law, str(weight.fan_in), std, ratio, note)


def plan_fractional_moments(
    inventory: WeightInventory,
    activations: Mapping[str, ActivationInFront],
    settings: FractionalMomentSettings,
) -> InitPlan:
    """Decide the standard deviation of every weight (Gurbuzbalaban & Hu 2021, arXiv 2005.11878).

    A weight of fan-in m behind the activation phi gets sigma with sigma^s E||phi(z)||^s = 1,
    z ~ N(0, I_m), which preserves E|y|^s from layer to layer at every finite width.

    Args:
        inventory: The weights that take part.
        activations: What stands in front of each of them, by layer name.
        settings: Order and conventions.

    Raises:
        ValueError: If a law is not defined, naming the layer.
    """
    rows = tuple(
        _plan_weight(weight, _activation(index, inventory, activations, settings), settings)
        for index, weight in enumerate(inventory.weights)
    )
    return InitPlan(rows, inventory.left_out, settings, _notes(rows, settings))


def _activation(
    index: int,
    inventory: WeightInventory,
    activations: Mapping[str, ActivationInFront],
    settings: FractionalMomentSettings,
) -> ActivationInFront:
    activation = activations[inventory.weights[index].name]
    if not activation.first_layer or settings.first_layer == "linear":
        return activation
    followers = (activations[weight.name] for weight in inventory.weights[index + 1 :])
    return next((other for other in followers if not other.first_layer), activation)


def _plan_weight(
    weight: Weight, activation: ActivationInFront, settings: FractionalMomentSettings
) -> PlannedWeight:
    if weight.kind == "recurrent_hidden" and settings.recurrent != "same":
        words = {"orthogonal": "orthogonal (recurrent)", "keep": "kept (recurrent)"}
        return PlannedWeight(
            weight, activation, settings.recurrent, math.nan, math.nan, words[settings.recurrent]
        )
    try:
        law = activation_law(activation.nonlinearity, activation.param, activation.dropout)
        std = _std(law, weight, settings)
        kaiming = _std(law, weight, settings, order=2.0)
    except ValueError as error:
        raise ValueError(f"Layer {weight.name!r}: {error}") from None
    note = dead_layer_warning(law, _width(weight, settings), settings.order) or ""
    formula = f"order {settings.order:g} of {_law_words(activation)}"
    return PlannedWeight(weight, activation, "normal", std, kaiming, formula, note)


def _std(
    law: ActivationLaw,
    weight: Weight,
    settings: FractionalMomentSettings,
    order: float | None = None,
) -> float:
    taps = weight.taps if _counts_channels(weight, settings) else 1
    std = moment_preserving_std(
        law,
        _width(weight, settings),
        settings.order if order is None else order,
        conditional=settings.conditional,
        scheme=settings.scheme if order is None else "exact",
    )
    # sigma^2 sums over every tap, of which only the channels are independent.
    return std / math.sqrt(taps)


def _width(weight: Weight, settings: FractionalMomentSettings) -> int:
    fan = weight.fan_in if settings.mode == "fan_in" else weight.fan_out
    return max(1, fan // weight.taps) if _counts_channels(weight, settings) else fan


def _counts_channels(weight: Weight, settings: FractionalMomentSettings) -> bool:
    return settings.conv_width == "channels" and weight.taps > 1


def _law_words(activation: ActivationInFront) -> str:
    param = activation.param
    if isinstance(param, tuple):
        inside = ", ".join(f"{value:.3g}" for value in param[:2]) + (", ..." * (len(param) > 2))
        words = f"{activation.nonlinearity}({inside})"
    else:
        words = activation.nonlinearity + ("" if param is None else f"({param:.3g})")
    return words + (f" + dropout {activation.dropout:g}" if activation.dropout else "")


def _notes(rows: Sequence[PlannedWeight], settings: FractionalMomentSettings) -> tuple[str, ...]:
    drawn = [row for row in rows if row.treatment == "normal"]
    if not drawn:
        return ()
    shift = sum(math.log(row.ratio) for row in drawn)
    verdict = "nothing material changes" if abs(shift) < 0.05 else f"x{math.exp(shift):.3g}"
    return (
        f"Order {settings.order:g} against Kaiming (order 2): {shift:+.3f} in the log-norm through"
        f" {len(drawn)} layers in a row, {verdict}.",
    )
