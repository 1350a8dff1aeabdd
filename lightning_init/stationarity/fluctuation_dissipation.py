"""The balance of fluctuation and dissipation: a second, independent look at stationarity.

For `torch.optim.SGD` with momentum `b`, dampening 0 and coupled weight decay, `g` the gradient with
the decay term and `v` the momentum buffer *after* the step,

    v = b v_before + g,     w_after = w - h v,

stationarity of E|w|^2 and E<w, v> alone, for any loss and any noise, requires

    E<w, g> = h (1 + b) / 2 * E|v|^2                                                        (*)

(subtract E|w_after|^2 = E|w|^2 - 2 h E<w, v> + h^2 E|v|^2 and use <w_after, v> = <w, v> - h |v|^2).
`w` is taken before the step, about 0. With b = 0 this is Yaida's first fluctuation-dissipation
relation; the test is that of SASA, an equivalence test of (*) on batch means.

The sum of the difference of both sides over *consecutive* steps telescopes:

    sum_t (<w, g> - h (1 + b) / 2 |v|^2) = (1 - b) / (2 h) * (|w_first|^2 - |w_last|^2) + ends

so (*) is the drift of the raw second moment of the weights in other words: `2 h / ((1 - b) |w|^2)`
times the difference is minus the rate of log |w|^2. Samples that lie some steps apart do not
telescope and carry the noise of single minibatches, which is why V and its drift index decide and
the balance stands beside them: it needs gradients, but no history of V.

References:
    Yaida 2018, arXiv 1810.00004, Fluctuation-dissipation relations for stochastic gradient descent.
    Lang, Zhang & Xiao 2019, arXiv 1909.09756, Using statistics to automate stochastic optimization.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lightning_init.stationarity.buffer import AppendOnlySeries
from lightning_init.stationarity.decision import Verdict
from lightning_init.stationarity.drift import FloatArray, window_length
from lightning_init.stationarity.student import student_t_quantile

BATCHES = 10
WINDOW_FRACTION = 0.5
MINIMUM_SAMPLES = 40


class BalanceState(NamedTuple):
    """Running sums of one layer; made by `start_balance`.

    Attributes:
        learning_rate: Step size of every sample.
        momentum: Heavy-ball coefficient.
        dissipation: Series of <w, g>.
        fluctuation: Series of h (1 + b) / 2 |v|^2.
    """

    learning_rate: float
    momentum: float
    dissipation: AppendOnlySeries
    fluctuation: AppendOnlySeries


@dataclass(frozen=True)
class Balance:
    """Whether dissipation and fluctuation balance over the last half of the samples.

    Attributes:
        verdict: `stationary` if the imbalance is within the tolerance with confidence, `drifting`
            if it is outside with confidence, else `inconclusive`; `invalid` for non-finite samples.
        imbalance: mean <w, g> / mean h (1 + b) / 2 |v|^2 - 1; positive while |w|^2 shrinks, nan
            with too few samples.
        standard_error: Of `imbalance`, from batch means.
        samples: Samples seen.
    """

    verdict: Verdict
    imbalance: float
    standard_error: float
    samples: int


def start_balance(learning_rate: float, momentum: float = 0.0) -> BalanceState:
    """Begin; begin again after the learning rate changed.

    Raises:
        ValueError: If an argument is outside its range.
    """
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(
            f"`learning_rate` must be positive and finite, got {learning_rate}; "
            "read it from the optimizer's parameter group."
        )
    if not 0 <= momentum < 1:
        raise ValueError(f"`momentum` must be in [0, 1), got {momentum}; use 0.9 or 0.0.")
    return BalanceState(learning_rate, momentum, AppendOnlySeries(), AppendOnlySeries())


def update_balance(
    state: BalanceState, weight_dot_gradient: float, buffer_squares: float
) -> BalanceState:
    """Take one step into account; `state` itself is unchanged.

    Args:
        state: So far.
        weight_dot_gradient: <w, g> of the layer: weights before the step, gradient with the
            coupled weight decay term.
        buffer_squares: |v|^2 of the layer: squared norm of the momentum buffer after the step; of
            the gradient itself without momentum.
    """
    scale = state.learning_rate * (1 + state.momentum) / 2
    return BalanceState(
        state.learning_rate,
        state.momentum,
        dissipation=state.dissipation.append(weight_dot_gradient),
        fluctuation=state.fluctuation.append(scale * buffer_squares),
    )


def balance(state: BalanceState, tolerance: float = 0.05, confidence: float = 0.95) -> Balance:
    """What the samples so far say.

    Args:
        state: So far.
        tolerance: Largest relative imbalance that counts as none.
        confidence: One-sided confidence level, in [0.5, 1).

    Raises:
        ValueError: If `tolerance` is not positive or `confidence` is outside its range.

    Example:
        >>> state = start_balance(learning_rate=0.1)
        >>> for step in range(40):
        ...     state = update_balance(state, weight_dot_gradient=0.5, buffer_squares=10.0)
        >>> balance(state).verdict.value
        'stationary'
    """
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive, got {tolerance}; use 0.05.")
    quantile = student_t_quantile(confidence, BATCHES - 1)
    samples = state.dissipation.length
    dissipation, fluctuation = state.dissipation.values, state.fluctuation.values
    if not (np.isfinite(dissipation).all() and np.isfinite(fluctuation).all()):
        return Balance(Verdict.INVALID, math.nan, math.nan, samples)
    if samples < MINIMUM_SAMPLES:
        return Balance(Verdict.INCONCLUSIVE, math.nan, math.nan, samples)
    imbalance, standard_error = _imbalance(dissipation, fluctuation)
    verdict = _verdict(abs(imbalance), quantile * standard_error, tolerance)
    return Balance(verdict, imbalance, standard_error, samples)


def _imbalance(dissipation: FloatArray, fluctuation: FloatArray) -> tuple[float, float]:
    """Ratio of means minus 1, with the standard error of a ratio of batch means."""
    window = window_length(len(dissipation), WINDOW_FRACTION, BATCHES)
    dissipated = dissipation[-window:].reshape(BATCHES, -1).mean(axis=1)
    injected = fluctuation[-window:].reshape(BATCHES, -1).mean(axis=1)
    scale = float(injected.mean())
    if scale == 0:
        return math.nan, math.nan
    ratio = float(dissipated.mean()) / scale
    spread = float(np.std(dissipated - ratio * injected, ddof=1))
    return ratio - 1, spread / math.sqrt(BATCHES) / scale


def _verdict(size: float, margin: float, tolerance: float) -> Verdict:
    if size + margin <= tolerance:
        return Verdict.STATIONARY
    return Verdict.DRIFTING if size - margin > tolerance else Verdict.INCONCLUSIVE
