from __future__ import annotations

import json

import pytest
import torch
from models import (
    Notes,
    Regression,
    Silent,
    StateAtTrainStart,
    fit,
    mlp,
    same,
    weights_of,
)
from torch import nn

from lightning_init import OptimalVarianceInit
from lightning_init.stationarity import ForgettingVerdict

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*had not settled"),
    pytest.mark.usefixtures("draw_all"),
]


def test_a_quadratic_forgets_and_its_fixed_point_is_the_steady_state() -> None:
    callback = OptimalVarianceInit(150, forgetting=True, verbose=False, seed=1, on_unsettled="use")
    fit(Silent(), callback, max_epochs=4)
    assert callback.report is not None
    layer = callback.report["layer"]
    assert layer.forgetting is ForgettingVerdict.FORGOTTEN
    assert abs(layer.surviving_share) < 0.05
    assert layer.implied_variance == pytest.approx(0.05 / (0.1 * (2 - 0.05 / 1.9)), rel=0.05)
    assert callback.report.other_probe_steps == callback.report.probe_steps
    assert "1 layers have forgotten their start, 0 remember it" in str(callback.report)


def test_the_fixed_point_is_found_long_before_the_steady_state() -> None:
    # 50 steps with lr h = 0.01: e = 0.99^100 = 0.37 of the start is left at the end, and V, of
    # which 20 000 weights give 1 %, is a third below the steady state.
    torch.manual_seed(0)
    callback = OptimalVarianceInit(50, forgetting=True, verbose=False, seed=1, on_unsettled="use")
    model = Silent(lr=0.01, momentum=0.0)
    nn.init.normal_(model.layer.weight, std=(0.25 * 0.01 / 1.99) ** 0.5)
    fit(model, callback, max_epochs=1)
    assert callback.report is not None
    layer = callback.report["layer"]
    steady = 0.01 / 1.99
    assert layer.variance < 0.8 * steady
    assert layer.surviving_share > 0.05
    assert layer.implied_variance == pytest.approx(steady, rel=0.05)


def test_an_mlp_without_decay_remembers() -> None:
    torch.manual_seed(0)
    model, recorder = Regression(lr=0.01), StateAtTrainStart()
    callback = OptimalVarianceInit(60, forgetting=True, verbose=False, seed=1, on_unsettled="use")
    fit(model, callback, recorder, max_epochs=8)
    assert callback.report is not None
    for layer in callback.report.layers:
        assert layer.forgetting is ForgettingVerdict.REMEMBERS
        assert layer.surviving_share > 0.7
        assert "V is mostly what it was given" in layer.note
        lines = callback.report.table().splitlines()
        assert any(line.startswith("note: ") and layer.name in line for line in lines)
    rows = json.loads(json.dumps(callback.report.to_dict(), allow_nan=False))["layers"]
    assert rows[0]["forgetting"] == "remembers"
    assert callback.report.to_pandas().loc["net.0", "forgetting"] == "remembers"
    assert "remembers |" in callback.report.markdown()


def test_the_second_probe_changes_neither_the_outcome_nor_the_kept_weights() -> None:
    nets = []
    for forgetting in (False, True):
        torch.manual_seed(0)
        recorder = StateAtTrainStart()
        net = mlp(16, 32, 4)
        nn.utils.parametrizations.weight_norm(net[0])
        callback = OptimalVarianceInit(
            8, forgetting=forgetting, verbose=False, seed=1, on_unsettled="use"
        )
        fit(Regression(net), callback, recorder)
        nets.append(recorder.weights)
    assert same(*nets)


def test_weights_are_halved_for_the_second_probe_and_then_put_back() -> None:
    torch.manual_seed(0)
    net = mlp(16, 32, 4)
    nn.utils.parametrizations.weight_norm(net[0])
    starts = Notes()

    class Watched(Regression):
        def on_train_start(self) -> None:
            starts.append([m.weight.std().item() for m in (self.net[0], self.net[2])])

    model, recorder = Watched(net), StateAtTrainStart()
    before = weights_of(model)
    callback = OptimalVarianceInit(
        60, forgetting=True, on_unsettled="keep", verbose=False, verify_steps=0
    )
    fit(model, callback, recorder, max_epochs=8)
    assert starts[1] == pytest.approx([std / 2 for std in starts[0]], rel=1e-5)
    assert same(recorder.weights, before)
