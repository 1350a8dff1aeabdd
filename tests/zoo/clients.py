"""Libraries that train with Lightning, each a few steps of one small model of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

STEPS = 24
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Ran:
    """What is left of a run.

    Args:
        steps: Optimizer steps that it took.
        callbacks: The callbacks that took part: a client may have copied what it was given.
    """

    def __init__(self, trainer: Any) -> None:
        self.steps = trainer.global_step
        self.callbacks = trainer.callbacks


def fitted(
    model: Any, data: Any, callbacks: Iterable[Any], package: str = "lightning.pytorch"
) -> Ran:
    """Train a module with the Trainer of one of the two packages."""
    trainer = pytest.importorskip(package).Trainer(
        max_steps=STEPS,
        callbacks=[*callbacks],
        enable_checkpointing=False,
        accelerator="cpu",
        limit_val_batches=0,
        **QUIET,
    )
    trainer.fit(model, data)
    return Ran(trainer)


class _Keeper(Callback):
    """Keeps the Trainer of a client that makes it itself, and is not copied with the others."""

    trainer: Any = None

    def __deepcopy__(self, memo: Any) -> _Keeper:
        return self

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.trainer = trainer


def gluonts(name: str, **options: Any) -> Callable[[list[Any]], Ran]:
    """An estimator of gluonts on four random series."""

    def run(callbacks: list[Any]) -> Ran:
        estimators = pytest.importorskip("gluonts.torch")
        from gluonts.dataset.common import ListDataset

        values = torch.rand(4, 100, generator=torch.Generator().manual_seed(0)).numpy()
        data = ListDataset([{"start": "2020-01-01", "target": row} for row in values], freq="D")
        keeper = _Keeper()
        getattr(estimators, name)(
            prediction_length=5,
            context_length=20,
            batch_size=4,
            num_batches_per_epoch=STEPS,
            trainer_kwargs={"max_epochs": 1, "callbacks": [*callbacks, keeper], **QUIET},
            **options,
        ).train(data)
        return Ran(keeper.trainer)

    return run


def demo(name: str) -> Callable[[list[Any]], Ran]:
    """A language model of Lightning's own demos."""

    def run(callbacks: list[Any]) -> Ran:
        import lightning.pytorch.demos as demos
        from lightning.pytorch.demos.lstm import LightningLSTM

        kind = {"transformer": demos.LightningTransformer, "lstm": LightningLSTM}[name]

        class WithoutDownload(kind):  # type: ignore[misc, valid-type]
            def prepare_data(self) -> None:
                pass

        tokens = torch.randint(0, 20, (40, 6))
        return fitted(
            WithoutDownload(vocab_size=20),
            DataLoader(TensorDataset(tokens, tokens), batch_size=20),
            callbacks,
        )

    return run


def boring(package: str) -> Callable[[list[Any]], Ran]:
    """The module that Lightning tests itself with, of either package."""

    def run(callbacks: list[Any]) -> Ran:
        classes = pytest.importorskip(f"{package}.demos.boring_classes")
        return fitted(classes.BoringModel(), None, callbacks, package)

    return run


def readme_autoencoder(callbacks: list[Any]) -> Ran:
    """The example of Lightning's README, which flattens its images in `training_step`."""
    import lightning

    class LitAutoEncoder(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(28 * 28, 128), nn.ReLU(), nn.Linear(128, 3))
            self.decoder = nn.Sequential(nn.Linear(3, 128), nn.ReLU(), nn.Linear(128, 28 * 28))

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, _ = batch
            x = x.view(x.size(0), -1)
            z = self.encoder(x)
            x_hat = self.decoder(z)
            loss = nn.functional.mse_loss(x_hat, x)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    images = TensorDataset(torch.rand(64, 1, 28, 28), torch.zeros(64))
    return fitted(LitAutoEncoder(), DataLoader(images, batch_size=8), callbacks)


def chemprop(callbacks: list[Any]) -> Ran:
    """A message-passing network on molecules."""
    pytest.importorskip("chemprop")
    from chemprop import data, models
    from chemprop import nn as layers

    smiles = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCCC", "CNC", "COC", "CCl"]
    points = [
        data.MoleculeDatapoint.from_smi(one, torch.tensor([float(i)]).numpy())
        for i, one in enumerate(smiles)
    ]
    loader = data.build_dataloader(data.MoleculeDataset(points), batch_size=4)
    model = models.MPNN(
        layers.BondMessagePassing(d_h=16),
        layers.MeanAggregation(),
        layers.RegressionFFN(input_dim=16, hidden_dim=16),
    )
    return fitted(model, loader, callbacks)


