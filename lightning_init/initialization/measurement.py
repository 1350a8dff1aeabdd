"""The log-norm that a batch shows at every layer, beside what theory predicts for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from lightning_init.initialization.planned_weight import PlannedWeight
from lightning_init.initialization.prediction import FRESH_SCALE
from lightning_init.theory.squared_norm import squared_norm_moments

if TYPE_CHECKING:
    from lightning_init.inspection.layer_inputs import LayerInput
    from lightning_init.inspection.traced_norms import TracedNorms

_UNCERTAIN = FRESH_SCALE | {"pooled"}
NOTHING_MEASURED = "The example input is zero, or reaches no dense layer: no log-norm was measured."
_DENSE_OR_CONV = ("linear", "conv")


@dataclass(frozen=True)
class LayerLogNorm:
    """Log-norm of what enters one layer.

    Args:
        name: Layer name.
        measured: Mean over the batch of log||x||, x the inputs that one output unit sums.
        predicted: Mean of its law, anchored at the measurement where its run of layers begins; nan
            where a run begins or the theorem does not reach.
        sd: Standard deviation of that law for one sample; a batch mean has no more. nan likewise.
        follows: Name of the layer from which the prediction was carried on, or None.
    """

    name: str
    measured: float
    predicted: float
    sd: float
    follows: str | None

    @property
    def inside(self) -> bool | None:
        """Whether the measurement lies within two standard deviations; None without prediction."""
        return None if math.isnan(self.predicted) else self.is_near(2.0)

    def is_near(self, deviations: float) -> bool:
        """Whether it lies within so many standard deviations; without a prediction, is finite."""
        if math.isnan(self.predicted):
            return math.isfinite(self.measured)
        if self.measured == self.predicted:  # -inf: a layer that is dead, as was foreseen
            return True
        return abs(self.measured - self.predicted) <= deviations * self.sd


def measure_log_norms(
    model: nn.Module, rows: Sequence[PlannedWeight], example_input: Any
) -> tuple[LayerLogNorm, ...]:
    """Run the model once and compare the log-norm in front of every layer with its law.

    From the input x of a drawn layer of n units to that of the next one, x' = phi(W x),

        log||x'|| = log sigma + log||x|| + log(Q) / 2,    Q = ||phi(z)||^2, z ~ N(0, I_n),

    so mean and variance add up along a chain of layers (Gurbuzbalaban & Hu 2021, arXiv 2005.11878).
    This is exact for dense layers behind homogeneous activations with zero biases. An activation of
    scale exponent chi passes a deviation on chi-fold, to first order. A convolution is predicted as
    if its input were constant over positions, which gives the widest band, and for the share of
    its taps that is not padding. Whatever else lies between two layers (a norm, a sum of branches,
    pooling, attention, recurrence) begins a new run: there the prediction is anchored anew.

    Args:
        model: The model, already drawn by the plan; it is left as it was.
        rows: The rows of the plan.
        example_input: A batch: a tensor, a tuple or list of positional arguments, or a dict of
            keyword arguments.

    Returns:
        One entry per layer that was reached, in the order of execution; none when the example is
        all zeros.

    Raises:
        ValueError: If the forward pass fails.
    """
    from lightning_init.inspection.layer_inputs import record_layer_inputs

    # Where no layer stands behind a drawn one, no law is carried on, and no origin is needed.
    drawn = [index for index, row in enumerate(rows) if _may_lead(row)]
    chains = bool(drawn) and any(map(_may_follow, rows[drawn[0] + 1 :]))
    weights = [row.weight for row in rows]
    recorded = record_layer_inputs(model, weights, example_input, origins=chains)
    by_name = {row.weight.name: row for row in rows}
    found: dict[str, LayerLogNorm] = {}
    for name, entered in recorded.items():
        found[name] = _beside_prediction(by_name[name], entered, by_name, recorded, found)
    alive = any(one.measured > -math.inf for one in found.values())
    return tuple(found.values()) if alive else ()


def traced_log_norms(
    norms: TracedNorms | None, rows: Sequence[PlannedWeight]
) -> tuple[LayerLogNorm, ...]:
    """What `measure_log_norms` would find, where the trace before the draw has seen it all.

    That is so if nothing runs behind the one layer that is drawn: no law is carried on either.

    Args:
        norms: What entered the layers in the trace.
        rows: The rows of the plan.

    Returns:
        One entry per layer, in the order of execution; none if the model has to be run again.
    """
    drawn = {row.weight.name for row in rows if row.treatment != "keep"}
    fan_in = {row.weight.name: row.weight.fan_in for row in rows}
    found = norms.unchanged_by(drawn, fan_in) if norms is not None else None
    if found is None or not any(norm > -math.inf for norm in found.values()):
        return ()
    return tuple([LayerLogNorm(*one, math.nan, math.nan, None) for one in found.items()])


def _beside_prediction(
    row: PlannedWeight,
    entered: LayerInput,
    rows: dict[str, PlannedWeight],
    recorded: dict[str, LayerInput],
    found: dict[str, LayerLogNorm],
) -> LayerLogNorm:
    before = rows.get(entered.origin or "")
    if before is None or not _follows(row, before) or before.weight.name not in found:
        return LayerLogNorm(row.weight.name, entered.log_norm, math.nan, math.nan, None)
    earlier = found[before.weight.name]
    anchored = math.isnan(earlier.predicted)
    mean = earlier.measured if anchored else earlier.predicted
    variance = 0.0 if anchored else earlier.sd**2
    came_from = recorded[before.weight.name]
    units = came_from.units
    moments = squared_norm_moments(row.law, units)
    chi = row.law.scale_exponent
    log_scale = math.log(before.std) + mean + 0.5 * math.log(came_from.covered)
    log_q = math.log(moments.mean) + moments.mean_log
    predicted = chi * log_scale + 0.5 * (log_q + math.log(row.weight.fan_in / units))
    sd = math.sqrt(chi**2 * variance + 0.25 * moments.variance_log)
    name = before.weight.name
    return LayerLogNorm(row.weight.name, entered.log_norm, predicted, sd, name)


def _follows(row: PlannedWeight, before: PlannedWeight) -> bool:
    """Whether nothing but a known law stands between two drawn layers."""
    return _may_lead(before) and _may_follow(row) and not _averaged_unlike(row, before)


def _may_lead(before: PlannedWeight) -> bool:
    return (
        before.treatment == "normal"
        and before.weight.kind in _DENSE_OR_CONV
        and "scale-free" not in before.activation.marks  # standardized: the draw's scale is not its
        and not before.row_stds
    )


def _may_follow(row: PlannedWeight) -> bool:
    return (
        row.activation.source != "assumed"
        and not row.activation.first_layer
        and not row.activation.note
        and not _UNCERTAIN.intersection(row.activation.marks)
    )


def _averaged_unlike(row: PlannedWeight, before: PlannedWeight) -> bool:
    """Whether one log-norm is the mean of logs over positions, the other the log of a mean."""
    kinds = before.weight.kind, row.weight.kind
    # A linear layer of as many inputs as the convolution has channels acts on every position.
    per_position = kinds == ("conv", "linear") and row.weight.fan_in == before.weight.shape[0]
    return per_position or kinds == ("linear", "conv")


def longest_chain(log_norms: Sequence[LayerLogNorm]) -> tuple[LayerLogNorm, ...]:
    """The longest run of layers along which the prediction was carried, its anchor first."""
    by_name = {one.name: one for one in log_norms}
    best: list[LayerLogNorm] = []
    for last in log_norms:
        chain = [last]
        while (previous := chain[-1].follows) is not None:
            chain.append(by_name[previous])
        if len(chain) > len(best):
            best = chain
    return tuple(reversed(best))


def fan_increments(
    log_norms: Sequence[LayerLogNorm],
) -> tuple[list[float], list[float], list[float]]:
    """Drift and variance per layer of the longest chain, and its measured path from the anchor."""
    chain = longest_chain(log_norms)
    means = [one.measured if one.follows is None else one.predicted for one in chain]
    variances = [0.0 if one.follows is None else one.sd**2 for one in chain]
    drift = [after - before for before, after in zip(means, means[1:], strict=False)]
    variance = [after - before for before, after in zip(variances, variances[1:], strict=False)]
    return drift, variance, [one.measured - chain[0].measured for one in chain[1:]]


def signal_cells(one: LayerLogNorm) -> tuple[str, str]:
    """Measured and predicted log-norm as text, "!" where the measurement leaves the band."""
    flag = " !" if one.inside is False else ""
    band = "-" if one.inside is None else f"{one.predicted:+.2f} ± {2 * one.sd:.2f}"
    return f"{one.measured:+.2f}{flag}", band


def measurement_lines(log_norms: Sequence[LayerLogNorm]) -> tuple[str, ...]:
    """Say in one line how the measurement compares."""
    judged = [one for one in log_norms if one.inside is not None]
    if not judged:
        return ()
    outside = [one.name for one in judged if not one.inside]
    if not outside:
        return (f"Measured log-norm: within 2 sd of its prediction in all {len(judged)} layers.",)
    shown = ", ".join(outside[:4]) + (", ..." if len(outside) > 4 else "")
    return (
        f"Measured log-norm: outside 2 sd of its prediction (!) in {len(outside)} of"
        f" {len(judged)} layers: {shown}.",
    )
