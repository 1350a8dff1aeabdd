"""`python -m lightning_init plan --model my.Module`: what FractionalMomentInit would draw."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule

from lightning_init.cli.parsing import model_parser
from lightning_init.functional import fractional_moment_init_
from lightning_init.initialization.settings import FractionalMomentSettings


def plan(arguments: Sequence[str]) -> None:
    """Build the model, print its plan and change nothing.

    The plan is that of `FractionalMomentInit` before any data are read: activations are traced on
    the module's `example_input_array`, without one they come from the order of its modules.

    Raises:
        SystemExit: With status 2 and one line, if an argument is wrong or the model has no plan.
    """
    parser = plan_parser()
    config = parser.parse_args(list(arguments))
    model: LightningModule = parser.instantiate_classes(config).model
    model.configure_model()
    try:
        settings = FractionalMomentSettings.among(vars(config))
        fractional_moment_init_(
            model, example_input=model.example_input_array, dry_run=True, **vars(settings)
        )
    except ValueError as error:
        parser.error(str(error))


def plan_parser() -> ArgumentParser:
    """The arguments of `plan`: the model, and every setting as a flag."""
    parser = model_parser("plan", "Print what FractionalMomentInit would draw, and change nothing.")
    parser.add_class_arguments(FractionalMomentSettings)
    return parser
