"""`python -m lightning_init fit ...`: a LightningCLI that knows both callbacks by short name."""

from __future__ import annotations

from lightning.pytorch.cli import LightningCLI

# Known by class name on the command line because they are imported before the parser is built.
from lightning_init.callbacks.fractional_moment import FractionalMomentInit
from lightning_init.callbacks.optimal_variance import OptimalVarianceInit

CALLBACKS = (FractionalMomentInit, OptimalVarianceInit)


def main() -> None:
    """Run the subcommand that is on the command line."""
    LightningCLI(save_config_kwargs={"overwrite": True})


if __name__ == "__main__":
    main()
