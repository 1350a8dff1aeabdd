"""Where results are logged: the probe's own TensorBoard runs, and one row for every other logger.

The probe writes `<log_dir>/probe`, beside the real run and not into it, so that no step axis runs
backwards and the real run's event file holds what it would hold without a probe. TensorBoard
colours curves by run, so each of the layers to look at first has a run of its own in there.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_init.initialization.plan import InitPlan
from lightning_init.reporting import figures
from lightning_init.reporting.plan_figures import plan_images
from lightning_init.reporting.report import InitReport
from lightning_init.theory.variance_bound import kl_per_weight

OPTIMAL_VARIANCE = "OptimalVarianceInit"
FRACTIONAL_MOMENT = "FractionalMomentInit"

# The page to open: figures, and curves of the layers to look at first in runs of their own.
AT_A_GLANCE = f"{OPTIMAL_VARIANCE}/at_a_glance"
# The series of a probe stay below this, but for the first 20 rows: half a second of work, because
# tensorboard computes its checksums in Python.
SERIES_BYTES = 1_200_000
FEWEST_ROWS = 20
ROWS_OF_TEXT = 100
VARIANCE, DRIFT = f"{AT_A_GLANCE}/2_variance", f"{AT_A_GLANCE}/3_drift"


def log_probe(trainer: Trainer, report: InitReport) -> None:
    """Write the probe's own TensorBoard run, and one row for every other logger.

    Args:
        trainer: Its loggers, and the rank that writes.
        report: What the probe found.
    """
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if is_tensorboard(logger):
            write_probe_run(getattr(logger, "log_dir"), report)  # noqa: B009
    log_outcome(trainer.loggers, report)


def write_probe_run(log_dir: str | os.PathLike[str], report: InitReport) -> None:
    """Write a whole probe into ``<log_dir>/probe``, and leading layers into runs below it.

    Args:
        log_dir: Directory of the real run.
        report: What the probe found.
    """
    folder = _free_directory(os.fspath(log_dir))
    if importlib.util.find_spec("matplotlib") is None:
        rank_zero_info("OptimalVarianceInit: matplotlib is not installed, so no figures.")
    with _writer(folder) as writer:
        _write_every_layer(writer, report)
        _write_settings(writer, report)
        step = report.probe_steps
        writer.add_text(f"{OPTIMAL_VARIANCE}/report", report.markdown(ROWS_OF_TEXT), step)
        for name, image in figures.report_images(report).items():
            writer.add_image(f"{AT_A_GLANCE}/{name}", image, step, dataformats="HWC")
        charts = {
            "V / V before the probe": ["Multiline", [f"^{VARIANCE}$"]],
            "drift, settled below the tolerance": ["Multiline", [f"^{DRIFT}$"]],
        }
        writer.add_custom_scalars({OPTIMAL_VARIANCE: charts})
    _write_leading_layers(folder, report)


def _write_every_layer(writer: Any, report: InitReport) -> None:
    """Write V, KL and drift of every layer; of a long probe on a large model every k-th sample."""
    history = report.history
    known = {layer.name: layer.initial_variance for layer in report.layers}
    initial = [known.get(layer, math.nan) for layer in history.layers]
    quantities = ("variance", "kl", "drift")
    tags = [[tag(OPTIMAL_VARIANCE, name, one) for one in history.layers] for name in quantities]
    # Beside its tag, a point costs 5 bytes for the number and 4 for the framing.
    row_bytes = sum(len(name) + 9 for names in tags for name in names)
    rows = max(FEWEST_ROWS, SERIES_BYTES // max(1, row_bytes))
    last = len(history.steps) - 1
    stride = max(1, math.ceil(last / rows))
    for index in sorted({*range(0, last + 1, stride), last} - {-1}):
        now = [values[index] for values in history.variances]
        drifts = [values[index] for values in history.drifts]
        row = [*now, *divergences(now, initial)]
        # A drift that is unknown for every layer is no row of the chart.
        row += drifts if any(map(math.isfinite, drifts)) else []
        names = (name for of_quantity in tags for name in of_quantity)
        write_scalars(writer, names, row, history.steps[index])


def _write_leading_layers(folder: str, report: InitReport) -> None:
    """Write the curves to look at first, each into a run of its own, and the tolerance beside."""
    history = report.history
    checked: set[int] = set()
    for place, layer in enumerate(figures.leading_layers(report), start=1):
        variances, drifts = history.variance(layer), history.drift(layer)
        first = variances[0] if variances[0] > 0 else math.nan
        with _writer(os.path.join(folder, run_name(place, layer))) as writer:
            for step, variance, drift in zip(history.steps, variances, drifts, strict=True):
                known = math.isfinite(drift)
                checked |= {step} if known else set()
                values = [variance / first, *([abs(drift)] if known else [])]
                write_scalars(writer, (VARIANCE, DRIFT), values, step)
    tolerance = dict(report.settings).get("tolerance")
    if tolerance is not None and checked:
        with _writer(os.path.join(folder, f"tolerance_{tolerance:g}")) as writer:
            # More points than a layer has: TensorBoard leaves out of view what is rare.
            for step in sorted({history.steps[0], *checked}):
                write_scalars(writer, (DRIFT,), (tolerance,), step)


def run_name(place: int, layer: str) -> str:
    """Name the run of one leading layer, so that runs stand in the order in which to read them.

    >>> run_name(1, "block[0]/σ")
    '1_block_0___'
    """
    return f"{place}_" + re.sub(r"[^A-Za-z0-9_.-]", "_", layer)[-100:]


def _write_settings(writer: Any, report: InitReport) -> None:
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
        writer.file_writer.add_summary(session_start)


def _writer(folder: str) -> Any:
    # Not above: who has another logger need not have TensorBoard.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)


def write_scalars(writer: Any, tags: Iterable[str], values: Sequence[float], step: int) -> None:
    """Write one event for a whole row: `add_scalar` would make one event per number.

    Tags beyond the values are not written.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

    pairs = zip(tags, values, strict=False)
    row = [Summary.Value(tag=name, simple_value=value) for name, value in pairs]
    # As `add_scalar` asks for it: the writer of an earlier fit has been closed.
    writer._get_file_writer().add_summary(Summary(value=row), step)  # noqa: SLF001


