"""Weights written by a probe: for a while, with the originals put back, or for good."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_init.initialization.fill import fill_normal_, parameters_of, scale_, synchronize
from lightning_init.inspection.reasons import whole_tensor
from lightning_init.inspection.weights import Weight, effective_weight
from lightning_init.probe.shadows import shadows_follow
from lightning_init.reporting.records import LayerReport
from lightning_init.search.settings import OptimalVarianceSettings


class BorrowedWeights:
    """Lets later probes start from other weights; on exit the originals are back, bit for bit.

    The originals are copied before the first write only, so a single probe costs no memory.

    Args:
        module: The user's module.
        weights: The weights that may be written.
        settings: How they are drawn.
    """

    def __init__(
        self, module: LightningModule, weights: Sequence[Weight], settings: OptimalVarianceSettings
    ) -> None:
        self._module = module
        self._settings = settings
        self._weights = tuple(weights)
        self._originals: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> BorrowedWeights:
        return self

    def draw(self, variances: Sequence[float | None], seed: int) -> None:
        """Draw each weight with its variance; those with None get their originals back."""
        self.give_back()
        self._keep_originals()
        for weight, variance in zip(self._weights, variances, strict=True):
            if variance is not None:
                _write(self._module, weight, variance**0.5, seed, self._settings)
        synchronize(self._module)

    def scale(self, factor: float) -> None:
        """Multiply every weight as it is now."""
        self._keep_originals()
        for weight in self._weights:
            scale_(self._module, weight, factor)

    @torch.no_grad()
    def give_back(self) -> None:
        """Put the originals back, if anything was written."""
        for parameter, original in self._originals:
            parameter.copy_(original)

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def _keep_originals(self) -> None:
        if self._originals:
            return
        found = {id(p): p for w in self._weights for p in parameters_of(self._module, w)}
        self._originals = [(p, p.detach().clone()) for p in found.values()]


def redraw(
    trainer: Trainer,
    module: LightningModule,
    weights: Sequence[Weight],
    rows: Sequence[LayerReport],
    settings: OptimalVarianceSettings,
    seed: int,
) -> None:
    """Draw the first weights of the real run, on every rank and on the copies that follow them."""
    with shadows_follow(trainer, module):
        for weight, row in zip(weights, rows, strict=True):
            if row.action == "redrawn":
                _write(module, weight, row.sigma0, seed, settings)
        synchronize(module)


def _write(
    module: LightningModule,
    weight: Weight,
    std: float,
    seed: int,
    settings: OptimalVarianceSettings,
) -> None:
    """Draw a weight anew, or multiply what is there, so that its standard deviation is `std`."""
    if settings.draw == "normal":
        fill_normal_(module, weight, std, seed)
        return
    values = whole_tensor(effective_weight(module, weight)).detach().double()
    mean = 0.0 if settings.moment == "raw" else float(values.mean())
    present = float((values - mean).square().mean()) ** 0.5
    if present > 0:
        scale_(module, weight, std / present)
    else:
        fill_normal_(module, weight, std, seed)


def derived_seed(seed: int, purpose: str) -> int:
    """A seed for draws that must not repeat those of the real run.

    >>> derived_seed(1, "round 1") == derived_seed(1, "round 2")
    False
    """
    digest = blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
