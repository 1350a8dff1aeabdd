"""`FractionalMomentInit`: Gaussian first weights that preserve the order-s moment of the signal."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_init.callbacks.arguments import FRACTIONAL_MOMENT, check_arguments
from lightning_init.callbacks.base import _InitCallback, require_weights
from lightning_init.initialization.model_plan import undecided_clause
from lightning_init.initialization.plan import InitPlan, plan_fractional_moments
from lightning_init.initialization.settings import (
    Bias,
    ConvWidth,
    FirstLayer,
    FractionalMomentSettings,
    Mode,
    NonlinearityChoice,
    Recurrent,
    Scheme,
)
from lightning_init.initialization.synchronization import synchronize
from lightning_init.inspection.activation_tracing import ActivationInFront
from lightning_init.inspection.activations import activations_in_front, named_activations
from lightning_init.inspection.lazy import has_lazy_parameters, materialize_lazy_
from lightning_init.inspection.weights import WeightInventory, find_weights
from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.first_batch import first_batch, forward_arguments
from lightning_init.probe.shadows import shadows_follow
from lightning_init.probe.snapshot import preserved_random_state
from lightning_init.reporting import outputs


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
        order: Order s of the preserved moment, in [0, 2]; 0 is the log-moment.
        nonlinearity: "auto" finds the activation in front of each layer: by tracing one forward
            pass on the module's `example_input_array`, without one from the order of modules, or,
            where that does not tell, by tracing one batch of the training data, which is read
            without side effects. A name ("relu", "leaky_relu", "prelu", "rrelu", "linear", ...)
            holds for every layer but the first.
        param: Parameter of a named nonlinearity: the slope, or (lower, upper) of "rrelu".
        dropout: Dropout probability in front of each layer for a named nonlinearity.
        bias: "zero", which the theorem needs, or "keep".
        include: Glob patterns of layer names that take part; the default is all.
        exclude: Glob patterns of layer names that do not take part.
        first_layer: Law of a layer with no activation in front: "linear" is exact for standardised
            inputs, "activation" uses the next layer's law, as is usual with Kaiming.
        mode: "fan_in" preserves each pre-activation, "fan_out" the norm of the activations.
        conv_width: Independent inputs of a convolution: all "taps" (usual) or only "channels".
        recurrent: Hidden-to-hidden weights, which no theorem covers: "orthogonal", "keep", "same".
        scheme: "exact", "asymptotic" (large widths), or "authors" (the published code's formulas,
            wrong for large slopes).
        conditional: Preserve the moment given that the layer is alive.
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
        param: float | tuple[float, float] | None = None,
        dropout: float = 0.0,
        bias: Bias = "zero",
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        first_layer: FirstLayer = "linear",
        mode: Mode = "fan_in",
        conv_width: ConvWidth = "taps",
        recurrent: Recurrent = "orthogonal",
        scheme: Scheme = "exact",
        conditional: bool = False,
        seed: int | None = None,
        dry_run: bool = False,
        verbose: bool = True,
    ) -> None:
        check_arguments(FRACTIONAL_MOMENT, locals())
        super().__init__(seed)
        self.settings = FractionalMomentSettings(
            order=order,
            scheme=scheme,
            mode=mode,
            first_layer=first_layer,
            conv_width=conv_width,
            recurrent=recurrent,
            bias=bias,
            conditional=conditional,
        )
        NonlinearityChoice(nonlinearity, param, dropout)  # refuses what is wrong now
        self.nonlinearity = nonlinearity
        self.param = param
        self.dropout = dropout
        self.include = include
        self.exclude = exclude
        self.dry_run = dry_run
        self.verbose = verbose
        self.plan: InitPlan | None = None
        self._planned: frozenset[str] = frozenset()
        self._example: Any = None
        self._to_log = False
        self._to_show = False
        self._to_measure = False

    @property
    def state_key(self) -> str:
        """Tells two instances on one Trainer apart by the layers that they draw."""
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draw the weights that exist already, so that later callbacks see them."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit" or not self._is_fresh(trainer):
            return
        self.plan, self._planned, self._example = None, frozenset(), None
        self._to_log = self._to_show = self._to_measure = False
        try:
            inventory = find_weights(pl_module, self.include, self.exclude)
        except ValueError:  # a pattern may name layers that are still to be made
            return
        if inventory.weights and not has_lazy_parameters(pl_module):
            # Neither trained nor moved yet: what the example cannot be run through now may run
            # later, when everything is set up.
            with suppress(ValueError):
                self._example = self._example_array(trainer, pl_module)
                activations, unknown = self._activations(pl_module, inventory)
                if not unknown:
                    self._draw(trainer, pl_module, inventory, activations)

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

        Raises:
            MisconfigurationException: If a weight is on the meta device, none takes part, or the
                activation in front of one cannot be told.
        """
        if not self._is_fresh(trainer):
            return
        self._example = self._example_array(trainer, module)
        if has_lazy_parameters(module):
            self._materialize(trainer, module)
        inventory = find_weights(module, self.include, self.exclude)
        require_weights(type(self).__name__, inventory)
        if any(weight.name not in self._planned for weight in inventory.weights):
            activations = self._decide(trainer, module, inventory)
            self._draw(trainer, module, inventory, activations)
        self._measure(trainer, module)
        self._show(trainer)
        self._example = None

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

    def _decide(
        self, trainer: Trainer, module: LightningModule, inventory: WeightInventory
    ) -> dict[str, ActivationInFront]:
        """Read, trace, or trace one batch of the training data; refuse if none of them tells."""
        failure = ""
        try:
            activations, unknown = self._activations(module, inventory)
            if unknown:
                self._example = self._example_batch(trainer, module)
                activations, unknown = self._activations(module, inventory)
        except ValueError as error:
            # What the forward pass cannot tell, the order of modules may.
            self._example, failure = None, f" ({error})"
            activations, unknown = self._activations(module, inventory)
        activations, unknown = trainer.strategy.broadcast((activations, unknown))
        if unknown:
            raise MisconfigurationException(
                f"FractionalMomentInit(nonlinearity='auto') {undecided_clause(unknown)}{failure};"
                " name it (nonlinearity='relu'), or set `example_input_array` on the module so"
                " that its forward pass can be traced."
            )
        return activations

    def _activations(
        self, module: LightningModule, inventory: WeightInventory
    ) -> tuple[dict[str, ActivationInFront], list[str]]:
        with preserved_random_state():
            if self.nonlinearity == "auto":
                return activations_in_front(module, inventory.weights, self._example)
            named = named_activations(
                module, inventory.weights, self.nonlinearity, self.param, self.dropout
            )
        return named, []

    def _draw(
        self,
        trainer: Trainer,
        module: LightningModule,
        inventory: WeightInventory,
        activations: dict[str, ActivationInFront],
    ) -> None:
        plan = plan_fractional_moments(inventory, activations, self.settings)
        late = tuple(row for row in plan.rows if row.weight.name not in self._planned)
        self.plan, self._to_show = plan, True
        self._to_log = self._to_measure = not self.dry_run
        if not self.dry_run:
            seed = self._resolve_seed(trainer)
            with shadows_follow(trainer, module):
                replace(plan, rows=late).apply_(module, seed)
                synchronize(module)
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
                remark = f"Not measured: {error}"
                self.plan = replace(self.plan, remarks=(*self.plan.remarks, remark))

    def _show(self, trainer: Trainer) -> None:
        if not (self._to_show and self.plan is not None and trainer.is_global_zero):
            return
        self._to_show = False
        for sentence in self.plan.warnings:
            rank_zero_warn(f"{type(self).__name__}: {sentence}")
        if self.verbose or self.dry_run:
            outputs.show(self.plan.table())
