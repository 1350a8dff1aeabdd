"""Protocol files of the published study, read into cells: one comparison each."""

from __future__ import annotations

import itertools
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from study_data import StudyData

PROTOCOLS = Path(__file__).parent / "protocols"
SECONDS_PER_RUN = 0.4  # beside the steps: making the trainer, and the evaluation


@dataclass(frozen=True)
class Cell:
    """One comparison: its network, data and length are fixed, its initializations differ."""

    name: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    trainer: Mapping[str, Any]
    inits: tuple[str, ...]
    seeds: int
    reference: str
    equal_budget: bool
    milliseconds_per_step: float
    probe_share: float

    def make_model(self) -> partial[Any]:
        arguments = dict(self.model)
        module, _, name = f"study_models.{arguments.pop('class')}".rpartition(".")
        return partial(pkgutil.resolve_name(f"{module.split('.')[-1]}:{name}"), **arguments)

    def make_data(self) -> Callable[[], StudyData]:
        return partial(StudyData, **self.data)

    @property
    def steps(self) -> int:
        """Planned optimizer steps of a run."""
        data = self.make_data()()
        return self.trainer["max_epochs"] * math.ceil(data.samples / data.batch_size)

    @property
    def probing(self) -> int:
        return sum(init.startswith("optimal") for init in self.inits)

    @property
    def runs(self) -> int:
        """Trainings; one with a probe is made again, shortened by the probe's steps."""
        return self.seeds * (len(self.inits) + self.probing * self.equal_budget)

    @property
    def seconds(self) -> float:
        """Estimated time on one core; probe and shortened run together cost a run."""
        probes = self.probe_share * self.probing * (1 - self.equal_budget)
        shares = self.runs / self.seeds + probes
        return (
            self.seeds * shares * (self.steps * self.milliseconds_per_step / 1000 + SECONDS_PER_RUN)
        )


def read_protocol(name: str) -> dict[str, Any]:
    return yaml.safe_load((PROTOCOLS / f"{name}.yaml").read_text())


def cells(protocol: Mapping[str, Any], size: str) -> list[Cell]:
    """Every combination of the axes but those that the size skips."""
    chosen = protocol["sizes"][size]
    axes = {**protocol["axes"], **chosen.get("axes", {})}
    found = []
    for labels in itertools.product(*axes.values()):
        name = "_".join(labels)
        if any(fnmatch(name, pattern) for pattern in chosen.get("skip", ())):
            continue
        layers = [protocol.get("base", {}), chosen.get("base", {})]
        layers += [options[label] for options, label in zip(axes.values(), labels, strict=True)]
        found.append(_cell(name, protocol, _seeds(name, chosen["seeds"]), layers))
    return found


def _seeds(name: str, given: int | Mapping[str, int]) -> int:
    """One number, or that of the first pattern which the cell's name fits."""
    if isinstance(given, int):
        return given
    return next(number for pattern, number in given.items() if fnmatch(name, pattern))


def _cell(name: str, protocol: Mapping[str, Any], seeds: int, layers: list[dict[str, Any]]) -> Cell:
    """Later layers win, argument by argument."""
    parts: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "trainer": {}}
    single = {key: protocol[key] for key in ("inits", "reference") if key in protocol}
    for layer in layers:
        for key, value in layer.items():
            if key in parts:
                parts[key] |= value
            else:
                single[key] = value
    cell = Cell(
        name=name,
        **parts,
        inits=tuple(single["inits"]),
        seeds=seeds,
        reference=single["reference"],
        equal_budget=protocol.get("equal_budget", True),
        milliseconds_per_step=single["milliseconds_per_step"],
        probe_share=protocol.get("probe_share", 0.0),
    )
    probe_steps = math.floor(cell.steps * cell.probe_share)
    inits = tuple(init.format(probe_steps=probe_steps) for init in cell.inits)
    return Cell(**{**cell.__dict__, "inits": inits})
