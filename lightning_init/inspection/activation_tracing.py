"""Which activation and dropout stand in front of each weight, declared or traced."""

from __future__ import annotations

from lightning_init.inspection.declared_order import declared_activations
from lightning_init.inspection.signals import ActivationInFront

__all__ = ["ActivationInFront", "declared_activations"]
