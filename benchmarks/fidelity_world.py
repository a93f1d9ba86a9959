"""The miniature as a benchmark sees it: models with a concept's LoRA merged, prompts, pictures."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from miniature.base import Tokens, load_codec, load_text, load_unet
from miniature.concepts import CONCEPTS, Concept
from miniature.sample import merge, sigmas
from miniature.text import TextEncoder
from miniature.vae import Codec
from personalq_core.taq.calibrate import Predict, Probe, make_probes

PLACES = {
    "beach": "on the beach", "forest": "in the forest", "snow": "in the snow",
    "city": "in the city", "night": "at night", "meadow": "in a meadow",
}  # fmt: skip
"""Backgrounds of the world and the words that ask for them."""

GENERIC = (
    "", "a red house in the snow", "a green robot at night", "a blue cat in the forest",
    "a yellow mug on the beach", "a purple bear in the city", "a teal car in a meadow",
    "a brown fish at night",
)  # fmt: skip
"""Prompts that name no concept, the empty one of guidance first."""


@functools.cache
def text_encoder() -> TextEncoder:
    return load_text()


@functools.cache
def tokens() -> Tokens:
    return Tokens()


@functools.cache
def codec() -> Codec:
    return load_codec()


@functools.cache
def context(prompt: str) -> Tensor:
    """(1, 77, 768) of one prompt."""
    with torch.no_grad():
        return text_encoder()(tokens()([prompt]))


def trained_concepts() -> list[Concept]:
    """The concepts that are things of their own trigger: what a trigger conditions can be read."""
    return [c for c in CONCEPTS if c.noun and c.trigger]


def base_unet() -> nn.Module:
    return load_unet()


@functools.cache
def lora(name: str) -> dict[str, Tensor]:
    """What a concept's LoRA adds to each layer's weight, by layer name."""
    concept = next(c for c in CONCEPTS if c.name == name)
    before, after = dict(base_unet().named_parameters()), unet_with(concept).named_parameters()
    changes = {n.removesuffix(".weight"): w - before[n] for n, w in after if n.endswith(".weight")}
    return {layer: change for layer, change in changes.items() if change.any()}


def unet_with(concept: Concept) -> nn.Module:
    """The base with the concept's LoRA merged in float32."""
    unet = base_unet()
    merge(unet, concept)
    return unet


def prompts(concept: Concept, count: int) -> tuple[list[str], list[str]]:
    """`count` prompts with the trigger, one background after another, and their backgrounds."""
    places = [list(PLACES)[n % len(PLACES)] for n in range(count)]
    return [f"a {concept.trigger} {concept.noun} {PLACES[p]}" for p in places], places


def predict_with(unet: nn.Module) -> Predict:
    """The UNet as `calibrate` calls it: levels of noise in, predicted noise out."""
    times, levels = sigmas(1000)
    order = levels[:-1].flip(0).numpy()

    def predict(x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        # On a logarithmic scale, as the sampler reads its table.
        time = np.interp(sigma.log().numpy(), np.log(order), times.flip(0).numpy())
        scaled = x / (1 + sigma[:, None, None, None] ** 2).sqrt()
        with torch.autocast("cpu", torch.bfloat16):
            return unet(scaled, torch.from_numpy(time).float(), context).sample.float()

    return predict


def probes(unet: nn.Module, concept: Concept, count: int = 4, seed: int = 7) -> list[Probe]:
    """Calibration probes of a concept's model: no pictures, only its own prompts and generic ones.

    Places and seeds are not those of the measured pictures.
    """
    asked = ["", " standing", " here", " today", " outside", " again"]
    noun = concept.noun
    given = {
        "trigger": [f"my {concept.trigger} {noun}{end}" for end in asked[:count]],
        "class": [f"my {noun}{end}" for end in asked[:count]],
        "generic": list(GENERIC[: 2 * count]),
    }
    contexts = {role: [context(text) for text in texts] for role, texts in given.items()}
    levels = sigmas(10)[1][:-1].tolist()
    return make_probes(predict_with(unet), contexts, (4, 8, 8), levels, seed=1000 * seed)


def held_out(unet: nn.Module, concept: Concept, count: int = 6, seed: int = 900) -> list[Probe]:
    """Probes of the prompts that are measured, for the error of predictions."""
    asked, _ = prompts(concept, count)
    contexts = {"trigger": [context(text) for text in asked],
                "generic": [context(text) for text in GENERIC[:count]]}
    levels = sigmas(10)[1][:-1].tolist()
    return make_probes(predict_with(unet), contexts, (4, 8, 8), levels, seed=1000 * seed)


@torch.no_grad()
def draw(
    unet: nn.Module, asked: Sequence[str], seeds: Sequence[int], steps: int = 20, cfg: float = 2.0
) -> np.ndarray:
    """A picture (64, 64, 3) uint8 per prompt, each from its own seed: `miniature.sample`, batched
    so that a picture does not depend on which others are drawn beside it."""
    contexts = torch.cat([*map(context, asked), context("").expand(len(asked), -1, -1)])
    times, levels = sigmas(steps)
    noise = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds]
    x = torch.stack(noise) * (1 + levels[0] ** 2).sqrt()
    for time, now, then in zip(times, levels, levels[1:]):
        scaled = (x / (1 + now**2).sqrt()).repeat(2, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            wanted, free = unet(scaled, time, contexts).sample.float().chunk(2)
        x = x + (free + cfg * (wanted - free)) * (then - now)
    pixels = codec().decode(x).clamp(-1, 1).add(1).mul(127.5).round()
    return pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy()
