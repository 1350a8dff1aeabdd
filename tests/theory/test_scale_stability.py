from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_init.theory.activation_laws import activation_law, register_activation
from lightning_init.theory.fractional_moments import moment_preserving_std
from lightning_init.theory.scale_stability import material_depth, scale_instability_warning

AMPLIFYING = ("gelu", "gelu_tanh", "silu", "mish", "hardswish")
DAMPING = ("tanh", "sigmoid", "elu", "celu", "selu", "softplus", "hardtanh")


@pytest.mark.parametrize("name", AMPLIFYING)
def test_amplifying_activations_are_named_with_their_depth(name: str) -> None:
    law = activation_law(name)
    assert law.scale_exponent > 1
    sentence = scale_instability_warning(law, 64, 1.0)
    assert sentence is not None
    assert f"after {material_depth(law, 64, 1.0)} layers" in sentence
    assert name in sentence


@pytest.mark.parametrize("name", [*DAMPING, "relu6", "relu", "linear", "rrelu", "leaky_relu"])
def test_damping_and_homogeneous_activations_are_not(name: str) -> None:
    assert scale_instability_warning(activation_law(name), 64, 1.0) is None
    assert material_depth(activation_law(name), 64, 1.0) is None


def test_a_homogeneous_function_registered_by_hand_is_not_warned_about() -> None:
    register_activation("hand_leaky", lambda z: np.where(z > 0, z, 0.3 * z))
    assert scale_instability_warning(activation_law("hand_leaky"), 64, 1.0) is None


@pytest.mark.parametrize("name", AMPLIFYING)
def test_depth_grows_with_width_and_falls_with_order(name: str) -> None:
    law = activation_law(name)
    by_width = [material_depth(law, width, 1.0) or math.inf for width in (16, 64, 256, 1024)]
    assert by_width == sorted(by_width)
    assert by_width[0] < by_width[-1]
    by_order = [material_depth(law, 64, order) or math.inf for order in (0.5, 1.0, 1.5, 2.0)]
    assert by_order == sorted(by_order, reverse=True)


def test_dropout_shortens_the_depth() -> None:
    plain, dropped = (material_depth(activation_law("silu", dropout=p), 64, 1.0) for p in (0, 0.5))
    assert plain is not None
    assert dropped is not None
    assert dropped < plain


@pytest.mark.parametrize(("name", "order"), [("silu", 1.0), ("silu", 2.0), ("mish", 2.0)])
def test_depth_agrees_with_real_draws(name: str, order: float) -> None:
    """Given the input the outputs are independent normals, so they are drawn without a matrix."""
    law = activation_law(name)
    function = law.component.function  # type: ignore[attr-defined]
    std = moment_preserving_std(law, 64, order)
    rng = np.random.default_rng(3)
    scale = np.ones(12_000)
    predicted = material_depth(law, 64, order)
    assert predicted is not None
    ratios = []
    for _ in range(predicted + 2):
        outputs = scale[:, None] * rng.standard_normal((len(scale), 64))
        scale = std * np.sqrt((function(outputs) ** 2).sum(1))
        ratios.append(float((scale**order).mean()))
    # Within one layer of the crossing of 1.1.
    assert ratios[predicted] > 1.1
    assert ratios[predicted - 2] < 1.1


def test_order_zero_and_arguments() -> None:
    assert scale_instability_warning(activation_law("gelu"), 64, 0.0) is not None
    with pytest.raises(ValueError, match="`order` must be in"):
        material_depth(activation_law("gelu"), 64, 2.5)
    with pytest.raises(ValueError, match="`fan_in` must be an integer >= 1"):
        material_depth(activation_law("gelu"), 0)
