"""Small models of eleven kinds, each with an example input: the architectures that people train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo_attention import GPT, EncoderClassifier, ViT


class FunctionalMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.fc4, self.fc5 = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.fc1(x)), 0.25, self.training)
        x = F.leaky_relu(self.fc2(x), 0.2)
        x = torch.relu_(self.fc3(x))
        x = F.gelu(self.fc4(x), approximate="tanh")
        return self.fc5(x)


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.avg_pool2d(self.conv2(x).tanh(), 2)
        x = torch.sigmoid(self.fc1(x.view(x.size(0), -1)))
        return F.log_softmax(self.fc3(self.fc2(x).sigmoid()), dim=-1)


class BasicBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1:
            shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    """ResNet-18 with 4, 8, 16 and 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.maxpool, self.avgpool = nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)
        self.layer1 = nn.Sequential(BasicBlock(4, 4, 1), BasicBlock(4, 4, 1))
        self.layer2 = nn.Sequential(BasicBlock(4, 8, 2), BasicBlock(8, 8, 1))
        self.layer3 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16, 1))
        self.layer4 = nn.Sequential(BasicBlock(16, 32, 2), BasicBlock(32, 32, 1))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class PreActivationBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        if stride > 1:
            self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut


class PreActivationResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.block1, self.block2 = PreActivationBlock(4, 4, 1), PreActivationBlock(4, 8, 2)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.block2(self.block1(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


class VGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(True)),
            *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Linear(32, 16), nn.ReLU(True), nn.Dropout(0.5)),
            *(nn.Linear(16, 16), nn.ReLU(True), nn.Dropout(0.5), nn.Linear(16, 10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class InvertedResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(4, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(True)),
            *(nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False), nn.BatchNorm2d(12)),
            *(nn.ReLU6(True), nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class MobileNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv2d(3, 4, 3, 2, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(4), nn.Hardswish())
        self.blocks = nn.Sequential(InvertedResidual(), InvertedResidual())
        self.classifier = nn.Sequential(nn.Linear(4, 8), nn.Hardswish(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(x)).mean([2, 3]))


def double_convolution(channels: int, out: int) -> nn.Sequential:
    first, second = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = double_convolution(1, 4), double_convolution(4, 8)
        self.bottom = double_convolution(8, 8)
        self.up2, self.up1 = nn.Upsample(scale_factor=2), nn.ConvTranspose2d(8, 4, 2, 2)
        self.dec2, self.dec1 = double_convolution(16, 8), double_convolution(8, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip1 = self.down1(x)
        skip2 = self.down2(F.max_pool2d(skip1, 2))
        x = self.bottom(F.max_pool2d(skip2, 2))
        x = self.dec2(torch.cat([skip2, self.up2(x)], dim=1))
        x = self.dec1(torch.cat([skip1, self.up1(x)], dim=1))
        return self.head(x)


class LSTMClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop = nn.Embedding(11, 4), nn.Dropout(0.3)
        self.lstm = nn.LSTM(4, 5, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(tokens), lengths, batch_first=True
        )
        _, (hidden, _) = self.lstm(packed)
        return self.head(self.drop(hidden[-1]))


def generator() -> nn.Sequential:
    return nn.Sequential(
        *(nn.ConvTranspose2d(8, 8, 4, 1, 0, bias=False), nn.BatchNorm2d(8), nn.ReLU(True)),
        *(nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True)),
        *(nn.ConvTranspose2d(4, 1, 4, 2, 1, bias=False), nn.Tanh()),
    )


class TwoHeads(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 3), nn.PReLU(3), nn.Linear(3, 8), nn.ELU(0.5))
        self.classes = nn.Sequential(nn.Linear(8, 8), nn.Softplus(2.0), nn.Linear(8, 3))
        self.value = nn.Sequential(nn.Linear(8, 8), nn.RReLU(), nn.Linear(8, 1))
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(x)
        return self.classes(features), self.value(features)


def compiled() -> nn.Module:
    compiled_model: nn.Module = torch.compile(FunctionalMLP(), backend="eager")
    return compiled_model


@dataclass(frozen=True)
class Specimen:
    """A model and what to feed it."""

    build: Callable[[], nn.Module]
    example: Callable[[], Any]


def image(channels: int, size: int) -> Callable[[], Tensor]:
    return lambda: torch.zeros(2, channels, size, size)


def tokens() -> Tensor:
    return torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 0, 0]])


ZOO = {
    "functional_mlp": Specimen(FunctionalMLP, lambda: torch.zeros(2, 6)),
    "lenet": Specimen(LeNet, image(1, 28)),
    "resnet18": Specimen(ResNet18, image(3, 64)),
    "preactivation_resnet": Specimen(PreActivationResNet, image(3, 8)),
    "vgg": Specimen(VGG, image(3, 8)),
    "mobilenet": Specimen(MobileNet, image(3, 8)),
    "unet": Specimen(UNet, image(1, 8)),
    "gpt": Specimen(GPT, tokens),
    "vit": Specimen(ViT, image(3, 8)),
    "encoder": Specimen(EncoderClassifier, lambda: torch.zeros(2, 5, 3)),
    "lstm": Specimen(LSTMClassifier, lambda: (tokens(), torch.tensor([5, 3]))),
    "generator": Specimen(generator, lambda: torch.zeros(2, 8, 1, 1)),
    "two_heads": Specimen(TwoHeads, lambda: {"x": torch.zeros(2, 6)}),
    "compiled": Specimen(compiled, lambda: torch.zeros(2, 6)),
}
