"""Watching the real run changes nothing of it, and its series survives whatever ends the run."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from contract_harness import (
    Ahead,
    build_trainer,
    in_own_process,
    probe,
    watching,
    with_and_without_watch,
)
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from test_exact_restart import SCENARIOS, SLOW
from test_resume import BATCHES, Run, Steady, every_epoch

# Every scenario is compared with `watch=False` too; the plain run takes one of 27, as it compares
# every third, watched, with a run without any callback of ours.
EARLY = set(list(SCENARIOS)[1::27]) - SLOW
Series = list[list[str]]


@pytest.fixture(scope="module")
def ahead(request: pytest.FixtureRequest) -> Ahead:
    """The selected scenarios, run two at a time in the order of the tests."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    names = [call.params["watched"] for call in calls if call and "watched" in call.params]
    return Ahead({name: SCENARIOS[name] for name in names}, pair=with_and_without_watch)


@pytest.mark.parametrize(
    "watched",
    [pytest.param(n, marks=() if n in EARLY else pytest.mark.slow) for n in SCENARIOS],
)
def test_watching_changes_nothing(watched: str, ahead: Ahead) -> None:
    assert ahead.result(watched)[:10] == []


def files_of(watch: bool) -> list[str]:
    setup = watching(SCENARIOS["csv_logger"], watch)()
    build_trainer(setup, setup.ours).fit(setup.model, setup.train, setup.val)
    return sorted(path.name for path in Path().rglob("*.csv"))


def test_one_of_the_two_runs_is_watched() -> None:
    assert in_own_process(files_of, True) == ["metrics.csv", "run_variance.csv"]
    assert in_own_process(files_of, False) == ["metrics.csv"]


# ------------------------------------------------------------------------------- how a run may end
class Ends(Steady):
    """Ends the real run after ten steps, in one of three ways."""

    how = ""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step != 10:
            return
        if self.how == "exception":
            raise RuntimeError("planted")
        # A shell that put the tests into the background has them ignore interrupts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGKILL if self.how == "kill" else signal.SIGINT)


def series(folder: str = "logs") -> Series:
    """What stands in the file of a logger's first version, without the names of the columns."""
    with Path(folder, "lightning_logs", "version_0", "run_variance.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "net.0", "net.4"]
    return rows


def steps(rows: Series) -> list[int]:
    return [int(row[0]) for row in rows]


def watched(folder: str = "logs", **options: Any) -> dict[str, Any]:
    """Options of a run that is watched and not probed."""
    return {"ours": [probe(max_probe_steps=0)], "logger": CSVLogger(folder)} | options


def ended(how: str, directory: str) -> None:
    os.chdir(directory)
    model = Ends()
    model.how = how
    Run(**watched(), model=model).fit()


@pytest.mark.parametrize("how", ["exception", "interrupt", "kill"])
def test_a_run_that_ends_early_leaves_the_series_so_far(how: str, tmp_path: Path) -> None:
    process = get_context("fork").Process(target=ended, args=(how, str(tmp_path)))
    process.start()
    process.join(60)
    assert process.exitcode == (-signal.SIGKILL if how == "kill" else 1)
    assert steps(series(str(tmp_path / "logs"))) == list(range(11))


# ---------------------------------------------------------------------------------- resumed runs
def from_the_end_of_an_epoch() -> None:
    whole = watched("whole")
    Run(whole.pop("ours"), every_epoch(), **whole).fit()
    Run(**watched("resumed")).fit(ckpt_path="epoch=1.ckpt")
    assert series("resumed") == series("whole")


def from_the_middle_of_an_epoch() -> None:
    saved = ModelCheckpoint(".", "{step}", save_top_k=-1, every_n_train_steps=5)
    whole = watched("whole")
    Run(whole.pop("ours"), saved, **whole).fit()
    Run(**watched("resumed")).fit(ckpt_path="step=5.ckpt")
    rows = series("resumed")
    # Lightning goes on with other batches there; the samples up to the checkpoint are the same.
    assert rows[:6] == series("whole")[:6]
    assert steps(rows) == list(range(4 * BATCHES + 1))


def after_a_kill_in_the_same_directory() -> None:
    whole = watched("whole")
    Run(whole.pop("ours"), every_epoch(), **whole).fit()
    broken = watched("logs", fails_at=20)
    with pytest.raises(RuntimeError, match="planted"):
        Run(broken.pop("ours"), every_epoch(), **broken).fit()
    again = watched(logger=CSVLogger("logs", version=0))
    Run(**again).fit(ckpt_path="epoch=1.ckpt")
    assert series() == series("whole")


def by_the_same_trainer() -> None:
    whole = watched("whole")
    Run(**whole).fit()
    halves = Run(**watched("logs", max_epochs=2)).fit()
    halves.trainer.fit_loop.max_epochs = 4
    halves.fit()
    assert steps(series()) == list(range(4 * BATCHES + 1))


@pytest.mark.parametrize(
    "route",
    [
        from_the_end_of_an_epoch,
        from_the_middle_of_an_epoch,
        after_a_kill_in_the_same_directory,
        by_the_same_trainer,
    ],
    ids=lambda route: route.__name__,
)
def test_a_resumed_run_holds_one_series(route: Callable[[], None]) -> None:
    in_own_process(route)
