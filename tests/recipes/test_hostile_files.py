"""What a recipe may not do to a model or a disk, and files that are no recipe: one line each."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

from lightning_init import OptimalVarianceInit
from lightning_init.recipes.recipe import InitRecipe
from lightning_init.recipes.recipe_format import RecipeLayer


def recipe_with(variance: float) -> InitRecipe:
    rows = [("0", 1.0), ("2", variance)]
    layers = [RecipeLayer(n, (4, 4), 4, v, "redrawn", "stationary", v, 0.1) for n, v in rows]
    return InitRecipe(tuple(layers))


@pytest.mark.parametrize(
    ("dtype", "variance"),
    [
        *((torch.float16, v) for v in (1e12, 1e-30, 1e8, 1e-10)),
    ],
)
def test_a_variance_beyond_the_number_format_is_refused(dtype: Any, variance: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).to(dtype)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"^the recipe does not fit: .*2 \(sigma0") as caught:
        recipe_with(variance).apply(model)
    assert "\n" not in str(caught.value)
    assert str(dtype).removeprefix("torch.") in str(caught.value)
    assert all(
        torch.equal(value.float(), before[name].float())
        for name, value in model.state_dict().items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("variance", [1e12, 1e-30])
def test_wide_formats_hold_the_whole_range(dtype: Any, variance: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).to(dtype)
    recipe_with(variance).apply(model)
    drawn = model[2].weight
    assert torch.isfinite(drawn).all()
    assert (drawn != 0).all()


def test_a_planted_link_beside_the_file_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import secrets

    monkeypatch.setattr(secrets, "token_hex", lambda _: "known")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".recipe.json.known.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        recipe_with(1.0).save(tmp_path / "recipe.json")
    assert victim.read_text() == "mine"


def test_the_name_of_the_temporary_file_cannot_be_foreseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    replace = __import__("os").replace

    def noted(source: Path, target: Path) -> None:
        names.append(source.name)
        replace(source, target)

    monkeypatch.setattr("lightning_init.recipes.recipe.os.replace", noted)
    for _ in range(2):
        recipe_with(1.0).save(tmp_path / "recipe.json")
    assert len(set(names)) == 2


# ------------------------------------------------------------------------- files that are none
def good() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(recipe_with(1.0).to_json())
    return content


VALUES: tuple[Any, ...] = (None, True, -1, 1.5, "x", [], [1], {}, {"a": 1}, "\u2028" * 2000)


def bad_contents() -> dict[str, bytes]:
    """By a name, the bytes of files of which none is a recipe."""
    files: dict[str, bytes] = {
        f"raw-{number}": raw
        for number, raw in enumerate([
            *(b"", b"{", b"[]", b"null", b"3", b'"text"', b"{}", b"\xff\xfe", b"\x00" * 9),
            *(b"NaN", b'{"a": Infinity}', b'{"a": 1, "a": 2}', b"[" * 100_000, b"\x80\x04K\x01."),
        ])
    }  # fmt: skip
    for field, fits in (("layers", {"[]"}), ("fingerprint", set()), ("format_version", set())):
        for number, value in enumerate(VALUES):
            if json.dumps(value) not in fits:
                files[f"{field}-{number}"] = json.dumps(good() | {field: value}).encode()
    for field in ("name", "shape", "fan_in", "sigma0_squared", "action", "verdict", "variance"):
        for number, value in enumerate(VALUES):
            content = good()
            if field in ("sigma0_squared", "variance") and value in (1.5, None, True):
                value = "large"
            if (field, value) in (("name", "x"), ("fan_in", None)):  # these fit
                continue
            content["layers"][1][field] = value
            files[f"layer-{field}-{number}"] = json.dumps(content).encode()
    for field in good():
        files[f"without-{field}"] = json.dumps(
            {k: v for k, v in good().items() if k != field}
        ).encode()
    files["more"] = json.dumps(good() | {"surplus": 1}).encode()
    return files


BAD = bad_contents()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_bytes(BAD[name])
    with pytest.raises(ValueError, match=r"recipe\.json: ") as caught:
        InitRecipe.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 80


def test_a_bad_file_changes_nothing_and_names_itself_in_a_fit(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text("{")
    module = BoringModel()
    before = module.layer.weight.detach().clone()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[OptimalVarianceInit(recipe=str(path))],
    )
    with pytest.raises(ValueError, match=r"recipe\.json: is not JSON"):
        trainer.fit(module)
    assert torch.equal(before, module.layer.weight)
