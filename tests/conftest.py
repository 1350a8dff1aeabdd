"""Shared fixtures: every test starts from the same process state and leaves it as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from reports_by_hand import large_report as large_report
from reports_by_hand import layer as layer
from reports_by_hand import report as report

# One thread is as fast on networks this small; who wants to try more sets OMP_NUM_THREADS. A child
# that a test forks has one in any case: it would wait for ever for a pool of OpenMP threads that
# was not forked with it.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))

# Nor does a busy machine fail a test: how long an example takes is no property of the code.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")


@pytest.fixture
def draw_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw also what would hardly change, so that a few steps of a tiny model show a redraw."""
    from lightning_init.search import outcome

    monkeypatch.setattr(outcome, "UNCHANGED_LOG_RATIO", 0.0)


@pytest.fixture(autouse=True)
def _leaves_the_process_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Run in a directory of its own; put back environment, signal handlers and global modes."""
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    handler = signal.getsignal(signal.SIGTERM)
    torch.manual_seed(0)
    yield
    assert signal.getsignal(signal.SIGTERM) is handler, "a SIGTERM handler was left behind"
    torch.use_deterministic_algorithms(False)
    os.environ.clear()
    os.environ.update(environment)
