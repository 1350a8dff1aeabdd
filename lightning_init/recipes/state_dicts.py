"""The tensors of a checkpoint, read without running anything that it holds."""

from __future__ import annotations

import os
import pickle
import re
import stat
import struct
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Components that wrappers put into the names of parameters.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
# Attributes under which people keep the network in a LightningModule.
_HOLDERS = ("model", "net", "network", "module")
# How torch names an object that it refuses to make.
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")
_PICKLE_PROTOCOLS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_DAMAGED = "cannot be read ({}): cut short or damaged."
_LARGEST_HEADER = 100 * 2**20


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the parameters of a Lightning checkpoint, a plain state dict or a safetensors file.

    Nothing in the file is executed: pickles are read by `torch.load(weights_only=True)` alone. The
    tensors are mapped into memory, not copied, where the format allows.

    Args:
        path: A regular file; a symbolic link to one is followed.

    Returns:
        Floating-point tensors by name, on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint that can be read safely; the message names the file.
    """
    name = os.fspath(path)
    try:
        return _named_tensors(_read(Path(name)))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _read(path: Path) -> Any:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ValueError(_directory(path))
    if not stat.S_ISREG(mode):
        raise ValueError("is not a regular file.")
    with path.open("rb") as file:
        start = file.read(9)
    if zipfile.is_zipfile(path) or start[:2] in _PICKLE_PROTOCOLS:
        return _load_torch(path, mapped=start[:2] == b"PK")
    if _is_safetensors(start, path.stat().st_size):
        return _load_safetensors(path)
    raise ValueError(
        "is no checkpoint: neither written by torch.save nor a safetensors file, or cut short."
    )


def _directory(path: Path) -> str:
    if (path / ".metadata").exists():
        return (
            "is a sharded checkpoint; make one file of it first: `python -m"
            f" torch.distributed.checkpoint.format_utils dcp_to_torch {path} {path.name}.pt`."
        )
    return "is a directory; give the checkpoint file."


def _load_torch(path: Path, mapped: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = _FORBIDDEN.search(str(error))
        named = f" ({found[1]})" if found else ""
        raise ValueError(
            f"holds objects that only an unsafe load would read{named}; save `state_dict()` alone."
        ) from None
    except Exception as error:
        raise ValueError(_DAMAGED.format(type(error).__name__)) from None


def _is_safetensors(start: bytes, size: int) -> bool:
    if len(start) < 9:
        return False
    (header,) = struct.unpack("<Q", start[:8])
    return bool(0 < header <= min(size, _LARGEST_HEADER) and start[8:9] == b"{")


def _load_safetensors(path: Path) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise ValueError("is a safetensors file; `pip install safetensors` reads it.") from None
    try:
        return load_file(path)
    except Exception as error:
        raise ValueError(_DAMAGED.format(type(error).__name__)) from None


def _named_tensors(content: Any) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):  # Lightning's, and what its sharded FSDP writer calls it
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError("holds no state dict: names and tensors were expected.")
    found = {
        str(name): value.detach()
        for name, value in content.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    if not found:
        raise ValueError("holds no floating-point tensors.")
    return found


class Wanted(NamedTuple):
    """A parameter that is looked for.

    Args:
        shape: Its shape.
        aliases: Every name that it goes by in the model: a file may hold a tied one once only.
    """

    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()


def match_names(wanted: Mapping[str, Wanted], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Match the parameters of a model to the tensors of a checkpoint, through wrappers.

    Components that wrappers add (`_orig_mod`, `module`) are ignored on both sides. When names still
    differ, one attribute that holds the network (`model.`, `net.`) may be there on one side only.

    Args:
        wanted: The model's parameters by name.
        found: Tensors of the checkpoint.

    Returns:
        Tensors by the model's names.

    Raises:
        ValueError: Names or shapes do not match; the message lists them.

    Example:
        >>> found = {"model._orig_mod.0.weight": torch.zeros(2, 3)}
        >>> list(match_names({"0.weight": Wanted((2, 3))}, found))
        ['0.weight']
    """
    plain = {_unwrapped(name): tensor for name, tensor in found.items()}
    held = max((_read_as(plain, wanted, own) for own in readings(plain)), key=len)
    shapes = [
        f"{name} {tuple(held[name].shape)} in the checkpoint, {one.shape} in the model"
        for name, one in wanted.items()
        if name in held and tuple(held[name].shape) != one.shape
    ]
    lacking = [name for name in wanted if name not in held]
    refuse_mismatch("does not fit the model", {"it lacks": lacking, "other shapes": shapes})
    return held


def without_a_place(names: Iterable[str], found: Iterable[str]) -> list[str]:
    """Names of a checkpoint that a model has under no reading of them.

    >>> without_a_place(["0.weight"], ["model.0.weight", "model.1.weight"])
    ['model.1.weight']
    """
    own = {_unwrapped(name) for name in names}
    plain = {_unwrapped(name): name for name in found}
    best = max(readings(plain), key=lambda reading: len(reading.keys() & own))
    placed = {there for here, there in best.items() if here in own}
    return [name for there, name in plain.items() if there not in placed]


def _read_as(
    plain: Mapping[str, Tensor], wanted: Mapping[str, Wanted], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """The wanted tensors that are there when the checkpoint's names are read in one way."""
    held = {}
    for name, one in wanted.items():
        for alias in (name, *one.aliases):
            key = names.get(_unwrapped(alias))
            if key is not None:
                held[name] = plain[key]
                break
    return held


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def readings(names: Iterable[str]) -> list[dict[str, str]]:
    """Names to look for and names in the file: the same, without a holder in front, with one.

    >>> readings(["net.0"])[-1]
    {'module.net.0': 'net.0'}
    """
    own = list(names)
    found = [{name: name for name in own}]
    for holder in _HOLDERS:
        start = f"{holder}."
        found.append({n.removeprefix(start): n for n in own if n.startswith(start)})
        found.append({start + name: name for name in own})
    return found


def refuse_mismatch(subject: str, problems: Mapping[str, Sequence[str]]) -> None:
    """Refuse with one sentence that lists everything that does not match.

    Args:
        subject: What does not fit what.
        problems: Names by what is wrong with them; those without names are no problem.

    Raises:
        ValueError: There is a problem.
    """
    said = [f"{what}: {listed(names)}" for what, names in problems.items() if names]
    if said:
        raise ValueError(f"{subject}: {'; '.join(said)}.")


def listed(names: Sequence[str]) -> str:
    """The first five names, and how many more there are.

    >>> listed("abcdefg")
    'a, b, c, d, e, and 2 more'
    """
    more = f", and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"
