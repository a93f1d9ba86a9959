"""What the model at hand meets while it draws: probes for calibration, in ComfyUI's words."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...personalq_core.taq import TaqError
from ...personalq_core.taq.calibrate import Probe, Prompts, make_probes
from ...personalq_core.taq.quantize import GPU_ROOM
from ...personalq_core.taq.triggers import in_scenes, triggers_in
from .sampling import fitting_latent

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
    prompts: int | None = None,
) -> list[Probe]:
    """Probes of a loaded MODEL: prompts with the trigger, with the class word, and neither.

    trigger, class_word: may be several, see `triggers_in`
    prompts: of each kind, the first ones; None: all
    Without `clip` the text is noise of the right shape; raises TaqError where the model reads no
    text of one fixed width.
    """
    shape, device = _shape(source, latent), source.load_device
    if clip is None:
        asked = {"generic": _noise_texts(source.model, prompts or len(SCENES))}
    else:
        words = {"trigger": triggers_in(trigger), "class": triggers_in(class_word)}
        texts = {role: in_scenes(said, SCENES) for role, said in words.items() if said}
        texts["generic"] = list(GENERIC)
        asked = {
            role: [
                clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in some[:prompts]
            ]
            for role, some in texts.items()
        }  # fmt: skip
    batches = [
        Prompts(role, numbers, functools.partial(_predict, source.model, given))
        for role, conditionings in asked.items()
        for numbers, given in _batches(source.model, conditionings, shape, device)
    ]
    most = max(len(batch.numbers) for batch in batches)
    needed = source.memory_required([most, *shape]) + GPU_ROOM
    comfy.model_management.load_models_gpu([source], memory_required=needed)
    schedule = source.model.model_sampling
    sigmas = [float(schedule.percent_to_sigma(1 - level)) for level in levels]
    return make_probes(batches, shape, sigmas, device=device)


def _predict(model: Any, given: dict[str, Any], x: Tensor, sigma: Tensor) -> Tensor:
    clean = model.apply_model(x, sigma, **given)
    return (x - clean) / sigma.view(-1, *[1] * (x.dim() - 1))


def _shape(source: Any, latent: dict[str, Any] | None) -> tuple[int, ...]:
    """Of one latent of the model, without the batch."""
    given = {"samples": torch.zeros(1, 1, SIDE, SIDE)} if latent is None else latent
    shape = tuple(fitting_latent(source, given).shape[1:])
    channels = source.get_model_object("latent_format").latent_channels
    if shape[0] != channels:
        raise TaqError(
            f"latent_image has {shape[0]} channels, this MODEL draws with {channels}. Connect an "
            "empty latent image of the size you draw in, or a picture encoded by the model's VAE."
        )
    return shape


def _batches(
    model: Any, prompts: Sequence[list], shape: tuple[int, ...], device: torch.device
) -> list[tuple[list[int], dict[str, Any]]]:
    """What a sampler would give the model with these conditionings, by ComfyUI's names; those that
    it would run together, together. With the numbers of the prompts in each."""
    conds = [comfy.sampler_helpers.convert_cond(prompt)[0] for prompt in prompts]
    empty = torch.zeros(1, *shape, device=device)
    encoded = comfy.samplers.encode_model_conds(
        model.extra_conds, conds, empty, device, "positive", latent_image=empty
    )
    batches: list[tuple[list[int], list[dict[str, Any]]]] = []
    for number, each in enumerate(encoded):
        given = {
            name: cond.process_cond(batch_size=1, area=None)
            for name, cond in each["model_conds"].items()
        }
        _check_text(model, given)
        for numbers, batch in batches:
            if comfy.samplers.cond_equal_size(batch[0], given):
                numbers.append(number)
                batch.append(given)
                break
        else:
            batches.append(([number], [given]))
    return [
        (numbers, {n: _on(device, v) for n, v in comfy.samplers.cond_cat(batch).items()})
        for numbers, batch in batches
    ]


def _check_text(model: Any, given: dict[str, Any]) -> None:
    wanted = model.model_config.unet_config.get("context_dim")
    text = given["c_crossattn"].cond if "c_crossattn" in given else None
    if isinstance(wanted, int) and text is not None and text.shape[-1] != wanted:
        raise TaqError(
            f"This CLIP belongs to another kind of model: its text is {text.shape[-1]} numbers a "
            f"word, this MODEL reads {wanted}. Connect the CLIP of the same checkpoint."
        )


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
