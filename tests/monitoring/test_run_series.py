from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from lightning_init.inspection.weights import find_every_weight
from lightning_init.monitoring.run_series import MOST_SAMPLES, RunSeries, sampling_interval
from lightning_init.monitoring.weight_moments import measured_variances


def filled(steps: int, interval: int = 25) -> RunSeries:
    series = RunSeries(("a", "b"), interval)
    for step in range(steps + 1):
        if series.is_due(step):
            series.append(step, (float(step), -float(step)))
    return series


def test_samples_are_evenly_spaced_however_long_the_run() -> None:
    series = filled(100_000)
    assert len(series.steps) <= MOST_SAMPLES
    assert series.steps == list(range(0, 100_001, series.interval))
    assert series.variances("b") == [-float(step) for step in series.steps]


def test_a_series_goes_on_behind_a_checkpoint() -> None:
    state = json.loads(json.dumps(filled(500).state_dict()))
    resumed = RunSeries.from_state_dict(state)
    for step in range(400, 1001):
        if resumed.is_due(step):
            resumed.append(step, (float(step), -float(step)))
    assert resumed.state_dict() == filled(1000).state_dict()


@pytest.mark.parametrize("planned", [1, 20, 40, 400, 1000, 10**9, float("inf")])
def test_short_runs_are_sampled_more_often(planned: float) -> None:
    interval = sampling_interval(planned)
    assert 1 <= interval <= 60
    assert planned < 40 or planned / interval >= 40


def test_other_layers_begin_a_series_of_their_own() -> None:
    saved = filled(500).state_dict()
    assert RunSeries.begin(("a", "b"), 1000, saved).state_dict() == saved
    series = RunSeries.begin(("0", "1"), 1000, saved)
    assert series.layers == ("0", "1")
    assert series.steps == []


def test_padding_rows_do_not_count() -> None:
    torch.manual_seed(0)
    model = nn.Embedding(50, 8, padding_idx=7)
    weights = find_every_weight(model).weights
    rows = torch.cat([model.weight[:7], model.weight[8:]]).detach().double()
    central, raw = (measured_variances(model, weights, m)[0] for m in ("central", "raw"))
    assert central == pytest.approx(rows.var(correction=0).item(), rel=1e-6)
    assert raw == pytest.approx(rows.square().mean().item(), rel=1e-6)
