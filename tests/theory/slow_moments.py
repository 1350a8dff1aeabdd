"""Independent slow versions of the moments of Q: closed sums and another integral identity.

None of these share code or formulas with the package: binomial mixtures of chi moments (and of
Gauss's hypergeometric function for two slopes) in log space, and the first-order Laplace identities
by adaptive quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import integrate, special


def log_chi_moment(m: np.ndarray, s: float) -> np.ndarray:
    """log E chi_m^s."""
    return s / 2 * math.log(2.0) + special.gammaln((m + s) / 2) - special.gammaln(m / 2)


def log_binomial(m: int, p: float) -> np.ndarray:
    k = np.arange(m + 1)
    coefficient = special.gammaln(m + 1) - special.gammaln(k + 1) - special.gammaln(m - k + 1)
    return coefficient + special.xlogy(k, p) + special.xlog1py(m - k, -p)


def linear_moment(m: int, s: float) -> float:
    return float(np.exp(log_chi_moment(np.array(float(m)), s)))


def relu_moment(m: int, s: float) -> float:
    k = np.arange(1, m + 1)
    return float(np.exp(special.logsumexp(log_binomial(m, 0.5)[1:] + log_chi_moment(k, s))))


def leaky_moment(m: int, s: float, slope: float) -> float:
    """chi2_k + a^2 chi2_{m-k} = chi2_m (1 - (1 - a^2) Beta((m-k)/2, k/2)), |a| <= 1."""
    k = np.arange(m + 1)
    beta_part = special.hyp2f1(-s / 2, (m - k) / 2, m / 2, 1 - slope**2)
    mixture = np.exp(special.logsumexp(log_binomial(m, 0.5), b=beta_part))
    return float(mixture * linear_moment(m, s))


def with_dropout(moment: Callable[[int], float], m: int, s: float, dropout: float) -> float:
    keep = 1.0 - dropout
    counts = np.exp(log_binomial(m, keep))
    terms = [counts[n] * moment(n) for n in range(1, m + 1) if counts[n] > 1e-25]
    return math.fsum(terms) * keep**-s


def transform_moment(deficit: Callable[[float], float], m: int, s: float) -> float:
    """E Q^r = r / Gamma(1-r) * integral (1 - M1(t)^m) t^(-r-1) dt, r = s/2; deficit = 1 - M1."""
    r = s / 2
    value, _ = integrate.quad(
        lambda u: (
            -math.expm1(m * math.log1p(-min(deficit(math.exp(u)), 1 - 1e-16))) * math.exp(-r * u)
        ),
        -35.0 / (1 - r),
        35.0 / r,
        points=[-10.0, -5.0, 0.0, 5.0, 10.0, 20.0],
        limit=400,
        epsabs=0.0,
        epsrel=1e-11,
    )
    return r / math.gamma(1 - r) * value


def transform_mean_log(deficit: Callable[[float], float], m: int) -> float:
    """E log Q = integral (exp(-e^u) - M(e^u)) du for a law without dead atom."""

    def difference(u: float) -> float:
        t = math.exp(u)
        return math.exp(-t) - math.exp(m * math.log1p(-min(deficit(t), 1 - 1e-16)))

    pieces = [
        integrate.quad(difference, left, right, limit=200, epsabs=1e-13)[0]
        for left, right in ((-45.0, -5.0), (-5.0, 0.0), (0.0, 5.0), (5.0, 20.0), (20.0, 100.0))
    ]
    return math.fsum(pieces)


def rrelu_deficit(lower: float, upper: float) -> Callable[[float], float]:
    """1 - E exp(-t phi(z)^2), slope uniform on [lower, upper], by quadrature over the slope."""

    def deficit(t: float) -> float:
        spike = 1.0 / math.sqrt(2.0 * t)
        inside = [x for x in (-10 * spike, -spike, 0.0, spike, 10 * spike) if lower < x < upper]
        negative, _ = integrate.quad(
            lambda a: -math.expm1(-0.5 * math.log1p(2.0 * a * a * t)),
            lower,
            upper,
            points=inside or None,
            epsabs=0.0,
            epsrel=1e-12,
            limit=200,
        )
        positive = -math.expm1(-0.5 * math.log1p(2.0 * t))
        return 0.5 * positive + 0.5 * negative / (upper - lower)

    return deficit


def single_input_moment(atoms: list[tuple[float, float]], s: float) -> float:
    """m = 1: E|phi(z)|^s = E|z|^s sum_j w_j b_j^(s/2)."""
    absolute = 2 ** (s / 2) * math.gamma((1 + s) / 2) / math.sqrt(math.pi)
    return absolute * math.fsum(weight * scale ** (s / 2) for scale, weight in atoms if scale > 0)


def uniform_power_mean(lower: float, upper: float, s: float) -> float:
    """E|A|^s, A ~ U[lower, upper]."""

    def antiderivative(x: float) -> float:
        return math.copysign(abs(x) ** (s + 1) / (s + 1), x)

    return (antiderivative(upper) - antiderivative(lower)) / (upper - lower)
