"""The published study: every protocol file is read, and every cell of it takes a training step."""

from __future__ import annotations

import importlib.util
import math
import os
import pickle
import re
import struct
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))
import run
import study_data
import study_models
import study_tables
from study_cells import PROTOCOLS, Cell, cells, read_protocol

NAMES = sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))
CELLS = [
    pytest.param(cell, id=f"{name}-{cell.name}")
    for name in NAMES
    for cell in cells(read_protocol(name), "published")
]


def write_idx(path: Path, values: torch.Tensor) -> None:
    header = struct.pack(f">BBBB{values.dim()}I", 0, 0, 8, values.dim(), *values.shape)
    path.write_bytes(header + values.to(torch.uint8).numpy().tobytes())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up files in the formats of the real ones."""
    root = tmp_path_factory.mktemp("data")
    generator = torch.Generator().manual_seed(0)
    for name in ("mnist", "fashion_mnist"):
        (root / name).mkdir()
        for prefix, count in (("train", 256), ("t10k", 64)):
            labels = torch.randint(10, (count,), generator=generator)
            images = torch.randint(256, (count, 28, 28), generator=generator)
            images[torch.arange(count), labels] = 255  # a bright row tells the class
            write_idx(root / name / f"{prefix}-images-idx3-ubyte", images)
            write_idx(root / name / f"{prefix}-labels-idx1-ubyte", labels)
    batches = root / "cifar-10-batches-bin"
    batches.mkdir()
    for name in [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]:
        records = torch.randint(10, (20, 3073), generator=generator, dtype=torch.uint8)
        (batches / name).write_bytes(records.numpy().tobytes())
    (root / "text.txt").write_text("In the beginning was the word. " * 400)
    return root


@pytest.fixture
def data_directory(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIGHTNING_INIT_DATA", str(files))
    few_series(monkeypatch)
    return files


def few_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MNIST-1D be made of 100 series, for the whole takes seconds."""
    if importlib.util.find_spec("mnist1d") is None:
        return
    import mnist1d.data

    arguments = mnist1d.data.get_dataset_args()
    arguments.num_samples = 100
    monkeypatch.setattr(mnist1d.data, "get_dataset_args", lambda: arguments)


def tiny_trainer(**arguments: Any) -> Trainer:
    return Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **arguments,
    )


