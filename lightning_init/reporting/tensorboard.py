"""Where results are logged: the probe's own TensorBoard run, and one row for every other logger.

The probe writes `<log_dir>/probe`, beside the real run and not into it, so that no step axis runs
backwards and the real run's event file holds what it would hold without a probe.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_init.reporting import figures
from lightning_init.reporting.bands import confidence_bands
from lightning_init.reporting.charts import LAYERS_WITH_BANDS, band_values, layout
from lightning_init.reporting.report import InitReport
from lightning_init.reporting.tags import (
    FORCES,
    FRACTIONAL_MOMENT,
    OPTIMAL_VARIANCE,
    TOLERANCE,
    tag,
)
from lightning_init.reporting.text_tab import text_tab

# The series of a probe stay below this, but for the first 20 rows: half a second of work, because
# tensorboard computes its checksums in Python.
SERIES_BYTES = 1_200_000
FEWEST_ROWS = 20
REPORT_ROWS = 100


class ProbeWriter:
    """Writes one probe to its own TensorBoard run; a context manager that closes its file.

    The file appears with the first row. The first row holds `variance` and `kl` of every layer;
    `drift` stands in every row in which it is known for a layer, and is nan for those of which it
    is not. Of a long probe on a large model every k-th row is written, so that the
    series stay within about 1.2 MB.

    Args:
        log_dir: Directory of the real run, or None to write nothing.
        initial_variances: Realised variance per layer before the probe, by layer name.
        max_steps: Most optimizer steps that the probe may make.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None,
        initial_variances: Mapping[str, float],
        max_steps: int,
    ) -> None:
        self._log_dir = None if log_dir is None else os.fspath(log_dir)
        self._initial_variances = dict(initial_variances)
        self._tags = {
            quantity: [tag(OPTIMAL_VARIANCE, quantity, layer) for layer in initial_variances]
            for quantity in ("variance", "kl", "drift")
        }
        # Beside its tag, a point costs 5 bytes for the number and 4 for the framing.
        row_bytes = sum(len(name) + 9 for names in self._tags.values() for name in names)
        rows = max(FEWEST_ROWS, SERIES_BYTES // max(1, row_bytes))
        self._interval = math.ceil(max_steps / rows)
        self._last_row: int | None = None
        self._drift_steps: list[int] = []
        self._writer: Any = None

    def __enter__(self) -> ProbeWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def write_row(
        self,
        step: int,
        variances: Mapping[str, float],
        drifts: Mapping[str, float] | None = None,
        *,
        force: bool = False,
    ) -> None:
        """Write one sample of every layer, unless the last written row is too near.

        Args:
            step: Probe step, never less than that of the row before.
            variances: V by layer name.
            drifts: Drift index by layer name; None before the first check.
            force: Write whatever the distance, e.g. for the last sample.
        """
        if self._log_dir is None or self._too_near(step, force):
            return
        layers = list(self._initial_variances)
        now = [variances.get(layer, math.nan) for layer in layers]
        before = list(self._initial_variances.values())
        values = dict(zip(self._tags["variance"], now, strict=True))
        values |= zip(self._tags["kl"], divergences(now, before), strict=True)
        if drifts is not None and any(map(math.isfinite, drifts.values())):
            drift = [drifts.get(layer, math.nan) for layer in layers]
            values |= zip(self._tags["drift"], drift, strict=True)
            self._drift_steps.append(step)
        self._write_scalars(values, step)
        self._last_row = step

    def write_outcome(self, report: InitReport) -> None:
        """Write what the probe found, at its last step: scalars, table, chart layout, figures."""
        if self._log_dir is None:
            return
        step = report.probe_steps
        self._write_scalars({**_outcome(report), **_forces(report)}, step)
        writer = self._open()
        writer.add_text(f"{OPTIMAL_VARIANCE}/report", text_tab(report, REPORT_ROWS), step)
        self._write_settings(report)
        if report.layers:
            by_drift = sorted(report.layers, key=lambda layer: _known(-abs(layer.drift_index)))
            names = [layer.name for layer in by_drift]
            self._write_tolerance(report)
            writer.add_custom_scalars(layout(names, self._write_bands(report, names)))
        if importlib.util.find_spec("matplotlib") is None:
            rank_zero_info("OptimalVarianceInit: matplotlib is not installed, so no figures.")
        for name, image in figures.report_images(report).items():
            writer.add_image(f"{OPTIMAL_VARIANCE}/figure/{name}", image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the file, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._log_dir = None

    def _write_tolerance(self, report: InitReport) -> None:
        """Write the line to compare the drift with, as long as the drift's own."""
        tolerance = dict(report.settings).get("tolerance")
        if tolerance is not None:
            for step in sorted({*self._drift_steps[:1], *self._drift_steps[-1:]}):
                self._write_scalars({TOLERANCE: tolerance}, step)

    def _write_bands(self, report: InitReport, by_drift: Sequence[str]) -> list[str]:
        """Write confidence limits at the steps at which the drift was; return the layers."""
        bands = {
            layer: confidence_bands(report, layer, self._drift_steps)
            for layer in by_drift[:LAYERS_WITH_BANDS]
            if layer in report.history.layers
        }
        rows: dict[int, dict[str, float]] = {}
        for layer, points in bands.items():
            for point in points:
                rows.setdefault(point.step, {}).update(band_values(layer, point))
        for step, values in sorted(rows.items()):
            self._write_scalars(values, step)
        return [layer for layer, points in bands.items() if points]

    def _write_settings(self, report: InitReport) -> None:
        """Write the callback's settings as hyperparameters of the probe's run.

        Only the start of a session: the summary of an experiment, which `add_hparams` writes too,
        would hide the hyperparameters of the real run, and a metric would be a second `hp_metric`.
        """
        from torch.utils.tensorboard import summary

        hparams: Any = summary.hparams  # untyped
        known = {
            f"{OPTIMAL_VARIANCE}.{name}": value
            for name, value in report.settings
            if isinstance(value, (bool, int, float, str))
        }
        if known:
            _, session_start, _ = hparams(known, {})
            self._open().file_writer.add_summary(session_start)

    def _too_near(self, step: int, force: bool) -> bool:
        if self._last_row is None:
            return False
        return step == self._last_row or not (force or step >= self._last_row + self._interval)

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            assert self._log_dir is not None
            self._writer = SummaryWriter(_free_directory(self._log_dir))
        return self._writer

    def _write_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write one event for the whole row: `add_scalar` would make one event per number."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        row = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._open().file_writer.add_summary(Summary(value=row), step)


@rank_zero_only
def log_outcome(loggers: Iterable[Logger], report: InitReport) -> None:
    """Send the outcome of a probe, one dict at step 0, to every logger other than TensorBoard.

    TensorBoard has it in the probe's own run. Numbers that are not finite are left out.

    Args:
        loggers: `trainer.loggers`.
        report: What the probe found.
    """
    _log(
        [logger for logger in loggers if not is_tensorboard(logger)],
        _outcome(report),
    )


@rank_zero_only
def log_plan(
    loggers: Iterable[Logger], rows: Iterable[tuple[str, float, float | None, float | None]]
) -> None:
    """Send a closed-form initialization, one dict at step 0, to every logger.

    Args:
        loggers: `trainer.loggers`.
        rows: Per layer: name, standard deviation, measured and predicted log-norm, each of the two
            None or nan where it is not known.
    """
    values: dict[str, float] = {}
    for layer, std, log_norm, predicted in rows:
        values[tag(FRACTIONAL_MOMENT, "std", layer)] = std
        if log_norm is not None:
            values[tag(FRACTIONAL_MOMENT, "log_norm", layer)] = log_norm
        if predicted is not None:
            values[tag(FRACTIONAL_MOMENT, "log_norm_predicted", layer)] = predicted
    _log(loggers, values)


@rank_zero_only
def log_log_norm_fan(
    loggers: Iterable[Logger],
    drift: Sequence[float],
    variance: Sequence[float],
    measured: Sequence[float],
) -> None:
    """Draw the predicted and the measured log-norm through depth into TensorBoard, at step 0.

    Nothing is drawn without matplotlib, or for fewer than two layers.

    Args:
        loggers: `trainer.loggers`.
        drift: Predicted mean change per layer, shape (depth,).
        variance: Predicted change of the variance per layer, shape (depth,).
        measured: Measured log-norm relative to the first layer, shape (depth,).
    """
    boards: list[Any] = [logger for logger in loggers if is_tensorboard(logger)]
    if not boards or len(drift) < 2 or importlib.util.find_spec("matplotlib") is None:
        return
    image = figures.render(figures.log_norm_fan(drift, variance, measured))
    for board in boards:
        name = f"{FRACTIONAL_MOMENT}/figure/log_norm"
        board.experiment.add_image(name, image, 0, dataformats="HWC")


def is_tensorboard(logger: object) -> bool:
    """Whether it is a TensorBoard logger, of either package that Lightning is published as."""
    return any(base.__name__ == "TensorBoardLogger" for base in type(logger).__mro__)


def _log(loggers: Iterable[Logger], values: Mapping[str, float]) -> None:
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    if finite:
        for logger in loggers:
            logger.log_metrics(dict(finite), step=0)


def _outcome(report: InitReport) -> dict[str, float]:
    sigma0 = {tag(OPTIMAL_VARIANCE, "sigma0", layer.name): layer.sigma0 for layer in report.layers}
    ratio = {tag(OPTIMAL_VARIANCE, "ratio", layer.name): layer.ratio for layer in report.layers}
    return {**sigma0, **ratio}


def _forces(report: InitReport) -> dict[str, float]:
    values = {
        tag(OPTIMAL_VARIANCE, f"force/{name}", layer.name): getattr(layer, name)
        for name in FORCES
        for layer in report.layers
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}


def divergences(variances: Sequence[float], initial: Sequence[float]) -> list[float]:
    """KL(N(0, V) || N(0, V before)) of many layers at once, in nat; nan where it does not exist.

    What `kl_per_weight` gives for one, to the precision of an event file.
    """
    now, before = np.asarray(variances), np.asarray(initial)
    known = np.isfinite(now) & np.isfinite(before) & (now > 0) & (before > 0)
    excess = np.divide(now - before, before, where=known, out=np.full(now.shape, math.nan))
    divergence: list[float] = (0.5 * (excess - np.log1p(excess))).tolist()
    return divergence


def _known(value: float) -> float:
    # The unknown comes first: it is what to look at.
    return -math.inf if math.isnan(value) else value


def _free_directory(log_dir: str) -> str:
    """Find a run directory that no earlier probe has used: in one, steps would run backwards."""
    path, number = os.path.join(log_dir, "probe"), 2
    while os.path.exists(path):
        path, number = os.path.join(log_dir, f"probe_{number}"), number + 1
    return path
