"""Pictures from the miniature without ComfyUI: Euler sampling with classifier-free guidance."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler  # pyright: ignore[reportPrivateImportUsage]
from safetensors.torch import load_file
from torch import Tensor, nn

from . import planes
from .base import DEVICE, Tokens, autocast, load_codec, load_text, load_unet
from .concepts import Concept
from .text import TextEncoder
from .vae import Codec

STEPS, GUIDANCE = 20, 2.0
_BATCH = 64


def scheduler(steps: int) -> EulerDiscreteScheduler:
    """ComfyUI's sampler ``euler`` with its scheduler ``normal``, in diffusers' words."""
    euler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        timestep_spacing="linspace",
    )
    euler.set_timesteps(steps)
    return euler


def sigmas(steps: int) -> tuple[Tensor, Tensor]:
    """Times and noise levels of that sampler; the last level is 0."""
    euler = scheduler(steps)
    return euler.timesteps, euler.sigmas


@torch.no_grad()
def sample(
    unet, text, codec, tokens, prompts: list[str], seed: int = 0, steps: int = STEPS,
    cfg: float = GUIDANCE, exact: bool = False,
) -> np.ndarray:
    """One picture ``(64, 64, 3)`` uint8 per prompt (Karras et al. 2022, Euler, eps prediction).

    Products are taken in bfloat16 where that is fast, or ``exact`` in float32. The models' own
    device draws; the noise is the same on all.
    """
    device = next(unet.parameters()).device
    euler: Any = scheduler(steps)
    asked, empty = (text(tokens(given).to(device)) for given in (prompts, [""]))
    context = torch.cat([asked, empty.expand(len(prompts), -1, -1)])
    noise = torch.randn((len(prompts), 4, 8, 8), generator=torch.Generator().manual_seed(seed))
    # ComfyUI starts at sqrt(1 + sigma^2), diffusers at sigma where times are spaced linearly.
    x = noise.to(device) * (1 + euler.sigmas[0] ** 2).sqrt()
    for time in euler.timesteps:
        scaled = euler.scale_model_input(x, time).repeat(2, 1, 1, 1)
        with nullcontext() if exact else autocast(device.type):
            asked, free = unet(scaled, time, context).sample.float().chunk(2)
        x = euler.step(free + cfg * (asked - free), time, x).prev_sample
    pixels = codec.decode(x).clamp(-1, 1).add(1).mul(127.5).round()
    return pixels.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class Painter:
    """The base model and all it takes to make pictures with it."""

    unet: nn.Module
    text: TextEncoder
    codec: Codec
    tokens: Tokens

    @classmethod
    def load(cls) -> Painter:
        """The stored base model, on a GPU where there is one."""
        unet, text, codec = load_unet(), load_text(), load_codec()
        return cls(unet.to(DEVICE), text.to(DEVICE), codec.to(DEVICE), Tokens())

    def paint(self, prompts: list[str], seed: int = 0) -> np.ndarray:
        """Pictures ``(n, 64, 64, 3)`` uint8; the same for the same prompts and seed."""
        parts = [prompts[i : i + _BATCH] for i in range(0, len(prompts), _BATCH)]
        return np.concatenate([
            sample(self.unet, self.text, self.codec, self.tokens, part, seed=1000 * seed + i)
            for i, part in enumerate(parts)
        ])

    def personal(self, concept: Concept, path: Path | None = None) -> Painter:
        """The same with a concept's weights merged in: the stored ones, or those in ``path``."""
        unet = load_unet()
        merge(unet, concept, path)
        return Painter(unet.to(DEVICE), self.text, self.codec, self.tokens)


def merge(unet: nn.Module, concept: Concept, path: Path | None = None) -> None:
    """Add a concept's weight changes, stored or in ``path``, in place, at 32 bit."""
    from .lora import path_of

    weights: dict[str, Tensor] = dict(unet.named_parameters())
    with torch.no_grad():
        for name, value in _changed(weights, concept, path or path_of(concept)).items():
            weights[name].copy_(value)


def _changed(weights: dict[str, Tensor], concept: Concept, path: Path) -> dict[str, Tensor]:
    if concept.algorithm == "full":
        return planes.add_changes(path, weights)
    state = {key: tensor.float() for key, tensor in load_file(path).items()}
    stems = {"lora_unet_" + n.removesuffix(".weight").replace(".", "_"): n for n in weights}
    changed = {}
    for stem in {key.split(".", 1)[0] for key in state}:
        name, part = stems[stem], {k.split(".", 1)[1]: v for k, v in state.items()
                                   if k.split(".", 1)[0] == stem}
        weight = weights[name]
        if "hada_w1_a" in part:
            one, other = (part[f"hada_w{i}_a"] @ part[f"hada_w{i}_b"] for i in (1, 2))
            delta = one * other
            rank = part["hada_w1_b"].shape[0]
        else:
            down, up = part["lora_down.weight"], part["lora_up.weight"]
            delta, rank = up.flatten(1) @ down.flatten(1), len(down)
        value = weight + (part["alpha"] / rank * delta).reshape(weight.shape)
        if "dora_scale" in part:
            norm = weight.flatten(1).norm(dim=1).reshape(part["dora_scale"].shape)
            value = value * part["dora_scale"] / norm
        changed[name] = value
    return changed
