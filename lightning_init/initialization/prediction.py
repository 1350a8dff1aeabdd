"""What a plan will do to the signal, said before anyone trains."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_init.initialization.planned_weight import PlannedWeight
from lightning_init.initialization.settings import FractionalMomentSettings
from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.fractional_moments import dead_layer_warning
from lightning_init.theory.log_norm import LogNormLaw, log_norm_law
from lightning_init.theory.scale_stability import scale_instability_warning

# Behind these the scale is a fresh one: it was fixed, or something else was added to it.
FRESH_SCALE = frozenset({"normalized", "residual", "attention", "concatenated", "summed"})

MATERIAL_SHIFT = 0.05  # of the log-norm, and of the chance below
SMALL = 0.1
_LARGEST = 1e6  # of mean and variance, where a law with chi > 1 runs away


@dataclass(frozen=True)
class Prediction:
    """The log-norm behind the longest run of weights, under the plan and under Kaiming.

    Args:
        depth: Weights in the run.
        law: Law of log(||y|| / ||x||) under the plan, x a standardised input.
        kaiming: The same with the scales of order 2.
    """

    depth: int
    law: LogNormLaw
    kaiming: LogNormLaw

    @property
    def shift(self) -> float:
        """Mean log-norm of the output relative to Kaiming, in nats."""
        return self.law.drift - self.kaiming.drift

    @property
    def material(self) -> bool:
        """Whether the shift, or the change of the chance of a small output, exceeds 0.05."""
        chances = self.law.probability_below(SMALL) - self.kaiming.probability_below(SMALL)
        return max(abs(self.shift), abs(chances)) >= MATERIAL_SHIFT


def longest_run(rows: Sequence[PlannedWeight]) -> tuple[PlannedWeight, ...]:
    """The longest stretch of drawn weights with nothing in between that fixes or adds scale.

    Rows are taken in the order of the plan, so parallel branches count as if they stood in series.
    A weight that feeds a norm ends a run and is not part of it: its scale goes nowhere. Recurrent
    and masked weights end it too, and so do the queries of an unscaled attention.
    """
    runs = list(runs_of(rows))
    return next(run for run in runs if len(run) == max(map(len, runs)))


def runs_of(rows: Sequence[PlannedWeight]) -> tuple[tuple[PlannedWeight, ...], ...]:
    """All such stretches, at least one; those between two ends may be empty."""
    runs: list[list[PlannedWeight]] = [[]]
    for row in rows:
        marks = set(row.activation.marks)
        drawn = row.treatment == "normal" and not row.weight.kind.startswith("recurrent")
        if not drawn or row.activation.first_layer or marks & FRESH_SCALE:
            runs.append([])
        if drawn and "scale-free" not in marks and row.weight.gain == 1.0 and not row.row_stds:
            if not (runs[-1] and _beside(row, runs[-1][-1])):
                runs[-1].append(row)
        elif runs[-1]:
            runs.append([])
    return tuple(map(tuple, runs))


def _beside(row: PlannedWeight, other: PlannedWeight) -> bool:
    """Whether two weights are projections of one input: queries, keys and values."""
    same = row.weight.module_name == other.weight.module_name
    return same and row.weight.kind == other.weight.kind == "attention"


def predict(rows: Sequence[PlannedWeight], order: float) -> Prediction:
    """Follow the log-norm through the longest run of a plan.

    Each weight multiplies the norm by sigma sqrt(Q), Q = ||phi(z)||^2 over its inputs; the factors
    are independent, so their means and variances add (Gurbuzbalaban & Hu 2021, arXiv 2005.11878).
    An activation of scale exponent chi passes a deviation of the log-norm on chi-fold, 1 if it is
    homogeneous. A convolution counts its channels as the independent inputs, as deep stacks of them
    tend to.
    """
    run = longest_run(rows)
    step = functools.cache(functools.partial(_step, order))
    planned, kaiming = (
        _walk([step(*_key(row), std) for row, std in zip(run, stds, strict=True)])
        for stds in ([row.std for row in run], [row.kaiming_std for row in run])
    )
    return Prediction(len(run), planned, kaiming)


def _key(row: PlannedWeight) -> tuple[Any, int, int]:
    activation, weight = row.activation, row.weight
    rule = (activation.nonlinearity, activation.param, activation.dropout)
    return rule, max(1, weight.fan_in // weight.taps), weight.taps


def _step(
    order: float, rule: Any, channels: int, taps: int, std: float
) -> tuple[float, LogNormLaw]:
    law = activation_law(*rule)
    return law.scale_exponent, log_norm_law(law, channels, order, std=std * math.sqrt(taps))


def _walk(steps: Sequence[tuple[float, LogNormLaw]]) -> LogNormLaw:
    mean, variance, alive = 0.0, 0.0, 1.0
    for chi, step in steps:
        mean = max(-_LARGEST, min(_LARGEST, chi * mean + step.drift))
        variance = min(_LARGEST, chi**2 * variance + step.variance)
        alive *= 1.0 - step.dead_probability
    return LogNormLaw(mean, variance, 1.0 - alive)


def closing_lines(
    rows: Sequence[PlannedWeight], settings: FractionalMomentSettings
) -> tuple[str, ...]:
    """Say in words what `predict` finds; nothing when nothing is drawn."""
    if not any(row.treatment == "normal" for row in rows):
        return ()
    found = predict(rows, settings.order)
    if found.depth == 0:
        return ("Every drawn weight feeds a norm or is recurrent: no scale reaches the output.",)
    chances = [_percent(law.probability_below(SMALL)) for law in (found.law, found.kaiming)]
    verdict = "" if found.material else ": no material difference"
    plural = "s" if found.depth > 1 else ""
    lines = [
        f"Order {settings.order:g} against Kaiming (order 2): log-norm {found.shift:+.3f}"
        f" (x{math.exp(min(found.shift, 300.0)):.3g}) through {found.depth} weight{plural}"
        f" in a row{verdict}.",
    ]
    if any(row.activation.source == "assumed" for row in longest_run(rows)):
        lines.append("No chance of a small output is given: a law on the way is assumed.")
    else:
        lines.append(
            "Chance that the output norm falls below a tenth:"
            f" {chances[0]} (Kaiming: {chances[1]})."
        )
    if settings.bias == "keep" and any(row.weight.biases for row in longest_run(rows)):
        lines.append("The biases are kept, and left out of what is predicted.")
    if found.depth < sum(row.treatment == "normal" for row in rows):
        lines.append(
            "A row ends at a norm, a sum, a concatenation, attention or a recurrence."
            " Parallel branches are counted one behind the other."
        )
    return tuple(lines)


def plan_warnings(
    rows: Sequence[PlannedWeight], settings: FractionalMomentSettings
) -> tuple[str, ...]:
    """What is worth a warning: activations with chi > 1, and scales inflated by dead layers."""
    drawn = [row for row in rows if row.treatment == "normal"]
    # A deviation that passes once is not amplified with depth.
    compounding = [row for run in runs_of(rows) for row in run if _repeats(row, run)]
    narrowest: dict[str, PlannedWeight] = {}
    for row in sorted(compounding, key=lambda row: row.weight.fan_in):
        narrowest.setdefault(row.activation.nonlinearity, row)
    unstable = [
        sentence
        for row in narrowest.values()
        if (sentence := scale_instability_warning(row.law, row.weight.fan_in, settings.order))
    ]
    return (*unstable, *_dead_layers(drawn, settings))


def _repeats(row: PlannedWeight, run: Sequence[PlannedWeight]) -> bool:
    name = row.activation.nonlinearity
    return sum(other.activation.nonlinearity == name for other in run) > 1


def _dead_layers(
    drawn: Sequence[PlannedWeight], settings: FractionalMomentSettings
) -> tuple[str, ...]:
    found = [row for row in drawn if row.note.startswith("dead layers")]
    if not found:
        return ()
    first = found[0]
    sentence = dead_layer_warning(
        first.law, settings.width_of(first.weight), settings.order, use="a wider layer, order 0.0"
    )
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return (f"Layer {first.weight.name!r}{more}: {sentence}",)


def change_lines(rows: Sequence[PlannedWeight], left_out: int = 0) -> tuple[str, ...]:
    """Say what the plan changes against what was there.

    Args:
        rows: The rows of the plan.
        left_out: Weights of zeros, which take no part because zero is meant.
    """
    redrawn = [row for row in rows if row.treatment != "keep"]
    scales = sorted(row.change for row in redrawn if not math.isnan(row.change))
    said = f"{len(redrawn)} of {len(rows)} weights redrawn"
    if scales:
        said += (
            f", standard deviation x{scales[0]:.3g} to x{scales[-1]:.3g}"
            f" (median x{scales[len(scales) // 2]:.3g})"
        )
    kept = Counter(row.author.partition(":")[0] for row in rows if row.author)
    kept.update({"zero": left_out} if left_out else {})
    reasons = ", ".join(f"{count} {reason}" for reason, count in kept.most_common())
    said += f"; {kept.total()} kept ({reasons})" if kept else ""
    zeroed = sum(len(row.zeroes) for row in rows)
    biases = f"; {zeroed} biases set to zero" if zeroed else "; no bias changed"
    return (f"Against what was there: {said}{biases}.",)


def _percent(probability: float) -> str:
    """Round a chance to what the normal approximation can hold.

    >>> _percent(0.1863), _percent(0.0009), _percent(1e-9)
    ('about 19 %', 'about 0.09 %', '< 0.01 %')
    """
    if probability < 1e-4:
        return "< 0.01 %"
    return f"about {100 * probability:.2g} %" if probability < 0.995 else "> 99 %"
