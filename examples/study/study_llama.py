"""A small Llama on characters, initialized as its authors do."""

from __future__ import annotations

import torch
from study_data import ALPHABET, WINDOW
from study_models import StudyModule
from torch import Tensor, nn


class LlamaBlock(nn.Module):
    """Attention with rotary places and a gated branch, normalization first, without biases."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.gated_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)
        self.act = nn.SiLU()

    def forward(self, stream: Tensor) -> Tensor:
        normed = self.attention_norm(stream)
        q, k, v = (
            project(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        seen = nn.functional.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
        stream = stream + self.o_proj(seen.transpose(1, 2).flatten(-2))
        normed = self.gated_norm(stream)
        return stream + self.down_proj(self.act(self.gate_proj(normed)) * self.up_proj(normed))


def rotated(values: Tensor) -> Tensor:
    """Turn pairs of numbers by angles that grow with the place."""
    half = values.shape[-1] // 2
    speeds = 10_000.0 ** (-torch.arange(half, device=values.device) / half)
    angles = torch.arange(values.shape[-2], device=values.device).unsqueeze(1) * speeds
    first, second = values.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Llama(StudyModule):
    """Causal language model of characters; every matrix starts from N(0, 0.02^2).

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
        self.embed_tokens = nn.Embedding(ALPHABET, width)
        hidden = 8 * width // 3 // 8 * 8
        self.layers = nn.Sequential(*(LlamaBlock(width, heads, hidden) for _ in range(layers)))
        self.norm = nn.RMSNorm(width)
        self.lm_head = nn.Linear(width, ALPHABET, bias=False)
        self.example_input_array = torch.zeros(1, WINDOW, dtype=torch.long)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, 0.02)

    def forward(self, symbols: Tensor) -> Tensor:
        return self.lm_head(self.norm(self.layers(self.embed_tokens(symbols))))
