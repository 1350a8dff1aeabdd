"""`OptimalVarianceInit`: probe, take V(W), put everything back, redraw, restart."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_init.callbacks.arguments import OPTIMAL_VARIANCE, check_arguments
from lightning_init.callbacks.base import require_weights
from lightning_init.callbacks.fractional_moment import FractionalMomentInit
from lightning_init.callbacks.model_reading import trains
from lightning_init.callbacks.real_run import _FollowsRun
from lightning_init.inspection.weights import find_every_weight
from lightning_init.probe import ProbeLimits
from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.refusals import NothingToProbe
from lightning_init.probe.snapshot import preserved_random_state
from lightning_init.recipes.recipe import InitRecipe
from lightning_init.reporting import tensorboard
from lightning_init.reporting.report import InitReport
from lightning_init.search.failures import (
    OnProbeFailure,
    can_be_written,
    skip_or_raise,
    told_if_it_fails,
)
from lightning_init.search.known_variances import apply_recipe, optimizers_of, write_recipe
from lightning_init.search.purposeful import weights_to_probe
from lightning_init.search.redraw import redraw
from lightning_init.search.sentences import warn_of_outcome
from lightning_init.search.sequence import SearchInterrupted, search
from lightning_init.search.settings import (
    Draw,
    Granularity,
    Moment,
    OnUnsettled,
    OptimalVarianceSettings,
    ProbeRate,
)
from lightning_init.stationarity import DetectorSettings


class OptimalVarianceInit(_FollowsRun):
    """Redraw the first weights with the variance that training itself settles at, then restart.

    Before the first step a copy of the model is trained for a probe phase with the run's own
    optimizer, data and precision. The variance V(W) of each layer's weights is followed until a
    test finds it quasi-stationary over the planned length of the run. Then everything is put back,
    the weights are redrawn from N(0, V(W)), and the real run starts: step 0, fresh optimizer, the
    same batches as without a probe. The rule sigma0^2 = V(W) minimises a bound on the expected
    loss (Horii & Has, arXiv 2508.12834); its effect is often small, and the report says so.

    The outcome is on `callback.report` and is printed once; what it takes to draw the same scales
    again is on `callback.recipe` and in `<log_dir>/init_recipe.json`. Biases and normalization
    layers keep their initialization, and so does every layer whose variance would change by less
    than 5 %. A resumed run is neither probed nor redrawn. When anything fails or the probe
    diverges, the module's weights are what they were.

    Args:
        max_probe_steps: Most optimizer steps of the probe: a float is a share of the planned
            steps of the run, an int a number of steps, 0 no probe. It ends sooner when no further
            step can change what a layer gets, and takes none if that is known before. A run
            without a planned end needs a number.
        on_unsettled: What layers get whose variance has not settled when the probe ends: "keep"
            (their initial weights), "project" (V extrapolated to the end of the horizon where
            that is sharp), "use" (V at that moment, with a warning) or "raise" (an error).
        tolerance: Largest relative change of V over the horizon that counts as settled.
        horizon: Optimizer steps over which V must stay put: "run" (the planned length of the real
            run), "probe" (as long as the probe may be) or a number of steps.
        sample_every_n_steps: Optimizer steps between two measurements; the default is 18, with at
            least 55 and at most 250 measurements per probe.
        granularity: One variance per "layer", one "global" variance, or one "gain" over the He
            variances 2 / fan-in.
        moment: What V is: the variance about the layer's mean ("central") or about 0 ("raw").
        draw: "normal" draws redrawn weights from N(0, V); "scale" multiplies those that are there,
            so that an orthogonal, truncated or uniform start keeps its shape.
        rounds: Largest number of probes. Each starts from the weights that the one before it asked
            for; no further one is made when no layer would change by more than 5 %.
        forgetting: Probe once more from a quarter of the variance, for as many steps, and tell
            for each layer whether V depends on where the probe started.
        guard_steps: Optimizer steps of a trial of the redraw against the original weights, ten
            trials in all; the redraw is kept unless it is worse at confidence 0.95. Without it
            the trial is made where a variance would change by more than a factor of 4.
        include: Glob patterns of layer names that take part; the default is all but weights that
            start without variance or as an identity.
        exclude: Glob patterns of layer names that do not take part.
        probe_lr: Learning rate of the probe: "peak" (the largest that the planned run will use,
            per parameter group, to which the probe climbs as the run does), "schedule" (whatever
            the schedule makes of it) or a number.
        isolate_dataset: Probe on a deep copy of the data, for datasets that change when read.
        probe_dataloaders: Loaders for the probe in place of the run's own, for data that can be
            read only once.
        recipe: File that an earlier run wrote, a recipe (`.json`) or a checkpoint: the variances of
            its weights are drawn, without a probe.
        recipe_by_width: Let the recipe's layers have another width: sigma0^2 times fan-in stays.
        recipe_path: Where to write what the probe found or, without a probe, what the run ended
            at; the default is `init_recipe.json` in the log directory, or in the Trainer's
            `default_root_dir` without a logger.
        verify_steps: First steps of the probe that are run once more after everything was put
            back, to see that nothing changed; 0 turns this and the comparison of batches off.
        on_probe_failure: What becomes of a probe that fails: "skip" (a warning, the weights stay
            as they are and the training goes on) or "raise" (the error).
        watch: Follow V of every layer through the real run, and leave a recipe of what it ended at.
        seed: Seed of the redraw; the default is the global seed. Each layer's stream depends on
            this and on the layer's name alone.
        verbose: Print the report.

    Raises:
        ValueError: If an argument is outside its range.

    **Logged Metrics.** With a TensorBoard logger, the probe has its own run, `<log_dir>/probe`,
    and below it one for each of the six layers to look at first:

    - `OptimalVarianceInit/at_a_glance/1_first_weights`: figure of what the first weights become
    - `OptimalVarianceInit/at_a_glance/2_variance`: figure and curves of V over V before
    - `OptimalVarianceInit/at_a_glance/3_drift`: figure and curves of the drift and the tolerance
    - `OptimalVarianceInit/at_a_glance/4_weights`: histograms before and after the probe
    - `OptimalVarianceInit/report/text_summary`: the whole report as a table
    - `OptimalVarianceInit/variance/<layer>`: variance of the layer's weights, per probe step
    - `OptimalVarianceInit/drift/<layer>`: relative change over the horizon, per probe step
    - `OptimalVarianceInit/kl/<layer>`: KL(N(0, V) || N(0, V before)) in nat, per probe step

    The figures need matplotlib. The real run gets, while it is watched:

    - `OptimalVarianceInit/run_variance/<layer>`: variance of the layer's weights
    - `OptimalVarianceInit/score/text_summary`: whether the probe was right, at the end

    Other loggers get `sigma0` and `ratio` of every layer, once, at step 0.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning_init import OptimalVarianceInit
        >>> callback = OptimalVarianceInit(max_probe_steps=0.05)
        >>> trainer = Trainer(callbacks=[callback], logger=False)
    """

    def __init__(
        self,
        max_probe_steps: int | float = 0.1,
        on_unsettled: OnUnsettled = "keep",
        tolerance: float = 0.10,
        horizon: Literal["run", "probe"] | int = "run",
        sample_every_n_steps: int | None = None,
        granularity: Granularity = "layer",
        moment: Moment = "central",
        draw: Draw = "normal",
        rounds: int = 1,
        forgetting: bool = False,
        guard_steps: int = 0,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        probe_lr: ProbeRate | float = "peak",
        isolate_dataset: bool = False,
        probe_dataloaders: Any | None = None,
        recipe: str | None = None,
        recipe_by_width: bool = False,
        recipe_path: str | None = None,
        verify_steps: int = 2,
        on_probe_failure: OnProbeFailure = "skip",
        watch: bool = True,
        seed: int | None = None,
        verbose: bool = True,
    ) -> None:
        given = dict(locals())
        check_arguments(OPTIMAL_VARIANCE, given)
        super().__init__(seed)
        own = fields(OptimalVarianceSettings)
        self.settings = OptimalVarianceSettings(
            limits=ProbeLimits(
                max_steps=max_probe_steps,
                learning_rate=probe_lr,
                isolate_dataset=isolate_dataset,
                dataloaders=probe_dataloaders,
                verify_steps=verify_steps,
            ),
            detector=DetectorSettings(tolerance=tolerance),
            **{one.name: given[one.name] for one in own if one.name in given},
        )
        if recipe_by_width and recipe is None:
            raise ValueError("`recipe_by_width` needs a `recipe`; give the file, or leave it out.")
        self.include, self.exclude = include, exclude
        self.recipe_file = recipe
        self.recipe_by_width = recipe_by_width
        self.recipe_path = recipe_path
        self.watch = watch
        self.verbose = verbose
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
            self.report = self.recipe = None
            self._to_log = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe, put everything back, redraw; or draw a recipe."""
        if not self._is_fresh(trainer):
            rank_zero_info(
                "OptimalVarianceInit: this run resumes, so it is neither probed nor redrawn."
            )
            return
        if skipped := self._reason_to_skip(trainer):
            rank_zero_info(f"OptimalVarianceInit: probe skipped, because {skipped}.")
            return
        # The probe starts from the closed-form weights, also when that callback is listed later.
        for callback in internals.callbacks(trainer):
            if isinstance(callback, FractionalMomentInit):
                callback.draw_late_weights(trainer, pl_module)
        with preserved_random_state():
            if self.recipe_file is None:
                self._probe_and_redraw(trainer, pl_module)
            else:
                self._draw_recipe(trainer, pl_module, self.recipe_file)
        self._to_log = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the outcome, now that the real run's loggers have opened their files; watch."""
        self._begin_to_watch(trainer, pl_module)
        if not self._to_log:
            return
        self._to_log = False
        with preserved_random_state():
            if self.recipe is not None and self.recipe_path is None:
                with told_if_it_fails("write the recipe to the log directory"):
                    path = write_recipe(trainer, self.recipe, read_from=self.recipe_file)
                    if path is not None and self.verbose:
                        rank_zero_info(f"OptimalVarianceInit: recipe written to {str(path)!r}.")
            if self.report is not None:
                with told_if_it_fails("log the report"):
                    tensorboard.log_probe(trainer, self.report)

    def state_dict(self) -> dict[str, Any]:
        """What was found, so that a checkpoint tells where its first weights came from."""
        report = None if self.report is None else self.report.to_dict()
        return {"report": report, "run_variances": self._watched()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the report and the series of the run that is resumed."""
        self._saved_series = state_dict.get("run_variances")
        content = state_dict.get("report")
        self.report = None if content is None else InitReport.from_dict(content)

    def _probe_and_redraw(self, trainer: Trainer, module: LightningModule) -> None:
        seed = self._resolve_seed(trainer)
        path = self.recipe_path if trainer.is_global_zero else None
        if path is not None and not can_be_written(path):
            path = None
        try:
            inventory = weights_to_probe(module, self.include, self.exclude)
            require_weights(type(self).__name__, inventory)
            report, probe = search(trainer, module, inventory, self.settings, seed)
            if not report.divergence:
                redraw(trainer, module, inventory.weights, report.layers, self.settings, seed)
        except NothingToProbe as reason:
            rank_zero_info(f"OptimalVarianceInit: probe skipped, because {reason}.")
            return
        except SearchInterrupted as interrupt:
            self.report = interrupt.report
            rank_zero_info(f"OptimalVarianceInit: {interrupt}")
            self._show(trainer)
            raise interrupt.pressed from None
        except Exception as error:
            skip_or_raise(trainer, error, self.settings.on_probe_failure)
            return
        self.report = report
        if not report.divergence:
            warn_of_outcome(report, self.settings)
        if not report.total_steps:  # which the warning says; the run will leave a recipe
            return
        if not report.divergence:
            self.recipe = InitRecipe.from_report(report, optimizers_of(trainer))
        self._compare_batches_with(probe)
        if path is not None and self.recipe is not None:
            with told_if_it_fails(f"write the recipe to {path!r}"):
                self.recipe.save(path)
        self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        if self.verbose and self.report is not None and trainer.is_global_zero:
            with told_if_it_fails("show the report"):
                self.report.page().show()

    def _draw_recipe(self, trainer: Trainer, module: LightningModule, path: str) -> None:
        inventory = find_every_weight(module, self.include, self.exclude)
        require_weights(type(self).__name__, inventory)
        recipe = InitRecipe.read(path, module)
        seed = self._resolve_seed(trainer)
        drawn = apply_recipe(trainer, module, recipe, inventory, seed, self.recipe_by_width)
        self.recipe = recipe
        if self.verbose:
            rank_zero_info(
                f"OptimalVarianceInit: {len(drawn)} of {len(recipe.layers)} layers drawn from"
                f" {path!r} with seed {seed}, without a probe."
            )

    def _reason_to_skip(self, trainer: Trainer) -> str | None:
        if self.recipe_file is not None:
            return None
        if self.settings.limits.max_steps == 0:
            return "max_probe_steps is 0"
        if internals.fast_dev_run(trainer):
            return "fast_dev_run only checks that the code runs"
        return None if trains(trainer) else "the run trains no step"
