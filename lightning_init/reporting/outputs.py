"""Where a Trainer's results go: its loggers.

Writers and figures are imported when there is something to write.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from lightning_init.initialization.plan import InitPlan
from lightning_init.reporting.report import InitReport


def log_fractional_moments(loggers: Sequence[Logger], plan: InitPlan) -> None:
    """Log a plan: a table and a figure to TensorBoard, numbers to every other logger."""
    from lightning_init.reporting.tensorboard import log_plan

    log_plan(loggers, plan)


def log_probe(trainer: Trainer, report: InitReport) -> None:
    """Write the probe's own TensorBoard run, and one row for every other logger.

    Args:
        trainer: Its loggers, and the rank that writes.
        report: What the probe found.
    """
    if not trainer.is_global_zero:
        return
    from lightning_init.reporting.tensorboard import is_tensorboard, log_outcome, write_probe_run

    for logger in trainer.loggers:
        if is_tensorboard(logger):
            write_probe_run(getattr(logger, "log_dir"), report)  # noqa: B009
    log_outcome(trainer.loggers, report)
