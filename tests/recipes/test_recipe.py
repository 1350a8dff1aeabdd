from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_init.inspection.weights import LeftOut
from lightning_init.recipes import recipe_format
from lightning_init.recipes.recipe import InitRecipe
from lightning_init.recipes.recipe_format import RecipeLayer
from lightning_init.reporting.records import LayerReport
from lightning_init.reporting.report import InitReport

FIELDS = [one.name for kind in (recipe_format._Recipe, RecipeLayer) for one in fields(kind)]


class Net(nn.Module):
    """Three dense layers named as in the report of conftest.py, and an embedding."""

    def __init__(self, width: int = 64, depth: int = 1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 64)
        hidden = [nn.Linear(width, width) for _ in range(depth)]
        self.net = nn.Sequential(nn.Linear(32, width), nn.ReLU(), *hidden)
        self.head = nn.Linear(width, 10)


@pytest.fixture
def recipe(report: InitReport) -> InitRecipe:
    return InitRecipe.from_report(report, optimizers=[("SGD", 0.1), ("SGD", 0.01)])


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# --- what a recipe holds


def test_a_recipe_keeps_what_the_report_found(recipe: InitRecipe) -> None:
    first, _, head = recipe.layers
    assert first == RecipeLayer(
        "net.0", (64, 32), 32, math.sqrt(0.03) ** 2, "redrawn", "stationary", 0.03, 0.002
    )
    assert (head.action, head.verdict) == ("kept", "invalid")
    assert (head.variance, head.standard_error) == (None, None)
    assert recipe.left_out == ("embedding",)
    assert recipe.optimizers == (("SGD", 0.1), ("SGD", 0.01))
    assert dict(recipe.settings) == {"exclude": ("*.norm",), "limit": None, "max_probe_steps": 1000}
    assert dict(recipe.library_versions)["torch"] == torch.__version__.split("+")[0] or (
        dict(recipe.library_versions)["torch"] == torch.__version__
    )


def test_settings_of_any_kind_can_be_kept(report: InitReport) -> None:
    odd = (("a", {"x": 1}), ("b", "long" * 1000), ("c", torch.float32), ("d", [[[[[1]]]]]))
    recipe = InitRecipe.from_report(replace(report, settings=odd))
    kept = dict(recipe.settings)
    assert kept["a"] == "{'x': 1}"
    assert len(kept["b"]) == 1000
    assert kept["c"] == "torch.float32"
    assert InitRecipe.from_json(recipe.to_json()) == recipe


def test_a_recipe_survives_the_file(recipe: InitRecipe, tmp_path: Path) -> None:
    path = tmp_path / "new" / "init_recipe.json"
    recipe.save(path)
    assert InitRecipe.load(path) == recipe
    assert InitRecipe.load(str(path)) == recipe


positive = st.floats(1e-20, 1e10)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(positive, positive, st.floats(0, 1)), min_size=1, max_size=4),
    st.floats(0, 1e3),
)
def test_numbers_survive_bit_for_bit(numbers: list[tuple[float, float, float]], lr: float) -> None:
    layers = tuple(
        RecipeLayer(f"net.{i}", (i + 1, 4), 4, sigma, "redrawn", "stationary", v, error)
        for i, (sigma, v, error) in enumerate(numbers)
    )
    recipe = InitRecipe(layers, optimizers=(("Adam", lr),))
    assert InitRecipe.from_json(recipe.to_json()) == recipe


def test_the_file_is_pretty_sorted_and_stable(recipe: InitRecipe) -> None:
    text = recipe.to_json()
    content = json.loads(text)
    assert content["format_version"] == 1
    assert text == json.dumps(content, indent=2, sort_keys=True) + "\n"
    assert InitRecipe.from_json(text).to_json() == text


def test_the_fingerprint_depends_on_names_and_shapes_only(recipe: InitRecipe) -> None:
    def changed(**changes: Any) -> str:
        return InitRecipe((replace(recipe.layers[0], **changes), *recipe.layers[1:])).fingerprint

    assert changed(sigma0_squared=1.0, verdict="drifting") == recipe.fingerprint
    assert len({recipe.fingerprint, changed(name="net.1"), changed(shape=(32, 64))}) == 3


