"""Which parameter a linear map multiplies by, and over what it sums, read off the call itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from lightning_init.inspection.fans import Fans, WeightBlock
from lightning_init.inspection.operation_names import LAYERS
from lightning_init.inspection.regions import tensors_in

_ONE_SUMMAND = frozenset({"addmm", "addmv", "addbmm", "baddbmm"})


def fans_in_call(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], matrix: Tensor
) -> Fans | None:
    """Fans of one operand of a linear map, from the dimensions that are summed over.

    Args:
        name: Name of the operation.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        matrix: The operand: the tensor as the call gets it.

    Returns:
        None if it is no matrix of this call, or the call is none that is known.

    Example:
        >>> import torch
        >>> x, w = torch.ones(5, 3), torch.ones(3, 4)
        >>> fans_in_call("matmul", (x, w), {}, w)
        Fans(fan_in=3, fan_out=4, taps=1)
        >>> heads = torch.ones(3, 2, 4)
        >>> fans_in_call("einsum", ("bi,ihd->bhd", x, heads), {}, heads)
        Fans(fan_in=3, fan_out=8, taps=1)
    """
    if matrix.dim() < 2:
        return None
    tensors = tensors_in((args, kwargs))
    place = next((i for i, tensor in enumerate(tensors) if tensor is matrix), None)
    if place is None:
        return None
    if name in LAYERS:
        return _of_layer(name, args, kwargs, matrix) if place == 1 else None
    if name == "einsum":
        return _of_einsum(args, tensors, place)
    operands = tensors[1:] if name in _ONE_SUMMAND else tensors[:2]
    if name == "rmatmul":
        operands = operands[::-1]
    if len(operands) < 2 or name in ("tensordot", "inner", "multi_dot", "chain_matmul"):
        return None
    rows, columns = matrix.shape[-2:]
    return Fans(rows, columns) if matrix is operands[1] else Fans(columns, rows)


def _of_layer(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], matrix: Tensor
) -> Fans | None:
    if name == "linear":
        return Fans(matrix.shape[-1], prod(matrix.shape[:-1]))
    if not name.startswith("conv"):
        return None
    taps = prod(matrix.shape[2:])
    entered = args[0] if args else kwargs["input"]
    channels = entered.shape[-(matrix.dim() - 1)]
    if "transpose" in name:
        groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
        return Fans(taps * channels // groups, taps * matrix.shape[1], taps)
    groups = max(1, channels // matrix.shape[1])
    return Fans(taps * matrix.shape[1], taps * matrix.shape[0] // groups, taps)


def _of_einsum(args: tuple[Any, ...], tensors: list[Tensor], place: int) -> Fans | None:
    equation = args[0] if args and isinstance(args[0], str) else ""
    inputs, arrow, output = equation.replace(" ", "").replace("...", "").partition("->")
    parts = inputs.split(",")
    if not arrow or len(parts) != len(tensors) or len(parts[place]) != tensors[place].dim():
        return None
    others = set("".join(part for i, part in enumerate(parts) if i != place))
    sizes = dict(zip(parts[place], tensors[place].shape, strict=True))
    summed = [size for letter, size in sizes.items() if letter not in output]
    made = [size for letter, size in sizes.items() if letter in output and letter not in others]
    return Fans(prod(summed), prod(made)) if summed else None


def traced_blocks(
    parameters: Mapping[str, nn.Parameter],
    known: Sequence[WeightBlock],
    matrices: Mapping[int, Fans],
) -> tuple[WeightBlock, ...]:
    """The parameters of a module that a trace saw as matrices of linear maps.

    The bias that goes with one is that of its name, "bias" for "weight", if it has one entry for
    each output.

    Args:
        parameters: The module's own, by attribute.
        known: The weight matrices that its class tells.
        matrices: By identity, the fans of those that the trace saw.

    Example:
        >>> import torch
        >>> held = {"weight": nn.Parameter(torch.ones(3, 4)), "bias": nn.Parameter(torch.ones(4))}
        >>> traced_blocks(held, (), {id(held["weight"]): Fans(3, 4)})[0].biases
        ('bias',)
    """
    told = {block.attribute for block in known}
    blocks = []
    for attribute, parameter in parameters.items():
        fans = matrices.get(id(parameter))
        if fans is None or attribute in told:
            continue
        bias = attribute.replace("weight", "bias")
        beside = parameters.get(bias) if bias != attribute else None
        fits = beside is not None and beside.dim() == 1 and len(beside) == fans.fan_out
        biases = (bias,) if fits else ()
        blocks.append(WeightBlock(attribute, "", None, fans, "matrix", biases))
    return tuple(blocks)
