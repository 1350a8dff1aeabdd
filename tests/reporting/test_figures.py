from __future__ import annotations

import gc
import math
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from probe_series import report_of, series

from lightning_init.figure_style import scale_figure
from lightning_init.monitoring.run_series import VarianceHistory
from lightning_init.reporting import figures
from lightning_init.reporting.figures import render
from lightning_init.reporting.plan_figures import log_norm_fan
from lightning_init.reporting.records import WeightSample
from lightning_init.reporting.report import InitReport
from lightning_init.reporting.weight_figures import weight_panels

DRAWINGS: dict[str, Callable[[], Any]] = {
    "trajectories": lambda: figures.variance_trajectories(
        range(5), {f"layer{i}": [1.0, 1.1, 1.2, 1.3, 1.3 + i] for i in range(9)}, {"layer8": 3}
    ),
    "scales": lambda: scale_figure(NAMES, [0.1] * 30, AFTER, "Scales", None, [0.2] * 30),
    "fan": lambda: log_norm_fan([-0.01] * 4, [0.02] * 4, [0.1, 0.0, -0.1, 0.2]),
}
NAMES, AFTER = [f"block.{i}" for i in range(30)], [0.1 + 0.01 * i for i in range(30)]


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_every_figure_renders_to_an_image_that_is_not_blank(
    draw: Callable[[], Any],
) -> None:
    image = render(draw())
    assert image.shape == (576, 800, 3)
    assert image.dtype == np.uint8
    colours = np.unique(image.astype(np.int64) @ [1, 256, 65536])
    assert len(colours) > 20
    border = np.concatenate([image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel()])
    assert (border == 255).all(), "something is cut off at the border"


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_nothing_of_pyplot_is_touched_and_nothing_stays_open(
    draw: Callable[[], Any],
) -> None:
    plotting = sys.modules.get("matplotlib.pyplot")
    before = plotting.get_fignums() if plotting else None
    figure = draw()
    render(figure)
    reference = weakref.ref(figure)
    del figure
    gc.collect()
    assert reference() is None
    plotting = sys.modules.get("matplotlib.pyplot")
    assert (plotting.get_fignums() if plotting else None) == before


def test_six_layers_are_named_the_rest_is_counted() -> None:
    figure = DRAWINGS["trajectories"]()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*(f"layer{i}" for i in (8, 7, 6, 5, 4, 3)), "3 more layers"]


def test_trajectories_are_relative_to_the_first_value() -> None:
    figure = figures.variance_trajectories((0, 10), {"a": (0.5, 1.0)}, {"a": None})
    assert list(figure.axes[0].lines[0].get_ydata()[:2]) == [1.0, 2.0]


