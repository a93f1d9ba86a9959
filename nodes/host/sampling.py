"""Sampling and decoding in ComfyUI's words."""

from __future__ import annotations

import inspect
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
    start = fitting_latent(model, latent)
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


def fitting_latent(model: Any, latent: dict[str, Any]) -> Tensor:
    """A latent (batch, channels, ...); an empty one as KSampler makes it fit the model. Newer
    versions of ComfyUI also change its size, by what it says a pixel of it stands for."""
    fix = comfy.sample.fix_empty_latent_channels
    stands_for = [
        latent.get(name)
        for name in ("downscale_ratio_spacial", "downscale_ratio_temporal")
        if name in inspect.signature(fix).parameters
    ]
    return fix(model, latent["samples"], *stands_for)


def preview(pictures: Tensor, node: Any) -> dict[str, Any]:
    """What shows pictures (batch, height, width, 3) in the node itself."""
    return ui.PreviewImage(pictures, cls=node).as_dict()
