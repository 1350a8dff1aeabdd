"""`python -m lightning_init compare --model my.Module --data my.Data --inits he,optimal`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from lightning_init.cli.commands import model_parser
from lightning_init.compare.comparison import compare as run_comparison
from lightning_init.compare.runs import TRAINER_DEFAULTS

# What has a form of its own on the command line; all else is there as the function has it.
_OWN_FORM: set[str | int] = {"model", "data", "inits", "trainer", "progress"}
_AS_THEY_ARE = inspect.signature(run_comparison).parameters.keys() - _OWN_FORM
# Set by a comparison itself, or objects that its runs would share.
_NOT_TRAINER_ARGUMENTS: set[str | int] = {*TRAINER_DEFAULTS, "callbacks", "plugins", "profiler"}


def compare(arguments: Sequence[str]) -> None:
    """Train from every initialization with every seed; print the report and write it to `--out`.

    Raises:
        SystemExit: With status 2 and one line, if an argument is wrong.
    """
    parser = compare_parser()
    config = parser.parse_args(list(arguments))
    trainer = parser.get_defaults(skip_validation=True).trainer.as_dict()
    chosen = {
        name: value for name, value in config.trainer.as_dict().items() if value != trainer[name]
    }
    try:
        comparison = run_comparison(
            FromConfig("model", _plain(config.model)),
            FromConfig("data", _plain(config.data)) if config.data else None,
            split_inits(config.inits),
            trainer=chosen,
            **{name: config[name] for name in _AS_THEY_ARE},
        )
    except ValueError as error:
        parser.error(str(error))
    sys.stdout.write(comparison.report.to_markdown())
    sys.stdout.write("\nWritten:\n" + "".join(f"  {file}\n" for file in comparison.files))


def compare_parser() -> ArgumentParser:
    """The arguments of `compare`."""
    parser = model_parser(
        "compare", "The same training from several initializations, paired seed by seed."
    )
    parser.add_subclass_arguments(
        LightningDataModule, "data", required=False, default=None, fail_untyped=False
    )
    parser.add_argument(
        "--inits",
        type=str,
        default="default,he,fractional,optimal",
        help="Names parted by commas, with options: he,fractional:order=1,optimal:rounds=2. Known:"
        " default, he, he_uniform, scaled_he:factor=..., xavier, xavier_uniform, orthogonal,"
        " random_walk, fractional:order=..., optimal, optimal:recipe=...,"
        " pilot:seed=...,share=...,include=a|b,start=..., or package.function of a module and a"
        " seed.",
    )
    parser.add_function_arguments(run_comparison, skip=_OWN_FORM, fail_untyped=False)
    parser.add_class_arguments(
        Trainer, "trainer", skip=_NOT_TRAINER_ARGUMENTS, instantiate=False, fail_untyped=False
    )
    return parser


def split_inits(text: str) -> list[str]:
    """Split a command line's list, in which commas also part the options of one scheme.

    >>> split_inits("he,optimal:granularity=gain,rounds=2,xavier")
    ['he', 'optimal:granularity=gain,rounds=2', 'xavier']
    """
    parts: list[str] = []
    for token in filter(None, (piece.strip() for piece in text.split(","))):
        if "=" in token and ":" not in token and parts:
            parts[-1] += f",{token}"
        else:
            parts.append(token)
    return parts


@dataclass(frozen=True)
class FromConfig:
    """Makes the object that a class path and its arguments describe, in whatever process.

    Args:
        kind: "model" or "data".
        config: `class_path` and `init_args`, plain values.
    """

    kind: str
    config: Mapping[str, Any]

    def __call__(self) -> Any:
        """Make a fresh one."""
        parser = ArgumentParser(exit_on_error=False)
        base: type[Any] = LightningModule if self.kind == "model" else LightningDataModule
        parser.add_subclass_arguments(base, self.kind, fail_untyped=False, required=True)
        parsed = parser.parse_object({self.kind: dict(self.config)})
        return getattr(parser.instantiate_classes(parsed), self.kind)


def _plain(config: Any) -> dict[str, Any]:
    return dict(config.as_dict())
