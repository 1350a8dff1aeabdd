"""A training step on a copy tells the laws, and nobody else learns of it."""

from __future__ import annotations

import functools
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos import Transformer
from lightning.pytorch.loggers.logger import DummyLogger
from models import QUIET
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics import MeanMetric

from lightning_init import FractionalMomentInit
from lightning_init.probe.first_batch import SilentStep
from lightning_init.probe.shadows import shadows_follow


def images() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(16, 1, 4, 4, generator=generator)
    return DataLoader(TensorDataset(values, torch.zeros(16).long()), batch_size=4, shuffle=True)


class AutoEncoder(LightningModule):
    """Lightning's own first example: the step flattens, forward takes what the step made."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 16))
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].view(batch[0].size(0), -1)
        loss = nn.functional.mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Stateful(AutoEncoder):
    """Counters, running statistics, a metric, an average of the weights, and every stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.seen = nn.BatchNorm1d(8), MeanMetric()
        self.register_buffer("steps", torch.zeros(()))
        self.average = [parameter.detach().clone() for parameter in self.parameters()]
        self.plain_tensor = torch.zeros(3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].flatten(1) + random.random() + np.random.rand() + torch.rand(())
        hidden = self.norm(self.encoder[0](x)).relu()
        self.steps += 1
        self.plain_tensor += 1
        for mean, parameter in zip(self.average, self.parameters(), strict=False):
            mean.lerp_(parameter.detach(), 0.1)
        loss = self.decoder(self.encoder[2](nn.functional.dropout(hidden, 0.2))).square().mean()
        self.seen.update(loss)
        self.log("metric", self.seen, on_step=True)
        if self.logger is not None:
            self.logger.log_metrics({"by_hand": float(loss)}, step=self.global_step)
        self.losses.append(loss.item())
        return loss


