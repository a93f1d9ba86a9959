"""Say from a picture alone what is in it, and which personal concept.

    python -m miniature.score PICTURE.png ...      prints JSON
    python -m miniature.score --check              the scorer's own accuracy, on renders
    python -m miniature.score --train              trains the reader on renders

A small convolutional network reads the visible attributes; concepts are then compared by their
known look. It knows nothing of prompts, triggers or files.
"""

from __future__ import annotations

import argparse
import colorsys
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .base import as_pixels, autocast, load_codec
from .concepts import CHECKPOINTS, CONCEPTS, Concept
from .world import (
    ACCESSORIES,
    BACKGROUNDS,
    BADGES,
    CLASSES,
    PATTERNS,
    PERSONAL_STYLES,
    RGB,
    SIZE,
    STYLES,
    Scene,
    colour_name,
    sample_scene,
    shade,
)

WEIGHTS = Path(__file__).parent / "weights" / "reader.safetensors"
EVERY = (*CONCEPTS, *CHECKPOINTS)
HEADS = {
    "kind": CLASSES, "accessory": ACCESSORIES, "pattern": PATTERNS, "background": BACKGROUNDS,
    "style": (*STYLES, *PERSONAL_STYLES), "badge_shape": BADGES, "count": (1, 2),
}
MEASURES = {
    "colour": 3, "accessory_colour": 3, "pattern_colour": 3, "stripes": 1, "stripe_angle": 2,
    "badge_at": 2, "x": 1, "y": 1, "size": 1, "aspect": 1,
}
"""Continuous attributes and how many numbers each takes; the angle is read as the cosine and sine
of its double, because stripes look the same after half a turn."""
COLOUR_TOLERANCE = 0.36
"""RGB distance (0..1 per channel) at which the agreement of two colours has fallen to 1/e; more
than twice the reader's own error on held-out renders."""
FOUND = 0.5
"""Concept score from which a picture counts as showing the concept."""


class Reader(nn.Module):
    """Pictures ``(batch, 3, 64, 64)`` in -1..1 to logits per head and all measures side by side."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.body = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU(),
                          nn.Conv2d(b, b, 3, 1, 1), nn.GroupNorm(8, b), nn.SiLU())
            for a, b in pairwise(widths)
        ))
        self.mix = nn.Sequential(nn.Flatten(), nn.Linear(128 * 16, 192), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(192, len(v)) for name, v in HEADS.items()})
        self.measures = nn.Linear(192, sum(MEASURES.values()))

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        h = self.mix(self.body(x))
        return {name: head(h) for name, head in self.heads.items()}, self.measures(h)


@dataclass(frozen=True)
class Reading:
    """What one picture shows: probabilities per head, and the continuous attributes."""

    probabilities: dict[str, dict]
    measures: dict[str, Any]

    def best(self, head: str):
        """The most probable value of a head."""
        values = self.probabilities[head]
        return max(values, key=values.__getitem__)

    @property
    def colour(self) -> str:
        """Name of the body's colour."""
        return colour_name(self.measures["colour"])


def load_reader() -> Reader:
    """The trained reader."""
    reader = Reader()
    reader.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()})
    return reader.eval()


