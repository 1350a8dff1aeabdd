from __future__ import annotations

import pytest
from scipy import stats

from lightning_init.stationarity.student import student_t_quantile


@pytest.mark.parametrize("degrees_of_freedom", [1, 2, 3, 4, 7, 8, 9, 30, 101])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.9, 0.95, 0.975, 0.999, 0.9999])
def test_matches_scipy(probability: float, degrees_of_freedom: int) -> None:
    expected = stats.t.ppf(probability, degrees_of_freedom)
    assert student_t_quantile(probability, degrees_of_freedom) == pytest.approx(
        expected, rel=1e-10, abs=1e-12
    )
