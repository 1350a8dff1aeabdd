"""The data of a run: what of it a module holds, and its state, captured and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.in_place import own_attributes
from lightning_init.probe.lightning_packages import is_a
from lightning_init.probe.object_state import capture
from lightning_init.user_line import warn_user

# Which objects changed, and the way out.
AFTER_A_PROBE = (
    "The training data keep state that the probe changed ({}), so the run may differ from one"
    " without a probe; pass `isolate_dataset=True` or, for an iterator, `probe_dataloaders=`."
)
AFTER_A_BATCH = (
    "The training data keep state that changed when one batch was read to trace the activations"
    " ({}); give the module an `example_input_array`, or name the `nonlinearity`, and none is read."
)


def capture_data_state(
    roots: Mapping[str, object] | Iterable[object],
    leave: Iterable[object] = (),
    sentence: str = AFTER_A_PROBE,
    suspects: list[str] | None = None,
) -> Callable[[], None]:
    """Capture what reading the data changes (see `capture`).

    Args:
        roots: What to look behind, by name.
        leave: What is captured elsewhere.
        sentence: The warning, with a place for the names of what could not be put back.
        suspects: Gets those names too.

    Returns:
        What puts it back, and says in a warning, by ``sentence``, what could not be.
    """
    state = capture(roots, leave)

    def put_back() -> None:
        changed = state.restore()
        if suspects is not None:
            suspects.extend(changed)
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            warn_user(sentence.format(", ".join(changed[:3]) + more))

    return put_back


def everything_behind(
    trainer: Trainer, module: LightningModule
) -> tuple[dict[str, object], list[object]]:
    """What a training may change, by the name that the user knows, and what is captured elsewhere.

    Parameters, buffers, Trainer and strategy have snapshots of their own, and so has a sharded
    module but for what its attributes share with others.
    """
    instance, name = internals.train_data_source(trainer)
    strategy = trainer.strategy
    roots = {
        name: instance,
        "datamodule": getattr(trainer, "datamodule", None),
        "prepared loader": internals.prepared_loader(trainer),
    }
    if instance is module:
        del roots[name]
    roots |= {type(data).__name__: data for data in data_held_by(module)}
    if internals.trains_in_place(strategy):
        roots |= {"module": own_attributes(module), type(module).__name__: type(module)}
    else:
        roots |= {
            "module": module,
            "optimizers": strategy.optimizers,
            "schedulers": strategy.lr_scheduler_configs,
            "communication hook": internals.communication_state(strategy),
        }
    leave = [trainer, strategy, *module.parameters(), *module.buffers()]
    return roots, leave


def data_held_by(module: LightningModule) -> list[object]:
    """Datasets, samplers and loaders in the attributes of ``module``, also in lists and dicts."""
    found: list[object] = []
    for submodule in module.modules():
        for value in vars(submodule).values():
            items = value.values() if isinstance(value, dict) else (value,)
            for item in value if isinstance(value, (list, tuple)) else items:
                if isinstance(item, (Dataset, Sampler, DataLoader)) or is_a(
                    item, "utilities.CombinedLoader"
                ):
                    found.append(item)
    return found
