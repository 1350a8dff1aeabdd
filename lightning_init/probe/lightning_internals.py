"""Every private name of Lightning that this package touches, one accessor each.

Nothing else in the package may reach for an underscore of somebody else's (ruff ``SLF001`` holds
that line). When Lightning moves a name, the accessor says so in one sentence at the moment of use
instead of failing with an ``AttributeError`` deep in a run; importing the package never fails.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_init.probe.lightning_packages import classes, is_a, module_for
from lightning_init.probe.probe_loops import build_probe_loop

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import Strategy
    from torch import nn
    from torch.optim import Optimizer

#: The Lightning releases on which every accessor below was run by the test suite.
CHECKED_VERSIONS = ("2.6.1", "2.6.6")

#: Attributes that ``torch.compile(LightningModule)`` plants on the instance, closed over the
#: original: a copy of the module must fall back to its class's own methods.
_COMPILED_METHODS = ("forward", "training_step", "validation_step", "test_step", "predict_step")

#: Basename prefixes of the temporary checkpoints which Lightning's tuners restore on a fresh run.
_TUNER_CHECKPOINTS = (".lr_find_", ".scale_batch_size_")


class LightningInternalsError(MisconfigurationException):
    """A private name that the probe needs is gone from the installed Lightning."""


def _require(holder: object, name: str) -> Any:
    try:
        return getattr(holder, name)
    except AttributeError:
        owner = holder.__name__ if hasattr(holder, "__name__") else type(holder).__name__
        raise LightningInternalsError(
            f"lightning {lightning.__version__} has no `{owner}.{name}`, which the probe needs"
            f" (checked on {' to '.join(CHECKED_VERSIONS)}); install a checked release or apply"
            " a recipe found elsewhere: OptimalVarianceInit(recipe=...)."
        ) from None


# ---------------------------------------------------------------------------------------- loops
def probe_fit_loop(
    trainer: Trainer, instance: Any, name: str, validation: tuple[Any, str] | None = None
) -> Any:
    """A fresh fit loop with the user's own limits, drawing its batches from ``instance``.

    ``max_epochs`` and ``max_steps`` stay the user's, because user code and
    ``estimated_stepping_batches`` read them; the minima go, because a probe may stop early. The
    validation loaders come from ``validation``, when the module looks at them.
    """
    loops = module_for(trainer, "loops")
    names = ("_FitLoop", "_TrainingEpochLoop", "_EvaluationLoop")
    loop = build_probe_loop(trainer, *(_require(loops, name) for name in names))
    source = _require(loop, "_data_source")
    source.instance, source.name = instance, name
    if validation is not None:
        source = _require(loop.epoch_loop.val_loop, "_data_source")
        source.instance, source.name = validation
    return loop


def end_after_this_batch(trainer: Trainer) -> None:
    """Leave the probe's loop once every hook of the present batch has run."""
    trainer.fit_loop.epoch_loop.over = True


def validation_data_source(trainer: Trainer) -> tuple[Any, str]:
    """Where the validation loaders come from."""
    source = _require(trainer.fit_loop.epoch_loop.val_loop, "_data_source")
    return source.instance, source.name


def train_loader_has_batches(trainer: Trainer) -> bool:
    """Within a probe: whether the training loaders yielded anything to train on."""
    return bool(_require(trainer.fit_loop, "max_batches"))


def train_data_source(trainer: Trainer) -> tuple[Any, str]:
    """Where the training loaders come from: a module, a datamodule or the loaders themselves."""
    source = _require(trainer.fit_loop, "_data_source")
    return source.instance, source.name


def prepared_loader(trainer: Trainer) -> Any:
    """The combined loader that exists before the run, made by `estimated_stepping_batches`."""
    return _require(trainer.fit_loop, "_combined_loader")


