"""A quantized MODEL for ComfyUI, built beside the source MODEL, which is never touched."""

from __future__ import annotations

import copy
import functools
import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import (
    COMPILE_KEY,
    TORCH_COMPILE_KWARGS,
    set_torch_compile_wrapper,
)
from torch import Tensor, nn

from ...personalq_core.taq import TaqError, TaqPlan, make_plan, quantize, size_bytes
from ...personalq_core.taq.layers import QuantizedLayer
from ...personalq_core.taq.plan import quantizable
from ...personalq_core.taq.quantize import GPU_ROOM, Pack, packed_together
from ...personalq_core.taq.text_cache import (
    cache_text,
    full_precision_text,
    in_a_file,
    keep_outside,
)
from . import folders
from .marking import Paper, listen, simulate_paper
from .patching import LAYER_TYPES, lasting_memory, low_rank, patcher_class, refuse_readers

PREFIX = "diffusion_model."
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
BYPASS, MULTI_GPU = "bypass_lora", "multigpu"
"""ComfyUI's names for what its LoRA loader in bypass mode and MultiGPU CFG Split put on a MODEL."""


@dataclass(frozen=True, slots=True)
class TaqNotes:
    """What a quantized MODEL carries along, through clones, into its file.

    sources: what it was made from -> sha256 over names, shapes and first bytes of the weights
    source_bytes: what the source model took in memory, as its host had loaded it
    how: what the trigger changed, in a sentence
    """

    KEY: ClassVar[str] = "personalq_taq"

    plan: TaqPlan
    trigger: str
    sources: dict[str, str]
    source_bytes: int
    how: str = ""


def notes_of(patcher: Any) -> TaqNotes | None:
    """The notes of a MODEL that TAQ quantized, None of any other."""
    return patcher.get_attachment(TaqNotes.KEY)


_quantized: weakref.WeakKeyDictionary[nn.Module, tuple[Any, Any, TaqNotes]]
_quantized = weakref.WeakKeyDictionary()
"""The last quantized model of each base model, in a bare patcher, so that an evicted node output is
not made anew. It lives as long as its base model does."""


def quantized_model(
    source: Any,
    fmt: str,
    *,
    planned: Callable[[nn.Module], TaqPlan] | None = None,
    importance: Callable[[], dict[str, Tensor]] | None = None,
    key: tuple = (),
    lora: str = "merged",
    trigger: str = "",
    how: str = "",
    paper: Paper | None = None,
    pack: Pack = packed_together,
    progress: Callable[[int, int], None] | None = None,
    at_hand: Callable[[], Any] | None = None,
) -> tuple[Any, TaqPlan]:
    """A MODEL (ModelPatcher) with packed weights; LoRAs pending on `source` come along.

    planned: the plan for a diffusion model, where it is more than `fmt` throughout.
    importance: per layer of the diffusion model; see `quantize`.
    key: what `planned` and `importance` depend on. Both are called only where no finished model
        is cached under (source, fmt, key, lora).
    lora: "merged" adds them to the weights at full precision before packing. "beside" packs the
        bare base once and keeps them as 16-bit branches, so that other LoRAs cost milliseconds;
        where one is no plain LoRA or LoCon, all are merged.
    how: for the notes; paper: the paper's setting, in the place of text computed once.
    pack: another way to round; such a model is not cached.
    at_hand: gives `with_weights_at_hand(source)`, where the caller has use for it too.
    Raises TaqError where the model cannot be quantized.
    """
    _check(source)
    beside = lora == "beside" and _all_low_rank(source)
    settings = (None if beside else source.patches_uuid, fmt, key)
    found = _quantized.get(source.model) if pack is packed_together else None
    if found is None or found[0] != settings:
        held = at_hand() if at_hand else with_weights_at_hand(source)
        chosen = (planned or (lambda model: make_plan(model, fmt)))(_inner(held))
        plan = _prefixed(chosen if paper else full_precision_text(_inner(held), chosen))
        hurt = None if importance is None else _prefixed_keys(importance())
        model = _quantize(held, plan, hurt, pack, progress, not beside, paper)
        notes = TaqNotes(plan, trigger, _sources(source), size_bytes(_inner(source)))
        found = (settings, _bare_patcher(source, model), notes)
        if pack is packed_together:
            _quantized[source.model] = found
    _, bare, notes = found
    patcher = _patcher_for(source, bare)
    how = " ".join(filter(None, (how, _told(source, lora, beside))))
    notes = replace(notes, trigger=trigger, how=how, sources=_sources(source))
    patcher.set_attachments(TaqNotes.KEY, notes)
    if paper:
        listen(patcher)
    if beside and source.patches:
        patcher.patches = {key: patches[:] for key, patches in source.patches.items()}
        patcher.patches_uuid = source.patches_uuid
    return patcher, notes.plan


def _told(source: Any, lora: str, beside: bool) -> str:
    """Where the LoRAs that came with the model went, in a sentence."""
    if not source.patches:
        return ""
    if beside:
        return "LoRAs stay at 16 bits beside the packed weights."
    if lora == "merged":
        return "LoRAs were merged before packing, as wished."
    return "LoRAs were merged before packing: one is no plain LoRA or LoCon and cannot stay beside."


