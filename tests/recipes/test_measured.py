"""Recipes from modules and from checkpoints that earlier runs left."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import lightning_checkpoint
import pytest
import torch
from torch import Tensor, nn

from lightning_init import InitRecipe


class Net(nn.Module):
    """A tied head, a padding row, gates, weight normalization, a bare matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 4, padding_idx=2)
        self.queries = nn.Parameter(torch.randn(1, 5, 4))
        self.lstm = nn.LSTM(4, 6)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.tokens.weight


@pytest.fixture
def net() -> Net:
    torch.manual_seed(3)
    return Net()


def variances(recipe: InitRecipe) -> dict[str, float]:
    return {layer.name: layer.sigma0_squared for layer in recipe.layers}


def test_a_module_says_the_variance_of_every_weight(net: Net) -> None:
    found = variances(InitRecipe.from_module(net))
    assert list(found) == [
        "queries",
        "tokens",
        *(f"lstm.weight_{side}_l0.{gate}" for side in ("ih", "hh") for gate in GATES),
        "normed",
    ]
    rows = torch.cat([net.tokens.weight[:2], net.tokens.weight[3:]]).double()
    assert found["tokens"] == pytest.approx(rows.var(correction=0).item(), rel=1e-12)
    assert found["normed"] == pytest.approx(net.normed.weight.double().var(correction=0).item())


GATES = ("input", "forget", "cell", "output")


