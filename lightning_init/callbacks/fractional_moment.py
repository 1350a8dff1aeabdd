"""`FractionalMomentInit`: Gaussian first weights that preserve the order-s moment of the signal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_init.callbacks.arguments import FRACTIONAL_MOMENT, check_arguments
from lightning_init.callbacks.base import _InitCallback, require_weights
from lightning_init.callbacks.model_reading import read_for_training, read_quietly, trains
from lightning_init.initialization.model_plan import assumption_warning, undecided_clause
from lightning_init.initialization.plan import InitPlan, plan_fractional_moments
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
from lightning_init.initialization.synchronization import synchronize
from lightning_init.inspection.activation_tracing import ActivationInFront
from lightning_init.inspection.activations import Reading, named_activations
from lightning_init.inspection.lazy import has_lazy_parameters, materialize_lazy_
from lightning_init.inspection.weights import find_weights
from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.first_batch import first_batch, forward_arguments
from lightning_init.probe.shadows import shadows_follow
from lightning_init.probe.silent_step import first_loss
from lightning_init.probe.snapshot import preserved_random_state
from lightning_init.reporting import outputs


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

    **Logged Metrics.** Every logger gets, once, at step 0:

    - `FractionalMomentInit/std/<layer>`: standard deviation of the layer's first weights
    - `FractionalMomentInit/log_norm/<layer>`: log-norm of what enters the layer, measured on the
      example input or batch, if there is one
    - `FractionalMomentInit/log_norm_predicted/<layer>`: its mean by the theory, where that reaches

    TensorBoard also gets, if matplotlib is installed:

    - `FractionalMomentInit/figure/log_norm`: both through the depth, with bands of 1 and 2 sd

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
        self._to_log = self._to_show = self._to_measure = False
        if not trains(trainer) or has_lazy_parameters(pl_module):
            return
        # Neither trained nor moved yet: what the example cannot be run through now may run later,
        # when everything is set up, and a pattern may name layers that are still to be made.
        with suppress(ValueError):
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
            outputs.log_fractional_moments(trainer.loggers, self.plan)

    def draw_late_weights(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw the weights that `setup` did not see; calling it again draws nothing.

        Nothing is drawn for a run that does not train.

        Raises:
            ValueError: If a pattern names no parameter.
            MisconfigurationException: If "strict" finds no weight, or cannot tell what stands in
                front of one.
        """
        if not (self._is_fresh(trainer) and trains(trainer)):
            return
        self._example = self._example_array(trainer, module)
        if has_lazy_parameters(module):
            self._materialize(trainer, module)
        inventory = find_weights(module, self.settings.include, self.settings.exclude)
        if self.plan is None or any(one.name not in self._planned for one in inventory.weights):
            reading = self._decide(trainer, module)
            if not self._takes_part(reading):
                return
            self._draw(trainer, module, reading)
        self._measure(trainer, module)
        self._show(trainer)
        self._example = self._batch = None

    # ------------------------------------------------------------------------------------- steps
    def _example_array(self, trainer: Trainer, module: LightningModule) -> Any:
        example = module.example_input_array
        if example is None:
            return None
        example = trainer.precision_plugin.convert_input(example)
        return move_data_to_device(example, module.device)

    def _example_batch(self, trainer: Trainer, module: LightningModule) -> Any:
        batch = first_batch(trainer, module)
        return None if batch is None else forward_arguments(module, batch)

    def _materialize(self, trainer: Trainer, module: LightningModule) -> None:
        """Give lazy layers their shapes; those that cannot get one are left out with the reason."""
        if self._example is None:
            self._example = self._example_batch(trainer, module)
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
            rank_zero_warn(f"{error} Nothing was drawn.")
            return False
        if reading.unknown and self.settings.nonlinearity == "strict":
            raise MisconfigurationException(
                f"FractionalMomentInit(nonlinearity='strict') {undecided_clause(reading.unknown)}"
                f"{self._failure}; name it (nonlinearity='relu'), or set `example_input_array` on"
                " the module so that its forward pass can be traced."
            )
        return True

    def _activations(self, reading: Reading) -> dict[str, ActivationInFront]:
        settings = self.settings
        if settings.reads_model:
            return reading.assumed().activations
        return named_activations(
            reading.inventory.weights,
            reading.activations,
            settings.nonlinearity,
            settings.param,
            settings.dropout,
        )

    def _draw(
        self,
        trainer: Trainer,
        module: LightningModule,
        reading: Reading,
    ) -> None:
        activations = self._activations(reading)
        plan = plan_fractional_moments(reading.inventory, activations, self.settings, module)
        if self.settings.reads_model:
            sentences = assumption_warning(reading.unknown, self._failure)
            plan = replace(plan, warnings=(*sentences, *plan.warnings))
        drawn = {} if self.plan is None else {row.weight.name: row for row in self.plan.rows}
        late = tuple(row for row in plan.rows if row.weight.name not in drawn)
        plan = replace(plan, rows=tuple([drawn.get(row.weight.name, row) for row in plan.rows]))
        self.plan, self._to_show = plan, True
        self._to_log = self._to_measure = not self.dry_run
        if not self.dry_run:
            seed = self._resolve_seed(trainer)
            # What an earlier draw of ours left is not what was there.
            before = None if self._planned else first_loss(trainer, module, self._batch)
            with shadows_follow(trainer, module):
                replace(plan, rows=late).apply_(module, seed)
                synchronize(module)
            if before is not None:
                self.plan = plan.with_losses(before, first_loss(trainer, module, self._batch))
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
            rank_zero_warn(f"{type(self).__name__}: {sentence}")
        if self.verbose or self.dry_run:
            self.plan.page().show()
