from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lightning_init.reporting import figures, weight_figures
from lightning_init.reporting.records import WeightSample
from lightning_init.reporting.report import InitReport

DRAWINGS: dict[str, Callable[[], Any]] = {
    "trajectories": lambda: figures.variance_trajectories(
        range(5), {f"layer{i}": [1.0, 1.1, 1.2, 1.3, 1.3 + i] for i in range(9)}, {"layer8": 3}
    ),
    "bound": lambda: figures.variance_bound(0.005, 0.02, "net.0"),
    "fan": lambda: figures.log_norm_fan([-0.01] * 4, [0.02] * 4, [0.1, 0.0, -0.1, 0.2]),
}


@pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)
def test_every_figure_renders_to_an_image_that_is_not_blank(
    draw: Callable[[], Any],
) -> None:
    image = figures.render(draw())
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
    figures.render(figure)
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
    figures.render(figures.variance_trajectories((0, 1), {"a": values, "b": (1.0, 2.0)}, {"a": 1}))


def test_dollar_signs_and_underscores_in_names_are_text() -> None:
    figures.render(figures.variance_bound(1.0, 2.0, "_a$b_$^"))
    figures.render(figures.variance_trajectories((0, 1), {"_$^$": (1.0, 2.0)}, {}))


def test_the_bound_is_least_at_the_measured_variance() -> None:
    curve, optimum, before = figures.variance_bound(0.005, 0.02, "net.0").axes[0].lines
    x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    assert x[np.argmin(y)] == pytest.approx(0.005, rel=0.02)
    assert (optimum.get_xdata()[0], optimum.get_ydata()[0]) == (0.005, 0.0)
    # KL(N(0, V) || N(0, 4 V)) = (log 4 + 1/4 - 1) / 2
    assert before.get_ydata()[0] == pytest.approx(0.5 * (np.log(4) + 0.25 - 1))


def test_the_fan_is_the_sum_over_layers() -> None:
    axes = figures.log_norm_fan([-0.1, -0.2], [0.09, 0.16]).axes[0]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.0, -0.1, -0.3])
    wide = axes.collections[0].get_paths()[0].vertices
    at_end = wide[wide[:, 0] == 2][:, 1]
    assert at_end.min() == pytest.approx(-0.3 - 2 * 0.5)
    assert at_end.max() == pytest.approx(-0.3 + 2 * 0.5)


def test_histograms_of_weights_and_of_constant_ones() -> None:
    spread = np.linspace(-1, 1, 200, dtype=np.float32)
    nothing = np.zeros(5, dtype=np.float32)
    panels = [WeightSample("net.0", 1.2, spread, 2 * spread)]
    panels += [WeightSample("net.2", 0.0, nothing, nothing)]
    image = figures.render(weight_figures.weight_panels(panels))
    assert len(np.unique(image.astype(np.int64) @ [1, 256, 65536])) > 20
    border = np.concatenate([image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel()])
    assert (border == 255).all(), "something is cut off at the border"


def test_images_of_a_report(report: InitReport) -> None:
    images = figures.report_images(report)
    assert set(images) == {"trajectories", "bound"}
    assert all(image.shape[2] == 3 for image in images.values())


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
