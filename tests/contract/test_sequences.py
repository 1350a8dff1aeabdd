"""Random orders of use redraw no resumed run, leak nothing into the Trainer, leave one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contract_harness import Setup, build_trainer, in_own_process, probe
from contract_models import MetricNet, Net, loader, validation
from contract_record import plain
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping

from lightning_init import FractionalMomentInit

ACTIONS = ("fit", "fail_in_probe", "fail_in_run", "validate", "resume", "new_trainer", "test")


class Fragile(MetricNet):
    """Fails where it is told to."""

    where = ""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 4 and self._fails_here():
            Fragile.where = ""
            raise RuntimeError("planted")

    def _fails_here(self) -> bool:
        return Fragile.where == ("run" if self is World.module else "probe")


class World:
    """The objects of one sequence, and what must hold after each action."""

    module: Net

    def __init__(self, options: dict[str, Any]) -> None:
        seed_everything(1, verbose=False)
        World.module = Fragile()
        self.options = options
        self.saved: list[Any] | None = None
        self.ours = [FractionalMomentInit(verbose=False, seed=2), probe(max_probe_steps=6)]
        self.new_trainer()

    def new_trainer(self) -> None:
        self.starts = Starts()
        others: list[Callback] = [EarlyStopping("val_loss", patience=9), self.starts]
        self.trainer = build_trainer(Setup(World.module, self.options, callbacks=others), self.ours)
        self.started = False

    def fit(self, **options: Any) -> None:
        self.trainer.fit(World.module, loader(), validation(), **options)

    def act(self, action: str) -> None:
        before = self._held()
        weights = [plain(p) for p in World.module.parameters()]
        seen = len(self.starts.weights)
        if action in ("fit", "fail_in_run", "fail_in_probe"):
            self.trainer.fit_loop.max_epochs = self.trainer.current_epoch + 1
            fresh = self.trainer.global_step == 0
            failure = {"fail_in_run": "run", "fail_in_probe": "probe"}.get(action, "")
            Fragile.where = failure if fresh or failure == "run" else ""
            must_fail = fresh and bool(Fragile.where)
            try:
                self.fit()
                assert not must_fail
            except RuntimeError as error:
                if str(error) != "planted":
                    raise
            # A run that failed within an epoch goes on behind the batch that fails.
            Fragile.where = ""
            if not fresh and len(self.starts.weights) > seen:
                assert self.starts.weights[seen] == weights, "a second fit was redrawn"
        elif action == "validate":
            self.trainer.validate(World.module, validation(), verbose=False)
        elif action == "test":
            self.trainer.test(World.module, validation(), verbose=False)
        elif action == "new_trainer":
            self.new_trainer()
            return
        elif action == "resume":
            self._resume()
            return
        if action in ("validate", "test"):
            assert [plain(p) for p in World.module.parameters()] == weights
        assert self._held() == before, "something was left on the Trainer"

    def _resume(self) -> None:
        if self.trainer.global_step == 0:
            return
        self.trainer.save_checkpoint("kept")
        saved = [plain(p) for p in World.module.parameters()]
        self.new_trainer()
        self.trainer.fit_loop.max_epochs = 5
        self.fit(ckpt_path="kept")
        if self.starts.weights:  # a run that is over already does not start
            assert self.starts.weights[0] == saved, "a resumed run was redrawn"
        Path("kept").unlink()

    def _held(self) -> dict[str, Any]:
        held = ("callbacks", "loggers", "fit_loop", "_logger_connector", "profiler", "strategy")
        found: dict[str, Any] = {name: id(vars(self.trainer).get(name)) for name in held}
        return found | {
            "save_checkpoint": "save_checkpoint" in vars(self.trainer),
            "epoch_loop": id(self.trainer.fit_loop.epoch_loop),
            "limit_val_batches": self.trainer.limit_val_batches,
            "setup_optimizers": "setup_optimizers" in vars(self.trainer.strategy),
            "precision": id(self.trainer.strategy.precision_plugin),
        }


class Starts(Callback):
    """The weights at each start of a training."""

    def __init__(self) -> None:
        self.weights: list[Any] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert pl_module is World.module
        self.weights.append([plain(p) for p in pl_module.parameters()])


def play(actions: list[str], options: dict[str, Any]) -> None:
    """Run one sequence."""
    world = World(options)
    for action in actions:
        world.act(action)
    left = {p.name for p in Path().rglob("*") if p.is_file()}
    assert left <= {"init_recipe.json"}  # without a logger the root directory gets it


OPTIONS = st.fixed_dictionaries(
    {"accumulate_grad_batches": st.sampled_from([1, 2])},
    optional={
        "gradient_clip_val": st.just(0.5),
        "limit_train_batches": st.sampled_from([7, 8]),
        "num_sanity_val_steps": st.just(0),
        "precision": st.sampled_from(["bf16-mixed", "32-true"]),
        "reload_dataloaders_every_n_epochs": st.just(1),
    },
)


@settings(
    max_examples=10,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@example(actions=["fail_in_probe", "fit", "resume", "fit"], options={"accumulate_grad_batches": 1})
@given(actions=st.lists(st.sampled_from(ACTIONS), min_size=2, max_size=5), options=OPTIONS)
def test_any_order_of_use(actions: list[str], options: dict[str, Any]) -> None:
    in_own_process(play, actions, options)
