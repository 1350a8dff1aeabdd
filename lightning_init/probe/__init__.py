"""The only room that knows how a Trainer is taken apart and put back."""

from __future__ import annotations

from lightning_init.probe.limits import ProbeEnd as ProbeEnd
from lightning_init.probe.limits import ProbeLimits as ProbeLimits
from lightning_init.probe.limits import ProbeRun as ProbeRun
from lightning_init.probe.runner import run_probe as run_probe
from lightning_init.probe.schedule import ForeseenGroup as ForeseenGroup
from lightning_init.probe.schedule import ForeseenRun as ForeseenRun
from lightning_init.probe.schedule import climb_steps as climb_steps
