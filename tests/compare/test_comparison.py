from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from compared_model import Classifier, Points, halve, refuse

from lightning_init.compare import Comparison, Scheme, compare

TRAINER = {"max_epochs": 2}
HERE = Path(__file__).parent


def small(out: Path, **changes: Any) -> Comparison:
    given: dict[str, Any] = {
        "model": Classifier,
        "data": Points,
        "inits": ["he", "xavier", "optimal:max_probe_steps=4,on_unsettled=use"],
        "seeds": 3,
        "trainer": TRAINER,
        "metrics": {"val_loss": "min"},  # one, because the figures take most of the time
        "progress": False,
    }
    return compare(out=out, **{**given, **changes})


def files_of(directory: Path) -> dict[str, bytes]:
    """What a report wrote, but for what it cost."""
    return {
        file.name: file.read_bytes()
        for file in directory.iterdir()
        if file.is_file() and not file.name.startswith("cost")
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    out = tmp_path_factory.mktemp("finished")
    return out, small(out)


def test_records_are_in_the_order_that_was_asked_for(finished: tuple[Path, Comparison]) -> None:
    _, comparison = finished
    assert [(r.scheme, r.seed, r.budget) for r in comparison.records] == [
        *[("he", seed, "full") for seed in range(3)],
        *[("xavier", seed, "full") for seed in range(3)],
        *[
            ("optimal:max_probe_steps=4,on_unsettled=use", seed, budget)
            for seed in range(3)
            for budget in ("full", "equal")
        ],
    ]
    assert all(record.status == "finished" for record in comparison.records)


def test_report_is_written(finished: tuple[Path, Comparison]) -> None:
    out, comparison = finished
    page = (out / "report.md").read_text().replace("![differences](differences.png)\n\n", "", 1)
    assert page.startswith(comparison.report.to_markdown())
    names = {file.name for file in comparison.files}
    assert {"report.md", "differences.csv", "summary.csv", "cost.md", "cost.csv"} <= names
    assert any(file.suffix == ".png" for file in comparison.files)
    assert all(file.exists() for file in comparison.files)


def test_identical_schemes_differ_by_exactly_zero(tmp_path: Path) -> None:
    probe = "optimal:max_probe_steps=4,on_unsettled=use"
    for inits in (["he", "he"], [probe, probe], [halve, halve]):
        comparison = small(tmp_path / str(inits[0])[:4], inits=inits)
        by_scheme: dict[str, list[Any]] = {}
        for record in comparison.records:
            by_scheme.setdefault(record.scheme, []).append((record.final, record.curve))
        first, second = by_scheme.values()
        assert first == second
        table = comparison.report.table
        assert len(table) >= 2
        assert (table["mean_difference"] == 0.0).all()
        assert (table["verdict"] == "identical").all()


def test_going_on_gives_the_report_of_an_uninterrupted_run(
    finished: tuple[Path, Comparison], tmp_path: Path, monkeypatch: Any
) -> None:
    from lightning_init.compare import executors

    made: list[str] = []

    def interrupted(task: Any) -> Any:
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(task.name)
        return execute(task)

    execute = executors.execute
    monkeypatch.setattr(executors, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path)
    assert len(list((tmp_path / "runs").iterdir())) == 4
    # The rest is made, and nothing twice.
    monkeypatch.setattr(
        executors, "execute", lambda task: (made.append(task.name), execute(task))[1]
    )
    small(tmp_path)
    assert len(made) == len(set(made)) == 9
    assert files_of(tmp_path) == files_of(finished[0])
    small(tmp_path)
    assert len(made) == 9


SCRIPT = """
import sys
from functools import partial
from compared_model import Classifier, Points
from lightning_init.compare import compare

if __name__ == "__main__":
    compare(Classifier, partial(Points, pause=0.3), ["he", "xavier"], 4, out=sys.argv[1],
            trainer={"max_epochs": 2}, jobs=int(sys.argv[2]), progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_killed_comparison_goes_on(tmp_path: Path, jobs: str) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE) + os.pathsep + os.environ.get("PYTHONPATH", ""),
        "OMP_NUM_THREADS": "1",
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT]
    subprocess.run([*command, whole, jobs], env=environment, check=True, timeout=200)
    process = subprocess.Popen([*command, killed, jobs], env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while len(list((killed / "runs").glob("[!.]*")) if killed.exists() else []) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = {file.name: file.read_text() for file in (killed / "runs").glob("[!.]*")}
    assert 3 <= len(kept) < 8
    subprocess.run([*command, killed, jobs], env=environment, check=True, timeout=200)
    assert {n: (killed / "runs" / n).read_text() for n in kept} == kept
    assert files_of(killed) == files_of(whole)


@pytest.mark.slow
def test_two_workers_give_the_same_report(
    finished: tuple[Path, Comparison], tmp_path: Path
) -> None:
    small(tmp_path, jobs=2)
    assert files_of(tmp_path) == files_of(finished[0])


def test_more_seeds_and_schemes_may_be_added(tmp_path: Path) -> None:
    small(tmp_path, inits=["he"], seeds=1)
    kept = (tmp_path / "runs").iterdir().__next__()
    stamp = kept.stat().st_mtime_ns
    comparison = small(tmp_path, inits=["he", "default"], seeds=[0, 5])
    assert len(comparison.records) == 4
    assert kept.stat().st_mtime_ns == stamp


def test_failed_runs_are_kept_and_may_be_repeated(tmp_path: Path) -> None:
    comparison = small(tmp_path, inits=["he", refuse], seeds=2)
    assert [record.status for record in comparison.records] == ["finished"] * 2 + ["failed"] * 2
    assert "2" in comparison.report.to_markdown()
    mended = Scheme.from_function(halve, "refuse")
    again = small(tmp_path, inits=["he", mended], seeds=2)
    assert again.records == comparison.records
    repeated = small(tmp_path, inits=["he", mended], seeds=2, repeat_failed=True)
    assert all(record.status == "finished" for record in repeated.records)
    assert repeated.records[:2] == comparison.records[:2]


def test_probes_that_are_not_charged(tmp_path: Path) -> None:
    comparison = small(tmp_path, equal_budget=False, seeds=1)
    assert {record.budget for record in comparison.records} == {"full"}
    # Charged later, in the same directory.
    assert {record.budget for record in small(tmp_path, seeds=1).records} == {"full", "equal"}
    again = small(tmp_path, equal_budget=False, seeds=1)
    assert {record.budget for record in again.records} == {"full"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": 3}, "With 3 pairs and 5 comparisons no .* 0.05: 8 seeds, or fewer comparisons"),
        ({"seeds": 5, "inits": ["he", "xavier"]}, "5 pairs and 1 comparison no .*: 6 seeds are"),
        ({"seeds": 6, "inits": ["he", "optimal"]}, "With 6 pairs and 2 comparisons .* 7 seeds"),
        ({"seeds": 6, "inits": ["he", "optimal"], "equal_budget": False}, ""),
        ({"seeds": 6, "inits": ["he", "xavier"]}, ""),
        ({"seeds": 1, "inits": ["he"]}, ""),
        ({"seeds": 6, "inits": ["he", "xavier", "default"], "reference": "he"}, "7 seeds"),
    ],
)
def test_too_few_seeds_are_said_before_the_first_run(
    tmp_path: Path, changes: dict[str, Any], said: str, monkeypatch: Any
) -> None:
    from lightning_init.compare import comparison

    def first_run(*_: Any) -> None:
        raise KeyboardInterrupt

    texts: list[str] = []
    monkeypatch.setattr(comparison, "run_all", first_run)
    monkeypatch.setattr(comparison, "rank_zero_warn", texts.append)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, **changes)
    assert len(texts) == bool(said)
    assert not texts or re.search(said, texts[0])


def test_progress_bar_is_shown(tmp_path: Path, capfd: Any) -> None:
    small(tmp_path, seeds=1, inits=["he"], progress=True)
    shown = capfd.readouterr().err
    assert "Comparing" in shown
    assert "1/1" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inits": ["glorot"]}, "`inits` has no scheme 'glorot'"),
        ({"inits": []}, "`inits` must be a list"),
        ({"seeds": 0}, "`seeds` must be at least 1, got 0"),
        ({"seeds": [1, 1]}, "`seeds` must be a number, or different integers"),
        ({"seeds": []}, "`seeds` must be a number, or different integers"),
        ({"seeds": True}, "`seeds` must be a number, or different integers"),
        ({"trainer": {"callbacks": [1]}}, "`trainer` may not hold callbacks"),
        ({"trainer": {"max_epoch": 1}}, "`trainer` has no argument 'max_epoch'"),
        ({"reference": "lecun"}, "`reference` must be one of he, xavier, optimal"),
        ({"jobs": 0}, "`jobs` must be"),
        ({"metrics": {"val_loss": "down"}}, "val_loss"),
        ({"model": Classifier()}, "`model` must be a function that makes a LightningModule"),
        ({"data": Points()}, "`data` must be a function that makes"),
    ],
)
def test_wrong_arguments_make_no_run(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        small(tmp_path / "out", **change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_comparison_in_the_same_directory(tmp_path: Path) -> None:
    small(tmp_path, inits=["he"], seeds=1)
    with pytest.raises(ValueError, match="holds runs with another model, trainer"):
        small(tmp_path, model=partial(Classifier, learning_rate=0.2), trainer={"max_epochs": 1})


class TestPilot:
    """`pilot:...`: one earlier run, whose variances all seeds start from."""

    def test_one_earlier_run_is_shared_by_all_seeds_and_schemes(self, tmp_path: Path) -> None:
        inits = ["default", "pilot:seed=7", "pilot:seed=7,include=net.0", "pilot:seed=7,share=0.5"]
        comparison = small(tmp_path, inits=inits, seeds=2)
        kept = sorted(path.name for path in (tmp_path / "pilots").glob("*.record.json"))
        assert kept == ["default-7-0.5.record.json", "default-7-1.record.json"]
        steps = {record.scheme: record.pilot_steps for record in comparison.records}
        planned = comparison.records[0].steps
        assert steps == dict(zip(inits, (0, planned, planned, round(planned / 2)), strict=True))
        costs = comparison.report.cost.set_index("scheme")["pilot_steps_per_run"]
        assert costs["pilot:seed=7"] == planned / 2
        assert all(record.status == "finished" for record in comparison.records)

    @pytest.mark.parametrize("wrong", ["pilot:share=0", "pilot:share=2", "pilot:depth=3"])
    def test_wrong_options_are_refused(self, wrong: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=re.escape(wrong)):
            small(tmp_path, inits=["default", wrong])
