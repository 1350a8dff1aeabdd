"""Models, steps and data that few people expect, each with a module to fit and its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from models import Regression, mlp, regression_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset


class Picked(nn.Module):
    """Four of the inputs; no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :4]


class WithBias(Regression):
    """A module that has a bias to train, whatever its net has."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.shift = nn.Parameter(torch.zeros(4))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]) + self.shift, batch[1])


class Before(nn.Module):
    """A linear layer behind a module that is made, and called, by functions."""

    def __init__(self, made: Any, called: Callable[[Any, Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.made, self.called = made, called
        self.out = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.called(self.made, x))


class Skipping(nn.Sequential):
    """A sequence that may hold None."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = x if layer is None else layer(x)
        return x


class OnlyInTraining(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            raise RuntimeError("made for training only")
        return super().forward(x)


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot be copied")


class Explosive(nn.Linear):
    @property
    def secret(self) -> Any:
        raise RuntimeError("do not look")


class Returns(Regression):
    """Returns what a function makes of the loss."""

    def __init__(self, made: Callable[[Tensor, int], Any]) -> None:
        super().__init__()
        self.made = made

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return self.made(super().training_step(batch, batch_idx), batch_idx)


def _raises(loss: Tensor, batch_idx: int) -> Tensor:
    raise RuntimeError("broken step\nand more of it")


class Optimized(Regression):
    """Has the optimizer that a function makes of its parameters."""

    def __init__(self, made: Callable[[Any], Any]) -> None:
        super().__init__()
        self.made = made

    def configure_optimizers(self) -> Any:
        return self.made(self)


class Example(Regression):
    def __init__(self, example: Any) -> None:
        super().__init__()
        self.example_input_array = example

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Meta(Regression):
    def __init__(self, materializes: bool) -> None:
        with torch.device("meta"):
            super().__init__(mlp(16, 8, 4))
        self.materializes = materializes

    def configure_model(self) -> None:
        if self.materializes and self.net[0].weight.is_meta:
            self.net.to_empty(device="cpu")
            for layer in (self.net[0], self.net[2]):
                layer.reset_parameters()


class Several(Regression):
    """Takes a batch of each of several loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        each = batch.values() if isinstance(batch, dict) else batch
        losses = [super(Several, self).training_step(one, batch_idx) for one in each if one]
        return torch.stack(losses).sum()


class FromIterator(Regression):
    def training_step(self, dataloader_iter: Any) -> Tensor:  # type: ignore[override]
        (inputs, targets), _, _ = next(dataloader_iter)
        return nn.functional.mse_loss(self.net(inputs), targets)


class Stream(IterableDataset[Any]):
    def __init__(self, once: bool = False) -> None:
        x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
        rows = list(zip(x, x[:, :4], strict=True))
        self.rows: Any = iter(rows) if once else rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


class Rows(Dataset[Any]):
    def __init__(self, width: int = 16, broken_from: int = 64) -> None:
        self.width, self.broken_from = width, broken_from

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        if index >= self.broken_from:
            raise OSError("cannot read\nand more of it")
        return torch.full((self.width,), float(index)), torch.zeros(4)


class Loader:
    """A loader by duck typing."""

    def __init__(self, batches: Callable[[], Iterator[Any]], has_length: bool = True) -> None:
        self.batches, self.has_length = batches, has_length

    def __iter__(self) -> Iterator[Any]:
        return self.batches()

    def __len__(self) -> int:
        if not self.has_length:
            raise RuntimeError("no length")
        return 8


class OwnIterator:
    def __init__(self) -> None:
        self.rows, self.position = list(regression_loader()), 0

    def __iter__(self) -> OwnIterator:
        self.position = 0
        return self

    def __next__(self) -> Any:
        if self.position == len(self.rows):
            raise StopIteration
        self.position += 1
        return self.rows[self.position - 1]


class Data(LightningDataModule):
    """Gives each time what a function makes of the number of calls."""

    def __init__(self, made: Callable[[int], Any]) -> None:
        super().__init__()
        self.made, self.calls = made, 0

    def train_dataloader(self) -> Any:
        self.calls += 1
        return self.made(self.calls)


def _no_batches() -> Iterator[Any]:
    raise RuntimeError("no data today\nand more of it")
    yield


def _once(calls: int) -> Any:
    if calls > 1:
        raise RuntimeError("only once")
    return regression_loader()


def _weights(*shape: int, **options: Any) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, **options))


def _filled(value: float) -> nn.Module:
    layer = nn.Linear(16, 8)
    nn.init.constant_(layer.weight, value)
    return layer


def _before(made: Any, called: Any = None, width: int = 8) -> Callable[[], Any]:
    """A case of a module made anew each time."""
    return lambda: Regression(Before(made(), called or (lambda m, x: m(x)), width))


MODELS: dict[str, Callable[[], Any]] = {
    "no parameters": lambda: Regression(Picked()),
    "a bias alone": lambda: WithBias(Picked()),
    "norms alone": lambda: Regression(nn.Sequential(nn.LayerNorm(16), Picked())),
    "all frozen": lambda: WithBias(mlp(16, 8, 4).requires_grad_(False)),
    "first layer frozen": _before(lambda: nn.Linear(16, 8).requires_grad_(False)),
    "meta device": lambda: Meta(False),
    "materialized": lambda: Meta(True),
    "lazy": lambda: Regression(nn.Sequential(nn.LazyLinear(8), nn.LazyLinear(4))),
    "None in a sequence": lambda: Regression(Skipping(nn.Linear(16, 8), None, nn.Linear(8, 4))),
    "complex matrix": _before(
        lambda: _weights(16, 8, dtype=torch.cfloat), lambda w, x: (x.to(w.dtype) @ w).abs()
    ),
    "complex layer": _before(
        lambda: nn.Linear(16, 8, dtype=torch.cfloat), lambda m, x: m(x.to(torch.cfloat)).abs()
    ),
    "integers": _before(
        lambda: nn.Parameter(torch.ones(16, 8, dtype=torch.int8), requires_grad=False),
        lambda w, x: x @ w.float(),
    ),
    "quantized": _before(lambda: torch.ao.nn.quantized.dynamic.Linear(16, 8)),
    "TorchScript": lambda: Regression(torch.jit.script(mlp(16, 8, 4))),
    "half TorchScript": _before(lambda: torch.jit.script(nn.Linear(16, 8))),
    "sparse matrix": _before(
        lambda: nn.Parameter(torch.eye(16).to_sparse()),
        lambda w, x: torch.sparse.mm(w, x.T).T,
        16,
    ),
    "NaN": _before(lambda: _filled(float("nan"))),
    "zeros": _before(lambda: _filled(0.0)),
    "no inputs": _before(lambda: nn.Linear(0, 8), lambda m, x: m(x[:, :0])),
    "no outputs": _before(lambda: nn.Linear(16, 0), lambda m, x: x + m(x).sum(), 16),
    "one weight": _before(lambda: nn.Linear(1, 1), lambda m, x: x + m(x[:, :1]), 16),
    "unused layer": _before(lambda: nn.Linear(16, 8), lambda m, x: x, 16),
    "views of one tensor": _before(
        lambda: nn.ParameterList(torch.randn(2, 16, 8).unbind()), lambda m, x: x @ m[0] + x @ m[1]
    ),
    "double": _before(lambda: nn.Linear(16, 8).double(), lambda m, x: m(x.double()).float()),
    "bfloat16": _before(lambda: nn.Linear(16, 8).bfloat16(), lambda m, x: m(x.bfloat16()).float()),
    "training only": lambda: Regression(OnlyInTraining(16, 4)),
    "uncopyable": lambda: Regression(Uncopyable(16, 4)),
    "a property that raises": lambda: Regression(Explosive(16, 4)),
    "data parallel": lambda: Regression(nn.DataParallel(mlp(16, 8, 4))),
    "compiled": lambda: Regression(torch.compile(mlp(16, 8, 4), backend="eager")),
    "batch norm": _before(lambda: nn.BatchNorm1d(16), None, 16),
    "no optimizer": lambda: Optimized(lambda module: None),
    "optimizer of one layer": lambda: Optimized(lambda m: torch.optim.SGD(m.net[4].parameters())),
    "closures": lambda: Optimized(lambda m: torch.optim.LBFGS(m.parameters())),
    "example of another width": lambda: Example(torch.zeros(3, 7)),
    "example of another type": lambda: Example("text"),
    "empty example": lambda: Example(()),
    "step raises": lambda: Returns(_raises),
    "step gives None": lambda: Returns(lambda loss, i: None),
    "step gives text": lambda: Returns(lambda loss, i: "loss"),
    "step gives a constant": lambda: Returns(lambda loss, i: loss.detach()),
    "step gives a dict": lambda: Returns(lambda loss, i: {"loss": loss, "more": 1}),
    "step gives NaN": lambda: Returns(lambda loss, i: loss * float("nan")),
    "step takes an iterator": lambda: FromIterator(),
}
LOADERS: dict[str, Callable[[], Any]] = {
    "generator": lambda: (batch for batch in list(regression_loader())),
    "map": lambda: map(tuple, list(regression_loader())),
    "list iterator": lambda: iter(list(regression_loader())),
    "own iterator": OwnIterator,
    "no loader": lambda: None,
    "empty list": lambda: [],
    "empty dict": lambda: {},
    "empty loader": lambda: DataLoader([]),
    "fewer rows than a batch": lambda: DataLoader(Rows(), batch_size=65, drop_last=True),
    "stream": lambda: DataLoader(Stream(), batch_size=8),
    "stream to be read once": lambda: DataLoader(Stream(once=True), batch_size=8),
    "first row broken": lambda: DataLoader(Rows(broken_from=0), batch_size=8),
    "later row broken": lambda: DataLoader(Rows(broken_from=9), batch_size=8),
    "another width": lambda: DataLoader(Rows(width=15), batch_size=8),
    "no batch size": lambda: DataLoader(Rows(), batch_size=None),
    "dataset": lambda: TensorDataset(torch.randn(64, 16), torch.randn(64, 4)),
    "text": lambda: "data",
    "batches of None": lambda: Loader(lambda: iter([None] * 8)),
    "iteration raises": lambda: Loader(_no_batches),
    "length raises": lambda: Loader(lambda: iter(list(regression_loader())), has_length=False),
    "sequential": lambda: CombinedLoader(regression_loader(), "sequential"),
    "hook raises": lambda: Data(lambda calls: next(_no_batches())),
    "hook gives None": lambda: Data(lambda calls: None),
    "hook that works once": lambda: Data(_once),
}
SEVERAL: dict[str, Callable[[], Any]] = {
    "dict of loaders": lambda: {"a": regression_loader(), "b": regression_loader()},
    "list of loaders": lambda: [regression_loader(), regression_loader(16)],
    "loaders to the longest": lambda: CombinedLoader(
        [regression_loader(), regression_loader(16)], "max_size"
    ),
    "a generator among loaders": lambda: {"a": regression_loader(), "b": iter([])},
    "an empty one among loaders": lambda: {"a": regression_loader(), "b": DataLoader([])},
}
