"""A small model under FSDP2, and what the tests compare of its runs."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from lightning_init import OptimalVarianceInit

SEED = 11
Values = dict[str, Tensor]


class Net(LightningModule):
    """Attention and an MLP with uneven shards; state in a list, a counter, a metric and buffers."""

    def __init__(self, optimizer: str = "sgd", fails_at: int | None = None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.net = nn.Sequential(
            nn.Linear(16, 33), nn.BatchNorm1d(33), nn.ReLU(), nn.Dropout(0.2), nn.Linear(33, 3)
        )
        self.optimizer, self.fails_at = optimizer, fails_at
        self.losses: list[float] = []
        self.batches = 0
        self.mean = MeanMetric()

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        fully_shard(self.attention, mesh=mesh)
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(self.net, mesh=mesh)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, 2, 8)
        attended, _ = self.attention(tokens, tokens, tokens)
        prediction: Tensor = self.net(attended.flatten(1))
        return prediction

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        prediction = self(batch[0])
        self.batches += 1
        if self.batches == self.fails_at:
            raise RuntimeError("fails between forward and backward")
        loss = nn.functional.mse_loss(prediction, batch[1])
        self.losses.append(loss.item())
        self.mean(loss.detach())
        self.log("mean", self.mean, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        if self.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), lr=0.01)
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
        return [optimizer], [{"scheduler": scheduler, "interval": "epoch"}]


def loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(96, size, generator=generator) for size in (16, 3)]
    return DataLoader(TensorDataset(*data), batch_size=8, shuffle=True)


def full(module: nn.Module) -> Values:
    """Every parameter and buffer, whole."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {n: whole(t.detach()).clone() for n, t in tensors}


def whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class SetWeights(Callback):
    """The reference: the redrawn weights set by hand."""

    def __init__(self, values: Values) -> None:
        self.values = values

    @torch.no_grad()
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if name in self.values:
                value = self.values[name]
                parameter.copy_(
                    distribute_tensor(value, parameter.device_mesh, parameter.placements)
                )


class Recorder(Callback):
    """The weights that the run starts from."""

    def __init__(self) -> None:
        self.start: Values = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = full(pl_module)


def trainer_of(*callbacks: Callback, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 2,
        "strategy": ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": list(callbacks),
    }
    return Trainer(**(defaults | options))


def fit(net: Net, *callbacks: Callback, ckpt_path: Any = None, **options: Any) -> dict[str, Any]:
    """One training; all that the reference is compared in."""
    recorder = Recorder()
    trainer = trainer_of(*callbacks, recorder, **options)
    trainer.fit(net, loader(), ckpt_path=ckpt_path)
    return {
        "losses": net.losses,
        "batches": net.batches,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "start": recorder.start,
        "end": full(net),
        "random": torch.get_rng_state(),
        "rates": [g["lr"] for o in trainer.optimizers for g in o.param_groups],
    }


def fresh(*arguments: Any) -> Net:
    seed_everything(7, verbose=False)
    return Net(*arguments)


def probe(**options: Any) -> OptimalVarianceInit:
    defaults = {
        "max_probe_steps": 9,
        "on_unsettled": "use",
        "sample_every_n_steps": 1,
        "verbose": False,
        "seed": SEED,
    }
    return OptimalVarianceInit(**{**defaults, **options})


def assert_same(a: Any, b: Any, where: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    else:
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, where


def state(net: Any) -> dict[str, Any]:
    return {
        "values": full(net),
        "asks": [p.requires_grad for p in net.parameters()],
        "identity": [id(p) for p in net.parameters()],
        "training": [m.training for m in net.modules()],
        "losses": list(net.losses),
        "batches": net.batches,
        "metric": float(net.mean.mean_value),
        "weight": float(net.mean.weight),
    }
