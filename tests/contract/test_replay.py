"""The replay tells in the user's own run what the comparison with a reference run tells here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import contract_scenarios_callbacks as contract_scenarios_callbacks
import contract_scenarios_data as contract_scenarios_data
import contract_scenarios_modules as contract_scenarios_modules
import contract_scenarios_state as contract_scenarios_state
import contract_scenarios_surroundings as contract_scenarios_surroundings
import contract_scenarios_training as contract_scenarios_training
import pytest
import torch
from contract_harness import Setup, in_own_process, is_alarm, probe, run
from contract_models import Net, adam, loader, table
from contract_registry import SCENARIOS
from test_negative_controls import CONTROLS, no_closures
from torch.utils.data import Dataset

from lightning_init import OptimalVarianceInit
from lightning_init.probe import runner

# Not to be seen from within: these are done after our callback has had its last look.
# `IN_THE_PROBE` has both where a restart that forgets them would leave them.
AFTER_THE_PROBE = {"trained_buffers", "leaked_momentum"}
# Told by an error: the probe cannot run.
FAILING = {"no_closures"}


def alarms(scenario: Callable[[], Setup], sabotage: Callable[[], None] | None = None) -> list[str]:
    """What the user is told about the restart."""

    def told() -> list[str]:
        if sabotage is not None:
            sabotage()
        _, _, said = run(scenario, None)
        return said

    return [text for text in in_own_process(told) if is_alarm(text)]


@pytest.mark.parametrize(
    ("sabotage", "name"),
    [pair for pair in CONTROLS if pair[0].__name__ not in AFTER_THE_PROBE | FAILING],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_an_omission_is_told_at_run_time(sabotage: Callable[[], None], name: str) -> None:
    def scenario() -> Setup:
        setup = SCENARIOS[name]()
        # There the strategy goes on with the probe's copy, and the redraw does not reach it.
        setup.redraws = sabotage.__name__ != "no_strategy_attributes"
        return setup

    assert alarms(scenario, sabotage)


def at_the_end_of_each_probe(mischief: Callable[[Any, Any], None]) -> None:
    """Let the probe's own code do one thing more before it looks whether all is as it was."""
    run_loop = runner._Probe._run_loop

    def careless(self: Any, training: Any) -> None:
        run_loop(self, training)
        with torch.no_grad():
            mischief(self, training)

    runner._Probe._run_loop = careless


def momentum_left_behind() -> None:
    run = runner._Probe._run

    def careless(self: Any, observer: Any) -> None:
        run(self, observer)
        weight = self.module.net[0].weight
        state = self.trainer.strategy.optimizers[0].state
        state[weight]["momentum_buffer"] = torch.ones_like(weight)

    runner._Probe._run = careless


def buffers_trained_along() -> None:
    def share(probe: Any, training: Any) -> None:
        probe.module.net[1].running_mean.copy_(training.module.net[1].running_mean)

    at_the_end_of_each_probe(share)


def weights_trained_along() -> None:
    def share(probe: Any, training: Any) -> None:
        probe.module.net[0].weight.copy_(training.module.net[0].weight)

    at_the_end_of_each_probe(share)


IN_THE_PROBE: list[tuple[Callable[[], None], str, str]] = [
    (momentum_left_behind, "momentum", "the state of optimizer 0"),
    (buffers_trained_along, "adam", "modified 'net.1.running_mean' of the real model"),
    (weights_trained_along, "adam", "modified 'net.0.weight' of the real model"),
    (no_closures, "module_HooksFeatures", "KeyError"),
]


@pytest.mark.parametrize(
    ("sabotage", "name", "words"),
    IN_THE_PROBE,
    ids=lambda part: getattr(part, "__name__", part),
)
def test_what_a_probe_leaves_behind_is_named(
    sabotage: Callable[[], None], name: str, words: str
) -> None:
    def told() -> list[str]:
        sabotage()
        setup = SCENARIOS[name]()
        setup.ours = [probe(on_probe_failure="skip")]
        setup.redraws = sabotage in (momentum_left_behind, weights_trained_along)
        return run(lambda: setup, None)[2]

    said = [text for text in in_own_process(told) if "OptimalVarianceInit: " in text]
    assert [text for text in said if words in text], said


