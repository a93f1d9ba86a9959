"""TAQ models on disk, in ComfyUI's words: a MODEL to a file, and a file to a MODEL."""

from __future__ import annotations

import os
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from torch import nn

from ...personalq_core.taq import TaqError, TaqPlan, file
from ...personalq_core.taq.literal import ProtectedAttention
from ...personalq_core.taq.report import sizes_by_kind
from .model import BYPASS, PREFIX, TaqNotes, compute_text_once, notes_of, packed_layers
from .patching import LAYER_TYPES, lasting_memory, patcher_class

SUFFIX = ".taq.safetensors"
FOLDER = "diffusion_models"


def saved_names() -> list[str]:
    """TAQ models in ComfyUI's diffusion_models folders."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(SUFFIX)]


def saved_path(name: str) -> str:
    """Path of a TAQ model by its name in the list; raises TaqError."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise TaqError(
            f"{name} is in none of the {FOLDER} folders any more. Choose another file, or put it "
            "back and refresh the node list (R)."
        )
    return path


def save_model(patcher: Any, prefix: str) -> tuple[str, int]:
    """Save a TAQ MODEL with all LoRAs on it; returns its name below the output folder, its bytes.

    The LoRAs stay beside the codes, at 16 bit: nothing is rounded anew.
    """
    notes = _notes_to_save(patcher)
    comfy.model_management.load_models_gpu([patcher], force_patch_weights=True)
    base = patcher.model
    plan = TaqPlan({key.removeprefix(PREFIX): layer for key, layer in notes.plan.layers.items()})
    host = {
        "model_type": base.model_type.name,
        "latent_format": type(base.latent_format).__name__,
        "sampling_settings": {
            key: value
            for key, value in base.model_config.sampling_settings.items()
            if isinstance(value, (bool, int, float, str))
        },
    }
    held = file.contents(
        base.diffusion_model, plan, trigger=notes.trigger, sources=notes.sources, host=host
    )
    _keep_loras(held)
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory()
    )
    name = f"{name}_{counter:05}_{SUFFIX}"
    path = os.path.join(folder, name)
    while os.path.exists(path):  # ComfyUI counts only files that are named like pictures
        counter += 1
        name = f"{name.rsplit('_', 2)[0]}_{counter:05}_{SUFFIX}"
        path = os.path.join(folder, name)
    file.save(path, held)
    return os.path.join(subfolder, name), os.path.getsize(path)


def _notes_to_save(patcher: Any) -> TaqNotes:
    """The notes of a MODEL whose weights say all of it; raises TaqError for any other."""
    notes = notes_of(patcher)
    if notes is None or not any(packed_layers(patcher.model)):
        raise TaqError(
            "This MODEL is not quantized by TAQ. Connect the output of TAQ Quantize, or save it "
            "with ComfyUI's own ModelSave."
        )
    if any(isinstance(module, ProtectedAttention) for module in patcher.model.modules()):
        raise TaqError(
            "The paper presets are there to compare with and cannot be saved: they need the exact "
            "weights beside the rounded ones. Choose 8-bit, mixed 6-bit or 4-bit in TAQ Quantize."
        )
    if patcher.injections.get(BYPASS):
        raise TaqError(
            "A LoRA in bypass mode changes the model only while it runs and would not be in the "
            "file. Load it with the ordinary LoRA loader, or switch its bypass off."
        )
    if patcher.object_patches:
        raise TaqError(
            f"A node before Save TAQ Model replaces {', '.join(patcher.object_patches)} of the "
            "model, which would not be in the file. Connect that node after Load TAQ Model."
        )
    return notes


def _keep_loras(held: file.TaqFile) -> None:
    """Rename the branches of pending LoRAs: loaded again, they belong to the model."""
    branch = file.BRANCH
    taken = {key.split(branch)[1].split(".")[0] for key in held.tensors if branch in key}
    name = f"saved{len(taken)}"
    for key in [key for key in held.tensors if f"{branch}lora." in key]:
        held.tensors[key.replace(f"{branch}lora.", f"{branch}{name}.")] = held.tensors.pop(key)


