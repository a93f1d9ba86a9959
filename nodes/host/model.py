"""A quantized MODEL for ComfyUI, built beside the source MODEL, which is never touched."""

from __future__ import annotations

import copy
import uuid
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor, nn

from ...personalq_core.taq import KEPT, TaqError, TaqPlan, make_plan, quantize
from ...personalq_core.taq.layers import QuantizedLayer
from ...personalq_core.taq.plan import quantizable
from .patching import LAYER_TYPES, low_rank, patcher_class

PREFIX = "diffusion_model."
FLOATS = (torch.float16, torch.bfloat16, torch.float32)

_quantized: weakref.WeakKeyDictionary[nn.Module, tuple[Any, Any, TaqPlan]]
_quantized = weakref.WeakKeyDictionary()
"""The last quantized MODEL of each base model, so that an evicted node output is not made anew.
It lives as long as its base model does."""


def quantized_model(
    source: Any,
    fmt: str,
    importance: Callable[[], dict[str, Tensor]] | None = None,
    key: tuple = (),
    lora: str = "merged",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Any, TaqPlan]:
    """A MODEL (ModelPatcher) with packed weights; LoRAs pending on `source` come along.

    lora: "merged" adds them to the weights at full precision before packing. "beside" packs the
        bare base once and keeps them as 16-bit branches, so that other LoRAs cost milliseconds;
        where one is no plain LoRA or LoCon, all are merged.
    importance: computed only where no finished model is cached under (source, fmt, key).
    Raises TaqError where the model cannot be quantized.
    """
    _check(source)
    plan = _prefixed_plan(source.model.diffusion_model, fmt)
    beside = lora == "beside" and _all_low_rank(source, plan)
    settings = (None if beside else source.patches_uuid, fmt, key)
    found = _quantized.get(source.model)
    if found is None or found[0] != settings:
        hurt = None if importance is None else importance()
        model = _quantize(source, plan, hurt, progress, patched=not beside)
        found = _quantized[source.model] = (settings, _patcher_for(source, model, None), plan)
    _, cached, plan = found
    patcher = _patcher_for(source, cached.model, cached)
    if beside and source.patches:
        patcher.patches = {key: patches[:] for key, patches in source.patches.items()}
        patcher.patches_uuid = source.patches_uuid
    return patcher, plan


def _all_low_rank(source: Any, plan: TaqPlan) -> bool:
    """Whether each patch that meets a layer to be packed can be a branch beside it."""
    packed = {f"{name}.weight" for name, layer in plan.layers.items() if layer.format != KEPT}
    return all(
        low_rank(patches, comfy.utils.get_attr(source.model, key).shape[0]) is not None
        for key, patches in source.patches.items()
        if key in packed
    )


def _prefixed_plan(diffusion_model: nn.Module, fmt: str) -> TaqPlan:
    plan = make_plan(diffusion_model, fmt)
    return TaqPlan({PREFIX + name: layer for name, layer in plan.layers.items()})


def packed_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """The packed layers of a model with their names."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            yield name, module


def _check(source: Any) -> None:
    diffusion_model = getattr(source.model, "diffusion_model", None)
    if diffusion_model is None:
        raise TaqError("This MODEL has no diffusion model inside; TAQ cannot quantize it.")
    if any(packed_layers(diffusion_model)):
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
    patched: bool,
) -> nn.Module:
    """A second model of the same class, its weights packed layer by layer.

    patched: with the patches pending on `source`, added in float32.
    """
    weights = source.get_key_patches()

    def merged(key: str) -> Tensor:
        (weight, convert), *patches = weights[key]
        weight = weight.to(source.load_device, torch.float32, copy=True)
        return comfy.lora.calculate_weight(
            patches if patched else [], convert(weight, inplace=True), key
        )

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
    patcher.__class__ = patcher_class(type(source))
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
