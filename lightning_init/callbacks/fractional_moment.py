"""`FractionalMomentInit`: Gaussian first weights that preserve the order-s moment of the signal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_init.callbacks.arguments import FRACTIONAL_MOMENT, check_arguments
from lightning_init.callbacks.base import _InitCallback, require_weights
from lightning_init.callbacks.model_reading import read_for_training, read_quietly, trains
from lightning_init.initialization.fill import synchronize
from lightning_init.initialization.model_plan import plan_of_reading, undecided_clause
from lightning_init.initialization.plan import InitPlan
from lightning_init.initialization.settings import (
    Bias,
    ConvWidth,
    FirstLayer,
    FractionalMomentSettings,
    Mode,
    Recurrent,
    Respect,
    documents_settings,
)
from lightning_init.inspection.activations import Reading
from lightning_init.inspection.lazy import has_lazy_parameters, materialize_lazy_
from lightning_init.inspection.weights import find_weights
from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.first_batch import first_batch, first_loss, forward_arguments
from lightning_init.probe.shadows import shadows_follow
from lightning_init.probe.snapshot import preserved_random_state
from lightning_init.reporting import tensorboard
from lightning_init.search.failures import (
    is_a_refusal,
    told_if_it_fails,
    warn_that_nothing_was_drawn,
)
from lightning_init.user_line import warn_user


@documents_settings
class FractionalMomentInit(_InitCallback):
    """Draw the first weights so that the order-s moment of the signal is preserved.

    Every Linear and convolution weight is drawn from N(0, sigma^2) with the sigma that keeps
    E|y|^s constant from layer to layer, exactly at finite width (Gurbuzbalaban & Hu, AISTATS 2021,
    arXiv 2005.11878). Order 2 is Kaiming / LeCun; lower orders give slightly larger weights and
    fewer vanishing outputs: +1 % at width 64 and order 1, +0.1 % at width 784.

    The draw happens at setup, at no training cost; weights that do not exist yet (made in
    `LightningModule.setup` or `configure_model`) are drawn before the first step. A resumed run is
    never redrawn. The plan is on `callback.plan` and is printed once.

    Args:
        **settings: See `FractionalMomentSettings`.
        seed: Seed of the draw; the default is the global seed. Each layer's stream depends on
            this and on the layer's name alone.
        dry_run: Print the plan and change nothing.
        verbose: Print the plan.

    Raises:
        ValueError: If an argument is outside its range.

    **Logged Metrics.** TensorBoard gets, once, at step 0; the figures need matplotlib:

    - `FractionalMomentInit/plan/text_summary`: the plan as a table
    - `FractionalMomentInit/figure/first_weights`: what the weights become, layer by layer
    - `FractionalMomentInit/figure/log_norm`: predicted and measured log-norm through the depth, if
      there is an example input or batch

    Every other logger gets `std`, `log_norm` and `log_norm_predicted` of every layer.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_init import FractionalMomentInit
        >>> trainer = Trainer(callbacks=[FractionalMomentInit(order=1.0)], logger=False)
    """

    def __init__(
        self,
        order: float = 1.0,
        nonlinearity: str = "auto",
        param: float | tuple[float, ...] | None = None,
        dropout: float = 0.0,
        bias: Bias = "auto",
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        first_layer: FirstLayer = "linear",
        mode: Mode = "fan_in",
        conv_width: ConvWidth = "taps",
        recurrent: Recurrent = "orthogonal",
        respect: Respect = "author",
        seed: int | None = None,
        dry_run: bool = False,
        verbose: bool = True,
    ) -> None:
        check_arguments(FRACTIONAL_MOMENT, locals())
        self.settings = FractionalMomentSettings.among(locals())
        super().__init__(seed)
        self.dry_run = dry_run
        self.verbose = verbose
        self.plan: InitPlan | None = None
        self._planned: frozenset[str] = frozenset()
        self._example: Any = None
        self._batch: Any = None
        self._failure = ""
        self._gave_up = False
        self._to_log = False
        self._to_show = False
        self._to_measure = False

    @property
    def state_key(self) -> str:
        """Tells two instances on one Trainer apart by the layers that they draw."""
        return self._generate_state_key(
            include=self.settings.include, exclude=self.settings.exclude
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draw the weights that exist already, so that later callbacks see them."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit" or not self._is_fresh(trainer):
            return
        self.plan, self._planned = None, frozenset()
        self._example = self._batch = None
        self._to_log = self._to_show = self._to_measure = self._gave_up = False
        if not trains(trainer) or has_lazy_parameters(pl_module):
            return
        # Neither trained nor moved yet: what the example cannot be run through now may run later,
        # when everything is set up, and a pattern may name layers that are still to be made.
        with suppress(Exception if trainer.world_size == 1 else ValueError):
            self._example = self._example_array(trainer, pl_module)
            reading = read_quietly(pl_module, self._example, self.settings)
            traced = self._example is not None and bool(reading.inventory.weights)
            if traced or (reading.complete and self.settings.reads_model):
                self._draw(trainer, pl_module, reading)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what did not exist, or could not be decided, at setup."""
        self.draw_late_weights(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the plan, now that the loggers are open."""
        if self._to_log and self.plan is not None:
            self._to_log = False
            with told_if_it_fails("log the plan", type(self).__name__, "`callback.plan`"):
                tensorboard.log_plan(trainer.loggers, self.plan)

    def draw_late_weights(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw the weights that `setup` did not see; calling it again draws nothing.

        Nothing is drawn for a run that does not train. An error that nobody foresaw is told and
        leaves the weights as they were; it is raised if "strict", and in a distributed run, where
        the other ranks would wait for the one that failed.

        Raises:
            ValueError: If a pattern names no parameter.
            MisconfigurationException: If "strict" finds no weight, or cannot tell what stands in
                front of one.
        """
        if self._gave_up or not (self._is_fresh(trainer) and trains(trainer)):
            return
        try:
            self._draw_the_rest(trainer, module)
        except Exception as error:
            strict = self.settings.nonlinearity == "strict" or trainer.world_size > 1
            if strict or is_a_refusal(error):
                raise
            self._gave_up = True
            warn_that_nothing_was_drawn(error)
        with told_if_it_fails("show the plan", type(self).__name__, "`callback.plan`"):
            self._measure(trainer, module)
            self._show(trainer)
        self._example = self._batch = None

    # ------------------------------------------------------------------------------------- steps
    def _draw_the_rest(self, trainer: Trainer, module: LightningModule) -> None:
        self._example = self._example_array(trainer, module)
        if has_lazy_parameters(module):
            self._materialize(trainer, module)
        inventory = find_weights(module, self.settings.include, self.settings.exclude)
        if self.plan is None or any(one.name not in self._planned for one in inventory.weights):
            reading = self._decide(trainer, module)
            if not self._takes_part(reading):
                return
            self._draw(trainer, module, reading)

    def _example_array(self, trainer: Trainer, module: LightningModule) -> Any:
        example = module.example_input_array
        if example is None:
            return None
        example = trainer.precision_plugin.convert_input(example)
        return move_data_to_device(example, module.device)

    def _materialize(self, trainer: Trainer, module: LightningModule) -> None:
        """Give lazy layers their shapes; those that cannot get one are left out with the reason."""
        if self._example is None and (batch := first_batch(trainer, module)) is not None:
            self._example = forward_arguments(module, batch)
        try:
            if self._example is not None:
                materialize_lazy_(module, self._example)
        except ValueError:
            self._example = None

    def _decide(self, trainer: Trainer, module: LightningModule) -> Reading:
        """Learn of the model whatever can be learned; all ranks go by rank zero."""
        found = read_for_training(trainer, module, self._example, self.settings)
        self._example, self._batch = found.example, found.batch
        self._failure = f" ({'; '.join(found.failures)})" if found.failures else ""
        decided: Reading = trainer.strategy.broadcast(found.reading)
        return decided

    def _takes_part(self, reading: Reading) -> bool:
        """Whether there is something to draw; if not, it is said, and "strict" refuses."""
        try:
            require_weights(type(self).__name__, reading.inventory)
        except MisconfigurationException as error:
            patterns = self.settings.include is not None or self.settings.exclude is not None
            if patterns or self.settings.nonlinearity == "strict":
                raise
            warn_user(f"{error} Nothing was drawn.")
            return False
        if reading.unknown and self.settings.nonlinearity == "strict":
            raise MisconfigurationException(
                f"FractionalMomentInit(nonlinearity='strict') {undecided_clause(reading.unknown)}"
                f"{self._failure}; name it (nonlinearity='relu'), or set `example_input_array` on"
                " the module so that its forward pass can be traced."
            )
        return True

    def _draw(self, trainer: Trainer, module: LightningModule, reading: Reading) -> None:
        plan = plan_of_reading(reading, self.settings, module, self._failure)
        drawn = {} if self.plan is None else {row.weight.name: row for row in self.plan.rows}
        late = tuple(row for row in plan.rows if row.weight.name not in drawn)
        plan = replace(plan, rows=tuple([drawn.get(row.weight.name, row) for row in plan.rows]))
        if not self.dry_run:
            seed = self._resolve_seed(trainer)
            # What an earlier draw of ours left is not what was there.
            before = None if self._planned else first_loss(trainer, module, self._batch)
            with shadows_follow(trainer, module):
                replace(plan, rows=late).apply_(module, seed)
                synchronize(module)
            if before is not None:
                plan = plan.with_losses(before, first_loss(trainer, module, self._batch))
        self.plan, self._to_show = plan, True
        self._to_log = self._to_measure = not self.dry_run
        self._planned = frozenset(row.weight.name for row in plan.rows)

    def _measure(self, trainer: Trainer, module: LightningModule) -> None:
        """Compare prediction and measurement, where an example is at hand and weights are whole."""
        whole = internals.distributed_with_copies(trainer.strategy)
        if not (self._to_measure and self.plan and whole) or self._example is None:
            return
        self._to_measure = False
        with preserved_random_state():
            try:
                self.plan = self.plan.measured_on(module, self._example)
            except ValueError as error:
                why = "`forward` does not take the batch." if self._batch is not None else error
                remark = f"Not measured: {why}"
                self.plan = replace(self.plan, remarks=(*self.plan.remarks, remark))

    def _show(self, trainer: Trainer) -> None:
        if not (self._to_show and self.plan is not None and trainer.is_global_zero):
            return
        self._to_show = False
        for sentence in self.plan.warnings:
            warn_user(f"{type(self).__name__}: {sentence}")
        if self.verbose or self.dry_run:
            self.plan.page().show()
