"""`fractional_moment_init_` on whole models in plain torch: what it draws, says and refuses."""

from __future__ import annotations

import inspect
import math
import random
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_init import (
    FractionalMomentInit,
    fractional_moment_init_,
    fractional_moment_std,
)
from lightning_init.initialization.settings import FractionalMomentSettings
from lightning_init.inspection.weights import effective_weight


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 300), nn.ReLU(), nn.Linear(300, 8))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(16, 300), nn.Linear(300, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu())


def stds(model: nn.Module, **arguments: Any) -> dict[str, float]:
    plan = fractional_moment_init_(model, **arguments)
    return {row.weight.name: row.std for row in plan.rows}


def assert_drawn(model: nn.Module, plan: Any) -> None:
    """Every effective weight has the planned std, within 4 standard errors of a sample's."""
    for row in plan.rows:
        values = effective_weight(model, row.weight).double()
        error = 4 * math.sqrt(2 / values.numel())
        assert values.var().item() == pytest.approx(row.std**2, rel=error), row.weight.name


class TestDraw:
    def test_sequential_needs_no_example(self) -> None:
        model = mlp()
        plan = fractional_moment_init_(model, order=0.5, seed=3)
        assert [row.std for row in plan.rows] == [
            fractional_moment_std(16, 0.5, "linear"),
            fractional_moment_std(300, 0.5, "relu"),
        ]
        assert_drawn(model, plan)
        assert not model[0].bias.any()

    def test_a_functional_model_is_traced_on_the_example(self) -> None:
        model = Functional()
        plan = fractional_moment_init_(model, example_input=torch.randn(4, 16))
        assert [row.activation.source for row in plan.rows] == ["traced", "traced"]
        assert plan.rows[1].std == fractional_moment_std(300, 1.0, "relu")
        assert [one.name for one in plan.log_norms] == ["first", "head"]

    def test_kaiming_is_order_two_with_the_first_layer_by_habit(self) -> None:
        found = stds(mlp(), order=2.0, first_layer="activation")
        expected = {"0": math.sqrt(2 / 16), "2": math.sqrt(2 / 300)}
        assert found == pytest.approx(expected, rel=1e-15)

    def test_a_named_nonlinearity(self) -> None:
        found = stds(Functional(), nonlinearity="leaky_relu", param=0.3, dropout=0.2)
        assert found["first"] == fractional_moment_std(16, 1.0, "linear")
        assert found["head"] == fractional_moment_std(300, 1.0, "leaky_relu", 0.3, 0.2)

    def test_dry_run_prints_the_plan_and_changes_nothing(self, capsys: Any) -> None:
        model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
        weight = model[2].weight.detach().clone()
        plan = fractional_moment_init_(model, example_input=torch.randn(2, 5), dry_run=True)
        assert capsys.readouterr().out == f"{plan}\n"
        assert torch.equal(weight, model[2].weight)
        assert isinstance(model[0], nn.LazyLinear)

    def test_global_random_states_are_not_touched(self) -> None:
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        model = nn.Sequential(nn.Dropout(), Functional())
        states = torch.get_rng_state(), *states[1:]
        fractional_moment_init_(model, example_input=torch.ones(2, 16))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.random.get_state()[1].tolist() == states[1]
        assert random.getstate() == states[2]

    def test_the_seed_and_the_names_decide(self) -> None:
        one, other, third = mlp(), mlp(), mlp()
        for model, seed in ((one, 1), (other, 1), (third, 2)):
            fractional_moment_init_(model, seed=seed)
        assert torch.equal(one[2].weight, other[2].weight)
        assert not torch.equal(one[2].weight, third[2].weight)


