"""What a fractional-moment initialization is asked for, validated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lightning_init.inspection.weights import Weight
from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.squared_norm import check_order

Mode = Literal["fan_in", "fan_out"]
FirstLayer = Literal["linear", "activation"]
ConvWidth = Literal["taps", "channels"]
Recurrent = Literal["orthogonal", "keep", "same"]
Bias = Literal["zero", "keep"]
Scheme = Literal["exact", "asymptotic", "authors"]


@dataclass(frozen=True)
class FractionalMomentSettings:
    """Which moment is preserved, and the conventions where the theorem leaves a choice.

    Args:
        order: Order s of the preserved moment, in [0, 2].
        scheme: "exact", "asymptotic" (large widths) or "authors" (the published code's formulas).
        mode: "fan_in" preserves each pre-activation, "fan_out" the norm of the activations.
        first_layer: Law of a weight with no activation in front: "linear" is exact for standardised
            inputs, "activation" uses the following layer's law, as Kaiming's habit is.
        conv_width: Independent inputs of a convolution: "taps" counts every kernel position
            (Kaiming's convention), "channels" only the channels.
        recurrent: What hidden-to-hidden weights get, which no theorem covers: "orthogonal" blocks,
            "keep", or the "same" law as the others.
        bias: "zero", which the theorem needs, or "keep".
        conditional: Preserve the moment given that the layer is alive.

    Raises:
        ValueError: If an argument is outside its range.
    """

    order: float = 1.0
    scheme: Scheme = "exact"
    mode: Mode = "fan_in"
    first_layer: FirstLayer = "linear"
    conv_width: ConvWidth = "taps"
    recurrent: Recurrent = "orthogonal"
    bias: Bias = "zero"
    conditional: bool = False

    def __post_init__(self) -> None:
        check_order(self.order)
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")

    def counts_channels(self, weight: Weight) -> bool:
        """Whether only the channels of a weight count as independent inputs."""
        return self.conv_width == "channels" and weight.taps > 1

    def width_of(self, weight: Weight) -> int:
        """The number of inputs or outputs that a weight's law is solved for."""
        fan = weight.fan_in if self.mode == "fan_in" else weight.fan_out
        return max(1, fan // weight.taps) if self.counts_channels(weight) else fan


_CHOICES: dict[str, tuple[str, ...]] = {
    "scheme": get_args(Scheme),
    "mode": get_args(Mode),
    "first_layer": get_args(FirstLayer),
    "conv_width": get_args(ConvWidth),
    "recurrent": get_args(Recurrent),
    "bias": get_args(Bias),
}


@dataclass(frozen=True)
class NonlinearityChoice:
    """The activation in front of the weights, named for all of them or read from the model.

    Args:
        nonlinearity: "auto", or a name that `activation_law` knows.
        param: Parameter of a named nonlinearity.
        dropout: Dropout probability that goes with it.

    Raises:
        ValueError: If the name or a parameter is wrong, or parameters come with "auto".
    """

    nonlinearity: str = "auto"
    param: float | tuple[float, ...] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.nonlinearity != "auto":
            activation_law(self.nonlinearity, self.param, self.dropout)
        elif self.param is not None or self.dropout:
            raise ValueError(
                "`param` and `dropout` belong to a named `nonlinearity`; 'auto' reads them"
                " from the model."
            )
