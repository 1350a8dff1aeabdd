"""What is compared: one number per run, for every metric, quantity and budget."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightning_init.compare.records import EQUAL, FAILED, FINISHED, FULL, RunRecord

MIN, MAX = "min", "max"
FINAL, BEST = "final", "best"
# The budget of a comparison between schemes of which none has a probe.
BOTH = "both"

_LOWER = "loss error err perplexity ppl mse rmse mae mape nll bpc bpd ece brier wer cer fid"
_HIGHER = (
    "accuracy acc auc auroc auprc f1 fbeta precision recall specificity sensitivity r2 iou jaccard"
    " dice bleu rouge map ndcg mrr mcc kappa psnr ssim top1 top5 reward"
)


@dataclass(frozen=True)
class Quantity:
    """One number of a run: its `final` or `best` value of a metric, or `steps to <level>`.

    The direction, `min` or `max`, is that of better values of the metric.
    """

    metric: str
    direction: str
    name: str = FINAL
    level: float | None = None

    @property
    def lower_is_better(self) -> bool:
        """Whether smaller numbers are better; fewer steps always are."""
        return self.direction == MIN or self.level is not None

    @property
    def worst(self) -> float:
        """What a run that did not finish is given."""
        return math.inf if self.lower_is_better else -math.inf

    @property
    def title(self) -> str:
        """As it stands in sentences and headings, `final val_loss`."""
        if self.level is not None:
            return f"steps to {self.metric} {self.level:g}"
        return f"{self.name} {self.metric}"

    def of(self, record: RunRecord, charge_probe: bool) -> float:
        """Number of one run; to reach a level its probe's steps count if they are charged.

        `worst` if the run did not finish, the metric was not finite or the level was not reached;
        nan if a finished run did not log the metric.
        """
        if record.status != FINISHED:
            return self.worst
        curve = record.curve_of(self.metric)
        if self.level is not None:
            sign = 1.0 if self.direction == MIN else -1.0
            reached = (step for step, value in curve if sign * value <= sign * self.level)
            steps = next(reached, math.inf) + (record.probe_steps if charge_probe else 0)
            return steps if curve else math.nan
        last = [record.final[self.metric]] if self.metric in record.final else []
        values = [value for _, value in curve] if self.name == BEST else last
        finite = [value for value in values if math.isfinite(value)]
        best = min if self.lower_is_better else max
        return best(finite, default=self.worst) if values else math.nan


def find_quantities(
    records: Sequence[RunRecord],
    metrics: Mapping[str, str] | None,
    levels: Mapping[str, float] | None,
) -> tuple[list[Quantity], list[str]]:
    """List what can be compared: per metric the final and the best value, and steps to its level.

    Without `metrics` these are all that a run ended with and whose name tells the direction; the
    names of the others come second.

    Raises:
        ValueError: No direction can be guessed, or no run logged a metric that is named.
    """
    finished = [record for record in records if record.status == FINISHED]
    logged = dict.fromkeys(name for r in finished or records for name in sorted(r.final))
    in_curves = {name for record in records for _, values in record.curve for name in values}
    unknown: list[str] = []
    if metrics is None:
        directions = {name: _direction(name) for name in logged}
        metrics = {name: direction for name, direction in directions.items() if direction}
        unknown = [name for name in logged if name not in metrics]
        if unknown and not metrics:
            guess_direction(unknown[0])
    # Where nothing finished, a metric may be missing without having been misspelled.
    if finished:
        _check_logged("metrics", metrics, {*logged, *in_curves}, "by any run")
        _check_logged("levels", levels or {}, in_curves, "in a curve of any run")
    found = []
    for name, direction in metrics.items():
        found.append(Quantity(name, direction))
        if name in in_curves:
            found.append(Quantity(name, direction, BEST))
    for name, level in (levels or {}).items():
        direction = metrics[name] if name in metrics else guess_direction(name)
        found.append(Quantity(name, direction, f"steps to {level:g}", float(level)))
    return found, unknown


def guess_direction(metric: str) -> str:
    """Tell from a metric's name whether smaller or larger values are better.

    Raises:
        ValueError: The name does not tell.

    >>> guess_direction("val_loss"), guess_direction("test/MulticlassAccuracy")
    ('min', 'max')
    """
    direction = _direction(metric)
    if direction is None:
        raise ValueError(
            f"The name of the metric `{metric}` does not tell which values are better; "
            f'name the metrics to compare, as in metrics={{"{metric}": "min"}} (or "max").'
        )
    return direction


def _direction(metric: str) -> str | None:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", metric).lower()
    words = set(re.split(r"[^a-z0-9]+", spaced))
    known = ((MIN, _LOWER), (MAX, _HIGHER))
    directions = [way for way, names in known if words & set(names.split())]
    return directions[0] if len(directions) == 1 else None


def _check_logged(argument: str, names: Iterable[str], known: set[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(
                f"`{argument}` names `{name}`, which was not logged {where}; "
                f"logged were: {', '.join(sorted(known)) or 'none'}."
            )


class Runs:
    """The runs of a comparison, looked up by scheme and budget.

    Raises:
        ValueError: Two records are of the same scheme, seed and budget.
    """

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self.schemes = list(dict.fromkeys(record.scheme for record in records))
        self._runs: dict[tuple[str, str], dict[int, RunRecord]] = {}
        self._with_probe = {r.scheme for r in records if r.budget == EQUAL or r.probe_steps > 0}
        for record in records:
            runs = self._runs.setdefault((record.scheme, record.budget), {})
            if record.seed in runs:
                raise ValueError(
                    f"Two records of scheme {record.scheme!r}, seed {record.seed}, budget "
                    f"{record.budget!r}; each run may be given once."
                )
            runs[record.seed] = record

    def of(self, scheme: str, budget: str) -> list[RunRecord]:
        """Runs under a budget, by seed; those of a scheme without a probe count under any."""
        runs = self._runs.get((scheme, FULL), {})
        if budget == EQUAL and scheme in self._with_probe:
            # A run that failed before its probe was known of has no shorter one beside it.
            runs = {seed: r for seed, r in runs.items() if r.status == FAILED}
            runs |= self._runs.get((scheme, EQUAL), {})
        return [runs[seed] for seed in sorted(runs)]

    def budgets(self, *schemes: str) -> list[str]:
        """Budgets under which all these schemes have runs; `both` if none of them has a probe."""
        probed = self._with_probe.intersection(schemes)
        if not probed:
            return [BOTH]
        return [b for b in (EQUAL, FULL) if all((scheme, b) in self._runs for scheme in probed)]

    def groups(self) -> list[tuple[str, str]]:
        """Every scheme with every budget that it has runs under."""
        return [(scheme, budget) for scheme in self.schemes for budget in self.budgets(scheme)]

    def values(self, scheme: str, budget: str, quantity: Quantity) -> dict[int, float]:
        """Number of every run by seed, without those whose number is not known."""
        runs = self.of(scheme, budget)
        numbers = {record.seed: quantity.of(record, budget == EQUAL) for record in runs}
        return {seed: value for seed, value in numbers.items() if not math.isnan(value)}
