"""Assemble the files that ComfyUI and diffusers load from the committed weights.

    python -m miniature.assemble --models DIR [--checkpoints]

writes ``DIR/checkpoints/miniature.safetensors`` (SD1.5's key layout, 16 bit) and
``DIR/loras/*.safetensors`` with their sidecars and previews; with ``--checkpoints`` the fine-tuned
checkpoints too (290 MB each). Files that are already right are left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import planes
from .base import WEIGHTS
from .concepts import CHECKPOINTS, CONCEPTS, Concept
from .text import clip_state

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


def checkpoint_state(concept: Concept | None = None) -> dict[str, Tensor]:
    """A whole checkpoint: UNet, text encoder and codec under SD1.5's names, 16 bit; the base, or
    the base fine-tuned for a concept."""
    unet = planes.read(WEIGHTS / "unet.npz")
    if concept is not None:
        unet |= planes.add_changes(WEIGHTS / "checkpoints" / f"{concept.name}.npz", unet)
    state = {ldm_name(name): tensor.half() for name, tensor in unet.items()}
    for name, tensor in clip_state(planes.read(WEIGHTS / "text.npz")).items():
        state["cond_stage_model.transformer." + name] = tensor
    for name, tensor in planes.read(WEIGHTS / "vae.npz").items():
        state[_vae_name(name)] = tensor.half()
    # Our latents already have unit variance; ComfyUI multiplies by SD1.5's 0.18215.
    state["first_stage_model.vae_scale"] = torch.tensor(0.18215)
    state["first_stage_model.vae_shift"] = torch.tensor(0.0)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _sources_hash(concept: Concept | None) -> str:
    here = Path(__file__).parent
    sources = [Path(__file__), here / "text.py", here / "planes.py"]
    sources += [WEIGHTS / f"{name}.npz" for name in ("unet", "text", "vae")]
    if concept is not None:
        sources.append(WEIGHTS / "checkpoints" / f"{concept.name}.npz")
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _is_current(path: Path, stamp: str) -> bool:
    if not path.exists():
        return False
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("miniature.sources") == stamp


def _write_checkpoint(path: Path, concept: Concept | None, header: dict[str, str]) -> Path:
    stamp = _sources_hash(concept)
    if not _is_current(path, stamp):
        part = path.with_suffix(".part")
        metadata = {"modelspec.architecture": "stable-diffusion-v1", **header,
                    "miniature.sources": stamp}
        save_file(checkpoint_state(concept), part, metadata=metadata)
        part.rename(path)
    return path


def _copy(source: Path, target: Path) -> None:
    if not target.exists() or target.read_bytes() != source.read_bytes():
        shutil.copyfile(source, target.with_suffix(".part"))
        target.with_suffix(".part").rename(target)


def assemble(models: Path, checkpoints: bool = False) -> Path:
    """Write the base checkpoint, the LoRAs, and the fine-tuned ``checkpoints`` if asked, below
    ``models``; returns the base checkpoint's path."""
    for folder in ("checkpoints", "loras"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    for concept in CONCEPTS:
        source = WEIGHTS / "loras" / f"{concept.name}.safetensors"
        _copy(source, models / "loras" / source.name)
        _write_side_files(concept, models / "loras")
    for concept in CHECKPOINTS if checkpoints else ():
        path = models / "checkpoints" / f"{concept.name}.safetensors"
        _write_checkpoint(path, concept, concept.header)
        _write_side_files(concept, models / "checkpoints")
    base = models / "checkpoints" / CHECKPOINT
    return _write_checkpoint(base, None, {"modelspec.title": "Miniature"})


def _write_side_files(concept: Concept, folder: Path) -> None:
    for ending, content in concept.sidecars.items():
        (folder / f"{concept.name}{ending}").write_text(json.dumps(content, indent=1))
    preview = WEIGHTS / "previews" / f"{concept.name}.webp"
    if preview.exists():
        _copy(preview, folder / f"{concept.name}.preview.webp")


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--checkpoints", action="store_true", help="the fine-tuned ones too")
    args = parser.parse_args()
    print(assemble(args.models, args.checkpoints))


if __name__ == "__main__":
    main()
