"""What `FractionalMomentInit` will draw: one row per weight, decided before anything is written."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Generator, nn

from lightning_init.initialization import fill
from lightning_init.initialization.author import beside_what_was_there
from lightning_init.initialization.measurement import (
    NOTHING_MEASURED,
    LayerLogNorm,
    measure_log_norms,
    measurement_lines,
    signal_cells,
)
from lightning_init.initialization.planned_weight import PlannedWeight, law_words, rule_words
from lightning_init.initialization.prediction import change_lines, closing_lines, plan_warnings
from lightning_init.initialization.rollback import Rollback
from lightning_init.initialization.settings import FractionalMomentSettings
from lightning_init.inspection.activation_tracing import ActivationInFront
from lightning_init.inspection.reasons import ALL_ZERO
from lightning_init.inspection.weights import LeftOut, Weight, WeightInventory
from lightning_init.tables import number, shape_text, shorten_all, text_table
from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.fractional_moments import (
    MATERIAL_INFLATION,
    dead_inflation,
    moment_preserving_std,
)

_LINE = 120  # characters that a table keeps to, by the first of these layouts that does:
# the widths of names and of remarks (longer ones go below), and whether log-norms are columns.
_LAYOUTS = ((48, 24, True), (48, 0, True), (48, 24, False), (48, 0, False), (32, 0, False))
_WIDEST = 48
_Rule = tuple[str, float | tuple[float, ...] | None, float]
_Solution = tuple[float, float, str, str]


@dataclass(frozen=True)
class InitPlan:
    """One row per weight, and why the others are left out; `str(plan)` is the table.

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
                fill.check_scale("std", std, row.weight)
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

    def __str__(self) -> str:
        return self.table()

    def table(self, max_rows: int = 60) -> str:
        """Render as plain text; weights beyond ``max_rows`` are counted.

        Remarks too long for their column stand below the table, and so does what is left out,
        grouped by reason.
        """
        hidden = len(self.rows) - len(self.rows[:max_rows])
        more = (f"... and {hidden} more weights",) if hidden else ()
        tables = [self._tables(self.rows[:max_rows], more, *layout) for layout in _LAYOUTS]
        fitting = (text for text in tables if max(map(len, text.splitlines())) <= _LINE)
        return "\n".join(
            [
                next(fitting, tables[-1]),
                *_left_out_lines(self.left_out),
                *self.notes,
                *measurement_lines(self.log_norms),
            ]
        )

    def _tables(
        self,
        rows: tuple[PlannedWeight, ...],
        more: tuple[str, ...],
        name_width: int,
        note_width: int,
        inline: bool,
    ) -> str:
        """The table; the measured log-norms are columns of it, or a table of their own below it."""
        footnotes: dict[str, int] = {}
        names = shorten_all([row.weight.name for row in rows], name_width)
        signals = {one.name: signal_cells(one) for one in self.log_norms if one.name in names}
        predicted = any(one.inside is not None for one in self.log_norms)
        headers = ("log-norm", "predicted")[: 1 + predicted if signals else 0]
        columns = len(headers) if inline else 0
        cells = [
            (
                names[row.weight.name],
                *_law_cells(row),
                *signals.get(row.weight.name, ("-", "-"))[:columns],
                _note(row, footnotes, note_width),
            )
            for row in rows
        ]
        law = f"law at order {self.settings.order:g}"
        first = (
            "layer",
            "shape",
            law,
            "fan_in",
            "was",
            "std",
            "/ Kaiming",
            *headers[:columns],
            "note",
        )
        parts = [text_table(first, cells, _WIDEST), *more]
        parts += [f"[{index}] {remark}" for remark, index in footnotes.items()]
        if headers and not inline:
            of_signal = [(names[name], *pair[: len(headers)]) for name, pair in signals.items()]
            parts += ["", text_table(("layer", *headers), of_signal, _WIDEST)]
        return "\n".join(parts)