def pytorch_forecasting(name: str) -> Callable[[list[Any]], Ran]:
    """A network of pytorch-forecasting on two series."""

    def run(callbacks: list[Any]) -> Ran:
        library = pytest.importorskip("pytorch_forecasting")
        import pandas

        table = pandas.DataFrame(
            {
                "time": [*range(60)] * 2,
                "value": torch.rand(120).tolist(),
                "series": ["a"] * 60 + ["b"] * 60,
            }
        )
        data = library.TimeSeriesDataSet(
            table,
            time_idx="time",
            target="value",
            group_ids=["series"],
            max_encoder_length=10,
            min_encoder_length=10,
            max_prediction_length=3,
            time_varying_unknown_reals=["value"],
        )
        kinds: dict[str, tuple[Any, dict[str, Any]]] = {
            "nbeats": (library.NBeats, {"widths": [16, 16]}),
            "tft": (
                library.TemporalFusionTransformer,
                {"hidden_size": 8, "attention_head_size": 2, "hidden_continuous_size": 4},
            ),
        }
        kind, options = kinds[name]
        model = kind.from_dataset(data, log_interval=-1, **options)
        return fitted(model, data.to_dataloader(train=True, batch_size=8), callbacks)

    return run


def graph(callbacks: list[Any]) -> Ran:
    """Two graph convolutions of PyTorch Geometric."""
    geometric = pytest.importorskip("torch_geometric")
    from lightning.pytorch import LightningModule
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader as GraphLoader

    class Graph(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.first = geometric.nn.GCNConv(6, 16)
            self.second = geometric.nn.GATConv(16, 8, heads=2)
            self.last = geometric.nn.Linear(16, 1)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            x = self.first(x, edge_index).relu()
            return self.last(self.second(x, edge_index).relu())

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return (self(batch.x, batch.edge_index) - batch.y).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    graphs = [
        Data(x=torch.randn(9, 6), edge_index=torch.randint(0, 9, (2, 20)), y=torch.randn(9, 1))
        for _ in range(16)
    ]
    return fitted(Graph(), GraphLoader(graphs, batch_size=4), callbacks)


def neuralforecast(callbacks: list[Any]) -> Ran:
    """NHITS, which neuralforecast trains with a Trainer of `pytorch_lightning`."""
    library = pytest.importorskip("neuralforecast")
    import pandas
    from neuralforecast.models import NHITS

    table = pandas.DataFrame(
        {
            "unique_id": ["a"] * 60,
            "ds": pandas.date_range("2020-01-01", periods=60),
            "y": torch.rand(60).tolist(),
        }
    )
    keeper = _Keeper()
    model = NHITS(
        h=3,
        input_size=10,
        max_steps=STEPS,
        mlp_units=[[16, 16]] * 3,
        callbacks=[*callbacks, keeper],
        enable_checkpointing=False,
        **QUIET,
    )
    library.NeuralForecast(models=[model], freq="D").fit(table)
    return Ran(keeper.trainer)


CLIENTS: dict[str, Callable[[list[Any]], Ran]] = {
    "gluonts SimpleFeedForward": gluonts("SimpleFeedForwardEstimator"),
    "gluonts PatchTST": gluonts("PatchTSTEstimator", patch_len=4),
    "gluonts DeepAR": gluonts("DeepAREstimator", freq="D"),
    "gluonts TFT": gluonts("TemporalFusionTransformerEstimator", freq="D"),
    "chemprop MPNN": chemprop,
    "pytorch-forecasting N-BEATS": pytorch_forecasting("nbeats"),
    "pytorch-forecasting TFT": pytorch_forecasting("tft"),
    "Lightning LSTM": demo("lstm"),
    "Lightning Transformer": demo("transformer"),
    "Lightning BoringModel": boring("lightning.pytorch"),
    "pytorch_lightning BoringModel": boring("pytorch_lightning"),
    "Lightning README": readme_autoencoder,
    "PyTorch Geometric": graph,
    "neuralforecast NHITS": neuralforecast,
}