class TestLazy:
    def model(self) -> nn.Sequential:
        return nn.Sequential(nn.LazyLinear(300), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(8))

    def test_an_example_gives_them_their_shape(self) -> None:
        model, example = self.model(), torch.randn(4, 16)
        state = torch.get_rng_state()
        plan = fractional_moment_init_(model, example_input=example)
        assert torch.equal(state, torch.get_rng_state())
        assert_drawn(model, plan)
        assert [row.weight.fan_in for row in plan.rows] == [16, 300]
        assert model.training
        assert not model[1].running_mean.any()
        assert int(model[1].num_batches_tracked) == 0

    def test_without_one_they_are_left_with_the_reason(self) -> None:
        model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 300))
        plan = fractional_moment_init_(model)
        assert [row.weight.name for row in plan.rows] == ["2"]
        assert {skipped.name for skipped in plan.left_out} == {"0", "0.bias"}
        assert "run one forward pass" in plan.left_out[0].reason

    def test_a_failing_example_leaves_them_lazy(self) -> None:
        model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(9, 3))
        with pytest.raises(ValueError, match="`example_input` could not be run"):
            fractional_moment_init_(model, example_input=torch.randn(4, 16))
        assert isinstance(model[0], nn.LazyLinear)


class TestOptions:
    def convolutions(self) -> nn.Sequential:
        first, second = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 40, 3, groups=2)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(40, 3))

    def test_conv_width_counts_channels(self) -> None:
        taps = stds(self.convolutions(), conv_width="taps")
        assert taps["2"] == fractional_moment_std(27, 1.0, "relu")
        with pytest.warns(UserWarning, match="all 3 inputs are zero"):
            channels = stds(self.convolutions(), conv_width="channels")
        with pytest.warns(UserWarning, match="all 3 inputs are zero"):
            expected = fractional_moment_std(3, 1.0, "relu") / 3
        assert channels["2"] == expected
        assert channels["5"] == fractional_moment_std(40, 1.0, "relu")

    @pytest.mark.filterwarnings("ignore:Layer")
    def test_conv_width_does_not_matter_for_the_second_moment(self) -> None:
        taps = stds(self.convolutions(), order=2.0, conv_width="taps")
        channels = stds(self.convolutions(), order=2.0, conv_width="channels")
        assert taps == pytest.approx(channels, rel=1e-15)

    def test_fan_out_follows_the_norm(self) -> None:
        found = stds(mlp(), mode="fan_out")
        assert found["0"] == fractional_moment_std(300, 1.0, "linear")
        assert found["2"] == fractional_moment_std(8, 1.0, "relu")

    def test_dead_layers_are_paid_for_and_named(self) -> None:
        model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 50))
        with pytest.warns(UserWarning, match="Layer '2': all 2 inputs .* use a wider layer, order"):
            found = stds(model)["2"]
        conditional = fractional_moment_std(2, conditional=True)
        assert found == pytest.approx(conditional / (1 - 1 / 4), rel=1e-12)

    def test_biases(self) -> None:
        model = mlp()
        before = model[0].bias.detach().clone()
        fractional_moment_init_(model, bias="keep")
        assert torch.equal(before, model[0].bias)
        fractional_moment_init_(model, bias="zero")
        assert not model[0].bias.any()

    @pytest.mark.parametrize("recurrent", ["orthogonal", "keep", "same"])
    def test_recurrent(self, recurrent: Any) -> None:
        model = nn.LSTM(20, 30)
        before = model.weight_hh_l0.detach().clone()
        plan = fractional_moment_init_(
            model, recurrent=recurrent, example_input=torch.randn(4, 2, 20)
        )
        gates = [row for row in plan.rows if row.weight.kind == "recurrent_input"]
        assert [row.weight.name.rpartition(".")[2] for row in gates] == LSTM_GATES
        assert {row.std for row in gates} == {fractional_moment_std(20, 1.0, "linear")}
        blocks = model.weight_hh_l0.detach().reshape(4, 30, 30)
        if recurrent == "orthogonal":
            eye = torch.eye(30).expand(4, 30, 30)
            torch.testing.assert_close(blocks @ blocks.mT, eye, atol=1e-5, rtol=0)
        elif recurrent == "keep":
            assert torch.equal(before, model.weight_hh_l0)
        else:
            assert_drawn(model, plan)

    def test_include_and_exclude(self) -> None:
        model = mlp()
        before = model[0].weight.detach().clone()
        plan = fractional_moment_init_(model, exclude=["0"])
        assert torch.equal(before, model[0].weight)
        assert [row.weight.name for row in plan.rows] == ["2"]
        assert [r.weight.name for r in fractional_moment_init_(model, include=["0"]).rows] == ["0"]


