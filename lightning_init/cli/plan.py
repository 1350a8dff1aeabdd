"""`python -m lightning_init plan --model my.Module`: what FractionalMomentInit would draw."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule

from lightning_init.cli.parsing import model_parser
from lightning_init.functional import fractional_moment_init_

# Given by the model, or without a meaning where nothing is drawn.
_NOT_ARGUMENTS: set[str | int] = {"module", "example_input", "seed", "dry_run"}


def plan(arguments: Sequence[str]) -> None:
    """Build the model, print its plan and change nothing.

    The plan is that of `FractionalMomentInit` before any data are read: activations are traced on
    the module's `example_input_array`, without one they come from the order of its modules.

    Raises:
        SystemExit: With status 2 and one line, if an argument is wrong or the model has no plan.
    """
    parser = plan_parser()
    config = parser.parse_args(list(arguments))
    settings = {name: config[name] for name in _settings(parser)}
    model: LightningModule = parser.instantiate_classes(config).model
    model.configure_model()
    try:
        fractional_moment_init_(
            model, example_input=model.example_input_array, dry_run=True, **settings
        )
    except ValueError as error:
        parser.error(str(error))


def plan_parser() -> ArgumentParser:
    """The arguments of `plan`: the model, and those of `fractional_moment_init_`."""
    parser = model_parser("plan", "Print what FractionalMomentInit would draw, and change nothing.")
    parser.add_function_arguments(fractional_moment_init_, skip=_NOT_ARGUMENTS, fail_untyped=False)
    return parser


def _settings(parser: ArgumentParser) -> list[str]:
    defaults = parser.get_defaults(skip_validation=True)
    return [name for name in vars(defaults) if name not in ("config", "model")]
