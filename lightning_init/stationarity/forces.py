"""What moves |w|^2: the drive of the optimizer against the pull of weight decay.

One step w' = (1 - eta lam) w + u, with u all else that the optimizer does, changes the squared
weights S = |w|^2 by exactly

    S' = rho S + G,     rho = (1 - eta lam)^2,     G = 2 (1 - eta lam) <w, u> + |u|^2,

so the drive G follows from consecutive values of S, the learning rate and the decay alone: no
gradient, no momentum buffer, any optimizer, any sharding. Relative to S and per step,

    d log S/dt = drive - decay,     drive = G / S,     decay = 1 - rho ~ 2 eta lam.

Where the two balance S stands still. How it gets there depends on how G depends on S, which the
series shows; each of these laws is linear in S or in S^2, hence one exponential:

    constant   S relaxes by rho per step: Adam-like steps, plain noise in a flat direction
    inverse    S^2 relaxes by rho^2 per step: G ~ 1/S, a weight whose output is normalised, in SGD
    linear     S relaxes by a factor of its own: curvature pulls too, and decay may be absent

The squared weights of many coordinates move by independent increments of variance ~ S, so that the
laws are fitted to increments, not to levels, and told apart by the increments they leave over.

References:
    Kosson, Messmer & Jaggi 2024, arXiv 2305.17212 (equilibrium of SGDM, AdamW, Lion);
    Ding 2026, arXiv 2606.19367 (the split into alignment, injection and decay).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np

from lightning_init.stationarity.drift import FloatArray

# The drive of the present: the last half of the samples.
RECENT = 0.5
# Increments of a fit: more tell nothing new, and each must outlast the optimizer's memory.
MOST_INCREMENTS = 48
FEWEST_INCREMENTS = 6
# While the optimizer's memory fills, |w|^2 has not yet its rate of change.
MEMORIES_TO_SKIP = 3.0
LONGEST_SKIP = 0.25
# A relaxation of its own is believed if it is this many standard errors away from none.
CERTAIN = 3.0
# Standard errors within which the drive of both halves counts as one.
AGREEMENT = 2.0
LARGEST_DECAY = 0.999
# Relative mean square of what rounding of |w|^2 leaves.
ROUNDING = 1e-14


class DriveLaw(Enum):
    """How the drive depends on the squared weights."""

    CONSTANT = "constant"
    INVERSE = "inverse"
    LINEAR = "linear"
    UNKNOWN = "unknown"


# The power of S that relaxes by one exponential.
POWERS = {DriveLaw.CONSTANT: 1, DriveLaw.INVERSE: 2, DriveLaw.LINEAR: 1}
# Twice the log-likelihood that a law must win: strong evidence against the one before it.
EVIDENCE = {DriveLaw.CONSTANT: 0.0, DriveLaw.INVERSE: 10.0, DriveLaw.LINEAR: 15.0}


@dataclass(frozen=True)
class Forces:
    """What moves one layer's squared weights.

    Attributes:
        drive: What the optimizer adds per step, relative to |w|^2, over the last half.
        decay: What weight decay takes per step, relative to |w|^2, over the last half.
        relaxation_steps: Steps in which a distance from the steady state falls by 1/e; inf where
            nothing pulls back, nan if unknown.
        steady_ratio: |w|^2 where the forces balance, over the present one; nan where they never do.
        law: How the drive depends on |w|^2, as far as the series tells.
    """

    drive: float = math.nan
    decay: float = math.nan
    relaxation_steps: float = math.nan
    steady_ratio: float = math.nan
    law: DriveLaw = DriveLaw.UNKNOWN


class _Fit(NamedTuple):
    """A law with the steady state of S^power, the rate per step, and what it leaves over."""

    law: DriveLaw
    steady: float
    rate: float
    score: float


def decay_per_step(
    learning_rate: float, weight_decay: float, momentum: float = 0.0, coupled: bool = False
) -> float:
    """Share of |w|^2 that weight decay takes in one step.

    Args:
        learning_rate: Step size.
        weight_decay: Decay coefficient.
        momentum: Heavy-ball coefficient; with coupled decay eta / (1 - b) takes eta's place.
        coupled: Whether decay is part of the gradient, as in `torch.optim.SGD`.

    Example:
        >>> round(decay_per_step(0.01, 0.1), 6), round(decay_per_step(0.01, 0.1, 0.9, True), 6)
        (0.001999, 0.0199)
    """
    pull = learning_rate * weight_decay / (1 - momentum if coupled else 1)
    return pull * (2 - pull)


def noise_steady_state(learning_rate: float, weight_decay: float) -> float:
    """Variance at which decay balances Adam-like steps of pure noise.

    A normalised gradient of pure noise has unit variance per step in the long run, whatever the
    moving average, so V = eta / (2 lam - eta lam^2): independent of width, depth and loss. A
    persistent gradient adds alignment and raises V above it. Nan without decay.

    Example:
        >>> round(noise_steady_state(0.01, 0.1), 6)
        0.050025
    """
    if not (learning_rate > 0 and weight_decay > 0):
        return math.nan
    return learning_rate / (weight_decay * (2 - learning_rate * weight_decay))


def split_forces(
    steps: Sequence[float],
    squares: Sequence[float],
    decays: Sequence[float],
    memory_steps: float = 0.0,
) -> Forces:
    """Split the motion of one layer's squared weights into drive and decay.

    Args:
        steps: Optimizer steps of the samples, increasing.
        squares: |w|^2 at each of them, up to a common factor.
        decays: `decay_per_step` at each of them.
        memory_steps: Steps over which the optimizer averages, 1 / (1 - b).

    Example:
        >>> steps = list(range(0, 2000, 20))
        >>> forces = split_forces(steps, [2 - 0.999**step for step in steps], [0.001] * 100)
        >>> forces.law.value, round(forces.relaxation_steps, -1), round(forces.steady_ratio, 2)
        ('constant', 1000.0, 1.07)
    """
    at, size, decay = (np.asarray(series, dtype=np.float64) for series in (steps, squares, decays))
    if len(at) < 3 or not (np.isfinite(size).all() and np.isfinite(decay).all() and size.min() > 0):
        return Forces()
    at, size, decay = (series[_settled(at, memory_steps) :] for series in (at, size, decay))
    gaps, decay = np.diff(at), (decay[1:] + decay[:-1]) / 2
    half = min(int(np.searchsorted(at, (1 - RECENT) * at[-1] + RECENT * at[0])), len(gaps) - 1)
    pull = _mean(decay[half:], gaps[half:])
    middle = (size[1:] + size[:-1]) / 2
    gained = _gains(size, decay, gaps)[half:] * gaps[half:]
    drive = float(gained.sum() / (middle * gaps)[half:].sum())
    found = _best_fit(at, size, decay, memory_steps)
    if found is None:
        return Forces(drive, pull, 1 / pull if pull > 0 else math.inf)
    power = POWERS[found.law]
    steady = found.steady
    if found.law is not DriveLaw.LINEAR:
        steady = _balance(size**power, 1 - (1 - decay) ** power, gaps, half)
    ratio = steady ** (1 / power) / float(size[-1]) if steady > 0 else math.nan
    return Forces(drive, pull, 1 / found.rate, ratio, found.law)


def _mean(values: FloatArray, weights: FloatArray) -> float:
    return float(values @ weights) / float(weights.sum())


def _settled(at: FloatArray, memory_steps: float) -> int:
    """The first sample after the transient in which the optimizer's memory fills."""
    if memory_steps <= 1:
        return 0
    skipped = min(MEMORIES_TO_SKIP * memory_steps, LONGEST_SKIP * (at[-1] - at[0]))
    return min(int(np.searchsorted(at, at[0] + skipped)), len(at) - 3)


