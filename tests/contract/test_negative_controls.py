"""Each ingredient of the restart, taken away alone, shows in the comparison."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import contract_scenarios_callbacks as contract_scenarios_callbacks
import contract_scenarios_data as contract_scenarios_data
import contract_scenarios_modules as contract_scenarios_modules
import contract_scenarios_training as contract_scenarios_training
import pytest
import torch
from contract_harness import compare, in_own_process
from contract_record import differences, plain
from contract_registry import SCENARIOS

from lightning_init.callbacks import fractional_moment, optimal_variance
from lightning_init.probe import data_state, runner, snapshot
from lightning_init.probe import lightning_internals as internals


def nothing(*_: Any, **__: Any) -> Callable[[], None]:
    """Captures nothing and restores nothing."""
    return lambda: None


@contextmanager
def unguarded(*_: Any) -> Iterator[None]:
    """A context that does nothing."""
    yield


def no_random_state() -> None:
    snapshot.capture_random_state = nothing


def a_draw_from_the_global_stream() -> None:
    fill = optimal_variance.fill_normal_
    optimal_variance.preserved_random_state = unguarded

    def careless(*arguments: Any) -> None:
        torch.rand(())
        fill(*arguments)

    optimal_variance.fill_normal_ = careless


def no_data_state() -> None:
    runner.capture_data_state = nothing


def no_generators() -> None:
    capture = data_state._capture
    data_state._capture = lambda item: None if isinstance(item, torch.Generator) else capture(item)


def no_prepared_loader() -> None:
    enter = runner._enter

    def forgetful(trainer: Any, *arguments: Any) -> Any:
        trainer.fit_loop._combined_loader = None
        return enter(trainer, *arguments)

    runner._enter = forgetful


def no_shadows() -> None:
    optimal_variance.shadows_follow = unguarded
    fractional_moment.shadows_follow = unguarded


def shared_precision() -> None:
    deepcopy = copy.deepcopy
    runner.copy = type("copy", (), {"copy": copy.copy, "deepcopy": staticmethod(lambda x, *_: x)})
    assert copy.deepcopy is deepcopy


def no_trainer_attributes() -> None:
    snapshot.capture_attributes = nothing


def no_strategy_attributes() -> None:
    capture = snapshot.capture_attributes
    snapshot.capture_attributes = lambda holder: (
        nothing() if "Strategy" in type(holder).__name__ else capture(holder)
    )


def shared_optimizers() -> None:
    copied = runner.snapshot.copy_training

    def sharing(trainer: Any, module: Any, optimizers: Any, *rest: Any) -> Any:
        twin = copied(trainer, module, optimizers, *rest)
        for own, original in zip(twin.optimizers, optimizers, strict=True):
            own.state = original.state
            original.state[next(module.parameters())]["step"] = torch.tensor(3.0)
        return twin

    runner.snapshot.copy_training = sharing


def real_loggers() -> None:
    enter = internals.enter_training_state

    def noisy(trainer: Any, *arguments: Any) -> None:
        enter(trainer, *arguments)
        trainer.loggers = trainer.fit_loop.real_loggers

    keep = runner._enter

    def remembering(trainer: Any, *arguments: Any) -> Any:
        trainer.fit_loop.real_loggers = trainer.loggers
        return keep(trainer, *arguments)

    runner._enter, internals.enter_training_state = remembering, noisy


def redrawn_biases() -> None:
    redraw = optimal_variance.OptimalVarianceInit._redraw

    def careless(self: Any, trainer: Any, module: Any, *rest: Any) -> None:
        redraw(self, trainer, module, *rest)
        module.net[0].bias.data.zero_()

    optimal_variance.OptimalVarianceInit._redraw = careless


def trained_buffers() -> None:
    run_probe = optimal_variance.run_probe

    def leaking(trainer: Any, module: Any, *rest: Any) -> Any:
        result = run_probe(trainer, module, *rest)
        module.net[1].running_mean.add_(0.1)
        return result

    optimal_variance.run_probe = leaking


CONTROLS: list[tuple[Callable[[], None], str]] = [
    (no_random_state, "sgd_plain"),
    (a_draw_from_the_global_stream, "sgd_plain"),
    (no_data_state, "iterable_counts_epochs"),
    (no_data_state, "prepared_loader_with_persistent_workers"),
    (no_generators, "own_generator"),
    (no_generators, "own_generator_in_sampler"),
    (no_prepared_loader, "prepared_loader"),
    (no_shadows, "ema_listed_before"),
    (shared_precision, "fp16_mixed_with_scaler"),
    (no_strategy_attributes, "adam"),
    (shared_optimizers, "adam"),
    (trained_buffers, "adam"),
]


@pytest.mark.parametrize(
    ("sabotage", "name"), CONTROLS, ids=lambda part: getattr(part, "__name__", part)
)
def test_an_omission_shows(sabotage: Callable[[], None], name: str) -> None:
    found = compare(SCENARIOS[name], sabotage)
    assert found


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