def with_weights_at_hand(source: Any) -> Any:
    """`source`, or a clone of it that ComfyUI does not load dynamically.

    Newer versions of ComfyUI fetch a layer's weight from the file while it runs. Who reads the
    weights, or changes them to see what that does, needs them as they are.
    """
    if not _is_dynamic(source):
        return source
    try:
        plain = source.clone(disable_dynamic=True)
    except (RuntimeError, TypeError) as error:  # a loader's own, which knows of no such wish
        raise TaqError(
            "The loader of this MODEL cannot load it again for quantizing. Use one of ComfyUI's "
            "own loaders, or start ComfyUI with --disable-dynamic-vram."
        ) from error
    for key, parameter in plain.model.named_parameters():
        parameter.data = parameter.data.to(_computed_in(plain.model, key) or parameter.dtype)
    return plain


def _is_dynamic(source: Any) -> bool:
    return hasattr(source, "is_dynamic") and source.is_dynamic()


def _inner(source: Any) -> nn.Module:
    return source.model.diffusion_model


def _prefixed(plan: TaqPlan) -> TaqPlan:
    return TaqPlan(_prefixed_keys(plan.layers))


def _prefixed_keys(by_layer: Mapping[str, Any]) -> dict[str, Any]:
    return {PREFIX + name: value for name, value in by_layer.items()}


def _sources(source: Any) -> dict[str, str]:
    """Which base and which LoRAs: sha256 over names, shapes and first bytes of their weights."""
    base = {key: parts[0][0] for key, parts in source.get_key_patches(PREFIX).items()}
    found = {"base": _fingerprint(base)}
    patches = {
        f"{key} {number} {patch[0]} {part}": tensor
        for key, stack in source.patches.items()
        for number, patch in enumerate(stack)
        for part, tensor in enumerate(getattr(patch[1], "weights", patch[1]))
        if isinstance(tensor, Tensor)
    }
    return found | ({"loras": _fingerprint(patches)} if patches else {})


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key}\0{tuple(tensor.shape)}\0".encode())
        start = tensor.detach().reshape(-1)[:1024].to("cpu", torch.float32)
        digest.update(start.numpy().tobytes())
    return digest.hexdigest()


def _all_low_rank(source: Any) -> bool:
    """Whether each patch that may meet a packed layer can be a branch beside it."""
    weights = {
        f"{PREFIX}{name}.weight": layer.weight for name, layer in quantizable(_inner(source))
    }
    return all(
        low_rank(patches, weights[key].shape) is not None
        for key, patches in source.patches.items()
        if key in weights
    )


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
    if source.injections.get(BYPASS):
        raise TaqError(
            "A LoRA in bypass mode is connected before TAQ: it changes the original model while it "
            "runs, not the packed one. Connect it after TAQ Quantize, or switch its bypass off."
        )
    for name, part in source.object_patches.items():
        replaced = part if isinstance(part, nn.Module) else getattr(part, "__self__", None)
        if name.startswith(PREFIX[:-1]) and isinstance(replaced, nn.Module):
            raise TaqError(
                f"A node before TAQ replaces {name}, which would keep the weights as they were. "
                "Connect that node after TAQ Quantize."
            )
    with _ejected(source):
        for name, layer in quantizable(diffusion_model):
            for method in ("forward", "_conv_forward"):
                if _is_replaced(source, f"{PREFIX}{name}", layer, method):
                    raise TaqError(
                        f"A node before TAQ replaces {PREFIX}{name}.{method}, which packing would "
                        "undo. Connect that node after TAQ Quantize, or leave it out."
                    )
    # Layers that read quantized weights need not be Linear, and need not all be quantized.
    weights = dict(diffusion_model.named_parameters())
    weights |= {f"{name}.weight": layer.weight for name, layer in quantizable(diffusion_model)}
    for name, weight in weights.items():
        kind = weight.dtype if type(weight.data) is Tensor else type(weight.data).__name__
        if weight.ndim > 1 and kind not in FLOATS:
            raise TaqError(
                f"This MODEL is already quantized ({name} is stored as {kind}). "
                "Load the model's 16-bit file (weight_dtype: default) and quantize that."
            )


def _is_replaced(source: Any, name: str, layer: nn.Module, method: str) -> bool:
    """Whether the layer has a method of its own that no loaded clone of the source put there."""
    own = vars(layer).get(method)
    unchanged = own is None or getattr(own, "__func__", None) is getattr(type(layer), method)
    return not unchanged and f"{name}.{method}" not in source.object_patches_backup


def _ejected(source: Any) -> Any:
    """`source.use_ejected()`, also where it is a clone of the source that is loaded and injected
    something."""
    loaded = [loaded.model for loaded in comfy.model_management.current_loaded_models]
    clones = (patcher for patcher in loaded if patcher is not None and patcher.is_clone(source))
    injected = (patcher for patcher in (source, *clones) if patcher.is_injected)
    return next(injected, source).use_ejected()


