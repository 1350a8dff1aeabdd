"""From a bare model to its plan: what takes part, what stands in front of it, what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from lightning_init.initialization.plan import InitPlan, plan_fractional_moments
from lightning_init.initialization.settings import FractionalMomentSettings
from lightning_init.inspection.activations import Reading, named_activations, read_model
from lightning_init.inspection.lazy import copy_of_lazy, has_lazy_parameters, materialize_lazy_
from lightning_init.inspection.reasons import ON_META_DEVICE
from lightning_init.inspection.weights import WeightInventory


def plan_model(
    model: nn.Module,
    settings: FractionalMomentSettings,
    example_input: Any = None,
    *,
    on_meta: bool = False,
) -> tuple[InitPlan, Reading]:
    """Plan a model without changing it; also what was read of it.

    Args:
        model: The model; a lazy one is planned on a copy that the example has given its shapes.
        settings: What was asked for.
        example_input: What the model is called with, to trace it; None reads the order of modules.
        on_meta: Whether weights on the meta device take part: for a plan that draws nothing.

    Raises:
        ValueError: If nothing can be drawn, a law is not defined, the forward pass fails, or
            "strict" cannot tell an activation.
    """
    if example_input is not None and has_lazy_parameters(model):
        copy = copy_of_lazy(model)
        materialize_lazy_(copy, example_input)
        plan, reading = plan_model(copy, settings, example_input, on_meta=on_meta)
        return plan, reading._replace(norms=None)  # the model itself will have other values
    reading = read_model(model, example_input, settings.include, settings.exclude, on_meta=on_meta)
    _refuse_empty(reading.inventory)
    if reading.unknown and settings.nonlinearity == "strict":
        raise ValueError(
            f"`nonlinearity` 'strict' {undecided_clause(reading.unknown)}; name it"
            " (nonlinearity='relu'), or pass `example_input` so that one forward pass can be"
            " traced."
        )
    return plan_of_reading(reading, settings, model), reading


def plan_of_reading(
    reading: Reading, settings: FractionalMomentSettings, model: nn.Module, why_unknown: str = ""
) -> InitPlan:
    """Plan by what is known of a model.

    Args:
        reading: Its weights, and what stands in front of them.
        settings: What was asked for; a nonlinearity that they name replaces what was read.
        model: The model.
        why_unknown: A clause for the warning of layers where the linear rule is assumed.

    Raises:
        ValueError: If a law is not defined.
    """
    inventory = reading.inventory
    if settings.reads_model:
        plan = plan_fractional_moments(inventory, reading.assumed().activations, settings, model)
        warnings = assumption_warning(reading.unknown, why_unknown)
        return replace(plan, warnings=(*warnings, *plan.warnings))
    named = settings.nonlinearity, settings.param, settings.dropout
    activations = named_activations(inventory.weights, reading.activations, *named)
    return plan_fractional_moments(inventory, activations, settings, model)


def assumption_warning(unknown: Sequence[str], reason: str = "") -> tuple[str, ...]:
    """One sentence if the linear rule is assumed for some layers, none otherwise.

    >>> assumption_warning(["head"])[0].partition(";")[0]
    "cannot tell which activation stands in front of 'head', so the linear rule is assumed there"
    """
    if not unknown:
        return ()
    return (
        f"{undecided_clause(unknown)}{reason}, so the linear rule is assumed there; name the"
        " activation (nonlinearity='relu'), or give an example input so that one forward pass can"
        " be traced.",
    )


def undecided_clause(names: Sequence[str]) -> str:
    """Say of which layers the activation cannot be told.

    >>> undecided_clause(["head"])
    "cannot tell which activation stands in front of 'head'"
    """
    shown = ", ".join(repr(name) for name in names[:4])
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"cannot tell which activation stands in front of {shown}{more}"


def _refuse_empty(inventory: WeightInventory) -> None:
    for skipped in inventory.left_out:
        if skipped.reason == ON_META_DEVICE:
            raise ValueError(
                f"Layer {skipped.name!r} is on the meta device and has no values to draw;"
                " materialize the model (`model.to_empty(...)`) first."
            )
    if not inventory.weights:
        reasons = {s.reason for s in inventory.left_out if not s.reason.startswith("bias of")}
        found = "; ".join(sorted(reasons)[:4]) or "it has no parameters"
        raise ValueError(
            f"`module` has no weight that takes part ({found}); check `include`, `exclude` and"
            " `requires_grad`."
        )
