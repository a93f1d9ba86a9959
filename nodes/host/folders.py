"""ComfyUI's folders, its user directory, its progress bar, its checkpoint and its LoRA code.

Together with model.py the only place of the pack that imports ComfyUI.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy_execution.graph import ExecutionBlocker

from ...personalq_core.library.family import normalise_family

FOLDERS = {
    "lora": "loras",
    "checkpoint": "checkpoints",
    "diffusion_model": "diffusion_models",
}
"""Kind of a model -> what ComfyUI calls its folders."""
OUT_OF_MEMORY = (MemoryError, torch.cuda.OutOfMemoryError)


def model_folders() -> list[tuple[str, str]]:
    """(kind, path) of every folder in which ComfyUI looks for models."""
    return [
        (kind, path)
        for kind, name in FOLDERS.items()
        for path in folder_paths.get_folder_paths(name)
        if os.path.isdir(path)
    ]


def private_folder() -> Path:
    """Where our index lives: not readable over HTTP where this ComfyUI has such a place."""
    if hasattr(folder_paths, "get_system_user_directory"):
        folder = Path(folder_paths.get_system_user_directory("personalq"))
    else:
        folder = Path(folder_paths.get_user_directory()) / "__personalq"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def temporary() -> Path:
    """Where files may lie that nobody misses after this run of ComfyUI."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def host_name(name: str) -> str:
    """A card's name as ComfyUI lists it on this system."""
    return name.replace("/", os.sep)


def full_path(kind: str, name: str) -> str | None:
    """Path of a model by its name; None where there is no such file in the model folders."""
    return folder_paths.get_full_path(FOLDERS[kind], host_name(name))


def base_family(model: Any) -> str | None:
    """Base family of a MODEL, None where ComfyUI's class for it is not known to us."""
    config = getattr(getattr(model, "model", None), "model_config", None)
    return normalise_family(type(config).__name__) if config is not None else None


def load_checkpoint(path: str) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE as CheckpointLoaderSimple loads them; None for what the file lacks.

    Raises whatever ComfyUI's loader does with a file that is broken or no checkpoint.
    """
    model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(
        path,
        output_vae=True,
        output_clip=True,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
    )
    # Of a file without a VAE, ComfyUI makes one that fails at its first use.
    has_vae = getattr(vae, "first_stage_model", vae) is not None
    return model, clip, vae if has_vae else None


def load_diffusion_model(path: str) -> Any:
    """MODEL as UNETLoader loads it. Raises whatever ComfyUI does with a file that is broken."""
    return comfy.sd.load_diffusion_model(path)


def apply_lora(model: Any, clip: Any, path: str, strength: float) -> tuple[Any, Any]:
    """MODEL and CLIP with the LoRA as pending patches: nothing is merged, the inputs stay."""
    tensors = comfy.utils.load_torch_file(path, safe_load=True)
    return comfy.sd.load_lora_for_models(model, clip, tensors, strength, strength)


def progress() -> Callable[[int, int], None]:
    """`report(done, total)` moves the running node's progress bar."""
    bars: dict[int, Any] = {}

    def report(done: int, total: int) -> None:
        if total:
            bar = bars.setdefault(total, None) or comfy.utils.ProgressBar(total)
            bars[total] = bar
            bar.update_absolute(done, total)

    return report


def blocked(message: str | None = None) -> Any:
    """A value that stops whatever is connected to it; with a message, as an error."""
    return ExecutionBlocker(message)