@pytest.mark.parametrize("values", [(0.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_a_layer_without_a_first_value_does_not_stop_the_figure(values: tuple[float, ...]) -> None:
    render(figures.variance_trajectories((0, 1), {"a": values, "b": (1.0, 2.0)}, {"a": 1}))


def test_dollar_signs_and_underscores_in_names_are_text() -> None:
    render(scale_figure(["_a$b_$^"], [1.0], [2.0], "Scales"))
    render(figures.variance_trajectories((0, 1), {"_$^$": (1.0, 2.0)}, {}))


def test_the_layers_that_change_most_have_a_bar_and_the_others_are_counted() -> None:
    figure = scale_figure(NAMES, [0.1] * 30, AFTER, "Scales", found=[math.nan] * 30)
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [f"block.{i}" for i in range(29, 21, -1)]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(
        [0.1 * i for i in range(29, 21, -1)]
    )
    words = [text.get_text() for text in axes.texts]
    assert words[0] == "0.1 → 0.39 redrawn"
    assert [text.get_text() for text in figure.texts] == ["22 more layers: x1 to x3.1", "Scales"]


@pytest.mark.parametrize("before", [0.0, math.nan])
def test_a_layer_that_had_no_variance_has_no_bar(before: float) -> None:
    figure = scale_figure(["a", "b"], [before, 1.0], [0.1, 1.0], "Scales", ["redrawn", "kept"])
    assert {bar.get_width() for bar in figure.axes[0].patches} == {0.0}
    assert "→ 0.1 redrawn" in figure.axes[0].texts[0].get_text()
    render(figure)


def drift_report(report: InitReport, level: float) -> InitReport:
    """`report` whose three layers drift at this level, with a tolerance of 0.1."""
    drifts = ((math.nan, 1.1 * level, level),) * 3
    history = replace(report.history, drifts=drifts)
    layers = tuple(replace(layer, drift_index=level) for layer in report.layers)
    settings = (("tolerance", 0.1),)
    return replace(report, history=history, layers=layers, settings=settings)


@pytest.mark.parametrize("level", [1e-6, 0.01, 0.099, 0.2, 300.0])
def test_the_tolerance_is_always_in_view_and_so_is_what_lies_above(
    report: InitReport, level: float
) -> None:
    figure = figures.record_drifts(drift_report(report, level))
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low < 0.1 < high
    assert high > level
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "tolerance 10 %" in labels
    ends = 3 if level < 0.1 else 0
    assert axes.get_title() == f"Drift: {ends} of 3 end below the line"
    render(figure)


def test_bands_are_drawn_as_bands_in_the_colour_of_their_layer(report: InitReport) -> None:
    long = report_of(report, {"net.0": series(seed=1), "net.2": series(seed=2)})
    for draw in (figures.record_trajectories, figures.record_drifts):
        (axes,) = draw(long).axes
        assert len(axes.collections) == 2
        of_bands = [tuple(band.get_facecolor()[0][:3]) for band in axes.collections]
        lines = {line.get_gid(): to_rgb(line.get_color()) for line in axes.lines}
        assert of_bands == [lines[name] for name in figures.leading_layers(long)]


def test_the_leading_layers_moved_most_or_drift_most(report: InitReport) -> None:
    names = tuple(f"layer{i}" for i in range(12))
    variances = tuple((1.0, 1.0 + i / 100) for i in range(12))
    layers = tuple(
        replace(report.layers[0], name=name, drift_index=1.0 - i / 12)
        for i, name in enumerate(names)
    )
    history = VarianceHistory((0, 5), names, variances, ((math.nan, 0.1),) * 12)
    found = figures.leading_layers(replace(report, layers=layers, history=history))
    assert found == ["layer11", "layer0", "layer10", "layer1", "layer9", "layer2"]


def test_the_fan_is_the_sum_over_layers() -> None:
    axes = log_norm_fan([-0.1, -0.2], [0.09, 0.16]).axes[0]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.0, -0.1, -0.3])
    wide = axes.collections[0].get_paths()[0].vertices
    at_end = wide[wide[:, 0] == 2][:, 1]
    assert at_end.min() == pytest.approx(-0.3 - 2 * 0.5)
    assert at_end.max() == pytest.approx(-0.3 + 2 * 0.5)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_histograms_of_constant_weights(count: int) -> None:
    samples = [WeightSample(f"net.{i}", 0.0, np.zeros(5), np.zeros(5)) for i in range(count)]
    image = render(weight_panels(samples))
    assert image.shape[1] == 800
    assert (np.concatenate([image[:2].ravel(), image[:, :2].ravel()]) == 255).all()


def test_images_of_a_report_stand_in_the_order_in_which_to_read_them(report: InitReport) -> None:
    images = figures.report_images(report)
    assert list(images) == ["1_first_weights", "2_variance", "3_drift"]
    assert all(image.shape == (576, 800, 3) for image in images.values())
    unknown = replace(report, layers=(), history=VarianceHistory())
    assert figures.report_images(unknown) == {}


def test_without_matplotlib_one_line_says_what_to_install(
    report: InitReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert figures.report_images(report) == {}
    with pytest.raises(ImportError, match="figures need matplotlib; install it"):
        report.plot()
