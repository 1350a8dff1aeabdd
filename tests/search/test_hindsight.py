from __future__ import annotations

from dataclasses import replace

from lightning_init.reporting.report import InitReport
from lightning_init.search.hindsight import ending_sentence, in_hindsight, score_sentence
from lightning_init.stationarity.run_verdict import run_verdict


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


def test_what_still_moves_is_named_with_its_change() -> None:
    moving = {
        "still": run_verdict([1.0] * 100),
        "grows": run_verdict([1.004**step for step in range(100)]),
        "falls": run_verdict([1.006**-step for step in range(100)]),
        "broken": run_verdict([0.0] * 100),
    }
    assert ending_sentence(moving) == (
        "ended, 1 of 4 layers stationary over its last half, 'falls' moving most (-23%)"
    )
    assert ending_sentence({"still": moving["still"]}).endswith(
        "1 of 1 layers stationary over its last half"
    )
