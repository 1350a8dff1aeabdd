"""FSDP2 on two processes: sharded statistics, the redraw of one process, an exact restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric
from two_ranks import on_two_ranks

from lightning_init import FractionalMomentInit, OptimalVarianceInit
from lightning_init.initialization.fill import fill_normal_
from lightning_init.inspection.weights import effective_weight, find_weights
from lightning_init.metrics.weight_moments import tensor_moments
from lightning_init.probe import ProbeLimits
from lightning_init.probe.refusals import refuse_what_cannot_be_probed

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*had not settled"),
    pytest.mark.filterwarnings("ignore:.*use of fork"),
    pytest.mark.timeout(120),
]
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
        from torch.distributed.fsdp import fully_shard

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
    return {n: _whole(t.detach()).clone() for n, t in tensors}


def _whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class SetWeights(Callback):
    """The reference: the redrawn weights set by hand."""

    def __init__(self, values: Values) -> None:
        self.values = values

    @torch.no_grad()
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from torch.distributed.tensor import distribute_tensor

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
        "max_epochs": 3,
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
    defaults = {"max_probe_steps": 19, "sample_every_n_steps": 1, "verbose": False, "seed": SEED}
    return OptimalVarianceInit(**{**defaults, **options})


def assert_same(a: Any, b: Any, where: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    else:
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b, where


# ---------------------------------------------------------------------------------- exact restart
def probed_and_reference(arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    settings = options.pop("probe", {})
    callback = probe(**settings)
    found = fit(fresh(*arguments), callback, **options)
    assert callback.report is not None
    weights = {n: v for n, v in found["start"].items() if v.dim() > 1}
    expected = fit(fresh(*arguments), SetWeights(weights), **options)
    return found, expected, callback.report.to_dict()


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("sgd",), {}),
        (("adam",), {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}),
        (("sgd",), {"probe": {"rounds": 2, "forgetting": True, "guard_steps": 4}}),
    ],
    ids=["sgd", "adam_accumulate_clip", "every_phase"],
)
def test_the_restart_is_exact_and_the_redraw_that_of_one_process(
    arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    ranks = on_two_ranks(probed_and_reference, arguments, dict(options))
    for found, expected, _ in ranks:
        assert_same(found, expected)
    (first, _, report), (second, _, other_report) = ranks
    assert first["losses"] != second["losses"]  # either rank has its own batches
    assert report["layers"] == other_report["layers"]
    for moment in ("start", "end"):
        names = [name for name in first[moment] if "running" not in name]
        for name in names:
            assert torch.equal(first[moment][name], second[moment][name]), name

    alone = fresh(*arguments)
    sigmas = {row["name"]: row["sigma0"] for row in report["layers"] if row["action"] == "redrawn"}
    assert len(sigmas) == 6 or "probe" in options
    for weight in find_weights(alone).weights:
        if weight.name in sigmas:
            fill_normal_(alone, weight, sigmas[weight.name], SEED)
    assert_same(full(alone), first["start"])


# ------------------------------------------------------------------------------------- statistics
def moments() -> list[tuple[str, Tensor, Tensor]]:
    found = []

    class Measures(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            whole = fresh()
            for weight in find_weights(pl_module).weights:
                of_shards = tensor_moments(effective_weight(pl_module, weight))
                of_whole = tensor_moments(effective_weight(whole, weight))
                found.append((weight.name, of_shards, of_whole))

    fit(fresh(), Measures(), max_steps=1)
    return found


def test_the_variance_of_sharded_weights_is_that_of_the_whole() -> None:
    first, second = on_two_ranks(moments)
    assert [name for name, _, _ in first] == [w.name for w in find_weights(Net()).weights]
    for (name, of_shards, of_whole), (_, elsewhere, _) in zip(first, second, strict=True):
        torch.testing.assert_close(of_shards, of_whole, rtol=1e-12, atol=1e-15, msg=name)
        assert torch.equal(of_shards, elsewhere)


# ------------------------------------------------------------------------------------- exceptions
def failing() -> tuple[str, bool]:
    net = fresh("adam", 5)
    before: dict[str, Any] = {}

    class Before(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            weight = pl_module.net[0].weight
            weight.grad = torch.ones_like(weight)
            pl_module.net[4].bias.requires_grad_(False)
            before.update(state(pl_module), grad=weight.grad, random=torch.get_rng_state())

    error = ""
    try:
        fit(net, Before(), probe())
    except RuntimeError as caught:
        error = str(caught)
    assert torch.equal(torch.get_rng_state(), before.pop("random"))
    gradient = before.pop("grad")
    assert net.net[0].weight.grad is gradient
    assert bool((_whole(gradient) == 1).all())
    assert_same(state(net), before)
    return error, before["losses"] == []


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


def test_an_exception_in_the_probe_leaves_everything_as_it_was() -> None:
    for error, empty in on_two_ranks(failing):
        assert error == "fails between forward and backward"
        assert empty


# --------------------------------------------------------------- resume, recipe, other callback
def resumed(path: str) -> Any:
    def net() -> Net:
        made = fresh()
        made.net[3].p = 0.0  # a checkpoint does not hold the random state that dropout draws from
        return made

    whole = fit(net(), probe(max_probe_steps=9), max_epochs=4)
    trainer = trainer_of(probe(max_probe_steps=9), max_epochs=2)
    trainer.fit(net(), loader())
    trainer.save_checkpoint(path)
    callback = probe()
    rest = fit(net(), callback, ckpt_path=path, max_epochs=4)
    return whole, rest, callback.report


def test_a_resumed_run_is_not_probed_and_continues_the_curve(tmp_path: Path) -> None:
    for whole, rest, report in on_two_ranks(resumed, str(tmp_path / "sharded.ckpt")):
        assert report is None
        assert rest["losses"] == whole["losses"][12:]
        assert_same(
            {n: v for n, v in rest["end"].items() if "running" not in n},
            {n: v for n, v in whole["end"].items() if "running" not in n},
        )


def drawn(recipe: str) -> tuple[Values, Values]:
    by_recipe = fit(fresh(), OptimalVarianceInit(recipe=recipe, seed=SEED, verbose=False))
    closed_form = FractionalMomentInit(nonlinearity="relu", seed=SEED, verbose=False)
    return by_recipe["start"], fit(fresh(), closed_form)["start"]


def alone(*callbacks: Callback) -> Values:
    """The first weights of a run on one device."""

    class Whole(Net):
        def configure_model(self) -> None: ...

    seed_everything(7, verbose=False)
    recorder = Recorder()
    trainer = trainer_of(*callbacks, recorder, strategy="auto", devices=1, max_steps=1)
    trainer.fit(Whole(), loader())
    return recorder.start


def test_a_recipe_and_the_closed_form_are_drawn_as_on_one_device(tmp_path: Path) -> None:
    path = str(tmp_path / "found.json")
    start = alone(probe(recipe_path=path))
    assert json.loads(Path(path).read_text())["layers"]
    closed_form = alone(FractionalMomentInit(nonlinearity="relu", seed=SEED, verbose=False))
    for by_recipe, by_formula in on_two_ranks(drawn, path):
        assert_same(by_recipe, start)
        assert_same(by_formula, closed_form)


# --------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("kind", [FSDPStrategy, DeepSpeedStrategy])
def test_what_cannot_be_put_back_is_refused_and_the_offline_route_named(kind: Any) -> None:
    trainer = trainer_of(strategy="auto", devices=1)
    trainer._accelerator_connector.strategy = object.__new__(kind)
    net = Net()
    with pytest.raises(MisconfigurationException) as caught:
        refuse_what_cannot_be_probed(trainer, net, ProbeLimits(10))
    message = str(caught.value)
    assert kind.__name__ in message
    assert "OptimalVarianceInit(recipe='init_recipe.json')" in message
    assert "\n" not in message
