"""Reports made by hand, as fixtures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from lightning_init.inspection.weights import LeftOut
from lightning_init.monitoring.run_series import VarianceHistory
from lightning_init.reporting.records import LayerReport
from lightning_init.reporting.report import InitReport
from lightning_init.stationarity.decision import Verdict

STATIONARY_LAYER = LayerReport(
    name="net.0",
    shape=(64, 32),
    fan_in=32,
    initial_variance=0.02,
    variance=0.03,
    drift_index=0.04,
    drift_lower=0.01,
    drift_upper=0.07,
    standard_error=0.002,
    verdict=Verdict.STATIONARY,
    fired_at_step=300,
    projected=0.031,
    projected_lower=0.029,
    projected_upper=0.033,
    sigma0=math.sqrt(0.03),
    action="redrawn",
    relaxation_steps=250.0,
    drive=0.0041,
    decay=0.004,
    steady_state=0.0307,
    noise_steady_state=0.025,
)


@pytest.fixture
def layer() -> LayerReport:
    return STATIONARY_LAYER


@pytest.fixture(scope="session")
def report() -> InitReport:
    """Three layers: stationary, drifting, and one of which nothing is known."""
    drifting = replace(
        STATIONARY_LAYER,
        name="net.2",
        shape=(64, 64),
        fan_in=64,
        variance=0.0201,
        sigma0=math.sqrt(0.0201),
        drift_index=0.4,
        drift_lower=0.3,
        drift_upper=0.5,
        verdict=Verdict.DRIFTING,
        fired_at_step=None,
    )
    unknown = replace(
        STATIONARY_LAYER,
        name="head",
        shape=(10, 64),
        fan_in=64,
        variance=math.nan,
        sigma0=math.sqrt(0.02),
        drift_index=math.nan,
        drift_lower=math.nan,
        drift_upper=math.nan,
        standard_error=math.nan,
        projected=math.nan,
        verdict=Verdict.INVALID,
        fired_at_step=None,
        action="kept",
        note="not finite from step 7 on",
    )
    return InitReport(
        layers=(STATIONARY_LAYER, drifting, unknown),
        left_out=(LeftOut("embedding", (1000, 64), "frozen (requires_grad=False)"),),
        stop_reason="The budget of 1000 probe steps was spent.",
        probe_steps=1000,
        horizon_steps=20_000,
        sample_interval=500,
        converged=False,
        wall_time=12.34,
        history=VarianceHistory(
            steps=(0, 500, 1000),
            layers=("net.0", "net.2", "head"),
            variances=((0.02, 0.029, 0.03), (0.02, 0.0199, 0.0201), (0.02, math.nan, math.nan)),
            drifts=((math.nan, 0.1, 0.04), (math.nan, 0.2, 0.4), (math.nan,) * 3),
        ),
        settings=(("max_probe_steps", 1000), ("exclude", ("*.norm",)), ("limit", math.inf)),
        notes=("Adam has no steady state of this form: a heuristic.",),
    )


@pytest.fixture
def large_report() -> Callable[[int], InitReport]:
    """Return a maker of reports with many layers; layer i changes by i parts in a thousand."""

    def make(count: int) -> InitReport:
        layers = tuple(
            replace(
                STATIONARY_LAYER,
                name=f"encoder.layers.{i}.self_attn.out_proj",
                variance=0.02 * (1 + i / 1000),
            )
            for i in range(count)
        )
        return InitReport(layers, (), "Every layer is stationary.", 1000, 5000, 10, True, 1.0)

    return make
