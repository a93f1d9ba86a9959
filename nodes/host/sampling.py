"""Sampling and decoding in ComfyUI's words."""

from __future__ import annotations

from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
from comfy_api.latest import ui
from torch import Tensor

SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


def draw(
    model: Any,
    vae: Any,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    *,
    seed: int,
    steps: int,
    cfg: float,
    sampler: str,
    scheduler: str,
) -> Tensor:
    """The first picture that KSampler and VAE Decode make of this: (height, width, 3), 0..1."""
    start = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(start, seed, latent.get("batch_index"))
    bar = comfy.utils.ProgressBar(steps)
    samples = comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler,
        scheduler,
        positive,
        negative,
        start,
        noise_mask=latent.get("noise_mask"),
        callback=lambda step, *_: bar.update_absolute(step + 1, steps),
        disable_pbar=True,
        seed=seed,
    )
    pictures = vae.decode(samples)
    return pictures.reshape(-1, *pictures.shape[-3:])[0]


def preview(pictures: Tensor, node: Any) -> dict[str, Any]:
    """What shows pictures (batch, height, width, 3) in the node itself."""
    return ui.PreviewImage(pictures, cls=node).as_dict()
