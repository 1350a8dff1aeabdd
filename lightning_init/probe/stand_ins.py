"""What a module finds beside it in a probe: its Trainer's loggers and callbacks, without effects.

They are objects of the same classes with the state that the originals have, so that code which
asks for their types, paths and counters works in a probe as it will in the run; but nothing that
is called on them saves, logs or stops anything.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

from lightning.pytorch import Callback, Trainer

from lightning_init.probe.lightning_packages import PACKAGES, classes, is_a, module_for

# Hooks in which a callback may prepare what a step of the module needs.
_PREPARING = ("_start", "on_before_")
_LOGS = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint")
_FOLDERS = ("log_dir", "save_dir", "root_dir")
_CONTAINERS = (list, dict, set, deque)


def silent_logger(trainer: Trainer, logger: Any) -> Any:
    """A stand-in for a logger, which answers with the probe's own directory."""
    kind = type(logger)
    dummy = module_for(trainer, "loggers.logger").DummyLogger()
    twin = _twin(logger)
    # Read from the twin: asking may make it choose a version.
    answers = {name: getattr(twin, name, None) for name in (*_FOLDERS, "name", "version")}
    answers |= {name: f"{answers[name]}/probe" for name in _FOLDERS if answers[name] is not None}
    answers["experiment"] = dummy.experiment
    methods = {name for name in dir(kind) if name.startswith(("log_", "watch", "unwatch"))}
    # A private path keeps the class out of what a command line offers by name.
    silent: dict[str, Any] = {"__module__": f"{kind.__module__}._silent"}
    silent |= {name: _nothing for name in {*_LOGS, *methods} if callable(getattr(kind, name, None))}
    silent |= {name: _constant(value) for name, value in answers.items()}
    try:
        twin.__class__ = type(kind.__name__, (kind,), silent)
    except TypeError:  # a class that cannot be derived from
        return dummy
    return twin


def _constant(value: Any) -> property:
    return property(lambda _: value)


def silent_callback(callback: Callback, prepare: bool) -> Callback:
    """A stand-in for a callback, whose hooks do nothing.

    Args:
        callback: One of the Trainer's callbacks.
        prepare: Let the hooks work in which a user's own callback may prepare a step: those that
            precede the step.
    """
    twin: Callback = _twin(callback)
    if is_a(callback, "callbacks.GradientAccumulationScheduler"):
        return twin  # it sets how many batches make one step
    own = prepare and is_users_own(callback)
    for hook in dir(classes("Callback")[0]):
        prepares = own and (hook.endswith(_PREPARING[0]) or hook.startswith(_PREPARING[1]))
        if hook.startswith(("on_", "setup", "teardown")) and not prepares:
            vars(twin)[hook] = _nothing
    return twin


def is_users_own(callback: object) -> bool:
    """Whether its class is neither Lightning's nor ours."""
    return not type(callback).__module__.startswith((*PACKAGES, "lightning_init"))


def _twin(original: Any) -> Any:
    """Another object of the same class with the same state, its containers copied."""
    twin = object.__new__(type(original))
    for name, value in vars(original).items():
        vars(twin)[name] = copy.copy(value) if type(value) in _CONTAINERS else value
    return twin


def _nothing(*_: Any, **__: Any) -> None:
    """Takes the place of what has effects."""
