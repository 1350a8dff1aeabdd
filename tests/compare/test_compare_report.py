"""The report of a comparison, on runs written by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from found_rows import find, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_init.compare.quantities import BOTH, FINAL, MIN, Quantity, Runs, guess_direction
from lightning_init.compare.records import DIVERGED, EQUAL, FAILED, FINISHED, FULL, RunRecord
from lightning_init.compare.report import ComparisonReport, summarize
from lightning_init.compare.statistics import seeds_needed

LOSS = {"val_loss": "min"}
FINAL_LOSS = Quantity("val_loss", MIN, FINAL)
NOISE = np.random.default_rng(0).normal(0, 0.02, 100).tolist()


def run(
    scheme: str,
    seed: int,
    loss: float,
    *,
    budget: str = FULL,
    status: str = FINISHED,
    probe_steps: int = 0,
    seconds: float = 2.0,
) -> RunRecord:
    """A run whose loss falls from 1 above its last value at step 10 to that value at step 30."""
    curve = tuple((step, {"val_loss": loss + 3 - step / 10}) for step in (10, 20, 30))
    reason = "" if status == FINISHED else f"the reason of {scheme} {seed}"
    return RunRecord(
        *(scheme, seed, budget, status, reason, 30, probe_steps, seconds, 0.1 * probe_steps),
        curve=curve,
        final={"val_loss": loss},
    )


def runs(scheme: str, losses: Mapping[int, float], **options: object) -> list[RunRecord]:
    return [run(scheme, seed, loss, **options) for seed, loss in losses.items()]  # type: ignore[arg-type]


def losses(mean: float, seeds: int = 20, shift: int = 0) -> dict[int, float]:
    return {seed: mean + NOISE[seed + shift] for seed in range(seeds)}


def final(report: ComparisonReport) -> str:
    """The sentence of the only comparison of final values."""
    found = [text for text in report.sentences if ", final " in text]
    assert len(found) == 1
    return found[0]


def test_a_clear_difference_is_called_better_and_mirrored_worse() -> None:
    good, bad = runs("good", losses(0.5)), runs("bad", losses(0.6, shift=30))
    report = summarize([*bad, *good], LOSS)
    row = find(report, "val_loss", "good", "bad")
    assert row.verdict == "better"
    said = final(report)
    assert said.startswith("good against bad, final val_loss: lower by 0.1")
    assert said.endswith("): better.")
    assert "over 20 seeds (Wilcoxon p <0.001, sign p <0.001)" in said
    mirrored = summarize([*good, *bad], LOSS)
    assert final(mirrored).endswith("): worse.")
    for one, other in zip(rows_of(report), rows_of(mirrored), strict=True):
        assert (one.lower, one.upper) == (-other.upper, -other.lower)
        here, there = ((row.wilcoxon_p_holm, row.sign_p_holm) for row in (one, other))
        assert here == there


def test_a_metric_to_maximize_is_better_when_it_is_higher() -> None:
    records = [*runs("low", losses(0.5)), *runs("high", losses(0.6, shift=30))]
    report = summarize(records, {"val_loss": "max"})
    assert find(report, "val_loss", "high", "low").verdict == "better"
    assert "higher by" in final(report)


def test_no_difference_says_how_many_seeds_would_be_needed() -> None:
    records = [*runs("a", losses(0.5)), *runs("b", losses(0.5, shift=60))]
    report = summarize(records, LOSS)
    assert "no difference shown" in final(report)
    assert "seeds would be needed to see an effect of the observed size" in final(report)
    assert "better" not in final(report)


def test_the_seeds_needed_are_those_of_the_corrected_level() -> None:
    schemes = [runs(f"s{k}", losses(0.5, shift=10 * k)) for k in range(5)]
    two = find(summarize([*schemes[0], *schemes[1]], LOSS), "val_loss", "s1", "s0")
    among = find(summarize([r for s in schemes for r in s], LOSS), "val_loss", "s1", "s0")
    assert (two.comparisons, among.comparisons) == (1, 10)
    assert two.mean_difference == among.mean_difference
    differences = Runs([*schemes[0], *schemes[1]]).differences("s1", "s0", BOTH, FINAL_LOSS)
    effect = np.array(list(differences.values()))
    assert two.seeds_needed == seeds_needed(effect) < among.seeds_needed
    assert among.seeds_needed == seeds_needed(effect, comparisons=10)


def test_an_interval_without_zero_that_the_correction_removes_may_be_better() -> None:
    # Six schemes: 15 comparisons, and a difference that is significant alone.
    records = [r for k in range(5) for r in runs(f"s{k}", losses(0.5, shift=10 * k))]
    records += runs("t", {seed: 0.488 + NOISE[seed] * 0.2 for seed in range(20)})
    report = summarize(records, LOSS)
    row = find(report, "val_loss", "t", "s0")
    assert row.wilcoxon_p < 0.05 < row.wilcoxon_p_holm
    assert row.lower > 0 or row.upper < 0
    assert row.verdict == "may be better"
    assert row.comparisons == 15
    said = report.sentences[rows_of(report).index(row)]
    assert said.endswith("may be better, the interval excludes zero but the test does not.")


def test_identical_schemes_are_identical() -> None:
    records = [*runs("a", losses(0.5)), *runs("b", losses(0.5))]
    report = summarize(records, LOSS)
    row = find(report, "val_loss", "b", "a")
    assert (row.lower, row.upper) == (0.0, 0.0)
    assert row.wilcoxon_p_holm == 1.0
    assert final(report) == "b against a, final val_loss: identical in all 20 seeds."


def test_runs_that_did_not_finish_are_counted_ranked_worst_and_explained() -> None:
    records = runs("steady", losses(0.5))
    fragile = runs("fragile", losses(0.5, shift=30))
    fragile[3] = replace(fragile[3], status=DIVERGED, reason="loss is nan at step 12")
    fragile[7] = replace(fragile[7], status=FAILED, reason="out of memory")
    report = summarize([*records, *fragile], LOSS)
    row = find(report, "val_loss", "fragile", "steady")
    differences = Runs(report.records).differences("fragile", "steady", BOTH, FINAL_LOSS)
    assert differences[3] == differences[7] == math.inf
    assert (row.pairs, row.pairs_in_interval) == (20, 18)
    expected = np.mean([d for d in differences.values() if math.isfinite(d)])
    assert row.mean_difference == pytest.approx(expected)
    assert "2 of 20 runs of fragile did not finish, 0 of 20 of steady" in final(report)
    assert "the mean is over the 18 pairs that did" in final(report)
    text = report.to_markdown()
    assert "seed 3 diverged (loss is nan at step 12), seed 7 failed (out of memory)" in text
    summary = report.summary.set_index(["scheme", "quantity"]).loc[("fragile", "final")]
    counts = summary[["runs", "finished", "diverged", "failed"]]
    assert counts.tolist() == [20, 18, 1, 1]


def test_better_with_more_unfinished_runs_says_so_in_the_same_sentence() -> None:
    good = runs("good", losses(0.4))
    good[0] = replace(good[0], status=DIVERGED)
    report = summarize([*runs("plain", losses(0.5, shift=30)), *good], LOSS)
    assert find(report, "val_loss", "good", "plain").verdict == "better"
    assert "): better, although 1 of 20 runs of good did not finish, 0 of 20" in final(report)


def test_a_scheme_that_seldom_finishes_is_not_better_for_its_few_good_runs() -> None:
    lucky = runs("lucky", losses(0.3))
    lucky[:14] = [replace(record, status=DIVERGED) for record in lucky[:14]]
    report = summarize([*runs("plain", losses(0.5, shift=30)), *lucky], LOSS)
    row = find(report, "val_loss", "lucky", "plain")
    assert row.upper < 0
    assert row.verdict in ("may be better", "ranks favour the second")
    lucky[14:17] = [replace(record, status=DIVERGED) for record in lucky[14:17]]
    report = summarize([*runs("plain", losses(0.5, shift=30)), *lucky], LOSS)
    assert find(report, "val_loss", "lucky", "plain").verdict == "ranks favour the second"
    assert "the ranks favour plain" in final(report)
    assert "better" not in final(report)


def test_two_schemes_that_never_finish_are_not_identical() -> None:
    records = [
        record for scheme in ("a", "b") for record in runs(scheme, losses(0.5, 6), status=DIVERGED)
    ]
    report = summarize(records, LOSS)
    assert "no difference shown: median unfinished against unfinished" in final(report)
    assert "6 of 6 runs of b did not finish, 6 of 6 of a" in final(report)


def test_a_seed_of_one_scheme_alone_is_left_out_and_counted() -> None:
    records = [*runs("a", losses(0.5)), *runs("b", losses(0.5, 17, shift=30))]
    report = summarize(records, LOSS)
    row = find(report, "val_loss", "b", "a")
    assert list(Runs(records).differences("b", "a", BOTH, FINAL_LOSS)) == list(range(17))
    assert row.missing_seeds == 3
    assert final(report).endswith("; 3 seeds without a pair left out.")


def test_a_loss_that_is_not_finite_counts_as_unfinished_whatever_the_status() -> None:
    records = [*runs("a", losses(0.5)), *runs("b", losses(0.5, shift=30) | {4: math.nan})]
    row = find(summarize(records, LOSS), "val_loss", "b", "a")
    assert Runs(records).differences("b", "a", BOTH, FINAL_LOSS)[4] == math.inf
    assert row.pairs_in_interval == 19


def budgets() -> list[RunRecord]:
    return [
        *runs("he", losses(0.50)),
        *runs("lecun", losses(0.50, shift=20)),
        *runs("optimal", losses(0.40, shift=40), probe_steps=5),
        *runs("optimal", losses(0.45, shift=60), probe_steps=5, budget=EQUAL),
    ]


def test_the_probe_is_charged_under_one_budget_and_not_under_the_other() -> None:
    report = summarize(budgets(), LOSS)
    table = report.table[report.table["quantity"] == "final"]
    found = list(zip(table["first"], table["second"], table["budget"], strict=True))
    assert found == [
        ("lecun", "he", BOTH),
        ("optimal", "he", EQUAL),
        ("optimal", "lecun", EQUAL),
        ("optimal", "he", FULL),
        ("optimal", "lecun", FULL),
    ]
    assert set(table["comparisons"]) == {5}
    for budget, mean in ((EQUAL, -0.05), (FULL, -0.10)):
        row = find(report, "val_loss", "optimal", "he", budget=budget)
        assert row.lower < mean < row.upper


def test_uncharged_runs_alone_make_a_report_of_them() -> None:
    records = [record for record in budgets() if record.budget == FULL]
    report = summarize(records, LOSS)
    assert {row.budget for row in rows_of(report)} == {BOTH, FULL}


def test_a_run_that_failed_before_its_probe_was_known_counts_under_both_budgets() -> None:
    records = [r for r in budgets() if not (r.scheme == "optimal" and r.seed == 2)]
    records.append(run("optimal", 2, math.nan, status=FAILED))
    report = summarize(records, LOSS)
    for budget in (EQUAL, FULL):
        row = find(report, "val_loss", "optimal", "he", budget=budget)
        assert (row.first_unfinished, row.second_unfinished, row.missing_seeds) == (1, 0, 0)
        assert Runs(records).differences("optimal", "he", budget, FINAL_LOSS)[2] == math.inf


def test_a_reference_is_all_that_the_others_are_compared_with() -> None:
    report = summarize(budgets(), LOSS, reference="lecun")
    assert {row.second for row in rows_of(report)} == {"lecun"}
    assert {row.first for row in rows_of(report)} == {"he", "optimal"}
    with pytest.raises(ValueError, match="`reference` must be one of he, lecun, optimal, got 'x'"):
        summarize(budgets(), LOSS, reference="x")


def test_the_best_value_is_the_best_of_the_curve() -> None:
    records = []
    for scheme, low in (("a", 0.3), ("b", 0.2)):
        curve = ((1, {"val_loss": 0.9}), (2, {"val_loss": low}), (3, {"val_loss": 0.7}))
        records += [replace(run(scheme, seed, 0.7), curve=curve) for seed in range(6)]
    report = summarize(records)
    assert find(report, "val_loss", "b", "a", quantity="best").mean_difference == (
        pytest.approx(-0.1)
    )
    assert find(report, "val_loss", "b", "a").verdict == "identical"


def test_too_few_seeds_are_said_to_be_too_few() -> None:
    one = summarize([run("a", 0, 0.5), run("b", 0, 0.4)], LOSS)
    assert final(one).endswith("1 seed, at least 2 are needed to compare.")
    records = [*runs("a", losses(0.5, 5)), *runs("b", losses(0.3, 5, shift=30))]
    five = summarize(records, LOSS)
    assert "better" not in final(five).replace("may be better", "")
    assert "With 5 pairs and 1 comparison no corrected p can fall below 0.05" in five.notes[-1]
    assert five.notes[-1].endswith("below 0.05: 6 seeds are needed.")


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val_loss", "min"),
        ("test/BinaryF1Score", "max"),
        ("val_acc", "max"),
        ("top1_error", "?"),
        ("perplexity", "min"),
        ("MulticlassAccuracy", "max"),
        ("epoch", "?"),
        ("classes", "?"),
    ],
)
def test_the_direction_of_a_metric_is_guessed_from_its_words(name: str, direction: str) -> None:
    assert guess_direction(name) == (None if direction == "?" else direction)
    if direction == "?":
        alone = [replace(r, final={name: 3.0}, curve=()) for r in runs("a", losses(0.5))]
        with pytest.raises(ValueError, match=f'`{name}` does not .* metrics={{"{name}": "min"}}'):
            summarize(alone)


def test_metrics_of_unknown_direction_are_left_out_and_named() -> None:
    both = [
        replace(r, final={**r.final, "learning_rate": 0.1, "epoch": 3.0})
        for r in [*runs("a", losses(0.5)), *runs("b", losses(0.5))]
    ]
    report = summarize(both)
    assert {row.metric for row in rows_of(report)} == {"val_loss"}
    assert "does not tell which values are better: epoch, learning_rate." in report.to_markdown()
    alone = [replace(r, final={"epoch": 3.0}, curve=()) for r in both]
    with pytest.raises(ValueError, match="`epoch` does not tell"):
        summarize(alone)
    assert not any("Not compared" in note for note in summarize(both, {"epoch": "min"}).notes)


def test_wrong_settings_are_refused_by_name() -> None:
    records = [*runs("a", losses(0.5)), *runs("b", losses(0.5))]
    with pytest.raises(ValueError, match="`metrics` names `val_los`, .* logged were: val_loss"):
        summarize(records, {"val_los": "min"})
    with pytest.raises(ValueError, match="must give `min` or `max` for `val_loss`, got 'down'"):
        summarize(records, {"val_loss": "down"})
    with pytest.raises(ValueError, match="Two records of scheme 'a', seed 0, budget 'full'"):
        summarize([*records, records[0]])


def test_files_come_back_as_they_were_written(tmp_path: Path) -> None:
    report = summarize(budgets())
    files = report.write(tmp_path / "out")
    names = [path.name for path in files]
    assert names[:5] == ["report.md", "differences.csv", "summary.csv", "cost.md", "cost.csv"]
    assert [path.name for path in files[5:]] == ["differences.png"]
    for name, frame in (
        ("differences", report.table),
        ("summary", report.summary),
        ("cost", report.cost),
    ):
        read = pd.read_csv(tmp_path / "out" / f"{name}.csv")
        pd.testing.assert_frame_equal(read, frame, check_dtype=False, rtol=1e-12)
    text = files[0].read_text()
    assert all(sentence in text for sentence in report.sentences)
    assert text.index(report.sentences[-1]) < text.index("| scheme |")
    for path in files[5:]:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert f"]({path.name})" in text


def test_the_page_starts_with_a_table_of_verdicts_and_a_figure(tmp_path: Path) -> None:
    records = [*runs("bad", losses(0.6, shift=30)), *runs("good", losses(0.5))]
    page = summarize(records, LOSS).write(tmp_path)[0].read_text()
    title, table, figure, first = page.split("\n\n")[:4]
    assert title == "# Comparison of initializations"
    assert table.splitlines() == [
        "| pair | budget | final val_loss | best val_loss |",
        "| --- | --- | --- | --- |",
        "| good against bad | both | better | better |",
    ]
    assert figure == "![differences](differences.png)"
    assert first == "**final val_loss**"


def test_a_verdict_that_a_pair_lacks_is_a_dash() -> None:
    only = [replace(r, final={**r.final, "acc": 0.5 + r.seed / 100}) for r in budgets()[:40]]
    report = summarize([*only, *budgets()[40:]], {**LOSS, "acc": "max"})
    row = next(x for x in report.to_markdown().splitlines() if x.startswith("| optimal against he"))
    assert row.count("too few seeds") == 1


def test_the_forms_of_a_report() -> None:
    a, b = runs("<b>", losses(0.5)), runs("a&b", losses(0.6, shift=30))
    report = summarize([*a, *b], LOSS)
    pd.testing.assert_frame_equal(report.to_pandas(), report.table)
    shown = report._repr_html_()
    assert "<b>" not in shown
    assert "a&amp;b against &lt;b&gt;" in shown
    assert "<td>worse</td>" in shown
    assert shown.count("<li>") == len(report.sentences)
    assert len(report.plot().axes) == 1
    assert summarize(a, LOSS)._repr_html_() == "<ul></ul>"


def test_wall_times_are_in_the_cost_alone(tmp_path: Path) -> None:
    written = []
    for factor, order in ((1.0, 1), (3.7, -1)):
        records = [replace(r, seconds=r.seconds * factor) for r in budgets()]
        by_scheme = sorted(records, key=lambda r: (r.scheme, order * r.seed))
        files = summarize(by_scheme, LOSS).write(tmp_path / f"{factor}")
        written.append({path.name: path.read_bytes() for path in files})
    assert written[0].keys() == written[1].keys()
    differing = {name for name in written[0] if written[0][name] != written[1][name]}
    assert differing == {"cost.md", "cost.csv"}


def test_the_cost_is_the_share_of_the_probe() -> None:
    cost = summarize(budgets(), LOSS).cost.set_index(["scheme", "budget"])
    assert cost.loc[("he", BOTH), "probe_share_of_seconds"] == 0
    optimal = cost.loc[("optimal", EQUAL)]
    assert optimal["probe_share_of_steps"] == pytest.approx(5 / 35)
    assert optimal["probe_share_of_seconds"] == pytest.approx(0.25)


def test_one_scheme_alone_is_summarized(tmp_path: Path) -> None:
    report = summarize(runs("only", losses(0.5)), LOSS)
    assert "Nothing to compare." in report.to_markdown()
    assert report.summary["mean"][0] == pytest.approx(np.mean(list(losses(0.5).values())))
    report.write(tmp_path)


def test_failed_runs_alone_make_a_report() -> None:
    failed = [
        replace(run(scheme, seed, 0.5, status=FAILED), curve=(), final={})
        for scheme in ("a", "b")
        for seed in range(6)
    ]
    assert "6 of 6 runs did not finish" in summarize(failed).to_markdown()
    assert "better" not in " ".join(summarize(failed, LOSS).sentences)


outcomes = st.tuples(
    st.floats(0, 2).map(lambda x: round(x, 2)), st.sampled_from([FINISHED] * 4 + [DIVERGED, FAILED])
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(outcomes, outcomes), min_size=1, max_size=14),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.sampled_from(["min", "max"]),
)
def test_no_sentence_says_better_when_the_interval_holds_zero(
    pairs: list[tuple[tuple[float, str], tuple[float, str]]], gap: float, direction: str
) -> None:
    records = []
    for seed, ((a, status_a), (b, status_b)) in enumerate(pairs):
        records.append(run("a", seed, a, status=status_a))
        records.append(run("b", seed, b + gap, status=status_b))
    report = summarize(records, {"val_loss": direction})
    for row, said in zip(rows_of(report), report.sentences, strict=True):
        called = "better" in said or "worse" in said
        if not (row.lower > 0 or row.upper < 0):
            assert not called
        if called and "may be" not in said:
            assert row.wilcoxon_p_holm < 0.05
        if row.first_unfinished or row.second_unfinished:
            lost = f"{row.first_unfinished} of {len(pairs)} runs of {row.first} did not finish"
            assert lost in said