def _gains(size: FloatArray, decay: FloatArray, gaps: FloatArray) -> FloatArray:
    """G per step between neighbours: what is there beyond what decay has left of the first."""
    kept = np.exp(gaps * np.log1p(-np.minimum(decay, LARGEST_DECAY)))
    lost = 1 - kept
    steps = np.divide(lost, decay, where=decay > 0, out=gaps.copy())
    gains: FloatArray = (size[1:] - kept * size[:-1]) / steps
    return gains


def _balance(size: FloatArray, decay: FloatArray, gaps: FloatArray, half: int) -> float:
    """Where gain and decay are equal, by the last half, or by all if both halves agree.

    In real training the first steps are a transient, and only there the halves differ.
    """
    gains = _gains(size, decay, gaps)
    means, errors = [], []
    for part in (slice(None, half), slice(half, None)):
        known = gains[part]
        means.append(_mean(known, gaps[part]) if len(known) else math.inf)
        errors.append(float(known.var()) / max(1, len(known) - 1) if len(known) else 0.0)
    agree = abs(means[1] - means[0]) <= AGREEMENT * math.sqrt(sum(errors))
    part = slice(None) if agree else slice(half, None)
    gain, lost = (_mean(v[part], gaps[part]) for v in (gains, decay))
    return gain / lost


