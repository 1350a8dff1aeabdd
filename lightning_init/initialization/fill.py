"""The seeded draws, written in place: one stream per layer, the same on every rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_init.inspection.parameter_walk import module_at, tensor_at
from lightning_init.inspection.reasons import whole_tensor
from lightning_init.inspection.weights import Weight

_DRAWN_IN_PLACE = (torch.float32, torch.float64)


def standard_normal(
    seed: int, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Draw independent N(0, 1) values that depend on the seed and the layer's name only.

    Every layer has a generator of its own, so a layer's draw is the same whichever other layers are
    drawn, in whatever order and in whatever process; the global generators are neither read nor
    advanced. Processors with other vector instructions may differ in the last bits.

    Args:
        seed: Any integer.
        name: Layer name, as in `Weight.name`.
        shape: Shape of the result.
        dtype: float32, or float64 for a draw of full double resolution (other values, not the
            same ones in more digits).

    Returns:
        A tensor on the CPU.

    Example:
        >>> a, b = standard_normal(1, "net.0", (2, 3)), standard_normal(1, "net.0", (2, 3))
        >>> bool((a == b).all()), a.shape
        (True, torch.Size([2, 3]))
    """
    return torch.randn(tuple(shape), generator=_seeded(torch.Generator(), seed, name), dtype=dtype)


def _seeded(generator: torch.Generator, seed: int, name: str) -> torch.Generator:
    """Start a generator over, whatever it has drawn before, at the stream of one layer."""
    digest = blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    # One bit less than the digest, so that it is a seed whether read signed or unsigned.
    return generator.manual_seed(int.from_bytes(digest, "big") >> 1)


def fill_normal_(
    model: nn.Module,
    weight: Weight,
    std: float | Sequence[float],
    seed: int,
    generator: torch.Generator | None = None,
) -> None:
    """Overwrite one weight with N(0, std^2), in place.

    The parameter keeps its identity, storage, dtype, device and `requires_grad`. The draw is made
    in float32 (float64 for a float64 parameter) on the CPU and cast when it is copied. Under weight
    normalization the direction is drawn and the magnitude set so that the effective weight is the
    draw. The padding row of an embedding stays zero. A `DTensor` is drawn whole and then cut, so
    the values do not depend on the sharding.

    Args:
        model: The model that `weight` was found in.
        weight: The weight to fill.
        std: Standard deviation of one entry, positive and finite; or one for every row.
        seed: Seed of the draw; the layer's name makes its stream.
        generator: One on the CPU to start over for each layer of a model, which saves making as
            many; the draw does not depend on it.

    Raises:
        ValueError: If `std` is not positive and finite; nothing is written then.

    Example:
        >>> from lightning_init.inspection.weights import find_weights
        >>> model = nn.Linear(1000, 100)
        >>> fill_normal_(model, find_weights(model).weights[0], std=0.1, seed=0)
        >>> round(model.weight.std().item(), 2)
        0.1
    """
    if not isinstance(std, (float, int)):
        draw = _draw(model, weight, seed)
        rows = torch.tensor(std, dtype=draw.dtype).reshape(-1, *[1] * (draw.dim() - 1))
        _write(model, weight, draw * rows)
        return
    check_scale(std, weight)
    target = _drawn_in_place(model, weight)
    if target is None:
        _write(model, weight, _draw(model, weight, seed).mul_(std))
        return
    stream = _seeded(generator or torch.Generator(), seed, weight.name)
    target.normal_(0.0, std, generator=stream)


def is_drawn_in_place(model: nn.Module, weight: Weight) -> bool:
    """Whether `fill_normal_` needs no memory of its own for a weight."""
    return _drawn_in_place(model, weight) is not None


def _drawn_in_place(model: nn.Module, weight: Weight) -> Tensor | None:
    """The parameter, or its rows, if drawing straight into it gives the bits of draw and copy.

    Detached. It does for float32 and float64 in one piece of CPU memory; below 16 values torch
    draws in another way, which rounds differently.
    """
    if weight.parametrization is not None or weight.padding_row is not None:
        return None
    held = tensor_at(module_at(model, weight.module_name), weight.attribute)
    if not held.is_cpu or _is_distributed(held) or held.dtype not in _DRAWN_IN_PLACE:
        return None
    target = held.detach()
    if weight.rows is not None:
        target = target[weight.rows[0] : weight.rows[1]]
    return target if target.numel() >= 16 and target.is_contiguous() else None


def fill_orthogonal_(model: nn.Module, weight: Weight, seed: int) -> None:
    """Overwrite one weight, read as (rows, everything else), with a random orthogonal matrix.

    Uniform over the orthogonal matrices: the Q of a Gaussian matrix with the signs of R's diagonal
    taken out (Mezzadri 2007, arXiv math-ph/0609050). Rows are orthonormal when there are no more of
    them than columns, columns otherwise.

    Args:
        model: The model that `weight` was found in.
        weight: The weight to fill; usually a block of kind "recurrent_hidden".
        seed: Seed of the draw; the layer's name makes its stream.

    Example:
        >>> from lightning_init.inspection.weights import find_weights
        >>> model = nn.RNNCell(3, 4)
        >>> fill_orthogonal_(model, find_weights(model).weights[1], seed=0)
        >>> bool(torch.allclose(model.weight_hh @ model.weight_hh.T, torch.eye(4), atol=1e-6))
        True
    """
    draw = _draw(model, weight, seed)
    matrix = draw.double().reshape(draw.shape[0], -1)
    wide = matrix.shape[0] < matrix.shape[1]
    orthogonal, triangle = torch.linalg.qr(matrix.T if wide else matrix)
    orthogonal = orthogonal * triangle.diagonal().sign()
    filled = (orthogonal.T if wide else orthogonal).reshape(draw.shape)
    _write(model, weight, filled.to(draw.dtype))


