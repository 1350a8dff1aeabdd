"""Networks of the published study as LightningModules with plain values as arguments."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from study_data import ALPHABET, WINDOW


def activation_module(activation: str, slope: float = 0.01) -> nn.Module:
    modules = {"relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(slope), "linear": nn.Identity()}
    if activation not in modules:
        raise ValueError(f"`activation` must be one of {list(modules)}, got {activation!r}.")
    return modules[activation]


class StudyModule(LightningModule):
    """Cross-entropy training with one optimizer, nothing logged per step.

    Logs `epoch_train_loss` during training, `val_loss` and `val_accuracy` after each epoch, and
    with the last of them the `loss_by_step` of the whole run. The
    test loop is given training samples and test samples and logs `train_loss`, `train_accuracy`,
    `test_loss`, `test_accuracy` of the trained model.

    Args:
        optimizer: "sgd", "momentum" (0.9) or "adamw".
        learning_rate: Constant over the run, or the peak of the schedule.
        weight_decay: Of the optimizer, on every parameter.
        schedule: "constant", "warmup_cosine" (linear over a twentieth of the run, then a cosine to
            0) or "cosine" (without warm-up); both step by step.
        betas: Of AdamW.
        log_variance_ratio: Log `variance_ratio_<layer>` at the test: a layer's weight variance at
            the end of the run over that before the first step.
    """

    def __init__(
        self,
        optimizer: str = "sgd",
        learning_rate: float = 0.1,
        weight_decay: float = 0.0,
        log_variance_ratio: bool = False,
        schedule: str = "constant",
        betas: Sequence[float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        self.schedule, self.betas = schedule, tuple(betas)
        self.optimizer, self.learning_rate = optimizer, learning_rate
        self.weight_decay, self.log_variance_ratio = weight_decay, log_variance_ratio
        self.initial_variances: dict[str, float] = {}
        # Numbers, not tensors: small tensors of every step keep the memory between them from the
        # allocator, and a Transformer's process grew by .6 GB with each run.
        self.epoch_losses: list[float] = []
        self.step_losses: list[float] = []
        self.epoch_samples = 0

    def weight_variances(self) -> dict[str, float]:
        """Variance over all entries of each weight matrix, about its mean."""
        return {
            name.removesuffix(".weight").replace(".", "_"): weight.detach().double().var().item()
            for name, weight in self.named_parameters()
            if weight.dim() > 1
        }

    def evaluate(self, batch: list[Tensor], name: str) -> Tensor:
        outputs, targets = self(batch[0]).flatten(0, -2), batch[1].flatten()
        loss = nn.functional.cross_entropy(outputs, targets)
        accuracy = (outputs.argmax(-1) == targets).float().mean()
        self.log_dict(
            {f"{name}_loss": loss, f"{name}_accuracy": accuracy},
            add_dataloader_idx=False,
            batch_size=len(batch[0]),
        )
        return loss

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.log_variance_ratio and self.global_step == 0:
            self.initial_variances = self.weight_variances()
        loss = nn.functional.cross_entropy(self(batch[0]).flatten(0, -2), batch[1].flatten())
        self.step_losses.append(loss.item())
        self.epoch_losses.append((loss.detach() * len(batch[0])).item())
        self.epoch_samples += len(batch[0])
        return loss

    def on_train_start(self) -> None:
        self.step_losses = []

    def on_train_epoch_start(self) -> None:
        self.epoch_losses, self.epoch_samples = [], 0

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        # One call of `log` per epoch: one per step costs as much as the step of a small network.
        if self.epoch_losses:
            mean = torch.tensor(self.epoch_losses).sum() / self.epoch_samples
            self.log("epoch_train_loss", mean)
        if self.step_losses and self.global_step == self.trainer.estimated_stepping_batches:
            self.log_dict(loss_by_step(self.step_losses))

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluate(batch, ("train", "test")[dataloader_idx])

    def on_test_epoch_end(self) -> None:
        final = self.weight_variances()
        for name, initial in self.initial_variances.items():
            self.log(f"variance_ratio_{name}", final[name] / initial)

    def configure_optimizers(self) -> torch.optim.Optimizer | dict[str, object]:
        optimizer = self.make_optimizer()
        if self.schedule == "constant":
            return optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, partial(_factor, self.schedule, self.trainer.estimated_stepping_batches)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, at the constant rate or the peak of the schedule."""
        makers = {
            "sgd": lambda **more: torch.optim.SGD(self.parameters(), **more),
            "momentum": lambda **more: torch.optim.SGD(self.parameters(), momentum=0.9, **more),
            "adamw": lambda **more: torch.optim.AdamW(self.parameters(), betas=self.betas, **more),
        }
        if self.optimizer not in makers:
            raise ValueError(f"`optimizer` must be one of {list(makers)}, got {self.optimizer!r}.")
        # One kernel for all parameters: half the time of a step on a deep and narrow network.
        return makers[self.optimizer](
            lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )


def loss_by_step(losses: Sequence[float]) -> dict[str, Tensor]:
    """Training loss of up to 50 stretches of a run, by the step that each ends with."""
    ends = torch.linspace(0, len(losses), 51).round().int().tolist()
    return {
        f"loss_by_step_{end}": torch.tensor(losses[start:end]).mean()
        for start, end in zip(ends, ends[1:], strict=False)
        if end > start
    }


