"""Are the batches of the real run those of the probe? Checked while the run draws them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.fingerprints import Fingerprint
from lightning_init.probe.lightning_packages import classes
from lightning_init.probe.limits import ProbeLimits
from lightning_init.probe.stand_ins import is_users_own

# Fingerprints are compared so many at a time: a comparison waits for the device of the batch.
_AT_ONCE = 50

# Share of the run's time that comparing may take: what is over it is made up for by waiting.
SHARE_OF_TIME = 1e-3


def begins_with_the_probes_batches(trainer: Trainer, limits: ProbeLimits) -> bool:
    """Whether the real run should draw the batches of a probe, if all came back.

    It draws others when its loader exists already, when it makes its validation loaders first and
    so draws a random number that a probe does not draw, and where a callback changes batches.
    """
    makes_validation_loaders = trainer.enable_validation and not trainer.num_sanity_val_steps
    hooks = {getattr(kind, "on_train_batch_start") for kind in classes("Callback")}  # noqa: B009
    changes_batches = any(
        is_users_own(callback) and type(callback).on_train_batch_start not in hooks
        for callback in internals.callbacks(trainer)
    )
    return not (
        limits.dataloaders is not None
        or internals.prepared_loader(trainer) is not None
        or makes_validation_loaders
        or changes_batches
    )


def standing_of_data(trainer: Trainer) -> tuple[Any, ...]:
    """A summary of what datamodule, loaders and their datasets refer to, one level deep."""
    source, _ = internals.train_data_source(trainer)
    loaders = list(source) if isinstance(source, (list, tuple)) else [source]
    held = [getattr(loader, name, None) for loader in loaders for name in ("dataset", "generator")]
    return tuple(map(_standing, [getattr(trainer, "datamodule", None), *loaders, *held]))


def _standing(item: Any) -> Any:
    if isinstance(item, torch.Generator):
        return item.get_state().numpy().tobytes()
    found = []
    for value in getattr(item, "__dict__", {}).values():
        length = len(value) if isinstance(value, (list, dict, set, bytearray)) else 0
        found.append(value if isinstance(value, (bool, int, float, str)) else (id(value), length))
    return found


class BatchComparison:
    """Compares batches of the real run with those of the probe, in order, as time allows.

    The first batch is always looked at, each later one only while comparing has taken less than
    `SHARE_OF_TIME` of the run so far. Each rank decides alone, because nothing is exchanged.
    Validation ends the comparison: a probe does not validate, and reading validation data moves
    the random streams on.

    Args:
        expected: Fingerprints of the probe's batches.
        clock: Seconds since some moment.
    """

    def __init__(
        self,
        expected: Sequence[Fingerprint | None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.expected = expected
        self._clock = clock
        self._began = self._spent = 0.0
        self._seen: list[tuple[int, Fingerprint, Fingerprint]] = []
        self._number = 0
        self.compared = 0
        self.identical = 0
        # Number of the first batch that differed, until it was told.
        self._first_difference: int | None = None
        self.closed = not expected

    def news(self) -> int:
        """Number of the first batch that differed, once; 0 if there is nothing to tell."""
        found, self._first_difference = self._first_difference or 0, self._first_difference and 0
        return found

    def see(self, batch: Any) -> bool:
        """Look at the next batch of the real run, if it is its turn; whether any was compared."""
        if self.closed:
            return False
        expected = self.expected[self._number]
        self._number += 1
        compared = expected is not None and self._look(expected, batch)
        if self._number == len(self.expected):
            self.close()
        return compared or self.closed

    def close(self) -> None:
        """Compare what is left; nothing is looked at from here on."""
        self._compare()
        self.closed = True

    def _look(self, expected: Fingerprint, batch: Any) -> bool:
        now = self._clock()
        self._began = self._began or now
        if self._spent > SHARE_OF_TIME * (now - self._began):
            return False
        self._seen.append((self._number, expected, Fingerprint(batch)))
        compares = self._number == 1 or len(self._seen) >= _AT_ONCE
        if compares:
            self._compare()
        self._spent += self._clock() - now
        return compares

    def _compare(self) -> None:
        for number, expected, found in self._seen:
            if found.equals(expected):
                self.identical += 1
            elif self._first_difference is None:
                self._first_difference = number
            self.compared += 1
        self._seen.clear()
