"""What a probe found, with a text, Markdown, HTML, JSON and pandas form."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_init.reporting import rendering
from lightning_init.reporting.figures import record_trajectories
from lightning_init.reporting.records import LayerReport, ProbeRecord
from lightning_init.reporting.restoring import record_from_dict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class InitReport(ProbeRecord):
    """The outcome of a probe: the fields of `ProbeRecord`, and ways to show them.

    `str(report)` is the table, `report["net.0"]` one layer.
    """

    def __str__(self) -> str:
        return self.table()

    def table(self, max_rows: int = 40) -> str:
        """Render as plain text, at most 120 columns wide.

        Args:
            max_rows: Most layers to show. With more than that, those that the rule changes most
                come first and the rest is counted.
        """
        return rendering.text(self, max_rows)

    def markdown(self, max_rows: int = 1000) -> str:
        """Render as Markdown with every column; `max_rows` as in `table`."""
        return rendering.markdown(self, max_rows)

    def _repr_html_(self) -> str:
        return rendering.html(self, max_rows=200)

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
        """Make a report from what `to_dict` returned, as a checkpoint keeps it."""
        return record_from_dict(cls, content)

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with one row per layer, indexed by layer name.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise ImportError(
                "`to_pandas` needs pandas; install it with `pip install pandas`, or use `to_dict`."
            ) from None
        rows = [{**vars(layer), "ratio": layer.ratio, **_words(layer)} for layer in self.layers]
        return pandas.DataFrame(rows).set_index("name") if rows else pandas.DataFrame()

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
