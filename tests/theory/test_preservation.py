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


def _llama_blocks(
    name: str, order: float, width: int, hidden: int, layers: int, nets: int
) -> np.ndarray:
    """E|y|^s of the last matrix of each RMSNorm / phi(a) b block, one row per net.

    x grows by y / sqrt(layers) at each block; a, b and y have weights of their own in every net.
    """
    rng = np.random.default_rng(30)
    inner = moment_preserving_std(activation_law("normalized"), width, order)
    outer = moment_preserving_std(activation_law(name), hidden, order)
    moments = np.empty((nets, layers))
    for start in range(0, nets, 250):
        x = rng.standard_normal((250, width), dtype=np.float32)
        for layer in range(layers):
            rows = x / np.sqrt((x * x).mean(1, keepdims=True))
            a, b = _dense(rng, rows, hidden, inner), _dense(rng, rows, hidden, inner)
            gate = np.maximum(a, 0.0) if name == "reglu" else a / (1.0 + np.exp(-a))
            y = _dense(rng, gate * b, width, outer)
            moments[start : start + 250, layer] = (np.abs(y) ** order).mean(1)
            x += y / math.sqrt(layers)
    return moments


def _normal_moment(order: float) -> float:
    """E|z|^s of a standard normal z."""
    return 2 ** (order / 2) * math.gamma((1 + order) / 2) / math.sqrt(math.pi)


def _assert_preserved(moments: np.ndarray, order: float, largest_error: float) -> None:
    """Each block's mean over the nets within 4 standard errors, of all blocks together too."""
    ratios = moments / _normal_moment(order)
    errors = ratios.std(0) / math.sqrt(len(ratios))
    assert errors.max() < largest_error
    assert np.all(np.abs(ratios.mean(0) - 1.0) < 4.0 * errors)
    blocks = ratios.mean(1)
    assert abs(blocks.mean() - 1.0) < 4.0 * blocks.std() / math.sqrt(len(blocks))


@pytest.mark.parametrize(("name", "order"), [("swiglu", 1.0), ("swiglu", 0.5), ("reglu", 1.0)])
def test_gated_blocks_behind_a_norm_preserve_the_moment(name: str, order: float) -> None:
    """A Llama-like block at width 64, 1000 nets: standard error 1 % of the moment."""
    _assert_preserved(_llama_blocks(name, order, 64, 64, 2, 1000), order, 0.012)


@pytest.mark.slow
def test_a_llama_like_stack_preserves_the_first_moment() -> None:
    """24 blocks of width 64, 4000 nets: standard error .5 % of the moment of each block."""
    _assert_preserved(_llama_blocks("swiglu", 1.0, 64, 64, 24, 4000), 1.0, 0.006)


def test_the_linear_rule_would_miss_the_gated_moment() -> None:
    """What a product of two signals got so far: twice too small at order 1."""
    linear = moment_preserving_std(activation_law("linear"), 64, 1.0)
    swiglu = moment_preserving_std(activation_law("swiglu"), 64, 1.0)
    moments = _llama_blocks("swiglu", 1.0, 64, 64, 1, 500) * linear / swiglu
    assert moments.mean() / _normal_moment(1.0) < 0.62