def renamed(prefix: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda state: {prefix + name: value for name, value in state.items()}


WRITTEN: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "lightning": lambda state: {"state_dict": renamed("model.")(state), "epoch": 3},
    "compiled": renamed("_orig_mod."),
    "compiled inside": renamed("model._orig_mod."),
    "ddp": renamed("module."),
    "tied once": lambda state: {k: v for k, v in state.items() if k != "tokens.weight"},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_checkpoint_says_what_its_module_would(name: str, net: Net, tmp_path: Path) -> None:
    expected = variances(InitRecipe.from_module(net))
    torch.save(WRITTEN[name](net.state_dict()), tmp_path / "run.ckpt")
    other = Net()
    before = [parameter.clone() for parameter in other.parameters()]
    found = variances(InitRecipe.from_checkpoint(tmp_path / "run.ckpt", other))
    assert found == pytest.approx(expected, rel=1e-12)
    assert all(map(torch.equal, before, other.parameters()))


def test_a_checkpoint_that_lightning_wrote(tmp_path: Path) -> None:
    path = str(tmp_path / "last.ckpt")
    lightning_checkpoint.write(path)
    assert lightning_checkpoint.check(path) == lightning.__version__


@pytest.mark.slow  # importing the compiler takes seconds
def test_a_module_that_is_really_compiled(net: Net, tmp_path: Path) -> None:
    compiled = torch.compile(net.normed, backend="eager")
    compiled(torch.randn(3, 6)).square().mean().backward()
    torch.optim.Adam(compiled.parameters()).step()
    torch.save(compiled.state_dict(), tmp_path / "compiled.pt")
    fresh = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    found = variances(InitRecipe.from_checkpoint(tmp_path / "compiled.pt", fresh))
    assert found == pytest.approx(variances(InitRecipe.from_module(compiled)), rel=1e-12)
    weight = net.normed.weight.detach().double()
    assert list(found.values()) == pytest.approx([weight.var(correction=0).item()], rel=1e-6)


def test_safetensors(net: Net, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_model(net, str(tmp_path / "model.safetensors"))
    found = InitRecipe.from_checkpoint(tmp_path / "model.safetensors", Net())
    assert variances(found) == pytest.approx(variances(InitRecipe.from_module(net)), rel=1e-12)


def test_half_precision_is_measured_as_it_is_and_told(net: Net, tmp_path: Path) -> None:
    torch.save({k: v.half() for k, v in net.state_dict().items()}, tmp_path / "half.pt")
    expected = variances(InitRecipe.from_module(net))
    with pytest.warns(UserWarning, match=r"half.pt: holds torch.float16: V is that of the rounded"):
        found = variances(InitRecipe.from_checkpoint(tmp_path / "half.pt", net))
    assert found == pytest.approx(expected, rel=1e-2)


def test_several_checkpoints_are_averaged_in_the_logarithm(net: Net, tmp_path: Path) -> None:
    scales = (1.0, 2.0, 4.0)
    for scale in scales:
        state = {k: v * scale if k == "queries" else v for k, v in net.state_dict().items()}
        torch.save(state, tmp_path / f"{scale}.pt")
    recipe = InitRecipe.from_checkpoint([tmp_path / f"{scale}.pt" for scale in scales], net)
    queries = next(layer for layer in recipe.layers if layer.name == "queries")
    alone = net.queries.detach().double().var(correction=0).item()
    assert queries.sigma0_squared == pytest.approx(4 * alone, rel=1e-12)
    assert queries.spread == pytest.approx(math.log(4))
    assert InitRecipe.from_json(recipe.to_json()) == recipe


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def bad_files(folder: Path) -> dict[str, str]:
    """File name and what the message must say, for files that give no recipe."""
    state = Net().state_dict()
    torch.save(state, folder / "good.pt")
    (folder / "short.pt").write_bytes((folder / "good.pt").read_bytes()[:3000])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.ckpt").write_text("not a checkpoint")
    with (folder / "zeros.ckpt").open("wb") as file:
        file.truncate(2 << 30)
    torch.save({"weight": torch.ones(3), "payload": Payload()}, folder / "code.pt")
    torch.save(nn.LSTM(2, 2), folder / "module.pt")
    torch.save(nn.Linear(3, 3).state_dict(), folder / "other.pt")
    torch.save({**state, "queries": torch.randn(1, 6, 4)}, folder / "shape.pt")
    del state["lstm.weight_hh_l0"]
    torch.save({**state, "queries": torch.randn(1, 6, 4)}, folder / "both.pt")
    state = Net().state_dict()
    torch.save({**state, "queries": torch.full((1, 5, 4), math.nan)}, folder / "nan.pt")
    torch.save([torch.ones(3)], folder / "list.pt")
    (folder / "folder").mkdir()
    (folder / "sharded").mkdir()
    (folder / "sharded" / ".metadata").write_bytes(b"")
    return {
        "short.pt": "cut short",
        "empty.pt": "cut short",
        "text.ckpt": "is no checkpoint",
        "zeros.ckpt": "is no checkpoint",
        "code.pt": "mkdir",
        "module.pt": "only an unsafe load would read",
        "other.pt": "does not fit the model: it lacks: queries, tokens.weight",
        "shape.pt": "queries (1, 6, 4) in the checkpoint, (1, 5, 4) in the model",
        "both.pt": "it lacks: lstm.weight_hh_l0; other shapes: queries (1, 6, 4) in the checkpoint",
        "nan.pt": "'queries' holds values that are not finite",
        "list.pt": "holds no state dict",
        "folder": "is a directory",
        "sharded": "dcp_to_torch",
    }


def test_a_bad_file_gets_one_line_and_nothing_of_it_runs(net: Net, tmp_path: Path) -> None:
    for name, said in bad_files(tmp_path).items():
        with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
            InitRecipe.from_checkpoint(tmp_path / name, net)
        assert said in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
    assert not Path("executed").exists()


def test_a_missing_file_is_named(net: Net) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.ckpt"):
        InitRecipe.from_checkpoint("nowhere.ckpt", net)


def test_a_link_is_followed_and_one_that_leads_nowhere_is_named(net: Net, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "run.ckpt")
    for name, target in {"last": "run.ckpt", "gone": "nowhere", "loop": "loop"}.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    expected = variances(InitRecipe.from_module(net))
    found = InitRecipe.from_checkpoint(tmp_path / "last", Net())
    assert variances(found) == pytest.approx(expected, rel=1e-12)
    for name in ("gone", "loop"):
        with pytest.raises(OSError, match=f"^[^\n]*{name}'$"):
            InitRecipe.from_checkpoint(tmp_path / name, net)


def test_weights_that_the_model_has_no_place_for_are_listed(tmp_path: Path) -> None:
    deep = nn.Sequential(*[nn.Linear(3, 3) for _ in range(4)])
    torch.save({f"model.{k}": v for k, v in deep.state_dict().items()}, tmp_path / "deep.pt")
    with pytest.warns(UserWarning, match=r"not read: model\.2\.weight, model\.3\.weight\.$"):
        InitRecipe.from_checkpoint(tmp_path / "deep.pt", deep[:2])


class Holder(nn.Module):
    """Keeps a network as a LightningModule does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network


@pytest.mark.parametrize(
    ("measured", "drawn"),
    [
        (nn.Module, Holder),
        (Holder, nn.Module),
        pytest.param(torch.compile, Holder, marks=pytest.mark.slow),
        pytest.param(Holder, torch.compile, marks=pytest.mark.slow),
    ],
    ids=["bare to held", "held to bare", "compiled to held", "held to compiled"],
)
def test_a_recipe_finds_its_layers_behind_a_wrapper(measured: Any, drawn: Any, net: Net) -> None:
    def wrapped(wrap: Any, network: nn.Module) -> nn.Module:
        return network if wrap is nn.Module else wrap(network)

    recipe = InitRecipe.from_module(wrapped(measured, net))
    model = Net()
    names = recipe.apply(wrapped(drawn, model), seed=1)
    assert len(names) == len(recipe.layers)
    assert not torch.equal(model.queries, net.queries)


def test_the_recipe_is_drawn_and_the_padding_row_stays_zero(net: Net) -> None:
    recipe = InitRecipe.from_module(net)
    other = Net()
    drawn = recipe.apply(other, seed=5)
    assert "tokens" in drawn
    assert other.head.weight is other.tokens.weight
    assert not other.tokens.weight[2].any()
    assert other.tokens.weight[1].all()
    assert not torch.equal(other.queries, net.queries)


def test_structure_is_no_draw() -> None:
    class StateSpace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_rates = nn.Parameter(torch.arange(1.0, 5.0).log().repeat(8, 1))
            self.positive = nn.Parameter(1 + 0.1 * torch.randn(8, 4))
            self.token = nn.Parameter(torch.randn(1, 1, 8))

    recipe = InitRecipe.from_module(StateSpace())
    assert recipe.layers == ()
    assert recipe.left_out == ("log_rates", "positive", "token")
