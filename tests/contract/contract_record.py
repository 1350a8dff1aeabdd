"""What a run leaves behind, as plain values that can be compared bit for bit across processes."""

from __future__ import annotations

import csv
import hashlib
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer import call
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchmetrics import Metric

Record = dict[str, Any]

# Ours, and the stand-ins of the reference run: present in one of the two runs only.
OURS = (
    "OptimalVarianceInit",
    "FractionalMomentInit",
    "SetWeights",
    "KeepRedraw",
    "Recorder",
    "Fails",
)

# What the watch of the real run, and the probe before it, leave on disk.
OUR_FILES = ("init_recipe.json", "run_variance.csv")
OUR_TAGS = "OptimalVarianceInit/"

# Wall-clock times, and identities of objects.
_VOLATILE = {
    "time_elapsed",
    "_last_val_time",
    "_train_start_time",
    "_time_elapsed",
    "_metric_attributes",
    "_torchdynamo_wrapper_id",
    "_trainer",
    "_fabric",
}
_MODULE_MACHINERY = set(vars(nn.Module())) - {"training"}


def plain(value: Any, depth: int = 8) -> Any:
    """``value`` as nested dicts, lists, numbers and digests of tensors."""
    if isinstance(value, Tensor):
        return _digest(value)
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.shape, hashlib.sha1(value.tobytes()).hexdigest())
    if value is None or isinstance(value, (bool, int, str, bytes)):
        root = str(Path.cwd())
        return value.replace(root, "<root>") if isinstance(value, str) else value
    if isinstance(value, float):
        return value.hex()
    if depth == 0:
        return type(value).__name__
    if isinstance(value, dict):
        return {
            str(plain(key)): plain(item, depth - 1)
            for key, item in value.items()
            if str(key) not in _VOLATILE and not str(key).startswith(OURS)
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [plain(item, depth - 1) for item in value]
        return sorted(items, key=str) if isinstance(value, (set, frozenset)) else items
    if isinstance(value, torch.Generator):
        return _digest(value.get_state())
    return type(value).__name__


def _digest(tensor: Tensor) -> Any:
    data = tensor.detach().cpu().contiguous()
    raw = data.reshape(-1).view(torch.uint8).numpy().tobytes() if data.numel() else b""
    shown = data.item() if data.numel() == 1 else round(float(data.double().sum()), 6)
    return (str(data.dtype), tuple(data.shape), shown, hashlib.sha1(raw).hexdigest())


def random_state() -> Record:
    """The global random streams."""
    return {
        "torch": plain(torch.get_rng_state()),
        "numpy": plain(list(np.random.get_state())),
        "python": plain(random.getstate()),
    }


def attributes(module: nn.Module) -> Record:
    """Python attributes of a module and of everything below it, metric states included."""
    return {
        name: {
            key: plain(value)
            for key, value in vars(submodule).items()
            if key not in _MODULE_MACHINERY | _VOLATILE and not callable(value)
        }
        | ({"metric": plain(submodule.metric_state)} if isinstance(submodule, Metric) else {})
        for name, submodule in module.named_modules()
    }


class Recorder(Callback):
    """Writes down every batch of the real run; a probe that calls it would show at once."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.marks: list[Any] = []

    def _mark(self, name: str, trainer: Trainer, module: LightningModule) -> None:
        weights = [plain(p) for p in module.parameters()]
        self.marks.append((name, weights, random_state(), trainer.global_step))

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("sanity", trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("start", trainer, pl_module)
        self.marks.append(plain(trainer.callback_metrics))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("epoch", trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        rates = [plain(g["lr"]) for o in trainer.optimizers for g in o.param_groups]
        position = (trainer.global_step, trainer.current_epoch, batch_idx)
        self.batches.append(("train", position, plain(outputs), plain(batch), rates))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        kind = "sanity" if trainer.sanity_checking else "val"
        position = (trainer.global_step, dataloader_idx, batch_idx)
        self.batches.append((kind, position, plain(outputs), plain(batch)))


class HookTrace:
    """The sequence of hooks that Lightning calls for the user's own module."""

    def __init__(self, module: LightningModule) -> None:
        self.module = module
        self.calls: list[str] = []
        for name in ("_call_callback_hooks", "_call_lightning_module_hook"):
            self._wrap(name)
        self._wrap("_call_lightning_datamodule_hook")

    def _wrap(self, name: str) -> None:
        original = getattr(call, name)

        def wrapper(trainer: Trainer, hook_name: str, *args: Any, **kwargs: Any) -> Any:
            # During a probe the Trainer is connected to a copy.
            if trainer.lightning_module is self.module:
                kind = name.removeprefix("_call_").removesuffix("s")
                self.calls.append(f"{kind}.{hook_name}@{trainer.global_step}")
            return original(trainer, hook_name, *args, **kwargs)

        setattr(call, name, wrapper)


def final_record(trainer: Trainer, module: LightningModule, recorder: Recorder) -> Record:
    """Everything that a finished fit left on its objects and on disk."""
    others = [c for c in trainer.callbacks if type(c).__name__ not in OURS]
    optimizers = trainer.strategy.optimizers
    schedulers = trainer.strategy.lr_scheduler_configs
    return {
        "batches": recorder.batches,
        "marks": recorder.marks,
        "parameters": {n: plain(p) for n, p in module.named_parameters()},
        "gradients": {n: plain(p.grad) for n, p in module.named_parameters()},
        "requires_grad": {n: p.requires_grad for n, p in module.named_parameters()},
        "buffers": {n: plain(b) for n, b in module.named_buffers()},
        "attributes": attributes(module),
        "optimizers": [plain(optimizer.state_dict()) for optimizer in optimizers],
        "groups": [[list(map(str, g)) for g in o.param_groups] for o in optimizers],
        "optimizer_attributes": [sorted(vars(optimizer)) for optimizer in optimizers],
        "schedulers": [plain(config.scheduler.state_dict()) for config in schedulers],
        "loop": plain(trainer.fit_loop.state_dict()),
        "precision": plain(trainer.strategy.precision_plugin.state_dict()),
        "metrics": [
            plain(trainer.callback_metrics),
            plain(trainer.logged_metrics),
            plain(trainer.progress_bar_metrics),
        ],
        "trainer": [plain(vars(trainer), 1), str(trainer.state), trainer.max_epochs],
        "callbacks": [(type(c).__name__, plain(c.state_dict())) for c in others],
        "averages": [plain(m.state_dict()) for c in others for m in _models(c)],
        "random": random_state(),
    } | _disk()


def _models(callback: Callback) -> Iterator[nn.Module]:
    for value in vars(callback).values():
        if isinstance(value, (AveragedModel, LightningModule)):
            yield value


# ------------------------------------------------------------------------------------------- disk
def _disk() -> Record:
    root = Path.cwd()
    files = sorted(p for p in root.rglob("*") if p.is_file() and not _is_ours(p))
    return {
        "files": sorted({_file_name(path.relative_to(root)) for path in files}),
        "csv": {p.name: _rows(p) for p in files if p.name == "metrics.csv"},
        "tensorboard": [_events(p) for p in files if "tfevents" in p.name],
        "checkpoints": {
            str(p.relative_to(root)): plain(torch.load(p, weights_only=False))
            for p in files
            if p.suffix == ".ckpt"
        },
    }


def _is_ours(path: Path) -> bool:
    return "probe" in path.parts or path.name in OUR_FILES


def _file_name(path: Path) -> str:
    return re.sub(r"tfevents\..*", "tfevents", re.sub(r"pid\d+|\d{10,}", "", str(path)))


def _rows(path: Path) -> list[list[str]]:
    """A logger's table without our columns, and without the row that fills them.

    A row that held something of the user's too would be missed in the comparison.
    """
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    ours = [i for i, name in enumerate(header) if name.startswith(OUR_TAGS)]
    kept = [header, *(row for row in rows if not any(row[i] for i in ours))]
    return [[cell for i, cell in enumerate(row) if i not in ours] for row in kept]


def _events(path: Path) -> list[Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(path)).Reload()
    scalars, tensors = (
        [tag for tag in events.Tags()[kind] if not tag.startswith(OUR_TAGS)]
        for kind in ("scalars", "tensors")
    )
    return [
        [(tag, e.step, e.value) for tag in scalars for e in events.Scalars(tag)],
        [(tag, e.step, str(e.tensor_proto)) for tag in tensors for e in events.Tensors(tag)],
    ]


# ------------------------------------------------------------------------------------- comparison
def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Paths at which two records differ, with both values; empty when they are the same."""
    if isinstance(left, dict) and isinstance(right, dict):
        found = [f"{path}: only in one run: {k}" for k in left.keys() ^ right.keys()]
        for key in left.keys() & right.keys():
            found += differences(left[key], right[key], f"{path}/{key}")
        return found
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        found = [] if len(left) == len(right) else [f"{path}: length {len(left)} != {len(right)}"]
        for index, (a, b) in enumerate(zip(left, right, strict=False)):
            found += differences(a, b, f"{path}[{index}]")
        return found
    same = left == right and type(left) is type(right)
    return [] if same else [f"{path}: {str(left)[:90]} != {str(right)[:90]}"]
