"""The score that a run prints is the one that its files give."""

from __future__ import annotations

from pathlib import Path

import held_out_trainings
import pytest
from held_out_trainings import TRAININGS
from rescore import rescore, sentence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*had not settled"),
    pytest.mark.filterwarnings("ignore:.*no weight was changed"),
]


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=pytest.mark.slow if n else ()) for n in range(len(TRAININGS))]
)
def test_the_printed_score_is_that_of_the_files(
    number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / str(number)
    with caplog.at_level("INFO", "lightning.pytorch"):
        callback = held_out_trainings.train(number, run)
    scored = rescore(run)
    expected = sentence(scored)
    assert callback.report is not None
    for layer in callback.report.layers:
        told = layer.verdict.value, layer.verdict_held, layer.projection_held
        one = scored[layer.name]
        assert told == (one.verdict, one.verdict_held, one.projection_held), layer.name
    printed = [line for line in caplog.messages if "in hindsight" in line]
    assert printed == ([f"OptimalVarianceInit: {expected}"] if expected else [])
    events = EventAccumulator(str(run)).Reload()
    texts = [tag for tag in events.Tags()["tensors"] if "score" in tag]
    shown = [
        event.tensor_proto.string_val[0].decode() for t in texts for event in events.Tensors(t)
    ]
    assert shown == ([expected] if expected else [])
