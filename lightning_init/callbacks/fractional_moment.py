"""`FractionalMomentInit`: Gaussian first weights that preserve the order-s moment of the signal."""

from __future__ import annotations

from dataclasses import replace

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_init.callbacks.base import _InitCallback, require_weights, synchronize
from lightning_init.initialization.plan import InitPlan, plan_fractional_moments
from lightning_init.initialization.settings import (
    Bias,
    ConvWidth,
    FirstLayer,
    FractionalMomentSettings,
    Mode,
    Recurrent,
    Scheme,
)
from lightning_init.inspection.activation_tracing import ActivationInFront
from lightning_init.inspection.activations import activations_in_front, named_activations
from lightning_init.inspection.weights import WeightInventory, find_weights
from lightning_init.probe.shadows import shadows_follow
from lightning_init.probe.snapshot import preserved_random_state
from lightning_init.reporting import outputs
from lightning_init.reporting.tensorboard import log_plan
from lightning_init.theory.activation_laws import activation_law


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
        nonlinearity: "auto" reads the activation in front of each layer from the model; a name
            ("relu", "leaky_relu", "prelu", "rrelu", "linear", ...) holds for every layer but the
            first.
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
        if nonlinearity == "auto":
            if param is not None or dropout:
                raise ValueError(
                    "`param` and `dropout` belong to a named `nonlinearity`; 'auto' reads them"
                    " from the model."
                )
        else:
            activation_law(nonlinearity, param, dropout)  # refuses a wrong name or parameter now
        self.nonlinearity = nonlinearity
        self.param = param
        self.dropout = dropout
        self.include = include
        self.exclude = exclude
        self.dry_run = dry_run
        self.verbose = verbose
        self.plan: InitPlan | None = None
        self._planned: frozenset[str] = frozenset()
        self._to_log = False
        self._to_show = False

    @property
    def state_key(self) -> str:
        """Tells two instances on one Trainer apart by the layers that they draw."""
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Draw the weights that exist already, so that later callbacks see them."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit" or not self._is_fresh(trainer):
            return
        self.plan, self._planned = None, frozenset()
        try:
            inventory = find_weights(pl_module, self.include, self.exclude)
        except ValueError:  # a pattern may name layers that are still to be made
            return
        if inventory.weights:
            activations, undecided = self._activations(pl_module, inventory)
            if not undecided:
                self._draw(trainer, pl_module, inventory, activations)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what did not exist at setup."""
        self.draw_late_weights(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the plan, now that the loggers are open."""
        if self._to_log and self.plan is not None:
            self._to_log = False
            rows = [(r.weight.name, r.std, None, None) for r in self.plan.rows]
            log_plan(trainer.loggers, rows)

    def draw_late_weights(self, trainer: Trainer, module: LightningModule) -> None:
        """Draw the weights that `setup` did not see; calling it again draws nothing.

        Raises:
            MisconfigurationException: If a weight is on the meta device, none takes part, or the
                activation in front of one cannot be told.
        """
        if not self._is_fresh(trainer):
            return
        inventory = find_weights(module, self.include, self.exclude)
        require_weights(type(self).__name__, inventory)
        if any(weight.name not in self._planned for weight in inventory.weights):
            activations, undecided = self._activations(module, inventory)
            if undecided:
                raise MisconfigurationException(_undecided_message(undecided))
            self._draw(trainer, module, inventory, activations)
        self._show(trainer)

    # ------------------------------------------------------------------------------------- steps
    def _activations(
        self, module: LightningModule, inventory: WeightInventory
    ) -> tuple[dict[str, ActivationInFront], list[str]]:
        example = module.example_input_array
        if self.nonlinearity == "auto":
            with preserved_random_state():
                return activations_in_front(module, inventory.weights, example)
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
        self.plan, self._to_log, self._to_show = plan, not self.dry_run, self.verbose
        if not self.dry_run:
            seed = self._resolve_seed(trainer)
            with shadows_follow(trainer, module):
                replace(plan, rows=late).apply_(module, seed)
                synchronize(module)
        self._planned = frozenset(row.weight.name for row in plan.rows)

    def _show(self, trainer: Trainer) -> None:
        if self._to_show and self.plan is not None and trainer.is_global_zero:
            self._to_show = False
            outputs.show(self.plan.table())


def _undecided_message(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:4]) + (", ..." if len(names) > 4 else "")
    return (
        f"FractionalMomentInit(nonlinearity='auto') cannot tell which activation stands in front of"
        f" {shown}; name it (nonlinearity='relu'), or set `example_input_array` on the module so"
        " that its forward pass can be traced."
    )
