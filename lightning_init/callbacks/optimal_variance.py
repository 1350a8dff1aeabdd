"""`OptimalVarianceInit`: probe, take V(W), put everything back, redraw, restart."""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_init.callbacks.arguments import OPTIMAL_VARIANCE, check_arguments
from lightning_init.callbacks.base import _InitCallback, require_weights
from lightning_init.callbacks.fractional_moment import FractionalMomentInit
from lightning_init.inspection.weights import find_weights
from lightning_init.probe import ProbeLimits
from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.snapshot import preserved_random_state
from lightning_init.recipes.recipe import InitRecipe
from lightning_init.reporting import outputs
from lightning_init.reporting.report import InitReport
from lightning_init.search.known_variances import apply_recipe, recipe_of, write_in_log_dir
from lightning_init.search.redraw import redraw
from lightning_init.search.sentences import warn_of_outcome, warn_of_zero_learning_rate
from lightning_init.search.sequence import search
from lightning_init.search.settings import (
    Granularity,
    Moment,
    OnUnsettled,
    OptimalVarianceSettings,
)
from lightning_init.stationarity import DetectorSettings


class OptimalVarianceInit(_InitCallback):
    """Redraw the first weights with the variance that training itself settles at, then restart.

    Before the first step a copy of the model is trained for a probe phase with the run's own
    optimizer, data and precision. The variance V(W) of each layer's weights is followed until a
    test finds it quasi-stationary over the planned length of the run. Then everything is put back,
    the weights are redrawn from N(0, V(W)), and the real run starts: step 0, fresh optimizer, the
    same batches as without a probe. The rule sigma0^2 = V(W) minimises a bound on the expected
    loss (Horii & Has, arXiv 2508.12834); its effect is often small, and the report says so.

    The outcome is on `callback.report` and is printed once; what it takes to draw the same scales
    again is on `callback.recipe` and in `<log_dir>/init_recipe.json`. Biases and normalization
    layers keep their initialization. A resumed run is neither probed nor redrawn. When anything
    fails, the module's weights are what they were.

    Args:
        max_probe_steps: Most optimizer steps of the probe; it ends sooner when all layers settle.
        on_unsettled: What layers get whose variance has not settled when the budget ends: "use"
            (V at that moment, with a warning), "keep" (their initial weights), "project" (V
            extrapolated to the end of the horizon where that is sharp) or "raise" (an error).
        tolerance: Largest relative change of V over the horizon that counts as settled.
        confidence: One-sided confidence level of that statement.
        persistence: Consecutive checks that must agree.
        horizon: Optimizer steps over which V must stay put: "run" (the planned length of the real
            run), "probe" (max_probe_steps) or a number of steps.
        sample_every_n_steps: Optimizer steps between two measurements; the default is 12, with at
            least 80 and at most 250 measurements per probe.
        granularity: One variance per "layer", one "global" variance, or one "gain" over the He
            variances 2 / fan-in.
        moment: What V is: the variance about the layer's mean ("central") or about 0 ("raw").
        largest_change: Largest factor by which a layer's variance may change in a round, either
            way; the default is no limit, and 16 with several rounds.
        rounds: Most probes, each from the weights that the one before asks for; it ends when none
            would change by more than 5 %.
        forgetting: Probe once more from a quarter of the variance, for as many steps, and tell
            for each layer whether V depends on where the probe started.
        guard_steps: Optimizer steps of a trial of the redraw against the original weights, ten
            trials in all; the redraw is kept unless it is worse with the stated confidence.
        include: Glob patterns of layer names that take part; the default is all.
        exclude: Glob patterns of layer names that do not take part.
        probe_lr: Learning rate of the probe; the default is the schedule's first value.
        keep_schedule: Step the learning-rate schedule during the probe instead of holding its
            first value.
        isolate_dataset: Probe on a deep copy of the data, for datasets that change when read.
        probe_dataloaders: Loaders for the probe in place of the run's own, for data that can be
            read only once.
        recipe: File that an earlier probe wrote: its variances are drawn, without a probe.
        recipe_by_width: Let the recipe's layers have another width: sigma0^2 times fan-in stays.
        recipe_path: Where to write what was found; it is also written to the log directory.
        seed: Seed of the redraw; the default is the global seed. Each layer's stream depends on
            this and on the layer's name alone.
        log_summary: Log the outcome to loggers other than TensorBoard, as one row at step 0.
        verbose: Print the report.

    Raises:
        ValueError: If an argument is outside its range.

    **Logged Metrics.** With a TensorBoard logger, the probe has its own run, `<log_dir>/probe`:

    - `OptimalVarianceInit/variance/<layer>`: variance of the layer's weights, per probe step
    - `OptimalVarianceInit/drift/<layer>`: relative change over the horizon, per probe step
    - `OptimalVarianceInit/kl/<layer>`: KL(N(0, V) || N(0, V before)) in nat, per probe step
    - `OptimalVarianceInit/sigma0/<layer>`: standard deviation of the real run's first weights
    - `OptimalVarianceInit/ratio/<layer>`: V over the realised variance before the probe
    - `OptimalVarianceInit/balance/<layer>`: dissipation over fluctuation minus 1, for plain SGD
    - `OptimalVarianceInit/tolerance`: the drift that counts as none, to compare with
    - `OptimalVarianceInit/band/<name>/<layer>`: confidence limits of V and of the drift
    - `OptimalVarianceInit/report/text_summary`: the whole report as a table
    - `OptimalVarianceInit/figure/<name>`: figures, if matplotlib is installed

    Other loggers get `sigma0` and `ratio`, once, at step 0.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_init import OptimalVarianceInit
        >>> callback = OptimalVarianceInit(max_probe_steps=2000)
        >>> trainer = Trainer(callbacks=[callback], logger=False)
    """

    def __init__(
        self,
        max_probe_steps: int = 1000,
        on_unsettled: OnUnsettled = "use",
        tolerance: float = 0.10,
        confidence: float = 0.95,
        persistence: int = 4,
        horizon: Literal["run", "probe"] | int = "run",
        sample_every_n_steps: int | None = None,
        granularity: Granularity = "layer",
        moment: Moment = "central",
        largest_change: float | None = None,
        rounds: int = 1,
        forgetting: bool = False,
        guard_steps: int = 0,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        probe_lr: float | None = None,
        keep_schedule: bool = False,
        isolate_dataset: bool = False,
        probe_dataloaders: Any | None = None,
        recipe: str | None = None,
        recipe_by_width: bool = False,
        recipe_path: str | None = None,
        seed: int | None = None,
        log_summary: bool = True,
        verbose: bool = True,
    ) -> None:
        check_arguments(OPTIMAL_VARIANCE, locals())
        super().__init__(seed)
        self.settings = OptimalVarianceSettings(
            limits=ProbeLimits(
                max_steps=max_probe_steps,
                learning_rate=probe_lr,
                keep_schedule=keep_schedule,
                isolate_dataset=isolate_dataset,
                dataloaders=probe_dataloaders,
            ),
            detector=DetectorSettings(
                tolerance=tolerance, confidence=confidence, persistence=persistence
            ),
            on_unsettled=on_unsettled,
            horizon=horizon,
            sample_every_n_steps=sample_every_n_steps,
            granularity=granularity,
            moment=moment,
            largest_change=largest_change,
            rounds=rounds,
            forgetting=forgetting,
            guard_steps=guard_steps,
        )
        if recipe_by_width and recipe is None:
            raise ValueError("`recipe_by_width` needs a `recipe`; give the file, or leave it out.")
        self.include = include
        self.exclude = exclude
        self.recipe_file = recipe
        self.recipe_by_width = recipe_by_width
        self.recipe_path = recipe_path
        self.log_summary = log_summary
        self.verbose = verbose
        self.report: InitReport | None = None
        self.recipe: InitRecipe | None = None
        self._to_log = False

    @property
    def state_key(self) -> str:
        """Tells two instances on one Trainer apart by the layers that they redraw."""
        return self._generate_state_key(include=self.include, exclude=self.exclude)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh on a new run."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and trainer.global_step == 0:
            self.report = None
            self.recipe = None
            self._to_log = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe, put everything back, redraw; or draw a recipe."""
        if not self._is_fresh(trainer):
            return
        skipped = _reason_to_skip(trainer) if self.recipe_file is None else None
        if skipped:
            rank_zero_info(f"OptimalVarianceInit: probe skipped, because {skipped}.")
            return
        _draw_late_weights(trainer, pl_module)
        with preserved_random_state():
            if self.recipe_file is None:
                self._probe_and_redraw(trainer, pl_module)
            else:
                self._draw_recipe(trainer, pl_module, self.recipe_file)
        self._to_log = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the outcome, now that the real run's loggers have opened their files."""
        if not self._to_log:
            return
        self._to_log = False
        with preserved_random_state():
            if self.recipe is not None:
                write_in_log_dir(trainer, self.recipe)
            if self.report is not None:
                outputs.log_probe(trainer, self.report, summary=self.log_summary)

    def state_dict(self) -> dict[str, Any]:
        """What was found, so that a checkpoint tells where its first weights came from."""
        return {"report": None if self.report is None else self.report.to_dict()}

    def _probe_and_redraw(self, trainer: Trainer, module: LightningModule) -> None:
        inventory = find_weights(module, self.include, self.exclude)
        require_weights(type(self).__name__, inventory)
        limits = self.settings.limits
        if not limits.keep_schedule and limits.learning_rate is None:
            warn_of_zero_learning_rate(trainer)
        seed = self._resolve_seed(trainer)
        report = search(trainer, module, inventory, self.settings, seed)
        recipe = recipe_of(report, trainer)
        if self.recipe_path is not None and trainer.is_global_zero:
            recipe.save(self.recipe_path)
        warn_of_outcome(report, self.settings)
        redraw(trainer, module, inventory.weights, report.layers, seed)
        self.report, self.recipe = report, recipe
        if self.verbose and trainer.is_global_zero:
            outputs.show(report.table())

    def _draw_recipe(self, trainer: Trainer, module: LightningModule, path: str) -> None:
        inventory = find_weights(module, self.include, self.exclude)
        require_weights(type(self).__name__, inventory)
        recipe = InitRecipe.load(path)
        seed = self._resolve_seed(trainer)
        drawn = apply_recipe(trainer, module, recipe, inventory, seed, self.recipe_by_width)
        self.recipe = recipe
        if self.verbose:
            rank_zero_info(
                f"OptimalVarianceInit: {len(drawn)} of {len(recipe.layers)} layers drawn from"
                f" {path!r} with seed {seed}, without a probe."
            )


def _reason_to_skip(trainer: Trainer) -> str | None:
    if internals.fast_dev_run(trainer):
        return "fast_dev_run only checks that the code runs"
    if trainer.max_epochs == 0 or trainer.max_steps == 0 or trainer.limit_train_batches == 0:
        return "the run trains no step"
    return None


def _draw_late_weights(trainer: Trainer, module: LightningModule) -> None:
    """Let the probe start from the closed-form weights, also when that callback is listed later."""
    for callback in internals.callbacks(trainer):
        if isinstance(callback, FractionalMomentInit):
            callback.draw_late_weights(trainer, module)
