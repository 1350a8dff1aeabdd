"""Runs kept on disk, one file each, written whole or not at all: an interrupt loses none."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_init.compare.records import FAILED, RunRecord
from lightning_init.compare.runs import RunTask

SETTINGS_FILE = "comparison.json"


class RunStore:
    """The runs of one comparison, in one directory.

    The description is what every run has in common; the directory is made if it is missing.

    Raises:
        ValueError: The directory belongs to another comparison.
    """

    def __init__(self, directory: str | os.PathLike[str], description: Mapping[str, Any]) -> None:
        self._runs = Path(directory) / "runs"
        self._runs.mkdir(parents=True, exist_ok=True)
        file = Path(directory) / SETTINGS_FILE
        content = json.loads(json.dumps(description, default=describe, sort_keys=True))
        if file.exists():
            kept = _settings_in(file)
            different = [name for name in content if kept.get(name) != content[name]]
            if different:
                raise ValueError(
                    f"`out`: {os.fspath(directory)} holds runs with another"
                    f" {', '.join(different)}; choose another directory, or delete it."
                )
        else:
            _write_whole(file, json.dumps(content, indent=2, sort_keys=True))

    def load(self, task: RunTask, repeat_failed: bool = False) -> tuple[RunRecord, ...] | None:
        """The records of a run that was made before, or None if it is to be made.

        A run that asks for the charged records too is made again if they are missing.
        """
        file = self._file(task)
        if not file.exists():
            return None
        records = tuple(map(RunRecord.from_json, file.read_text().splitlines()))
        incomplete = task.equal_budget and len(records) == 1 and records[0].probe_steps > 0
        again = repeat_failed and any(record.status == FAILED for record in records)
        return None if incomplete or again else records

    def keep(self, task: RunTask, records: Sequence[RunRecord]) -> None:
        """Write the records of one run."""
        _write_whole(self._file(task), "\n".join(record.to_json() for record in records) + "\n")

    def _file(self, task: RunTask) -> Path:
        label = task.scheme.label
        # Labels may hold any character and be of any length; the digest tells them apart.
        readable = re.sub(r"[^A-Za-z0-9=.]+", "-", label)[:40].strip("-.")
        digest = hashlib.blake2b(label.encode(), digest_size=4).hexdigest()
        return self._runs / f"{readable}-{digest}-seed{task.seed}.jsonl"


def describe(value: Any) -> str:
    """Name a factory by what it calls, the same in every process.

    >>> describe(functools.partial(dict, width=3))
    'builtins.dict(width=3)'
    """
    if isinstance(value, functools.partial):
        given = [*map(repr, value.args), *(f"{k}={v!r}" for k, v in value.keywords.items())]
        return f"{describe(value.func)}({', '.join(given)})"
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    # The address in a default repr differs from run to run.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _settings_in(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_text())
    except ValueError:  # not JSON, or no text
        kept = None
    if not isinstance(kept, dict):
        raise ValueError(
            f"`out`: {os.fspath(file)} is not what a comparison wrote; choose another directory,"
            " or delete it."
        )
    return kept


def _write_whole(file: Path, text: str) -> None:
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    with beside.open("x") as made:  # a link that someone planted there is not followed
        made.write(text)
    os.replace(beside, file)
