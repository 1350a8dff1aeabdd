from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import between
from torch import Tensor, nn

from lightning_init.inspection.activation_tracing import trace_model

RESIDUAL_SUM = ("linear", ("residual",))


@pytest.mark.parametrize(
    ("function", "nonlinearity", "param"),
    [
        (lambda x: x.relu(), "relu", None),
        (torch.relu_, "relu", None),
        (lambda x: F.relu(x, inplace=True), "relu", None),
        (lambda x: torch.clamp(x, min=0), "relu", None),
        (lambda x: x.clamp_min(0.0), "relu", None),
        (lambda x: F.threshold(x, 0.0, 0.0), "relu", None),
        (lambda x: x.clamp(-2, 3), "hardtanh", (-2.0, 3.0)),
        (lambda x: F.leaky_relu_(x, negative_slope=0.4), "leaky_relu", 0.4),
        (lambda x: F.leaky_relu(x), "leaky_relu", 0.01),
        (lambda x: F.rrelu(x, 0.1, 0.3, training=True), "rrelu", (0.1, 0.3)),
        (lambda x: F.rrelu(x, 0.1, 0.3), "leaky_relu", pytest.approx(0.2)),
        (lambda x: F.gelu(x, approximate="tanh"), "gelu_tanh", None),
        (lambda x: F.elu_(x, 0.5), "elu", 0.5),
        (lambda x: F.softplus(x), "softplus", (1.0, 20.0)),
        (lambda x: F.hardtanh(x, 0.0, 6.0), "relu6", None),
        (torch.sigmoid_, "sigmoid", None),
        (abs, "abs", None),
        (lambda x: x.tanh_(), "tanh", None),
        (lambda x: x.relu().view(-1).reshape(3, 8).flatten(1).T.mT.contiguous(), "relu", None),
        (lambda x: x.relu().chunk(2, 1)[0].repeat(1, 2), "relu", None),
        (lambda x: torch.einsum("bi->bi", x.relu()[..., None].squeeze(-1)) + 0, "relu", None),
        (lambda x: x.relu().relu(), "relu", None),
    ],
)
def test_every_spelling_of_an_activation_is_seen(
    function: Callable[[Tensor], Tensor], nonlinearity: str, param: Any
) -> None:
    found = between(function)
    assert (found.nonlinearity, found.param) == (nonlinearity, param)


@pytest.mark.parametrize(
    ("function", "nonlinearity", "note"),
    [
        (lambda x: x.sort(1).values, "linear", "`sort` has no known law"),
        (lambda x: 1.0 / x, "linear", "no known law"),
        (lambda x: x * torch.sigmoid(x.flip(1)), "linear", "a product of two signals"),
        (lambda x: x.relu() * torch.rand(3, 8), "relu", "(a mask?)"),
        (lambda x: torch.eye(3) @ x.relu(), "relu", "mixed by a constant matrix"),
        (lambda x: x.relu().flip(1).sort().values.tanh(), "tanh", "`sort` has no known law"),
        (lambda x: 1.7159 * x.tanh(), "tanh", "scaled by a factor that the rule does not undo"),
        (lambda x: x.relu()[x[:, 0].argsort()], "relu", "rows are chosen by another signal"),
        (
            lambda x: x.relu()[:, x[0].argsort()],
            "relu",
            "entries are chosen by another signal",
        ),
        (lambda x: x.relu().sum(0, keepdim=True), "relu", "summed over positions"),
        (lambda x: torch.from_numpy(x.detach().numpy()), "linear", "the trace cannot follow"),
        (lambda x: x.relu().zero_(), "linear", "the trace cannot follow"),
        (lambda x: F.tanh(F.dropout(x, 0.2)), "tanh", "dropout stands before tanh"),
        (lambda x: F.alpha_dropout(F.selu(x), 0.1, True), "selu", "alpha dropout (p=0.1)"),
    ],
)
def test_what_has_no_law_is_said(
    function: Callable[[Tensor], Tensor], nonlinearity: str, note: str
) -> None:
    found = between(function)
    assert found.nonlinearity == nonlinearity
    assert note in found.note
    known = "scaled" in note or "rows" in note  # what only its scale, or its order, is open of
    assert found.source == ("traced" if known else "assumed")
    assert not found.first_layer


@pytest.mark.parametrize(
    ("function", "dropout"),
    [
        (lambda x: F.dropout(x.relu(), 0.3), 0.3),
        (lambda x: F.dropout(x.relu(), p=0.3, training=False), 0.0),
        (nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Dropout(0.5)).eval(), pytest.approx(0.6)),
        (lambda x: F.dropout(x, 0.3).relu(), 0.3),
        (lambda x: F.dropout1d(x.relu()[None], 0.1)[0], 0.1),
        (lambda x: F.layer_norm(F.dropout(x.relu(), 0.3), (8,)), 0.0),
    ],
)
def test_dropout_is_seen(function: Callable[[Tensor], Tensor], dropout: float) -> None:
    assert between(function).dropout == dropout


@pytest.mark.parametrize(
    ("function", "nonlinearity", "source", "marks"),
    [
        (lambda x: x[:, :4] + x[:, 4:].tanh(), "linear", "traced", ("residual",)),
        (lambda x: (x[:, :4] + x[:, 4:].tanh()).relu(), "relu", "traced", ("residual",)),
        (lambda x: F.rms_norm(x.relu(), (8,)), "linear", "traced", ("normalized",)),
        (lambda x: torch.cat([x.relu(), x.relu()], 1), "relu", "traced", ("concatenated",)),
        (lambda x: torch.cat([x, x.relu()], 1), "linear", "assumed", ("concatenated",)),
        (
            lambda x: torch.cat([x[:, :2], x.relu(), x.tanh()[:, 2:]], 1),
            "relu",
            "assumed",
            ("concatenated",),
        ),
        (lambda x: torch.cat([x.relu(), torch.zeros(3, 8)], 1), "relu", "traced", ()),
        (lambda x: F.avg_pool1d(x.tanh(), 2), "tanh", "traced", ("pooled",)),
        (
            lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None])[0],
            "linear",
            "traced",
            ("attention",),
        ),
        (lambda x: torch.softmax(x @ x.T, 1) @ x, "linear", "traced", ("attention",)),
    ],
)
def test_branches_and_norms_are_marked(
    function: Callable[[Tensor], Tensor], nonlinearity: str, source: str, marks: tuple[str, ...]
) -> None:
    width = function(torch.zeros(3, 8)).shape[1]
    found = between(function, width)
    assert (found.nonlinearity, found.source, found.marks) == (nonlinearity, source, marks)
    # A residual sum keeps its note only while no activation follows it.
    noted = (nonlinearity, marks) in (RESIDUAL_SUM, ("linear", ("attention",)))
    assert bool(found.note) is (source == "assumed" or noted)


ROWS, ENDS = torch.tensor([0, 1, 2, 2, 1]), torch.tensor([1, 0, 0, 1, 2])


def _sent(x: Tensor) -> Tensor:
    """Sum over neighbours: row `ROWS[i]` is sent to `ENDS[i]`."""
    return torch.zeros_like(x).index_add(0, ENDS, x[ROWS])


def _attended(x: Tensor, scores: Tensor) -> Tensor:
    """Softmax over the neighbours of each node, as the graph libraries spell it."""
    shares = scores[ROWS].exp()
    into = ENDS[:, None].expand_as(shares)
    sums = torch.zeros(3, shares.shape[1]).scatter_add_(0, into, shares)
    return torch.zeros_like(x).index_add(0, ENDS, shares / sums[ENDS] * x[ROWS])


@pytest.mark.parametrize(
    ("function", "nonlinearity", "source", "note"),
    [
        (lambda x: _sent(x), "linear", "traced", "summed over neighbours"),
        (lambda x: _sent(x.relu()), "relu", "traced", "summed over neighbours"),
        (lambda x: _sent(x).relu(), "relu", "traced", "summed over neighbours"),
        (lambda x: x + _sent(x.relu()), "linear", "traced", "a sum of branches"),
        (lambda x: x.index_add(0, ENDS, x.relu()[ROWS]), "linear", "traced", "a sum of branches"),
        (
            lambda x: x.scatter_reduce(0, ENDS[:3, None].expand(3, 8), x, "amax"),
            "linear",
            "assumed",
            "the largest",
        ),
        (lambda x: _attended(x, x[:, :1]), "linear", "traced", "attention averages"),
        (lambda x: _attended(x, x[:, :1].tanh()).relu(), "relu", "traced", "attention averages"),
        # A share for every value depends on that value.
        (lambda x: _attended(x, x), "linear", "assumed", "a product of two signals"),
        (lambda x: x[:, :1].exp() * _sent(x), "linear", "assumed", "a product of two signals"),
    ],
)
def test_what_is_gathered_from_neighbours(
    function: Callable[[Tensor], Tensor], nonlinearity: str, source: str, note: str
) -> None:
    found = between(function)
    assert (found.nonlinearity, found.source) == (nonlinearity, source)
    assert note in found.note


@pytest.mark.parametrize(
    ("factor", "source"), [((3, 1), "traced"), ((3, 8), "assumed"), ((8,), "assumed")]
)
def test_a_factor_of_whole_rows_changes_the_scale_only(
    factor: tuple[int, ...], source: str
) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, by: Tensor) -> Tensor:
            out: Tensor = self.second(self.first(x).relu() * by)
            return out

    found = trace_model(Scaled(), (torch.ones(3, 4), torch.rand(factor))).activations["second"]
    assert (found.nonlinearity, found.source) == ("relu", source)


@pytest.mark.parametrize(("turned", "source"), [(False, "traced"), (True, "assumed")])
def test_the_output_of_a_weight_may_be_a_matrix(turned: bool, source: str) -> None:
    class Hypernetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.made, self.last = nn.Linear(4, 8), nn.Linear(4, 64), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            matrix = self.made(x).view(-1, 8, 8)
            entered = self.first(x)[:, None]
            out = entered @ (matrix @ matrix if turned else matrix)
            result: Tensor = self.last(out[:, 0].relu())
            return result

    found = trace_model(Hypernetwork(), torch.randn(3, 4)).activations["last"]
    assert (found.nonlinearity, found.source) == ("relu", source)


def test_an_activation_in_place_reaches_the_other_views() -> None:
    def whole(x: Tensor) -> Tensor:
        x.view(-1).relu_()
        return x

    def half(x: Tensor) -> Tensor:
        x[:, :4].relu_()
        return x

    assert between(whole).nonlinearity == "relu"
    assert between(half).source == "assumed"
    assert "branches behind linear and relu" in between(half).note
