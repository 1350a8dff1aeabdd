"""Where `FractionalMomentInit` learns of a model: its example, a training step, its modules."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer

from lightning_init.initialization.settings import FractionalMomentSettings
from lightning_init.inspection.activation_tracing import trace_run
from lightning_init.inspection.activations import Reading, read_model, reading_of
from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.first_batch import SilentStep, first_batch, forward_arguments
from lightning_init.probe.snapshot import preserved_random_state


class TrainingReading(NamedTuple):
    """What is known of a module at the start of its training.

    Args:
        reading: Its weights, and what stands in front of them.
        example: What its forward can be called with, None if nothing is at hand.
        batch: The batch of the training data that was read for it, None if there was no need.
        failures: Why something could not be traced, one line each.
    """

    reading: Reading
    example: Any
    batch: Any
    failures: tuple[str, ...]


def trains(trainer: Trainer) -> bool:
    """Whether this fit takes a step at all."""
    some_batches = trainer.limit_train_batches is None or trainer.limit_train_batches > 0
    return some_batches and trainer.max_steps != 0 and trainer.max_epochs != 0


def read_quietly(module: LightningModule, example: Any, settings: Any) -> Reading:
    """`read_model` by the patterns of the settings, leaving the global random streams alone."""
    with preserved_random_state():
        return read_model(module, example, settings.include, settings.exclude)


def read_for_training(
    trainer: Trainer, module: LightningModule, example: Any, settings: FractionalMomentSettings
) -> TrainingReading:
    """Trace the example, else a training step on one batch, else read the order of modules.

    Nothing that fails stops the training: it is listed, and the next source is asked.

    Args:
        trainer: The Trainer, at the start of a fit.
        module: Its module.
        example: The module's `example_input_array`, or None.
        settings: Their patterns say which weights take part.

    Raises:
        ValueError: If a pattern names no parameter.
    """
    failures: list[str] = []
    if example is not None:
        try:
            return TrainingReading(read_quietly(module, example, settings), example, None, ())
        except Exception as error:
            failures.append(_line(error))
    declared = read_quietly(module, None, settings)
    if declared.complete:
        return TrainingReading(declared, None, None, tuple(failures))
    try:
        batch = first_batch(trainer, module)
    except Exception as error:
        return TrainingReading(declared, None, None, (*failures, _line(error)))
    if batch is None:
        failures.append("the training data are empty, or can be read only once")
        return TrainingReading(declared, None, None, tuple(failures))
    example = forward_arguments(module, batch)
    for read in (
        partial(_from_step, trainer, module, batch, settings),
        partial(read_quietly, module, example, settings),
    ):
        try:
            return TrainingReading(read(), example, batch, ())
        except Exception as error:
            failures.append(_line(error))
    return TrainingReading(declared, None, batch, tuple(failures))


def _from_step(
    trainer: Trainer, module: LightningModule, batch: Any, settings: FractionalMomentSettings
) -> Reading:
    if not internals.distributed_with_copies(trainer.strategy):
        raise ValueError("the strategy keeps no whole copy of the module")
    step = SilentStep(trainer, module, batch)
    traced = trace_run(
        step.module, step.inputs, step.run, settings.include, settings.exclude, partial=True
    )
    return reading_of(step.module, traced)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
