"""`python -m lightning_init`: what its subcommands do."""
