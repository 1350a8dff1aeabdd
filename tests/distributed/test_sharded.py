"""FSDP2 on two processes: sharded statistics, the redraw of one process, an exact restart."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from sharded_runs import (
    SEED,
    Net,
    Recorder,
    SetWeights,
    Values,
    assert_same,
    fit,
    fresh,
    full,
    loader,
    probe,
    state,
    trainer_of,
    whole,
)
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from two_ranks import on_two_ranks

from lightning_init import FractionalMomentInit, OptimalVarianceInit
from lightning_init.initialization.fill import fill_normal_
from lightning_init.inspection.weights import effective_weight, find_weights
from lightning_init.monitoring.weight_moments import Moments, sample_moments
from lightning_init.probe import ProbeLimits, in_place
from lightning_init.probe.refusals import refuse_what_cannot_be_probed
from lightning_init.search import outcome

pytestmark = [
    pytest.mark.slow,  # half a minute; one process per rank and test
    pytest.mark.filterwarnings("ignore:.*had not settled"),
    pytest.mark.filterwarnings("ignore:.*use of fork"),
    pytest.mark.timeout(120),
]


# ---------------------------------------------------------------------------------- exact restart
def probed_and_reference(arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    outcome.UNCHANGED_LOG_RATIO = 0.0  # in this process: layers that hardly change are drawn too
    settings = options.pop("probe", {})
    callback = probe(**settings)
    options.pop("sabotage", lambda: None)()
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
        (
            ("sgd",),
            {"probe": {"rounds": 2, "forgetting": True, "guard_steps": 2, "max_probe_steps": 7}},
        ),
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
    assert report["restart"] == other_report["restart"]
    assert report["restart"] == "restart verified: first 2 steps identical"
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


# ------------------------------------------------------------------------------ negative controls
def shared_optimizer() -> None:
    in_place.copy_optimizer = lambda optimizer, memo: optimizer


def compared_after(sabotage: Any) -> str:
    found, expected, _ = probed_and_reference(("sgd",), {"max_epochs": 1, "sabotage": sabotage})
    try:
        assert_same(found, expected)
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("sabotage", "shows_in"), [(shared_optimizer, "losses")])
def test_an_omission_shows(sabotage: Any, shows_in: str) -> None:
    for found in on_two_ranks(compared_after, sabotage):
        assert shows_in in found


# ------------------------------------------------------------------------------------- statistics
def moments() -> list[tuple[str, list[Moments], list[Moments]]]:
    found = []

    class Measures(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            unsharded = fresh()
            for weight in find_weights(pl_module).weights:
                of_shards = sample_moments([effective_weight(pl_module, weight)])
                of_whole = sample_moments([effective_weight(unsharded, weight)])
                found.append((weight.name, of_shards, of_whole))

    fit(fresh(), Measures(), max_steps=1)
    return found


def test_the_variance_of_sharded_weights_is_that_of_the_whole() -> None:
    first, second = on_two_ranks(moments)
    assert [name for name, _, _ in first] == [w.name for w in find_weights(Net()).weights]
    for (name, of_shards, of_whole), (_, elsewhere, _) in zip(first, second, strict=True):
        torch.testing.assert_close(of_shards, of_whole, rtol=1e-12, atol=1e-15, msg=name)
        assert of_shards == elsewhere


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
    assert bool((whole(gradient) == 1).all())
    assert_same(state(net), before)
    return error, before["losses"] == []


def test_an_exception_in_the_probe_leaves_everything_as_it_was() -> None:
    for error, empty in on_two_ranks(failing):
        assert error == "fails between forward and backward"
        assert empty


# ------------------------------------------------------------------------------- the run's series
DENSE = ("attention.out_proj", "net.0", "net.4")


def watched(directory: str) -> Any:
    expected: list[list[float]] = []

    class OfTheWhole(Callback):
        """V of the gathered weights, after each step."""

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            values = full(pl_module)
            weights = [values[f"{name}.weight"].double() for name in DENSE]
            expected.append([float(weight.var(correction=0)) for weight in weights])

    callback = probe(max_probe_steps=0)
    fit(fresh(), callback, OfTheWhole(), logger=CSVLogger(directory))
    return expected, callback.state_dict()["run_variances"]


def test_two_ranks_write_one_series_of_the_whole_weights(tmp_path: Path) -> None:
    (expected, first), (_, second) = on_two_ranks(watched, str(tmp_path))
    assert first == second
    (file,) = tmp_path.rglob("run_variance.csv")
    header, _, *rows = csv.reader(file.open())
    assert [int(row[0]) for row in rows] == list(range(1, 13))
    # The attention's stacked projection is three rows of the series, and is left out here.
    columns = [header.index(name) for name in DENSE]
    found = torch.tensor([[float(row[i]) for i in columns] for row in rows], dtype=torch.float64)
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


class Whole(Net):
    """The same net on one device."""

    def configure_model(self) -> None: ...


def series_of(kind: Any, directory: str, **options: Any) -> None:
    """Trains in double precision on batches that every rank has, so that sums can agree."""
    seed_everything(7, verbose=False)
    net = kind().double()
    net.net[3].p = 0.0  # every rank would drop other units
    data = TensorDataset(*[tensor.double() for tensor in loader().dataset.tensors])
    options |= {"use_distributed_sampler": False, "logger": CSVLogger(directory)}
    trainer_of(probe(max_probe_steps=0), **options).fit(net, DataLoader(data, batch_size=8))


def series_in(directory: Path) -> tuple[list[str], Tensor]:
    (file,) = directory.rglob("run_variance.csv")
    header, *rows = csv.reader(file.open())
    return header, torch.tensor([[float(v) for v in row] for row in rows], dtype=torch.float64)


def test_two_ranks_write_the_series_of_one_process(tmp_path: Path) -> None:
    on_two_ranks(series_of, Net, str(tmp_path / "two"))
    series_of(Whole, str(tmp_path / "one"), strategy="auto", devices=1)
    (names, found), (expected_names, expected) = map(
        series_in, map(tmp_path.joinpath, ("two", "one"))
    )
    assert names == expected_names
    assert found.shape == (25, 7)
    assert not torch.equal(expected[0], expected[-1])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


# --------------------------------------------------------------- resume, recipe, other callback
def resumed(path: str) -> Any:
    def net() -> Net:
        made = fresh()
        made.net[3].p = 0.0  # a checkpoint does not hold the random state that dropout draws from
        return made

    uninterrupted = fit(net(), probe(), max_epochs=3)
    trainer = trainer_of(probe(), max_epochs=2)
    trainer.fit(net(), loader())
    trainer.save_checkpoint(path)
    callback = probe()
    rest = fit(net(), callback, ckpt_path=path, max_epochs=3)
    # A resumed run takes over the report of the run before it; a recipe comes from a probe.
    return uninterrupted, rest, callback.recipe


def test_a_resumed_run_is_not_probed_and_continues_the_curve(tmp_path: Path) -> None:
    for uninterrupted, rest, recipe in on_two_ranks(resumed, str(tmp_path / "sharded.ckpt")):
        assert recipe is None
        assert rest["losses"] == uninterrupted["losses"][12:]
        assert_same(
            {n: v for n, v in rest["end"].items() if "running" not in n},
            {n: v for n, v in uninterrupted["end"].items() if "running" not in n},
        )


# What is asked for; the model's own order does not tell what a packed attention reads.
ASKED: list[dict[str, Any]] = [
    {},
    {"nonlinearity": "relu"},
    {"respect": "nothing", "bias": "zero", "order": 0.0},
]


def drawn(recipe: str) -> list[Values]:
    recipes = OptimalVarianceInit(recipe=recipe, seed=SEED, verbose=False)
    return [fit(fresh(), callback)["start"] for callback in (recipes, *by_the_rules())]


def by_the_rules() -> list[FractionalMomentInit]:
    return [FractionalMomentInit(seed=SEED, verbose=False, **asked) for asked in ASKED]


def alone(*callbacks: Callback) -> Values:
    """The first weights of a run on one device."""

    seed_everything(7, verbose=False)
    recorder = Recorder()
    trainer = trainer_of(*callbacks, recorder, strategy="auto", devices=1, max_steps=1)
    trainer.fit(Whole(), loader())
    return recorder.start


def test_a_recipe_and_the_closed_form_are_drawn_as_on_one_device(tmp_path: Path) -> None:
    path = str(tmp_path / "found.json")
    start = alone(probe(recipe_path=path))
    assert json.loads(Path(path).read_text())["layers"]
    expected = [start, *(alone(callback) for callback in by_the_rules())]
    for found in on_two_ranks(drawn, path):
        assert_same(dict(enumerate(found)), dict(enumerate(expected)))


def judged() -> list[tuple[str, str, str, float]]:
    callback = FractionalMomentInit(seed=SEED, verbose=False)
    net = fresh()
    torch.nn.init.eye_(net.net[4].weight)
    torch.nn.init.uniform_(net.net[0].weight, -1e-3, 1e-3)
    fit(net, callback, max_steps=1)
    assert callback.plan is not None
    return [(r.weight.name, r.treatment, r.author, r.before) for r in callback.plan.rows]


def test_what_an_author_set_is_recognised_from_the_whole_weight() -> None:
    first, second = on_two_ranks(judged)
    assert first == second
    treatments = {name: (treatment, author) for name, treatment, author, _ in first}
    assert treatments["net.4"] == ("keep", "mostly zeros: an identity, or sparse")
    assert treatments["net.0"] == ("keep", "near zero on purpose")
    net = fresh()
    scales = {name: before for name, _, _, before in first}
    whole_scale = float(net.attention.out_proj.weight.square().mean().sqrt())
    assert scales["attention.out_proj"] == pytest.approx(whole_scale, rel=1e-6)


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
