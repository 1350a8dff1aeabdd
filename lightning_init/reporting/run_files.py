"""The series of the real run: a CSV file beside its metrics, and rows in its TensorBoard run."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from lightning_init.reporting.tensorboard import (
    OPTIMAL_VARIANCE,
    is_tensorboard,
    tag,
    write_scalars,
)

SERIES_FILE = "run_variance.csv"
# Values of one sample that go to TensorBoard; of larger models every k-th sample goes there.
VALUES_PER_ROW = 64


class RunFiles:
    """Writes samples as they come, so that a killed run leaves those it had.

    Args:
        loggers: Those of the Trainer; the first local log directory gets the file.
        layers: Layer names.
        earlier: Samples of the run before it was resumed, written again.
    """

    def __init__(
        self,
        loggers: Iterable[Logger],
        layers: Sequence[str],
        earlier: Iterable[tuple[int, Sequence[float]]] = (),
    ) -> None:
        loggers = list(loggers)
        self._boards: list[Any] = [one for one in loggers if is_tensorboard(one)]
        self._tags = [tag(OPTIMAL_VARIANCE, "run_variance", layer) for layer in layers]
        self._every = math.ceil(len(layers) / VALUES_PER_ROW)
        self._rows = 0
        folder = local_directory(loggers)
        self._path = None if folder is None else folder / SERIES_FILE
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("step", *layers), *((s, *row) for s, row in earlier)])

    def write(self, step: int, variances: Sequence[float]) -> None:
        """Write one sample of every layer."""
        if self._path is not None:
            self._append((step, *variances))
        if self._rows % self._every == 0:
            for board in self._boards:
                write_scalars(board.experiment, self._tags, variances, step)
        self._rows += 1

    def write_text(self, name: str, text: str, step: int) -> None:
        """Write a sentence to the Text tab."""
        for board in self._boards:
            board.experiment.add_text(f"{OPTIMAL_VARIANCE}/{name}", text, step)

    def _append(self, row: Sequence[float]) -> None:
        # Past Python's layers of buffers: a row is one write, at half the cost.
        file = os.open(os.fspath(self._path or ""), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(file, f"{','.join(map(str, row))}\r\n".encode())
        finally:
            os.close(file)


def local_directory(loggers: Iterable[Logger]) -> Path | None:
    """The log directory of the first logger that writes to this machine, or None."""
    for logger in loggers:
        log_dir = getattr(logger, "log_dir", None)
        if isinstance(log_dir, (str, os.PathLike)) and "://" not in str(log_dir):
            return Path(log_dir)
    return None
