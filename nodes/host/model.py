"""A quantized MODEL for ComfyUI, built beside the source MODEL, which is never touched."""

from __future__ import annotations

import copy
import functools
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import comfy.hooks
import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import Tensor, nn

from ...personalq_core.taq import TaqError, TaqPlan, make_plan, quantize
from ...personalq_core.taq.layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear
from ...personalq_core.taq.plan import quantizable

PREFIX = "diffusion_model."
FLOATS = (torch.float16, torch.bfloat16, torch.float32)


class _ComfyLayer(comfy.ops.CastWeightBiasOp):
    """What ComfyUI's patcher expects of a layer: off-loading, and LoRA in its own words.

    The patcher takes a weight through `convert_weight`, adds its patches and hands the result to
    `set_weight`. What the patches changed is kept as a 16-bit branch; the codes stay as they are.
    """

    comfy_cast_weights = True

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
        self.set_branch("hook" if inplace_update else "lora", change.to(self.weight.device))
        return None

    def _tile(self, rows: slice, like: Tensor) -> tuple[Tensor, Tensor | None]:
        comfy.ops.run_every_op()
        if not self.weight_function:
            return super()._tile(rows, like)
        return self._patched_weight(like.device)[rows].to(like.dtype), None

    def _patched_weight(self, device: torch.device) -> Tensor:
        """The weight of an off-loaded layer, to which ComfyUI adds its patches in each step."""
        patched: Tensor | None = None
        for function in self.weight_function:
            if isinstance(function, comfy.model_patcher.LowVramPatch):
                patched = function(self.weight.to(device))
            else:
                patched = function(self.dense().to(device) if patched is None else patched)
        assert patched is not None
        return patched

    def _tiles(self):
        # With patches to add in each step, the whole weight is one tile.
        return iter([slice(0, self.shape[0])]) if self.weight_function else super()._tiles()

    def _bias_for(self, like: Tensor) -> Tensor | None:
        bias = super()._bias_for(like)
        for function in self.bias_function:
            bias = function(bias)
        return bias


class ComfyLinear(_ComfyLayer, QuantizedLinear):
    """QuantizedLinear that ComfyUI can off-load and patch."""


class ComfyConv2d(_ComfyLayer, QuantizedConv2d):
    """QuantizedConv2d that ComfyUI can off-load and patch."""


LAYER_TYPES = {nn.Linear: ComfyLinear, nn.Conv2d: ComfyConv2d}


class _TaqPatching:
    """Mixed into the source's patcher class: weight hooks on packed weights.

    ComfyUI keeps hooked weights in a cache and copies them over the layer's own; codes cannot be
    copied over like that, so hooks are computed anew and taken away as the branches they are.
    """

    hook_mode = comfy.hooks.EnumHookMode.MinVram

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "hook_mode":
            super().__setattr__(name, value)

    def unpatch_hooks(self, *args: Any, **kwargs: Any) -> None:
        super().unpatch_hooks(*args, **kwargs)
        for module in self.model.modules():
            if isinstance(module, QuantizedLayer):
                module.set_branch("hook", None)


@functools.cache
def _patcher_class(base: type) -> type:
    return type(f"Taq{base.__name__}", (_TaqPatching, base), {})


_quantized: weakref.WeakKeyDictionary[nn.Module, tuple[Any, Any, TaqPlan]]
_quantized = weakref.WeakKeyDictionary()
"""The last quantized MODEL of each base model, so that an evicted node output is not made anew.
It lives as long as its base model does."""


def quantized_model(
    source: Any,
    fmt: str,
    importance: Callable[[], dict[str, Tensor]] | None = None,
    key: tuple = (),
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Any, TaqPlan]:
    """A MODEL (ModelPatcher) with packed weights; LoRAs pending on `source` are merged before.

    importance: computed only where no finished model is cached under (source, fmt, key).
    Raises TaqError where the model cannot be quantized.
    """
    _check(source)
    settings = (source.patches_uuid, fmt, key)
    found = _quantized.get(source.model)
    if found is None or found[0] != settings:
        plan = _prefixed_plan(source.model.diffusion_model, fmt)
        hurt = None if importance is None else importance()
        model = _quantize(source, plan, hurt, progress)
        found = _quantized[source.model] = (settings, _patcher_for(source, model, None), plan)
    cached = found[1]
    return _patcher_for(source, cached.model, cached), found[2]


