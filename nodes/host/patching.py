"""Packed layers that ComfyUI can off-load and patch: a LoRA stays beside the codes, at 16 bit."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import comfy.controlnet
import comfy.hooks
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...personalq_core.taq import TaqError
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

LORA, HOOK = "lora", "hook"
"""The branches that patches come and go with. All others belong to the model."""

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
        fits = up.shape == (length, len(down)) and down.shape[1] == math.prod(inputs)
        if dimension != 0 or not fits:
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
        """Codes, in whatever type the patcher cast them to -> the model's own weight in float32."""
        return self._own(weight.to(self.weight.dtype))

    def set_weight(
        self, weight: Tensor, inplace_update: bool = False, return_weight: bool = False, **_: Any
    ) -> Tensor | None:
        """Take a patched weight. In-place updates are hooks: they come and go while sampling."""
        if return_weight:
            return weight
        change = weight - self._own().to(weight.device)
        self.set_branch(HOOK if inplace_update else LORA, Branch.of(change))
        return None

    def _own(self, codes: Tensor | None = None) -> Tensor:
        """The weight in float32 that patches change: with the branches that belong to the model,
        such as those of a saved LoRA; `codes`: others than ours."""
        weight = self.dense(torch.float32, codes)
        for name, branch in self.branches.items():
            if name not in (LORA, HOOK):
                branch.add_to(weight.flatten(1))
        return weight

    def _product(self, x: Tensor) -> Tensor:
        run_every_op()
        if not self.weight_function:
            return super()._product(x)
        weight = self._patched_weight(x.device).to(x.dtype)
        return self._times(x, weight, self._bias_for(x))

    def _is_at_hand(self, x: Tensor) -> bool:
        return not self.bias_function and super()._is_at_hand(x)

    def _patched_weight(self, device: torch.device) -> Tensor:
        """The weight with what ComfyUI changes in each step: it knows of no codes."""
        patched = self.dense(torch.float32, self.weight.to(device)).to(device)
        self.add_branches(patched.flatten(1))
        for function in self.weight_function:
            if isinstance(function, comfy.model_patcher.LowVramPatch):
                patches = function.patches[function.key]
                patched = comfy.lora.calculate_weight(patches, patched, function.key)
            else:
                patched = function(patched)
        return patched

    def _bias_for(self, like: Tensor) -> Tensor | None:
        bias = super()._bias_for(like)
        if bias is None or not self.bias_function:
            return bias
        bias = bias.clone()  # a patch is added in place
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

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        refuse_readers(self)

    @property
    def hook_mode(self) -> comfy.hooks.EnumHookMode:
        return comfy.hooks.EnumHookMode.MinVram

    @hook_mode.setter
    def hook_mode(self, _: comfy.hooks.EnumHookMode) -> None:
        """ComfyUI wants another where there is memory for its cache."""

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
        layer.set_branch(LORA, Branch(*factors))
        return True

    def load(self, *args: Any, **kwargs: Any) -> Any:
        self.unpatch_hooks()  # else their branches would be counted too
        self.size = comfy.model_management.module_size(self.model)
        before = _bytes_beside(self.model)
        done = super().load(*args, **kwargs)
        self._set_pending_branches()
        self._count_branches(before)
        return done

    def _count_branches(self, before: dict[QuantizedLayer, int]) -> None:
        """Count what came with loading: ComfyUI has looked at each layer before its branch came."""
        for layer, size in _bytes_beside(self.model).items():
            came = size - before[layer]
            self.size += came
            if getattr(layer, "comfy_patched_weights", False):  # else it is off-loaded
                self.model.model_loaded_weight_memory += came

    def partially_unload(self, *args: Any, **kwargs: Any) -> Any:
        forget_text(self.model)
        release_workspace(self.model)
        self.unpatch_hooks()
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
        layer.set_branch(HOOK, Branch(*factors))
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
                module.set_branch(HOOK, None)


def _packed_layer(model: nn.Module, key: str) -> QuantizedLayer | None:
    name, _, field = key.rpartition(".")
    if field != "weight" or not name:
        return None
    layer = comfy.utils.get_attr(model, name)
    return layer if isinstance(layer, QuantizedLayer) else None


def _bytes_beside(model: nn.Module) -> dict[QuantizedLayer, int]:
    """What the branches of each packed layer take."""
    return {
        layer: comfy.model_management.module_size(layer.branches)
        for layer in model.modules()
        if isinstance(layer, QuantizedLayer)
    }


def refuse_readers(patcher: Any) -> None:
    """Tell in words what in ComfyUI would take the codes of a packed MODEL for weights."""
    kind, key = WrappersMP.OUTER_SAMPLE, "personalq_taq"
    patcher.remove_wrappers_with_key(kind, key)
    patcher.add_wrapper_with_key(kind, key, _refuse_control_loras)
    patcher.model.state_dict_for_saving = _refuse_to_be_saved


def _refuse_control_loras(executor: Any, *args: Any, **kwargs: Any) -> Any:
    for cond in itertools.chain(*executor.class_obj.conds.values()):
        control = cond.get("control")
        while control is not None:
            if isinstance(control, comfy.controlnet.ControlLora):
                raise TaqError(
                    "A Control-LoRA runs on a copy of the model's weights, and those that TAQ "
                    "packed cannot be copied. Use a ControlNet that brings its own, or the MODEL "
                    "from before TAQ."
                )
            control = control.previous_controlnet
    return executor(*args, **kwargs)


def _refuse_to_be_saved(*_: Any, **__: Any) -> None:
    raise TaqError(
        "ComfyUI's own nodes cannot save a MODEL quantized by TAQ: no loader could read the file. "
        "Use Save TAQ Model."
    )


@functools.cache
def patcher_class(base: type) -> type:
    """`base`, a ModelPatcher class, for models with packed layers."""
    return type(f"Taq{base.__name__}", (TaqPatching, base), {})
