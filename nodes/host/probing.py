"""What the model at hand meets while it draws: probes for calibration, in ComfyUI's words."""

from __future__ import annotations

from collections.abc import Sequence
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
MIDDLE = (0.6,)
"""Where one look has to do."""
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
    levels: Sequence[float] = LEVELS,
    prompts: int = len(SCENES),
) -> list[Probe]:
    """Probes of a loaded MODEL: prompts with the trigger, with the class word, and neither.

    prompts: of each kind, at most len(SCENES)
    Without `clip` the text is noise of the right shape; raises TaqError where the model reads no
    text of one fixed width.
    """
    shape, device = _shape(source, latent), source.load_device
    told: dict[int, dict[str, Any]] = {}

    def together(conditionings: Sequence[list]) -> list[Tensor]:
        """The texts of conditionings, in batches; what else the model is given with one is kept by
        its place."""
        texts = []
        for given in _batches(source.model, conditionings, shape, device):
            texts.append(given["c_crossattn"])
            told[texts[-1].data_ptr()] = given
        return texts

    if clip is None:
        contexts = {"generic": together(_noise_texts(source.model, prompts))}
    else:
        words = {"trigger": trigger.strip(), "class": class_word.strip()}
        asked = {
            role: [scene.format(word) for scene in SCENES] for role, word in words.items() if word
        } | {"generic": GENERIC}
        contexts = {
            role: together([
                clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts[:prompts]
            ])
            for role, texts in asked.items()
        }  # fmt: skip

    needed = source.memory_required([prompts, *shape])
    comfy.model_management.load_models_gpu([source], memory_required=needed)

    def predict(x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        clean = source.model.apply_model(x, sigma, **told[context.data_ptr()])
        return (x - clean) / sigma.view(-1, *[1] * (x.dim() - 1))

    schedule = source.model.model_sampling
    sigmas = [float(schedule.percent_to_sigma(1 - level)) for level in levels]
    return make_probes(predict, contexts, shape, sigmas, device=device)


def _shape(source: Any, latent: dict[str, Any] | None) -> tuple[int, ...]:
    """Of one latent of the model, without the batch."""
    given = torch.zeros(1, 1, SIDE, SIDE) if latent is None else latent["samples"]
    return tuple(comfy.sample.fix_empty_latent_channels(source, given).shape[1:])


def _batches(
    model: Any, prompts: Sequence[list], shape: tuple[int, ...], device: torch.device
) -> list[dict[str, Any]]:
    """What a sampler would give the model with these conditionings, by ComfyUI's names; those that
    it would run together, together."""
    conds = [comfy.sampler_helpers.convert_cond(prompt)[0] for prompt in prompts]
    empty = torch.zeros(1, *shape, device=device)
    encoded = comfy.samplers.encode_model_conds(
        model.extra_conds, conds, empty, device, "positive", latent_image=empty
    )
    batches: list[list[dict[str, Any]]] = []
    for each in encoded:
        given = {
            name: cond.process_cond(batch_size=1, area=None)
            for name, cond in each["model_conds"].items()
        }
        for batch in batches:
            if all(cond.can_concat(given[name]) for name, cond in batch[0].items()):
                batch.append(given)
                break
        else:
            batches.append([given])
    return [
        {
            name: _on(device, cond.concat([other[name] for other in others]))
            for name, cond in first.items()
        }
        for first, *others in batches
    ]


def _on(device: torch.device, value: Any) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _noise_texts(model: Any, count: int) -> list[list]:
    """Conditionings of noise."""
    width = model.model_config.unet_config.get("context_dim")
    if not isinstance(width, int):
        raise TaqError(
            "What this kind of model reads is not known without CLIP. Connect CLIP to this node, "
            "or choose 8-bit or 4-bit without a target size."
        )
    pooled = {"pooled_output": torch.zeros(1, POOLED)}
    texts = torch.randn(count, 1, 77, width, generator=torch.Generator().manual_seed(0))
    return [[[text, dict(pooled)]] for text in texts]
