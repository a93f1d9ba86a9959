"""Which layer is stored in which format, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from .formats import FORMATS

KEPT = "16"
"""The layer stays as it is."""

LATENT_CHANNELS = 64
"""A layer with so few channels at one side meets the latent: it is the first or the last."""

TIME_EMBEDDING = re.compile(
    r"(^|\.)(time_embed|time_embedding|label_emb|add_embedding|time_in|vector_in|guidance_in"
    r"|t_embedder|y_embedder)\."
)


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """Format of one layer (a name in FORMATS, or KEPT) and the reason, in words.

    rank: of the 16-bit low-rank repair beside a packed weight; 0: none
    """

    format: str
    reason: str
    rank: int = 0


@dataclass(frozen=True, slots=True)
class TaqPlan:
    """Formats of all Linear and Conv2d layers by module name."""

    layers: dict[str, LayerPlan]

    def to_json(self) -> dict[str, dict[str, Any]]:
        return {name: asdict(layer) for name, layer in self.layers.items()}

    @classmethod
    def from_json(cls, data: dict[str, dict[str, Any]]) -> TaqPlan:
        return cls({name: LayerPlan(**layer) for name, layer in data.items()})


def quantizable(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """All plain Linear and Conv2d layers with their names."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            yield name, module


def make_plan(model: nn.Module, fmt: str) -> TaqPlan:
    """The plan that needs no data: `fmt` everywhere, except where it is known to hurt.

    Embeddings and norms are no Linear or Conv2d and never appear here.
    """
    return TaqPlan({name: _plan_layer(name, layer, fmt) for name, layer in quantizable(model)})


def _plan_layer(name: str, layer: nn.Linear | nn.Conv2d, fmt: str) -> LayerPlan:
    rows, columns = layer.weight.shape[0], layer.weight[0].numel()
    channels = min(rows, layer.weight.shape[1])
    if channels <= LATENT_CHANNELS:
        return LayerPlan(KEPT, f"first or last layer: meets the latent with {channels} channels")
    if FORMATS[fmt].size_bytes(rows, columns) >= rows * columns * 2:
        return LayerPlan(KEPT, "too small to gain anything")
    if FORMATS[fmt].bits < 8 and TIME_EMBEDDING.search(name):
        return LayerPlan("int8", "every block hears the time embedding")
    return LayerPlan(fmt, "default")
