"""Warnings that point at the line of the user's code that led to them, not at ours."""

from __future__ import annotations

import inspect
import sys
import warnings

from lightning.pytorch.utilities import rank_zero_warn

_NOT_THE_USERS = frozenset(
    {
        "lightning_init",
        "lightning",
        "pytorch_lightning",
        "lightning_fabric",
        "lightning_utilities",
        "torch",
        "jsonargparse",
        *sys.stdlib_module_names,
    }
)
_FRAMES_OF_LIGHTNING = 3  # between `rank_zero_warn` and `warnings.warn`


def warn_user(message: str, every_rank: bool = False) -> None:
    """Warn on rank zero, at the first frame outside of this package, Lightning and torch.

    Args:
        message: What to say.
        every_rank: Whether the other ranks say it too.
    """
    level = _level_of_user()
    if every_rank:
        warnings.warn(message, stacklevel=level)
    else:
        rank_zero_warn(message, stacklevel=level + _FRAMES_OF_LIGHTNING)


def _level_of_user() -> int:
    """`stacklevel` of the user's frame, as the caller of this function would give it.

    `skip_file_prefixes` of Python 3.12 does this. Without such a frame it is the outermost one.
    """
    here = inspect.currentframe()
    level, frame = 0, here.f_back if here is not None else None
    while frame is not None:
        level += 1
        package = frame.f_globals.get("__package__") or frame.f_globals.get("__name__") or ""
        if package.partition(".")[0] not in _NOT_THE_USERS:
            break
        frame = frame.f_back
    return level
