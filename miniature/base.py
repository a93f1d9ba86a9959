"""The base model as it is stored: UNet, text encoder, codec, and the tokenizer they expect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from . import planes
from .text import LENGTH, TextEncoder
from .vae import Codec

WEIGHTS = Path(__file__).parent / "weights"
TOKENIZER = Path(__file__).parent.parent / ".comfyui/ComfyUI/comfy/sd1_tokenizer"
"""The stock CLIP tokenizer, as ComfyUI brings it."""
UNET = {
    "sample_size": 8,
    "block_out_channels": (320,),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("CrossAttnUpBlock2D",),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
"""SD1.5's UNet with one level, one residual block, no attention in the middle: 21 M parameters."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF_IS_FAST = DEVICE == "cuda" or any(
    torch.cpu.get_capabilities().get(unit, False) for unit in ("avx512_bf16", "amx_bf16")
)
"""Whether bfloat16 products are computed as such. A processor without them imitates them, three
times slower than float32."""


def stored(name: str) -> dict[str, Tensor]:
    """The committed weights of ``unet``, ``text`` or ``vae``, as 32-bit numbers."""
    return {key: tensor.float() for key, tensor in planes.read(WEIGHTS / f"{name}.npz").items()}


def autocast(device: str = "cpu"):
    """bfloat16 products over 32-bit weights, where that is faster than float32."""
    return torch.autocast(device, torch.bfloat16, enabled=HALF_IS_FAST)


def load_unet() -> nn.Module:
    """The trained UNet, ready to predict."""
    unet: Any = UNet2DConditionModel(**UNET)
    unet.load_state_dict(stored("unet"))
    return unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def load_text() -> TextEncoder:
    """The trained text encoder."""
    text = TextEncoder()
    text.load_state_dict(stored("text"))
    return text.eval().requires_grad_(False)


def load_codec() -> Codec:
    """The trained codec."""
    codec = Codec()
    codec.net.load_state_dict(stored("vae"))
    return codec.eval().requires_grad_(False)


def alphas_cumprod() -> Tensor:
    """SD1.5's noise schedule: ``scaled_linear`` betas from .00085 to .012 over 1000 steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.cumprod(1 - betas, 0)


def as_pixels(array: np.ndarray) -> Tensor:
    """uint8 pictures ``(n, h, w, 3)`` to ``(n, 3, h, w)`` in -1..1."""
    return torch.from_numpy(array.copy()).permute(0, 3, 1, 2).float().div(127.5).sub(1)


class Tokens:
    """Captions to token ids ``(batch, 77)`` with the stock CLIP tokenizer."""

    def __init__(self, folder: Path = TOKENIZER) -> None:
        from transformers import CLIPTokenizerFast  # pyright: ignore[reportAttributeAccessIssue]

        if not folder.exists():
            raise FileNotFoundError(f"No tokenizer in {folder}. Run `make setup` first.")
        self.tokenizer = CLIPTokenizerFast.from_pretrained(folder)

    def __call__(self, captions: list[str]) -> Tensor:
        # ComfyUI pads SD1.5 prompts with the end token.
        out = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        ends = (out.attention_mask.sum(1, keepdim=True) - 1) < torch.arange(LENGTH)[None]
        return out.input_ids.masked_fill(ends, self.tokenizer.eos_token_id)
