"""What a probe found, layer by layer: frozen values that know nothing of how they are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_init.inspection.weights import LeftOut
from lightning_init.monitoring.run_series import VarianceHistory
from lightning_init.stationarity.decision import Verdict
from lightning_init.stationarity.forgetting import ForgettingVerdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Histograms of weights that a report keeps: as many as one figure can show.
SHOWN_HISTOGRAMS = 6

# A redraw at sigma0^2 = r V costs (log r + 1/r - 1) / 2 nat per weight, .0006 at r = 1.05.
UNCHANGED_LOG_RATIO = 0.05


@dataclass(frozen=True)
class LayerReport:
    """The outcome of one layer.

    Args:
        name: Layer name, e.g. `net.0`.
        shape: Shape of the weight.
        fan_in: Inputs summed per output unit.
        initial_variance: Realised sample variance of the weights before the first probe.
        variance: V(W), the same moment at the end of the probe.
        drift_index: Relative change of V over the horizon at its present rate; nan if unknown.
        drift_lower: Lower end of the confidence band of `drift_index`; nan if unknown.
        drift_upper: Upper end of the confidence band of `drift_index`; nan if unknown.
        standard_error: Relative standard error of `variance`; nan if unknown.
        verdict: What may be said about V.
        fired_at_step: Probe step at which the verdict became stationary, or None.
        projected: V extrapolated to the end of the horizon; nan if unknown.
        projected_lower: Lower end of the confidence band of `projected`.
        projected_upper: Upper end of the confidence band of `projected`.
        sigma0: Standard deviation of the first weights of the real run: that of the draw, or, for
            a kept layer, the root of `initial_variance`.
        action: `"redrawn"`, `"kept"`, or `"unchanged"` where the rule would change nothing and
            the weights stay as they are, bit for bit.
        note: Empty, or a clause or two that the reader should know.
        mean_share: Squared mean of the weights over `variance`; nan if unknown.
        kl_to_initial: KL(N(mean, V) || N(0, `initial_variance`)) in nat per weight, with the
            variance about the mean; nan if unknown.
        excess_kl: What starting from `initial_variance` instead of `variance` costs in the bound,
            in nat per weight; nan if unknown.
        forgetting: Whether V depends on where the probe started; None if it was not asked.
        surviving_share: Share of the difference between two starts that is left in log V.
        implied_variance: Variance that would come back as itself, from two probes; nan if there is
            none or it is unknown.
        reason: Full sentences: why the verdict is what it is, and what can be done in this run.
        learning_rate: Learning rate at which V was measured; nan if no optimizer has the layer.
        peak_learning_rate: Largest learning rate that the planned run will use for it.
        forgotten_share: Share of the initial variance that weight decay will have forgotten at the
            end of the planned run; nan if unknown.
        relaxation_steps: Optimizer steps in which the variance's distance from its steady state
            falls by 1/e; inf where nothing pulls it back, nan if unknown.
        drive: What the optimizer adds to |w|^2 per step, relative to it; nan if unknown.
        decay: What weight decay takes from |w|^2 per step, relative to it; nan if unknown.
        steady_state: V at which drive and decay balance; nan if they never do, or if unknown.
        noise_steady_state: V that AdamW's steps of pure noise would keep, about
            lr / (2 weight_decay); nan for other optimizers and without decay.
        run_variance: V at the end of the real run; nan while it has not ended.
        projection_held: Whether the projection's interval held `run_variance`; None if unknown.
        verdict_held: Whether `stationary` or `drifting` was right in the real run; None if unknown.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int
    initial_variance: float
    variance: float
    drift_index: float
    drift_lower: float
    drift_upper: float
    standard_error: float
    verdict: Verdict
    fired_at_step: int | None
    projected: float
    projected_lower: float
    projected_upper: float
    sigma0: float
    action: str
    note: str = ""
    mean_share: float = math.nan
    kl_to_initial: float = math.nan
    excess_kl: float = math.nan
    forgetting: ForgettingVerdict | None = None
    surviving_share: float = math.nan
    implied_variance: float = math.nan
    reason: str = ""
    learning_rate: float = math.nan
    peak_learning_rate: float = math.nan
    forgotten_share: float = math.nan
    relaxation_steps: float = math.nan
    drive: float = math.nan
    decay: float = math.nan
    steady_state: float = math.nan
    noise_steady_state: float = math.nan
    run_variance: float = math.nan
    projection_held: bool | None = None
    verdict_held: bool | None = None

    @property
    def ratio(self) -> float:
        """V over the realised initial variance; nan when that variance is not positive."""
        return self.variance / self.initial_variance if self.initial_variance > 0 else math.nan

    @property
    def log_ratio(self) -> float:
        """Natural logarithm of `ratio`; nan where it does not exist."""
        ratio = self.ratio
        return math.log(ratio) if 0 < ratio < math.inf else math.nan

    @property
    def unchanged(self) -> bool:
        """Whether the rule changes nothing for this layer: |log ratio| < 0.05."""
        return abs(self.log_ratio) < UNCHANGED_LOG_RATIO


