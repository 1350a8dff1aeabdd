from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lightning_init.inspection.parameter_walk import (
    module_at,
    own_parameters,
    parameters_below,
    tensor_at,
)


class Renaming(nn.Linear):
    """Shows its parameters under other names, as some sharding wrappers do."""

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield f"shown_{name}", parameter


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    model.register_parameter("again", model[0].weight)
    model.register_parameter("nothing", None)
    return model


MODELS: list[Callable[[], nn.Module]] = [
    tied,
    lambda: Renaming(3, 2),
    lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)), nn.PReLU()),
    lambda: torch.nn.DataParallel(nn.Sequential(nn.Conv1d(2, 2, 1))),
    lambda: nn.LSTM(3, 2, num_layers=2),
    lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))),
]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("make", MODELS)
def test_the_tables_say_what_the_methods_of_modules_say(make: Callable[[], nn.Module]) -> None:
    model = make()
    for name, module in model.named_modules(remove_duplicate=False):
        assert module_at(model, name) is module
        said = list(module.named_parameters(recurse=False, remove_duplicate=False))
        found = own_parameters(module)
        assert [(n, id(p)) for n, p in found] == [(n, id(p)) for n, p in said]
        assert {id(p) for p in parameters_below(module)} == {id(p) for p in module.parameters()}


def test_a_computed_tensor_is_computed_and_a_missing_module_named() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)))
    assert torch.equal(tensor_at(model[0], "weight"), model[0].weight)
    assert tensor_at(model[0], "bias") is model[0].bias
    with pytest.raises(AttributeError, match="7"):
        module_at(model, "7")
