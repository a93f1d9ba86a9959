"""quantize(model, plan): the whole path on one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .formats import FORMATS
from .layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear, share_workspace
from .plan import KEPT, TaqPlan
from .repair import repair

LayerTypes = Mapping[type[nn.Module], type[QuantizedLayer]]
PLAIN: LayerTypes = {nn.Linear: QuantizedLinear, nn.Conv2d: QuantizedConv2d}


class TaqError(ValueError):
    """The model cannot be quantized; the message says why and what to do."""


def quantize(
    model: nn.Module,
    plan: TaqPlan,
    *,
    importance: Mapping[str, Tensor] | None = None,
    weight_of: Callable[[str], Tensor] | None = None,
    layer_types: LayerTypes = PLAIN,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """Replace the planned layers of `model` in place by packed ones, and return it.

    importance: per layer, of `calibrate.importance`; see Format.quantize.
    weight_of: where a layer's weight comes from, by layer name; the layer itself by default.
    layer_types: what replaces Linear and Conv2d; a host brings its own sub-classes.
    progress: called with (layers done, layers in all).
    """
    planned = [(name, layer) for name, layer in plan.layers.items() if layer.format != KEPT]
    if not planned:
        raise TaqError("This model has no Linear or Conv2d layer that could be quantized.")
    for done, (name, layer_plan) in enumerate(planned):
        layer = model.get_submodule(name)
        weight = layer.weight if weight_of is None else weight_of(name)
        replacement = next(new for old, new in layer_types.items() if isinstance(layer, old))
        hurt = None if importance is None else importance.get(name)
        with torch.no_grad():
            packed = replacement(layer, weight.detach(), FORMATS[layer_plan.format], hurt)
            if layer_plan.rank:
                lost = (weight.detach().float() - packed.dense().to(weight.device)).flatten(1)
                packed.set_branch("repair", repair(lost, layer_plan.rank, hurt))
        _replace(model, name, packed.train(layer.training))
        if progress is not None:
            progress(done + 1, len(planned))
    share_workspace(model)
    return model


def size_bytes(model: nn.Module) -> int:
    """Bytes of all tensors in the model's state dict."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
