"""The miniature as a benchmark sees it: models with a concept's LoRA merged, prompts, pictures.

Every system is drawn with dense weights in float32, as ComfyUI computes on a CPU: exactly what its
packed weights stand for, at the speed of a plain model. Models are kept on the CPU; those that draw
are on DEVICE.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from miniature.base import Tokens, load_codec, load_text, load_unet
from miniature.concepts import CHECKPOINTS, CONCEPTS, Concept
from miniature.sample import merge, sigmas
from miniature.text import TextEncoder
from miniature.vae import Codec
from miniature.world import CLASSES, COLOURS, render
from personalq_core.taq.calibrate import Predict, Probe, Prompts, make_probes

CFG = 2.0
LEVELS = tuple(1 - step / 9 for step in range(10))
"""Where a probe looks. The node looks at four such parts: its pictures are larger, and each layer
hears more of one than here of all ten."""
MIDDLE = (0.6,)
"""Where one look has to do, as in the node."""
torch.backends.cudnn.allow_tf32 = False  # float32 is meant as such
PLACES = {
    "beach": "on the beach", "forest": "in the forest", "snow": "in the snow",
    "city": "in the city", "night": "at night", "meadow": "in a meadow",
}  # fmt: skip
"""Backgrounds of the world and the words that ask for them."""


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
    """Every concept: things and styles, LoRAs of all kinds and fine-tuned checkpoints."""
    return [*CONCEPTS, *CHECKPOINTS]


def base_unet() -> nn.Module:
    return load_unet()


@functools.cache
def lora(name: str) -> dict[str, Tensor]:
    """What a concept's LoRA adds to each layer's weight, by layer name."""
    concept = next(c for c in trained_concepts() if c.name == name)
    before, after = dict(base_unet().named_parameters()), unet_with(concept).named_parameters()
    changes = {n.removesuffix(".weight"): w - before[n] for n, w in after if n.endswith(".weight")}
    return {layer: change for layer, change in changes.items() if change.any()}


def unet_with(concept: Concept) -> nn.Module:
    """The base with the concept's LoRA merged in float32."""
    unet = base_unet()
    merge(unet, concept)
    return unet


@dataclass(frozen=True)
class Asked:
    """A prompt, and what has to be in its picture."""

    prompt: str
    kind: str
    place: str


def named(concept: Concept, number: int) -> tuple[str, str]:
    """The words that ask for a concept, and the class of thing they ask for.

    A style is asked for with one class after another.
    """
    if concept.noun:
        return f"{concept.trigger} {concept.noun}".strip(), concept.noun
    kind = CLASSES[number % len(CLASSES)]
    return f"{concept.trigger} style a {kind}", kind


def requests(concept: Concept, count: int) -> list[Asked]:
    """`count` prompts for a concept, one background after another."""
    found = []
    for number in range(count):
        place = list(PLACES)[number % len(PLACES)]
        words, kind = named(concept, number)
        found.append(Asked(f"{words} {PLACES[place]}", kind, place))
    return found


def generic(count: int, seed: int = 3) -> list[str]:
    """Prompts that name no concept, the empty one of guidance first."""
    rng = np.random.default_rng(seed)
    drawn = [
        f"a {rng.choice(list(COLOURS))} {rng.choice(CLASSES)} {rng.choice(list(PLACES.values()))}"
        for _ in range(count - 1)
    ]
    return ["", *drawn]


def elsewhere(concept: Concept, count: int) -> list[str]:
    """Prompts without the trigger: the concept's class and any other thing, by turns."""
    places, others = list(PLACES.values()), generic(count + 1, seed=11)[1:]
    return [
        other if number % 2 else f"a {named(concept, number)[1]} {places[number % len(places)]}"
        for number, other in enumerate(others)
    ]


def renders(concept: Concept, count: int) -> np.ndarray:
    """Pictures (count, 64, 64, 3) of a concept as the world itself draws it."""
    rng = np.random.default_rng(17)
    return np.stack([np.asarray(render(concept.scene(rng))) for _ in range(count)])


