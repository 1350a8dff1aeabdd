"""The state of a run's data, and of all behind it: captured, put back, or named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.contents import PutBack
from lightning_init.probe.in_place import own_attributes
from lightning_init.probe.keepers import Keeping, keepers_of
from lightning_init.probe.lightning_packages import is_a
from lightning_init.probe.object_walk import ObjectWalk, without_collections
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


def capture(
    roots: Mapping[str, object] | Iterable[object], leave: Iterable[object] = ()
) -> CapturedState:
    """Capture what a training may change in the objects reachable from ``roots``.

    Until `restore` is called, iterators are replaced by duplicates where they are held, and the
    iterators of persistent workers are hidden, so that a probe opens its own.

    Args:
        roots: Loaders, datasets, modules, optimizers; by the name that the user knows, or in a
            row, to be named by their class.
        leave: Objects that are not entered.

    Example:
        >>> import random
        >>> data = {"rng": random.Random(1)}
        >>> state = capture({"data": data})
        >>> first = data["rng"].random()
        >>> state.restore()
        []
        >>> data["rng"].random() == first
        True
    """
    named = roots if isinstance(roots, Mapping) else _named(roots)
    with without_collections():
        return CapturedState(ObjectWalk(named, leave))


def _named(roots: Iterable[object]) -> dict[str, object]:
    named: dict[str, object] = {}
    for root in roots:
        name = type(root).__name__
        named[name if name not in named else f"{name} {len(named)}"] = root
    return named


class CapturedState:
    """What was captured; `restore` puts it back.

    Attributes:
        notes: What was not looked at, or only in part: one phrase each.
    """

    def __init__(self, walk: ObjectWalk) -> None:
        self.notes = walk.notes
        self._walk = walk
        self._kept: list[tuple[int, PutBack]] = []
        keeping = Keeping()
        for index, found in enumerate(walk.found):
            kind: Any = type(found.item)
            for keep in keepers_of(kind):
                try:
                    put_back = keep(found.item, keeping)
                except Exception as error:
                    reason = type(error).__name__
                    self.notes.append(f"{walk.name(index)} could not be captured ({reason})")
                    continue
                if put_back is not None:
                    self._kept.append((index, put_back))
            if keeping.contents.sampled:
                keeping.contents.sampled = False
                self.notes.append(f"of {walk.name(index)} a sample of the contents was compared")

    def restore(self) -> list[str]:
        """Put everything back.

        Returns:
            Names of what changed and could not be put back, as ``DataLoader.dataset.stream``.
        """
        lost: dict[int, str] = {}
        for index, put_back in self._kept:
            try:
                changed = put_back()
            except Exception:
                changed = True
            # What moved inside a generator that moved says nothing more.
            if changed and lost.keys().isdisjoint(self._walk.above(index)):
                lost[index] = self._walk.name(index)
        return list(dict.fromkeys(lost.values()))
