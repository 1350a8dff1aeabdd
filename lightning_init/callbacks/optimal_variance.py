"""`OptimalVarianceInit`: probe, take V(W), put everything back, redraw, restart."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_init.callbacks.base import _InitCallback, require_weights, synchronize
from lightning_init.callbacks.fractional_moment import FractionalMomentInit
from lightning_init.callbacks.outcome import Granularity, OnUnsettled, layer_reports
from lightning_init.callbacks.progress import ProbeProgress
from lightning_init.callbacks.variance_monitor import VarianceMonitor
from lightning_init.initialization.fill import fill_normal_
from lightning_init.inspection.weights import WeightInventory, find_weights
from lightning_init.probe import ProbeEnd, ProbeLimits, ProbeRun, run_probe
from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.shadows import shadows_follow
from lightning_init.probe.snapshot import preserved_random_state
from lightning_init.reporting import outputs
from lightning_init.reporting.report import InitReport
from lightning_init.stationarity import DetectorSettings, Verdict

# Samples that a whole probe takes when the interval is left to us: enough for the detector's ten
# batches of ten in half the series, and few enough that measuring stays below 1 % of a step.
_SAMPLES_PER_PROBE = 250


class OptimalVarianceInit(_InitCallback):
    """Redraw the first weights with the variance that training itself settles at, then restart.

    Before the first step a copy of the model is trained for a probe phase with the run's own
    optimizer, data and precision. The variance V(W) of each layer's weights is followed until a
    test finds it quasi-stationary over the planned length of the run. Then everything is put back,
    the weights are redrawn from N(0, V(W)), and the real run starts: step 0, fresh optimizer, the
    same batches as without a probe. The rule sigma0^2 = V(W) minimises a bound on the expected
    loss (Horii & Has, arXiv 2508.12834); its effect is often small, and the report says so.

    The outcome is on `callback.report` and is printed once. Biases and normalization layers keep
    their initialization. A resumed run is neither probed nor redrawn.

    Args:
        max_probe_steps: Most optimizer steps of the probe; it ends sooner when all layers settle.
        on_unsettled: What layers get whose variance has not settled when the budget ends: "use"
            (V at that moment, with a warning), "keep" (their initial weights), "project" (V
            extrapolated to the end of the horizon where that is sharp) or "raise" (an error).
        tolerance: Largest relative change of V over the horizon that counts as settled.
        confidence: One-sided confidence level of that statement.
        persistence: Consecutive checks that must agree.
        horizon: Optimizer steps over which V must stay put: "run" (the planned length of the real
            run), "probe" (max_probe_steps) or a number of steps.
        sample_every_n_steps: Optimizer steps between two measurements; the default takes 250 per
            probe.
        granularity: One variance per "layer", one "global" variance, or one "gain" over the He
            variances 2 / fan-in.
        largest_change: Largest factor by which a layer's variance may change, either way; the
            default is no limit.
        include: Glob patterns of layer names that take part; the default is all.
        exclude: Glob patterns of layer names that do not take part.
        probe_lr: Learning rate of the probe; the default is the schedule's first value.
        keep_schedule: Step the learning-rate schedule during the probe instead of holding its
            first value.
        isolate_dataset: Probe on a deep copy of the data, for datasets that change when read.
        probe_dataloaders: Loaders for the probe in place of the run's own, for data that can be
            read only once.
        seed: Seed of the redraw; the default is the global seed. Each layer's stream depends on
            this and on the layer's name alone.
        log_summary: Log the outcome to loggers other than TensorBoard, as one row at step 0.
        verbose: Print the report.

    Raises:
        ValueError: If an argument is outside its range.

    **Logged Metrics.** With a TensorBoard logger, the probe has its own run, `<log_dir>/probe`:

    - `OptimalVarianceInit/variance/<layer>`: variance of the layer's weights, per probe step
    - `OptimalVarianceInit/drift/<layer>`: relative change over the horizon, per probe step
    - `OptimalVarianceInit/kl/<layer>`: KL(N(0, V) || N(0, V before)) in nat, per probe step
    - `OptimalVarianceInit/sigma0/<layer>`: standard deviation of the real run's first weights
    - `OptimalVarianceInit/ratio/<layer>`: V over the realised variance before the probe
    - `OptimalVarianceInit/report/text_summary`: the whole report as a table
    - `OptimalVarianceInit/figure/<name>`: figures, if matplotlib is installed

    Other loggers get `sigma0` and `ratio`, once, at step 0.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_init import OptimalVarianceInit
        >>> callback = OptimalVarianceInit(max_probe_steps=2000)
        >>> trainer = Trainer(callbacks=[callback], logger=False)
    """

    def __init__(
        self,
        max_probe_steps: int = 1000,
        on_unsettled: OnUnsettled = "use",
        tolerance: float = 0.10,
        confidence: float = 0.95,
        persistence: int = 4,
        horizon: Literal["run", "probe"] | int = "run",
        sample_every_n_steps: int | None = None,
        granularity: Granularity = "layer",
        largest_change: float | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        probe_lr: float | None = None,
        keep_schedule: bool = False,
        isolate_dataset: bool = False,
        probe_dataloaders: Any | None = None,
        seed: int | None = None,
        log_summary: bool = True,
        verbose: bool = True,
    ) -> None:
        super().__init__(seed)
        _at_least_one("max_probe_steps", max_probe_steps)
        _one_of("on_unsettled", on_unsettled, ("use", "keep", "project", "raise"))
        _one_of("granularity", granularity, ("layer", "global", "gain"))
        if isinstance(horizon, str):
            _one_of("horizon", horizon, ("run", "probe"))
        else:
            _at_least_one("horizon", horizon)
        if sample_every_n_steps is not None:
            _at_least_one("sample_every_n_steps", sample_every_n_steps)
        if largest_change is not None and not largest_change > 1:
            raise ValueError(f"`largest_change` must be above 1, got {largest_change!r}.")
        if probe_lr is not None and not probe_lr > 0:
            raise ValueError(f"`probe_lr` must be above 0, got {probe_lr!r}.")
        self.detector = DetectorSettings(
            tolerance=tolerance, confidence=confidence, persistence=persistence
        )
        self.max_probe_steps = max_probe_steps
        self.on_unsettled = on_unsettled
        self.horizon = horizon
        self.sample_every_n_steps = sample_every_n_steps
        self.granularity = granularity
        self.largest_change = largest_change
        self.include = include
        self.exclude = exclude
        self.limits = ProbeLimits(
            max_steps=max_probe_steps,
            learning_rate=probe_lr,
            keep_schedule=keep_schedule,
            isolate_dataset=isolate_dataset,
            dataloaders=probe_dataloaders,
        )
        self.log_summary = log_summary
        self.verbose = verbose
        self.report: InitReport | None = None
        self._to_log = False

    @property
    def state_key(self) -> str:
        """Tells two instances on one Trainer apart by the layers that they redraw."""
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh on a new run."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.global_step == 0:
            self.report = None
            self._to_log = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe, put everything back, redraw."""
        if not self._is_fresh(trainer):
            return
        skipped = _reason_to_skip(trainer)
        if skipped:
            rank_zero_info(f"OptimalVarianceInit: probe skipped, because {skipped}.")
            return
        _draw_late_weights(trainer, pl_module)
        with preserved_random_state():
            self.report = self._probe_and_redraw(trainer, pl_module)
        self._to_log = True
        if self.verbose and trainer.is_global_zero:
            outputs.show(self.report.table())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the outcome, now that the real run's loggers have opened their files."""
        if self._to_log and self.report is not None:
            self._to_log = False
            with preserved_random_state():
                outputs.log_probe(trainer, self.report, summary=self.log_summary)

    def state_dict(self) -> dict[str, Any]:
        """What was found, so that a checkpoint tells where its first weights came from."""
        return {"report": None if self.report is None else self.report.to_dict()}

    # -------------------------------------------------------------------------------- the probe
    def _probe_and_redraw(self, trainer: Trainer, module: LightningModule) -> InitReport:
        inventory = find_weights(module, self.include, self.exclude)
        require_weights(type(self).__name__, inventory)
        if not self.limits.keep_schedule and self.limits.learning_rate is None:
            _warn_of_zero_learning_rate(trainer)
        monitor, run, initial = self._probe(trainer, module, inventory)
        report = self._report(trainer, inventory, monitor, run, initial)
        if self.on_unsettled == "raise" and not report.converged:
            raise MisconfigurationException(
                f"OptimalVarianceInit(on_unsettled='raise'): {report.stop_reason} Raise"
                " `max_probe_steps` or `tolerance`, or choose on_unsettled='keep'."
            )
        self._redraw(trainer, module, inventory, report)
        return report

    def _probe(
        self, trainer: Trainer, module: LightningModule, inventory: WeightInventory
    ) -> tuple[VarianceMonitor, ProbeRun, list[float]]:
        monitors: list[VarianceMonitor] = []
        initial: list[float] = []
        healthy = True

        with ProbeProgress(trainer, self.max_probe_steps) as progress:

            def on_start(copied: LightningModule, planned_steps: float) -> None:
                monitors.append(self._monitor(inventory, planned_steps))
                initial.extend(monitors[0].measure(copied))

            def on_step(copied: LightningModule, step: int, outputs_of_step: Any) -> bool:
                nonlocal healthy
                healthy = healthy and _finite(outputs_of_step)
                monitor = monitors[0]
                if step % monitor.interval and step < self.max_probe_steps:
                    return False
                if step % monitor.interval == 0:
                    monitor.sample(copied, step)
                self._refuse_divergence(trainer, healthy, monitor, step)
                progress.advance(step, monitor.settled, len(monitor.weights))
                decision: bool = trainer.strategy.reduce_boolean_decision(monitor.all_settled)
                return decision

            run = run_probe(trainer, module, on_step, self.limits, on_start)
        if not monitors or run.steps == 0:
            raise MisconfigurationException(
                "OptimalVarianceInit: the probe took no optimizer step; check that the training"
                " data are not empty and that `training_step` returns a loss."
            )
        return monitors[0], run, initial

    def _monitor(self, inventory: WeightInventory, planned_steps: float) -> VarianceMonitor:
        budget = int(min(self.max_probe_steps, max(1.0, planned_steps)))
        horizons = {"run": planned_steps, "probe": float(self.max_probe_steps)}
        horizon = horizons[self.horizon] if isinstance(self.horizon, str) else float(self.horizon)
        if horizon == float("inf"):  # a run without end: judge over the probe itself
            horizon = float(self.max_probe_steps)
        chosen = self.sample_every_n_steps or max(1, budget // _SAMPLES_PER_PROBE)
        return VarianceMonitor(
            inventory.weights, self.detector, horizon, budget, min(chosen, budget)
        )

    @staticmethod
    def _refuse_divergence(
        trainer: Trainer, healthy: bool, monitor: VarianceMonitor, step: int
    ) -> None:
        lost = monitor.diverged_layers
        if trainer.strategy.reduce_boolean_decision(not healthy or bool(lost), all=False):
            what = f"the variance of {lost[0]!r}" if healthy and lost else "the training loss"
            raise MisconfigurationException(
                f"OptimalVarianceInit: {what} was not finite by probe step {step}, so no variance"
                " can be trusted; lower the learning rate or set `probe_lr`. Nothing was changed."
            )

    # ------------------------------------------------------------------------------ the outcome
    def _report(
        self,
        trainer: Trainer,
        inventory: WeightInventory,
        monitor: VarianceMonitor,
        run: ProbeRun,
        initial: list[float],
    ) -> InitReport:
        layers = layer_reports(
            monitor, initial, self.on_unsettled, self.granularity, self.largest_change
        )
        layers = trainer.strategy.broadcast(layers)
        settled = sum(layer.verdict is Verdict.STATIONARY for layer in layers)
        return InitReport(
            layers=layers,
            left_out=inventory.left_out,
            stop_reason=_stop_reason(run, monitor, settled),
            probe_steps=run.steps,
            horizon_steps=round(monitor.horizon),
            sample_interval=monitor.interval,
            converged=settled == len(layers),
            wall_time=run.seconds,
            history=monitor.history(initial),
            settings=self._settings(),
            notes=_notes(trainer),
        )

    def _redraw(
        self,
        trainer: Trainer,
        module: LightningModule,
        inventory: WeightInventory,
        report: InitReport,
    ) -> None:
        unsettled = [row.name for row in report.layers if row.verdict is not Verdict.STATIONARY]
        if unsettled:
            shown = ", ".join(unsettled[:8]) + (", ..." if len(unsettled) > 8 else "")
            rank_zero_warn(
                f"OptimalVarianceInit: {len(unsettled)} of {len(report.layers)} layers had not"
                f" settled after {report.probe_steps} probe steps ({shown});"
                f" on_unsettled={self.on_unsettled!r} decides what they get. Raise"
                " `max_probe_steps` to probe for longer."
            )
        seed = self._resolve_seed(trainer)
        with shadows_follow(trainer, module):
            for weight, layer in zip(inventory.weights, report.layers, strict=True):
                if layer.action == "redrawn":
                    fill_normal_(module, weight, layer.sigma0, seed)
            synchronize(module)

    def _settings(self) -> tuple[tuple[str, Any], ...]:
        return (
            ("max_probe_steps", self.max_probe_steps),
            ("on_unsettled", self.on_unsettled),
            ("tolerance", self.detector.tolerance),
            ("confidence", self.detector.confidence),
            ("persistence", self.detector.persistence),
            ("horizon", self.horizon),
            ("granularity", self.granularity),
            ("largest_change", self.largest_change),
            ("probe_lr", self.limits.learning_rate),
            ("keep_schedule", self.limits.keep_schedule),
        )


# ------------------------------------------------------------------------------------- functions
def _reason_to_skip(trainer: Trainer) -> str | None:
    if internals.fast_dev_run(trainer):
        return "fast_dev_run only checks that the code runs"
    if trainer.max_epochs == 0 or trainer.max_steps == 0 or trainer.limit_train_batches == 0:
        return "the run trains no step"
    return None


def _draw_late_weights(trainer: Trainer, module: LightningModule) -> None:
    """Let the probe start from the closed-form weights, also when that callback is listed later."""
    for callback in internals.callbacks(trainer):
        if isinstance(callback, FractionalMomentInit):
            callback.draw_late_weights(trainer, module)


def _warn_of_zero_learning_rate(trainer: Trainer) -> None:
    rates = [float(g["lr"]) for optimizer in trainer.optimizers for g in optimizer.param_groups]
    if any(rate == 0 for rate in rates):
        rank_zero_warn(
            "OptimalVarianceInit: the schedule starts at learning rate 0, at which the probe"
            " cannot move; set `probe_lr` or `keep_schedule=True`."
        )


def _finite(outputs_of_step: Any) -> bool:
    loss = outputs_of_step.get("loss") if isinstance(outputs_of_step, dict) else outputs_of_step
    return not isinstance(loss, torch.Tensor) or bool(torch.isfinite(loss).all())


def _stop_reason(run: ProbeRun, monitor: VarianceMonitor, settled: int) -> str:
    layers = f"{settled} of {len(monitor.weights)} layers settled"
    horizon = f"a horizon of {round(monitor.horizon)} steps"
    if run.end is ProbeEnd.SETTLED:
        return (
            f"The probe stopped after {run.steps} optimizer steps, because all"
            f" {len(monitor.weights)} layers had settled over {horizon}."
        )
    if run.end is ProbeEnd.BUDGET:
        return (
            f"The probe stopped at its budget of {run.steps} optimizer steps, with {layers}"
            f" over {horizon}."
        )
    return (
        f"The probe stopped after {run.steps} optimizer steps at the run's own limit, with"
        f" {layers} over {horizon}."
    )


def _notes(trainer: Trainer) -> tuple[str, ...]:
    kinds = {type(optimizer).__name__ for optimizer in trainer.optimizers}
    if kinds - {"SGD"}:
        return (f"The rule is derived for SGD; with {', '.join(sorted(kinds))} it is a heuristic.",)
    return ()


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value!r}.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")
