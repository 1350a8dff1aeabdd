"""Scenarios about modules that look around: Trainer, callbacks, loggers, loaders, optimizers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch
from contract_harness import probe
from contract_models import Net, SplitData, adam, loader, table, validation
from contract_registry import add
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.optim import SGD
from torch.utils.data import Dataset


# ------------------------------------------------------------------------------------- callbacks
class AsksStoppers(Net):
    """Reads the counters and paths of the callbacks that stop and save."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        saves, stops = self.trainer.checkpoint_callback, self.trainer.early_stopping_callback
        assert type(saves) is ModelCheckpoint
        assert type(stops) is EarlyStopping
        self.history.append(stops.wait_count + stops.patience + len(saves.best_model_path))
        return super().training_step(batch, batch_idx)


class ChangesStoppers(Net):
    """Writes to a callback; a probe's writes must not stay."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        stops = self.trainer.early_stopping_callback
        stops.patience += 1
        self.history.append(stops.patience)
        saves = self.trainer.checkpoint_callback
        saves.notes = [*getattr(saves, "notes", []), self.calls]
        self.history.append(len(saves.notes))


def stoppers() -> list[Callback]:
    return [EarlyStopping("val_loss", patience=9), ModelCheckpoint(".", monitor="val_loss")]


add("asks_stoppers", model=AsksStoppers, callbacks=stoppers)
add("changes_stoppers", model=ChangesStoppers, callbacks=stoppers)


class Scale(Callback):
    """Holds a number that the module multiplies with, and counts."""

    def __init__(self) -> None:
        self.scale, self.batches = 0.5, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}


class AsksScale(Net):
    """Looks for a callback by its class."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        found = next(c for c in self.trainer.callbacks if isinstance(c, Scale))
        return super().training_step(batch, batch_idx) * found.scale


add("asks_its_own_callback", model=AsksScale, callbacks=lambda: [Scale()])
add("asks_its_own_callback_before", model=AsksScale, before=lambda: [Scale()])


class Prepares(Callback):
    """Makes, before each step, what the step needs; draws random numbers meanwhile."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)
        self.made: list[float] = []

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.offset = torch.rand((), generator=self.generator)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        pl_module.factor = 1 + torch.rand((), generator=self.generator)
        self.made.append(float(pl_module.factor))

    def state_dict(self) -> dict[str, Any]:
        return {"made": list(self.made)}


class NeedsPreparation(Net):
    """Cannot be trained without its callback."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * self.factor + self.offset


add("callback_prepares_a_step", model=NeedsPreparation, callbacks=lambda: [Prepares()])
add("callback_prepares_a_step_before", model=NeedsPreparation, before=lambda: [Prepares()])


class AddsToBatch(Callback):
    """Appends a third part to every batch."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        batch.append(batch[0].sum())


class NeedsThirdPart(Net):
    """Unpacks three parts."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, third = batch
        return super().training_step((x, y), batch_idx) + 0.01 * third


add("callback_prepares_a_batch", model=NeedsThirdPart, callbacks=lambda: [AddsToBatch()])
add("callback_prepares_a_batch_before", model=NeedsThirdPart, before=lambda: [AddsToBatch()])


class BringsCallbacks(AsksStoppers):
    """Adds its callbacks itself."""

    def configure_callbacks(self) -> Any:
        return stoppers()


add("module_brings_callbacks", model=BringsCallbacks, trainer={"enable_checkpointing": True})


class AsksBar(Net):
    """Prints through the progress bar."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert isinstance(self.trainer.progress_bar_callback, TQDMProgressBar)
        self.print("step", batch_idx)
        return super().training_step(batch, batch_idx)


add(
    "asks_progress_bar",
    model=AsksBar,
    callbacks=lambda: [TQDMProgressBar()],
    trainer={"enable_progress_bar": True},
)
add("timer_far_away", trainer={"max_time": {"hours": 5}}, callbacks=lambda: [Timer("01:00:00:00")])


# --------------------------------------------------------------------------------------- loggers
class AsksLoggers(Net):
    """Writes to the experiments of two loggers, chosen by position and by class."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        board = next(one for one in self.loggers if isinstance(one, TensorBoardLogger))
        assert type(self.loggers[1]).__name__ == "CSVLogger"
        assert isinstance(self.logger.version, int)
        board.experiment.add_scalar("calls", self.calls, self.trainer.global_step)
        self.loggers[1].log_metrics({"direct": float(batch_idx)}, step=self.trainer.global_step)
        return super().training_step(batch, batch_idx)


add(
    "asks_two_loggers",
    model=AsksLoggers,
    trainer=lambda: {"logger": [TensorBoardLogger("a"), CSVLogger("b")]},
)


class AsksDirectory(Net):
    """Makes a file in the logger's directory when training starts."""

    def on_train_start(self) -> None:
        from pathlib import Path

        folder = Path(self.logger.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "notes.txt").open("a") as file:
            file.write("started\n")
        self.history.append(len((folder / "notes.txt").read_text()))


add("asks_log_directory", model=AsksDirectory, trainer=lambda: {"logger": CSVLogger(".")})


