"""The text encoder: CLIP-L's shape and tokenizer, of which only a small part is trained.

ComfyUI fixes the shape of SD1.5's text encoder: 12 layers of width 768, a 49,408-word vocabulary,
causal attention, 77 positions. A layer whose output projections are zero passes its input through,
so only ``LAYERS`` layers do anything, each with ``HEADS`` of the 12 heads and ``HIDDEN`` of the
3,072 hidden units. Word vectors are random and never trained; they are drawn again from ``SEED``
instead of being stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEAD, LAYERS, HEADS, HIDDEN = 768, 64, 2, 4, 768
VOCABULARY, LENGTH, CLIP_LAYERS, CLIP_HIDDEN = 49408, 77, 12, 3072
SEED = 20260323
_PREFIX = "text_model."


def word_vectors() -> Tensor:
    """``(49408, 768)`` random word vectors, rounded to 16 bit, the same on every machine."""
    rng = np.random.Generator(np.random.Philox(SEED))
    # Sums of bytes instead of normal variates: integers are the same on every platform.
    total: Any = sum(
        rng.integers(0, 256, (VOCABULARY, WIDTH), dtype=np.uint8).astype(np.int16) for _ in range(4)
    )
    return torch.from_numpy((total - 510).astype(np.float32) / 148 * 0.5).half().float()


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        inner = HEADS * HEAD
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(WIDTH, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        h = self.layer_norm1(x)
        q, k, v = (
            p(h).view(batch, length, HEADS, HEAD).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        h = self.fc1(self.layer_norm2(x))
        return x + self.fc2(h * torch.sigmoid(1.702 * h))


class TextEncoder(nn.Module):
    """Token ids ``(batch, 77)`` to contexts ``(batch, 77, 768)``."""

    def __init__(self) -> None:
        super().__init__()
        self.words: Tensor
        self.register_buffer("words", word_vectors(), persistent=False)
        self.positions = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        self.layers = nn.ModuleList(_Layer() for _ in range(LAYERS))
        self.final_layer_norm = nn.LayerNorm(WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words[ids] + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.final_layer_norm(x)


def clip_state(trained: dict[str, Tensor]) -> dict[str, Tensor]:
    """The full CLIP-L state (``transformers`` names, 16 bit) of a trained :class:`TextEncoder`."""
    state = {
        _PREFIX + "embeddings.token_embedding.weight": word_vectors().half(),
        _PREFIX + "embeddings.position_embedding.weight": trained["positions"].half(),
        _PREFIX + "embeddings.position_ids": torch.arange(LENGTH)[None],
    }
    for end in ("weight", "bias"):
        state[f"{_PREFIX}final_layer_norm.{end}"] = trained[f"final_layer_norm.{end}"].half()
    shapes = {
        "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH, WIDTH),
        "self_attn.v_proj": (WIDTH, WIDTH), "self_attn.out_proj": (WIDTH, WIDTH),
        "mlp.fc1": (CLIP_HIDDEN, WIDTH), "mlp.fc2": (WIDTH, CLIP_HIDDEN),
        "layer_norm1": (WIDTH,), "layer_norm2": (WIDTH,),
    }
    for index in range(CLIP_LAYERS):
        for name, shape in shapes.items():
            key = f"{_PREFIX}encoder.layers.{index}.{name}"
            ours = f"layers.{index}.{name.split('.')[-1]}"
            weight, bias = torch.zeros(shape), torch.zeros(shape[0])
            if len(shape) == 1:
                weight.fill_(1.0)
            if f"{ours}.weight" in trained:
                part, part_bias = trained[f"{ours}.weight"], trained[f"{ours}.bias"]
                weight[tuple(slice(n) for n in part.shape)] = part.float()
                bias[: len(part_bias)] = part_bias.float()
            state[f"{key}.weight"], state[f"{key}.bias"] = weight.half(), bias.half()
    return state
