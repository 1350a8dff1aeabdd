"""'auto' on a model whose order of modules tells nothing: one batch is read, and nothing else."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from models import QUIET, regression_loader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_init import FractionalMomentInit
from lightning_init.initialization.measurement import signal_cells
from lightning_init.probe.first_batch import forward_arguments


class Functional(LightningModule):
    """Activations in forward only, dropout, batch norm: everything that a trial run could move."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(16, 32), nn.BatchNorm1d(32)
        self.hidden, self.middle, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.losses: list[float] = []
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.norm(self.stem(x)).relu()
        x = nn.functional.dropout(self.hidden(x).relu(), 0.2, self.training)
        return self.head(nn.functional.leaky_relu(self.middle(x), 0.1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class NoisyData(Dataset[Any]):
    """Draws from every global stream, and counts."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        noise = torch.rand(()).item() + np.random.rand() + random.random() + 0.01 * self.reads
        return torch.full((16,), float(index % 5)) + noise * torch.arange(16), torch.zeros(4)


class Data(LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.data, self.opened = NoisyData(), 0

    def train_dataloader(self) -> Any:
        self.opened += 1
        return DataLoader(self.data, batch_size=8, shuffle=True)


def seeded_loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(3)
    return DataLoader(NoisyData(), batch_size=8, shuffle=True, generator=generator)


class ByHand(Callback):
    """Applies a finished plan where the callback under test would."""

    def __init__(self, plan: Any, seed: int) -> None:
        self.plan, self.seed = plan, seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.plan.apply_(pl_module, self.seed)


def run(data: Any, callback: Callback) -> tuple[Functional, Any]:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    model = Functional()
    trainer = Trainer(max_epochs=2, callbacks=[callback], **QUIET)
    trainer.fit(model, **data)
    streams = (torch.rand(3).tolist(), np.random.rand(), random.random())
    return model, streams


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"train_dataloaders": regression_loader()},
        lambda: {"train_dataloaders": seeded_loader()},
        lambda: {"datamodule": Data()},
        lambda: {"train_dataloaders": DataLoader(NoisyData(), batch_size=8, num_workers=1)},
    ],
    ids=["loader", "generator", "datamodule", "worker"],
)
def test_the_run_is_that_of_the_same_weights_set_by_hand(make: Any) -> None:
    callback = FractionalMomentInit(seed=5, verbose=False)
    data = make()
    model, streams = run(data, callback)
    other_data = make()
    other, other_streams = run(other_data, ByHand(callback.plan, 5))
    assert model.losses == other.losses
    assert model.calls == other.calls
    assert streams == other_streams
    for (name, value), twin in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, twin), name
    if "datamodule" in data:
        assert data["datamodule"].opened == other_data["datamodule"].opened
        assert data["datamodule"].data.reads == other_data["datamodule"].data.reads


def test_the_batch_tells_every_law() -> None:
    callback = FractionalMomentInit(seed=0, verbose=False)
    run({"train_dataloaders": regression_loader()}, callback)
    assert callback.plan is not None
    found = {row.weight.name: row for row in callback.plan.rows}
    assert {row.activation.source for row in found.values()} == {"traced"}
    assert found["stem"].activation.first_layer
    assert "scale-free" in found["stem"].activation.marks
    assert found["hidden"].activation.nonlinearity == "relu"
    assert found["middle"].activation.dropout == pytest.approx(0.2)
    assert found["head"].activation.param == pytest.approx(0.1)
    measured = {one.name: one for one in callback.plan.log_norms}
    assert measured["middle"].follows == "hidden"
    assert measured["head"].follows == "middle"
    assert measured["hidden"].follows is None  # behind a norm


def test_an_example_input_array_is_preferred_to_a_batch() -> None:
    class WithExample(Functional):
        def __init__(self) -> None:
            super().__init__()
            self.example_input_array = torch.randn(4, 16)

    data, callback = Data(), FractionalMomentInit(seed=0, verbose=False)
    opened_at_setup: list[int] = []

    class Look(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            opened_at_setup.append(data.opened)
            assert callback.plan is not None

    Trainer(max_epochs=1, callbacks=[callback, Look()], **QUIET).fit(WithExample(), data)
    assert opened_at_setup == [0]
    assert callback.plan is not None
    assert len(callback.plan.log_norms) == 4


def test_a_forward_that_fails_on_the_example_falls_back_to_the_order_of_modules() -> None:
    class Wrong(Functional):
        def __init__(self) -> None:
            super().__init__()
            self.example_input_array = torch.randn(4, 3)
            self.net = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
            del self.stem, self.norm, self.hidden, self.middle, self.head

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    callback = FractionalMomentInit(seed=0, verbose=False)
    run_model = Wrong()
    Trainer(max_epochs=1, callbacks=[callback], **QUIET).fit(run_model, regression_loader())
    assert callback.plan is not None
    assert [row.activation.source for row in callback.plan.rows] == ["declared", "declared"]


class OneShot:
    def __init__(self) -> None:
        self.reads = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.reads += 1
        raise StopIteration


def test_data_that_can_be_read_once_are_not_read() -> None:
    data = OneShot()
    model = Functional()
    before = copy.deepcopy(model.state_dict())
    callback = FractionalMomentInit(seed=0, nonlinearity="strict")
    trainer = Trainer(max_epochs=1, max_steps=1, callbacks=[callback], **QUIET)
    with pytest.raises(MisconfigurationException, match="name it .nonlinearity='relu'."):
        trainer.fit(model, data)
    assert data.reads == 0
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_by_default_the_linear_rule_is_assumed_with_one_warning() -> None:
    data, callback = OneShot(), FractionalMomentInit(seed=0, verbose=False)
    trainer = Trainer(max_epochs=1, max_steps=1, callbacks=[callback], **QUIET)
    with pytest.warns(UserWarning, match="read only once.*linear rule is assumed") as caught:
        trainer.fit(Functional(), data)
    assert sum("linear rule" in str(one.message) for one in caught) == 1
    assert callback.plan is not None
    assert {row.activation.source for row in callback.plan.rows} == {"assumed"}


class TestForwardArguments:
    class Module(LightningModule):
        def forward(self, x: Any, lengths: Any, mask: Any = None) -> Any:
            return x

    class Keywords(LightningModule):
        def forward(self, batch: Any) -> Any:
            return batch

    def test_as_many_items_as_forward_requires(self) -> None:
        assert forward_arguments(self.Module(), (1, 2, 3)) == (1, 2)
        assert forward_arguments(self.Keywords(), [1, 2]) == (1,)

    def test_a_tensor(self) -> None:
        (found,) = forward_arguments(self.Keywords(), torch.ones(2))
        assert torch.equal(found, torch.ones(2))

    def test_a_dict_by_name_or_whole(self) -> None:
        batch = {"x": 1, "lengths": 2, "label": 3}
        assert forward_arguments(self.Module(), batch) == {"x": 1, "lengths": 2}
        assert forward_arguments(self.Keywords(), batch) == (batch,)


def test_lazy_layers_get_their_shape_from_the_batch() -> None:
    class Lazy(Functional):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.LazyLinear(32)

    callback = FractionalMomentInit(seed=0, verbose=False)
    model = Lazy()
    Trainer(max_epochs=1, callbacks=[callback], **QUIET).fit(model, regression_loader())
    assert callback.plan is not None
    assert callback.plan.rows[0].weight.name == "stem"
    assert callback.plan.rows[0].weight.fan_in == 16


def test_log_norms_and_fan_chart_go_to_tensorboard_at_step_zero(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")

    class Deep(Functional):
        def __init__(self) -> None:
            super().__init__()
            self.example_input_array = torch.randn(8, 16)
            layers = [nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()]
            self.net = nn.Sequential(*layers, nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
            del self.stem, self.norm, self.hidden, self.middle, self.head

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    logger = TensorBoardLogger(tmp_path)
    callback = FractionalMomentInit(seed=0, verbose=False)
    options = {**QUIET, "logger": logger}
    Trainer(max_epochs=1, callbacks=[callback], **options).fit(Deep(), regression_loader())
    events = EventAccumulator(logger.log_dir).Reload()
    assert callback.plan is not None
    (text,) = events.Tensors("FractionalMomentInit/plan/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    for one in callback.plan.log_norms:
        measured, predicted = signal_cells(one)
        assert re.search(rf"\| {re.escape(one.name)} .* \| {re.escape(measured)} \|", table)
        assert f"| {predicted} |" in table
    (image,) = events.Images("FractionalMomentInit/figure/log_norm")
    assert (image.step, image.width) == (0, 800)
