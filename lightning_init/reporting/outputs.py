"""Where a Trainer's results go: its loggers.

Writers and figures are imported when there is something to write.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger

from lightning_init.initialization.measurement import fan_increments
from lightning_init.initialization.plan import InitPlan
from lightning_init.reporting.report import InitReport


def log_fractional_moments(loggers: Iterable[Logger], plan: InitPlan) -> None:
    """Send a plan to every logger, and its fan chart to TensorBoard."""
    from lightning_init.reporting.tensorboard import log_log_norm_fan, log_plan

    log_norms = {one.name: one for one in plan.log_norms}
    rows = []
    for row in plan.rows:
        one = log_norms.get(row.weight.name)
        both = (None, None) if one is None else (one.measured, one.predicted)
        rows.append((row.weight.name, row.std, *both))
    log_plan(loggers, rows)
    log_log_norm_fan(loggers, *fan_increments(plan.log_norms))


def log_probe(trainer: Trainer, report: InitReport) -> None:
    """Write the probe's own TensorBoard run, and one row for every other logger.

    Args:
        trainer: Its loggers, and the rank that writes.
        report: What the probe found.
    """
    if not trainer.is_global_zero:
        return
    from lightning_init.reporting.tensorboard import is_tensorboard, log_outcome

    for logger in trainer.loggers:
        if is_tensorboard(logger):
            write_probe_run(getattr(logger, "log_dir"), report)  # noqa: B009
    log_outcome(trainer.loggers, report)


def write_probe_run(log_dir: str | os.PathLike[str], report: InitReport) -> None:
    """Write a whole probe into ``<log_dir>/probe``."""
    from lightning_init.reporting.tensorboard import ProbeWriter

    history = report.history
    initial = {layer.name: layer.initial_variance for layer in report.layers}
    with ProbeWriter(log_dir, initial, report.probe_steps) as writer:
        for index, step in enumerate(history.steps):
            writer.write_row(
                step,
                {name: history.variances[i][index] for i, name in enumerate(history.layers)},
                {name: history.drifts[i][index] for i, name in enumerate(history.layers)},
                force=index == len(history.steps) - 1,
            )
        writer.write_outcome(report)
