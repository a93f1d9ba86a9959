"""Assemble the files that ComfyUI and diffusers load from the committed weights.

    python -m miniature.assemble --models DIR

writes ``DIR/checkpoints/miniature.safetensors`` (SD1.5's key layout, 16 bit) and
``DIR/loras/*.safetensors`` with their sidecars. Files that are already right are left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .concepts import CONCEPTS
from .text import clip_state

WEIGHTS = Path(__file__).parent / "weights"
CHECKPOINT = "miniature.safetensors"

_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "mid_block.resnets.0": "middle_block.0",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}


def ldm_name(name: str) -> str:
    """diffusers' name of one of our UNet's tensors -> its name in an SD1.5 checkpoint file."""
    block = next(b for b in _BLOCKS if name.startswith(b + "."))
    rest = name[len(block) + 1 :]
    if ".resnets." in block:
        layer, end = rest.rsplit(".", 1)
        rest = f"{_RESNET[layer]}.{end}"
    return f"model.diffusion_model.{_BLOCKS[block]}.{rest}"


def _vae_name(name: str) -> str:
    half, _, index, rest = name.split(".", 3)
    # ComfyUI's decoder counts its leading clamp as a layer.
    place = int(index) + (half == "decoder")
    return f"first_stage_model.taesd_{half}.{place}.{rest}"


def checkpoint_state() -> dict[str, Tensor]:
    """The whole checkpoint: UNet, text encoder and codec under SD1.5's names, 16 bit."""
    state = {ldm_name(n): t for n, t in load_file(WEIGHTS / "unet.safetensors").items()}
    for name, tensor in clip_state(load_file(WEIGHTS / "text.safetensors")).items():
        state["cond_stage_model.transformer." + name] = tensor
    for name, tensor in load_file(WEIGHTS / "vae.safetensors").items():
        state[_vae_name(name)] = tensor
    # Our latents already have unit variance; ComfyUI multiplies by SD1.5's 0.18215.
    state["first_stage_model.vae_scale"] = torch.tensor(0.18215)
    state["first_stage_model.vae_shift"] = torch.tensor(0.0)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _sources_hash() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update((Path(__file__).parent / "text.py").read_bytes())
    for name in ("unet", "text", "vae"):
        digest.update((WEIGHTS / f"{name}.safetensors").read_bytes())
    return digest.hexdigest()


def _is_current(path: Path, stamp: str) -> bool:
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("miniature.sources") == stamp


def assemble(models: Path) -> Path:
    """Write the checkpoint and the LoRAs below ``models``; returns the checkpoint's path."""
    checkpoint, stamp = models / "checkpoints" / CHECKPOINT, _sources_hash()
    for folder in ("checkpoints", "loras"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    if not _is_current(checkpoint, stamp):
        part = checkpoint.with_suffix(".part")
        metadata = {"modelspec.title": "Miniature", "miniature.sources": stamp,
                    "modelspec.architecture": "stable-diffusion-v1"}
        save_file(checkpoint_state(), part, metadata=metadata)
        part.rename(checkpoint)
    for concept in CONCEPTS:
        source = WEIGHTS / "loras" / f"{concept.name}.safetensors"
        target = models / "loras" / source.name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            shutil.copyfile(source, target.with_suffix(".part"))
            target.with_suffix(".part").rename(target)
        for ending, content in concept.sidecars.items():
            target.with_name(concept.name + ending).write_text(json.dumps(content, indent=1))
    return checkpoint


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--models", type=Path, required=True)
    print(assemble(parser.parse_args().models))


if __name__ == "__main__":
    main()
