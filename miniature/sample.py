"""Pictures from the miniature without ComfyUI: Euler sampling with classifier-free guidance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .train import alphas_cumprod


def sigmas(steps: int) -> tuple[Tensor, Tensor]:
    """Times and noise levels of ComfyUI's ``normal`` scheduler; the last level is 0."""
    table = ((1 - alphas_cumprod()) / alphas_cumprod()).sqrt()
    times = torch.linspace(999, 0, steps)
    levels = torch.from_numpy(
        np.exp(np.interp(times.numpy(), np.arange(1000), table.log().numpy()))
    ).float()
    return times, torch.cat([levels, torch.zeros(1)])


@torch.no_grad()
def sample(
    unet, text, codec, tokens, prompts: list[str], seed: int = 0, steps: int = 20, cfg: float = 2.0
) -> np.ndarray:
    """One picture ``(64, 64, 3)`` uint8 per prompt (Karras et al. 2022, Euler, eps prediction)."""
    context = torch.cat([text(tokens(prompts)), text(tokens([""])).expand(len(prompts), -1, -1)])
    times, levels = sigmas(steps)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((len(prompts), 4, 8, 8), generator=generator) * (1 + levels[0] ** 2).sqrt()
    for time, now, then in zip(times, levels, levels[1:]):
        scaled = (x / (1 + now**2).sqrt()).repeat(2, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            asked, free = unet(scaled, time, context).sample.float().chunk(2)
        x = x + (free + cfg * (asked - free)) * (then - now)
    pixels = codec.decode(x).clamp(-1, 1).add(1).mul(127.5).round()
    return pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy()
