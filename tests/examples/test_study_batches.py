"""Runs that are trained together are the runs that a Trainer makes, and only those that can be."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))
import study_batches
import study_models
from study_cells import cells, read_protocol
from study_data import StudyData
from study_peers import with_transfers

from lightning_init import InitRecipe
from lightning_init.compare.runs import RunTask, execute
from lightning_init.compare.schemes import make_schemes

INITS = ["default", "he", "fractional:order=1", "orthogonal", "scaled_he:factor=0.8"]


@pytest.fixture(autouse=True)
def images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up images in the place of a data set."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 784, generator=generator)
    splits = (inputs, inputs[:, :10].argmax(1)), (inputs[:40], inputs[:40, :10].argmax(1))
    monkeypatch.setitem(sys.modules["study_data"].LOADERS, "mnist", lambda root, pixels: splits)
    sys.modules["study_data"].load_splits.cache_clear()


def tasks(model: partial, seed: int) -> list[RunTask]:
    data = partial(StudyData, "mnist", samples=90, batch_size=16, validation=30, evaluation=70)
    plain = RunTask(make_schemes(INITS)[0], seed, model, data, {"max_epochs": 4})
    return [replace(plain, scheme=scheme) for scheme in make_schemes(INITS)]


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(
    "model",
    [
        partial(study_models.MLP, [784, 32, 24, 10], learning_rate=0.1, weight_decay=1e-3),
        partial(study_models.MLP, [784, 32, 10], optimizer="adamw", learning_rate=1e-3),
        partial(
            study_models.DeepMLP,
            depth=20,
            activation="leaky_relu",
            activation_on_logits=True,
            optimizer="momentum",
            learning_rate=0.01,
        ),
    ],
    ids=["sgd", "adamw", "deep"],
)
def test_runs_that_are_trained_together_equal_plain_ones(model: partial, seed: int) -> None:
    together = list(study_batches.train_together(tasks(model, seed)))
    assert [record.scheme for _, record in together] == INITS
    for task, stacked in together:
        (plain,) = execute(task)
        assert stacked.steps == plain.steps == 24
        assert stacked.final == pytest.approx(plain.final, rel=1e-6, abs=1e-6)
        assert dict(stacked.curve).keys() == dict(plain.curve).keys()
        for (_, here), (_, there) in zip(stacked.curve[:-1], plain.curve, strict=False):
            assert here == pytest.approx(there, rel=1e-6, abs=1e-6)


def test_a_run_whose_loss_is_lost_is_left_to_the_trainer() -> None:
    model = partial(study_models.MLP, [784, 32, 32, 10], learning_rate=1.0)
    given = tasks(model, 0)
    wild = make_schemes(["scaled_he:factor=1e30"])[0]
    made = study_batches.train_together([*given[:2], replace(given[0], scheme=wild)])
    assert [record.scheme for _, record in made] == INITS[:2]


def test_networks_that_cannot_be_stacked_are_not() -> None:
    stackable = {
        name: {study_batches.can_be_stacked(cell) for cell in cells(read_protocol(name), "full")}
        for name in "abcdefghijklm"
    }
    assert stackable == {
        **dict.fromkeys("aceijlm", {True}),  # an MLP at a constant rate
        **dict.fromkeys("bdfghk", {False}),
    }


def test_a_transfer_starts_from_the_variances_of_a_wider_run(tmp_path: Path) -> None:
    plain = tasks(partial(study_models.MLP, widths=[784, 32, 24, 10]), 0)[0]
    (scheme,) = with_transfers(["transfer:width=2"], plain, tmp_path)
    assert scheme.pilot_steps == 24
    start = study_batches.first_weights(replace(plain, scheme=scheme))
    (found,) = tmp_path.glob("*/*1000-1.json")
    wider = {layer.name: layer for layer in InitRecipe.load(found).layers}["net.2"]
    assert tuple(wider.shape) == (48, 64)
    drawn = start["net.2.weight"]
    assert drawn.shape == (24, 32)
    assert drawn.var().item() * 32 == pytest.approx(wider.variance * 64, rel=0.25)
    with pytest.raises(ValueError, match="rate and width, got 'depth'"):
        with_transfers(["transfer:depth=2"], plain, tmp_path)
