"""CPU time of a piece of work; wall time is at the mercy of whatever else runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of this process, all threads, for one call."""
    started = time.process_time()
    work()
    return time.process_time() - started
