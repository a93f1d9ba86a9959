"""Small safetensors files with real tensor names, made where they are needed."""

import json
from collections.abc import Mapping
from pathlib import Path


def safetensors_bytes(
    shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None, fill: int = 0
) -> bytes:
    """A complete file of 8-bit tensors, each byte `fill`."""
    header, end = {}, 0
    if metadata:
        header["__metadata__"] = dict(metadata)
    for name, shape in shapes.items():
        size = 1
        for length in shape:
            size *= length
        header[name] = {"dtype": "U8", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes([fill]) * end


def lora(context: int = 768, rank: int = 1) -> dict[str, tuple[int, ...]]:
    """A kohya LoRA for Stable Diffusion: 768 inputs are SD 1.5's, 2048 SDXL's."""
    module = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    return {
        f"{module}.lora_down.weight": (rank, context),
        f"{module}.lora_up.weight": (640, rank),
        f"{module}.alpha": (),
    }


def write(path: Path, shapes=None, metadata=None, fill: int = 0) -> Path:
    """A model file; by default a LoRA for SD 1.5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors_bytes(lora() if shapes is None else shapes, metadata, fill))
    return path