def predict_with(unet: nn.Module, context: Tensor) -> Predict:
    """The UNet as `calibrate` calls it: levels of noise in, predicted noise out."""
    times, levels = sigmas(1000)
    order = levels[:-1].flip(0).numpy()

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        # On a logarithmic scale, as the sampler reads its table.
        time = np.interp(sigma.log().cpu().numpy(), np.log(order), times.flip(0).numpy())
        scaled = x / (1 + sigma[:, None, None, None] ** 2).sqrt()
        return unet(scaled, torch.from_numpy(time).float().to(x.device), context).sample

    return predict


def probes(
    unet: nn.Module,
    concept: Concept,
    count: int,
    about: str = "mixed",
    at: Sequence[float] = LEVELS,
) -> list[Probe]:
    """Calibration probes of a concept's model, on its device: 4 * count prompts, no pictures.

    at: parts of the way from a clean picture to noise, falling

    about: "mixed" prompts with the trigger, with the class word and generic ones; or "trigger" or
    "generic" ones alone, as many; or "noise" in place of a text, without any prompt. Wordings,
    places and seeds are not those of what is measured.
    """
    asked = ["", " standing", " here", " today", " outside", " again", " there", " now",
             " by the road", " in a room", " in a garden", " at sea"]  # fmt: skip
    things = [named(concept, number + 1) for number in range(len(asked))]
    triggers = [f"my {words}{end}" for (words, _), end in zip(things, asked)]
    classes = [f"my {kind}{end}" for (_, kind), end in zip(things, asked)]
    given = {
        "mixed": {"trigger": triggers[:count], "class": classes[:count],
                  "generic": generic(2 * count)},
        "trigger": {"trigger": triggers[: 4 * count]},
        "generic": {"generic": generic(4 * count)},
        "noise": {},
    }[about]  # fmt: skip
    device = next(unet.parameters()).device
    contexts = {role: torch.cat([*map(context, t)]).to(device) for role, t in given.items()}
    if about == "noise":
        drawn = torch.randn(4 * count, 77, 768, generator=torch.Generator().manual_seed(0))
        contexts = {"generic": drawn.to(device)}
    falling = sigmas(1000)[1]
    levels = [float(falling[round((1 - part) * 999)]) for part in at]
    batches = [
        Prompts(role, range(len(texts)), predict_with(unet, texts))
        for role, texts in contexts.items()
    ]
    return make_probes(batches, (4, 8, 8), levels, seed=7000, device=device)


@dataclass(frozen=True)
class Drawn:
    """latents: (n, 4, 8, 8) before the last decoding; pictures: (n, 64, 64, 3) uint8
    met: what the UNet was given on the way: inputs (m, 4, 8, 8), times (m,), prompts (m, 77, 768)
    """

    latents: Tensor
    pictures: np.ndarray
    met: tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def draw(unet: nn.Module, asked: Sequence[str], seeds: Sequence[int], steps: int) -> Drawn:
    """A picture per prompt, each from its own seed: `miniature.sample`, batched so that a picture
    does not depend on which others are drawn beside it."""
    device = next(unet.parameters()).device
    contexts = torch.cat([*map(context, asked), context("").expand(len(asked), -1, -1)]).to(device)
    times, levels = sigmas(steps)
    noise = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds]
    x = torch.stack(noise).to(device) * (1 + levels[0] ** 2).sqrt()
    met = []
    for number, (time, now, then) in enumerate(zip(times, levels, levels[1:])):
        scaled = (x / (1 + now**2).sqrt()).repeat(2, 1, 1, 1)
        if number % 3 == 1:
            met.append((scaled[: len(x)], time.expand(len(x)), contexts[: len(x)]))
        wanted, free = noise_of(unet, scaled, time, contexts).chunk(2)
        x = x + (free + CFG * (wanted - free)) * (then - now)
    latents = x.cpu()
    pixels = codec().decode(latents).clamp(-1, 1).add(1).mul(127.5).round()
    pictures = pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy()
    inputs, at, texts = (torch.cat(part).cpu() for part in zip(*met))
    return Drawn(latents, pictures, (inputs, at, texts))


@torch.no_grad()
def noise_of(unet: nn.Module, scaled: Tensor, time: Tensor, contexts: Tensor) -> Tensor:
    """The noise that the UNet predicts, where the inputs are."""
    device = next(unet.parameters()).device
    return unet(*(given.to(device) for given in (scaled, time, contexts))).sample.to(scaled.device)