@dataclass(frozen=True)
class GuardOutcome:
    """What a paired trial of redrawn against original weights said.

    Args:
        worse: Whether the redraw was found worse, so that the original weights were kept.
        difference: Mean training loss over the last half of a trial, redrawn minus original,
            averaged over the pairs; nan if it could not be told.
        lower: Lower limit of `difference`.
        upper: Upper limit of `difference`.
        confidence: One-sided confidence level of each limit.
        pairs: Pairs of trials that were compared.
        steps: Optimizer steps of all trials together.
        seconds: Wall time of all trials together.
    """

    worse: bool
    difference: float
    lower: float
    upper: float
    confidence: float
    pairs: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class WeightSample:
    """Some entries of one layer's weights.

    Args:
        name: Layer name.
        sigma0: Standard deviation of the redraw.
        before: Entries before the probe, shape (entries,).
        after: The same entries at its end.
    """

    name: str
    sigma0: float
    before: NDArray[np.float32]
    after: NDArray[np.float32]


@dataclass(frozen=True)
class ProbeRecord:
    """The outcome of a probe, as values.

    Args:
        layers: One entry per weight that took part, in model order.
        left_out: Weights that did not take part, each with its reason.
        stop_reason: Full sentence: why the probe ended.
        probe_steps: Optimizer steps that the probe made, the last one of several rounds; see
            `total_steps`.
        horizon_steps: Optimizer steps over which the verdicts hold.
        sample_interval: Optimizer steps between two samples.
        converged: Whether every monitored layer was stationary.
        wall_time: Duration of everything before the redraw in seconds.
        history: Series of every layer.
        settings: Pairs of setting and value, as the callback was given them.
        notes: Sentences that concern the whole model.
        rounds: Probes made one after the other, each from what the one before asked for.
        other_probe_steps: Optimizer steps of the earlier rounds and of the test of forgetting.
        guard: What the guard's trial said, or None without one.
        planned_steps: Optimizer steps that the run plans, inf without a planned end.
        losses: Mean training loss at the probe's start and at its end; nan without one.
        divergence: Why nothing of the probe can be trusted, as a clause; empty if it can.
        weight_samples: Entries of the layers that drift most, for a histogram; not in `to_dict`.
        restart: Whether the first steps of the probe, run once more after everything was put back,
            were the same; empty if that was not asked.
        same_batches: Of the batches with which the real run began, how many were the probe's.
        compared_batches: How many were compared.
        interrupted: Whether the user ended the probe (Ctrl-C): nothing was changed, and the rows
            say what was known by then.
        probe_batches: How many the probe read.

    `record["net.0"]` is one layer.
    """

    layers: tuple[LayerReport, ...]
    left_out: tuple[LeftOut, ...]
    stop_reason: str
    probe_steps: int
    horizon_steps: int
    sample_interval: int
    converged: bool
    wall_time: float
    history: VarianceHistory = VarianceHistory()
    settings: tuple[tuple[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    rounds: int = 1
    other_probe_steps: int = 0
    guard: GuardOutcome | None = None
    planned_steps: float = math.nan
    losses: tuple[float, float] = (math.nan, math.nan)
    divergence: str = ""
    weight_samples: tuple[WeightSample, ...] = field(default=(), compare=False, repr=False)
    restart: str = ""
    same_batches: int = 0
    compared_batches: int = 0
    interrupted: bool = False
    probe_batches: int = 0

    def __getitem__(self, name: str) -> LayerReport:
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers[:10]) or "none"
        raise KeyError(f"no layer named {name!r} in this report; layers: {known}")

    @property
    def unsettled(self) -> tuple[LayerReport, ...]:
        """Layers of which the probe does not tell what they should get."""
        return tuple(
            layer
            for layer in self.layers
            if layer.verdict is not Verdict.STATIONARY and layer.action != "unchanged"
        )

    @property
    def guard_steps(self) -> int:
        """Optimizer steps of the guard's trials."""
        return 0 if self.guard is None else self.guard.steps

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all probes and trials together: what the report has cost."""
        return self.probe_steps + self.other_probe_steps + self.guard_steps
