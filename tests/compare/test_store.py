from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from compared_model import Classifier, Points

from lightning_init.compare.records import RunRecord
from lightning_init.compare.runs import RunTask
from lightning_init.compare.schemes import make_scheme
from lightning_init.compare.store import RunStore, describe

DESCRIPTION = {"model": Classifier, "data": Points, "trainer": {"max_epochs": 3}}


def task(scheme: str = "he", seed: int = 0, **options: Any) -> RunTask:
    return RunTask(make_scheme(scheme), seed, Classifier, Points, **options)


def record(scheme: str = "he", **changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "scheme": scheme,
        "seed": 0,
        "budget": "full",
        "status": "finished",
        "reason": "",
        "steps": 10,
        "probe_steps": 0,
        "seconds": 0.1,
        "probe_seconds": 0.0,
        "curve": ((5, {"loss": 0.1 + 0.2}),),
        "final": {"loss": 1 / 3},
    }
    return RunRecord(**{**values, **changes})


def test_what_is_kept_is_read_to_the_bit(tmp_path: Path) -> None:
    store = RunStore(tmp_path, DESCRIPTION)
    assert store.load(task()) is None
    kept = record(final={"loss": 1 / 3, "other": math.inf})
    store.keep(task(), [kept])
    assert RunStore(tmp_path, DESCRIPTION).load(task()) == (kept,)
    assert store.load(task(seed=1)) is None
    assert store.load(task("he_uniform")) is None
    store.keep(task(seed=1), [record(final={"loss": math.nan})])
    loaded = store.load(task(seed=1))
    assert loaded is not None
    assert math.isnan(loaded[0].final["loss"])


def test_labels_that_look_alike_have_files_of_their_own(tmp_path: Path) -> None:
    store = RunStore(tmp_path, DESCRIPTION)
    labels = [
        "fractional:order=1.0",
        "fractional:order=1",
        f"he{' ' * 80}a",
        f"he{' ' * 80}b",
        "../x",
    ]
    schemes = [type(make_scheme("he"))(label, make_scheme("he").build) for label in labels]
    for scheme in schemes:
        store.keep(RunTask(scheme, 0, Classifier, Points), [record(scheme.label)])
    assert len(list((tmp_path / "runs").iterdir())) == len(labels)
    for scheme in schemes:
        loaded = store.load(RunTask(scheme, 0, Classifier, Points))
        assert loaded is not None
        assert loaded[0].scheme == scheme.label


def test_charged_records_that_are_missing_are_made(tmp_path: Path) -> None:
    store = RunStore(tmp_path, DESCRIPTION)
    optimal = task("optimal")
    store.keep(optimal, [record("optimal", probe_steps=5)])
    assert store.load(optimal) is None
    assert store.load(task("optimal", equal_budget=False)) is not None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"trainer": {"max_epochs": 4}}, "trainer"),
        ({"model": functools.partial(Classifier, learning_rate=0.2)}, "model"),
        ({"data": functools.partial(Points, 48), "trainer": {}}, "data, trainer"),
    ],
)
def test_runs_of_another_comparison_are_refused(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    RunStore(tmp_path, DESCRIPTION)
    content = (tmp_path / "comparison.json").read_text()
    with pytest.raises(ValueError, match=f"holds runs with another {named}; choose another"):
        RunStore(tmp_path, {**DESCRIPTION, **change})
    assert (tmp_path / "comparison.json").read_text() == content


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    store = RunStore(tmp_path, DESCRIPTION)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.keep(task(), [record()])
    assert store.load(task()) is None


@pytest.mark.parametrize("text", ["[]", "{}", '{"curve": [], "scheme": "he"}', '{"curve": 3}'])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the record of a run"):
        RunRecord.from_json(text)


def test_factories_are_described_by_what_they_call() -> None:
    assert describe(Classifier) == "compared_model.Classifier"
    assert (
        describe(functools.partial(Points, 48, pause=0.5)) == "compared_model.Points(48, pause=0.5)"
    )
    assert " at 0x" not in describe(object())
    assert json.loads(json.dumps({"model": Classifier}, default=describe)) == {
        "model": "compared_model.Classifier"
    }


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"null"])
def test_a_broken_description_is_named_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "comparison.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^`out`: .*comparison\.json is not what") as caught:
        RunStore(tmp_path, DESCRIPTION)
    assert "\n" not in str(caught.value)
