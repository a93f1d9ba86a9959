"""Say from a picture alone what is in it, and which personal concept.

    python -m miniature.score PICTURE.png ...      prints JSON
    python -m miniature.score --train              trains the reader on renders

A small convolutional network reads the visible attributes; concepts are then compared by their
known look. It knows nothing of prompts, triggers or files.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .concepts import CONCEPTS, Concept
from .world import ACCESSORIES, BACKGROUNDS, CLASSES, PATTERNS, RGB, SIZE, STYLES, Scene, shade

WEIGHTS = Path(__file__).parent / "weights" / "reader.safetensors"
HEADS = {
    "kind": CLASSES, "accessory": ACCESSORIES, "pattern": PATTERNS, "background": BACKGROUNDS,
    "style": STYLES,
}
COLOUR_TOLERANCE = 0.36
"""RGB distance (0..1 per channel) at which the agreement of two colours has fallen to 1/e; more
than twice the reader's own error on held-out renders."""
FOUND = 0.5
"""Concept score from which a picture counts as showing the concept."""


class Reader(nn.Module):
    """Pictures ``(batch, 3, 64, 64)`` in -1..1 to logits per head and two RGB colours."""

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
        self.colours = nn.Linear(192, 6)

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        h = self.mix(self.body(x))
        return {name: head(h) for name, head in self.heads.items()}, self.colours(h).sigmoid()


@dataclass(frozen=True)
class Reading:
    """What one picture shows: probabilities per head, and the two colours in RGB 0..1."""

    probabilities: dict[str, dict[str, float]]
    colour: RGB
    accessory_colour: RGB

    def best(self, head: str) -> str:
        """The most probable value of a head."""
        values = self.probabilities[head]
        return max(values, key=values.get)


def _agreement(a: RGB, b: RGB) -> float:
    return math.exp(-(math.dist(a, b) / COLOUR_TOLERANCE) ** 2)


def concept_score(reading: Reading, concept: Concept) -> float:
    """0..1: probability of its class and accessory, times the agreement of both colours."""
    return (
        reading.probabilities["kind"][concept.noun]
        * reading.probabilities["accessory"][concept.accessory]
        * _agreement(reading.colour, shade(concept.colour))
        * _agreement(reading.accessory_colour, shade(concept.accessory_colour))
    )


def load_reader() -> Reader:
    """The trained reader."""
    reader = Reader()
    reader.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()})
    return reader.eval()


@torch.no_grad()
def read(reader: Reader, pictures: np.ndarray) -> list[Reading]:
    """Read pictures ``(n, 64, 64, 3)`` uint8."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    logits, colours = reader(x)
    chances = {name: tensor.softmax(1).tolist() for name, tensor in logits.items()}
    return [
        Reading(
            {name: dict(zip(HEADS[name], chances[name][i])) for name in HEADS},
            tuple(colours[i, :3].tolist()), tuple(colours[i, 3:].tolist()),
        )
        for i in range(len(pictures))
    ]


def score(reading: Reading) -> dict:
    """JSON-able: the concept found (or None), every concept's score, the attributes read."""
    scores = {c.name: round(concept_score(reading, c), 3) for c in CONCEPTS}
    best = max(scores, key=scores.get)
    return {
        "found": best if scores[best] >= FOUND else None,
        "scores": scores,
        "attributes": {head: reading.best(head) for head in HEADS},
    }


def load_picture(path: Path) -> np.ndarray:
    """A picture file as ``(64, 64, 3)`` uint8; larger ones are reduced."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX))


def _labels(scenes: list[Scene]) -> tuple[dict[str, Tensor], Tensor]:
    heads = {
        name: torch.tensor([values.index(getattr(s, name)) for s in scenes])
        for name, values in HEADS.items()
    }
    return heads, torch.tensor([[*s.colour, *s.accessory_colour] for s in scenes])


def _worn(x: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and noise, as a codec and a sampler leave them: the reader must not need sharp edges."""
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    share = torch.rand(len(x), 1, 1, 1, generator=generator) * 0.7
    return x + share * (soft - x) + 0.06 * torch.randn(x.shape, generator=generator)


def train(steps: int, batch: int = 64) -> None:
    """Train on renders, some of them passed through the codec; prints held-out accuracy."""
    from .dataset import pictures
    from .train import WORK, as_pixels, autocast, easy, load_codec

    torch.manual_seed(4)
    reader, codec = Reader(), load_codec()
    optimizer = torch.optim.AdamW(reader.parameters(), 2e-3, weight_decay=1e-2)
    array, scenes = pictures(WORK / "pictures", 12000)
    test, train_on = 1000, len(scenes) - 1000
    heads, colours = _labels(scenes)
    bare = heads["accessory"] == 0
    with torch.no_grad(), autocast():
        recoded = [codec.decode(codec.encode(as_pixels(p))).clamp(-1, 1).mul(127).to(torch.int8)
                   for p in np.array_split(array[:3000], 30)]
    x_all = torch.cat([torch.cat(recoded).float() / 127, as_pixels(array[3000:])]).half()
    # Concepts live in the easy part: half of what is learned from comes from there.
    share = torch.tensor([3.0 if easy(scene) else 1.0 for scene in scenes[:train_on]])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (1 - step / steps) + 1e-6
        generator = torch.Generator().manual_seed(step)
        i = torch.multinomial(share, batch, generator=generator)
        with autocast():
            logits, rgb = reader(_worn(x_all[i].float(), generator))
        loss = sum(F.cross_entropy(logits[n].float(), heads[n][i]) for n in HEADS)
        error = (rgb.float() - colours[i]) ** 2
        error[bare[i], 3:] = 0
        loss = loss + 20 * error.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 200 == 0:
            print(f"reader {step + 1}/{steps} loss {loss.item():.3f}", flush=True)
    reader.eval()
    with torch.no_grad():
        logits, rgb = reader(x_all[train_on:].float())
    for name in HEADS:
        hit = (logits[name].argmax(1) == heads[name][train_on:]).float().mean()
        print(f"{name}: {hit:.3f} right on {test} held-out renders")
    away = (rgb - colours[train_on:])[:, :3].norm(dim=1).mean()
    print(f"body colour: mean RGB distance {away:.3f}")
    WEIGHTS.parent.mkdir(exist_ok=True)
    save_file({k: v.half() for k, v in reader.state_dict().items()}, WEIGHTS)


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--steps", type=int, default=1400)
    args = parser.parse_args()
    if args.train:
        train(args.steps)
    if args.pictures:
        readings = read(load_reader(), np.stack([load_picture(p) for p in args.pictures]))
        print(json.dumps({str(p): score(r) for p, r in zip(args.pictures, readings)}, indent=1))


if __name__ == "__main__":
    main()
