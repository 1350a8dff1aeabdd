"""Where V will be at the end of the horizon, with an interval.

What a variance does next cannot be seen from its present rate: it may relax towards a plateau, as
under weight decay, or grow on without end. So curves of one shape parameter are fitted, each

    log V(t) = a + b s(t / n),   s(u) = exp(-u / tau)  or  (u^p - 1) / p  (log u for p = 0)

to batch means over the last half of the `n` samples, and each is judged by what it would have said
before: fitted to the last half of the first `m` samples, by how much did it miss the end of the
series? With `m` so chosen that `n / m - 1` spreads up to the lead that is asked for (or to 1, if
that is longer), the mean square of those errors, scaled with the lead beyond it, plus the sampling
variance of the extrapolated line, is the curve's variance e_k^2. The curves are mixed with weights
1 / e_k^2, and the variance of the mixture is

    sum_k w_k (e_k^2 + (prediction_k - mean)^2).

Nothing is tuned but the grid of shapes: a curve that misleads here counts little here. What the
series itself has not hinted at, such as a turning point or a drop of the learning rate that is
still to come, is not in the interval. Measured coverage: docs/verdict_on_real_training.md on real
training, tests/benchmarks/detector_characteristics.py on simulated series.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lightning_init.stationarity.drift import FITTED_COEFFICIENTS, FloatArray, fit_trend
from lightning_init.stationarity.student import student_t_quantile

BATCHES = 10
#: Below this many samples half of a half does not hold one sample per batch.
FEWEST_SAMPLES = 4 * BATCHES
RELAXATION_TIMES = np.array([0.1, 0.15, 0.25, 0.4, 0.65, 1.0, 2.0, 4.0])
POWERS = np.array([-1.0, -0.5, 0.5, 1.0])
# Leads of the backtests, as shares of the longest; none is shorter than the shortest, where the
# fitted window and the end that it should predict would be one.
LEAD_SHARES = (0.4, 0.6, 0.8, 1.0)
SHORTEST_LEAD, LONGEST_LEAD = 0.15, 1.0
# A hundredth of a percent of V: no curve is taken to be better than that.
LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class Projection:
    """log V at a time to come.

    Attributes:
        log_value: Mean of the mixture of curves.
        standard_error: Standard deviation of the mixture.
    """

    log_value: float
    standard_error: float

    @property
    def value(self) -> float:
        """Median of the projected V."""
        return _exp(self.log_value)

    def interval(self, coverage: float = 0.90) -> tuple[float, float]:
        """Both ends of an interval for V; the upper is inf beyond the range of a float.

        Args:
            coverage: Nominal coverage, in [0, 1).
        """
        quantile = student_t_quantile((1 + coverage) / 2, BATCHES - FITTED_COEFFICIENTS)
        half_width = quantile * self.standard_error
        return _exp(self.log_value - half_width), _exp(self.log_value + half_width)


def project(log_values: FloatArray, ahead: float) -> Projection:
    """Project a series of log V.

    Args:
        log_values: log V, all samples since the start, shape (samples,), at least 40.
        ahead: Samples from the last one to the time that is asked for, at least 0.

    Example:
        >>> import numpy as np
        >>> growth = np.log(1 + np.arange(600) / 200)  # V doubles, and doubles again
        >>> projection = project(growth[:200], ahead=400)
        >>> low, high = projection.interval()
        >>> round(projection.value, 1), round(low, 1), round(high, 1)
        (4.1, 2.9, 5.8)
    """
    samples = len(log_values)
    lead = ahead / samples
    longest = min(max(lead, SHORTEST_LEAD), LONGEST_LEAD)
    tests = np.maximum(SHORTEST_LEAD, longest * np.array(LEAD_SHARES))
    lengths = [samples, *(int(samples / (1 + test)) for test in tests)]
    pairs = [_batch_means(log_values[:length]) for length in lengths]
    times = np.array([time / length for (time, _), length in zip(pairs, lengths, strict=True)])
    means = np.array([mean for _, mean in pairs])
    # The first row looks ahead, the others at the last batch of the series.
    targets = pairs[0][0][-1] / np.array(lengths)
    targets[0] = 1 + lead
    predictions, leverages = _fit(times, means, targets)
    noise = fit_trend(log_values[-_window(samples) :], BATCHES).noise
    errors = (means[0, -1] - predictions[:, 1:]) * np.maximum(1.0, lead / tests)
    variances = np.mean(errors**2, axis=1) + noise**2 * leverages[:, 0] + LEAST_VARIANCE
    weights = 1 / variances / np.sum(1 / variances)
    mean = float(weights @ predictions[:, 0])
    variance = float(weights @ (variances + (predictions[:, 0] - mean) ** 2))
    return Projection(mean, math.sqrt(variance))


def _window(samples: int) -> int:
    return samples // 2 // BATCHES * BATCHES


def _batch_means(log_values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Times, in samples, and means of the batches of the last half."""
    window = _window(len(log_values))
    times = len(log_values) - window + (np.arange(BATCHES) + 0.5) * window / BATCHES
    return times, log_values[-window:].reshape(BATCHES, -1).mean(axis=1)


def _fit(
    times: FloatArray, means: FloatArray, targets: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Least-squares lines in every shape.

    Args:
        times: Of the batches, relative to the samples fitted, shape (fits, batches).
        means: Of log V, shape (fits, batches).
        targets: Relative times asked for, shape (fits,).

    Returns:
        Predictions and their variances in units of that of a batch mean, shape (shapes, fits).
    """
    shapes = _shapes(times)
    centres = shapes.mean(axis=-1)
    shapes = shapes - centres[..., None]
    squares = np.sum(shapes**2, axis=-1)
    levels = means.mean(axis=-1)
    slopes = np.sum(shapes * (means - levels[:, None]), axis=-1) / squares
    distances = _shapes(targets) - centres
    return levels + slopes * distances, 1 / times.shape[-1] + distances**2 / squares


def _shapes(times: FloatArray) -> FloatArray:
    """Every shape at every time, shape (shapes, *times.shape)."""
    relaxations = np.exp(-np.multiply.outer(1 / RELAXATION_TIMES, times))
    powers = np.power.outer(times, POWERS)
    return np.concatenate([relaxations, np.moveaxis(powers, -1, 0), np.log(times)[None]])


def _exp(exponent: float) -> float:
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf
