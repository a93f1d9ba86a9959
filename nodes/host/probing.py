"""What the model at hand meets while it draws: probes for calibration, in ComfyUI's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...personalq_core.taq import TaqError
from ...personalq_core.taq.calibrate import Probe, make_probes

SCENES = ("a photo of {} on the beach", "a painting of {}", "{} sitting in the snow")
GENERIC = ("a red car in a street", "a bowl of fruit on a table", "portrait of a woman")
LEVELS = (0.98, 0.75, 0.5, 0.25)
"""Where in the schedule a probe looks: parts of the way from a clean picture to noise."""
SIDE = 32
"""Side of the latents where no picture size is given: 256 pixels for Stable Diffusion."""


def probes(
    source: Any,
    clip: Any | None,
    trigger: str,
    class_word: str,
    latent: dict[str, Any] | None,
    progress: Callable[[int, int], None],
) -> list[Probe]:
    """Probes of a loaded MODEL: prompts with the trigger, with the class word, and neither.

    Without `clip` the text is noise of the right shape; raises TaqError where the model reads no
    text of one fixed width.
    """
    comfy.model_management.load_models_gpu([source])
    model, device = source.model, source.load_device
    pooled: dict[int, Tensor] = {}

    def encoded(prompt: str) -> Tensor:
        cond, extra = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0]
        cond = cond.to(device)
        if extra.get("pooled_output") is not None:
            pooled[cond.data_ptr()] = extra["pooled_output"]
        return cond

    if clip is None:
        contexts = {"generic": _noise_contexts(model, device)}
    else:
        words = {"trigger": trigger.strip(), "class": class_word.strip()}
        contexts = {
            role: [encoded(scene.format(word)) for scene in SCENES]
            for role, word in words.items()
            if word
        }
        contexts["generic"] = [encoded(prompt) for prompt in GENERIC]
    if latent is None:
        shape = (model.latent_format.latent_channels, SIDE, SIDE)
    else:
        shape = tuple(latent["samples"].shape[1:])

    def predict(x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        given: dict[str, Any] = {"c_crossattn": context}
        adm = model.encode_adm(
            pooled_output=pooled.get(context.data_ptr(), torch.zeros(1, 1280)),
            device=device,
            width=shape[-1] * 8,
            height=shape[-2] * 8,
        )
        if adm is not None:
            given["y"] = adm.to(device).expand(len(x), -1)
        clean = model.apply_model(x, sigma, **given)
        return (x - clean) / sigma.view(-1, *[1] * (x.dim() - 1))

    schedule = model.model_sampling
    sigmas = [float(schedule.percent_to_sigma(1 - level)) for level in LEVELS]
    return make_probes(predict, contexts, shape, sigmas, device=device, progress=progress)


def _noise_contexts(model: Any, device: torch.device) -> list[Tensor]:
    width = model.model_config.unet_config.get("context_dim")
    if not isinstance(width, int):
        raise TaqError(
            "This kind of model reads more than one text encoder; connect CLIP to TAQ Quantize, "
            "or choose 8-bit or 4-bit without a target size."
        )
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 77, width, generator=generator).to(device)]
