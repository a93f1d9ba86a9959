"""Packed layers that ComfyUI can off-load and patch: a LoRA stays beside the codes, at 16 bit."""

from __future__ import annotations

import contextlib
import functools
import math
from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import comfy.hooks
import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import Tensor, nn

from ...personalq_core.taq.gpu_workspace import Lasting
from ...personalq_core.taq.layers import (
    QuantizedConv2d,
    QuantizedLayer,
    QuantizedLinear,
    release_workspace,
)
from ...personalq_core.taq.lora import Branch
from ...personalq_core.taq.text_cache import forget_text

run_every_op = getattr(comfy.ops, "run_every_op", lambda: None)
"""What ComfyUI's own layers call first, so that a run can be interrupted; older versions do not."""

try:
    from comfy.model_prefetch import pause_malloc_graph  # pyright: ignore[reportMissingImports]
except ImportError:
    pause_malloc_graph = contextlib.nullcontext
lasting_memory: Lasting = pause_malloc_graph
"""While it is entered, memory may be taken that stays: newer versions of ComfyUI plan what some
models allocate in a step, and expect it to be given back within the step."""

Backup = namedtuple("Backup", ["weight", "inplace_update"])
"""What the patcher keeps of a weight that it changed."""


def low_rank(patches: list[tuple], shape: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """All patches of a weight of this shape as one pair of factors; None where one of them is no
    plain LoRA, or one for another shape: the patcher knows what to do, or what to say.

    Returns up (rows, rank) with the strengths in it and down (rank, columns); the change is
    up @ down, as `comfy.lora.calculate_weight` adds it up.
    """
    (rows, *inputs), ups, downs = shape, [], []
    for strength, patch, strength_model, offset, function in patches:
        factors = _factors(patch)
        if factors is None or strength_model != 1.0 or function is not None:
            return None
        up, down = factors
        dimension, start, length = (0, 0, rows) if offset is None else offset
        if dimension != 0 or len(up) != length or down.shape[1] != math.prod(inputs):
            return None
        ups.append(nn.functional.pad(up * strength, (0, 0, start, rows - start - length)))
        downs.append(down)
    return torch.cat(ups, dim=1), torch.cat(downs, dim=0)


def _factors(patch: Any) -> tuple[Tensor, Tensor] | None:
    """A LoRA's or LoCon's factors in float32, its alpha in the first."""
    if getattr(patch, "name", None) != "lora":
        return None
    up, down, alpha, middle, dora_scale, reshape = patch.weights
    if dora_scale is not None or reshape is not None:
        return None
    up, rank = up.float().flatten(1), down.shape[0]
    if alpha is not None:
        up = up * (alpha / rank)
    if middle is None:
        return up, down.float().flatten(1)
    # A convolution in Tucker form: the middle kernel joins the factor that reads the input.
    inputs = down.float().flatten(1)
    kernel = torch.einsum("mnhw,nc->mchw", middle.float(), inputs)
    return up, kernel.flatten(1)


class _ComfyLayer(comfy.ops.CastWeightBiasOp, QuantizedLayer):
    """What ComfyUI's patcher expects of a layer: off-loading, and LoRA in its own words.

    Plain LoRAs become branches at once (see `TaqPatching`). All other patches (DoRA, LoHa, LoKr,
    whole differences) go the patcher's own way: it takes a weight through `convert_weight`, adds
    its patches and hands the result to `set_weight`. What they changed is kept as a 16-bit
    branch; the codes stay as they are.
    """

    comfy_cast_weights = True
    _full_precision_mm = True  # else ComfyUI may take the codes for weights in a product of its own

    def convert_weight(self, weight: Tensor, inplace: bool = False, **_: Any) -> Tensor:
        """Codes, in whatever type the patcher cast them to -> the weight in float32."""
        return self.dense(torch.float32, weight.to(self.weight.dtype))

    def set_weight(
        self, weight: Tensor, inplace_update: bool = False, return_weight: bool = False, **_: Any
    ) -> Tensor | None:
        """Take a patched weight. In-place updates are hooks: they come and go while sampling."""
        if return_weight:
            return weight
        change = weight - self.dense(torch.float32).to(weight.device)
        self.set_branch("hook" if inplace_update else "lora", Branch.of(change))
        return None

    def _is_at_hand(self, x: Tensor) -> bool:
        run_every_op()
        free = not self.weight_function and not self.bias_function
        return free and super()._is_at_hand(x)

    def _tile(self, rows: slice, like: Tensor) -> tuple[Tensor, Tensor | None]:
        run_every_op()
        if not self.weight_function:
            return super()._tile(rows, like)
        return self._patched_weight(like.device)[rows].to(like.dtype), None

    def _integer(self, x: Tensor) -> Tensor | None:
        run_every_op()
        return None if self.weight_function else super()._integer(x)

    def _patched_weight(self, device: torch.device) -> Tensor:
        """The weight with what ComfyUI changes in each step: it knows of no codes."""
        patched = self.dense(torch.float32, self.weight.to(device)).to(device)
        for function in self.weight_function:
            if isinstance(function, comfy.model_patcher.LowVramPatch):
                patches = function.patches[function.key]
                patched = comfy.lora.calculate_weight(patches, patched, function.key)
            else:
                patched = function(patched)
        return patched

    def _tiles(self, like: Tensor) -> Sequence[slice]:
        # With a patched weight made in each step, the whole weight is one tile.
        return [slice(0, self.rows)] if self.weight_function else super()._tiles(like)

    def _bias_for(self, like: Tensor) -> Tensor | None:
        bias = super()._bias_for(like)
        for function in self.bias_function:
            bias = function(bias)
        return bias


class ComfyLinear(_ComfyLayer, QuantizedLinear):
    """QuantizedLinear that ComfyUI can off-load and patch."""

    def _is_settled(self) -> bool:
        # ComfyUI may change what its functions do to a weight from step to step.
        return not self.weight_function and not self.bias_function


class ComfyConv2d(_ComfyLayer, QuantizedConv2d):
    """QuantizedConv2d that ComfyUI can off-load and patch."""


LAYER_TYPES = {nn.Linear: ComfyLinear, nn.Conv2d: ComfyConv2d}


class TaqPatching(comfy.model_patcher.ModelPatcher):
    """Mixed into the source's patcher class: patches on packed weights.

    A plain LoRA needs no weight at all: its factors are the branch, so another LoRA over the same
    base costs milliseconds. ComfyUI keeps hooked weights in a cache and copies them over the
    layer's own; codes cannot be copied over like that, so hooks are computed anew and taken away
    as the branches they are.
    """

    hook_mode = comfy.hooks.EnumHookMode.MinVram

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "hook_mode":
            super().__setattr__(name, value)

    def patch_weight_to_device(self, key: str, *args: Any, **kwargs: Any) -> Any:
        layer = _packed_layer(self.model, key)
        if kwargs.get("return_weight") or layer is None or not self._set_branch(key, layer):
            return super().patch_weight_to_device(key, *args, **kwargs)
        return None

    def _set_branch(self, key: str, layer: QuantizedLayer) -> bool:
        """Put the patches of a weight beside its codes, where they are plain LoRAs."""
        factors = low_rank(self.patches[key], layer.shape) if key in self.patches else None
        if factors is None:
            return False
        self.backup.setdefault(key, Backup(layer.weight, False))
        layer.set_branch("lora", Branch(*factors))
        return True

    def load(self, *args: Any, **kwargs: Any) -> Any:
        done = super().load(*args, **kwargs)
        self._set_pending_branches()
        return done

    def partially_unload(self, *args: Any, **kwargs: Any) -> Any:
        freed = super().partially_unload(*args, **kwargs)
        self._set_pending_branches()
        return freed

    def _set_pending_branches(self) -> None:
        """Plain LoRAs that ComfyUI would add in each step anew, where a layer is off-loaded: a
        branch is the same at once, and lets a text layer remember its products."""
        for name, layer in self.model.named_modules():
            pending = getattr(layer, "weight_function", None)
            if isinstance(layer, QuantizedLayer) and pending:
                others = [f for f in pending if not isinstance(f, comfy.model_patcher.LowVramPatch)]
                if len(others) < len(pending) and self._set_branch(f"{name}.weight", layer):
                    layer.weight_function = others

    def patch_hook_weight_to_device(self, *args: Any, **kwargs: Any) -> Any:
        key, patches = kwargs.get("key", ""), kwargs.get("combined_patches", {})
        layer = _packed_layer(self.model, key) if key in patches else None
        factors = low_rank(patches[key], layer.shape) if layer is not None else None
        if layer is None or factors is None:
            return super().patch_hook_weight_to_device(*args, **kwargs)
        layer.set_branch("hook", Branch(*factors))
        return None

    def detach(self, unpatch_all: bool = True, **kwargs: Any) -> Any:
        if unpatch_all:  # else a clone of the model takes over at once
            forget_text(self.model)
            release_workspace(self.model)
        return super().detach(unpatch_all, **kwargs)

    def unpatch_hooks(self, *args: Any, **kwargs: Any) -> None:
        super().unpatch_hooks(*args, **kwargs)
        for module in self.model.modules():
            if isinstance(module, QuantizedLayer):
                module.set_branch("hook", None)


def _packed_layer(model: nn.Module, key: str) -> QuantizedLayer | None:
    name, _, field = key.rpartition(".")
    if field != "weight" or not name:
        return None
    layer = comfy.utils.get_attr(model, name)
    return layer if isinstance(layer, QuantizedLayer) else None


@functools.cache
def patcher_class(base: type) -> type:
    """`base`, a ModelPatcher class, for models with packed layers."""
    return type(f"Taq{base.__name__}", (TaqPatching, base), {})
