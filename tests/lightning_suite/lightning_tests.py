"""Runs Lightning's own tests with a callback of ours in every Trainer, and tells what is new.

    python lightning_tests.py run SOURCES none empty.json callbacks loops core ...
    python lightning_tests.py run SOURCES optimal optimal.json callbacks loops core ...
    python lightning_tests.py compare empty.json optimal.json

SOURCES is a folder with `tests/tests_pytorch` and `pyproject.toml` of the release that is
installed. `compare` lists the tests that fail with our callback and not with one that does
nothing, but for the test functions that `explained.json` gives a reason for, and ends with 1 if
there are any.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_init import FractionalMomentInit, OptimalVarianceInit

# Draws whatever it measured in three steps, so that most runs are probed and redrawn.
DRAWS = functools.partial(OptimalVarianceInit, max_probe_steps=3, on_unsettled="use")
CALLBACKS: dict[str, list[Callable[[], Callback]]] = {
    "none": [Callback],
    "optimal": [OptimalVarianceInit],
    "optimal-draws": [DRAWS],
    "fractional": [FractionalMomentInit],
    "both": [FractionalMomentInit, DRAWS],
}
SECONDS_PER_TEST = 120
OTHER_PROCESSES = ("ddp_spawn", "ddp_fork")
# The first needs a network, the second checkpoints that have to be downloaded.
NOT_RUN = ["loggers/test_litlogger.py", "checkpointing/test_legacy_checkpoints.py"]
# Starts processes itself.
NOT_RUN_TESTS = ["core/test_results.py::test_result_reduce_ddp"]


class WithCallback:
    """A plugin of pytest that adds callbacks to every Trainer, and keeps what came of each test.

    Args:
        makes: Each makes a callback of one Trainer.
        kept: The file that holds what was found, also by earlier runs.
    """

    def __init__(self, makes: Sequence[Callable[[], Callback]], kept: Path) -> None:
        self.found: dict[str, Any] = {"outcomes": {}, "messages": {}, "fits": 0, "acted": 0}
        if kept.exists():
            self.found = json.loads(kept.read_text())
        self._makes, self._kept = makes, kept
        self._wrap(Trainer)

    def _wrap(self, trainer: type[Trainer]) -> None:
        plain, act = trainer.__init__, trainer._run

        @functools.wraps(plain)
        def with_one_more(
            instance: Trainer, *args: Any, callbacks: Any = None, **rest: Any
        ) -> None:
            if rest.get("strategy") in OTHER_PROCESSES:
                pytest.skip("starts other processes")
            given = [callbacks] if isinstance(callbacks, Callback) else callbacks or []
            plain(instance, *args, callbacks=[*given, *(make() for make in self._makes)], **rest)

        @functools.wraps(act)
        def counted(instance: Trainer, model: LightningModule, *args: Any, **rest: Any) -> Any:
            try:
                return act(instance, model, *args, **rest)
            finally:
                fits = instance.state.fn == "fit"
                self.found["fits"] += fits
                self.found["acted"] += fits and any(map(_acted, instance.callbacks))

        trainer.__init__, trainer._run = with_one_more, counted  # type: ignore[method-assign]

    def pytest_configure(self, config: pytest.Config) -> None:
        """Know a marker of a plugin that repeats tests, which need not be installed."""
        config.addinivalue_line("markers", "flaky(reruns): repeated where it fails")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Go on where a run was cut off."""
        items[:] = [item for item in items if _name(item.nodeid) not in self.found["outcomes"]]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst outcome of setup, call and teardown."""
        name = _name(report.nodeid)
        outcomes, messages = self.found["outcomes"], self.found["messages"]
        if outcomes.get(name, "passed") == "passed" or report.failed:
            outcomes[name] = report.outcome
        if report.failed:
            messages[name] = f"{messages.get(name, '')}{report.longreprtext[-3000:]}"

    def pytest_runtest_logfinish(self) -> None:
        """Lose nothing if the run is cut off."""
        self._kept.write_text(json.dumps(self.found, indent=1))


def _name(identifier: str) -> str:
    return identifier.removeprefix("tests/tests_pytorch/")


def _acted(callback: Callback) -> bool:
    return bool(getattr(callback, "report", None) or getattr(callback, "plan", None))


def run(sources: str, which: str, kept: str, *folders: str) -> int:
    """Run the tests in these folders of `tests_pytorch` in this process."""
    plugin = WithCallback(CALLBACKS[which], Path(kept).absolute())
    os.chdir(sources)
    sys.path.insert(0, "tests")
    root = "tests/tests_pytorch/"
    options = ["-q", "-p", "no:cacheprovider", f"--timeout={SECONDS_PER_TEST}", "--tb=short"]
    left_out = [f"--ignore={root}{name}" for name in NOT_RUN]
    left_out += [f"--deselect={root}{name}" for name in NOT_RUN_TESTS]
    # Named plugins are ours: the sources must not load this project's configuration.
    code = pytest.main([*options, *left_out, *(root + one for one in folders)], plugins=[plugin])
    return int(code)


def compare(without: str, having: str) -> int:
    """Tell which tests fail with our callback alone and are not explained."""
    first, second = (json.loads(Path(name).read_text()) for name in (without, having))
    explained = json.loads((Path(__file__).parent / "explained.json").read_text())
    passed = {name for name, outcome in first["outcomes"].items() if outcome != "failed"}
    new = [name for name, how in second["outcomes"].items() if how == "failed" and name in passed]
    unexplained = [name for name in new if name.split("[")[0] not in explained]
    for name in unexplained:
        print(name, second["messages"][name].strip().splitlines()[-1], sep="\n    ")
    print(
        f"{len(passed)} of {len(first['outcomes'])} tests do not fail without our callback;"
        f" with it {len(new)} of them do, {len(unexplained)} unexplained."
        f" It acted in {second['acted']} of {second['fits']} fits."
    )
    return bool(unexplained)


if __name__ == "__main__":
    action, *arguments = sys.argv[1:]
    sys.exit({"run": run, "compare": compare}[action](*arguments))
