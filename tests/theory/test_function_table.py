from __future__ import annotations

import numpy as np
import pytest

from lightning_init.theory.elementwise import ELEMENTWISE, elementwise_function
from lightning_init.theory.function_table import ElementwiseFunction, function_table


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_tables_hold_the_normal_law(name: str) -> None:
    table = function_table(elementwise_function(name, ()))
    assert table.weights.sum() + table.dead_probability == pytest.approx(1.0, rel=1e-14)
    assert np.all(np.diff(table.squares) >= 0)
    assert np.all(table.squares > 0)
    if table.dead_probability == 0.0:
        for power, moment in ((1, 0.0), (2, 1.0), (4, 3.0), (6, 15.0)):
            assert table.weights @ table.nodes**power == pytest.approx(moment, abs=2e-13)


def test_dead_zone_of_hardswish_and_relu6() -> None:
    below_minus_three = 0.0013498980316300933
    hardswish = function_table(elementwise_function("hardswish", ()))
    assert hardswish.dead_probability == pytest.approx(below_minus_three, rel=1e-12)
    relu6 = function_table(elementwise_function("relu6", ()))
    assert relu6.dead_probability == pytest.approx(0.5, rel=1e-14)


def test_panels_close_in_on_a_zero() -> None:
    """The nodes nearest to the zero of tanh carry less than 1e-18 of the mass."""
    table = function_table(elementwise_function("tanh", ()))
    assert np.sqrt(table.squares[0]) < 1e-18
    close = table.weights[np.abs(table.nodes) < 1e-18]
    assert 0 < close.sum() < 1e-18


def test_power_sums_are_running_moments() -> None:
    table = function_table(ElementwiseFunction(np.abs))
    assert table.power_sums[:, 0].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(table.power_sums[:, -1], [1.0, 1.0, 3.0], rtol=1e-13)


def test_functions_compare_by_value() -> None:
    assert elementwise_function("elu", (0.5,)) == elementwise_function("elu", (0.5,))
    assert elementwise_function("elu", (0.5,)) != elementwise_function("elu", ())
