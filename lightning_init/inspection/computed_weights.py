"""Fans and scale of a weight that a layer computes from its parameter: masked, or standardized."""

from __future__ import annotations

from math import prod

from torch import Tensor

from lightning_init.inspection.fans import Fans

_SAME = 1e-3  # of two weights that weight standardization makes equal, half precision included


def masked_fan_ins(mask: Tensor) -> tuple[int, ...]:
    """Inputs that each output unit of a masked weight sees, as in a masked autoencoder (MADE).

    One scale for all rows preserves nothing when rows differ much: the layers of a MADE give later
    outputs more inputs, and those the larger ones. With a scale per row, that of the row's own
    fan-in, every output keeps its moment.

    Args:
        mask: Of the weight's shape, (outputs, inputs, ...), zero where the weight does not count.

    Example:
        >>> import torch
        >>> masked_fan_ins(torch.ones(3, 3).tril())
        (1, 2, 3)
    """
    return tuple(mask.detach().flatten(1).ne(0).sum(1).tolist())


def masked_fans(mask: Tensor) -> Fans:
    """Mean fans of a masked weight, over the outputs and the inputs that are connected at all.

    Example:
        >>> import torch
        >>> masked_fans(torch.ones(3, 3).tril())
        Fans(fan_in=2, fan_out=2, taps=1)
    """
    connected = mask.detach().ne(0)
    taps = prod(mask.shape[2:])
    rows, columns = connected.flatten(1).sum(1), connected.transpose(0, 1).flatten(1).sum(1)
    return Fans(_mean_of_positive(rows), _mean_of_positive(columns), taps)


def _mean_of_positive(counts: Tensor) -> int:
    positive = counts[counts > 0]
    return max(1, round(float(positive.double().mean()))) if len(positive) else 1


def standardized_gain(raw: Tensor, effective: Tensor) -> float | None:
    """Scale that weight standardization gives, whatever the scale of the parameter behind it.

    Weight standardization (Qiao et al. 2019, arXiv 1903.10520; Brock et al. 2021, arXiv 2102.06171)
    multiplies by (W - mean) / std of each row: the layer computes the same for W and for 2 W.

    Args:
        raw: The parameter, shape (outputs, ...), at least two rows.
        effective: What the layer multiplies by, of the same shape.

    Returns:
        Standard deviation of the effective rows times the root of their length, 1 where they keep
        the second moment of a linear signal; None unless every row is its parameter's
        row shifted to mean 0 and divided by its own standard deviation, up to one factor.

    Example:
        >>> import torch
        >>> raw = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
        >>> rows = raw - raw.mean(1, keepdim=True)
        >>> rows /= rows.std(1, correction=0, keepdim=True) * 50**0.5
        >>> round(standardized_gain(raw, rows), 6), standardized_gain(raw, 0.5 * raw)
        (1.0, None)
    """
    if raw.shape != effective.shape or len(raw) < 2 or raw[0].numel() < 2:
        return None
    before, after = (one.detach().flatten(1).double() for one in (raw, effective))
    before = before - before.mean(1, keepdim=True)
    sizes, targets = before.std(1, correction=0), after.std(1, correction=0)
    gain = targets.mean()
    if not bool((sizes > 0).all()) or not float(gain) > 0.0:
        return None
    # Rows of equal size look the same under any fixed factor, which standardization is not.
    told = float(sizes.std() / sizes.mean()) > _SAME
    expected = before * (gain / sizes)[:, None]
    same = float((after - expected).abs().max()) <= _SAME * float(gain) * raw[0].numel() ** 0.5
    return float(gain) * raw[0].numel() ** 0.5 if told and same else None
