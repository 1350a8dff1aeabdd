"""Whether first values come from a generic scheme, or an author set them on purpose.

Generic schemes know a weight by its fans alone: torch's defaults, Kaiming, Xavier, LeCun, and
N(0, 0.02^2). Whatever else stands in a weight before its first step was put there for a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

_MOST = 2048  # entries of one weight that are looked at: 4 standard errors of its scale are 6 %
_STACKED = 8  # times as many are copied at most to look at several weights together
_ERRORS = 4.0
_SLACK = 0.01  # of a scale: truncation, rounding to 16 bits
_ORTHOGONAL_ROWS = 8
# Kurtosis, and sqrt(n) times the standard errors of kurtosis and of the relative scale.
_FAMILIES = {
    "uniform": (1.8, 1.15, 0.45),
    "truncated normal": (2.365, 1.95, 0.59),
    "normal": (3.0, 4.9, 0.71),
}
# Squared gains: none, leaky ReLU of slope 0.2, ReLU, tanh.
_SQUARED_GAINS = (1.0, 2.0 / 1.04, 2.0, 25.0 / 9.0)
_TRUNCATED_AT_TWO = 0.8796  # scale of a normal cut at two of its standard deviations
_TRANSFORMER = 0.02
_ALREADY_THERE = 1.25  # as far above the rule at order 2 as lower orders put narrow layers


class Sample(NamedTuple):
    """What the entries of one tensor, or of a sample of them, look like.

    Args:
        size: Number of entries looked at.
        mean: Their mean.
        scale: Root of their mean square.
        kurtosis: Mean fourth power over squared mean square; 3 if normal, 1.8 if uniform.
        largest: Largest magnitude.
        zeros: Share of exact zeros.
        constant: Whether all are equal.
        overlap: Product of the first two rows over the first one's squared length; 1 if there is
            one only, columns if the matrix is tall.
    """

    size: int
    mean: float
    scale: float
    kurtosis: float
    largest: float
    zeros: float
    constant: bool
    overlap: float


@torch.no_grad()
def sample_all(tensors: Sequence[Tensor]) -> list[Sample]:
    """Look at some entries of every tensor, evenly spread; equal shapes are worked out together.

    Example:
        >>> sample_all([torch.full((2, 3), 0.5)])[0].constant
        True
    """
    alike: dict[Any, list[int]] = {}
    for index, tensor in enumerate(tensors):
        alike.setdefault((tensor.shape, tensor.dtype, tensor.device), []).append(index)
    found: dict[int, Sample] = {}
    for indices in alike.values():
        found.update(zip(indices, _describe([tensors[i] for i in indices]), strict=True))
    return [found[index] for index in range(len(tensors))]


def _describe(tensors: Sequence[Tensor]) -> Iterator[Sample]:
    values, overlaps = _some_entries(tensors)
    count = values.shape[1]
    squares = values * values
    square = squares.mean(1)
    # Of scaled values: fourth powers of small ones would vanish in float32.
    fourths = (squares / square.clamp_min(1e-38)[:, None]).square().mean(1)
    # Extremes one by one, as `aminmax` costs ten times both; zeros are counted if there are any.
    low, high = values.amin(1), values.amax(1)
    none = torch.zeros_like(low)
    zeros = (values == 0).float().mean(1) if squares.amin() == 0.0 else none
    parts = torch.stack([low, high, values.mean(1), square, fourths, zeros, overlaps])
    for least, most, mean, power, kurtosis, zero, overlap in zip(*parts.tolist(), strict=True):
        scale, largest = math.sqrt(power), max(-least, most)
        yield Sample(count, mean, scale, kurtosis, largest, zero, least == most, overlap)


def _some_entries(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Evenly spread entries of tensors of one shape, one row for each, and their overlaps."""
    count = tensors[0].numel()
    step = -(-count // _MOST)
    # An odd step, so that it does not run down one column of a matrix.
    step += step > 1 and step % 2 == 0
    if step <= _STACKED:
        whole = torch.stack(list(tensors)).to("cpu", torch.float32)
        return whole.reshape(len(tensors), count)[:, ::step].contiguous(), _overlaps(whole)
    values = torch.stack([tensor.reshape(-1)[::step] for tensor in tensors])
    pairs = torch.stack([_rows(tensor)[:2] for tensor in tensors])
    return values.to("cpu", torch.float32), _overlaps(pairs.to("cpu", torch.float32))


def _overlaps(whole: Tensor) -> Tensor:
    if whole.dim() < 3:
        return torch.ones(len(whole))
    matrices = whole.flatten(2)
    tall = matrices.shape[1] > matrices.shape[2]
    rows = matrices[:, :, :2].mT if tall else matrices[:, :2]
    first, second = rows[:, 0], rows[:, -1]
    return (first * second).sum(1).abs() / (first * first).sum(1).clamp_min(1e-38)


def _rows(tensor: Tensor) -> Tensor:
    """A wide matrix, or the transpose of a tall one; a convolution is (outputs, all else)."""
    matrix = tensor.flatten(1)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def generic_scheme(
    sample: Sample, fans: Sequence[tuple[int, int]], rule: float | None = None
) -> str | None:
    """Name the generic scheme that a weight was drawn from, or None if it was none of them.

    A scale counts as a scheme's within four standard errors of a sample of its size, so a weight of
    few entries is hardly ever told from a generic one.

    Args:
        sample: Of the weight's values.
        fans: Pairs (fan_in, fan_out) that a scheme may have seen: those of what the layer computes,
            and those of the tensor's shape.
        rule: Standard deviation that order 2 gives; a normal weight at or slightly above it is
            where a redraw would put it.

    Example:
        >>> layer = torch.nn.Linear(64, 64)
        >>> generic_scheme(sample_all([layer.weight])[0], [(64, 64)])
        "torch's default"
    """
    if abs(sample.mean) > 5.0 * sample.scale / math.sqrt(sample.size):
        return None
    fans = tuple(fans)
    if _is_family(sample, "uniform"):
        for name, std in _schemes(fans, uniform=True):
            if _has_bound(sample, math.sqrt(3.0) * std):
                return name
    for family in ("truncated normal", "normal"):
        if not _is_family(sample, family):
            continue
        for name, std in _schemes(fans, uniform=False):
            cut = family == "truncated normal" and _has_scale(
                sample, _TRUNCATED_AT_TWO * std, family
            )
            if cut or _has_scale(sample, std, family):
                return name
    if rule is not None and _is_family(sample, "normal"):
        slack = 1.0 + _tolerance(sample, "normal")
        if rule / slack <= sample.scale <= _ALREADY_THERE * rule * slack:
            return "this rule"
    return None


@lru_cache(maxsize=256)
def _schemes(fans: tuple[tuple[int, int], ...], *, uniform: bool) -> tuple[tuple[str, float], ...]:
    inputs = sorted({fan for pair in fans for fan in pair})
    variances = []
    if uniform:  # kaiming_uniform_(a=sqrt(5)) of linear layers and convolutions, and of recurrent
        variances += [("torch's default", 1.0 / (3.0 * fan)) for fan in inputs]
    else:
        variances += [(f"normal({_TRANSFORMER})", _TRANSFORMER**2)]
    for gain in _SQUARED_GAINS:
        variances += [("LeCun" if gain == 1.0 else "Kaiming", gain / fan) for fan in inputs]
        variances += [
            ("Xavier", 2.0 * gain / both) for both in sorted({sum(pair) for pair in fans})
        ]
    return tuple([(name, math.sqrt(variance)) for name, variance in variances])


def _is_family(sample: Sample, family: str) -> bool:
    kurtosis, error, _ = _FAMILIES[family]
    return abs(sample.kurtosis - kurtosis) <= 0.02 + _ERRORS * error / math.sqrt(sample.size)


def _tolerance(sample: Sample, family: str) -> float:
    return _SLACK + _ERRORS * _FAMILIES[family][2] / math.sqrt(sample.size)


def _has_scale(sample: Sample, std: float, family: str) -> bool:
    return abs(sample.scale / std - 1.0) <= _tolerance(sample, family)


def _has_bound(sample: Sample, bound: float) -> bool:
    """Whether the largest of n uniform values fits: below (1 - 12/n) with a chance of e^-12."""
    lowest = bound * (1.0 - 12.0 / sample.size - _SLACK / 2)
    fits = lowest <= sample.largest <= bound * (1.0 + _SLACK / 2)
    return fits and _has_scale(sample, bound / math.sqrt(3.0), "uniform")


def structure(sample: Sample, values: Tensor) -> str | None:
    """Say in what way a weight is no independent draw at all, or None if it may be one.

    Args:
        sample: Of its values.
        values: All of them, of shape (outputs, ...).

    Example:
        >>> kernel = torch.full((1, 1, 25), 1 / 25)
        >>> structure(sample_all([kernel])[0], kernel)
        'constant: every entry is 0.04'
        >>> structure(sample_all([torch.eye(4)])[0], torch.eye(4))
        'mostly zeros: an identity, or sparse'
    """
    if sample.size < 2:
        return None
    if sample.constant and sample.largest:
        return _constant(sample)
    if sample.size >= 4 and sample.zeros >= 0.5:
        return "mostly zeros: an identity, or sparse"
    # Two rows settle it for nearly every weight.
    maybe = sample.overlap <= _tolerance_of_angles(values)
    return "orthogonal" if maybe and is_orthogonal(values) else None


def _tolerance_of_angles(values: Tensor) -> float:
    return 1e-4 if values.dtype in (torch.float32, torch.float64) else 2e-2


def _constant(sample: Sample) -> str:
    return f"constant: every entry is {math.copysign(sample.largest, sample.mean):.3g}"


@torch.no_grad()
def is_orthogonal(values: Tensor) -> bool:
    """Whether the rows of a wide matrix, or the columns of a tall one, are orthogonal and equal.

    A matrix with one row, or one column, is not told from any other. A convolution is read as
    (outputs, everything else).

    Example:
        >>> is_orthogonal(torch.nn.init.orthogonal_(torch.empty(6, 4), gain=2.0))
        True
        >>> is_orthogonal(torch.randn(6, 4))
        False
    """
    matrix = _rows(values)
    tolerance = _tolerance_of_angles(values)
    if len(matrix) < (2 if tolerance < 1e-3 else _ORTHOGONAL_ROWS):
        return False
    rows = matrix[:_ORTHOGONAL_ROWS].double()
    gram = rows @ rows.T
    gram /= gram.diagonal().mean().clamp_min(1e-300)
    return bool((gram - torch.eye(len(gram)).to(gram)).abs().max() <= tolerance)


def bias_purpose(sample: Sample, fans: Sequence[tuple[int, int]]) -> str | None:
    """Say why a bias was set on purpose; None if it is zero or torch's default.

    Torch draws a bias evenly within 1 / sqrt(fan_in), of recurrent layers 1 / sqrt(hidden size).
    A single value within that cannot be told from it.

    Example:
        >>> bias_purpose(sample_all([torch.full((8,), -2.0)])[0], [(16, 8)])
        'constant: every entry is -2'
    """
    if sample.largest == 0.0:
        return None
    if sample.constant and sample.size > 1:
        return _constant(sample)
    if sample.size == 1 and sample.largest <= 1.0 / math.sqrt(fans[0][0]):
        return None
    bounds = [1.0 / math.sqrt(fan) for pair in fans for fan in pair if fan > 1]
    if any(_has_bound(sample, bound) for bound in bounds):
        return None
    return f"of scale {sample.scale:.3g}, which is not torch's default"
