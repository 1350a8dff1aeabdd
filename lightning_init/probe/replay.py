"""Did everything come back? The first steps of a probe, run once more, have to be the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.limits import Replay
from lightning_init.probe.observer import Observer, TracedBatch

# Largest relative difference of two losses that kernels which add in another order may cause.
_ROUNDING, _HALF_ROUNDING = 1e-4, 1e-2

_OTHER_DATA = "held other data"
_OF_DATA = (
    "keep such state where reading data leaves it alone, or pass `isolate_dataset=True` or"
    " `probe_dataloaders=`"
)
_OF_TRAINING = (
    "keep such state in the module, where a restart finds it, or start from an earlier run with"
    " `recipe=`, which needs no probe"
)


def compare_replay(
    trainer: Trainer,
    probe: Observer,
    again: Observer,
    leaks: Sequence[str],
    suspects: Sequence[str],
) -> Replay:
    """Compare a probe with its replay; every rank returns the same.

    Args:
        trainer: The Trainer, put back.
        probe: What the probe saw.
        again: What the replay saw.
        leaks: What is known not to be what it was.
        suspects: Objects behind the data that changed and could not be put back.
    """
    half = "16" in str(trainer.precision)
    found, rounding = _first_difference(probe, again, _HALF_ROUNDING if half else _ROUNDING)
    if leaks:
        found = f"{leaks[0]} changed"
    elif found and suspects:
        found = f"{found} ({suspects[0]} changed)"
    found, rounding = _agreed(trainer, found, rounding)
    steps = f"first {again.steps} steps" if again.steps > 1 else "first step"
    if found:
        return Replay(
            f"restart NOT verified: in a replay of the {steps}, {found}",
            f"OptimalVarianceInit: the restart is not exact: in a replay of the probe's {steps},"
            f" {found}. The run may differ from one without a probe;"
            f" {_OF_DATA if _OTHER_DATA in found else _OF_TRAINING}.",
        )
    if rounding:
        return Replay(
            f"restart verified up to rounding: batches and learning rates of the {steps} identical,"
            f" losses within {rounding:.0e} (kernels that are not deterministic)"
        )
    return Replay(f"restart verified: {steps} identical")


def _first_difference(probe: Observer, again: Observer, tolerance: float) -> tuple[str, float]:
    """What differed first, or nothing; and the largest difference that rounding explains."""
    largest = 0.0
    for index, (first, second) in enumerate(zip(probe.trace, again.trace, strict=False)):
        where = f"batch {index + 1}"
        before, after = probe.batches[index], again.batches[index]
        if before is not None and after is not None and not before.equals(after):
            return f"{where} {_OTHER_DATA}", 0.0
        if first.rates != second.rates:
            return f"the learning rate after {where} differed", 0.0
        difference = _relative_difference(first, second)
        if difference > tolerance:
            what = "weights" if first.loss is None else "loss"
            return f"the {what} of {where} differed by {difference:.1e}", 0.0
        largest = max(largest, difference)
    if again.steps < min(probe.steps, again.max_steps):
        return f"only {again.steps} steps could be made", 0.0
    return "", largest


def _relative_difference(first: TracedBatch, second: TracedBatch) -> float:
    if first.loss is None or second.loss is None:
        pairs = zip(first.weights, second.weights, strict=True)
        return max((_of_tensors(a, b) for a, b in pairs), default=0.0)
    if first.loss == second.loss or (math.isnan(first.loss) and math.isnan(second.loss)):
        return 0.0
    return abs(first.loss - second.loss) / max(abs(first.loss), abs(second.loss))


def _of_tensors(first: torch.Tensor, second: torch.Tensor) -> float:
    if torch.equal(first, second) or not first.numel():
        return 0.0
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-30))


def _agreed(trainer: Trainer, found: str, rounding: float) -> tuple[str, float]:
    """The finding of the first rank that has one."""
    if trainer.world_size == 1:
        return found, rounding
    findings: list[tuple[str, float]] = [("", 0.0)] * trainer.world_size
    torch.distributed.all_gather_object(findings, (found, rounding))
    first = next((text for text, _ in findings if text), "")
    return first, max(size for _, size in findings)


def watch_for_leaks(trainer: Trainer) -> Callable[[], list[str]]:
    """Remember what Trainer, strategy and optimizers hold; the answer names what is another."""
    before = _held(trainer)

    def changed() -> list[str]:
        after = _held(trainer)
        names = before.keys() | after.keys()
        return sorted(name for name in names if before.get(name) != after.get(name))

    return changed


def _held(trainer: Trainer) -> dict[str, Any]:
    """Identities and states that a probe has to leave alone, by name."""
    strategy, loop = trainer.strategy, trainer.fit_loop
    holders: dict[str, object] = {"trainer": trainer, "trainer.strategy": strategy}
    holders |= {"trainer.fit_loop": loop, "trainer.fit_loop.epoch_loop": loop.epoch_loop}
    held: dict[str, Any] = {
        f"`{holder}.{name}`": id(value)
        for holder, item in holders.items()
        for name, value in vars(item).items()
    }
    held["the state of the precision plugin"] = repr(strategy.precision_plugin.state_dict())
    for index, optimizer in enumerate(strategy.optimizers):
        held[f"the state of optimizer {index}"] = [
            (id(parameter), name, id(value), _writes(value))
            for parameter, state in optimizer.state.items()
            if isinstance(state, dict)
            for name, value in state.items()
        ]
    return held


def _writes(value: object) -> int:
    return internals.write_count(value) if isinstance(value, torch.Tensor) else 0