def _law_cells(row: PlannedWeight) -> tuple[str, ...]:
    weight, drawn = row.weight, row.treatment == "normal"
    law = f"{law_words(row.activation)} ({row.activation.source})" if drawn else row.formula
    std = number(row.std, 4)
    shape = shape_text(weight.shape)
    return (shape, law, str(weight.fan_in), number(row.before), std, number(row.ratio, 5))


def _note(row: PlannedWeight, footnotes: dict[str, int], width: int) -> str:
    assumed = row.activation.note
    if row.activation.nonlinearity != "linear":  # a note of one use of several
        assumed = assumed.replace("linear rule used", f"rule of {row.activation.nonlinearity} used")
    remarks = (", ".join(row.activation.marks), row.note, assumed)
    return " ".join(
        remark if len(remark) <= width else _footnote(remark, footnotes)
        for remark in remarks
        if remark
    )


def _footnote(remark: str, footnotes: dict[str, int]) -> str:
    return f"[{footnotes.setdefault(remark, len(footnotes) + 1)}]"


def _left_out_lines(left_out: tuple[LeftOut, ...]) -> list[str]:
    names: dict[str, list[str]] = {}
    for skipped in left_out:
        reason = "bias of a weight that is left out" if _follows_weight(skipped) else skipped.reason
        names.setdefault(reason, []).append(skipped.name)
    return [f"Left out: {_listed(found)}: {reason}." for reason, found in names.items()]


def _follows_weight(skipped: LeftOut) -> bool:
    return skipped.reason.startswith("bias of ")


def _listed(names: list[str]) -> str:
    shown = ", ".join(shorten_all(names[:2], 28).values())
    return shown + (f" and {len(names) - 2} more" if len(names) > 2 else "")


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
    solve = functools.cache(functools.partial(_solve, settings))
    rows = tuple(
        [
            _plan_weight(
                weight, _activation(index, inventory, activations, settings), settings, solve
            )
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
    weight: Weight,
    activation: ActivationInFront,
    settings: FractionalMomentSettings,
    solve: Callable[..., _Solution],
) -> PlannedWeight:
    if weight.kind == "recurrent_hidden" and settings.recurrent != "same":
        words = {"orthogonal": "orthogonal (recurrent)", "keep": "kept (recurrent)"}
        return PlannedWeight(
            weight, activation, settings.recurrent, math.nan, math.nan, words[settings.recurrent]
        )
    rule = activation.nonlinearity, activation.param, activation.dropout
    # sigma^2 sums over every tap, of which only the channels may be independent.
    taps = weight.taps if settings.counts_channels(weight) else 1
    rows = weight.row_fans if settings.mode == "fan_in" and taps == 1 else ()
    try:
        std, kaiming, formula, note = solve(rule, settings.width_of(weight), taps)
        row_stds = tuple([weight.gain * solve(rule, fan, 1)[0] if fan else std for fan in rows])
    except ValueError as error:
        reason = str(error).replace(" or conditional=True", "")  # of the function for one weight
        raise ValueError(f"Layer {weight.name!r}: {reason}") from None
    if rows and not note:
        note = f"masked: std by row, {min(row_stds):.3g} to {max(row_stds):.3g}"
    if weight.gain != 1.0 and not note:
        note = f"queries of unscaled attention: std x{weight.gain:.3g}"
    scales = weight.gain * std, weight.gain * kaiming
    return PlannedWeight(weight, activation, "normal", *scales, formula, note, row_stds=row_stds)


def _solve(settings: FractionalMomentSettings, rule: _Rule, width: int, taps: int) -> _Solution:
    """Standard deviation, that of order 2, the rule in words and a remark, by law and width."""
    law = activation_law(*rule)
    std = moment_preserving_std(law, width, settings.order)
    kaiming = moment_preserving_std(law, width, 2.0)
    dead = dead_inflation(law, width, settings.order)
    note = f"dead layers: std x{math.exp(dead):.3g}" if dead > MATERIAL_INFLATION else ""
    formula = f"order {settings.order:g} of {rule_words(*rule)}"
    return std / math.sqrt(taps), kaiming / math.sqrt(taps), formula, note