# --------------------------------------------------------------------------------------- loaders
class AsksValidation(Net):
    """Reads how much validation there is."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.trainer.enable_validation
        batches = self.trainer.num_val_batches[0]
        loaders = self.trainer.val_dataloaders
        loaders = loaders if isinstance(loaders, list) else [loaders]
        self.history.append(batches + len(loaders[0]) + self.trainer.limit_val_batches)
        return super().training_step(batch, batch_idx)


shuffled = {"shuffle": True}
add("asks_validation", model=AsksValidation, val=lambda: validation(**shuffled))
add(
    "asks_validation_without_sanity_check",
    model=AsksValidation,
    val=lambda: validation(**shuffled),
    trainer={"num_sanity_val_steps": 0},
)
add("asks_validation_of_a_list", model=AsksValidation, val=lambda: [validation(), validation()])
add(
    "asks_validation_of_a_datamodule",
    model=AsksValidation,
    train=None,
    val=None,
    datamodule=SplitData,
)


class PairOfBatches(Net):
    """Takes a batch of two loaders."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch["a"]) + self.loss(batch["b"])


add(
    "combined_loader",
    model=PairOfBatches,
    train=lambda: CombinedLoader({"a": loader(), "b": loader(batch_size=8)}, "min_size"),
)


class OwnIterator:
    """A loader that is its own iterator, and begins anew whenever it is asked for one."""

    def __init__(self) -> None:
        self.position = 0
        self.passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.position, self.passes = 0, self.passes + 1
        return self  # type: ignore[return-value]

    def __next__(self) -> Any:
        if self.position == 8:
            raise StopIteration
        self.position += 1
        x, y = table()[4 * (self.position - 1) : 4 * self.position]
        return x + 0.1 * self.passes, y


add("loader_that_is_its_own_iterator", train=OwnIterator)
add("empty_loader", train=lambda: [], redraws=False)


class Locks(Net):
    """Takes a lock before a batch and gives it back after it."""

    guard = threading.Lock()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        assert self.guard.acquire(timeout=5)

    def on_train_batch_end(self, *_: Any) -> None:
        self.guard.release()


add("lock_over_a_batch", model=Locks)


# ------------------------------------------------------------------------------------ optimizers
class GrowsByHand(Net):
    """Manual optimization that takes up another group of parameters in the second epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.second = nn.Linear(3, 3)

    def on_train_epoch_start(self) -> None:
        optimizer = self.optimizers().optimizer
        if self.current_epoch == 1 and len(optimizer.param_groups) == 1:
            optimizer.add_param_group({"params": list(self.second.parameters()), "lr": 0.01})

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(nn.functional.mse_loss(self.second(self.net(x)), y))
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return SGD(self.net.parameters(), lr=0.02, momentum=0.9)


class Grows(Net):
    """Automatic optimization that does the same."""

    def __init__(self) -> None:
        super().__init__(lambda net: SGD(net.net[0].parameters(), lr=0.02))

    def on_train_epoch_start(self) -> None:
        optimizer = self.trainer.optimizers[0]
        if self.current_epoch == 1 and len(optimizer.param_groups) == 1:
            optimizer.add_param_group({"params": list(self.net[4].parameters())})


add("group_added_by_hand", model=GrowsByHand)
add("group_added", model=Grows, ours=lambda: [probe(include=["net.0"])])


class Relative(SGD):
    """Chooses its steps itself where a group has no learning rate, as Adafactor does."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["lr"] = 0.01
        loss = super().step(closure)
        for group in self.param_groups:
            group["lr"] = None
        return loss


def without_rate(net: Net) -> Any:
    optimizer = Relative(net.parameters(), lr=0.01)
    optimizer.param_groups[0]["lr"] = None
    return optimizer


add("no_learning_rate", model=lambda: Net(without_rate))


class ByHandAccumulated(Net):
    """Accumulates gradients itself, and clips them."""

    def __init__(self) -> None:
        super().__init__(adam)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.manual_backward(loss / 2)
        if batch_idx % 2:
            self.clip_gradients(optimizer, 0.5, "norm")
            optimizer.step()
            optimizer.zero_grad()
        return {"loss": loss.detach()}


add("accumulated_by_hand", model=ByHandAccumulated)


class SavesByHand(Net):
    """Saves checkpoints itself, beside a callback that does."""

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step % 5 == 0:
            self.trainer.save_checkpoint(f"own{self.trainer.global_step}.ckpt")


add("saves_by_hand", model=SavesByHand, callbacks=lambda: [ModelCheckpoint(".")])


# ----------------------------------------------------------------------------------------- locks
class LockedPrecision(Precision):
    """Takes a lock around every optimizer step."""

    def __init__(self) -> None:
        self.lock, self.steps = threading.Lock(), 0

    def optimizer_step(self, *arguments: Any, **options: Any) -> Any:
        with self.lock:
            self.steps += 1
            return super().optimizer_step(*arguments, **options)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}


class LockedRows(Dataset[Any]):
    """Counts its calls under a lock."""

    def __init__(self) -> None:
        self.lock, self.calls = threading.Lock(), 0

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        with self.lock:
            self.calls += 1
        x, y = table()[index]
        return x + 0.01 * self.calls, y


add("precision_with_a_lock", trainer=lambda: {"plugins": [LockedPrecision()]})
add("dataset_with_a_lock", train=lambda: loader(dataset=LockedRows()))
add(
    "isolated_dataset_with_a_lock",
    train=lambda: loader(dataset=LockedRows()),
    ours=lambda: [probe(isolate_dataset=True)],
)