def _best_fit(
    at: FloatArray, size: FloatArray, decay: FloatArray, memory_steps: float
) -> _Fit | None:
    """The law whose increments leave least over for its number of parameters."""
    chosen = _evenly_spaced(at, memory_steps)
    if len(chosen) <= FEWEST_INCREMENTS:
        return None
    # The sum of log(1 - decay) up to each sample, so that thinned increments add up.
    left = np.append(0.0, np.cumsum(np.diff(at) * np.log1p(-np.minimum(decay, LARGEST_DECAY))))
    gap, size = float(np.diff(at[chosen]).mean()), size[chosen]
    kept = np.exp(np.diff(left[chosen]))
    fits = [_own_rate(size, gap)]
    if decay.min() > 0:
        fits += [
            _given_rate(DriveLaw.CONSTANT, size, kept, gap),
            _given_rate(DriveLaw.INVERSE, size, kept**2, gap),
        ]
    return min((fit for fit in fits if fit is not None), key=lambda fit: fit.score, default=None)


def _evenly_spaced(at: FloatArray, memory_steps: float) -> list[int]:
    """Samples at equal distances, from the last one backwards."""
    usual = float(np.median(np.diff(at[len(at) // 2 :])))
    wanted = max((at[-1] - at[0]) / MOST_INCREMENTS, memory_steps, usual)
    gap = usual * max(1.0, round(wanted / usual))
    targets = np.arange(at[-1], at[0] - 0.5 * usual, -gap)[::-1]
    nearest = np.searchsorted((at[1:] + at[:-1]) / 2, targets)
    return sorted(set(nearest.tolist()))


def _given_rate(law: DriveLaw, size: FloatArray, kept: FloatArray, gap: float) -> _Fit | None:
    """S^power relaxes by what decay leaves; its steady state is the one unknown."""
    power = POWERS[law]
    before, after = size[:-1] ** power, size[1:] ** power
    weight = (1 - kept) / before ** _noise_power(power)
    steady = float((weight * (after - kept * before)).sum() / (weight * (1 - kept)).sum())
    predicted = kept * before + (1 - kept) * steady
    rate = -float(np.log(kept).mean()) / gap
    return _scored(law, steady, rate, size, predicted)


def _own_rate(size: FloatArray, gap: float) -> _Fit | None:
    """S relaxes by a factor of its own; None unless it surely does."""
    before, after = size[:-1], size[1:]
    weight = 1 / before ** _noise_power(1)
    weight /= weight.sum()
    centre, target = float((weight * before).sum()), float((weight * after).sum())
    spread = float((weight * (before - centre) ** 2).sum())
    if not spread > 0:
        return None
    kept = float((weight * (before - centre) * (after - target)).sum()) / spread
    left = after - target - kept * (before - centre)
    error = math.sqrt(float((weight * left**2).sum()) / spread / max(1, len(before) - 2))
    if not (0 < kept < 1 and 1 - kept > CERTAIN * error):
        return None
    steady = (target - kept * centre) / (1 - kept)
    predicted = target + kept * (before - centre)
    rate = -math.log(kept) / gap
    return _scored(DriveLaw.LINEAR, steady, rate, size, predicted)


def _noise_power(power: int) -> float:
    """Increments of S have a variance ~ S, those of S^p one ~ S^(2p - 1) = (S^p)^(2 - 1/p)."""
    return 2 - 1 / power


def _scored(
    law: DriveLaw, steady: float, rate: float, size: FloatArray, predicted: FloatArray
) -> _Fit | None:
    """Score a law by the increments of S that it leaves over, which all laws share."""
    if not (steady > 0 and rate > 0 and predicted.min() > 0):
        return None
    left = (size[1:] - predicted ** (1 / POWERS[law])) / np.sqrt(size[:-1])
    # Rounding of the sums bounds what any law can leave.
    mean_square = float((left**2).mean()) + ROUNDING * float(size.mean())
    return _Fit(law, steady, rate, len(left) * math.log(mean_square) + EVIDENCE[law])