@pytest.mark.parametrize("size", ["published", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_file_says_what_is_needed(name: str, size: str) -> None:
    protocol = read_protocol(name)
    found = cells(protocol, size)
    assert found
    assert protocol["title"]
    assert protocol["claim"]
    assert set(protocol["metrics"].values()) <= {"min", "max"}
    assert run.parse(protocol["command"].split()[2:]).protocol == name
    assert len({cell.name for cell in found}) == len(found)
    for cell in found:
        assert cell.seeds >= (20 if name in "abc" else 10)
        assert cell.reference in cell.inits
        assert pickle.loads(pickle.dumps(cell.make_model())).keywords == cell.make_model().keywords
        data = cell.make_data()()
        assert data.samples % data.batch_size == 0, "a run must not end with a small batch"
        assert cell.steps == cell.trainer["max_epochs"] * data.samples / data.batch_size
        for init in cell.inits:
            probe = re.search(r"max_probe_steps=(\d+)(?![\d.])", init)  # else a share of the run
            assert init.startswith("optimal") or not probe
            assert probe is None or 0 < int(probe[1]) <= cell.steps / 3


@pytest.mark.parametrize(("names", "hours"), [("abcde", 2), ("fghijk", 4), ("lmn", 1)])
def test_the_published_size_fits_on_two_cores(names: str, hours: float) -> None:
    assert set("abcdefghijklmn") == set(NAMES)
    seconds = sum(
        cell.seconds for name in names for cell in cells(read_protocol(name), "published")
    )
    assert seconds / 2 < hours * 3600


# The runs of l are in the table of docs/probe_measured.md.
@pytest.mark.parametrize("name", sorted({*NAMES} - {"l"}))
def test_the_page_holds_what_the_published_size_runs(name: str) -> None:
    page = Path(study_tables.__file__).parents[2] / "docs" / "study_tables.md"
    (section,) = re.findall(rf"^## {name}\. .*?(?=^## \w\. |\Z)", page.read_text(), re.M | re.S)
    found = cells(read_protocol(name), "published")
    rows = re.findall(r"^\| ([^|]+) \| [^|]+, -?[\d.]+ \|", section, re.M)
    assert set(rows) == {cell.name for cell in found}
    runs, seeds = re.search(r"^(\d+) runs, ([\d-]+) seeds per scheme", section, re.M).groups()
    assert int(runs) == sum(cell.runs for cell in found)
    assert seeds == "-".join(map(str, sorted({cell.seeds for cell in found})))


def test_the_claimed_axes_are_all_in_the_full_size() -> None:
    full = {name: cells(read_protocol(name), "full") for name in NAMES}
    assert len(full["a"]) == 2 * 2 * 4 * 2
    assert {cell.model["depth"] for cell in full["c"]} == {20, 30, 50, 100}
    assert {cell.data["data"] for cell in full["d"]} == {
        "fashion_mnist",
        "cifar10",
        "mnist1d",
        "text",
    }
    assert {cell.model["optimizer"] for cell in full["e"]} == {"adamw", "momentum"}
    factors = [study_tables.factor_of(init) for init in full["b"][0].inits]
    assert min(filter(None, factors)) == 0.1
    assert max(filter(None, factors)) == 10.0


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_takes_a_training_step(cell: Cell, data_directory: Path) -> None:
    if cell.data["data"] == "mnist1d" and importlib.util.find_spec("mnist1d") is None:
        pytest.skip("the package mnist1d is not installed")
    small = {**cell.data, "samples": 32, "batch_size": 16, "validation": 8, "evaluation": 16}
    data = study_data.StudyData(**small)
    model = cell.make_model()()
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = tiny_trainer(max_epochs=1, limit_train_batches=1)
    trainer.fit(model, data)
    assert trainer.global_step == 1
    assert math.isfinite(trainer.callback_metrics["epoch_train_loss"])
    changed = [not torch.equal(value, before[name]) for name, value in model.named_parameters()]
    assert any(changed)
    metrics = {key for result in trainer.test(model, data, verbose=False) for key in result}
    assert metrics >= {"train_loss", "train_accuracy", "test_loss", "test_accuracy"}


def test_training_lowers_the_loss_and_logs_variance_ratios(data_directory: Path) -> None:
    torch.manual_seed(0)
    model = study_models.MLP([784, 32, 10], learning_rate=0.1, log_variance_ratio=True)
    data = study_data.StudyData("fashion_mnist", samples=256, batch_size=32)
    first = model.weight_variances()
    trainer = tiny_trainer(max_epochs=8)
    trainer.fit(model, data)
    in_training = trainer.callback_metrics["epoch_train_loss"].item()
    on_train, on_test = trainer.test(model, data, verbose=False)
    assert on_train["train_loss"] < 0.5 * math.log(10)
    for name, final in model.weight_variances().items():
        ratio = {**on_train, **on_test}[f"variance_ratio_{name}"]
        assert ratio == pytest.approx(final / first[name], rel=1e-5)
    # The mean over the samples of the last epoch, whose steps also lower the loss.
    assert on_train["train_loss"] < in_training < math.log(10)


def test_the_final_evaluation_is_that_of_the_trained_model(data_directory: Path) -> None:
    model = study_models.MLP([784, 16, 10])
    data = study_data.StudyData("mnist", samples=48, batch_size=16, evaluation=48)
    on_train = tiny_trainer().test(model, data, verbose=False)[0]
    images, labels = data.train.tensors
    expected = torch.nn.functional.cross_entropy(model(images), labels).item()
    assert on_train["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_pixels_are_scaled_as_asked(data_directory: Path) -> None:
    scales = {}
    for pixels in ("standard", "signed", "unit"):
        data = study_data.StudyData("mnist", samples=256, pixels=pixels)
        data.setup()
        scales[pixels] = data.train.tensors[0]
    assert scales["signed"].aminmax() == (-1.0, 1.0)
    assert scales["unit"].aminmax() == (0.0, 1.0)
    assert scales["standard"].mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scales["standard"].std().item() == pytest.approx(1.0, abs=1e-4)


def test_characters_are_followed_by_their_successors(data_directory: Path) -> None:
    data = study_data.StudyData("text", samples=10)
    data.setup()
    inputs, successors = data.train.tensors
    assert inputs.shape == (10, study_data.WINDOW)
    assert torch.equal(inputs[:, 1:], successors[:, :-1])
    letters = "".join(chr(32 + code) for code in inputs[0].tolist())
    assert letters in "In the beginning was the word. " * 4


def test_a_transformer_does_not_look_ahead() -> None:
    model = study_models.CharacterTransformer(width=16, heads=2, layers=1).eval()
    symbols = torch.randint(study_data.ALPHABET, (1, 20))
    changed = symbols.clone()
    changed[0, 10] = (symbols[0, 10] + 1) % study_data.ALPHABET
    first, second = model(symbols), model(changed)
    assert torch.allclose(first[0, :10], second[0, :10], atol=1e-6)
    assert not torch.allclose(first[0, 10], second[0, 10], atol=1e-3)


def test_mnist1d_leaves_the_global_generators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mnist1d")
    few_series(monkeypatch)
    import random

    import numpy as np

    random.seed(3)
    np.random.seed(3)
    expected = random.Random(3).random(), np.random.RandomState(3).rand()
    (inputs, labels), _ = study_data.load_mnist1d(Path("."), "standard")
    assert (random.random(), np.random.rand()) == expected
    assert inputs.shape == (80, 40)
    assert labels.shape == (80,)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_missing_files_say_how_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=re.escape(study_data.HOW_TO_GET[name])) as raised:
        study_data.StudyData(name, directory=str(tmp_path)).setup()
    assert "\n" not in str(raised.value)


def test_a_name_that_is_no_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of mnist, .*, got 'svhn'"):
        study_data.StudyData("svhn").setup()


def test_the_estimate_is_printed_and_nothing_is_run(capsys: Any, tmp_path: Path) -> None:
    run.main(["--protocol", "b", "--estimate", "--out", str(tmp_path / "results")])
    assert re.search(r"400 runs, about \d+ minutes", capsys.readouterr().out)
    assert not (tmp_path / "results").exists()


def test_seeds_outside_those_published_can_be_asked_for() -> None:
    assert run.parse(["--protocol", "b", "--seeds", "3"]).seeds == range(3)
    assert run.parse(["--protocol", "b", "--seeds", "20-21"]).seeds == range(20, 22)


def record(scheme: str, **more: Any) -> Any:
    return SimpleNamespace(**{"scheme": scheme, "budget": "full", "status": "finished", **more})


def test_the_scan_finds_where_the_variance_does_not_change() -> None:
    records = [
        record(scheme, final={"variance_ratio_net_0": r, "train_loss": loss, "test_accuracy": 0.9})
        for scheme, r, loss in (
            ("scaled_he:factor=10.0", 0.5, 0.3),
            ("he", 2.0, 0.1),
            ("scaled_he:factor=0.1", 4.0, 0.2),
            ("optimal", 9.0, 0.0),
        )
    ]
    text = study_tables.scan_table({"cell": records})
    assert "- net_0: V(W) / sigma0^2 crosses 1 at c = 3.16" in text
    assert "- best mean training loss at c = 1" in text
    assert "| 0.1 | 1/1 | 4.000 | 0.2000 | 0.9000 |" in text


def test_runs_that_fail_to_train_are_counted() -> None:
    records = [
        record("he", final={"train_accuracy": 0.1}),
        record("he", final={"train_accuracy": 0.9}),
        record("he", final={}, status="diverged"),
        record("xavier", final={"train_accuracy": 0.9}),
    ]
    text = study_tables.trainable_table({"deep": records}, 0.2)
    assert "| deep | he | 3 | 2 (67%) | 1 |" in text
    assert "| deep | xavier | 1 | 0 (0%) | 0 |" in text


@pytest.mark.filterwarnings("ignore")
def test_one_cell_is_compared(
    data_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lightning_init.compare")
    arguments = {"model": {"class": "MLP", "widths": [784, 16, 10], "log_variance_ratio": True}}
    protocol = {
        "metrics": {"train_loss": "min"},
        "reference": "he",
        "scan": "scaled_he",
        "inits": ["he", "scaled_he:factor=0.5"],
        "axes": {"network": {"tiny": {**arguments, "milliseconds_per_step": 1.0}}},
        "sizes": {
            "published": {
                "seeds": 2,
                "base": {
                    "data": {"data": "mnist", "samples": 32, "batch_size": 16},
                    "trainer": {"max_epochs": 1},
                },
            }
        },
    }
    monkeypatch.setattr(run, "read_protocol", lambda name: protocol)
    run.main(["--protocol", "b", "--out", str(tmp_path)])
    assert "| 0.5 | 2/2 |" in (tmp_path / "b" / "scan.md").read_text()
    assert any(os.scandir(tmp_path / "b" / "tiny"))


def test_lsuv_is_a_scheme_that_looks_at_the_first_batch(
    data_directory: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lsuv", reason="lsuv is not installed; the extra `peers` brings it")
    from study_peers import with_peers

    from lightning_init.compare import compare

    network = partial(study_models.MLP, [784, 8, 10])
    data = partial(study_data.StudyData, "mnist", samples=32, batch_size=16, evaluation=16)
    inits = with_peers(["he", "lsuv"])
    assert inits[0] == "he"
    settings = {"out": tmp_path, "trainer": {"max_epochs": 1}, "progress": False}
    he, lsuv = compare(network, data, inits, 1, metrics={"test_loss": "min"}, **settings).records
    assert (lsuv.scheme, lsuv.status, lsuv.reason) == ("lsuv", "finished", "")
    assert lsuv.final != he.final