def enter_training_state(
    trainer: Trainer, module: LightningModule, datamodule: Any, callbacks: list[Callback]
) -> None:
    """Give ``trainer`` fresh bookkeeping objects (the caller puts the old ones back)."""
    profilers = module_for(trainer, "profilers")
    data_connector = module_for(trainer, "trainer.connectors.data_connector")
    logger_connector = module_for(trainer, "trainer.connectors.logger_connector.logger_connector")

    connector = copy.copy(_require(trainer, "_data_connector"))
    connector._datahook_selector = _require(data_connector, "_DataHookSelector")(module, datamodule)
    vars(trainer).update(
        _data_connector=connector,
        _logger_connector=_require(logger_connector, "_LoggerConnector")(trainer),
        callbacks=callbacks,
        datamodule=datamodule,
        profiler=profilers.PassThroughProfiler(),
        state=dataclasses.replace(trainer.state),
        save_checkpoint=_save_no_checkpoint,
    )
    _require(trainer, "_logger_connector").reset_results()
    trainer.should_stop = False
    trainer.training = True


def _save_no_checkpoint(*_: Any, **__: Any) -> None:
    """A checkpoint of the probe, by a user's hook or a requeue, would pass for one of the run."""


def callbacks(trainer: Trainer) -> list[Callback]:
    """The Trainer's callbacks, in the order of their hooks."""
    found: list[Callback] = _require(trainer, "callbacks")
    return found


def fast_dev_run(trainer: Trainer) -> bool:
    """Whether the run only checks that the code works."""
    return bool(_require(trainer, "fast_dev_run"))


def run_loop(trainer: Trainer) -> None:
    """Run the probe's fit loop as ``Trainer._run_stage`` runs the real one."""
    with torch.autograd.set_detect_anomaly(bool(_require(trainer, "_detect_anomaly"))):
        trainer.fit_loop.run()


def call_module_hook(trainer: Trainer, name: str) -> None:
    """Call a hook of the connected module the way the Trainer does."""
    call = module_for(trainer, "trainer.call")
    _require(call, "_call_lightning_module_hook")(trainer, name)


def before_batch_transfer(module: LightningModule, batch: Any) -> Any:
    """Call ``on_before_batch_transfer`` of the module or its datamodule, whichever defines it."""
    return _require(module, "_on_before_batch_transfer")(batch)


def planned_steps(trainer: Trainer) -> float:
    """Optimizer steps that the real run plans, ``inf`` when it has no end.

    Call it inside a probe only: outside, `estimated_stepping_batches` would open the real run's
    loader and draw from its random stream.
    """
    try:
        steps = float(trainer.estimated_stepping_batches)
    except classes("utilities.exceptions.MisconfigurationException"):
        # Gradient accumulation on a schedule: count the batches as if the present factor stayed.
        batches = float(trainer.num_training_batches) * max(trainer.max_epochs or 1, 1)
        steps = batches / trainer.accumulate_grad_batches
    return steps if steps >= 0 else float("inf")


# -------------------------------------------------------------------------------- strategy, module
def precision_plugin_name() -> str:
    """Attribute under which a strategy keeps its precision plugin."""
    return "_precision_plugin"


def distributed_with_copies(strategy: Strategy) -> bool:
    """Whether ``strategy`` replicates whole parameters, so that a deep copy can be trained."""
    replicates = is_a(strategy, "strategies.SingleDeviceStrategy", "strategies.DDPStrategy")
    # DeepSpeedStrategy is a subclass of DDPStrategy.
    return replicates and not is_a(strategy, "strategies.DeepSpeedStrategy")


def trains_in_place(strategy: Strategy) -> bool:
    """Whether ``strategy`` shards parameters as FSDP2 does: no copy, but readable, local shards."""
    return is_a(strategy, "strategies.ModelParallelStrategy")


def reshard(module: nn.Module) -> None:
    """Put the sharded parameters back on every FSDP2 submodule, whole ones being there or not."""
    from torch.distributed import fsdp

    if not hasattr(fsdp, "FSDPModule"):  # torch 2.5
        from torch.distributed._composable import fsdp  # type: ignore[no-redef]

    for submodule in module.modules():
        if isinstance(submodule, fsdp.FSDPModule):
            submodule.reshard()


