"""What the scale promises, on real draws: preserved moments, the log-norm walk, small outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.fractional_moments import moment_preserving_std
from lightning_init.theory.log_norm import log_norm_law

WIDTHS = (50, 32, 64, 16, 48, 24, 40)
NETS = 4000


def _activate(y: np.ndarray, name: str, param: float | None, dropout: float, rng) -> np.ndarray:
    if name == "abs":
        x = np.abs(y)
    elif name == "linear":
        x = y
    else:
        slope: float | np.ndarray = {"relu": 0.0, "leaky_relu": param}.get(name, 0.0) or 0.0
        if name == "rrelu":
            slope = rng.uniform(1 / 8, 1 / 3, y.shape).astype(np.float32)
        x = np.where(y > 0, y, slope * y)
    return x * (rng.random(y.shape) >= dropout) / np.float32(1 - dropout) if dropout else x


def _moment_ratio(case: tuple, order: float, std_order: float) -> tuple[float, float]:
    """E|y_last|^s / E|y_first|^s over real random matrices, with its standard error."""
    name, param, dropout = case
    law = activation_law(name, param, dropout)
    rng = np.random.default_rng(20)
    first, last = np.empty(NETS), np.empty(NETS)
    for start in range(0, NETS, 500):
        y = _dense(
            rng, np.ones((500, WIDTHS[0]), np.float32), WIDTHS[1], 1.0 / math.sqrt(WIDTHS[0])
        )
        first[start : start + 500] = (np.abs(y) ** order).mean(1)
        for fan_in, width in zip(WIDTHS[1:-1], WIDTHS[2:], strict=True):
            std = moment_preserving_std(law, fan_in, std_order)
            y = _dense(rng, _activate(y, name, param, dropout, rng), width, std)
        last[start : start + 500] = (np.abs(y) ** order).mean(1)
    ratio = last.mean() / first.mean()
    error = np.std(last - ratio * first) / (math.sqrt(NETS) * first.mean())
    return float(ratio), float(error)


def _dense(rng: np.random.Generator, x: np.ndarray, width: int, std: float) -> np.ndarray:
    weights = rng.standard_normal((len(x), width, x.shape[1]), dtype=np.float32)
    return np.float32(std) * np.einsum("noi,ni->no", weights, x)


@pytest.mark.parametrize(
    ("case", "largest_error"),
    [
        (("linear", None, 0.0), 0.012),
        (("relu", None, 0.0), 0.012),
        (("leaky_relu", 0.01, 0.0), 0.012),
        (("leaky_relu", 0.3, 0.0), 0.012),
        (("rrelu", None, 0.0), 0.012),
        (("relu", None, 0.5), 0.016),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_first_moment_is_preserved_through_unequal_widths(
    case: tuple, largest_error: float
) -> None:
    ratio, error = _moment_ratio(case, order=1.0, std_order=1.0)
    assert error < largest_error
    assert abs(ratio - 1.0) < 4 * error


def test_kaiming_does_not_preserve_the_first_moment() -> None:
    ratio, error = _moment_ratio(("relu", None, 0.0), order=1.0, std_order=2.0)
    assert ratio < 1.0 - 6 * error
    assert ratio == pytest.approx(0.895, abs=4 * error)


def _log_norm_factors(count: int, depth: int, width: int) -> np.ndarray:
    """log(||x_depth|| / ||x_0||) - depth log sigma, ReLU; y given x is N(0, sigma^2 ||x||^2 I)."""
    rng = np.random.default_rng(5)
    total = np.zeros(count)
    for _ in range(depth):
        z = np.maximum(rng.standard_normal((count, width), dtype=np.float32), 0.0)
        total += 0.5 * np.log(np.einsum("nj,nj->n", z, z))
    return total


@pytest.fixture(scope="module")
def depth_100() -> np.ndarray:
    return _log_norm_factors(20_000, depth=100, width=64)


def test_depth_100_mean_and_variance(depth_100: np.ndarray) -> None:
    law = activation_law("relu")
    for order in (0.5, 1.0, 2.0):
        logs = depth_100[:2000] + 100 * math.log(moment_preserving_std(law, 64, order))
        expected = log_norm_law(law, 64, order).repeated(100)
        assert abs(logs.mean() - expected.drift) < 4 * math.sqrt(expected.variance / 2000)
        assert abs(logs.var() / expected.variance - 1) < 4 * math.sqrt(2 / 2000)


def test_small_outputs_are_rarer_at_lower_orders(depth_100: np.ndarray) -> None:
    law = activation_law("relu")
    for order, expected in ((0.5, 0.108), (1.0, 0.186), (1.5, 0.292), (2.0, 0.417)):
        logs = depth_100 + 100 * math.log(moment_preserving_std(law, 64, order))
        below = float((logs < math.log(0.1)).mean())
        assert below == pytest.approx(expected, abs=0.01)


def test_lower_orders_are_larger_in_every_replicate() -> None:
    """Common random matrices couple the schemes: each realised norm is ordered while alive."""
    law = activation_law("relu")
    norms = []
    for order in (0.5, 1.0, 1.5, 2.0):
        rng = np.random.default_rng(11)
        x = np.ones((300, 8), np.float32)
        for _ in range(10):
            x = np.maximum(_dense(rng, x, 8, moment_preserving_std(law, 8, order)), 0.0)
        norms.append(np.linalg.norm(x, axis=1))
    alive = norms[0] > 0
    assert 0 < alive.sum() < 300  # width 8 loses some nets, the same ones under every order
    for larger, smaller in zip(norms[:-1], norms[1:], strict=True):
        assert np.all(larger[alive] > smaller[alive])
        assert np.all(smaller[~alive] == 0)


def test_large_outputs_obey_the_martingale_bound() -> None:
    """||x_k||^s is a martingale, so P(sup_k ||x_k|| >= t ||x_0||) <= t^-s (Ville)."""
    law = activation_law("relu")
    rng = np.random.default_rng(9)
    z = np.maximum(rng.standard_normal((5000, 60, 16), dtype=np.float32), 0.0)
    log_factors = 0.5 * np.log(np.maximum((z * z).sum(2), 1e-30))
    for order in (0.5, 1.0, 2.0):
        walk = np.cumsum(log_factors + math.log(moment_preserving_std(law, 16, order)), axis=1)
        above = float((walk.max(1) >= math.log(10.0)).mean())
        error = math.sqrt(above * (1 - above) / 5000)
        assert above <= 10.0**-order + 3 * error
        assert above >= 0.5 * 10.0**-order - 3 * error  # and it is not far from sharp