def fitted(setup: Setup, **options: Any) -> OptimalVarianceInit:
    from contract_harness import build_trainer, fit
    from lightning.pytorch import seed_everything

    seed_everything(7, verbose=False)
    callback = probe(**options)
    trainer = build_trainer(setup, [callback])
    fit(trainer, setup)
    return callback


def verified() -> Any:
    callback = fitted(Setup(Net(adam), train=loader()))
    report = callback.report
    assert report is not None
    return report.restart, report.same_batches, report.compared_batches, report.table()


def test_a_verified_restart_and_the_score_stand_in_the_report() -> None:
    sentence, same, compared, text = in_own_process(verified)
    assert sentence == "restart verified: first 2 steps identical"
    # No validation: the whole probe can be compared.
    assert (same, compared) == (19, 19)
    assert (
        "restart verified: first 2 steps identical; 19 of 19 compared batches of the run are the"
        " probe's, which read 19." in " ".join(text.split())
    )


def off() -> Any:
    report = fitted(Setup(Net(adam), train=loader()), verify_steps=0).report
    assert report is not None
    return report.restart, report.compared_batches


def test_it_can_be_turned_off() -> None:
    assert in_own_process(off) == ("", 0)


class GrowsInMainMemory(Dataset[Any]):
    """Changes a tensor too large to be copied (over 1 MiB), which its samples depend on."""

    def __init__(self) -> None:
        self.seen = torch.zeros(300_000)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        self.seen[0] += 1
        x, y = table()[index]
        return x + 1e-3 * self.seen[0], y


class Jitters(Net):
    """As kernels do that add in another order each time: its calls are counted on disk."""

    size = 1e-6

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with Path("calls").open("a") as file:
            file.write(".")
            calls = file.tell()
        return super().training_step(batch, batch_idx) * (1 + self.size * calls)


class Jumps(Jitters):
    """Depends on something outside the process."""

    size = 1e-2


def large_state() -> Setup:
    return Setup(Net(adam), train=loader(dataset=GrowsInMainMemory()))


def jumping() -> Setup:
    return Setup(Jumps(adam), train=loader())


@pytest.mark.parametrize(
    ("make", "words", "way_out"),
    [
        (
            large_state,
            "batch 1 held other data (train_dataloader.dataset.seen changed)",
            "`isolate_dataset=True`",
        ),
        (jumping, "the loss of batch 1 differed by", "`recipe=`"),
    ],
)
def test_the_first_difference_is_named_once(
    make: Callable[[], Setup], words: str, way_out: str
) -> None:
    said = alarms(make)
    (told,) = [text for text in said if "the restart is not exact" in text]
    # And not once more when the run draws its first batch.
    assert not [text for text in said if "of the run holds other data" in text]
    assert words in told
    assert way_out in told


class RevivesUnits(Net):
    """Draws as many random numbers as it has negative outputs, as a codebook replaces codes."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        torch.rand(int((self(batch[0]) < 0).sum()))
        return super().training_step(batch, batch_idx)


def reviving() -> Setup:
    return Setup(RevivesUnits(adam), train=loader())


def test_random_draws_that_depend_on_the_weights_are_named_as_a_cause() -> None:
    (told,) = alarms(reviving)
    # The second epoch is shuffled from a stream that the new weights have moved elsewhere.
    assert "batch 9 of the run holds other data" in told
    assert "the model's random draws depend on its weights: no error" in told


def jittering() -> Any:
    report = fitted(Setup(Jitters(adam), train=loader())).report
    assert report is not None
    return report.restart


def test_rounding_is_told_apart() -> None:
    assert in_own_process(jittering).startswith("restart verified up to rounding")
