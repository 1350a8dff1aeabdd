from __future__ import annotations

from dataclasses import replace

from lightning_init.reporting.report import InitReport
from lightning_init.search.hindsight import in_hindsight, score_sentence


def test_each_layer_is_scored_by_what_became_of_it(report: InitReport) -> None:
    stationary, drifting, unknown = in_hindsight(
        report.layers, {"net.0": 0.0305, "net.2": 0.0202, "head": 0.02}, tolerance=0.1
    )
    assert (stationary.projection_held, stationary.verdict_held) == (True, True)
    assert (drifting.projection_held, drifting.verdict_held) == (False, False)
    assert (unknown.run_variance, unknown.verdict_held) == (0.02, None)
    assert score_sentence([stationary, drifting]) == (
        "The probe in hindsight: 1 of 1 `stationary` layers stayed, 0 of 1 `drifting` layers moved"
        " on, the projection's interval held 1 of 2."
    )


def test_layers_that_were_not_watched_stay_as_they_are(report: InitReport) -> None:
    assert in_hindsight(report.layers, {}, tolerance=0.1) == report.layers
    assert score_sentence(report.layers) == ""
    assert score_sentence([replace(report.layers[0], projection_held=False)]) == (
        "The probe in hindsight: the projection's interval held 0 of 1."
    )