# --- saving


def test_saving_replaces_at_once_and_leaves_nothing_behind(
    recipe: InitRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "init_recipe.json"
    path.write_text("old")

    def crash(source: object, target: object) -> None:
        raise OSError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="disk"):
            recipe.save(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    recipe.save(path)
    assert InitRecipe.load(path) == recipe
    assert list(tmp_path.iterdir()) == [path]


def test_saving_follows_a_symbolic_link(recipe: InitRecipe, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link, target = tmp_path / "link.json", tmp_path / "real" / "recipe.json"
    link.symlink_to(target)
    recipe.save(link)
    assert link.is_symlink()
    assert InitRecipe.load(target) == InitRecipe.load(link) == recipe


def test_what_cannot_be_read_again_is_not_written(report: InitReport, layer: LayerReport) -> None:
    broken = replace(report, layers=(replace(layer, sigma0=math.nan),))
    with pytest.raises(ValueError, match=r"`layers\[0\].sigma0_squared` must be a finite number"):
        InitRecipe.from_report(broken)


# --- applying


def test_apply_draws_the_redrawn_layers_and_nothing_else(recipe: InitRecipe) -> None:
    model = Net()
    before = state(model)
    assert recipe.apply(model, seed=3) == ["net.0", "net.2"]
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"net.0.weight", "net.2.weight"}
    for name, variance in (("net.0.weight", 0.03), ("net.2.weight", 0.0201)):
        weights = after[name].double()
        # The sample variance of n normals has relative standard error sqrt(2 / n).
        assert abs(weights.var() / variance - 1) < 4 * math.sqrt(2 / weights.numel())


def test_apply_depends_on_the_seed_only(recipe: InitRecipe) -> None:
    first, second, third = Net(), Net(), Net()
    torch.manual_seed(1)
    recipe.apply(first, seed=3)
    torch.manual_seed(2)
    generator = torch.get_rng_state()
    recipe.apply(second, seed=3)
    assert torch.equal(torch.get_rng_state(), generator)
    recipe.apply(third, seed=4)
    assert torch.equal(first.net[0].weight, second.net[0].weight)
    assert not torch.equal(first.net[0].weight, third.net[0].weight)


def test_by_width_keeps_variance_times_fan_in(recipe: InitRecipe) -> None:
    model = Net(width=256)
    recipe.apply(model, seed=0, by_width=True)
    # net.0 has the fan-in of before (32); that of net.2 went from 64 to 256.
    for weights, variance in ((model.net[0].weight, 0.03), (model.net[2].weight, 0.0201 / 4)):
        tolerance = 4 * math.sqrt(2 / weights.numel())
        assert abs(weights.double().var() / variance - 1) < tolerance


MISFITS: dict[str, tuple[Callable[[], nn.Module], bool, str]] = {
    "wider": (
        lambda: Net(width=128),
        False,
        "other shapes (`by_width=True` transfers to another width): net.0 (64, 32) in the recipe, "
        "(128, 32) in the model, net.2",
    ),
    "deeper": (lambda: Net(depth=3), True, "the recipe lacks: net.3, net.4."),
    "shallower": (lambda: Net(depth=0), True, "the model lacks: net.2."),
    "frozen": (
        lambda: Net().requires_grad_(False),
        True,
        "the model lacks: net.0 (left out: frozen (requires_grad=False))",
    ),
    "other": (
        lambda: nn.Linear(2, 2),
        False,
        "the model lacks: net.0, net.2, head; the recipe lacks: weight.",
    ),
}


@pytest.mark.parametrize(("make", "by_width", "message"), MISFITS.values(), ids=MISFITS)
def test_a_model_that_does_not_fit_is_refused_untouched(
    recipe: InitRecipe, make: Callable[[], nn.Module], by_width: bool, message: str
) -> None:
    model = make()
    before = state(model)
    with pytest.raises(ValueError, match="the recipe does not fit") as caught:
        recipe.apply(model, by_width=by_width)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_weight_that_the_probe_left_out_may_take_part_now(recipe: InitRecipe) -> None:
    known = replace(recipe, layers=recipe.layers[:2], left_out=("embedding", "head"))
    assert known.apply(Net()) == ["net.0", "net.2"]
    with pytest.raises(ValueError, match="the recipe lacks: head"):
        replace(known, left_out=("embedding",)).apply(Net())


def test_many_misfits_are_named_in_one_short_line(report: InitReport) -> None:
    layers = tuple(replace(report.layers[0], name=f"other.{i}") for i in range(300))
    with pytest.raises(ValueError, match=r"other.4, and 295 more; .*: net.0, net.2, head\.$"):
        InitRecipe.from_report(replace(report, layers=layers)).apply(Net())


# --- hostile files


def edited(path: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return an edit that sets one field, given as a path such as `layers.0.name`."""

    def edit(content: dict[str, Any]) -> dict[str, Any]:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        target: Any = content
        for part in parents:
            target = target[part]
        target[last] = value
        return content

    return edit


def without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: {key: value for key, value in content.items() if key != name}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE_CONTENT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown version": (edited("format_version", 2), "`format_version` must be 1; probe again"),
    "version is true": (edited("format_version", True), "`format_version` must be 1"),
    "no version": (without("format_version"), "has no field 'format_version'"),
    "no layers": (without("layers"), "has no field 'layers'"),
    "unknown field": (edited("__class__", "os.system"), "got '__class__'"),
    "not an object": (lambda content: [content], "`the recipe` must be an object, got a list"),
    "layers an object": (edited("layers", {}), "`layers` must be a list, got a dict"),
    "layer is null": (edited("layers/0", None), "`layers[0]` must be an object, got None"),
    "layer has too much": (edited("layers/0/pickle", "x"), "`layers[0]` must be an object of"),
    "name a number": (edited("layers/0/name", 3), "`layers[0].name` must be a layer name"),
    "name climbs": (edited("layers/0/name", "../../etc/passwd"), "`layers[0].name`"),
    "name absolute": (edited("layers/0/name", "/etc/passwd"), "`layers[0].name`"),
    "name two lines": (edited("layers/0/name", "a\nb"), "`layers[0].name`"),
    "name ends in newline": (edited("layers/0/name", "net.0\n"), "`layers[0].name`"),
    "name empty": (edited("layers/0/name", ""), "`layers[0].name`"),
    "name endless": (edited("layers/0/name", "a" * 10**6), "`layers[0].name`"),
    "name twice": (
        edited("layers/1/name", "net.0"),
        "`layers` must be distinct in its names, got 'net.0'",
    ),
    "name changed": (edited("layers/0/name", "net.9"), "`fingerprint` must be"),
    "shape a number": (edited("layers/0/shape", 4), "`layers[0].shape` must be a list of 1 to 8"),
    "shape empty": (edited("layers/0/shape", []), "`layers[0].shape`"),
    "shape long": (edited("layers/0/shape", [1] * 9), "`layers[0].shape`"),
    "shape negative": (edited("layers/0/shape", [64, -32]), "`layers[0].shape[1]`"),
    "shape a float": (edited("layers/0/shape", [64.0, 32]), "`layers[0].shape[0]`"),
    "fan-in zero": (edited("layers/0/fan_in", 0), "`layers[0].fan_in` must be a whole number"),
    "fan-in true": (edited("layers/0/fan_in", True), "`layers[0].fan_in`"),
    "fan-in huge": (edited("layers/0/fan_in", 10**400), "`layers[0].fan_in`"),
    "variance negative": (edited("layers/0/sigma0_squared", -1.0), "`layers[0].sigma0_squared`"),
    "variance zero": (edited("layers/0/sigma0_squared", 0), "`layers[0].sigma0_squared`"),
    "variance overflows": (edited("layers/0/sigma0_squared", 1e300), "`layers[0].sigma0_squared`"),
    "variance text": (edited("layers/0/sigma0_squared", "0.1"), "`layers[0].sigma0_squared`"),
    "variance null": (edited("layers/0/sigma0_squared", None), "`layers[0].sigma0_squared`"),
    "variance true": (edited("layers/0/sigma0_squared", True), "`layers[0].sigma0_squared`"),
    "V negative": (edited("layers/0/variance", -0.1), "`layers[0].variance` must be a finite"),
    "V huge": (edited("layers/0/variance", 10**400), "`layers[0].variance`"),
    "s.e. a list": (edited("layers/0/standard_error", [1]), "`layers[0].standard_error`"),
    "unknown verdict": (edited("layers/0/verdict", "great"), "`layers[0].verdict` must be one of"),
    "verdict a list": (edited("layers/0/verdict", ["stationary"]), "`layers[0].verdict`"),
    "unknown action": (edited("layers/0/action", "delete"), "`layers[0].action` must be one of"),
    "left out numbers": (edited("left_out", [1]), "`left_out[0]` must be text"),
    "settings a list": (edited("settings", []), "`settings` must be an object, got a list"),
    "setting an object": (edited("settings/x", {"y": 1}), "`settings.x` must be text, a number"),
    "setting deep": (edited("settings/x", nested(10)), "`settings.x[0][0][0]` must be text"),
    "setting very deep": (edited("settings/x", nested(400)), "`settings.x[0][0][0]` must be text"),
    "optimizer a text": (edited("optimizers", ["SGD"]), "`optimizers[0]` must be an object"),
    "rate negative": (edited("optimizers/0/learning_rate", -1), "`optimizers[0].learning_rate`"),
    "versions numbers": (edited("library_versions", {"torch": 2}), "`library_versions.torch`"),
    "no fingerprint": (edited("fingerprint", None), "`fingerprint` must be"),
}


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        InitRecipe.load(path)
    message = str(caught.value)
    assert type(caught.value) is ValueError
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return message


@pytest.mark.parametrize(("edit", "message"), HOSTILE_CONTENT.values(), ids=HOSTILE_CONTENT)
def test_hostile_content_is_refused_with_file_and_field(
    recipe: InitRecipe, tmp_path: Path, edit: Callable[[Any], Any], message: str
) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(edit(json.loads(recipe.to_json()))))
    assert message in refused(path)


HOSTILE_BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not JSON"),
    "not JSON": (b"import os; os.system('true')", "is not JSON"),
    "pickle": (b"\x80\x04\x95\x10", "is not UTF-8"),
    "UTF-16": ("{}".encode("utf-16"), "is not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf{}", "is not JSON"),
    "NaN": (b'{"layers": NaN}', "it holds NaN"),
    "Infinity": (b'{"layers": [-Infinity]}', "it holds -Infinity"),
    "float that overflows": (b'{"format_version": 1e999}', "`format_version` must be 1"),
    "endless digits": (b'{"format_version": ' + b"9" * 10_000 + b"}", "digits"),
    "key twice": (b'{"layers": [], "layers": []}', "`an object` must be distinct in its keys"),
    "deep lists": (b"[" * 100_000, "nested too deeply"),
    "deep objects": (b'{"a":' * 100_000, "nested too deeply"),
    "two documents": (b"{} {}", "is not JSON: Extra data"),
    "text": (b'"recipe"', "`the recipe` must be an object"),
    "larger than 16 MB": (b" " * (16 * 2**20 + 1), "is larger than 16 MB"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE_BYTES.values(), ids=HOSTILE_BYTES)
def test_hostile_bytes_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(content)
    assert message in refused(path)


def test_a_folder_or_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    assert "is not a regular file" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refused(tmp_path / "pipe")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing.json"):
        InitRecipe.load(tmp_path / "missing.json")


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner),
        max_leaves=12,
    )
)
def test_whatever_the_content_only_a_value_error_comes_out(content: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        recipe_format.parse(content)


def test_a_left_out_weight_may_have_any_name(report: InitReport) -> None:
    odd = replace(report, left_out=(LeftOut("odd name [0]", (), "lazy"),))
    recipe = InitRecipe.from_report(odd)
    assert InitRecipe.from_json(recipe.to_json()).left_out == ("odd name [0]",)
