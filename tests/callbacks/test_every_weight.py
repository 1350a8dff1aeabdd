"""Embeddings take part: rows are drawn, a padding row stays zero, tied weights are drawn once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from models import StateAtTrainStart, fit, weights_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import OptimalVarianceInit

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*had not settled", "ignore:.*no weight was changed"
)
ROWS, WIDTH, PADDING = 40, 8, 3


class Language(LightningModule):
    """Predicts the next token; its head is the embedding's table."""

    def __init__(self, sparse: bool = False, tied: bool = True) -> None:
        super().__init__()
        self.tokens = nn.Embedding(ROWS, WIDTH, padding_idx=PADDING, sparse=sparse)
        self.head = nn.Linear(WIDTH, ROWS, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def encoded(self, tokens: Tensor) -> Tensor:
        return self.tokens(tokens)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(self.head(self.encoded(inputs)), targets)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Bags(Language):
    """The same with the mean of four rows in front of the head."""

    def __init__(self) -> None:
        super().__init__(tied=False)
        self.tokens = nn.EmbeddingBag(ROWS, WIDTH, padding_idx=PADDING)

    def encoded(self, tokens: Tensor) -> Tensor:
        return self.tokens(torch.stack([tokens, tokens + 1, tokens + 2, tokens], 1) % ROWS)


def pairs() -> DataLoader[Any]:
    tokens = torch.randint(0, ROWS, (65,), generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(tokens[:-1], tokens[1:]), batch_size=8)


def drawn(model: LightningModule) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    """Weights before and after the redraw, and the report."""
    before, start = weights_of(model), StateAtTrainStart()
    callback = OptimalVarianceInit(10, on_unsettled="use", verbose=False, seed=3)
    fit(model, callback, start, loader=pairs())
    return before, start.weights, callback.report


@pytest.mark.usefixtures("draw_all")
@pytest.mark.parametrize(
    "made",
    [Language, lambda: Language(tied=False), lambda: Language(True, False), Bags],
    ids=["tied", "untied", "sparse gradients", "bags"],
)
def test_rows_are_drawn_and_the_padding_row_stays_zero(made: Any) -> None:
    model = made()
    with torch.no_grad():
        model.tokens.weight[PADDING] = 0  # which tying keeps anyway, and a bag does itself
    before, after, report = drawn(model)
    table = after["tokens.weight"]
    assert bool((table[PADDING] == 0).all())
    others = torch.arange(ROWS) != PADDING
    assert bool((table[others] != before["tokens.weight"][others]).all())
    layers = {layer.name: layer for layer in report.layers}
    tied = made is Language
    assert set(layers) == ({"tokens"} if tied else {"tokens", "head"})
    assert torch.equal(after["head.weight"], table) == tied
    # 312 numbers: their variance is that of the draw within five standard errors.
    variance = table[others].double().square().mean().item()
    assert variance == pytest.approx(layers["tokens"].sigma0 ** 2, rel=5 * (2 / 312) ** 0.5)


@pytest.mark.usefixtures("draw_all")
def test_a_tied_weight_is_one_weight_afterwards() -> None:
    model = Language()
    _, _, report = drawn(model)
    assert model.head.weight is model.tokens.weight
    assert [layer.name for layer in report.layers] == ["tokens"]


@pytest.mark.usefixtures("draw_all")
def test_a_shared_gain_says_which_layers_it_cannot_serve() -> None:
    callback = OptimalVarianceInit(10, on_unsettled="use", granularity="gain", verbose=False)
    fit(Language(tied=False), callback, loader=pairs())
    notes = {layer.name: layer.note for layer in callback.report.layers}
    assert "no fan-in: a variance of its own, not the gain" in notes["tokens"]
    assert "no fan-in" not in notes["head"]
    assert "no fan-in: a variance of its own" in callback.report.table()
