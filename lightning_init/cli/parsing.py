"""What the package's own subcommands have in common."""

from __future__ import annotations

from typing import Any

import jsonargparse
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule


def model_parser(command: str, description: str) -> ArgumentParser:
    """A parser of a file, of environment variables `PL_<COMMAND>_...`, and of a module.

    Args:
        command: Name of the subcommand.
        description: One sentence for its help.
    """
    parser = ArgumentParser(
        prog=f"python -m lightning_init {command}",
        description=description,
        default_env=True,
        env_prefix=f"PL_{command.upper()}_",
    )
    from_file: Any = vars(jsonargparse)["ActionConfigFile"]  # exported, but not in its type hints
    parser.add_argument("-c", "--config", action=from_file, help="YAML file of arguments.")
    parser.add_subclass_arguments(LightningModule, "model", required=True, fail_untyped=False)
    return parser
