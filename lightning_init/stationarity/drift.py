"""The drift index: by how much log V would change over the horizon if it went on as it does now.

Null-hypothesis tests for a trend accept noisy series and reject quiet ones, which is the wrong way
round for a variance that averages over thousands of weights. The drift index is an equivalence
test instead: log V is called steady at relative tolerance `d` over a horizon of `H` samples when
the upper confidence limit of `|d log V / dt| * H` is at most `d`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_init.stationarity.student import student_t_quantile

FloatArray = NDArray[np.float64]

FITTED_COEFFICIENTS = 3
LARGEST_AUTOCORRELATION = 0.8


class TrendFit(NamedTuple):
    """Least-squares fit of a level, a slope and a curvature to batch means of log V.

    The window has unit length and is centred at x = 0, so `slope` is the fitted change of log V
    across the window and `slope + curvature` the rate at its end. Standard errors allow for the
    lag-one autocorrelation that is left between batch means.

    Attributes:
        slope: Change of log V per window length.
        curvature: Coefficient of x^2 - mean(x^2).
        noise: Standard deviation of one batch mean, inflated for autocorrelation.
        slope_standard_error: Of `slope`.
        end_slope_standard_error: Of `end_slope`.
        end_level: Fitted log V at the end of the window.
        end_level_standard_error: Of `end_level`.
        window: Samples in the window.
        batches: Batch means in the window.
    """

    slope: float
    curvature: float
    noise: float
    slope_standard_error: float
    end_slope_standard_error: float
    end_level: float
    end_level_standard_error: float
    window: int
    batches: int

    @property
    def end_slope(self) -> float:
        """Rate of change of log V at the end of the window, per window length."""
        return self.slope + self.curvature

    @property
    def degrees_of_freedom(self) -> int:
        """Batches left after the three fitted coefficients."""
        return self.batches - FITTED_COEFFICIENTS


class DriftIndex(NamedTuple):
    """Drift of log V over the horizon, with its confidence band.

    Attributes:
        drift_index: |d log V / dt| times the horizon, from the mean slope of the window or, where
            the window is significantly curved, from the slope at its end.
        lower: Lower one-sided confidence limit, at least 0.
        upper: Upper one-sided confidence limit.
        fit: The fit behind it.
    """

    drift_index: float
    lower: float
    upper: float
    fit: TrendFit


@lru_cache(maxsize=16)
def _design(batches: int) -> tuple[FloatArray, FloatArray, float]:
    """Position and parabola as rows, their squared norms, and the parabola at the window's end."""
    position = (np.arange(batches) + 0.5) / batches - 0.5
    mean_square = float(np.mean(position**2))
    rows = np.stack([position, position**2 - mean_square])
    return rows, (rows**2).sum(axis=1), 0.25 - mean_square


def window_length(samples: int, fraction: float, batches: int) -> int:
    """Samples in the window: the last `fraction` of the series, a whole number of batches."""
    return math.floor(samples * fraction) // batches * batches


def fit_trend(log_values: FloatArray, batches: int) -> TrendFit:
    """Fit level, slope and curvature to batch means.

    Args:
        log_values: log V over one window, shape (window,), `window` a multiple of `batches`.
        batches: Number of equal batches that the window is cut into, at least 4.
    """
    rows, row_squares, end_parabola = _design(batches)
    # The reductions themselves: `mean` takes three times as long for so few numbers.
    means = np.add.reduce(log_values.reshape(batches, -1), axis=1) * (batches / len(log_values))
    level = float(np.add.reduce(means)) / batches
    centred = means - level
    coefficients = (rows @ centred) / row_squares
    residual = centred - coefficients @ rows
    squares = float(residual @ residual)
    variance = squares / (batches - FITTED_COEFFICIENTS) * _inflation(residual, squares)
    slope, curvature = coefficients.tolist()
    slope_variance, curvature_variance = (variance / row_squares).tolist()
    return TrendFit(
        slope=slope,
        curvature=curvature,
        noise=math.sqrt(variance),
        slope_standard_error=math.sqrt(slope_variance),
        end_slope_standard_error=math.sqrt(slope_variance + curvature_variance),
        end_level=level + slope / 2 + curvature * end_parabola,
        end_level_standard_error=math.sqrt(
            variance / batches + slope_variance / 4 + curvature_variance * end_parabola**2
        ),
        window=len(log_values),
        batches=batches,
    )


def end_drift_index(fit: TrendFit, horizon: float, confidence: float) -> float:
    """Upper limit of |rate of log V at the end of the window| times the horizon.

    Args:
        fit: From `fit_trend`.
        horizon: Samples over which log V must stay put.
        confidence: One-sided level of the limit, in [0.5, 1).
    """
    margin = student_t_quantile(confidence, fit.degrees_of_freedom) * fit.end_slope_standard_error
    return (abs(fit.end_slope) + margin) * horizon / fit.window


def _inflation(residual: FloatArray, squares: float) -> float:
    """Factor (1 + rho) / (1 - rho) on the variance of a mean of autocorrelated batches."""
    if squares == 0:
        return 1.0
    # 2 / batches makes up for the downward bias of an autocorrelation taken from residuals.
    autocorrelation = float(residual[1:] @ residual[:-1]) / squares + 2 / len(residual)
    rho = min(max(autocorrelation, 0.0), LARGEST_AUTOCORRELATION)
    return (1 + rho) / (1 - rho)


def drift_index(fit: TrendFit, horizon: float, confidence: float = 0.95) -> DriftIndex:
    """Drift index of a fitted window over a horizon.

        D = max(|b1|, max(0, |b1 + b2| - t se(b1 + b2))) * H / W,   band D -+ t se(b1) H / W

    with slope `b1` and curvature `b2` per window length, `W` samples in the window and the
    one-sided Student quantile `t`, rounded to three decimals as tables print it.

    Args:
        fit: From `fit_trend`.
        horizon: Samples over which log V must stay put.
        confidence: One-sided level of each limit, in [0.5, 1).

    Example:
        >>> import numpy as np
        >>> growth = 0.001 * np.arange(100.0)
        >>> round(drift_index(fit_trend(growth, batches=10), horizon=400).drift_index, 9)
        0.4
    """
    quantile = round(student_t_quantile(confidence, fit.degrees_of_freedom), 3)
    surely_curved = abs(fit.end_slope) - quantile * fit.end_slope_standard_error
    drift = max(abs(fit.slope), surely_curved)
    margin = quantile * fit.slope_standard_error
    windows = horizon / fit.window
    return DriftIndex(
        drift_index=drift * windows,
        lower=max(0.0, drift - margin) * windows,
        upper=(drift + margin) * windows,
        fit=fit,
    )