def load_model(path: str) -> tuple[Any, TaqNotes]:
    """A saved TAQ model as a MODEL; raises TaqError.

    Its codes are mapped from the file until they move to a GPU. The text's keys and values, which
    would be for as long as the model lives, get a file of their own.
    """
    held = file.load(path)
    name = os.path.basename(path)
    management = comfy.model_management
    shaped = held.tensors | {
        f"{layer}.weight": torch.empty(shape, dtype=torch.float16, device="meta")
        for layer, shape in held.shapes.items()
    }
    config = comfy.model_detection.model_config_from_unet(shaped, "")
    if config is None:
        raise TaqError(f"This ComfyUI does not know the kind of model in {name}. Update ComfyUI.")
    dtypes = list(config.supported_inference_dtypes)
    device = management.get_torch_device()
    count = sum(tensor.numel() for tensor in shaped.values())
    dtype = management.unet_dtype(model_params=count, supported_dtypes=dtypes)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, dtypes))
    _take_sampling(config, held.host, name)
    model = config.get_model(shaped, "", device=torch.device("meta"))
    _give_shapes(model)
    _cast_unpacked(held, dtype)
    file.restore(model.diffusion_model, held, LAYER_TYPES, lasting_memory)
    compute_text_once(model.diffusion_model)
    lost = [key for key, tensor in model.state_dict().items() if tensor.is_meta]
    if lost:
        raise TaqError(f"{name} lacks {lost[0]}. Save the model again with Save TAQ Model.")
    patcher = patcher_class(comfy.model_patcher.ModelPatcher)(
        model, load_device=device, offload_device=management.unet_offload_device()
    )
    plan = TaqPlan({PREFIX + layer: planned for layer, planned in held.plan.layers.items()})
    before = sum(size.before_bytes for size in sizes_by_kind(model.diffusion_model).values())
    notes = TaqNotes(plan, held.trigger, held.sources, before)
    patcher.set_attachments(TaqNotes.KEY, notes)
    return patcher, notes


def _give_shapes(model: nn.Module) -> None:
    """Newer versions of ComfyUI make linear layers whose weights are not there before a file is."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer.weight is None:
            shape = layer.out_features, layer.in_features
            layer.weight = nn.Parameter(torch.empty(shape, device="meta"), False)
            if getattr(layer, "comfy_need_lazy_init_bias", False):
                layer.bias = nn.Parameter(torch.empty(shape[0], device="meta"), False)


def _take_sampling(config: Any, host: dict[str, Any], name: str) -> None:
    """What cannot be seen from the weights: the kind of prediction, its settings, the latent."""
    try:
        model_type = comfy.model_base.ModelType[host["model_type"]]
        config.sampling_settings |= host["sampling_settings"]
        comfy.model_base.model_sampling(config, model_type)  # raises where the settings are none
        if "latent_format" in host:  # the first files have none
            config.latent_format = _latent_format(host["latent_format"])
    except file.WRONG as error:
        raise TaqError(
            f"{name} was saved by another program or a newer ComfyUI ({error}). Update ComfyUI."
        ) from error
    config.model_type = lambda *_, **__: model_type


def _latent_format(name: str) -> Any:
    """A latent format of ComfyUI by its class's name; raises ValueError for any other name."""
    kind = vars(comfy.latent_formats).get(name)
    if not (isinstance(kind, type) and issubclass(kind, comfy.latent_formats.LatentFormat)):
        raise ValueError(f"there is no latent format {name}")
    return kind()


def _cast_unpacked(held: file.TaqFile, dtype: torch.dtype) -> None:
    """Weights kept at 16 or 32 bits take the type that this ComfyUI computes in."""
    for key, tensor in held.tensors.items():
        owner = key.rpartition(".")[0]
        packed = owner in held.shapes or file.BRANCH in key
        if not packed and tensor.is_floating_point():
            held.tensors[key] = tensor.to(dtype)
