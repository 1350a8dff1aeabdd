"""Which series stand together in TensorBoard's Custom Scalars tab."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lightning_init.reporting.bands import BandPoint
from lightning_init.reporting.tags import OPTIMAL_VARIANCE, TOLERANCE, tag

LAYERS_PER_CHART = 12
CHARTS_PER_QUANTITY = 4
# A band has a chart of its own; more than a page of them nobody reads.
LAYERS_WITH_BANDS = 6
BANDS = f"{OPTIMAL_VARIANCE}: confidence bands"
TITLES = {"variance": "V", "drift": "drift and tolerance", "kl": "KL"}


def layout(layers: Sequence[str], with_bands: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Group the series in TensorBoard's custom-scalars tab.

    Args:
        layers: Layer names, those to look at first in front. Each chart shows at most 12 of them,
            and there are at most 4 charts per quantity; the scalars tab has every layer.
        with_bands: Layers whose confidence limits are logged.

    Returns:
        What `SummaryWriter.add_custom_scalars` takes: category, chart, and regular expressions, or
        the tags of a value and its limits.
    """
    charts = {}
    for quantity, title in TITLES.items():
        for start in range(
            0, min(len(layers), LAYERS_PER_CHART * CHARTS_PER_QUANTITY), LAYERS_PER_CHART
        ):
            group = layers[start : start + LAYERS_PER_CHART]
            numbers = f"layers {start + 1}-{start + len(group)} of {len(layers)} by drift"
            charts[f"{title}, {numbers}"] = ["Multiline", [_expression(quantity, group)]]
    bands = {}
    for layer in with_bands:
        bands[f"V: {layer}"] = ["Margin", _margin("V", layer)]
        bands[f"drift: {layer}"] = ["Margin", _margin("drift", layer)]
    return {OPTIMAL_VARIANCE: charts, **({BANDS: bands} if bands else {})}


def band_values(layer: str, point: BandPoint) -> dict[str, float]:
    """Value and limits of V and of the drift of one layer, by tag."""
    fitted = (point.fitted, point.fitted_lower, point.fitted_upper)
    drift = (point.drift, point.drift_lower, point.drift_upper)
    return {
        **dict(zip(_margin("V", layer), fitted, strict=True)),
        **dict(zip(_margin("drift", layer), drift, strict=True)),
    }


def _margin(quantity: str, layer: str) -> list[str]:
    # A Margin chart asks for three series with equal steps, so the value is logged once more.
    names = (quantity, f"{quantity}_lower", f"{quantity}_upper")
    return [tag(OPTIMAL_VARIANCE, f"band/{name}", layer) for name in names]


def _expression(quantity: str, layers: Sequence[str]) -> str:
    alternatives = "|".join(re.escape(tag("", "", layer)[2:]) for layer in layers)
    series = f"{OPTIMAL_VARIANCE}/{quantity}/({alternatives})"
    return f"^({series}|{TOLERANCE})$" if quantity == "drift" else f"^{series}$"