def _quantize(
    source: Any,
    plan: TaqPlan,
    importance: dict[str, Tensor] | None,
    pack: Pack,
    progress: Callable[[int, int], None] | None,
    patched: bool,
    paper: Paper | None,
) -> nn.Module:
    """A second model of the same class, its weights packed layer by layer.

    patched: with the patches pending on `source`, added in float32.
    """
    if source.load_device.type != "cpu":
        comfy.model_management.free_memory(GPU_ROOM, source.load_device)
    weights = source.get_key_patches()

    def merged(key: str) -> Tensor:
        (weight, convert), *patches = weights[key]
        weight = weight.to(source.load_device, torch.float32, copy=True)
        return comfy.lora.calculate_weight(
            patches if patched else [], convert(weight, inplace=True), key
        )

    with _ejected(source):
        model = _without_weights(source)
    quantize(
        model,
        plan,
        importance=importance,
        weight_of=lambda name: merged(f"{name}.weight"),
        layer_types=LAYER_TYPES,
        pack=pack,
        progress=progress,
        lasting=lasting_memory,
    )
    for key, meta in list(model.named_parameters()):
        if meta.device.type == "meta":
            dtype = _computed_in(source.model, key) or meta.dtype
            comfy.utils.set_attr_param(model, key, merged(key).to(source.offload_device, dtype))
    model = model.to(source.offload_device)
    diffusion_model = model.get_submodule("diffusion_model")
    if paper:
        simulate_paper(diffusion_model, lambda name: merged(f"{PREFIX}{name}.weight"), paper)
        return model.to(source.offload_device)
    compute_text_once(diffusion_model)
    return model


def _computed_in(model: nn.Module, key: str) -> torch.dtype | None:
    """The type of a parameter while the model runs, where newer versions of ComfyUI leave it in its
    file's until then."""
    owner, _, name = key.rpartition(".")
    return getattr(model.get_submodule(owner), f"{name}_comfy_model_dtype", None)


def compute_text_once(model: nn.Module) -> None:
    """Let a packed diffusion model read its text's keys and values once per prompt, from a file of
    their own in the temp folder; raises TaqError."""
    cache_text(model)
    folder = folders.temporary()
    try:
        keep_outside(model, functools.partial(in_a_file, folder=folder))
    except OSError as error:
        raise TaqError(
            f"The text's keys and values could not be written to {folder} ({error}). Make room "
            "on that disk, or start ComfyUI with another --temp-directory."
        ) from error


def _without_weights(source: Any) -> nn.Module:
    """A copy of the source's model as it is when nothing is loaded, parameters on `meta`.

    Copying the object, not calling its class again, suits every model class of every version.
    """
    # The configuration is shared: in newer versions of ComfyUI it does not let itself be copied.
    config = getattr(source.model, "model_config", None)
    memo: dict[int, Any] = {
        id(config): config,
        id(getattr(source.model, "current_patcher", None)): None,
    }
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


def _bare_patcher(source: Any, model: nn.Module) -> Any:
    """A patcher around a quantized model, without anything that was put onto the source's.

    All patchers of the model come from it, so it must not keep what they hold alive.
    """
    base = comfy.model_patcher.ModelPatcher if _is_dynamic(source) else type(source)
    return patcher_class(base)(model, source.load_device, source.offload_device)


def _patcher_for(source: Any, bare: Any) -> Any:
    """The source's patcher with everything but its weights' patches, around `bare`'s model.

    It shares with `bare` what was changed on the model, as clones do: whoever comes next takes it
    back. When it goes, ComfyUI's list of loaded models falls back to its `parent`, which has to be
    a patcher of the same model.
    """
    if _is_dynamic(source):
        parts = bare.model, ({}, {}, {}, set())
        patcher = source.clone(disable_dynamic=True, model_override=parts)
    else:
        patcher = source.clone()
    patcher.__class__ = type(bare)
    patcher.model, patcher.parent, patcher.size = bare.model, bare, 0
    patcher.patches, patcher.patches_uuid = {}, bare.patches_uuid
    for changed in ("backup", "object_patches_backup", "hook_backup", "backup_buffers", "pinned"):
        if hasattr(bare, changed):
            setattr(patcher, changed, getattr(bare, changed))
    patcher.cached_hook_patches, patcher.current_hooks = {}, None
    patcher.is_injected = False
    refuse_readers(patcher)
    # What newer versions would take for this model: the source's copies on other GPUs, its name.
    patcher.remove_additional_models(MULTI_GPU)
    if hasattr(bare, "clone_base_uuid"):
        patcher.clone_base_uuid = bare.clone_base_uuid
    patcher.cached_patcher_init = None  # what would load the source again
    _compile_anew(patcher)
    return patcher


def _compile_anew(patcher: Any) -> None:
    """Let Torch Compile before this node compile the packed model: its wrapper runs the source."""
    wanted = patcher.model_options.get(TORCH_COMPILE_KWARGS)
    patcher.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    if wanted is not None:
        set_torch_compile_wrapper(patcher, **wanted)
