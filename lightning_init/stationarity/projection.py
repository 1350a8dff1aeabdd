"""Where V will be at the end of the horizon, with an interval.

Extrapolated from one window of log V, of unit length, whose fit has level `c`, slope `b1` and
curvature `b2`, over the `r` windows that are left. The rate at the window's end is
`e = b1 + b2`. What it does next cannot be seen from the window: it may go on, or level off as a
relaxation does. So the mean future rate is taken as `u e` with `u` uniform on [0, 1]:

    E[u e] = e / 2,     Var[u e] = se(e)^2 / 3 + e^2 / 12

and the rate itself is let wander by as much per window as it did over this one, 2 b2, which adds
(2 b2)^2 r^3 / 3, the variance of an integrated random walk. With the sampling variance of the
fitted end of the window,

    log V(end) ~ c_end + r e / 2,   variance  se(c_end)^2 + r^2 Var[u e] + 4 b2^2 r^3 / 3.

Measured coverage of the nominal 90% interval (tests/benchmarks/detector_characteristics.py): at
least .87 on series that are stationary, relax, grow or walk at random, mostly above .95, so the
interval is on the wide side; a turning point that is still to come is caught in about .5 to .8 of
the series, and a learning rate that drops after the window not at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_init.stationarity.drift import TrendFit
from lightning_init.stationarity.student import student_t_quantile


@dataclass(frozen=True)
class Projection:
    """V at the end of the horizon.

    Attributes:
        value: Median of the projected V.
        lower: Lower end of the interval.
        upper: Upper end of the interval; inf where it exceeds the range of a float.
    """

    value: float
    lower: float
    upper: float


def project(fit: TrendFit, remaining: float, coverage: float = 0.90) -> Projection:
    """Project V from a fitted window to the end of the horizon.

    Args:
        fit: From `fit_trend`.
        remaining: Samples from the end of the window to the end of the horizon, at least 0.
        coverage: Nominal coverage of the two-sided interval, in [0, 1).

    Example:
        >>> import numpy as np
        >>> from lightning_init.stationarity.drift import fit_trend
        >>> steady = fit_trend(np.full(100, np.log(0.02)), batches=10)
        >>> round(project(steady, remaining=1000).upper, 6)
        0.02
    """
    windows = remaining / fit.window
    rate_variance = fit.end_slope_standard_error**2 / 3 + fit.end_slope**2 / 12
    wander_variance = 4 * fit.curvature**2 * windows / 3
    variance = fit.end_level_standard_error**2 + windows**2 * (rate_variance + wander_variance)
    middle = fit.end_level + windows * fit.end_slope / 2
    quantile = student_t_quantile((1 + coverage) / 2, fit.degrees_of_freedom)
    half_width = quantile * math.sqrt(variance)
    return Projection(
        value=_exp(middle), lower=_exp(middle - half_width), upper=_exp(middle + half_width)
    )


def _exp(exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf
