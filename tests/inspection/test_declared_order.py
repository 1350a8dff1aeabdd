from __future__ import annotations

from typing import Any

import lightning
import pytest
import torch
import torchmetrics
from small_models import declared, traced
from torch import Tensor, nn

MODULES = [
    (nn.ReLU(), "relu", None),
    (nn.LeakyReLU(0.3), "leaky_relu", 0.3),
    (nn.PReLU(init=0.1), "prelu", pytest.approx(0.1)),
    (nn.PReLU(8), "prelu", (0.25,) * 8),
    (nn.RReLU(0.1, 0.2), "rrelu", (0.1, 0.2)),
    (nn.GELU(), "gelu", None),
    (nn.GELU("tanh"), "gelu_tanh", None),
    (nn.SiLU(), "silu", None),
    (nn.Mish(), "mish", None),
    (nn.ELU(0.7), "elu", 0.7),
    (nn.CELU(1.3), "celu", 1.3),
    (nn.SELU(), "selu", None),
    (nn.Softplus(2.0, 10.0), "softplus", (2.0, 10.0)),
    (nn.Tanh(), "tanh", None),
    (nn.Sigmoid(), "sigmoid", None),
    (nn.Hardtanh(-2.0, 2.0), "hardtanh", (-2.0, 2.0)),
    (nn.ReLU6(), "relu6", None),
    (nn.Hardswish(), "hardswish", None),
]


@pytest.mark.parametrize(("module", "nonlinearity", "param"), MODULES)
def test_a_module_is_read_and_traced_alike(
    module: nn.Module, nonlinearity: str, param: Any
) -> None:
    model = nn.Sequential(nn.Linear(4, 8), module, nn.Linear(8, 2))
    for found in (declared(model)["2"], traced(model, torch.zeros(3, 4))["2"]):
        assert (found.nonlinearity, found.param, found.dropout) == (nonlinearity, param, 0.0)
        assert (found.first_layer, found.marks, found.note) == (False, (), "")


def test_declared_order_looks_through_what_does_not_change_the_law() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), shared, nn.AvgPool2d(2), nn.Identity()),
        nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3), shared, nn.Dropout(0.2)),
        *(nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.LayerNorm(5)),
        nn.Linear(5, 2),
    )
    found = declared(model)
    assert found["0"].first_layer
    assert found["0"].marks == ("scale-free",)
    assert (found["5.1"].nonlinearity, found["5.1"].marks) == ("relu", ("normalized", "pooled"))
    assert (found["8"].nonlinearity, found["8"].marks) == ("relu", ())
    assert found["8"].dropout == pytest.approx(0.6)
    assert (found["11"].nonlinearity, found["11"].marks) == ("linear", ("normalized",))
    assert not found["11"].first_layer
    assert {activation.source for activation in found.values()} == {"declared"}


def test_the_largest_of_a_window_is_an_assumption_until_it_is_measured() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3))
    found = declared(model)["3"]
    assert (found.nonlinearity, found.source) == ("relu", "assumed")
    assert found.note == "the largest of a window is not measured: rule of relu used"


class Wrapped(lightning.LightningModule):
    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


class OwnForward(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sin()


class OwnReLU(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 0.4


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (nn.Linear(3, 2), ["weight"]),
        (torch.compile(chain(), backend="eager"), ["0", "2"]),
        (Wrapped(net=chain(), loss=nn.MSELoss(), r2=torchmetrics.R2Score()), ["net.0", "net.2"]),
        (Wrapped(net=Wrapped(layers=chain())), ["net.layers.0", "net.layers.2"]),
        (Wrapped(net=chain(), act=nn.ReLU()), ["net.2"]),
        (Wrapped(encoder=chain(), decoder=chain()), ["encoder.2", "decoder.2"]),
        (Wrapped(blocks=nn.ModuleList([chain(), chain()])), ["blocks.0.2", "blocks.1.2"]),
        (nn.Sequential(chain(), Wrapped(net=chain()), chain()), ["0.0", "0.2", "1.net.2", "2.2"]),
        (nn.Sequential(nn.Linear(3, 3), OwnReLU(), chain()), ["0", "2.2"]),
        (nn.Sequential(nn.Linear(3, 3), OwnForward(3, 3), chain()), ["0", "2.2"]),
        (nn.Sequential(nn.Linear(3, 3), nn.Softmax(1), chain()), ["0", "2.2"]),
        (nn.Sequential(*[nn.Linear(3, 3), nn.ReLU()] * 2), []),
    ],
)
def test_only_what_is_declared_is_decided(model: nn.Module, names: list[str]) -> None:
    assert list(declared(model)) == names


def test_a_declared_assumption_is_called_one() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(4, 2))
    found = declared(model)["3"]
    assert (found.nonlinearity, found.dropout, found.source) == ("selu", 0.0, "assumed")
    assert found.note == (
        "alpha dropout (p=0.1) is not inverted dropout and has no law here: "
        "rule of selu without it used"
    )
