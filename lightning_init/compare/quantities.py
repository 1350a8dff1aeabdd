"""What is compared: one number per run, for every metric, quantity and budget."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
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
    """One number of a run: its `final` or `best` value of a metric.

    The direction, `min` or `max`, is that of better values of the metric.
    """

    metric: str
    direction: str
    name: str = FINAL

    def of(self, record: RunRecord) -> float:
        """Number of one run.

        Worse than any, so infinite, if the run did not finish or the metric was not finite; nan if
        a finished run did not log the metric.
        """
        worst = math.inf if self.direction == MIN else -math.inf
        if record.status != FINISHED:
            return worst
        last = [record.final[self.metric]] if self.metric in record.final else []
        curve = [value for _, value in record.curve_of(self.metric)]
        values = curve if self.name == BEST else last
        finite = [value for value in values if math.isfinite(value)]
        best = min if self.direction == MIN else max
        return best(finite, default=worst) if values else math.nan


def find_quantities(
    records: Sequence[RunRecord], metrics: Mapping[str, str] | None
) -> tuple[list[Quantity], list[str]]:
    """List what can be compared: the final value of every metric, and the best of its curve.

    Without `metrics` these are all that a run ended with and whose name tells the direction; the
    names of the others come second.

    Raises:
        ValueError: A direction is neither `min` nor `max` or cannot be guessed, or no run logged a
            metric that is named.
    """
    for name, direction in (metrics or {}).items():
        if direction not in (MIN, MAX):
            raise ValueError(f"`metrics` must give `min` or `max` for `{name}`, got {direction!r}.")
    finished = [record for record in records if record.status == FINISHED]
    logged = dict.fromkeys(name for r in finished or records for name in sorted(r.final))
    in_curves = {name for record in records for _, values in record.curve for name in values}
    directions = {name: guess_direction(name) for name in logged} if metrics is None else metrics
    unknown = [name for name, direction in directions.items() if direction is None]
    if unknown and len(unknown) == len(directions):
        raise ValueError(
            f"The name of the metric `{unknown[0]}` does not tell which values are better; "
            f'name the metrics to compare, as in metrics={{"{unknown[0]}": "min"}} (or "max").'
        )
    known = {*logged, *in_curves}
    # Where nothing finished, a metric may be missing without having been misspelled.
    for name in directions if finished else ():
        if name not in known:
            raise ValueError(
                f"`metrics` names `{name}`, which was not logged by any run; "
                f"logged were: {', '.join(sorted(known)) or 'none'}."
            )
    found = [
        Quantity(metric, direction, name)
        for metric, direction in directions.items()
        if direction is not None
        for name in ((FINAL, BEST) if metric in in_curves else (FINAL,))
    ]
    return found, unknown


def guess_direction(metric: str) -> str | None:
    """Tell from a metric's name whether smaller or larger values are better, if it does.

    >>> guess_direction("val_loss"), guess_direction("test/MulticlassAccuracy")
    ('min', 'max')
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", metric).lower()
    words = set(re.split(r"[^a-z0-9]+", spaced))
    known = ((MIN, _LOWER), (MAX, _HIGHER))
    directions = [way for way, names in known if words & set(names.split())]
    return directions[0] if len(directions) == 1 else None


class Runs:
    """The runs of a comparison, looked up by scheme and by the budget that they count under.

    Raises:
        ValueError: Two records are of the same scheme, seed and budget.
    """

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self.schemes = list(dict.fromkeys(record.scheme for record in records))
        probed = {r.scheme for r in records if r.budget == EQUAL or r.probe_steps > 0}
        self._runs: dict[tuple[str, str], dict[int, RunRecord]] = {}
        for record in records:
            budget = record.budget if record.scheme in probed else BOTH
            runs = self._runs.setdefault((record.scheme, budget), {})
            if record.seed in runs:
                raise ValueError(
                    f"Two records of scheme {record.scheme!r}, seed {record.seed}, budget "
                    f"{record.budget!r}; each run may be given once."
                )
            runs[record.seed] = record
        for scheme, budget in self._runs:
            if budget == EQUAL:
                # A run that failed before its probe was known of has no shorter one beside it.
                full = self._runs.get((scheme, FULL), {}).items()
                failed = {seed: run for seed, run in full if run.status == FAILED}
                self._runs[scheme, EQUAL] = failed | self._runs[scheme, EQUAL]

    def of(self, scheme: str, budget: str) -> list[RunRecord]:
        """Runs under a budget, by seed; those of a scheme without a probe count under any."""
        runs = self._runs.get((scheme, budget)) or self._runs.get((scheme, BOTH), {})
        return [runs[seed] for seed in sorted(runs)]

    def budgets(self, *schemes: str) -> list[str]:
        """Budgets under which all these schemes have runs; `both` if none of them has a probe."""
        if all((scheme, BOTH) in self._runs for scheme in schemes):
            return [BOTH]
        return [b for b in (EQUAL, FULL) if all(self.of(scheme, b) for scheme in schemes)]

    def groups(self) -> list[tuple[str, str]]:
        """Every scheme with every budget that it has runs under."""
        return [(scheme, budget) for scheme in self.schemes for budget in self.budgets(scheme)]

    def values(self, scheme: str, budget: str, quantity: Quantity) -> dict[int, float]:
        """Number of every run by seed, without those whose number is not known."""
        numbers = {record.seed: quantity.of(record) for record in self.of(scheme, budget)}
        return {seed: value for seed, value in numbers.items() if not math.isnan(value)}

    def differences(
        self, first: str, second: str, budget: str, quantity: Quantity
    ) -> dict[int, float]:
        """The first scheme's number minus the second's, for every seed that has both.

        Infinite if one of the two runs did not finish, nan if neither did.
        """
        one, other = (self.values(scheme, budget, quantity) for scheme in (first, second))
        return {seed: one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())}
