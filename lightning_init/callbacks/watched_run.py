"""The part of the probe callback that watches the real run, for the next one to start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer

from lightning_init.callbacks.restart_check import _ChecksRestart
from lightning_init.inspection.weights import find_every_weight
from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.snapshot import preserved_random_state
from lightning_init.recipes.recipe import InitRecipe
from lightning_init.search.failures import told_if_it_fails
from lightning_init.search.settings import OptimalVarianceSettings

if TYPE_CHECKING:
    from lightning_init.search.watching import Watching


class _WatchesRun(_ChecksRestart):
    """Follows V through the real run, in which it changes nothing, and sums up at the end."""

    settings: OptimalVarianceSettings
    include: list[str] | None
    exclude: list[str] | None
    recipe_file: str | None
    recipe_path: str | None
    watch: bool

    def __init__(self, seed: int | None) -> None:
        super().__init__(seed)
        self.run_recipe: InitRecipe | None = None
        self._watching: Watching | None = None
        self._saved_series: Mapping[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the run before, unless the same Trainer trains on."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._saved_series = self._watched() if trainer.global_step > 0 else None
            self._watching, self.run_recipe = None, None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Take a sample, if one is due."""
        if self._watching is not None:
            self._watching.after_step(trainer, pl_module, outputs)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave a recipe of what the run ended at, and say whether the probe was right."""
        super().on_train_end(trainer, pl_module)
        if self._watching is None or trainer.global_step == 0:
            return
        with preserved_random_state(), told_if_it_fails("sum up the run"):
            # A probe's own recipe is there already.
            probed = self.report is not None and self.report.total_steps > 0
            path = None if probed else self.recipe_path
            found = self._watching.finish(trainer, pl_module, self.report, path)
            self.run_recipe, self.report = found

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
