"""What becomes of a probe that failed, and of an outcome that could not be written down."""

from __future__ import annotations

import os
import sysconfig
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lightning_init.probe.lightning_packages import module_for
from lightning_init.probe.limits import ProbeRefused
from lightning_init.user_line import warn_user

OnProbeFailure = Literal["skip", "raise"]
_PACKAGE = Path(__file__).parents[1]
_GOES_ON = "The weights are what they were and the training goes on"


class EndlessRun(ProbeRefused):
    """A share of the planned steps was asked for, and the run plans no end."""

    def __init__(self, share: float) -> None:
        super().__init__(
            f"a run without a planned end has no share of {share:g}; set `max_probe_steps` to a"
            " number of steps, such as 200."
        )


class LayersNotSettled(MisconfigurationException):
    """Layers did not settle, and the user asked for an error then."""


def skip_or_raise(trainer: Trainer, error: Exception, on_probe_failure: OnProbeFailure) -> None:
    """Warn that a probe failed and was skipped, or raise its error with a note of the probe.

    In a distributed run only what every rank finds alike can be skipped: a rank that failed alone
    would train on while the others wait in the probe.
    """
    alike = trainer.world_size == 1 or is_a_refusal(error)
    asked_for = isinstance(error, LayersNotSettled)
    if on_probe_failure == "raise" or asked_for or not alike:
        own = module_for(trainer, "utilities.exceptions").MisconfigurationException
        if isinstance(error, MisconfigurationException) and not isinstance(error, own):
            raise own(str(error)) from error
        if hasattr(error, "add_note") and not asked_for:  # from Python 3.11 on
            error.add_note(
                "A probe of OptimalVarianceInit was running, not the training itself;"
                " on_probe_failure='skip' trains on without it."
            )
        raise error
    endless = isinstance(error, EndlessRun)
    what = "no probe, because" if endless else "the probe failed and was skipped:"
    warn_user(
        f"OptimalVarianceInit: {what} {_reason(error)} {_GOES_ON};"
        " on_probe_failure='raise' stops here."
    )


def warn_that_nothing_was_drawn(error: Exception) -> None:
    """Tell of an error, not of the user's making, that kept the closed form from being drawn."""
    warn_user(
        f"FractionalMomentInit: nothing was drawn: {_reason(error, 'while drawing')} {_GOES_ON};"
        " nonlinearity='strict' stops here."
    )


def _reason(error: Exception, when: str = "while the probe was running") -> str:
    """The message, and for an error of the user's code what it was and where."""
    lines = str(error).strip().splitlines() or [""]
    message = lines[0].removeprefix("OptimalVarianceInit: ")
    if is_a_refusal(error):
        return f"{message.rstrip('.')}."
    frames = traceback.extract_tb(error.__traceback__)
    # The line of the user's code that led there says more than one of a library below it.
    place = next((one for one in reversed(frames) if _is_the_users(one.filename)), frames[-1])
    where = f"{Path(place.filename).name}:{place.lineno}"
    return f"{when}, {type(error).__name__}({message}) in {where}."


def _is_the_users(filename: str) -> bool:
    installed = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    others = [*map(Path, installed), _PACKAGE]
    return not any(Path(filename).is_relative_to(folder) for folder in others)


def is_a_refusal(error: Exception) -> bool:
    """Whether this package raised it, on grounds that are the same on every rank."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(last.filename).is_relative_to(_PACKAGE)
    return isinstance(error, MisconfigurationException) or (ours and isinstance(error, ValueError))


@contextmanager
def told_if_it_fails(
    what: str,
    who: str = "OptimalVarianceInit",
    kept: str = "`callback.report` and `callback.recipe`",
) -> Iterator[None]:
    """Warn when something that only reports fails: it ends no training and loses no outcome."""
    try:
        yield
    except Exception as error:
        warn_user(
            f"{who}: could not {what} ({type(error).__name__}: {error}); the outcome is on {kept}."
        )


def can_be_written(path: str) -> bool:
    """Whether the recipe of a probe can be written there; warns before the probe if not."""
    works = False
    with told_if_it_fails(f"write to `recipe_path` {path!r}, as the probe is about to begin"):
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder")
        folder = next(parent for parent in target.parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            works = True
    return works