@torch.no_grad()
def scale_(model: nn.Module, weight: Weight, factor: float) -> None:
    """Multiply one weight by a number, in place; under weight normalization its magnitude."""
    whole = whole_tensor(parameters_of(model, weight)[0])
    # Rows of a sharded parameter are no view of it.
    values = whole if weight.rows is None else whole[weight.rows[0] : weight.rows[1]]
    _copy(parameters_of(model, weight)[0], weight.rows, values * factor)


def zero_biases_(model: nn.Module, weight: Weight) -> None:
    """Set the biases that belong to a weight to zero, in place.

    A bias stacked over several blocks belongs to the first of them and is zeroed whole. A weight
    with fewer biases than its layer has, `weight._replace(biases=...)`, has those zeroed only.
    """
    for bias in biases_of(model, weight):
        bias.detach().zero_()


def parameters_of(model: nn.Module, weight: Weight) -> tuple[nn.Parameter, ...]:
    """The leaf parameters that hold a weight: two under weight normalization, else one.

    Blocks of one stacked parameter share it.
    """
    module = module_at(model, weight.module_name)
    if weight.parametrization is None:
        return (_parameter(tensor_at(module, weight.attribute)),)
    return tuple(_chain(module, weight.attribute).parameters())


def biases_of(model: nn.Module, weight: Weight) -> tuple[nn.Parameter, ...]:
    """The bias parameters that belong to a weight: those that `zero_biases_` writes."""
    module = module_at(model, weight.module_name)
    return tuple([_parameter(tensor_at(module, bias)) for bias in weight.biases])


def _draw(model: nn.Module, weight: Weight, seed: int) -> Tensor:
    wide = parameters_of(model, weight)[0].dtype == torch.float64
    dtype = torch.float64 if wide else torch.float32
    draw = standard_normal(seed, weight.name, weight.shape, dtype)
    if weight.padding_row is not None:
        draw[weight.padding_row] = 0.0
    return draw


@torch.no_grad()
def _write(model: nn.Module, weight: Weight, values: Tensor) -> None:
    module = module_at(model, weight.module_name)
    if weight.parametrization is None:
        _copy(_parameter(tensor_at(module, weight.attribute)), weight.rows, values)
        return
    # Not `module.weight = ...`: that gives the originals new storage, and an optimizer or DDP
    # bucket that views the old one would go on with the old values.
    chain = _chain(module, weight.attribute)
    whole = whole_tensor(getattr(module, weight.attribute)).detach().clone()
    whole[slice(*weight.rows) if weight.rows else slice(None)] = values.to(whole)
    weight_norm: Any = chain[0]
    for original, value in zip(chain.parameters(), weight_norm.right_inverse(whole), strict=True):
        _copy(original, None, value)


def _copy(parameter: Any, rows: tuple[int, int] | None, values: Tensor) -> None:
    if not _is_distributed(parameter):
        target = parameter if rows is None else parameter[rows[0] : rows[1]]
        target.copy_(values)
        return
    from torch.distributed.tensor import distribute_tensor

    whole = values.to(parameter.device, parameter.dtype)
    if rows is not None:
        whole = whole_tensor(parameter).detach().clone()
        whole[rows[0] : rows[1]] = values.to(whole)
    parameter.copy_(distribute_tensor(whole, parameter.device_mesh, parameter.placements))


def _is_distributed(tensor: Tensor) -> bool:
    # A `DTensor`, told without the cost of importing torch.distributed.tensor.
    return hasattr(tensor, "device_mesh")


def _chain(module: nn.Module, attribute: str) -> parametrize.ParametrizationList:
    chains = module.parametrizations
    assert isinstance(chains, nn.ModuleDict)
    chain = chains[attribute]
    assert isinstance(chain, parametrize.ParametrizationList)
    return chain


def _parameter(value: object) -> nn.Parameter:
    assert isinstance(value, nn.Parameter)
    return value


def check_scale(value: float, weight: Weight) -> None:
    """Refuse a scale that is not positive and finite, naming the layer."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"`std` of layer {weight.name!r} must be positive and finite, got {value}; "
            f"leave the layer out with exclude=[{weight.name!r}] to keep its weights."
        )


def synchronize(module: nn.Module) -> None:
    """Send rank zero's parameters to all: ranks on unlike machines may round differently.

    Every rank holds another part of a sharded one, which was cut from rank zero's draw.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for parameter in module.parameters():
            sharded = hasattr(parameter, "device_mesh")
            if not (sharded or nn.parameter.is_lazy(parameter)):
                torch.distributed.broadcast(parameter.data, src=0)
