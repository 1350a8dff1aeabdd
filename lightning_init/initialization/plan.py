"""What `FractionalMomentInit` will draw: one row per weight, decided before anything is written."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Generator, nn

from lightning_init.initialization import fill
from lightning_init.initialization.author import beside_what_was_there
from lightning_init.initialization.measurement import (
    NOTHING_MEASURED,
    LayerLogNorm,
    measure_log_norms,
    measurement_lines,
)
from lightning_init.initialization.plan_page import health_problems, plan_page
from lightning_init.initialization.planned_weight import PlannedWeight, rule_words
from lightning_init.initialization.prediction import change_lines, closing_lines, plan_warnings
from lightning_init.initialization.rollback import Rollback
from lightning_init.initialization.settings import FractionalMomentSettings
from lightning_init.inspection.activation_tracing import ActivationInFront
from lightning_init.inspection.reasons import ALL_ZERO
from lightning_init.inspection.weights import LeftOut, Weight, WeightInventory
from lightning_init.pages import MOST_ROWS, Page, Readable
from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.fractional_moments import (
    MATERIAL_INFLATION,
    dead_inflation,
    moment_preserving_std,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Rule = tuple[str, float | tuple[float, ...] | None, float]
_Solution = tuple[float, float, str, str]


@dataclass(frozen=True, repr=False)
class InitPlan(Readable):
    """One row per weight, and why the others are left out.

    `str(plan)` is what it means and what changes most, `plan.full()` all of it.

    Args:
        rows: What each weight gets, in the order of the model's modules.
        left_out: Every other parameter, with its reason.
        settings: What was asked for.
        remarks: Lines to add to what the plan predicts.
        warnings: What is worth a warning, one sentence each.
        log_norms: What a batch measured, one entry per layer that it reached; empty without one.
        losses: Loss of the first batch before and after the draw; None where it is not known.
    """

    rows: tuple[PlannedWeight, ...]
    left_out: tuple[LeftOut, ...]
    settings: FractionalMomentSettings
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    log_norms: tuple[LayerLogNorm, ...] = ()
    losses: tuple[float, float] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Closing lines: what the plan predicts, the remarks, and what changes in the model."""
        zeros = sum(one.reason == ALL_ZERO for one in self.left_out)
        changes = change_lines(self.rows, zeros)
        loss = (
            (f"Loss of the first batch: {self.losses[0]:.4g} before, {self.losses[1]:.4g} after.",)
            if self.losses
            else ()
        )
        return (*closing_lines(self.rows, self.settings), *self.remarks, *changes, *loss)

    def with_losses(self, before: float, after: float | None) -> InitPlan:
        """The same plan with the first batch's loss, and a warning if it is more than doubled.

        Args:
            before: With the weights that were there.
            after: With those that were drawn; None if it could not be worked out.
        """
        if after is None:
            return self
        worse = not math.isfinite(after) or after > 2.0 * before > 0.0
        sentence = (
            f"the loss of the first batch went from {before:.4g} to {after:.4g}; leave out the"
            " layers that scale the output (exclude=[...]), or keep what was there."
        )
        warned = (*self.warnings, sentence) if worse and math.isfinite(before) else self.warnings
        return replace(self, losses=(before, after), warnings=warned)

    def apply_(self, model: nn.Module, seed: int) -> None:
        """Draw every planned weight in place; when it fails, put back what was there.

        Args:
            model: The model that the plan was made for.
            seed: Each layer's stream depends on this and on the layer's name alone.
        """
        drawn, generator = [row for row in self.rows if row.treatment != "keep"], Generator()
        for row in drawn:  # before the first is written
            for std in (row.std, *row.row_stds) if row.treatment == "normal" else ():
                fill.check_scale(std, row.weight)
        with Rollback(model, [row.weight for row in drawn]) as before:
            for row in drawn:
                before.keep(row.weight)
                if row.treatment == "normal":
                    fill.fill_normal_(model, row.weight, row.row_stds or row.std, seed, generator)
                else:
                    fill.fill_orthogonal_(model, row.weight, seed)
                fill.zero_biases_(model, row.weight._replace(biases=row.zeroes))

    def measured_on(self, model: nn.Module, example_input: Any) -> InitPlan:
        """The same plan with the log-norms that a batch shows in the drawn model.

        Args:
            model: The model, after `apply_`; it is left as it was.
            example_input: A batch, as `measure_log_norms` takes it.

        Raises:
            ValueError: If the forward pass fails.
        """
        log_norms = measure_log_norms(model, self.rows, example_input)
        if log_norms:
            return replace(self, log_norms=log_norms)
        return replace(self, remarks=(*self.remarks, NOTHING_MEASURED))

    def page(self, max_rows: int | None = MOST_ROWS) -> Page:
        """See `Readable.page`."""
        warned = [f"warning: {sentence}" for sentence in self.warnings] if max_rows is None else []
        closing = (*self.notes, *measurement_lines(self.log_norms), *warned)
        return plan_page(self.rows, self.left_out, self.settings, closing, self.log_norms, max_rows)

    def records(self) -> list[dict[str, Any]]:
        """Scales, law and measurement of every weight."""
        measured = {one.name: one for one in self.log_norms}
        return [
            {
                "name": row.weight.name,
                "shape": row.weight.shape,
                "fan_in": row.weight.fan_in,
                "treatment": row.treatment,
                "rule": row.formula,
                "source": row.activation.source,
                "before": row.before,
                "std": row.std,
                "change": row.change,
                "kaiming_std": row.kaiming_std,
                "log_norm": getattr(measured.get(row.weight.name), "measured", math.nan),
                "predicted_log_norm": getattr(measured.get(row.weight.name), "predicted", math.nan),
            }
            for row in self.rows
        ]

    def plot(self) -> Figure:
        """Draw the standard deviation of every weight before and after the draw.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from lightning_init.figure_style import scale_figure

        kept = [row.treatment == "keep" for row in self.rows]
        return scale_figure(
            [row.weight.name for row in self.rows],
            [row.before for row in self.rows],
            [row.before if same else row.std for row, same in zip(self.rows, kept, strict=True)],
            f"First weights: {len(kept) - sum(kept)} of {len(kept)} by the closed form",
            ["kept" if same else "redrawn" for same in kept],
        )

    def assert_healthy(self) -> None:
        """Raise if the plan foresees, or a batch showed, a bad start; for continuous integration.

        A plan is healthy if it has no `warnings`, if the chance that the norm of the output falls
        below a tenth of the input's is under one half, and if every measured log-norm is finite
        and within three standard deviations of its prediction.

        Raises:
            AssertionError: One line that names the layers and the next step.
        """
        for problem in (*self.warnings, *health_problems(self.rows, self.settings, self.log_norms)):
            raise AssertionError(f"the plan is not healthy: {problem}")


def plan_fractional_moments(
    inventory: WeightInventory,
    activations: Mapping[str, ActivationInFront],
    settings: FractionalMomentSettings,
    model: nn.Module,
) -> InitPlan:
    """Decide the standard deviation of every weight (Gurbuzbalaban & Hu 2021, arXiv 2005.11878).

    A weight of fan-in m behind the activation phi gets sigma with sigma^s E||phi(z)||^s = 1,
    z ~ N(0, I_m), which preserves E|y|^s from layer to layer at every finite width.

    Args:
        inventory: The weights that take part.
        activations: What stands in front of each of them, by layer name.
        settings: Order and conventions.
        model: The model before the draw: what stands in it is part of the plan.

    Raises:
        ValueError: If a law is not defined.
    """
    rows = tuple(
        [
            _plan_weight(weight, _activation(index, inventory, activations, settings), settings)
            for index, weight in enumerate(inventory.weights)
        ]
    )
    rows = beside_what_was_there(rows, model, settings)
    warnings = plan_warnings(rows, settings)
    return InitPlan(rows, inventory.left_out, settings, warnings=warnings)


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
    order, rule = settings.order, (activation.nonlinearity, activation.param, activation.dropout)
    # sigma^2 sums over every tap, of which only the channels may be independent.
    taps = weight.taps if settings.counts_channels(weight) else 1
    rows = weight.row_fans if settings.mode == "fan_in" and taps == 1 else ()
    try:
        std, kaiming, formula, note = _solve(order, rule, settings.width_of(weight), taps)
        row_stds = tuple(
            [weight.gain * _solve(order, rule, fan, 1)[0] if fan else std for fan in rows]
        )
    except ValueError as error:
        reason = str(error).replace(" or conditional=True", "")  # of the function for one weight
        raise ValueError(f"Layer {weight.name!r}: {reason}") from None
    if rows and not note:
        note = f"masked: std by row, {min(row_stds):.3g} to {max(row_stds):.3g}"
    if weight.gain != 1.0 and not note:
        note = f"queries of unscaled attention: std x{weight.gain:.3g}"
    scales = weight.gain * std, weight.gain * kaiming
    return PlannedWeight(weight, activation, "normal", *scales, formula, note, row_stds=row_stds)


@functools.lru_cache(maxsize=4096)
def _solve(order: float, rule: _Rule, width: int, taps: int) -> _Solution:
    """Standard deviation, that of order 2, the rule in words and a remark, by law and width."""
    law = activation_law(*rule)
    std = moment_preserving_std(law, width, order)
    kaiming = moment_preserving_std(law, width, 2.0)
    dead = dead_inflation(law, width, order)
    note = f"dead layers: std x{math.exp(dead):.3g}" if dead > MATERIAL_INFLATION else ""
    formula = f"order {order:g} of {rule_words(*rule)}"
    return std / math.sqrt(taps), kaiming / math.sqrt(taps), formula, note
