"""Where a Trainer's results go: its terminal and its loggers."""

from __future__ import annotations

import os
import sys

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_init.reporting.report import InitReport
from lightning_init.reporting.tensorboard import ProbeWriter, log_outcome


def show(text: str) -> None:
    """Print a table to standard output."""
    sys.stdout.write(f"\n{text}\n\n")
    sys.stdout.flush()


def log_probe(trainer: Trainer, report: InitReport, *, summary: bool) -> None:
    """Write the probe's own TensorBoard run, and one row for every other logger.

    Args:
        trainer: Its loggers, and the rank that writes.
        report: What the probe found.
        summary: Whether loggers other than TensorBoard get the outcome.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            write_probe_run(logger.log_dir, report)
    if summary:
        log_outcome(trainer.loggers, report)


def write_probe_run(log_dir: str | os.PathLike[str], report: InitReport) -> None:
    """Write a whole probe into ``<log_dir>/probe``."""
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
