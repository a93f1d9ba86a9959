"""Pictures of one concept by several systems of `benchmarks.fidelity`, side by side.

    python -m benchmarks.fidelity_pictures CONCEPT --png OUT [--systems NAME ...] [--pictures N]

A row a system, a column a prompt with its seed. Under each picture stands how much of the concept
the scorer finds in it.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.fidelity_measure import Effort, Reference
from benchmarks.fidelity_systems import SYSTEMS, Subject
from benchmarks.fidelity_world import trained_concepts
from miniature.score import concept_score, read

LORA = [
    "full precision",
    "ablation: LoRA beside int8", "ablation: LoRA rounded into int8",
    "ablation: LoRA beside int4", "ablation: LoRA rounded into int4",
]  # fmt: skip
"""What becomes of a LoRA over a base that is packed already: the systems shown by default."""
SIDE, GAP, TEXT, NAMES = 128, 6, 16, 190


def sheet(rows: list[tuple[str, np.ndarray, list[float]]]) -> Image.Image:
    """rows: a system's name, its pictures (n, h, w, 3) uint8, the score of each."""
    across = len(rows[0][1])
    size = NAMES + across * (SIDE + GAP), len(rows) * (SIDE + TEXT + GAP)
    made = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(made), ImageFont.load_default(13)
    for number, (name, pictures, scores) in enumerate(rows):
        top = number * (SIDE + TEXT + GAP)
        words = textwrap.fill(name.removeprefix("ablation: "), 24)
        pen.text((8, top + SIDE // 2), words, "black", font, anchor="ld")
        mean = f"concept score {sum(scores) / len(scores):.2f}"
        pen.text((8, top + SIDE // 2 + 8), mean, "dimgray", font)
        for column, (picture, score) in enumerate(zip(pictures, scores)):
            left = NAMES + column * (SIDE + GAP)
            shown = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            made.paste(shown, (left, top))
            colour = "black" if score > 0.5 else "firebrick"
            pen.text((left + SIDE // 2, top + SIDE), f"{score:.2f}", colour, font, anchor="ma")
    return made


@torch.no_grad()
def drawn(concept: str, systems: list[str], pictures: int, steps: int) -> list[tuple]:
    """The rows of `sheet`."""
    subject = Subject(next(c for c in trained_concepts() if c.name == concept), count=3)
    reference = Reference(subject, Effort(pictures, steps, 3, 1, 1))
    known = {system.name: system for system in SYSTEMS}
    rows = []
    for name in systems:
        made = known[name].make(subject)
        found = reference.draw(made.unet.to(made.device)).pictures
        readings = read(reference.reader, found)
        rows.append((name, found, [concept_score(r, subject.concept) for r in readings]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("concept")
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--systems", nargs="*", default=LORA)
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    rows = drawn(options.concept, options.systems, options.pictures, options.steps)
    sheet(rows).save(options.png)


if __name__ == "__main__":
    main()
