"""`python -m lightning_init fit ...`: a LightningCLI that knows both callbacks by short name."""

from __future__ import annotations

import importlib.util
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from lightning.pytorch.cli import LightningCLI

# Known by class name on the command line because they are imported before the parser is built.
from lightning_init.callbacks.fractional_moment import FractionalMomentInit
from lightning_init.callbacks.optimal_variance import OptimalVarianceInit

CALLBACKS = (FractionalMomentInit, OptimalVarianceInit)
DESCRIPTION = """Train with FractionalMomentInit and OptimalVarianceInit known by short name.

Beside Lightning's own subcommands below there are five more, each with a --help of its own:
  plan      what FractionalMomentInit would draw: plan --model my.Module
  show      what a probe or a run found: show recipe.json, or the folder that it is in
  recipe    the same from earlier runs: recipe --model my.Module --checkpoint last.ckpt
  compare   train from several initializations, paired: compare --inits he,optimal --out DIR
  info      versions and names found, for a bug report
Arguments are also read from environment variables."""


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
    from jsonargparse import DefaultHelpFormatter

    from lightning_init.cli.commands import plan, recipe, show
    from lightning_init.cli.compare import compare
    from lightning_init.cli.info import info

    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"plan": plan, "show": show, "recipe": recipe, "compare": compare, "info": info}
    ours = commands.get(given[0] if given else "")
    if ours is not None:
        ours(given[1:])
        return
    LightningCLI(
        args=None if arguments is None else given,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={
            "prog": "python -m lightning_init",
            "description": DESCRIPTION,
            "default_env": True,
            # The lines of the description as they are.
            "formatter_class": type(
                "_Help", (RawDescriptionHelpFormatter, DefaultHelpFormatter), {}
            ),
        },
    )


if __name__ == "__main__":
    main()
