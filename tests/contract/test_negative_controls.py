"""Each ingredient of the restart, taken away alone, shows in the comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contract_scenarios_callbacks as contract_scenarios_callbacks
import contract_scenarios_data as contract_scenarios_data
import contract_scenarios_modules as contract_scenarios_modules
import contract_scenarios_state as contract_scenarios_state
import contract_scenarios_surroundings as contract_scenarios_surroundings
import contract_scenarios_training as contract_scenarios_training
import pytest
import torch
from contract_harness import compare, in_own_process
from contract_record import differences, plain
from contract_registry import SCENARIOS

from lightning_init import OptimalVarianceInit
from lightning_init.probe import copy_memo, data_state, keepers, runner, shadows, snapshot
from lightning_init.probe import lightning_internals as internals


def nothing(*_: Any, **__: Any) -> Callable[[], None]:
    """Captures nothing and restores nothing."""
    return lambda: None


def no_random_state() -> None:
    snapshot.capture_random_state = nothing


def after_the_redraw(mischief: Callable[[Any], Any]) -> None:
    """Let our callback do one thing more at the end of its work."""
    on_fit_start = OptimalVarianceInit.on_fit_start

    def careless(self: Any, trainer: Any, module: Any) -> None:
        on_fit_start(self, trainer, module)
        with torch.no_grad():
            mischief(module)

    OptimalVarianceInit.on_fit_start = careless


def a_draw_from_the_global_stream() -> None:
    after_the_redraw(lambda module: torch.rand(()))


def redrawn_biases() -> None:
    after_the_redraw(lambda module: module.net[0].bias.zero_())


def trained_buffers() -> None:
    after_the_redraw(lambda module: module.net[1].running_mean.add_(0.1))


def no_data_state() -> None:
    runner.capture_data_state = nothing


def no_generators() -> None:
    keepers.keep_generator = lambda item: None


def no_state_of_the_module() -> None:
    behind = data_state.everything_behind

    def only_data(*arguments: Any) -> Any:
        roots, leave = behind(*arguments)
        return {name: root for name, root in roots.items() if name != "module"}, leave

    runner.everything_behind = only_data


def no_stand_ins() -> None:
    keepers.duplicate = lambda *_: None


def no_closures() -> None:
    copy_memo.CopyMemo._reaches = lambda *_: False


def no_prepared_loader() -> None:
    enter = runner._Probe._enter

    def forgetful(probe: Any, *arguments: Any) -> Any:
        probe.trainer.fit_loop._combined_loader = None
        return enter(probe, *arguments)

    runner._Probe._enter = forgetful


def no_shadows() -> None:
    shadows._Search._find = lambda self: None


def shared_precision() -> None:
    runner.copy_alone = lambda item, _: item


def no_strategy_attributes() -> None:
    capture = snapshot.capture_attributes
    snapshot.capture_attributes = lambda holder: (
        nothing() if "Strategy" in type(holder).__name__ else capture(holder)
    )


def leaked_momentum() -> None:
    def leak(module: Any) -> None:
        weight = module.net[0].weight
        module.optimizers().state[weight]["momentum_buffer"] = torch.ones_like(weight)

    after_the_redraw(leak)


def real_loggers() -> None:
    enter = internals.enter_training_state

    def noisy(trainer: Any, *arguments: Any) -> None:
        enter(trainer, *arguments)
        trainer.loggers = trainer.fit_loop.real_loggers

    keep = runner._Probe._enter

    def remembering(probe: Any, *arguments: Any) -> Any:
        probe.trainer.fit_loop.real_loggers = probe.trainer.loggers
        return keep(probe, *arguments)

    runner._Probe._enter, internals.enter_training_state = remembering, noisy


CONTROLS: list[tuple[Callable[[], None], str]] = [
    (no_random_state, "sgd_plain"),
    (a_draw_from_the_global_stream, "sgd_plain"),
    (no_data_state, "iterable_counts_epochs"),
    (no_data_state, "prepared_loader_with_persistent_workers"),
    (no_generators, "own_generator"),
    (no_generators, "own_generator_in_sampler"),
    (no_state_of_the_module, "module_ClassState"),
    (no_stand_ins, "stream_over_count"),
    (no_closures, "module_HooksFeatures"),
    (no_shadows, "average_in_a_dictionary"),
    (no_prepared_loader, "prepared_loader"),
    (no_shadows, "ema_listed_before"),
    (shared_precision, "fp16_mixed_with_scaler"),
    (no_strategy_attributes, "adam"),
    (leaked_momentum, "momentum"),
    (trained_buffers, "adam"),
]


@pytest.mark.parametrize(
    ("sabotage", "name"), CONTROLS, ids=lambda part: getattr(part, "__name__", part)
)
def test_an_omission_shows(sabotage: Callable[[], None], name: str) -> None:
    found = compare(SCENARIOS[name], sabotage)
    assert found
    # A difference of the two runs, or of the weights they start from; not an error of the sabotage.
    by_harness = any(
        text in found[0] for text in ("lightning_init/probe", "set(self.redrawn)", "setup.redraws")
    )
    assert found[0].startswith("/") or by_harness, found[0]


def test_a_written_bias_is_refused_by_the_harness() -> None:
    found = compare(SCENARIOS["adam"], redrawn_biases)
    assert "AssertionError: {'net.0.bias'}" in found[0]


def test_lines_of_the_probe_in_a_logger_show() -> None:
    assert any("csv" in line for line in compare(SCENARIOS["csv_logger"], real_loggers))


def test_a_hang_and_a_death_are_reported() -> None:
    with pytest.raises(AssertionError, match="died with exit code 3"):
        in_own_process(_die)


def _die() -> None:
    import os

    os._exit(3)


def test_the_comparison_sees_a_single_bit() -> None:
    left = {"a": [plain(torch.zeros(3)), 1.0]}
    right = {"a": [plain(torch.tensor([0.0, 0.0, -0.0])), 1.0]}
    assert differences(left, left) == []
    assert len(differences(left, right)) == 1
    assert differences({"a": 1}, {"a": True})
    assert differences({"a": 1}, {"b": 1})
    assert differences([1], [1, 2])
