"""Fan-in and fan-out of a layer by what the layer computes, never by its tensor's shape.

The shape alone misleads: a grouped convolution, a transposed convolution, a stacked LSTM gate and a
packed attention projection all store a tensor whose trailing dimensions are not the inputs of one
output unit. `weight_blocks` lists the weight matrices of one module, one entry per gate or
projection, each with its own `Fans`.
"""

from __future__ import annotations

from math import prod
from operator import truediv
from typing import NamedTuple

from torch import nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
RECURRENT_LAYERS = (nn.LSTM, nn.GRU, nn.RNN)
RECURRENT_CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)

# The order in which torch stacks the gates along dimension 0.
LSTM_GATES = ("input", "forget", "cell", "output")
GRU_GATES = ("reset", "update", "new")
RNN_GATES = ("",)


class Fans(NamedTuple):
    """Connections of one weight matrix.

    Args:
        fan_in: Products summed into one output unit; their mean, rounded, where outputs differ.
        fan_out: Output units that one input unit feeds.
        taps: Kernel positions that one output unit sums over; 1 for a dense layer. `fan_in` is
            `taps` times the input channels that one output unit sees, up to rounding.
    """

    fan_in: int
    fan_out: int
    taps: int = 1


class WeightBlock(NamedTuple):
    """One weight matrix inside a module, as torch stores it.

    Args:
        attribute: Attribute of the module that holds the matrix, alone or stacked with others.
        label: Name of the gate or projection; `""` when the attribute holds one matrix only.
        rows: Slice of dimension 0 of the attribute; None is all of it.
        fans: Its connections.
        kind: The `kind` of `Weight`.
        biases: Attributes of the module holding biases added to this block's output; a stacked bias
            is named by every block of its stack.
    """

    attribute: str
    label: str
    rows: tuple[int, int] | None
    fans: Fans
    kind: str
    biases: tuple[str, ...]


def linear_fans(module: nn.Linear) -> Fans:
    """Fans of `y = W x`.

    Example:
        >>> linear_fans(nn.Linear(64, 10))
        Fans(fan_in=64, fan_out=10, taps=1)
    """
    return Fans(module.in_features, module.out_features)


def bilinear_fans(module: nn.Bilinear) -> Fans:
    """Fans of `y_k = x1^T A_k x2`: every product `x1_i x2_j` is one input of output k.

    Given the inputs, y_k is N(0, sigma^2 |x1|^2 |x2|^2), so fan-in `in1_features * in2_features`
    preserves the second moment of independent unit-variance inputs exactly. At orders below 2 it is
    an approximation: the products share their factors, so they are not independent.

    Example:
        >>> bilinear_fans(nn.Bilinear(3, 5, 2))
        Fans(fan_in=15, fan_out=2, taps=1)
    """
    return Fans(module.in1_features * module.in2_features, module.out_features)


def convolution_fans(module: Convolution) -> Fans:
    """Fans of a convolution; one output channel sees only the input channels of its own group.

    Counted for an inner output: those at a border of zeros see fewer positions.

    Example:
        >>> convolution_fans(nn.Conv2d(8, 16, 3, groups=4))
        Fans(fan_in=18, fan_out=36, taps=9)
    """
    return _convolution_fans(module, prod(module.kernel_size))


