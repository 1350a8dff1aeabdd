"""Small networks whose authors chose their first weights with care, written from their papers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30.0 * x)


def siren(width: int = 64, depth: int = 3) -> nn.Sequential:
    """Uniform ranges that are part of the function (Sitzmann et al. 2020, arXiv 2006.09661)."""
    layers: list[nn.Module] = []
    for fan_in in [2] + [width] * depth:
        linear = nn.Linear(fan_in, width)
        bound = 0.5 if fan_in == 2 else math.sqrt(6 / fan_in) / 30
        nn.init.uniform_(linear.weight, -bound, bound)
        layers += [linear, Sine()]
    last = nn.Linear(width, 1)
    nn.init.uniform_(last.weight, -math.sqrt(6 / width) / 30, math.sqrt(6 / width) / 30)
    return nn.Sequential(*layers, last)


class Highway(nn.Module):
    """Gates that start closed (Srivastava et al. 2015, arXiv 1505.00387)."""

    def __init__(self, width: int = 32, depth: int = 10) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(16, width), nn.Linear(width, 4)
        self.plain = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for gate in self.gates:
            nn.init.constant_(gate.bias, -2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for plain, gate in zip(self.plain, self.gates, strict=True):
            share = gate(x).sigmoid()
            x = share * plain(x).relu() + (1 - share) * x
        return self.head(x)


class FocalDetector(nn.Module):
    """A head whose bias holds the prior of rare positives (Lin et al. 2017, arXiv 1708.02002)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(w, width, 3, padding=1) for w in (3, width, width)]
        self.trunk = nn.Sequential(*(m for c in convolutions for m in (c, nn.ReLU())))
        self.head = nn.Conv2d(width, 4, 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.constant_(self.head.bias, -math.log((1 - 0.01) / 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    chance = torch.exp(-cross_entropy)
    return ((1 - chance) ** 2 * cross_entropy).sum() / target.sum().clamp_min(1)


class Fixup(nn.Module):
    """Residual branches without norms (Zhang et al. 2019, arXiv 1901.09321)."""

    def __init__(self, width: int = 12, depth: int = 6) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width, 4)
        self.first = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.last = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        nn.init.kaiming_normal_(self.stem.weight)
        for first, last in zip(self.first, self.last, strict=True):
            nn.init.normal_(first.weight, std=math.sqrt(2 / (9 * width) / depth))
            nn.init.zeros_(last.weight)
            nn.init.zeros_(first.bias)
            nn.init.zeros_(last.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for first, last in zip(self.first, self.last, strict=True):
            x = (x + last(first(x).relu())).relu()
        return self.head(x.mean((2, 3)))


def ddpg_actor(width: int = 64) -> nn.Sequential:
    """Fan-in ranges, and a last layer near zero (Lillicrap et al. 2015, arXiv 1509.02971)."""
    net = nn.Sequential(*mlp(8, width, width, 2), nn.Tanh())
    for layer in net:
        if isinstance(layer, nn.Linear):
            bound = 3e-3 if layer.out_features == 2 else 1 / math.sqrt(layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.uniform_(layer.bias, -bound, bound)
    return net


BINS, TAIL = 8, 4.0


def spline(x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Monotone rational-quadratic spline (Durkan et al. 2019, arXiv 1906.04032); log-derivative."""
    widths, heights, slopes = parameters.split([BINS, BINS, BINS - 1], -1)
    widths, heights = (2 * TAIL * (0.01 + 0.92 * part.softmax(-1)) for part in (widths, heights))
    slopes = functional.pad(functional.softplus(slopes + math.log(math.e - 1)), (1, 1), value=1.0)
    left, bottom = (functional.pad(part.cumsum(-1), (1, 0)) - TAIL for part in (widths, heights))
    inside = (x.abs() < TAIL).float()
    clamped = x.clamp(-TAIL + 1e-4, TAIL - 1e-4)
    index = (clamped[..., None] >= left[..., :-1]).sum(-1, keepdim=True).clamp(1, BINS) - 1

    def pick(part: Tensor, offset: int = 0) -> Tensor:
        return part.gather(-1, index + offset).squeeze(-1)

    width, height, lower, upper = pick(widths), pick(heights), pick(slopes), pick(slopes, 1)
    ratio, at = height / width, ((clamped - pick(left)) / width).clamp(0, 1)
    between = at * (1 - at)
    below = ratio + (upper + lower - 2 * ratio) * between
    y = pick(bottom) + height * (ratio * at**2 + lower * between) / below
    slope = ratio**2 * (upper * at**2 + 2 * ratio * between + lower * (1 - at) ** 2) / below**2
    return inside * y + (1 - inside) * x, inside * slope.clamp_min(1e-6).log()


class SplineFlow(nn.Module):
    """Couplings that start near the identity: the conditioners' last layers are nearly zero."""

    def __init__(self, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.conditioners = nn.ModuleList(
            mlp(2, width, width, 2 * (3 * BINS - 1)) for _ in range(layers)
        )
        for net in self.conditioners:
            nn.init.uniform_(net[-1].weight, -1e-3, 1e-3)
            nn.init.uniform_(net[-1].bias, -1e-3, 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Negative log-likelihood of every sample."""
        log_slope = torch.zeros(len(x))
        for net in self.conditioners:
            still, moved = x[:, :2], x[:, 2:]
            moved, slopes = spline(moved, net(still).reshape(len(x), 2, -1))
            x, log_slope = torch.cat([moved, still], 1), log_slope + slopes.sum(1)
        return 0.5 * x.square().sum(1) + 2 * math.log(2 * math.pi) - log_slope


class MaskedLinear(nn.Linear):
    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.mask, self.bias)


class MaskedFlow(nn.Module):
    """Masked autoregressive flow (Papamakarios et al. 2017, arXiv 1705.07057)."""

    def __init__(self, size: int = 6, width: int = 48, layers: int = 3) -> None:
        super().__init__()
        inputs, hidden = torch.arange(size), torch.arange(width) % (size - 1)
        first = (hidden[:, None] >= inputs).float()
        middle = (hidden[:, None] >= hidden).float()
        last = (inputs[:, None] > hidden).float().repeat(2, 1)
        self.made = nn.ModuleList(
            nn.Sequential(
                MaskedLinear(first),
                nn.ReLU(),
                MaskedLinear(middle),
                nn.ReLU(),
                MaskedLinear(last),
            )
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Negative log-likelihood of every sample."""
        total = torch.zeros(len(x))
        for made in self.made:
            shift, log_scale = made(x).chunk(2, 1)
            log_scale = log_scale.tanh()
            x, total = ((x - shift) * torch.exp(-log_scale)).flip(1), total - log_scale.sum(1)
        return 0.5 * x.square().sum(1) - total


class SpatialGating(nn.Module):
    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.norm, self.proj = nn.LayerNorm(width), nn.Linear(length, length)
        nn.init.uniform_(self.proj.weight, -1e-3, 1e-3)
        nn.init.ones_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return left * self.proj(self.norm(right).transpose(1, 2)).transpose(1, 2)


class GatedBlock(nn.Module):
    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.gate, self.down = SpatialGating(2 * width, length), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.gate(functional.gelu(self.up(self.norm(x)))))


class GatedMLP(nn.Module):
    """gMLP (Liu et al. 2021, arXiv 2105.08050): spatial gates that start at one."""

    def __init__(self, vocabulary: int = 64, width: int = 32, length: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.Sequential(*(GatedBlock(width, length) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens))))


class RecurrentLanguageModel(nn.Module):
    def __init__(self, vocabulary: int = 64, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0])


class Forecaster(nn.Module):
    """N-BEATS (Oreshkin et al. 2019, arXiv 1905.10437): blocks take away what they explain."""

    def __init__(self, length: int = 20, ahead: int = 5, width: int = 48, blocks: int = 6) -> None:
        super().__init__()
        self.length = length
        self.blocks = nn.ModuleList(
            mlp(length, width, width, width, length + ahead) for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        forecast: Any = 0.0
        for block in self.blocks:
            explained, ahead = block(x).split([self.length, 5], 1)
            x, forecast = x - explained, forecast + ahead
        return forecast