@torch.no_grad()
def read(reader: Reader, pictures: np.ndarray) -> list[Reading]:
    """Read pictures ``(n, 64, 64, 3)`` uint8."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    logits, numbers = reader(x)
    chances = {name: tensor.softmax(1).tolist() for name, tensor in logits.items()}
    parts = {n: p.tolist() for n, p in _split(numbers).items()}
    return [
        Reading(
            {name: dict(zip(HEADS[name], chances[name][i])) for name in HEADS},
            {name: tuple(parts[name][i]) for name in MEASURES},
        )
        for i in range(len(pictures))
    ]


def _split(numbers: Tensor) -> dict[str, Tensor]:
    return dict(zip(MEASURES, numbers.split(list(MEASURES.values()), dim=1), strict=True))


# --- concepts ------------------------------------------------------------------------------------


def _agreement(a: RGB, b: RGB) -> float:
    return math.exp(-(math.dist(a, b) / COLOUR_TOLERANCE) ** 2)


def concept_score(reading: Reading, concept: Concept) -> float:
    """0..1: the probability of all its named attributes, times the agreement of its colours."""
    chance, seen = reading.probabilities, reading.measures
    result = chance["style"][concept.style] if concept.style else 1.0
    if not concept.noun:
        return result
    result *= chance["kind"][concept.noun] * chance["count"][1] * chance["pattern"][concept.pattern]
    result *= chance["accessory"][concept.accessory]
    result *= _agreement(seen["colour"], shade(concept.colour))
    if concept.accessory != "none":
        result *= _agreement(seen["accessory_colour"], shade(concept.accessory_colour))
    if concept.accessory == "badge":
        result *= chance["badge_shape"][concept.badge_shape]
    if concept.pattern != "plain":
        result *= _agreement(seen["pattern_colour"], shade(concept.pattern_colour))
    return result


def deviations(reading: Reading, concept: Concept) -> dict[str, float]:
    """How far a thing in the picture is from the concept's look: hue in degrees, the place of the
    badge in half sizes of the object, proportions (width over height) as a ratio, stripes in
    stripes across the object, their angle in degrees."""
    seen = reading.measures
    hue, wanted = _hue(seen["colour"]), _hue(shade(concept.colour))
    found = {
        "hue": abs((hue - wanted + 180) % 360 - 180),
        "proportions": abs(math.log(max(seen["aspect"][0], 0.1) / concept.aspect)),
    }
    if concept.accessory == "badge":
        found["badge_at"] = math.dist(seen["badge_at"], concept.badge_at)
    if concept.pattern != "plain":
        found["stripes"] = abs(seen["stripes"][0] - concept.stripes)
        angle = math.atan2(seen["stripe_angle"][1], seen["stripe_angle"][0]) / 2
        turn = math.degrees(angle - concept.stripe_angle)
        found["stripe_angle"] = abs((turn + 90) % 180 - 90)
    return {name: round(value, 3) for name, value in found.items()}


def _hue(colour: RGB) -> float:
    return 360 * colorsys.rgb_to_hsv(*(min(1.0, max(0.0, c)) for c in colour))[0]


def best_concept(reading: Reading) -> tuple[str | None, float]:
    """The concept the picture shows, or None, and its score."""
    scores = {c.name: concept_score(reading, c) for c in EVERY}
    best = max(scores, key=scores.__getitem__)
    return (best if scores[best] >= FOUND else None), scores[best]


def score(reading: Reading) -> dict:
    """JSON-able: the concept found (or None), every concept's score, the attributes read."""
    found, _ = best_concept(reading)
    concept = next((c for c in EVERY if c.name == found and c.noun), None)
    return {
        "found": found,
        "scores": {c.name: round(concept_score(reading, c), 3) for c in EVERY},
        "attributes": {"colour": reading.colour, **{head: reading.best(head) for head in HEADS}},
        "measures": {n: [round(v, 3) for v in values] for n, values in reading.measures.items()},
        "deviations": deviations(reading, concept) if concept else {},
    }


def load_picture(path: Path) -> np.ndarray:
    """A picture file as ``(64, 64, 3)`` uint8; larger ones are reduced."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX))


# --- training ------------------------------------------------------------------------------------


def _labels(scenes: list[Scene]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Classes per head, measures ``(n, 18)``, and which of them are visible ``(n, 18)``."""
    heads = {
        name: torch.tensor([values.index(getattr(s, name)) for s in scenes])
        for name, values in HEADS.items()
    }
    heads["badge_shape"][torch.tensor([s.accessory != "badge" for s in scenes])] = _UNSEEN
    return heads, torch.tensor([_numbers(s) for s in scenes]), torch.tensor(
        [_visible(s) for s in scenes]
    )


_COLOURS = 9  # the first measures
_UNSEEN = -100  # what cross_entropy ignores


def _numbers(s: Scene) -> list[float]:
    return [
        *s.colour, *s.accessory_colour, *s.pattern_colour, s.stripes,
        math.cos(2 * s.stripe_angle), math.sin(2 * s.stripe_angle), *s.badge_at,
        s.x, s.y, s.size, s.aspect,
    ]