def _convolution_fans(module: Convolution | TransposedConvolution, taps: float) -> Fans:
    fan_in = taps * (module.in_channels // module.groups)
    fan_out = prod(module.kernel_size) * (module.out_channels // module.groups)
    return Fans(max(1, round(fan_in)), fan_out, max(1, round(taps)))


def transposed_convolution_fans(module: TransposedConvolution) -> Fans:
    """Fans of a transposed convolution, stored as (in_channels, out_channels / groups, *kernel).

    A stride s leaves each output kernel / s of the kernel positions in each dimension: the mean
    over its s phases, which see different numbers of them unless s divides the kernel.
    `torch.nn.init` reads the two channel dimensions the other way round and counts every position.

    Example:
        >>> transposed_convolution_fans(nn.ConvTranspose2d(8, 4, 4, stride=2))
        Fans(fan_in=32, fan_out=64, taps=4)
    """
    return _convolution_fans(module, prod(map(truediv, module.kernel_size, module.stride)))


def attention_blocks(module: nn.MultiheadAttention) -> tuple[WeightBlock, ...]:
    """The query, key and value projections; `out_proj` is a linear layer of its own.

    Example:
        >>> [(b.attribute, b.label, b.rows) for b in attention_blocks(nn.MultiheadAttention(8, 2))]
        [('in_proj_weight', 'q', (0, 8)), ('in_proj_weight', 'k', (8, 16)), \
('in_proj_weight', 'v', (16, 24))]
    """
    width = module.embed_dim
    inputs = {"q": width, "k": module.kdim, "v": module.vdim}
    packed = module.in_proj_weight is not None
    return tuple(
        WeightBlock(
            attribute="in_proj_weight" if packed else f"{label}_proj_weight",
            label=label if packed else "",
            rows=(index * width, (index + 1) * width) if packed else None,
            fans=Fans(fan_in, width),
            kind="attention",
            biases=("in_proj_bias",),
        )
        for index, (label, fan_in) in enumerate(inputs.items())
    )


def recurrent_blocks(module: nn.Module) -> tuple[WeightBlock, ...]:
    """The gates of an LSTM, a GRU, a plain RNN or of one of their cells.

    A gate of `weight_ih` maps the layer's input to `hidden_size` units; a gate of `weight_hh` maps
    the previous output (of `proj_size` when an LSTM projects it) to them; `weight_hr` is that
    projection.

    Example:
        >>> [b.label for b in recurrent_blocks(nn.GRUCell(3, 5))]
        ['reset', 'update', 'new', 'reset', 'update', 'new']
    """
    if isinstance(module, RECURRENT_CELLS):
        return _gates(module, "", module.input_size, module.hidden_size, module.hidden_size)
    if not isinstance(module, RECURRENT_LAYERS):
        return ()
    output = module.proj_size or module.hidden_size
    directions = ("", "_reverse") if module.bidirectional else ("",)
    blocks: list[WeightBlock] = []
    for layer in range(module.num_layers):
        layer_input = module.input_size if layer == 0 else output * len(directions)
        for direction in directions:
            suffix = f"_l{layer}{direction}"
            blocks += _gates(module, suffix, layer_input, output, module.hidden_size)
            if module.proj_size:
                fans = Fans(module.hidden_size, module.proj_size)
                blocks.append(
                    WeightBlock(f"weight_hr{suffix}", "", None, fans, "recurrent_hidden", ())
                )
    return tuple(blocks)


def _gates(
    module: nn.Module, suffix: str, layer_input: int, output: int, hidden: int
) -> tuple[WeightBlock, ...]:
    names: tuple[str, ...] = RNN_GATES
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        names = LSTM_GATES
    elif isinstance(module, (nn.GRU, nn.GRUCell)):
        names = GRU_GATES
    return tuple(
        WeightBlock(
            attribute=f"weight_{source}{suffix}",
            label=label,
            rows=(index * hidden, (index + 1) * hidden) if len(names) > 1 else None,
            fans=Fans(fan_in, hidden),
            kind=kind,
            biases=(f"bias_{source}{suffix}",),
        )
        for source, fan_in, kind in (
            ("ih", layer_input, "recurrent_input"),
            ("hh", output, "recurrent_hidden"),
        )
        for index, label in enumerate(names)
    )


def weight_blocks(module: nn.Module) -> tuple[WeightBlock, ...]:
    """Every weight matrix that `module` itself holds; empty when its type is not known.

    Subclasses count as their base class, by what `isinstance` says.

    Args:
        module: A layer. Only its numbers of channels, features and groups are read, so lazy and
            meta layers are fine.

    Returns:
        One entry per weight matrix, in the order in which torch registers the parameters.

    Example:
        >>> weight_blocks(nn.Linear(3, 2))[0].fans
        Fans(fan_in=3, fan_out=2, taps=1)
        >>> weight_blocks(nn.LayerNorm(3))
        ()
    """
    if isinstance(module, nn.Linear):
        return (_single(linear_fans(module), "linear"),)
    if isinstance(module, nn.Bilinear):
        return (_single(bilinear_fans(module), "bilinear"),)
    if isinstance(module, CONVOLUTIONS):
        return (_single(convolution_fans(module), "conv"),)
    if isinstance(module, TRANSPOSED_CONVOLUTIONS):
        return (_single(transposed_convolution_fans(module), "conv_transpose"),)
    if isinstance(module, nn.MultiheadAttention):
        return attention_blocks(module)
    return recurrent_blocks(module)


def _single(fans: Fans, kind: str) -> WeightBlock:
    return WeightBlock("weight", "", None, fans, kind, ("bias",))
