"""What a fractional-moment initialization is asked for: every argument once, checked once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import cleandoc
from typing import Any, Literal, TypeVar, get_args

from lightning_init.inspection.weights import Weight
from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.squared_norm import check_order

Mode = Literal["fan_in", "fan_out"]
FirstLayer = Literal["linear", "activation"]
ConvWidth = Literal["taps", "channels"]
Recurrent = Literal["orthogonal", "keep", "same"]
Bias = Literal["auto", "zero", "keep"]
Respect = Literal["author", "nothing"]
_Documented = TypeVar("_Documented")


@dataclass(frozen=True)
class FractionalMomentSettings:
    """Which moment is preserved for which weights, and where the theorem leaves a choice.

    `FractionalMomentInit`, `fractional_moment_init_` and the command line's `plan` take these as
    arguments of their own.

    Args:
        order: Order s of the preserved moment, in [0, 2]; 2 is Kaiming / LeCun, 0 the log-moment.
        nonlinearity: "auto" finds the activation and dropout in front of each weight, by tracing
            one run or, without anything to trace, from the order of modules; what neither tells
            gets the linear rule and a warning. "strict" refuses instead. A name ("relu",
            "leaky_relu", "prelu", "rrelu", "linear", ...) holds for every weight but the first.
        param: Parameter of a named nonlinearity: the slope, or (lower, upper) of "rrelu".
        dropout: Dropout probability in front of each weight for a named nonlinearity.
        bias: "zero", which the theorem needs, "keep", or "auto": zero in plain feed-forward chains,
            but for biases that were set on purpose (not zero, and not torch's default). What is
            predicted leaves out the biases that are kept.
        include: Glob patterns of layer names that take part; the default is all.
        exclude: Glob patterns of layer names that do not take part.
        first_layer: Law of a weight with no activation in front: "linear" is exact for standardised
            inputs, "activation" uses the next weight's law, as is usual with Kaiming.
        mode: "fan_in" preserves each pre-activation, "fan_out" the norm of the activations.
        conv_width: Independent inputs of a convolution: all "taps" (usual) or only "channels".
        recurrent: Hidden-to-hidden weights, which no theorem covers: "orthogonal", "keep", "same".
        respect: "author" redraws generic schemes only (torch's defaults, Kaiming, Xavier, LeCun,
            normal(0.02)) and keeps what was set on purpose; "nothing" redraws that too.

    Raises:
        ValueError: If an argument is outside its range, or parameters come with "auto".
    """

    order: float = 1.0
    nonlinearity: str = "auto"
    param: float | tuple[float, ...] | None = None
    dropout: float = 0.0
    bias: Bias = "auto"
    include: Sequence[str] | None = None
    exclude: Sequence[str] | None = None
    first_layer: FirstLayer = "linear"
    mode: Mode = "fan_in"
    conv_width: ConvWidth = "taps"
    recurrent: Recurrent = "orthogonal"
    respect: Respect = "author"

    @classmethod
    def among(cls, arguments: Mapping[str, Any]) -> FractionalMomentSettings:
        """Pick the settings among the arguments of a call, `locals()` at its first line.

        >>> FractionalMomentSettings.among({"order": 2.0, "seed": 1}).order
        2.0
        """
        return cls(
            **{
                field.name: arguments[field.name]
                for field in fields(cls)
                if field.name in arguments
            }
        )

    def __post_init__(self) -> None:
        check_order(self.order)
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")
        if not self.reads_model:
            activation_law(self.nonlinearity, self.param, self.dropout)
        elif self.param is not None or self.dropout:
            raise ValueError(
                f"`param` and `dropout` belong to a named `nonlinearity`; {self.nonlinearity!r}"
                " reads them from the model."
            )

    @property
    def reads_model(self) -> bool:
        """Whether the activations are found in the model, and not named."""
        return self.nonlinearity in ("auto", "strict")

    def counts_channels(self, weight: Weight) -> bool:
        """Whether only the channels of a weight count as independent inputs."""
        return self.conv_width == "channels" and weight.taps > 1

    def width_of(self, weight: Weight) -> int:
        """The number of inputs or outputs that a weight's law is solved for."""
        fan = weight.fan_in if self.mode == "fan_in" else weight.fan_out
        return max(1, fan // weight.taps) if self.counts_channels(weight) else fan


_CHOICES: dict[str, tuple[str, ...]] = {
    "mode": get_args(Mode),
    "first_layer": get_args(FirstLayer),
    "conv_width": get_args(ConvWidth),
    "recurrent": get_args(Recurrent),
    "bias": get_args(Bias),
    "respect": get_args(Respect),
}


def documents_settings(takes_settings: _Documented) -> _Documented:
    """Put the text of every setting where a docstring says `**settings`: help and CLI read it."""
    text = takes_settings.__doc__
    if text is not None and FractionalMomentSettings.__doc__ is not None:  # not under `python -OO`
        written = cleandoc(FractionalMomentSettings.__doc__)
        entries = written.partition("Args:\n")[2].partition("\n\n")[0]
        takes_settings.__doc__ = re.sub(
            r"^ +\*\*settings:.*$", lambda _: entries, cleandoc(text), flags=re.MULTILINE
        )
    return takes_settings
