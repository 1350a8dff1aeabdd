"""Every example runs on tiny data."""

from __future__ import annotations

import csv
import gzip
import math
import re
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from logged_tags import FRACTIONAL_MOMENT_TAGS, OPTIMAL_VARIANCE_TAGS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_init import InitRecipe

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def write_idx(path: Path, values: torch.Tensor, compress: bool) -> None:
    header = struct.pack(f">BBBB{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
    content = header + values.to(torch.uint8).numpy().tobytes()
    if compress:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


@pytest.fixture(params=[True, False], ids=["gzipped", "plain"])
def idx_directory(request: Any, tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for prefix, count in (("train", 256), ("t10k", 64)):
        labels = torch.randint(10, (count,), generator=generator)
        images = torch.randint(256, (count, 28, 28), generator=generator)
        images[torch.arange(count), labels] = 255  # a bright row tells the class
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte", images, request.param)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", labels, request.param)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*had not settled")
def test_quickstart_prints_both_tables_and_writes_every_documented_tag(
    examples: None, capsys: Any, tmp_path: Path
) -> None:
    import quickstart

    callback = quickstart.main(
        ["--epochs", "2", "--max-probe-steps", "100", "--log-dir", str(tmp_path)]
    )
    printed = capsys.readouterr().out
    assert "/ Kaiming" in printed
    assert "V/V before" in printed
    assert f"tensorboard --logdir {tmp_path}" in printed
    assert callback.report is not None

    run = tmp_path / "quickstart" / "version_0"
    tags: set[str] = set()
    for directory in (run, run / "probe"):
        found = EventAccumulator(str(directory)).Reload().Tags()
        tags |= {*found["scalars"], *found["images"], *found["tensors"]}
    for pattern, _ in OPTIMAL_VARIANCE_TAGS + FRACTIONAL_MOMENT_TAGS:
        expression = re.sub(r"<\w+>", ".+", re.escape(pattern).replace(r"\<", "<"))
        assert any(re.fullmatch(expression, tag) for tag in tags), pattern


@pytest.mark.filterwarnings("ignore:.*had not settled")
@pytest.mark.parametrize("init", ["default", "he", "fractional", "optimal"])
def test_fashion_mnist(examples: None, idx_directory: Path, init: str, capsys: Any) -> None:
    import fashion_mnist

    flags = ["--data-dir", str(idx_directory), "--init", init, "--epochs", "2"]
    result = fashion_mnist.main([*flags, "--batch-size", "32", "--max-probe-steps", "10"])
    assert 0 <= result["test_accuracy"] <= 1
    assert "final training loss" in capsys.readouterr().out


def test_fashion_mnist_says_how_to_get_the_data(examples: None, tmp_path: Path) -> None:
    import fashion_mnist

    with pytest.raises(SystemExit, match="dataset-fashion-mnist"):
        fashion_mnist.main(["--data-dir", str(tmp_path)])


@pytest.mark.filterwarnings("ignore:.*had not settled")
def test_paired_comparison_reports_a_difference_with_its_error(
    examples: None, idx_directory: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import paired_fashion_mnist

    flags = ["--data-dir", str(idx_directory), "--epochs", "1", "--max-probe-steps", "5"]
    paired_fashion_mnist.main(["--seeds", "2", "--weight-decays", "0", *flags])
    assert "train_loss: " in capsys.readouterr().out
    assert paired_fashion_mnist.paired_difference([3.0, 5.0], [1.0, 1.0]) == "+3.0000 ± 1.0000"
    assert sys.modules["fashion_mnist"].DEBIAN_DIRECTORY.is_absolute()


def test_the_text_transformer_starts_from_its_own_earlier_run(
    examples: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import text_transformer

    monkeypatch.setattr(text_transformer, "WINDOW", 8)
    text = tmp_path / "text"
    text.write_text("In the beginning was the word, and the word was short. " * 40)
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--text", str(text), "--steps", "6", "--log-dir"]
    text_transformer.main([*flags, str(first)])
    file = first / "init_recipe.json"
    callback = text_transformer.main([*flags, str(second), "--recipe", str(file)])
    recipe = InitRecipe.load(file)
    assert callback.recipe == recipe
    assert recipe.optimizers == (("AdamW", 2e-3),)
    # Embeddings and matrices begin at the earlier run's variances, within five standard errors.
    header, begins = csv.reader((second / "run_variance.csv").read_text().splitlines()[:2])
    assert header[1:] == [layer.name for layer in recipe.layers]
    assert {"tokens", "positions", "blocks.layers.3.linear2", "head"} <= set(header)
    for layer, begun in zip(recipe.layers, begins[1:], strict=True):
        spread = 5 * math.sqrt(2 / math.prod(layer.shape))
        assert float(begun) == pytest.approx(layer.sigma0_squared, rel=spread), layer.name


def test_the_text_transformer_fits_a_page() -> None:
    assert len((EXAMPLES / "text_transformer.py").read_text().splitlines()) <= 120


def test_examples_are_short_and_use_the_public_api_only() -> None:
    for path in EXAMPLES.glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 170, path.name
        assert not re.search(r"from lightning_init\.", text), path.name
