"""The probe callback in the real run: are its batches the probe's, and where does V go?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer

from lightning_init.callbacks.base import _InitCallback
from lightning_init.inspection.weights import find_every_weight
from lightning_init.probe import ProbeRun
from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.real_batches import BatchComparison, standing_of_data
from lightning_init.probe.snapshot import preserved_random_state
from lightning_init.recipes.recipe import InitRecipe
from lightning_init.reporting.report import InitReport
from lightning_init.search.failures import told_if_it_fails
from lightning_init.search.sentences import difference_of_batches
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.user_line import warn_user

if TYPE_CHECKING:
    from lightning_init.search.watching import Watching


class _FollowsRun(_InitCallback):
    """Changes nothing in the real run: it tells when the run is not the one without a probe.

    It also follows V, for the next run to start from, and sums up at the end.
    """

    settings: OptimalVarianceSettings
    include: list[str] | None
    exclude: list[str] | None
    recipe_file: str | None
    recipe_path: str | None
    watch: bool

    def __init__(self, seed: int | None) -> None:
        super().__init__(seed)
        self.report: InitReport | None = None
        self.run_recipe: InitRecipe | None = None
        self._real_batches = BatchComparison(())
        self._told = False  # by the replay, which says more
        self._before_sanity_check: tuple[Any, ...] = ()
        self._watching: Watching | None = None
        self._saved_series: Mapping[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the run before, unless the same Trainer trains on."""
        super().setup(trainer, pl_module, stage)
        self._real_batches = BatchComparison(())
        if stage == "fit":
            self._saved_series = self._watched() if trainer.global_step > 0 else None
            self._watching, self.run_recipe = None, None

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

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Take a sample of V, if one is due."""
        if self._watching is not None:
            self._watching.after_step(trainer, pl_module, outputs)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the comparison of batches: a probe does not validate."""
        if not (self._real_batches.closed or trainer.sanity_checking):
            self._real_batches.close()
            self._take_score(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave a recipe of what the run ended at, and say whether the probe was right."""
        self.on_validation_start(trainer, pl_module)  # if the run was shorter than the probe
        if self._watching is None or trainer.global_step == 0:
            return
        with preserved_random_state(), told_if_it_fails("sum up the run"):
            # A probe's own recipe is there already.
            probed = self.report is not None and self.report.total_steps > 0
            path = None if probed else self.recipe_path
            found = self._watching.finish(trainer, pl_module, self.report, path)
            self.run_recipe, self.report = found

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

    def _begin_to_watch(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.watch or internals.fast_dev_run(trainer):
            return
        from lightning_init.search.watching import Watching

        with preserved_random_state(), told_if_it_fails("watch the run"):
            inventory = find_every_weight(module, self.include, self.exclude)
            if inventory.weights:
                saved, read_from = self._saved_series, self.recipe_file
                self._watching = Watching(
                    trainer, module, inventory, self.settings, saved, read_from
                )

    def _watched(self) -> Mapping[str, Any] | None:
        return self._saved_series if self._watching is None else self._watching.state
