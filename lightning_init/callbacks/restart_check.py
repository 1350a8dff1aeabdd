"""The part of the probe callback that goes on in the real run: are the batches the probe's?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_init.callbacks.base import _InitCallback
from lightning_init.probe import ProbeRun
from lightning_init.probe.real_batches import BatchComparison, standing_of_data
from lightning_init.reporting.report import InitReport
from lightning_init.search.sentences import difference_of_batches
from lightning_init.user_line import warn_user


class _ChecksRestart(_InitCallback):
    """Tells when the run is not the one that would have been without a probe."""

    def __init__(self, seed: int | None) -> None:
        super().__init__(seed)
        self.report: InitReport | None = None
        self._real_batches = BatchComparison(())
        self._told = False  # by the replay, which says more
        self._before_sanity_check: tuple[Any, ...] = ()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the probe of an earlier run."""
        super().setup(trainer, pl_module, stage)
        self._real_batches = BatchComparison(())

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where the data stand."""
        if not self._real_batches.closed:
            self._before_sanity_check = standing_of_data(trainer)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Expect other batches than the probe's if the sanity check moved the data on."""
        moved = self._before_sanity_check != standing_of_data(trainer)
        if moved and not self._real_batches.closed:
            self._real_batches = BatchComparison(())

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Compare the run's first batches with the probe's."""
        if self._real_batches.see(batch):
            self._take_score(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the comparison of batches: a probe does not validate."""
        if not (self._real_batches.closed or trainer.sanity_checking):
            self._real_batches.close()
            self._take_score(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the comparison of batches, if the run was shorter than the probe."""
        self.on_validation_start(trainer, pl_module)

    def _compare_batches_with(self, probe: ProbeRun) -> None:
        """Say what the replay found, and expect the probe's batches from here on."""
        self._told = bool(probe.replay.warning)
        if self._told:
            warn_user(probe.replay.warning)
        self._real_batches = BatchComparison(probe.batches)

    def _take_score(self, trainer: Trainer) -> None:
        comparison, report = self._real_batches, self.report
        if (number := comparison.news()) and not self._told:
            warn_user(difference_of_batches(number, trainer), every_rank=True)
        if comparison.closed and report is not None:
            self.report = replace(
                report,
                same_batches=comparison.identical,
                compared_batches=comparison.compared,
                probe_batches=len(comparison.expected),
            )