LSTM_GATES = ["input", "forget", "cell", "output"]


class TestKindsOfLayers:
    def test_attention_per_projection(self) -> None:
        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.packed = nn.MultiheadAttention(40, 4, batch_first=True)
                self.apart = nn.MultiheadAttention(40, 4, kdim=24, vdim=32, batch_first=True)

            def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return self.packed(x, x, x)[0] + self.apart(x, k, v)[0]

        model = Attention()
        example = torch.randn(2, 3, 40), torch.randn(2, 3, 24), torch.randn(2, 3, 32)
        plan = fractional_moment_init_(model, example_input=example)
        fans = {row.weight.name: row.weight.fan_in for row in plan.rows}
        assert fans == {
            "packed.in_proj_weight.q": 40,
            "packed.in_proj_weight.k": 40,
            "packed.in_proj_weight.v": 40,
            "packed.out_proj": 40,
            "apart.q_proj_weight": 40,
            "apart.k_proj_weight": 24,
            "apart.v_proj_weight": 32,
            "apart.out_proj": 40,
        }
        assert_drawn(model, plan)

    def test_transposed_convolution(self) -> None:
        model = nn.Sequential(nn.ConvTranspose2d(12, 20, 3, groups=2), nn.ReLU(), nn.Flatten())
        plan = fractional_moment_init_(model)
        assert plan.rows[0].std == fractional_moment_std(9 * 6, 1.0, "linear")
        assert_drawn(model, plan)

    def test_a_tied_weight_is_drawn_once(self) -> None:
        model = nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 30))
        model[2].weight = model[0].weight
        plan = fractional_moment_init_(model, nonlinearity="relu", first_layer="activation")
        assert [row.weight.name for row in plan.rows] == ["0"]
        assert model[2].weight is model[0].weight
        assert (plan.left_out[0].name, plan.left_out[0].reason) == ("2", "tied to 0")

    def test_weight_norm_gets_the_effective_std(self) -> None:
        model = nn.Sequential(
            parametrizations.weight_norm(nn.Linear(50, 60)),
            nn.ReLU(),
            parametrizations.weight_norm(nn.Linear(60, 70)),
        )
        assert_drawn(model, fractional_moment_init_(model))

    def test_frozen_embedding_and_norm_stay_with_a_reason(self) -> None:
        model = nn.Sequential(nn.Embedding(5, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 2))
        model[3].requires_grad_(False)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        plan = fractional_moment_init_(model, example_input=torch.tensor([[1, 2]]))
        reasons = {skipped.name: skipped.reason for skipped in plan.left_out}
        assert set(reasons) == {"0", "1", "1.bias", "3", "3.bias"}
        assert all(reasons.values())
        for name in ("0.weight", "1.weight", "1.bias", "3.weight", "3.bias"):
            assert torch.equal(before[name], model.state_dict()[name])


class TestWarnings:
    @pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Mish])
    def test_unstable_scales_warn_once_with_the_depth(self, activation: type[nn.Module]) -> None:
        layers = [layer for _ in range(3) for layer in (nn.Linear(64, 64), activation())]
        with pytest.warns(
            UserWarning, match=r"amplifies scale errors .* 10 % after \d+ layers"
        ) as w:
            plan = fractional_moment_init_(nn.Sequential(*layers))
        assert len(w) == 1
        assert plan.warnings == (str(w[0].message),)

    @pytest.mark.parametrize("activation", [nn.Tanh, nn.ELU, nn.SELU, nn.Softplus, nn.ReLU])
    def test_stable_ones_do_not(self, activation: type[nn.Module]) -> None:
        layers = [layer for _ in range(3) for layer in (nn.Linear(64, 64), activation())]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fractional_moment_init_(nn.Sequential(*layers))


