"""Moment-preserving scales and draws in the manner of ``torch.nn.init``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_init.initialization.measurement import traced_log_norms
from lightning_init.initialization.model_plan import plan_model
from lightning_init.initialization.plan import InitPlan
from lightning_init.initialization.settings import (
    Bias,
    ConvWidth,
    FirstLayer,
    FractionalMomentSettings,
    Mode,
    Recurrent,
    Respect,
    documents_settings,
)
from lightning_init.inspection.lazy import has_lazy_parameters, materialize_lazy_
from lightning_init.theory import log_norm
from lightning_init.theory.activation_laws import ActivationLaw, activation_law
from lightning_init.theory.fractional_moments import dead_layer_warning, moment_preserving_std
from lightning_init.theory.log_norm import LogNormLaw
from lightning_init.theory.scale_stability import scale_instability_warning


def fractional_moment_std(
    fan_in: int,
    order: float = 1.0,
    nonlinearity: str = "relu",
    param: float | Sequence[float] | None = None,
    dropout: float = 0.0,
    scheme: str = "exact",
    *,
    conditional: bool = False,
) -> float:
    """Standard deviation of normal weights that preserves the order-s moment at finite width.

    sigma = (E||phi(z)||^s)^(-1/s) with z ~ N(0, I_fan_in) and phi the activation in front of the
    weight, dropout included (Gurbuzbalaban & Hu 2021, arXiv 2005.11878).

    Args:
        fan_in: Number of inputs summed per output unit.
        order: s in [0, 2]; 2 is Kaiming / LeCun, 0 the log-moment.
        nonlinearity: Name of the activation between the previous weight and this one; see
            `lightning_init.theory.activation_laws.activation_law` for the names.
        param: Its slope or other parameters; None for torch's defaults.
        dropout: Probability of the dropout between activation and weight, in [0, 1).
        scheme: "exact", "asymptotic" (large-width expansion) or "authors" (published code, for
            comparison).
        conditional: Preserve the moment given that not all inputs are zero; see
            `lightning_init.theory.fractional_moments.moment_preserving_std`.

    Returns:
        sigma > 0.

    Raises:
        ValueError: If an argument is out of its range.

    Warns:
        UserWarning: If dead layers inflate the scale by more than 5 %, or the activation amplifies
            scale errors with depth (GELU, SiLU, Mish).

    Example:
        >>> round(fractional_moment_std(64, order=1.0, nonlinearity="leaky_relu", param=0.01), 12)
        0.178518656078
    """
    return _std(activation_law(nonlinearity, param, dropout), fan_in, order, scheme, conditional)


def fractional_moment_normal_(
    tensor: Tensor,
    order: float = 1.0,
    nonlinearity: str = "relu",
    param: float | Sequence[float] | None = None,
    dropout: float = 0.0,
    fan_in: int | None = None,
    generator: torch.Generator | None = None,
    *,
    conditional: bool = False,
) -> Tensor:
    """Fill the tensor in place with N(0, sigma^2), sigma = `fractional_moment_std`.

    Dtype, device and requires_grad stay as they are. Types narrower than float32 are drawn in
    float32 and rounded once.

    Args:
        tensor: Weight of shape (fan_out, ...), floating point.
        order: s in [0, 2]; 2 is Kaiming / LeCun, 0 the log-moment.
        nonlinearity: Name of the activation in front of this weight.
        param: Its slope or other parameters; None for torch's defaults.
        dropout: Probability of the dropout between activation and weight, in [0, 1).
        fan_in: Inputs summed per output; by default the number of elements of ``tensor[0]``, which
            is right for linear and (grouped) convolution weights, not for transposed convolutions.
        generator: Source of the draw; None for torch's global one.
        conditional: Preserve the moment given that not all inputs are zero.

    Returns:
        The same tensor.

    Raises:
        ValueError: If the tensor is not floating point, has fewer than two dimensions while fan_in
            is None, or another argument is out of its range. The tensor is then unchanged.

    Example:
        >>> weight = torch.empty(3, 64)
        >>> _ = fractional_moment_normal_(weight, generator=torch.Generator().manual_seed(0))
        >>> bool(weight.std() < 0.3)
        True
    """
    if not tensor.is_floating_point():
        raise ValueError(f"`tensor` must be floating point, got {tensor.dtype}; cast it first.")
    if fan_in is None and tensor.dim() < 2:
        raise ValueError(
            f"`tensor` must have at least 2 dimensions, got shape {tuple(tensor.shape)}; "
            "pass fan_in."
        )
    inputs = tensor[0].numel() if fan_in is None else fan_in
    std = _std(activation_law(nonlinearity, param, dropout), inputs, order, "exact", conditional)
    with torch.no_grad():
        if torch.finfo(tensor.dtype).bits >= 32:
            return tensor.normal_(0.0, std, generator=generator)
        wide = torch.empty(tensor.shape, dtype=torch.float32, device=tensor.device)
        return tensor.copy_(wide.normal_(0.0, std, generator=generator))


def log_norm_law(
    width: int,
    order: float = 1.0,
    nonlinearity: str = "relu",
    param: float | Sequence[float] | None = None,
    dropout: float = 0.0,
) -> LogNormLaw:
    """Drift and variance of the log-norm of the activations, per layer of an equal-width network.

    Over k layers log||x_k|| - log||x_0|| is asymptotically normal with k times both, under the
    weights of `fractional_moment_std`.

    Args:
        width: Width of every layer.
        order: s in [0, 2].
        nonlinearity: Name of the activation of every layer.
        param: Its slope or other parameters; None for torch's defaults.
        dropout: Probability of the dropout behind the activation, in [0, 1).

    Returns:
        A `LogNormLaw` with ``drift``, ``variance`` (nats, given that the layer is not dead) and
        ``dead_probability``.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> step = log_norm_law(64, order=2.0)
        >>> round(step.drift, 6), round(step.variance, 6)
        (-0.020054, 0.020749)
    """
    return log_norm.log_norm_law(activation_law(nonlinearity, param, dropout), width, order)


def _std(law: ActivationLaw, fan_in: int, order: float, scheme: str, conditional: bool) -> float:
    """The scale, with the warnings raised at the caller of the public function."""
    std = moment_preserving_std(law, fan_in, order, conditional=conditional, scheme=scheme)
    dead = None if conditional else dead_layer_warning(law, fan_in, order)
    for sentence in (dead, scale_instability_warning(law, fan_in, order)):
        if sentence is not None and scheme == "exact":
            warnings.warn(sentence, UserWarning, stacklevel=3)
    return std


@documents_settings
def fractional_moment_init_(  # noqa: D417 - the decorator writes the other arguments
    module: nn.Module,
    order: float = 1.0,
    nonlinearity: str = "auto",
    example_input: Any = None,
    seed: int = 0,
    param: float | tuple[float, ...] | None = None,
    dropout: float = 0.0,
    bias: Bias = "auto",
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    first_layer: FirstLayer = "linear",
    mode: Mode = "fan_in",
    conv_width: ConvWidth = "taps",
    recurrent: Recurrent = "orthogonal",
    respect: Respect = "author",
    dry_run: bool = False,
) -> InitPlan:
    """Draw the weights of a whole model so that the order-s moment of the signal is preserved.

    Everything is decided and checked before the first weight is written; the global random
    generators are not touched.

    Args:
        module: The model. Embeddings, norms, frozen weights and whatever else has no fan-in stay as
            they are, each with its reason in the plan.
        example_input: What the model is called with: a tensor, a tuple or list of positional
            arguments, or a dict of keyword arguments. It also gives lazy layers their shapes, and
            the plan then holds the log-norm measured at every layer beside its prediction, if
            anything is drawn.
        seed: Seed of the draw; each layer's stream depends on it and on the layer's name alone.
        **settings: See `FractionalMomentSettings`.
        dry_run: Print the plan and change nothing.

    Returns:
        The plan: one row per weight with its law and standard deviation, everything left out with
        its reason, and what the plan predicts. ``str(plan)`` is a table.

    Raises:
        TypeError: If ``module`` is no module or ``seed`` no integer.
        ValueError: If an argument is out of its range, no weight takes part, the forward pass on
            ``example_input`` fails, or "strict" cannot tell the activation in front of some weight.
            The model is then unchanged.

    Warns:
        UserWarning: If an activation amplifies errors of the scale (exponent above 1), or dead
            layers inflate a scale by more than 5 %.

    Example:
        >>> model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 1))
        >>> plan = fractional_moment_init_(model, order=1.0)
        >>> [(row.weight.name, round(row.std, 6)) for row in plan.rows]
        [('0', 0.226418), ('2', 0.178528)]
    """
    settings = FractionalMomentSettings.among(locals())
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a torch.nn.Module, got {type(module).__name__}.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"`seed` must be an integer, got {seed!r}.")
    plan, reading = plan_model(module, settings, example_input, on_meta=dry_run)
    for sentence in plan.warnings:
        warnings.warn(sentence, UserWarning, stacklevel=2)
    if dry_run:
        sys.stdout.write(f"{plan}\n")
        return plan
    if example_input is not None and reading.norms is None and has_lazy_parameters(module):
        materialize_lazy_(module, example_input)
    plan.apply_(module, seed)
    if example_input is None or all(row.treatment == "keep" for row in plan.rows):
        return plan
    if log_norms := traced_log_norms(reading.norms, plan.rows):
        return replace(plan, log_norms=log_norms)
    try:
        return plan.measured_on(module, example_input)
    except ValueError as error:  # what was drawn stands: a batch that is too small may be to blame
        return replace(plan, remarks=(*plan.remarks, f"Not measured: {error}"))
