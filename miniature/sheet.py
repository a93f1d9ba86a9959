"""Draw the contact sheet: every concept as it is, as its LoRA paints it, and the base without it.

    python -m miniature.sheet [--out miniature/sheet.png] [--previews]

``--previews`` also writes each concept's first picture to ``miniature/weights/previews``, which
:mod:`miniature.assemble` puts beside its file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .base import WEIGHTS
from .concepts import CHECKPOINTS, CONCEPTS, Concept
from .sample import Painter
from .world import BACKGROUNDS, PLACES, SIZE, render

_WITH, _WITHOUT, _GAP, _TEXT = 6, 2, 6, 190
_ZOOM = 1.25


def _row(concept: Concept, base: Painter) -> list[np.ndarray]:
    """One render, then the same six places with the LoRA, then two of them without."""
    rng = np.random.default_rng(list(concept.name.encode()))
    prompts = [concept.request(PLACES[place][0], rng) for place in BACKGROUNDS]
    original = np.asarray(render(concept.scene(rng)))
    painted = base.personal(concept).paint(prompts[:_WITH], seed=7)
    return [original, *painted, *base.paint(prompts, seed=7)[:_WITHOUT]]


def _tile(picture: np.ndarray, edge: int) -> Image.Image:
    return Image.fromarray(picture).resize((edge, edge), Image.Resampling.LANCZOS)


def draw(rows: dict[str, list[np.ndarray]]) -> Image.Image:
    """Names on the left; the render, the LoRA's pictures and the base's, with gaps between."""
    edge = round(SIZE * _ZOOM)
    columns = [_TEXT, _TEXT + edge + _GAP, _TEXT + (1 + _WITH) * edge + 2 * _GAP]
    width, top = columns[2] + _WITHOUT * edge, 22
    sheet = Image.new("RGB", (width, top + len(rows) * (edge + 2)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for x, title in zip(columns, ("drawn", "with its LoRA, in six places", "without it")):
        pen.text((x + 2, 4), title, "black", font)
    for i, (name, pictures) in enumerate(rows.items()):
        y = top + i * (edge + 2)
        pen.text((6, y + edge / 2 - 8), name, "black", font)
        for j, picture in enumerate(pictures):
            x = columns[0] if j == 0 else columns[1] + (j - 1) * edge
            x += _GAP if j > _WITH else 0
            sheet.paste(_tile(picture, edge), (x, y))
    return sheet


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sheet.png")
    parser.add_argument("--previews", action="store_true")
    args = parser.parse_args()
    base = Painter.load()
    rows = {concept.name: _row(concept, base) for concept in (*CONCEPTS, *CHECKPOINTS)}
    # With a palette it is a quarter of the bytes; k-means keeps the small marks' colours.
    draw(rows).quantize(256, kmeans=2, dither=Image.Dither.NONE).save(args.out, optimize=True)
    if args.previews:
        folder = WEIGHTS / "previews"
        folder.mkdir(exist_ok=True)
        for name, pictures in rows.items():
            _tile(pictures[1], 4 * SIZE).save(folder / f"{name}.webp", quality=70)
    print(args.out)


if __name__ == "__main__":
    main()