def narrow() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 4))


def frozen() -> nn.Module:
    return mlp().requires_grad_(False)


def on_meta() -> nn.Module:
    model = mlp()
    model[2] = nn.Linear(300, 8, device="meta")
    return model


def all_lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))


# The model, the arguments, and what the one line must say.
BAD_INPUT: dict[str, tuple[Any, dict[str, Any], str]] = {
    "order_above": (mlp, {"order": 2.5}, "`order` must be in [0, 2], got 2.5"),
    "order_below": (mlp, {"order": -0.1}, "`order` must be in [0, 2], got -0.1"),
    "order_nan": (mlp, {"order": math.nan}, "`order` must be in [0, 2], got nan"),
    "unknown_name": (mlp, {"nonlinearity": "rleu"}, "did you mean 'relu'?"),
    "param_infinite": (mlp, {"nonlinearity": "prelu", "param": math.inf}, "must be finite"),
    "param_count": (mlp, {"nonlinearity": "rrelu", "param": 0.1}, "rrelu"),
    "dropout_one": (mlp, {"nonlinearity": "relu", "dropout": 1.0}, "`dropout` must be in [0, 1)"),
    "param_of_auto": (mlp, {"param": 0.1}, "belong to a named `nonlinearity`"),
    "dropout_of_auto": (mlp, {"dropout": 0.1}, "belong to a named `nonlinearity`"),
    "bias": (mlp, {"bias": "none"}, "`bias` must be one of auto, zero, keep, got 'none'."),
    "first_layer": (mlp, {"first_layer": "relu"}, "`first_layer` must be one of linear, activ"),
    "mode": (mlp, {"mode": "fan_avg"}, "`mode` must be one of fan_in, fan_out, got 'fan_avg'."),
    "conv_width": (mlp, {"conv_width": "kernel"}, "`conv_width` must be one of taps, channels"),
    "recurrent": (mlp, {"recurrent": "zero"}, "`recurrent` must be one of orthogonal, keep, same"),
    "include_matches_nothing": (mlp, {"include": ["encoder.*"]}, "'encoder.*'"),
    "exclude_matches_nothing": (mlp, {"exclude": ["encoder.*"]}, "'encoder.*'"),
    "include_is_a_string": (mlp, {"include": "0"}, "`include`"),
    "include_is_empty": (mlp, {"include": []}, "`include`"),
    "everything_excluded": (mlp, {"exclude": ["*"]}, "no weight"),
    "frozen": (frozen, {"nonlinearity": "strict"}, "frozen (requires_grad=False)"),
    "meta_device": (on_meta, {}, "'2' is on the meta device"),
    "all_lazy": (
        all_lazy,
        {"nonlinearity": "strict"},
        "run one forward pass on a sample batch first",
    ),
    "undecidable": (
        Functional,
        {"nonlinearity": "strict"},
        "activation stands in front of 'first', 'head'",
    ),
    "scale_overflows": (narrow, {"order": 1e-4}, "Layer '2': `order` 0.0001 with fan_in 1"),
    "seed": (mlp, {"seed": 0.5}, "`seed` must be an integer, got 0.5"),
}
ONLY_PLAIN: dict[str, tuple[Any, dict[str, Any], str]] = {
    "example_of_wrong_shape": (
        mlp,
        {"example_input": torch.ones(2, 3)},
        "`example_input` could not be run through Sequential: RuntimeError",
    ),
    "example_of_wrong_kind": (
        Functional,
        {"example_input": {"image": torch.ones(2, 16)}},
        "pass what its forward takes",
    ),
}


