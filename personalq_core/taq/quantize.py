"""quantize(model, plan): the whole path on one page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from .formats import FORMATS, FloatFormat, Format, Packed
from .gpu_workspace import Lasting
from .layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear, share_workspace
from .plan import KEPT, LayerPlan, TaqPlan
from .repair import repair

LayerTypes = Mapping[type[nn.Module], type[QuantizedLayer]]
PLAIN: LayerTypes = {nn.Linear: QuantizedLinear, nn.Conv2d: QuantizedConv2d}

Pack = Callable[[Format | FloatFormat, Sequence[Tensor], Sequence[Tensor | None]], list[Packed]]
"""(format, matrices (rows, columns) of one shape, what their inputs are like) -> as packed."""

CPU_TOGETHER, GPU_TOGETHER = 1 << 22, 1 << 25
"""Weights, and moments of their inputs, that are rounded side by side: a CPU wants them in its
cache, a GPU has a launch for each column of them."""
GPU_ROOM = 1 << 30
"""Bytes that rounding so many takes on a GPU, beside the model."""


class TaqError(ValueError):
    """The model cannot be quantized; the message says why and what to do."""


def packed_together(
    fmt: Format | FloatFormat, matrices: Sequence[Tensor], importance: Sequence[Tensor | None]
) -> list[Packed]:
    """The format's own rounding."""
    if isinstance(fmt, Format) and fmt.compensates and len(matrices) > 1:
        return fmt.quantize_alike(matrices, [hurt for hurt in importance if hurt is not None])
    return [fmt.quantize(matrix, hurt) for matrix, hurt in zip(matrices, importance)]


def quantize(
    model: nn.Module,
    plan: TaqPlan,
    *,
    importance: Mapping[str, Tensor] | None = None,
    weight_of: Callable[[str], Tensor] | None = None,
    layer_types: LayerTypes = PLAIN,
    pack: Pack = packed_together,
    progress: Callable[[int, int], None] | None = None,
    lasting: Lasting = nullcontext,
) -> nn.Module:
    """Replace the planned layers of `model` in place by packed ones, and return it.

    importance: per layer, of `calibrate.importance`; see Format.quantize.
    weight_of: where a layer's weight comes from, by layer name; the layer itself by default.
    layer_types: what replaces Linear and Conv2d; a host brings its own sub-classes.
    pack: another way to round.
    progress: called with (layers done, layers in all).
    lasting: see `Workspace`.
    """
    planned = {name: layer for name, layer in plan.layers.items() if layer.format != KEPT}
    if not planned:
        raise TaqError("This model has no Linear or Conv2d layer that could be quantized.")
    done, importance = 0, importance or {}
    weight_of = weight_of or (lambda name: model.get_parameter(f"{name}.weight"))
    for names, matrices in batches(model, planned, importance, weight_of):
        fmt = FORMATS[planned[names[0]].format]
        hurts = [importance.get(name) for name in names]
        with torch.no_grad():
            for name, matrix, hurt, packed in zip(
                names, matrices, hurts, pack(fmt, matrices, hurts)
            ):
                layer = model.get_submodule(name)
                kind = next(new for old, new in layer_types.items() if isinstance(layer, old))
                replacement = kind(layer, packed, fmt)
                if planned[name].rank:
                    lost = matrix.float() - replacement.dense().to(matrix.device).flatten(1)
                    replacement.set_branch("repair", repair(lost, planned[name].rank, hurt))
                _replace(model, name, replacement.train(layer.training))
        done += len(names)
        if progress is not None:
            progress(done, len(planned))
    share_workspace(model, lasting)
    return model


def batches(
    model: nn.Module,
    planned: Mapping[str, LayerPlan],
    importance: Mapping[str, Tensor],
    weight_of: Callable[[str], Tensor],
) -> Iterator[tuple[list[str], list[Tensor]]]:
    """Layers and their weights (rows, columns): one by one, or those of one shape together where
    errors are made up for."""
    alike: dict[tuple, list[str]] = {}
    for name, layer in planned.items():
        fmt, moments = FORMATS[layer.format], importance.get(name)
        alone = not fmt.compensates or moments is None or moments.ndim < 3
        shape = model.get_submodule(name).weight.shape
        alike.setdefault((fmt.name, shape, name if alone else None), []).append(name)
    for names in alike.values():
        batch: list[Tensor] = []
        moments = importance[names[0]].numel() if len(names) > 1 else 0
        for number, name in enumerate(names, 1):
            batch.append(weight_of(name).detach().flatten(1))
            room = CPU_TOGETHER if batch[0].device.type == "cpu" else GPU_TOGETHER
            next_too = (len(batch) + 1) * (batch[0].numel() + moments) <= room
            if number == len(names) or not next_too:
                yield names[number - len(batch) : number], batch
                batch = []


def size_bytes(model: nn.Module) -> int:
    """Bytes of all tensors in the model's state dict."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
