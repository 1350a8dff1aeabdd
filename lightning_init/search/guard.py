"""A short paired trial: is the redraw worse than the original weights?"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_init.probe import ProbeRun, run_probe
from lightning_init.probe.observer import loss_of
from lightning_init.reporting.records import GuardOutcome
from lightning_init.search.progress import ProbeProgress
from lightning_init.search.redraw import BorrowedWeights, derived_seed
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.stationarity.student import student_t_quantile

# Pairs of one trial from the original weights and one from a redraw.
PAIRS = 5


def guard_trial(
    trainer: Trainer,
    module: LightningModule,
    borrowed: BorrowedWeights,
    variances: Sequence[float | None],
    settings: OptimalVarianceSettings,
    steps: int,
    seed: int,
) -> GuardOutcome:
    """Train briefly from the original weights and from redraws, five times each.

    Within a pair both trials see the same batches and the same noise; between pairs the seeds of
    the redraw, of the batches and of the noise differ. The statistic is the difference of the mean
    training losses over the last half of a trial, redrawn minus original, and its Student interval
    over the pairs. The redraw is worse when the lower limit is above 0 at the one-sided confidence
    level of the settings, or when a redraw's loss is not finite where the original's is.

    Args:
        trainer: The Trainer whose fit is about to start.
        module: The user's module.
        borrowed: Its weights, written to for the trials.
        variances: What each layer is redrawn with; None for one that keeps its weights.
        settings: The learning rate of the trials, and the confidence level.
        steps: Optimizer steps of one trial.
        seed: Seed of the redraw; the first pair uses it and the run's own batches.
    """
    differences, runs, diverged = [], list[ProbeRun](), False
    for pair in range(PAIRS):
        own_seed = seed if pair == 0 else derived_seed(seed, f"guard {pair}")
        noise = None if pair == 0 else own_seed
        borrowed.give_back()
        original = _trial(trainer, module, settings, steps, noise, runs)
        borrowed.draw(variances, own_seed)
        redrawn = _trial(trainer, module, settings, steps, noise, runs)
        diverged = math.isfinite(original) and not math.isfinite(redrawn)
        if diverged:
            break
        if math.isfinite(original):
            differences.append(redrawn - original)
    borrowed.give_back()
    return _outcome(differences, diverged, runs, settings.detector.confidence)


def _trial(
    trainer: Trainer,
    module: LightningModule,
    settings: OptimalVarianceSettings,
    steps: int,
    noise_seed: int | None,
    runs: list[ProbeRun],
) -> float:
    """Mean training loss over the last half of a short training; adds what it took to `runs`."""
    losses: list[torch.Tensor] = []

    def on_step(copied: LightningModule, step: int, outputs_of_step: Any) -> bool:
        loss = loss_of(outputs_of_step)
        if loss is None:
            raise MisconfigurationException(
                "OptimalVarianceInit: `guard_steps` compares training losses, but `training_step`"
                " returned none; return the loss, or use guard_steps=0."
            )
        losses.append(loss.detach().float().mean())
        progress.advance(step, "original and redrawn weights in turn")
        return False

    if noise_seed is not None:  # the caller keeps the random state of the real run
        torch.manual_seed(noise_seed)
        random.seed(noise_seed)
    limits = replace(settings.limits, max_steps=steps, verify_steps=0)
    with ProbeProgress(trainer, steps, "Guard trial") as progress:
        runs.append(run_probe(trainer, module, on_step, limits))
    last_half = torch.stack(losses[len(losses) // 2 :]).mean()
    return float(trainer.strategy.reduce(last_half, reduce_op="mean"))


def _outcome(
    differences: Sequence[float], diverged: bool, runs: Sequence[ProbeRun], confidence: float
) -> GuardOutcome:
    pairs, nan = len(differences), math.nan
    steps, seconds = sum(run.steps for run in runs), sum(run.seconds for run in runs)
    if diverged or pairs < 2:
        return GuardOutcome(diverged, nan, nan, nan, confidence, pairs, steps, seconds)
    mean = fmean(differences)
    margin = student_t_quantile(confidence, pairs - 1) * stdev(differences) / math.sqrt(pairs)
    lower, upper = mean - margin, mean + margin
    return GuardOutcome(lower > 0, mean, lower, upper, confidence, pairs, steps, seconds)
