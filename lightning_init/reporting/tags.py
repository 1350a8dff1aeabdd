"""The names under which results are logged."""

from __future__ import annotations

import re

OPTIMAL_VARIANCE = "OptimalVarianceInit"
FRACTIONAL_MOMENT = "FractionalMomentInit"

# The page to open: figures, and curves of the layers to look at first in runs of their own.
AT_A_GLANCE = f"{OPTIMAL_VARIANCE}/at_a_glance"


def tag(prefix: str, quantity: str, layer: str) -> str:
    """Name a series in the alphabet that every logger accepts: ASCII letters, digits, `_-./`.

    >>> tag("OptimalVarianceInit", "variance", "net.0")
    'OptimalVarianceInit/variance/net.0'
    >>> tag("OptimalVarianceInit", "variance", "block[0] σ")
    'OptimalVarianceInit/variance/block_0___'
    """
    return re.sub(r"[^A-Za-z0-9_./-]", "_", f"{prefix}/{quantity}/{layer}")