def uncompile(module: LightningModule) -> bool:
    """Drop what ``torch.compile(LightningModule)`` planted on this instance; whether it had any."""
    if getattr(module, "_compiler_ctx", None) is None:
        return False
    for name in _COMPILED_METHODS:
        vars(module).pop(name, None)
    module._compiler_ctx = None
    return True


def forget_metric_attributes(module: nn.Module) -> None:
    """Clear the cache of metric identities: on a copy it would name the original's metrics."""
    vars(module)["_metric_attributes"] = None


def attach_trainer(module: LightningModule, trainer: Any) -> None:
    """Let a copy of a module see ``trainer``, whatever its class."""
    module._trainer = trainer


def write_count(tensor: torch.Tensor) -> int:
    """How often ``tensor`` was written in place; it grows with every write, also under no_grad."""
    return tensor._version


def tensor_hooks(tensor: torch.Tensor) -> tuple[list[Any], list[Any]]:
    """Hooks on a tensor's gradient: before it is accumulated, and after."""
    before, after = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
    return list((before or {}).values()), list((after or {}).values())


def communication_state(strategy: Strategy) -> Any:
    """The state of DDP's communication hook, or None: PowerSGD keeps errors and a stream in it."""
    return vars(strategy).get("_ddp_comm_state")


# ------------------------------------------------------------------------------------- optimizers
def rewrap_step(optimizer: Optimizer) -> None:
    """Mark ``optimizer.step`` as wrapped by a scheduler, as the scheduler's constructor does.

    A copied scheduler meets a copied optimizer whose constructor never ran; without the mark
    torch warns that ``optimizer.step()`` was overridden.
    """
    import functools
    import weakref

    reference = weakref.ref(optimizer)
    original = type(optimizer).step

    @functools.wraps(original)
    def step(*args: Any, **kwargs: Any) -> Any:
        instance = reference()
        assert instance is not None
        instance._opt_called = True  # type: ignore[attr-defined]
        return original(instance, *args, **kwargs)

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    vars(optimizer)["step"] = step


# ---------------------------------------------------------------------------------------- signals
def register_signal_handlers(trainer: Trainer) -> None:
    """Let SIGTERM end the probe as it ends a training: by an exception that unwinds everything."""
    _require(trainer, "_signal_connector").register_signal_handlers()


def restore_signal_handlers(trainer: Trainer) -> None:
    """Put back the handlers that were installed before the probe."""
    _require(trainer, "_signal_connector").teardown()


def leave_signals_to_teardown(trainer: Trainer) -> None:
    """Let the Trainer's teardown put the present handlers back, as at the end of a training.

    On Ctrl-C Lightning ignores further interrupts while it shuts down, and counts on what
    ``register_signal_handlers`` kept to undo that.
    """
    connector = _require(trainer, "_signal_connector")
    connector._original_handlers = _require(connector, "_get_current_signal_handlers")()


# ----------------------------------------------------------------------------------------- resume
def is_restoring(trainer: Trainer) -> bool:
    """Whether the present fit resumes from a checkpoint, read already or still to be read.

    Callbacks are set up before the checkpoint is read, and sharded strategies read it only after
    ``on_fit_start``. Until then its path is nowhere but in a local variable of ``Trainer._run``
    (``trainer.ckpt_path`` may be a stale one).
    """
    if _require(_require(trainer, "_checkpoint_connector"), "_loaded_checkpoint"):
        return True
    _require(trainer, "_run")
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "_run" and frame.f_locals.get("self") is trainer:
            return frame.f_locals.get("ckpt_path") is not None
        frame = frame.f_back
    return False


def restored_by_tuner(trainer: Trainer) -> bool:
    """Whether the checkpoint being restored is a tuner's own temporary file, not a resume."""
    path = trainer.ckpt_path
    return path is not None and os.path.basename(str(path)).startswith(_TUNER_CHECKPOINTS)