def _factor(schedule: str, steps: int, step: int) -> float:
    """Learning rate over its peak before optimizer step ``step`` of ``steps``."""
    if schedule not in ("warmup_cosine", "cosine"):
        raise ValueError(f"`schedule` must be constant, warmup_cosine or cosine, got {schedule!r}.")
    warm = steps // 20 if schedule == "warmup_cosine" else 0
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


class MLP(StudyModule):
    """Fully connected network.

    Args:
        widths: Of the input, the hidden layers and the output.
        activation: "relu", "leaky_relu" or "linear" (none).
        slope: Negative slope of the Leaky ReLU.
        activation_on_logits: Also activate the output.
        **training: Arguments of `StudyModule`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: str = "relu",
        slope: float = 0.01,
        activation_on_logits: bool = False,
        **training: object,
    ) -> None:
        super().__init__(**training)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(inputs, outputs), activation_module(activation, slope)]
        self.net = nn.Sequential(*(layers if activation_on_logits else layers[:-1]))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)


class DeepMLP(MLP):
    """Fully connected network of `depth` weight layers, all hidden ones equally wide."""

    def __init__(
        self,
        depth: int,
        width: int = 64,
        inputs: int = 784,
        classes: int = 10,
        **more: object,
    ) -> None:
        super().__init__([inputs, *[width] * (depth - 1), classes], **more)


class CNN(StudyModule):
    """Two convolutions of stride 2 and two dense layers.

    Args:
        image: Channels, height and width; the inputs are flat rows.
        channels: Of the two convolutions.
        hidden: Width of the dense layer.
        classes: Number of classes.
        **training: Arguments of `StudyModule`.
    """

    def __init__(
        self,
        image: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (8, 16),
        hidden: int = 64,
        classes: int = 10,
        **training: object,
    ) -> None:
        super().__init__(**training)
        features = channels[1] * (image[1] // 4) * (image[2] // 4)
        self.net = nn.Sequential(
            nn.Unflatten(1, tuple(image)),
            nn.Conv2d(image[0], channels[0], 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels[0], channels[1], 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


class NormedCNN(StudyModule):
    """Three convolutions with batch norm and a dense layer: their weights are scale-free.

    Args:
        image: Channels, height and width; the inputs are flat rows.
        channels: Of the three convolutions, each of stride 2.
        classes: Number of classes.
        **training: Arguments of `StudyModule`.
    """

    def __init__(
        self,
        image: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (8, 16, 32),
        classes: int = 10,
        **training: object,
    ) -> None:
        super().__init__(**training)
        layers: list[nn.Module] = [nn.Unflatten(1, tuple(image))]
        for inputs, outputs in zip([image[0], *channels], channels, strict=False):
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def gpt2_init(module: nn.Module, seed: int) -> None:
    """N(0, 0.02^2) for every matrix, divided by sqrt(2 layers) where a branch meets the stream."""
    depth = sum(name.endswith("linear2") for name, _ in module.named_modules())
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            last = name.endswith(("out_proj.weight", "linear2.weight"))
            nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * depth) if last else 0.02)


class Recurrent(StudyModule):
    """One LSTM or GRU layer and a dense one.

    Args:
        cell: "lstm" or "gru".
        task: "classification" of a series of numbers by the last state, or "characters": the next
            one at every place of a text.
        hidden: Units of the recurrent layer.
        **training: Arguments of `StudyModule`.
    """

    def __init__(
        self,
        cell: str = "lstm",
        task: str = "classification",
        hidden: int = 64,
        **training: object,
    ) -> None:
        super().__init__(**training)
        if task not in ("classification", "characters"):
            raise ValueError(f"`task` must be classification or characters, got {task!r}.")
        self.characters = task == "characters"
        self.embedding = nn.Embedding(ALPHABET, 32) if self.characters else None
        cells = {"lstm": nn.LSTM, "gru": nn.GRU}
        self.recurrent = cells[cell](32 if self.characters else 1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, ALPHABET if self.characters else 10)

    def forward(self, inputs: Tensor) -> Tensor:
        steps = inputs.unsqueeze(-1) if self.embedding is None else self.embedding(inputs)
        states = self.recurrent(steps)[0]
        return self.head(states if self.characters else states[:, -1])


class CharacterTransformer(StudyModule):
    """Small causal Transformer, normalization first, on windows of characters.

    Args:
        width: Of the residual stream.
        heads: Attention heads.
        layers: Blocks.
        **training: Arguments of `StudyModule`.
    """

    def __init__(
        self, width: int = 64, heads: int = 4, layers: int = 2, **training: object
    ) -> None:
        super().__init__(**training)
        self.embedding = nn.Embedding(ALPHABET, width)
        self.position = nn.Embedding(WINDOW, width)
        block = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, ALPHABET)
        mask = nn.Transformer.generate_square_subsequent_mask(WINDOW)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, symbols: Tensor) -> Tensor:
        length = symbols.shape[1]
        places = torch.arange(length, device=symbols.device)
        stream = self.embedding(symbols) + self.position(places)
        stream = self.blocks(stream, mask=self.mask[:length, :length], is_causal=True)
        return self.head(self.norm(stream))
