"""The list of scenarios."""

from __future__ import annotations

from typing import Any

from contract_harness import Scenario, Setup
from contract_models import Configure, Net, loader, momentum, validation

SCENARIOS: dict[str, Scenario] = {}


def add(name: str, **options: Any) -> None:
    """A scenario whose parts are made by functions, so that each process builds its own."""

    def scenario() -> Setup:
        built = {
            key: value() if callable(value) and key not in ("fit", "make_trainer") else value
            for key, value in options.items()
        }
        return Setup(**({"model": Net(), "train": loader(), "val": validation()} | built))

    assert name not in SCENARIOS
    SCENARIOS[name] = scenario


def net(configure: Configure) -> Any:
    """A function that makes a module with these optimizers."""
    return lambda: Net(configure)


def scheduled(make: Any, interval: str = "epoch", **more: Any) -> Any:
    """A module with SGD and one schedule."""

    def configure(net: Net) -> Any:
        optimizer = momentum(net)
        config = {"scheduler": make(optimizer, net), "interval": interval} | more
        return {"optimizer": optimizer, "lr_scheduler": config}

    return net(configure)
