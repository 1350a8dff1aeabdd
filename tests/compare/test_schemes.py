from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from compared_model import Classifier, Points, halve
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from lightning_init.cli.compare import split_inits
from lightning_init.compare.schemes import SCHEMES, Scheme, make_scheme, make_schemes

BATCH = [torch.randn(16, 8, generator=torch.Generator().manual_seed(5)), torch.zeros(16)]


class Wide(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 400), nn.ReLU(), nn.Linear(400, 100)
        )


def initialized(
    scheme: str | Scheme, seed: int = 3, model: Callable[[], Classifier] = Wide
) -> Classifier:
    """The module as its first optimizer step finds it."""
    seed_everything(0, verbose=False)
    module = model()
    made = make_scheme(scheme)
    callbacks = made.build(seed, lambda: BATCH)
    batches = 0 if made.label == "optimal" else 1  # nothing is probed, nor drawn, without a batch
    trainer = Trainer(
        max_steps=1, callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_train_batches=batches,
    )  # fmt: skip
    before = torch.random.get_rng_state()
    for callback in callbacks:
        callback.setup(trainer, module, "fit")
    for callback in callbacks:
        callback.on_fit_start(trainer, module)
    assert torch.equal(torch.random.get_rng_state(), before)
    return module


def weights(module: LightningModule) -> list[Tensor]:
    return [layer.weight.detach() for layer in module.net if isinstance(layer, nn.Linear)]


VARIANCES = {
    "he": lambda fan_in, fan_out: 2 / fan_in,
    "he_uniform": lambda fan_in, fan_out: 2 / fan_in,
    "scaled_he:factor=0.25": lambda fan_in, fan_out: 0.5 / fan_in,
    "xavier": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "xavier_uniform": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "orthogonal": lambda fan_in, fan_out: 2 / max(fan_in, fan_out),
    "random_walk": lambda fan_in, fan_out: 2 * math.exp(2.4 / (fan_in - 2.4)) / fan_in,
    "default": lambda fan_in, fan_out: 1 / (3 * fan_in),
}


@pytest.mark.parametrize("name", VARIANCES)
def test_variance_of_every_layer(name: str) -> None:
    for weight in weights(initialized(name)):
        fan_out, fan_in = weight.shape
        expected = VARIANCES[name](fan_in, fan_out)
        # Two standard errors and a half of a normal's sample variance; the others are sharper.
        assert float(weight.var()) == pytest.approx(
            expected, rel=2.5 * math.sqrt(2 / weight.numel())
        )


def test_orthogonal_matrices_and_the_range_of_uniforms() -> None:
    first, second, _ = weights(initialized("orthogonal"))
    assert torch.allclose(first @ first.T, 2 * torch.eye(200), atol=1e-4)
    assert torch.allclose(second.T @ second, 2 * torch.eye(200), atol=1e-4)
    for weight in weights(initialized("he_uniform")):
        bound = math.sqrt(6 / weight.shape[1])
        assert 0.99 * bound < float(weight.abs().max()) <= bound * (1 + 1e-6)


def test_schemes_share_their_standard_normals() -> None:
    he, xavier = weights(initialized("he")), weights(initialized("xavier"))
    fractional, uniform = (
        weights(initialized("fractional:order=0.5")),
        weights(initialized("he_uniform")),
    )
    for a, b, c, d in zip(he, xavier, fractional, uniform, strict=True):
        z = a / a.std()
        assert torch.allclose(b / b.std(), z, atol=1e-5)
        assert torch.allclose(c / c.std(), z, atol=1e-5)
        assert torch.equal(d.sign(), z.sign())
        assert torch.equal(d.flatten().argsort()[[0, -1]], z.flatten().argsort()[[0, -1]])
    assert not torch.equal(he[0], weights(initialized("he", seed=4))[0])


def test_default_leaves_the_module_alone() -> None:
    ours = weights(initialized("default"))
    seed_everything(0, verbose=False)
    for weight, of_torch in zip(ours, weights(Wide()), strict=True):
        assert torch.equal(weight, of_torch)


def test_function_of_a_user_has_its_own_generator() -> None:
    by_name = initialized("compared_model.halve", model=Classifier)
    given = make_scheme(halve)
    assert given.label == "halve"
    for a, b in zip(weights(by_name), weights(initialized(given, model=Classifier)), strict=True):
        assert torch.equal(a, b)
    assert make_scheme(Scheme.from_function(halve, "mine")).label == "mine"


@pytest.mark.filterwarnings("ignore:.*had not settled")
def test_recipe_of_an_earlier_probe(tmp_path: str) -> None:
    from lightning_init import OptimalVarianceInit

    probe = OptimalVarianceInit(max_probe_steps=60, on_unsettled="use", seed=3, verbose=False)
    seed_everything(0, verbose=False)
    Trainer(
        max_epochs=20, callbacks=[probe], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(Classifier(), datamodule=Points())  # fmt: skip
    assert probe.recipe is not None
    path = f"{tmp_path}/recipe.json"
    probe.recipe.save(path)
    module = initialized(f"optimal:recipe={path}", model=Classifier)
    for layer, weight in zip(probe.recipe.layers, weights(module), strict=True):
        tolerance = 4 * math.sqrt(2 / weight.numel())
        assert float(weight.var(correction=0)) == pytest.approx(layer.sigma0_squared, rel=tolerance)


@pytest.mark.parametrize("text", [*SCHEMES, "compared_model.halve"])
def test_schemes_travel_to_other_processes(text: str) -> None:
    scheme = pickle.loads(pickle.dumps(make_scheme(text)))
    assert scheme.label == text
    for a, b in zip(
        weights(initialized(scheme, model=Classifier)),
        weights(initialized(text, model=Classifier)),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("glorot", "has no scheme 'glorot'; it knows default, fractional"),
        ("he:order", "has 'order' where it needs option=value"),
        ("fractional:order=3", r"`order` must be in \[0, 2\]"),
        ("fractional:ordre=1", "unexpected keyword argument 'ordre'"),
        ("scaled_he:factor=0", "`factor` must be above 0"),
        ("optimal:max_probe_steps=-1", "max_probe_steps"),
        ("optimal:start=nothing", "no scheme 'nothing'"),
        ("nowhere.function", "cannot be imported"),
        ("compared_model.nothing", "cannot be imported"),
        ("xavier:gain=2", "unexpected keyword argument 'gain'"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make_scheme(given)
    assert "inits" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inits", ["he", [], ()])
def test_inits_must_be_a_list(inits: object) -> None:
    with pytest.raises(ValueError, match="`inits` must be a list"):
        make_schemes(inits)


def test_one_scheme_named_twice() -> None:
    labels = [scheme.label for scheme in make_schemes(["he", "xavier", "he", halve, halve])]
    assert labels == ["he", "xavier", "he (2)", "halve", "halve (2)"]


def test_lists_on_the_command_line() -> None:
    text = "he, fractional:order=1,first_layer=activation,optimal:granularity=gain,xavier"
    assert split_inits(text) == [
        "he",
        "fractional:order=1,first_layer=activation",
        "optimal:granularity=gain",
        "xavier",
    ]


def test_partial_functions_have_a_label() -> None:
    assert make_scheme(partial(halve)).label == "halve"