def _prefixed_plan(diffusion_model: nn.Module, fmt: str) -> TaqPlan:
    plan = make_plan(diffusion_model, fmt)
    return TaqPlan({PREFIX + name: layer for name, layer in plan.layers.items()})


def _check(source: Any) -> None:
    diffusion_model = getattr(source.model, "diffusion_model", None)
    if diffusion_model is None:
        raise TaqError("This MODEL has no diffusion model inside; TAQ cannot quantize it.")
    if any(isinstance(module, QuantizedLayer) for module in diffusion_model.modules()):
        raise TaqError(
            "This MODEL is already quantized by TAQ. Connect the MODEL from before that node."
        )
    for name, layer in quantizable(diffusion_model):
        weight = layer.weight
        if type(weight.data) is not Tensor or weight.dtype not in FLOATS:
            kind = getattr(weight, "dtype", None) or type(weight).__name__
            raise TaqError(
                f"This MODEL is already quantized ({name} is stored as {kind}). "
                "Load the model's 16-bit file (weight_dtype: default) and quantize that."
            )


def _quantize(
    source: Any,
    plan: TaqPlan,
    importance: dict[str, Tensor] | None,
    progress: Callable[[int, int], None] | None,
) -> nn.Module:
    """A second model of the same class, weights merged in float32 and packed layer by layer."""
    weights = source.get_key_patches()

    def merged(key: str) -> Tensor:
        (weight, convert), *patches = weights[key]
        weight = weight.to(source.load_device, torch.float32, copy=True)
        return comfy.lora.calculate_weight(patches, convert(weight, inplace=True), key)

    with source.use_ejected():
        model = _without_weights(source)
    quantize(
        model,
        plan,
        importance=importance,
        weight_of=lambda name: merged(f"{name}.weight"),
        layer_types=LAYER_TYPES,
        progress=progress,
    )
    for key, meta in list(model.named_parameters()):
        if meta.device.type == "meta":
            weight = merged(key).to(source.offload_device, meta.dtype)
            comfy.utils.set_attr_param(model, key, weight)
    return model.to(source.offload_device)


def _without_weights(source: Any) -> nn.Module:
    """A copy of the source's model as it is when nothing is loaded, parameters on `meta`.

    Copying the object, not calling its class again, suits every model class of every version.
    """
    memo: dict[int, Any] = {id(getattr(source.model, "current_patcher", None)): None}
    for parameter in source.model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), False)
    for module in source.model.modules():
        for functions in ("weight_function", "bias_function"):
            if functions in module.__dict__:
                memo[id(module.__dict__[functions])] = []
    model = copy.deepcopy(source.model, memo)
    for name, original in source.object_patches_backup.items():
        comfy.utils.set_attr(model, name, copy.deepcopy(original, memo))
    for module in model.modules():
        comfy.model_patcher.wipe_lowvram_weight(module)
        module.__dict__.pop("comfy_patched_weights", None)
    model.current_patcher = None
    model.device = source.offload_device
    model.current_weight_patches_uuid = None
    model.model_loaded_weight_memory = 0
    model.model_offload_buffer_memory = 0
    model.lowvram_patch_counter = 0
    model.model_lowvram = False
    return model


def _patcher_for(source: Any, model: nn.Module, parent: Any) -> Any:
    """The source's patcher with everything but its weights' patches, around `model`.

    When it goes, ComfyUI's list of loaded models falls back to its `parent`, which has to be a
    patcher of the same model.
    """
    patcher = source.clone()
    patcher.__class__ = _patcher_class(type(source))
    patcher.model = model
    patcher.parent = parent
    patcher.size = 0
    patcher.patches = {}
    patcher.patches_uuid = uuid.uuid4() if parent is None else parent.patches_uuid
    patcher.backup, patcher.object_patches_backup, patcher.hook_backup = {}, {}, {}
    patcher.cached_hook_patches, patcher.current_hooks = {}, None
    patcher.pinned = set()
    patcher.is_injected = False
    return patcher