def untouched(model: nn.Module) -> Any:
    """Every tensor's values and write counter, and every module's class and mode."""
    known = [t for t in [*model.parameters(), *model.buffers()] if not lazy(t)]
    tensors = [(t, t._version, None if t.is_meta else t.detach().clone()) for t in known]
    kinds = [(type(m), m.training) for m in model.modules()]

    def check() -> None:
        for tensor, version, values in tensors:
            assert tensor._version == version
            assert values is None or torch.equal(tensor, values)
        assert kinds == [(type(m), m.training) for m in model.modules()]

    return check


def lazy(tensor: Tensor) -> bool:
    return nn.parameter.is_lazy(tensor)


@pytest.mark.parametrize("kind", [*BAD_INPUT, *ONLY_PLAIN])
def test_bad_input_is_refused_in_one_line_and_changes_nothing(kind: str) -> None:
    make, arguments, message = {**BAD_INPUT, **ONLY_PLAIN}[kind]
    model = make()
    check, state = untouched(model), torch.get_rng_state()
    with pytest.raises((ValueError, TypeError), match=re.escape(message)) as caught:
        fractional_moment_init_(model, **arguments)
    assert "\n" not in str(caught.value)
    check()
    assert torch.equal(state, torch.get_rng_state())


def test_the_settings_are_arguments_of_all_that_take_them_with_the_same_types_and_defaults() -> (
    None
):
    def arguments(of: Any) -> dict[str, tuple[Any, Any]]:
        return {
            name: (one.annotation, one.default)
            for name, one in inspect.signature(of).parameters.items()
        }

    settings = arguments(FractionalMomentSettings)
    for takes_them in (FractionalMomentInit, fractional_moment_init_):
        assert settings.items() <= arguments(takes_them).items()
        documented = re.findall(r"^    (\w+): ", takes_them.__doc__ or "", re.MULTILINE)
        assert set(arguments(takes_them)) <= set(documented)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match="`module` must be a torch.nn.Module, got Tensor"):
        fractional_moment_init_(torch.ones(3, 3))  # type: ignore[arg-type]


class Wrapped(LightningModule):
    """Trains any of the models above, in `training_step` only: nothing can be traced."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


# The callback's seed may be None; a model partly on the meta device fails in Lightning first.
BY_CALLBACK = [kind for kind in BAD_INPUT if kind not in ("seed", "meta_device", "undecidable")]


@pytest.mark.parametrize("kind", BY_CALLBACK)
def test_bad_input_is_refused_by_the_callback_too(kind: str) -> None:
    make, arguments, message = BAD_INPUT[kind]
    for name in ("include", "exclude"):
        patterns = arguments.get(name)
        if isinstance(patterns, list):
            arguments = {**arguments, name: [p if p == "*" else f"net.{p}" for p in patterns]}
    model = Wrapped(make())
    check = untouched(model)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}

    def run() -> None:
        callback = FractionalMomentInit(**{"seed": 0, **arguments})
        options = {**quiet, "max_steps": 1, "enable_model_summary": False}
        Trainer(callbacks=[callback], **options).fit(model, torch.ones(4, 2, 16))

    with pytest.raises((ValueError, TypeError, MisconfigurationException)) as caught:
        run()
    expected = message.replace("'encoder.*'", "'net.encoder.*'")
    expected = re.sub(r"'(0|2|first|head)'", r"'net.\1'", expected)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    check()


def test_a_dry_run_plans_what_has_no_values_yet() -> None:
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 4))

    with torch.device("meta"):
        model, example = block(), torch.ones(2, 16)
    planned = fractional_moment_init_(model, example_input=example, dry_run=True)
    real = fractional_moment_init_(block(), example_input=torch.ones(2, 16), dry_run=True)
    assert [(row.weight, row.activation, row.std) for row in planned.rows] == [
        (row.weight, row.activation, row.std) for row in real.rows
    ]
    assert all(parameter.is_meta for parameter in model.parameters())