class Manual(Stateful):
    """Two optimizers, a scheduler, a closure, and weights clipped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        self.toggle_optimizer(first)
        first.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(first, gradient_clip_val=1.0)
        first.step()
        self.untoggle_optimizer(first)
        second.step(closure=lambda: self.decoder(torch.ones(2, 3)).square().mean())
        self.lr_schedulers().step()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.clamp_(-1.0, 1.0)
        self.trainer.should_stop = False

    def configure_optimizers(self) -> Any:
        first = torch.optim.Adam(self.encoder.parameters(), lr=1e-2)
        second = torch.optim.SGD(self.decoder.parameters(), lr=1e-2)
        return [first, second], [torch.optim.lr_scheduler.StepLR(first, 1)]


class ByHand(Callback):
    def __init__(self, plan: Any) -> None:
        self.plan = plan

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with shadows_follow(trainer, pl_module):  # as averages of the weights do
            self.plan.apply_(pl_module, 5)


class Log(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.logged: list[Any] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((dict(metrics), step))


def run(kind: type[AutoEncoder], callback: Callback) -> tuple[AutoEncoder, Any]:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    model, log = kind(), Log()
    options = {**QUIET, "logger": log, "log_every_n_steps": 1}
    trainer = Trainer(max_epochs=2, callbacks=[callback], **options)
    trainer.fit(model, images())
    logged = [one for one in log.logged if not any("FractionalMoment" in name for name in one[0])]
    states = [optimizer.state_dict() for optimizer in trainer.optimizers]
    streams = (torch.rand(3).tolist(), np.random.rand(), random.random())
    return model, (model.losses, logged, str(states), streams)


@pytest.mark.parametrize("kind", [AutoEncoder, Stateful, Manual])
def test_the_run_is_that_of_the_same_weights_set_by_hand(kind: type[AutoEncoder]) -> None:
    callback = FractionalMomentInit(seed=5, verbose=False)
    model, record = run(kind, callback)
    other, other_record = run(kind, ByHand(callback.plan))
    assert record == other_record
    for (name, value), twin in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, twin), name
    if isinstance(model, Stateful) and isinstance(other, Stateful):
        assert torch.equal(model.plain_tensor, other.plain_tensor)
        assert all(map(torch.equal, model.average, other.average))
    assert callback.plan is not None
    laws = {row.weight.name: row.activation for row in callback.plan.rows}
    assert {one.source for one in laws.values()} == {"traced"}
    assert laws["decoder.0"].nonlinearity == "linear"
    assert not laws["decoder.0"].first_layer
    assert laws["decoder.2"].nonlinearity == "relu"


def test_a_step_that_writes_to_everything_leaves_the_module_bitwise() -> None:
    model = Manual()
    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.strategy.connect(model)
    model.trainer = trainer
    optimizers, schedulers = model.configure_optimizers()
    trainer.strategy.optimizers = optimizers
    trainer.strategy.lr_scheduler_configs = schedulers
    tensors = {name: (t, t._version) for name, t in model.state_dict(keep_vars=True).items()}
    attributes = {name: id(value) for name, value in vars(model).items()}
    step = SilentStep(trainer, model, next(iter(images())))
    assert step.module is not model
    step.run(nullcontext())
    assert str([one.state_dict() for one in optimizers]).count("exp_avg") == 0
    assert schedulers[0].last_epoch == 0
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is tensors[name][0]
        assert tensor._version == tensors[name][1], name
        assert tensor.grad is None
    assert {name: id(value) for name, value in vars(model).items()} == attributes
    assert model.losses == []
    assert float(model.plain_tensor.sum()) == 0.0
    assert model.seen.update_count == 0


def test_a_forward_wrapped_in_a_closure_is_that_of_the_copy() -> None:
    model = Stateful()
    wrapped, calls = model.norm.forward, []

    def closure(x: Tensor) -> Tensor:
        calls.append(1)
        return wrapped(x)

    model.norm.forward = functools.wraps(wrapped)(closure)
    callback = FractionalMomentInit(verbose=False)
    trainer = Trainer(max_steps=1, callbacks=[callback], **QUIET)
    before = model.norm.num_batches_tracked.clone()
    trainer.fit(model, images())
    assert int(model.norm.num_batches_tracked - before) == 1
    assert callback.plan is not None
    assert {row.activation.source for row in callback.plan.rows} == {"traced"}
    assert "normalized" in callback.plan.rows[1].activation.marks


def test_what_fails_behind_the_forward_pass_has_been_seen() -> None:
    class Late(AutoEncoder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            if self.trainer.fit_loop.epoch_progress.current.started == 0:
                raise RuntimeError("the epoch has not begun")
            return loss

    callback = FractionalMomentInit(verbose=False)
    Trainer(max_steps=1, callbacks=[callback], **QUIET).fit(Late(), images())
    assert callback.plan is not None
    assert {row.activation.source for row in callback.plan.rows} == {"traced"}


@pytest.mark.parametrize("options", [{"limit_train_batches": 0}, {"max_steps": 0}])
def test_nothing_is_drawn_where_nothing_trains(options: dict[str, Any]) -> None:
    model = AutoEncoder()
    before = [parameter.clone() for parameter in model.parameters()]
    callback = FractionalMomentInit(verbose=False)
    Trainer(**{"max_epochs": 1, **options}, callbacks=[callback], **QUIET).fit(model, images())
    assert callback.plan is None
    assert all(map(torch.equal, before, model.parameters()))


def test_a_stream_of_data_loses_no_item() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(torch.arange(24.0).view(6, 1, 2, 2).repeat(1, 1, 2, 2))

    class Watch(AutoEncoder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.losses.append(float(batch[0, 0, 0, 0]))
            x = batch.flatten(1)
            return self.decoder(self.encoder(x)).square().mean()

    model = Watch()
    trainer = Trainer(max_epochs=1, callbacks=[FractionalMomentInit(verbose=False)], **QUIET)
    trainer.fit(model, DataLoader(Stream(), batch_size=2))
    assert model.losses == [0.0, 8.0, 16.0]


def test_the_demo_transformer_gets_a_full_plan() -> None:
    class Language(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Transformer(vocab_size=20, ninp=8, nhead=2, nhid=16, nlayers=1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            inputs, target = batch
            output = self.model(inputs, target)
            return nn.functional.nll_loss(output, target.view(-1))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    tokens = torch.randint(0, 20, (8, 6))
    callback = FractionalMomentInit(verbose=False)
    trainer = Trainer(max_steps=1, callbacks=[callback], **QUIET)
    trainer.fit(Language(), DataLoader(TensorDataset(tokens, tokens), batch_size=4))
    assert callback.plan is not None
    assert {row.activation.source for row in callback.plan.rows} == {"traced"}
