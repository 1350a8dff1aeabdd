"""Prints the peak memory of one short training: `python probe_memory.py probed|plain`."""

from __future__ import annotations

import resource
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent))
STEPS = 3


class Large(LightningModule):
    """The transformer of 99 million weights, on one batch of noise per step, with Adam."""

    def __init__(self) -> None:
        super().__init__()
        from monitored_models import transformer

        self.net, self.batch = transformer()
        self.net.train()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(self.batch).square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-5)


def fit(model: Large, *callbacks: Callback, steps: int = STEPS) -> None:
    """A training of a few steps."""
    warnings.simplefilter("ignore")
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(model, DataLoader(torch.zeros(100, 1)))


def peak_memory() -> int:
    """Bytes. Linux hands `ru_maxrss` down from the parent process, so that its own file is read."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    from lightning_init import OptimalVarianceInit

    torch.set_num_threads(1)
    probes = [OptimalVarianceInit(max_probe_steps=STEPS, on_unsettled="use", verbose=False)]
    fit(Large(), *(probes if sys.argv[1] == "probed" else []))
    print(peak_memory())