def _visible(s: Scene) -> list[float]:
    coloured = s.style not in PERSONAL_STYLES
    worn, patterned = s.accessory != "none", s.pattern != "plain"
    striped = s.pattern == "striped"
    flags = [(coloured, 3), (coloured and worn, 3), (coloured and patterned, 3), (patterned, 1),
             (striped, 2), (s.accessory == "badge", 2), (True, 4)]
    return [float(flag) for flag, times in flags for _ in range(times)]


def _concepts_and_near_misses(rng: np.random.Generator, count: int) -> list[Scene]:
    """``count`` scenes of every concept, and as many with one attribute another."""
    scenes = []
    for concept in EVERY:
        scenes += [concept.scene(rng) for _ in range(count)]
        for _ in range(count):
            name = str(rng.choice(["kind", "colour", "accessory", "accessory_colour", "pattern",
                                   "badge_shape", "style"]))
            scenes.append(concept.scene(rng, **{name: getattr(sample_scene(rng), name)}))
    return scenes


def _worn(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and noise, as a codec and a sampler leave them: the reader must not need sharp edges."""
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    share = torch.rand(len(x), 1, 1, 1, generator=generator) * 0.8
    return x + share * (soft - x) + 0.06 * torch.randn(x.shape, generator=generator)


def train(steps: int, afresh: bool, batch: int = 80) -> None:
    """Train on renders, a third of them passed through the codec; goes on from the stored weights
    unless ``afresh``. Half are of any scene, half of the concepts and of what is almost one."""
    from .dataset import drawn, pictures
    from .train import WORK

    torch.manual_seed(4)
    reader, codec = Reader() if afresh else load_reader().train(), load_codec()
    optimizer = torch.optim.AdamW(reader.parameters(), 2e-3, weight_decay=1e-2)
    array, scenes = pictures(WORK / "pictures", 24000)
    own = _concepts_and_near_misses(np.random.default_rng(6), 120)
    share = torch.tensor([1 / len(scenes)] * len(scenes) + [1 / len(own)] * len(own))
    array, scenes = np.concatenate([array, drawn(own)]), [*scenes, *own]
    heads, numbers, visible = _labels(scenes)
    recoded = array.copy()
    with torch.no_grad(), autocast():
        for part in np.array_split(np.arange(0, len(array), 3), 80):
            pixels = codec.decode(codec.encode(as_pixels(array[part]))).float().clamp(-1, 1)
            whole = pixels.add(1).mul(127.5).round().to(torch.uint8)
            recoded[part] = whole.permute(0, 2, 3, 1).numpy()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (1 - step / steps) + 1e-6
        generator = torch.Generator().manual_seed(step)
        i = torch.multinomial(share, batch, generator=generator)
        with autocast():
            logits, seen = reader(_worn(as_pixels(recoded[i.numpy()]), generator))
        loss = sum(F.cross_entropy(logits[n].float(), heads[n][i]) for n in HEADS)
        error = visible[i] * (seen.float() - numbers[i]) ** 2
        loss = loss + 40 * error[:, :_COLOURS].mean() + 10 * error[:, _COLOURS:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 200 == 0:
            print(f"reader {step + 1}/{steps} loss {loss.item():.3f}", flush=True)
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({k: v.half() for k, v in reader.state_dict().items()}, WEIGHTS)


# --- its own accuracy ----------------------------------------------------------------------------


def _soft(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(1))


def _noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 16, (SIZE, SIZE, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def _small_file(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


def _through_codec() -> Callable[[Image.Image], Image.Image]:
    codec = load_codec()

    @torch.no_grad()
    def recode(image: Image.Image) -> Image.Image:
        out = codec.decode(codec.encode(as_pixels(np.asarray(image)[None])))[0]
        whole = out.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        return Image.fromarray(whole.permute(1, 2, 0).numpy())

    return recode


def _shows(scene: Scene, name: str) -> bool:
    """Whether a random scene happens to have a concept's class, accessory, pattern and style."""
    look = next(c for c in EVERY if c.name == name).look()
    same = ("kind", "accessory", "pattern", "style", "count")
    return all(getattr(scene, key) == look.get(key, getattr(scene, key)) for key in same)


def check(count: int = 1000) -> None:
    """Print how well the scorer reads renders nobody trained on, as they are and degraded.

    Shares that are right, mean errors of what is measured (colours and places in 0..1, badges in
    half sizes of the object, stripes in stripes across it), how often renders of a concept are
    found and score, how often a random scene is wrongly found to be one. With perfect pictures it
    makes these errors and no fewer: the floor of every figure it gives for painted ones.
    """
    from .world import render

    reader, rng = load_reader(), np.random.default_rng(77)
    scenes = [sample_scene(rng) for _ in range(count)]
    heads, numbers, visible = _labels(scenes)
    own = [(c, c.scene(rng)) for c in EVERY for _ in range(count // 50)]
    kinds = {"as drawn": lambda image: image, "through the codec": _through_codec(),
             "blurred": _soft, "noisy": _noisy, "JPEG 40": _small_file}
    errors = {"RGB": slice(0, 3), "stripes": slice(9, 10), "badge place": slice(12, 14),
              "x, y": slice(14, 16), "size": slice(16, 17), "aspect": slice(17, 18)}
    columns = [*HEADS, "colour name", *(f"{name} error" for name in errors), "concept found",
               "worst concept", "its score", "wrongly found"]
    table = {column: [] for column in columns}
    for worn in kinds.values():
        readings = read(reader, np.stack([np.asarray(worn(render(s))) for s in scenes]))
        for head, values in HEADS.items():
            pairs = [(r.best(head), values[k]) for r, k in zip(readings, heads[head].tolist())
                     if k != _UNSEEN]
            table[head].append(np.mean([a == b for a, b in pairs]))
        seen = torch.tensor([[v for m in r.measures.values() for v in m] for r in readings])
        away = (seen - numbers).abs() * visible
        table["colour name"].append(np.mean(
            [r.colour == colour_name(s.colour) for r, s in zip(readings, scenes)]))
        for name, part in errors.items():
            table[f"{name} error"].append((away[:, part].sum() / visible[:, part].sum()).item())
        table["wrongly found"].append(np.mean(
            [found is not None and not _shows(s, found)
             for (found, _), s in zip(map(best_concept, readings), scenes)]))
        pictures = np.stack([np.asarray(worn(render(scene))) for _, scene in own])
        found = read(reader, pictures)
        right = np.array([best_concept(r)[0] == c.name for r, (c, _) in zip(found, own)])
        table["concept found"].append(right.mean())
        table["worst concept"].append(right.reshape(len(EVERY), -1).mean(1).min())
        table["its score"].append(
            np.mean([concept_score(r, c) for r, (c, _) in zip(found, own)]))
    guess = {head: np.bincount(k[k != _UNSEEN]).max() / (k != _UNSEEN).sum()
             for head, k in ((head, heads[head].numpy()) for head in HEADS)}
    middle = (numbers * visible).sum(0) / visible.sum(0)
    blind = (numbers - middle).abs() * visible
    guess |= {f"{name} error": (blind[:, part].sum() / visible[:, part].sum()).item()
              for name, part in errors.items()}
    print(f"{'':18}" + "".join(f"{name:>19}" for name in kinds) + f"{'best guess':>19}")
    for column, values in table.items():
        blindly = f"{guess[column]:19.3f}" if column in guess else ""
        print(f"{column:18}" + "".join(f"{value:19.3f}" for value in values) + blindly)


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--afresh", action="store_true", help="train from chance")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--steps", type=int, default=4000)
    args = parser.parse_args()
    if args.train:
        train(args.steps, args.afresh)
    if args.check:
        check()
    if args.pictures:
        readings = read(load_reader(), np.stack([load_picture(p) for p in args.pictures]))
        print(json.dumps({str(p): score(r) for p, r in zip(args.pictures, readings)}, indent=1))


if __name__ == "__main__":
    main()
