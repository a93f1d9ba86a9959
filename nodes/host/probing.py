"""What the model at hand meets while it draws: probes for calibration, in ComfyUI's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
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
POOLED = 1280
"""Width of the pooled text that SDXL reads beside the other."""


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
    shape, device = _shape(source, latent), source.load_device
    known: dict[int, dict[str, Any]] = {}

    def told(conditioning: list) -> Tensor:
        """The text of a conditioning; what else the model is given with it is kept by its place."""
        text = conditioning[0][0].to(device)
        known[text.data_ptr()] = _given(source.model, conditioning, shape, device)
        return text

    def encoded(prompt: str) -> Tensor:
        return told(clip.encode_from_tokens_scheduled(clip.tokenize(prompt)))

    if clip is None:
        pooled = torch.zeros(1, POOLED)
        contexts = {"generic": [told([[_noise_text(source.model), {"pooled_output": pooled}]])]}
    else:
        words = {"trigger": trigger.strip(), "class": class_word.strip()}
        contexts = {
            role: [encoded(scene.format(word)) for scene in SCENES]
            for role, word in words.items()
            if word
        }
        contexts["generic"] = [encoded(prompt) for prompt in GENERIC]

    def predict(x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        given = known[context.data_ptr()].items()
        conds = {name: cond.process_cond(batch_size=len(x), area=None).cond for name, cond in given}
        clean = source.model.apply_model(x, sigma, **_on(device, conds))
        return (x - clean) / sigma.view(-1, *[1] * (x.dim() - 1))

    schedule = source.model.model_sampling
    sigmas = [float(schedule.percent_to_sigma(1 - level)) for level in LEVELS]
    return make_probes(predict, contexts, shape, sigmas, device=device, progress=progress)


def _shape(source: Any, latent: dict[str, Any] | None) -> tuple[int, ...]:
    """Of one latent of the model, without the batch."""
    given = torch.zeros(1, 1, SIDE, SIDE) if latent is None else latent["samples"]
    return tuple(comfy.sample.fix_empty_latent_channels(source, given).shape[1:])


def _given(
    model: Any, conditioning: list, shape: tuple[int, ...], device: torch.device
) -> dict[str, Any]:
    """What a sampler would give the model with this conditioning, by ComfyUI's names."""
    conds = comfy.sampler_helpers.convert_cond(conditioning)
    empty = torch.zeros(1, *shape, device=device)
    (cond,) = comfy.samplers.encode_model_conds(
        model.extra_conds, conds, empty, device, "positive", latent_image=empty
    )
    return cond["model_conds"]


def _on(device: torch.device, conds: dict[str, Any]) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in conds.items()}


def _noise_text(model: Any) -> Tensor:
    width = model.model_config.unet_config.get("context_dim")
    if not isinstance(width, int):
        raise TaqError(
            "What this kind of model reads is not known without CLIP. Connect CLIP to this node, "
            "or choose 8-bit or 4-bit without a target size."
        )
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 77, width, generator=generator)
