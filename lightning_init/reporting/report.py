"""What a probe found, with a text, Markdown, HTML, JSON and pandas form."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from lightning_init.pages import MOST_ROWS, Page, Readable
from lightning_init.reporting import rendering
from lightning_init.reporting.figures import record_trajectories
from lightning_init.reporting.records import LayerReport, ProbeRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class InitReport(Readable, ProbeRecord):
    """The outcome of a probe: the fields of `ProbeRecord`, and ways to show them.

    `str(report)` is the table, `report.full()` all of it, `report["net.0"]` one layer.
    """

    def page(self, max_rows: int | None = MOST_ROWS) -> Page:
        """See `Readable.page`."""
        return rendering.report_page(self, max_rows)

    def records(self) -> list[dict[str, Any]]:
        """The fields of every layer, and `ratio`."""
        return [{**vars(layer), "ratio": layer.ratio, **_words(layer)} for layer in self.layers]

    def assert_settled(self) -> None:
        """Raise if the probe does not tell what every layer should get; for continuous integration.

        It does if it was neither interrupted nor diverged, some layer took part, and each either is
        stationary or needs no change (`action` "unchanged").

        Raises:
            AssertionError: One line that names the layers and the next step.
        """
        open_rows = self.unsettled
        if self.interrupted or self.divergence or not self.layers:
            said = self.layers[0].reason if self.divergence else "Let the probe run to its end."
            raise AssertionError(f"{rendering.headline(self)}. {said}")
        if open_rows:
            names = ", ".join(row.name for row in open_rows[:8])
            more = f" and {len(open_rows) - 8} more" if len(open_rows) > 8 else ""
            raise AssertionError(
                f"{len(open_rows)} of {len(self.layers)} layers had not settled after"
                f" {self.total_steps} probe steps ({names}{more}). {open_rows[0].name}:"
                f" {open_rows[0].reason}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers that `json.dumps` accepts; what is not finite becomes None."""
        layers = [{**rendering.plain(layer), "ratio": layer.ratio} for layer in self.layers]
        names = [one.name for one in dataclasses.fields(self) if one.name != "weight_samples"]
        content = {name: getattr(self, name) for name in names}
        return {
            name: rendering.plain(value)
            for name, value in {
                **content,
                "layers": layers,
                "settings": dict(self.settings),
                "guard_steps": self.guard_steps,
                "total_steps": self.total_steps,
            }.items()
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> InitReport:
        """Make a report from what `to_dict` returned, as a checkpoint keeps it.

        None stands for nan among numbers; fields that are not there keep their defaults, and there
        may be others.
        """
        settings = tuple(content.get("settings", {}).items())
        return typing.cast(InitReport, _made(cls, {**content, "settings": settings}))

    def plot(self) -> Figure:
        """Draw the trajectory of every layer's variance, with the steps where it became stationary.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return record_trajectories(self)


def _words(layer: LayerReport) -> dict[str, str | None]:
    """The fields that hold an enum, as plain words."""
    named = {"verdict": layer.verdict, "forgetting": layer.forgetting}
    return {name: None if found is None else found.value for name, found in named.items()}


def _made(hint: Any, value: Any) -> Any:
    """``value`` as the type ``hint`` says."""
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return None if value is None else _made(arguments[0], value)
    if kind is tuple:
        each = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_made(one, item) for one, item in zip(each, value, strict=True))
    if hint is float:
        return math.nan if value is None else float(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        names = [field.name for field in dataclasses.fields(hint) if field.name in value]
        make: Any = hint
        return make(**{name: _made(hints[name], value[name]) for name in names})
    return value