@rank_zero_only
def log_outcome(loggers: Iterable[Logger], report: InitReport) -> None:
    """Send the outcome of a probe, one dict at step 0, to every logger other than TensorBoard.

    TensorBoard has it in the probe's own run. Numbers that are not finite are left out.

    Args:
        loggers: `trainer.loggers`.
        report: What the probe found.
    """
    values = {tag(OPTIMAL_VARIANCE, "sigma0", one.name): one.sigma0 for one in report.layers}
    values |= {tag(OPTIMAL_VARIANCE, "ratio", one.name): one.ratio for one in report.layers}
    _log(loggers, values)


@rank_zero_only
def log_plan(loggers: Sequence[Logger], plan: InitPlan) -> None:
    """Log a closed-form initialization at step 0: a table and a figure to TensorBoard.

    Every other logger gets one dict with the standard deviation of each layer, and its measured
    and predicted log-norm where they are known.

    Args:
        loggers: `trainer.loggers`.
        plan: What was drawn.
    """
    values = {tag(FRACTIONAL_MOMENT, "std", row.weight.name): row.std for row in plan.rows}
    for one in plan.log_norms:
        values[tag(FRACTIONAL_MOMENT, "log_norm", one.name)] = one.measured
        values[tag(FRACTIONAL_MOMENT, "log_norm_predicted", one.name)] = one.predicted
    _log(loggers, values)
    boards: list[Any] = [logger for logger in loggers if is_tensorboard(logger)]
    images = plan_images(plan) if boards else {}
    for board in boards:
        board.experiment.add_text(f"{FRACTIONAL_MOMENT}/plan", plan.markdown(ROWS_OF_TEXT), 0)
        for name, image in images.items():
            tagged = f"{FRACTIONAL_MOMENT}/figure/{name}"
            board.experiment.add_image(tagged, image, 0, dataformats="HWC")


def is_tensorboard(logger: object) -> bool:
    """Whether it is a TensorBoard logger, of either package that Lightning is published as."""
    return any(base.__name__ == "TensorBoardLogger" for base in type(logger).__mro__)


def _log(loggers: Iterable[Logger], values: dict[str, float]) -> None:
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    for logger in loggers:
        if finite and not is_tensorboard(logger):
            logger.log_metrics(dict(finite), step=0)


def divergences(variances: Sequence[float], initial: Sequence[float]) -> list[float]:
    """KL(N(0, V) || N(0, V before)) of many layers, in nat; nan where it does not exist."""
    return [
        kl_per_weight(now, before) if 0 < now < math.inf and 0 < before < math.inf else math.nan
        for now, before in zip(variances, initial, strict=True)
    ]


def _free_directory(log_dir: str) -> str:
    """Find a run directory that no earlier probe has used: in one, steps would run backwards."""
    path, number = os.path.join(log_dir, "probe"), 2
    while os.path.exists(path):
        path, number = os.path.join(log_dir, f"probe_{number}"), number + 1
    return path


def tag(prefix: str, quantity: str, layer: str) -> str:
    """Name a series in the alphabet that every logger accepts: ASCII letters, digits, `_-./`.

    >>> tag("OptimalVarianceInit", "variance", "net.0")
    'OptimalVarianceInit/variance/net.0'
    >>> tag("OptimalVarianceInit", "variance", "block[0] σ")
    'OptimalVarianceInit/variance/block_0___'
    """
    return re.sub(r"[^A-Za-z0-9_./-]", "_", f"{prefix}/{quantity}/{layer}")
