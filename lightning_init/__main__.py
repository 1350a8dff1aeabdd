"""`python -m lightning_init fit ...`: a LightningCLI that knows both callbacks by short name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

# Known by class name on the command line because they are imported before the parser is built.
from lightning_init.callbacks.fractional_moment import FractionalMomentInit
from lightning_init.callbacks.optimal_variance import OptimalVarianceInit

CALLBACKS = (FractionalMomentInit, OptimalVarianceInit)
DESCRIPTION = """Train with FractionalMomentInit and OptimalVarianceInit known by short name, or
look at what they do. Arguments are also read from environment variables."""
COMMANDS = {
    "plan": "What FractionalMomentInit would draw: plan --model my.Module",
    "show": "What a probe or a run found: show recipe.json, or its folder",
    "recipe": "Variances of earlier runs: recipe --model my.Module --checkpoint last.ckpt",
    "compare": "Train from several initializations: compare --model my.Module --inits he,optimal",
    "info": "Versions and private names: what a bug report should say",
}


class _Parser(LightningArgumentParser):
    """Lightning's parser, whose help lists our commands beside its own."""

    def add_subcommands(self, *arguments: Any, **options: Any) -> Any:
        """Make the list of subcommands; those of this package are run before it is read."""
        added = super().add_subcommands(*arguments, **options)
        for name, described in COMMANDS.items():
            added.add_subcommand(name, LightningArgumentParser(), help=described)
        return added


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the subcommand that is on the command line, or in `arguments`.

    Raises:
        SystemExit: With one line, if jsonargparse is not installed or an argument is wrong.
    """
    if importlib.util.find_spec("jsonargparse") is None:
        raise SystemExit(
            "The command line needs jsonargparse; install it with"
            " `pip install 'jsonargparse[signatures]'`."
        )
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        module = importlib.import_module(f"lightning_init.cli.{given[0]}")
        getattr(module, given[0])(given[1:])
        return
    LightningCLI(
        parser_class=_Parser,
        args=None if arguments is None else given,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={
            "prog": "python -m lightning_init",
            "description": DESCRIPTION,
            "default_env": True,
        },
    )


if __name__ == "__main__":
    main()
