"""Shared fixtures: every test starts from the same process state and leaves it as it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


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
