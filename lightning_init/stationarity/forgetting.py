"""Does a probe's V depend on where it started?

A trace can be flat because it has reached a steady state, or because the layer hardly moves at all.
Two probes from different initial variances tell these apart: at a steady state they meet. The
surviving share of the initial difference,

    share = (log V_a - log V_b) / (log a - log b),

is 0 when the start is forgotten and 1 when the layer stays where it was put. Where V is an affine
function of the initial variance, as for an Ornstein-Uhlenbeck process stopped after any number of
steps, V(x) = x e + V_inf (1 - e), the two probes also give the fixed point V(x) = x exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist


class ForgettingVerdict(Enum):
    """Whether two probes from different initial variances met."""

    FORGOTTEN = "forgotten"
    REMEMBERS = "remembers"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Forgetting:
    """What two probes say about the memory of the start.

    Attributes:
        verdict: Whether they met.
        surviving_share: Share of the initial difference in log variance that is left.
        standard_error: Of `surviving_share`.
        fixed_point: Initial variance that would come back as itself if V is affine in it; nan
            when the slope is 1 or more, or the root is not positive.
    """

    verdict: ForgettingVerdict
    surviving_share: float
    standard_error: float
    fixed_point: float


@dataclass(frozen=True)
class ProbeEnd:
    """Start and end of one probe of one layer.

    Args:
        start: Realised initial variance.
        end: V at the end of the probe.
        standard_error: Of `end`.
    """

    start: float
    end: float
    standard_error: float = 0.0


def compare_starts(
    first: ProbeEnd, second: ProbeEnd, tolerance: float = 0.10, confidence: float = 0.95
) -> Forgetting:
    """Compare two probes of one layer that started from different variances.

    Args:
        first: One probe.
        second: The other one; its start must differ from the first's.
        tolerance: Largest surviving share that counts as forgotten.
        confidence: One-sided confidence level of the verdict, in (0.5, 1).

    Returns:
        `inconclusive`, with nan values, when a start or an end is not finite and positive.

    Example:
        >>> met = compare_starts(ProbeEnd(0.01, 0.0202, 1e-4), ProbeEnd(0.04, 0.0208, 1e-4))
        >>> met.verdict.value, round(met.surviving_share, 3), round(met.fixed_point, 4)
        ('forgotten', 0.021, 0.0204)
    """
    variances = first.start, second.start, first.end, second.end
    if not all(0 < variance < math.inf for variance in variances):
        return Forgetting(ForgettingVerdict.INCONCLUSIVE, math.nan, math.nan, math.nan)
    distance = math.log(first.start / second.start)
    share = math.log(first.end / second.end) / distance
    relative_errors = [probe.standard_error / probe.end for probe in (first, second)]
    standard_error = math.hypot(*relative_errors) / abs(distance)
    return Forgetting(
        verdict=_verdict(share, standard_error, tolerance, confidence),
        surviving_share=share,
        standard_error=standard_error,
        fixed_point=_affine_fixed_point(first, second),
    )


def _verdict(
    share: float, standard_error: float, tolerance: float, confidence: float
) -> ForgettingVerdict:
    """An equivalence test, as for the drift index: noise alone can never say `forgotten`."""
    margin = NormalDist().inv_cdf(confidence) * standard_error
    if abs(share) + margin <= tolerance:
        return ForgettingVerdict.FORGOTTEN
    if abs(share) - margin > tolerance:
        return ForgettingVerdict.REMEMBERS
    return ForgettingVerdict.INCONCLUSIVE


def _affine_fixed_point(first: ProbeEnd, second: ProbeEnd) -> float:
    """Root of V(x) = x on the line through both probes.

    root = (V_a b - V_b a) / ((b - a) - (V_b - V_a))
    """
    slope = (second.end - first.end) / (second.start - first.start)
    if slope >= 1:
        return math.nan
    gap = (second.start - first.start) * (1 - slope)
    root = (first.end * second.start - second.end * first.start) / gap
    return root if root > 0 else math.nan
