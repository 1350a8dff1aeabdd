"""Scenarios about optimizers, schedules, gradients and precision."""

from __future__ import annotations

from typing import Any

import torch
from contract_models import ManualNet, Net, Sam, adam, momentum
from contract_registry import add, net, scheduled
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim import LBFGS, SGD, Adam, AdamW, RMSprop
from torch.optim import lr_scheduler as schedules

# ------------------------------------------------------------------------------------- optimizers
add("adam", model=net(adam))
add("momentum", model=net(momentum))
add("sgd_plain", model=net(lambda m: SGD(m.parameters(), lr=0.05)))
add("adamw_amsgrad", model=net(lambda m: AdamW(m.parameters(), lr=0.01, amsgrad=True)))
add("adam_fused", model=net(lambda m: Adam(m.parameters(), lr=0.01, fused=True)))
add("adam_tensor_lr", model=net(lambda m: Adam(m.parameters(), lr=torch.tensor(0.01))))
add("rmsprop_foreach", model=net(lambda m: RMSprop(m.parameters(), lr=0.01, foreach=True)))
add("lbfgs", model=net(lambda m: LBFGS(m.parameters(), lr=0.05, max_iter=3)))
add("sam", model=net(lambda m: Sam(m.parameters(), lr=0.02, momentum=0.9)))
add(
    "parameter_groups",
    model=net(
        lambda m: AdamW(
            [
                {"params": [p for p in m.parameters() if p.ndim > 1], "weight_decay": 0.1},
                {"params": [p for p in m.parameters() if p.ndim < 2], "lr": 0.003},
            ],
            lr=0.01,
        )
    ),
)


# -------------------------------------------------------------------------------------- schedules
add("step_lr", model=scheduled(lambda o, _: schedules.StepLR(o, 1, 0.5)))
add(
    "one_cycle_fixed",
    model=scheduled(lambda o, _: schedules.OneCycleLR(o, 0.05, total_steps=24), "step"),
)
add(
    "one_cycle_estimated",
    model=scheduled(
        lambda o, m: schedules.OneCycleLR(
            o, 0.05, total_steps=m.trainer.estimated_stepping_batches
        ),
        "step",
    ),
)
add(
    "lambda_lr_every_two_steps",
    model=scheduled(lambda o, _: schedules.LambdaLR(o, lambda i: 0.9**i), "step", frequency=2),
)
add(
    "warmup_then_cosine",
    model=scheduled(
        lambda o, _: schedules.SequentialLR(
            o,
            [schedules.LinearLR(o, 0.1, total_iters=5), schedules.CosineAnnealingLR(o, 19)],
            [5],
        ),
        "step",
    ),
)


add(
    "warmup_from_zero",
    model=scheduled(lambda o, _: schedules.LambdaLR(o, lambda step: min(1.0, step / 5)), "step"),
)


def _per_group(module: LightningModule) -> Any:
    sizes = [[p for p in module.parameters() if (p.ndim > 1) is wide] for wide in (True, False)]
    optimizer = SGD([{"params": each} for each in sizes], lr=0.05, momentum=0.9)
    factors = [lambda step: min(1.0, step / 5), lambda step: 0.9**step]
    config = {"scheduler": schedules.LambdaLR(optimizer, factors), "interval": "step"}
    return {"optimizer": optimizer, "lr_scheduler": config}


add("schedule_per_group", model=net(_per_group))


def _plateau(optimizer: Any, _: Any) -> Any:
    return schedules.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)


add("plateau_on_validation", model=scheduled(_plateau, monitor="val_loss"))
add("plateau_on_train_loss", model=scheduled(_plateau, monitor="train_loss_epoch"))
add(
    "plateau_with_max_steps",
    model=scheduled(_plateau, monitor="val_loss"),
    trainer={"max_steps": 30, "max_epochs": -1},
)


# -------------------------------------------------------------------------------------- gradients
add("accumulate", trainer={"accumulate_grad_batches": 3})
add("accumulation_schedule", before=lambda: [GradientAccumulationScheduler({0: 1, 1: 2})])
add("clip_norm", trainer={"gradient_clip_val": 0.1})
add("clip_value", trainer={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"})
add("detect_anomaly", trainer={"detect_anomaly": True})
add("deterministic", trainer={"deterministic": True})


class GradientHooks(Net):
    """Hooks around backward and step, with state of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        total = sum(float(p.grad.norm()) for p in self.parameters() if p.grad is not None)
        self.norms.append(total)
        self.log("gradient_norm", total)

    def on_after_backward(self) -> None:
        for p in self.parameters():
            if p.grad is not None:
                p.grad.add_(0.001 * torch.randn_like(p.grad))

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self.norms.append(-1.0)
        optimizer.zero_grad(set_to_none=False)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        self.norms.append(-2.0)
        scheduler.step()


add("gradient_hooks", model=GradientHooks)


# -------------------------------------------------------------------------------------- precision
add("bf16_mixed", trainer={"precision": "bf16-mixed"})
add("bf16_true", trainer={"precision": "bf16-true"})
add("double", trainer={"precision": "64-true"})
add(
    "fp16_mixed_with_scaler",
    trainer=lambda: {
        "plugins": MixedPrecision(
            "16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        )
    },
)


# ------------------------------------------------------------------------------------------ manual
class Gan(LightningModule):
    """Generator and discriminator, the second stepped every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.discriminator = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        fake = self.generator(torch.randn(4, 4))
        self.toggle_optimizer(first)
        loss = nn.functional.softplus(-self.discriminator(fake)).mean()
        self.manual_backward(loss)
        first.step()
        first.zero_grad()
        self.untoggle_optimizer(first)
        self.log("g", loss, prog_bar=True)
        if batch_idx % 2:
            real = nn.functional.softplus(-self.discriminator(batch[1])).mean()
            loss = real + nn.functional.softplus(self.discriminator(fake.detach())).mean()
            self.manual_backward(loss)
            second.step()
            second.zero_grad()

    def on_train_epoch_end(self) -> None:
        self.lr_schedulers().step()

    def configure_optimizers(self) -> Any:
        first = Adam(self.generator.parameters(), lr=0.01, betas=(0.5, 0.9))
        second = Adam(self.discriminator.parameters(), lr=0.01)
        return [first, second], [schedules.StepLR(first, 1, 0.5)]


add("manual_two_optimizers_and_schedules", model=ManualNet)
add("manual_gan", model=Gan, val=None)
