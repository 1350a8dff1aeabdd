"""What a probe found, layer by layer: frozen values with a text, Markdown, HTML and JSON form."""

from __future__ import annotations

import dataclasses
import importlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_init.inspection.weights import LeftOut
from lightning_init.reporting import rendering
from lightning_init.stationarity.decision import Verdict
from lightning_init.stationarity.forgetting import ForgettingVerdict

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
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
        initial_variance: Realised sample variance of the weights before the probe.
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
        action: `"redrawn"` or `"kept"`.
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
        balance: For SGD, whether fluctuation and dissipation of |w|^2 balance: a second witness,
            which decides nothing; None where the relation does not hold.
        imbalance: Dissipation over fluctuation minus 1, positive while |w|^2 shrinks; nan if
            unknown.
        imbalance_standard_error: Of `imbalance`.
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
    balance: Verdict | None = None
    imbalance: float = math.nan
    imbalance_standard_error: float = math.nan

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
class VarianceHistory:
    """The series behind a report: one row of numbers per layer, one column per sample.

    Args:
        steps: Probe step of each sample, increasing; 0 is before the first optimizer step.
        layers: Layer names.
        variances: Per layer, V at each of `steps`.
        drifts: Per layer, the drift index at each of `steps`; nan where it was not computed.
    """

    steps: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()
    variances: tuple[tuple[float, ...], ...] = ()
    drifts: tuple[tuple[float, ...], ...] = ()

    def variance(self, layer: str) -> tuple[float, ...]:
        """Return the variances of one layer."""
        return self.variances[self.layers.index(layer)]

    def drift(self, layer: str) -> tuple[float, ...]:
        """Return the drift indices of one layer."""
        return self.drifts[self.layers.index(layer)]


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
class InitReport:
    """The outcome of a probe.

    Args:
        layers: One entry per weight that took part, in model order.
        left_out: Weights that did not take part, each with its reason.
        stop_reason: Full sentence: why the probe ended.
        probe_steps: Optimizer steps that the probe made, the last one of several rounds.
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
        weight_samples: Entries of the layers that drift most, for a histogram; not in `to_dict`.

    `str(report)` is the table, `report["net.0"]` one layer.
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
    weight_samples: tuple[WeightSample, ...] = field(default=(), compare=False, repr=False)

    def __getitem__(self, name: str) -> LayerReport:
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers[:10]) or "none"
        raise KeyError(f"no layer named {name!r} in this report; layers: {known}")

    def __str__(self) -> str:
        return self.table()

    @property
    def drifting_layers(self) -> tuple[str, ...]:
        """Names of the layers whose variance was still moving."""
        return tuple(layer.name for layer in self.layers if layer.verdict is Verdict.DRIFTING)

    @property
    def guard_steps(self) -> int:
        """Optimizer steps of the guard's trials."""
        return 0 if self.guard is None else self.guard.steps

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all probes and trials together: what the report has cost."""
        return self.probe_steps + self.other_probe_steps + self.guard_steps

    def table(self, max_rows: int = 40) -> str:
        """Render as plain text, at most 120 columns wide.

        Args:
            max_rows: Most layers to show. With more than that, those that the rule changes most
                come first and the rest is counted.
        """
        return rendering.text(self, max_rows)

    def markdown(self, max_rows: int = 1000) -> str:
        """Render as Markdown with every column; `max_rows` as in `table`."""
        return rendering.markdown(self, max_rows)

    def _repr_html_(self) -> str:
        return rendering.html(self, max_rows=200)

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers that `json.dumps` accepts; what is not finite becomes None."""
        layers = [{**rendering.plain(layer), "ratio": layer.ratio} for layer in self.layers]
        names = [one.name for one in dataclasses.fields(self) if one.name != "weight_samples"]
        content = {name: getattr(self, name) for name in names}
        return {
            name: rendering.plain(value)
            for name, value in {
                **content,
                "layers": layers,
                "settings": dict(self.settings),
                "guard_steps": self.guard_steps,
                "total_steps": self.total_steps,
            }.items()
        }

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with one row per layer, indexed by layer name.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise ImportError(
                "`to_pandas` needs pandas; install it with `pip install pandas`, or use `to_dict`."
            ) from None
        rows = [{**vars(layer), "ratio": layer.ratio, **_words(layer)} for layer in self.layers]
        return pandas.DataFrame(rows).set_index("name") if rows else pandas.DataFrame()

    def plot(self) -> Figure:
        """Draw the trajectory of every layer's variance, with the steps where it became stationary.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from lightning_init.reporting.figures import variance_trajectories

        fired = {layer.name: layer.fired_at_step for layer in self.layers}
        series = dict(zip(self.history.layers, self.history.variances, strict=True))
        return variance_trajectories(self.history.steps, series, fired)


def _words(layer: LayerReport) -> dict[str, str | None]:
    """The fields that hold an enum, as plain words."""
    named = {"verdict": layer.verdict, "forgetting": layer.forgetting, "balance": layer.balance}
    return {name: None if found is None else found.value for name, found in named.items()}
