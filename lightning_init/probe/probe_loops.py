"""Loops of a probe: those of the installed Lightning, without validation, messages and an end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_module  # type: ignore[attr-defined]

from lightning_init.probe.lightning_packages import module_for
from lightning_init.probe.snapshot import preserved_random_state


class ProbeOver(BaseException):
    """Leaves the nested loop at once; not an ``Exception``, so that no user code swallows it."""


def build_probe_loop(trainer: Any, fit_loop: Any, epoch_loop: Any, evaluation_loop: Any) -> Any:
    """A fresh fit loop of these classes, with the user's limits and without the minima."""
    fit_loop, epoch_loop, evaluation_loop = _probe_loop_classes(
        fit_loop, epoch_loop, evaluation_loop
    )
    states = module_for(trainer, "trainer.states")
    loop = fit_loop(trainer, min_epochs=0, max_epochs=trainer.max_epochs)
    loop.epoch_loop = epoch_loop(trainer, min_steps=None, max_steps=trainer.max_steps)
    loop.epoch_loop.val_loop = evaluation_loop(
        trainer,
        states.TrainerFn.FITTING,
        states.RunningStage.VALIDATING,
        verbose=False,
        inference_mode=False,
    )
    return loop


def _probe_loop_classes(fit_loop: Any, epoch_loop: Any, evaluation_loop: Any) -> tuple[Any, ...]:
    """Subclasses for a probe, which bear the names of their bases in messages."""

    class ProbeFitLoop(fit_loop):  # type: ignore[misc]
        @property
        def done(self) -> bool:
            """Whether the limits are reached; that the probe reached them is not news."""
            with _silent_log():
                return bool(super().done)

        def on_run_start(self) -> None:
            """Make the validation loaders early where that takes all ranks."""
            if self.trainer.world_size > 1:
                self.epoch_loop.val_loop.look()
            super().on_run_start()

        def on_run_end(self) -> None:
            """The probe is not a training that ended: `on_train_end` exports, uploads, notifies."""

    class ProbeEpochLoop(epoch_loop):  # type: ignore[misc]
        # Set during a batch; the loop is left when the batch and all its hooks are done.
        over = False

        def on_advance_end(self, data_fetcher: Any) -> None:
            """Leave after the batch that was to be the last."""
            if self.over:
                raise ProbeOver
            super().on_advance_end(data_fetcher)

        def _should_check_val_epoch(self) -> bool:
            return False

        def _should_check_val_fx(self, data_fetcher: Any) -> bool:
            return False

    class ProbeEvaluationLoop(evaluation_loop):  # type: ignore[misc]
        """Runs nothing, but answers who looks at the loaders: it makes them then."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._looked = True
            super().__init__(*args, **kwargs)
            self._looked = False

        def look(self) -> None:
            if not self._looked:
                self._looked = True
                if self.trainer.enable_validation:
                    with preserved_random_state():
                        self.setup_data()

        @property
        def _combined_loader(self) -> Any:
            self.look()
            return self._own_loader

        @_combined_loader.setter
        def _combined_loader(self, loader: Any) -> None:
            self._own_loader = loader

        @property
        def _max_batches(self) -> Any:
            self.look()
            return self._own_max_batches

        @_max_batches.setter
        def _max_batches(self, batches: Any) -> None:
            self._own_max_batches = batches

    made = (ProbeFitLoop, ProbeEpochLoop, ProbeEvaluationLoop)
    for own, base in zip(made, (fit_loop, epoch_loop, evaluation_loop), strict=True):
        own.__name__ = own.__qualname__ = base.__name__
    return made


@contextlib.contextmanager
def _silent_log() -> Iterator[None]:
    """Without Lightning's messages of information."""
    log = rank_zero_module.log
    log.addFilter(_reject)
    try:
        yield
    finally:
        log.removeFilter(_reject)


def _reject(record: Any) -> bool:
    return False
