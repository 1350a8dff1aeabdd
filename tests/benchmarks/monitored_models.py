"""Models of three sizes, each with one training step, for the cost of monitoring."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.branch(x) + self.shortcut(x))


def mlp() -> tuple[nn.Module, Tensor]:
    """Four layers, 0.33 million weights, batch 128."""
    widths = [784, 256, 256, 256, 10]
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1]), torch.randn(128, 784)


def resnet() -> tuple[nn.Module, Tensor]:
    """ResNet-18, 11.2 million weights, batch 16 of 64 x 64 pixels."""
    blocks: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(2)]
    before = 64
    for stage, channels in enumerate((64, 128, 256, 512)):
        blocks += [BasicBlock(before, channels, 1 if stage == 0 else 2)]
        blocks += [BasicBlock(channels, channels, 1)]
        before = channels
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(*blocks, *head), torch.randn(16, 3, 64, 64)


def transformer() -> tuple[nn.Module, Tensor]:
    """Fourteen encoder layers of width 768, 99 million weights, 4 sequences of 64 tokens."""
    layer = nn.TransformerEncoderLayer(768, 12, 3072, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 14, enable_nested_tensor=False), torch.randn(4, 64, 768)


def training_step(
    model: nn.Module, batch: Tensor, optimizer: torch.optim.Optimizer
) -> Callable[[], None]:
    """One step on a squared output."""

    def step() -> None:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()

    return step
