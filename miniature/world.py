"""The world: scenes, how they are drawn, and how people caption them.

A scene is one object (12 classes), or two alike, with a body colour, a pattern and an accessory,
in one of six places and four drawing styles; four more styles exist that only personal LoRAs are
shown.
All visible attributes are continuous or named, and all of them are known exactly, so what a
generated picture shows can be measured against what was asked for.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

SIZE = 64
"""Edge of a finished picture, pixels."""

_OVERSAMPLE = 3
_CANVAS = SIZE * _OVERSAMPLE

COLOURS: dict[str, tuple[float, float, float]] = {
    # name: hue in degrees, saturation, value
    "red": (2, 0.85, 0.85),
    "orange": (28, 0.90, 0.95),
    "yellow": (52, 0.85, 0.95),
    "green": (125, 0.70, 0.62),
    "teal": (178, 0.75, 0.72),
    "blue": (222, 0.80, 0.85),
    "purple": (276, 0.65, 0.72),
    "pink": (330, 0.45, 0.98),
    "brown": (24, 0.65, 0.50),
    "grey": (220, 0.06, 0.62),
}
PATTERNS = ("plain", "striped", "dotted")
ACCESSORIES = ("none", "bow tie", "scarf", "hat", "badge")
BACKGROUNDS = ("beach", "forest", "snow", "city", "night", "meadow")
BADGES = ("round", "square", "star")
STYLES = ("flat", "ink", "pastel", "neon")
"""Drawing styles the base model knows by name."""
PERSONAL_STYLES = ("sepia", "blueprint", "duotone", "noir")
"""Drawing styles the base model never sees: a style LoRA has to teach them."""

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """Everything that is visible in one picture.

    Colours are RGB in 0..1; positions and sizes are fractions of the picture's edge;
    ``stripe_angle`` is in radians, ``stripes`` counts stripes (or dots) across the object;
    ``aspect`` is width over height of the object; ``badge_at`` moves a badge away from the middle
    of the chest, in half sizes of the object. Where ``count`` is 2, two equal objects stand side by
    side, each smaller.
    """

    kind: str
    colour: RGB
    pattern: str
    pattern_colour: RGB
    stripes: float
    stripe_angle: float
    accessory: str
    accessory_colour: RGB
    badge_shape: str
    badge_at: tuple[float, float]
    background: str
    style: str
    count: int
    x: float
    y: float
    size: float
    aspect: float
    seed: int


# --- colours -------------------------------------------------------------------------------------


def shade(name: str, rng: np.random.Generator | None = None) -> RGB:
    """The named colour, varied a little when a generator is given."""
    hue, saturation, value = COLOURS[name]
    if rng is not None:
        hue += rng.uniform(-7, 7)
        saturation = min(1.0, saturation * rng.uniform(0.9, 1.1))
        value = min(1.0, value * rng.uniform(0.93, 1.05))
    return colorsys.hsv_to_rgb((hue % 360) / 360, saturation, value)


def colour_name(colour: RGB) -> str:
    """The name of the nearest named colour (squared RGB distance)."""
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(shade(name), colour)))


def _mix(a: RGB, b: RGB, share_of_b: float) -> RGB:
    red, green, blue = (x + (y - x) * share_of_b for x, y in zip(a, b))
    return red, green, blue


def _bytes(colour: RGB) -> tuple[int, int, int]:
    red, green, blue = (round(255 * min(1.0, max(0.0, c))) for c in colour)
    return red, green, blue


WHITE, BLACK, INK, PAPER = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.13, 0.12, 0.16), (0.96, 0.94, 0.88)


# --- shapes: in the object's own box, x and y from -1 to 1, y down --------------------------------


@dataclass(frozen=True)
class Shape:
    """Outline of one class: what is filled with the body's colour, and what is drawn on top."""

    body: tuple[tuple, ...]
    details: tuple[tuple, ...]  # (tone, shape)
    neck: tuple[float, float, float]  # x, y, half width: where a scarf or bow tie sits
    top: tuple[float, float, float]  # x, y, half width: where a hat sits
    chest: tuple[float, float]  # x, y: where a badge sits


def _e(x, y, rx, ry):
    return ("ellipse", x - rx, y - ry, x + rx, y + ry)


def _r(x0, y0, x1, y1):
    return ("rectangle", x0, y0, x1, y1)


def _p(*points):
    return ("polygon", *points)


SHAPES: dict[str, Shape] = {
    "bear": Shape(
        body=(
            _e(0, 0.48, 0.55, 0.50), _e(0, -0.38, 0.50, 0.44),
            _e(-0.42, -0.76, 0.22, 0.22), _e(0.42, -0.76, 0.22, 0.22),
            _e(-0.62, 0.40, 0.20, 0.30), _e(0.62, 0.40, 0.20, 0.30),
            _e(-0.34, 0.88, 0.26, 0.14), _e(0.34, 0.88, 0.26, 0.14),
        ),
        details=(
            ("light", _e(0, -0.24, 0.22, 0.17)), ("dark", _e(0, -0.31, 0.09, 0.07)),
            ("dark", _e(-0.20, -0.50, 0.07, 0.08)), ("dark", _e(0.20, -0.50, 0.07, 0.08)),
        ),
        neck=(0, 0.08, 0.50), top=(0, -0.76, 0.40), chest=(0, 0.50),
    ),
    "cat": Shape(
        body=(
            _e(0, 0.50, 0.46, 0.48), _e(0, -0.34, 0.46, 0.38),
            _p(-0.46, -0.40, -0.44, -0.98, -0.06, -0.66), _p(0.46, -0.40, 0.44, -0.98, 0.06, -0.66),
            _p(0.36, 0.92, 0.94, 0.50, 0.98, -0.06, 0.80, -0.06, 0.74, 0.42, 0.30, 0.70),
        ),
        details=(
            ("dark", _e(-0.19, -0.40, 0.06, 0.11)), ("dark", _e(0.19, -0.40, 0.06, 0.11)),
            ("light", _e(0, -0.16, 0.16, 0.10)), ("dark", _e(0, -0.20, 0.06, 0.04)),
        ),
        neck=(0, 0.08, 0.42), top=(0, -0.68, 0.36), chest=(0, 0.52),
    ),
    "bird": Shape(
        body=(
            _e(-0.05, 0.20, 0.62, 0.52), _e(0.42, -0.42, 0.36, 0.36),
            _p(-0.50, 0.10, -1.0, -0.22, -0.92, 0.36),
        ),
        details=(
            ("orange", _p(0.74, -0.52, 1.0, -0.38, 0.74, -0.26)),
            ("dark", _e(0.52, -0.50, 0.07, 0.08)),
            ("shadow", _e(-0.14, 0.20, 0.34, 0.24)),
            ("orange", _r(-0.20, 0.68, -0.10, 0.98)), ("orange", _r(0.10, 0.68, 0.20, 0.98)),
        ),
        neck=(0.28, -0.10, 0.40), top=(0.42, -0.72, 0.32), chest=(0.18, 0.28),
    ),
    "fish": Shape(
        body=(
            _e(0.14, 0, 0.72, 0.50), _p(-0.46, 0, -1.0, -0.52, -0.86, 0, -1.0, 0.52),
            _p(-0.10, -0.42, 0.20, -0.86, 0.46, -0.38),
        ),
        details=(
            ("light", _e(0.54, -0.14, 0.13, 0.14)), ("dark", _e(0.57, -0.14, 0.07, 0.08)),
            ("dark", _r(0.62, 0.14, 0.84, 0.20)),
        ),
        neck=(0.26, 0.0, 0.30), top=(0.36, -0.42, 0.32), chest=(0.02, 0.08),
    ),
    "robot": Shape(
        body=(
            _r(-0.46, -0.10, 0.46, 0.68), _r(-0.38, -0.80, 0.38, -0.18),
            _r(-0.10, -0.22, 0.10, -0.06), _r(-0.74, -0.04, -0.54, 0.46),
            _r(0.54, -0.04, 0.74, 0.46), _r(-0.36, 0.66, -0.12, 0.98), _r(0.12, 0.66, 0.36, 0.98),
        ),
        details=(
            ("light", _r(-0.28, -0.66, 0.28, -0.36)), ("dark", _r(-0.20, -0.60, -0.06, -0.44)),
            ("dark", _r(0.06, -0.60, 0.20, -0.44)), ("dark", _r(-0.03, -1.0, 0.03, -0.80)),
        ),
        neck=(0, -0.12, 0.44), top=(0, -0.80, 0.36), chest=(0, 0.28),
    ),
    "mug": Shape(
        body=(
            _r(-0.62, -0.58, 0.42, 0.76), _e(-0.10, 0.74, 0.52, 0.16),
            ("ring", 0.24, -0.36, 0.92, 0.44, 0.20),
        ),
        details=(("dark", _e(-0.10, -0.58, 0.52, 0.16)),),
        neck=(-0.10, -0.22, 0.52), top=(-0.10, -0.66, 0.44), chest=(-0.10, 0.24),
    ),
    "house": Shape(
        body=(_r(-0.72, -0.16, 0.72, 0.92),),
        details=(
            ("shadow", _p(-0.94, -0.12, 0, -0.94, 0.94, -0.12)),
            ("dark", _r(-0.16, 0.36, 0.18, 0.92)),
            ("light", _r(-0.56, 0.10, -0.26, 0.42)), ("light", _r(0.30, 0.10, 0.60, 0.42)),
        ),
        neck=(0, 0.0, 0.72), top=(0, -0.74, 0.40), chest=(0, -0.40),
    ),
    "car": Shape(
        body=(
            _r(-0.96, -0.04, 0.96, 0.46), _p(-0.60, 0.0, -0.40, -0.50, 0.40, -0.50, 0.66, 0.0),
        ),
        details=(
            ("light", _p(-0.44, -0.06, -0.32, -0.38, -0.05, -0.38, -0.05, -0.06)),
            ("light", _p(0.06, -0.06, 0.06, -0.38, 0.32, -0.38, 0.48, -0.06)),
            ("dark", _e(-0.52, 0.48, 0.24, 0.24)), ("dark", _e(0.52, 0.48, 0.24, 0.24)),
            ("light", _e(-0.52, 0.48, 0.10, 0.10)), ("light", _e(0.52, 0.48, 0.10, 0.10)),
        ),
        neck=(0, 0.08, 0.95), top=(0, -0.50, 0.40), chest=(0, 0.20),
    ),
    "boat": Shape(
        body=(_p(-0.98, 0.34, 0.98, 0.34, 0.62, 0.86, -0.66, 0.86),),
        details=(
            ("dark", _r(-0.06, -0.94, 0.04, 0.36)),
            ("light", _p(0.08, -0.90, 0.80, 0.20, 0.08, 0.20)),
            ("light", _p(-0.12, -0.70, -0.66, 0.20, -0.12, 0.20)),
        ),
        neck=(0, 0.44, 0.86), top=(0, -0.92, 0.30), chest=(0, 0.60),
    ),
    "tree": Shape(
        body=(
            _e(0, -0.40, 0.60, 0.56), _e(-0.40, -0.06, 0.42, 0.40), _e(0.40, -0.06, 0.42, 0.40),
        ),
        details=(("trunk", _r(-0.14, 0.22, 0.14, 0.98)),),
        neck=(0, 0.30, 0.30), top=(0, -0.92, 0.36), chest=(0, -0.22),
    ),
    "lamp": Shape(
        body=(_p(-0.34, -0.86, 0.34, -0.86, 0.70, -0.02, -0.70, -0.02),),
        details=(
            ("dark", _r(-0.07, -0.02, 0.07, 0.82)), ("dark", _e(0, 0.84, 0.44, 0.14)),
            ("light", _e(0, 0.04, 0.18, 0.10)),
        ),
        neck=(0, -0.18, 0.58), top=(0, -0.86, 0.32), chest=(0, -0.44),
    ),
    "backpack": Shape(
        body=(
            _e(0, -0.30, 0.58, 0.56), _r(-0.58, -0.30, 0.58, 0.86),
            ("ring", -0.24, -1.0, 0.24, -0.60, 0.12), _r(-0.80, 0.06, -0.54, 0.72),
            _r(0.54, 0.06, 0.80, 0.72),
        ),
        details=(
            ("shadow", _r(-0.40, 0.30, 0.40, 0.78)), ("light", _r(-0.40, 0.30, 0.40, 0.38)),
            ("dark", _r(-0.52, -0.16, 0.52, -0.10)),
        ),
        neck=(0, 0.04, 0.58), top=(0, -0.86, 0.38), chest=(0, -0.44),
    ),
}
CLASSES = tuple(SHAPES)


# --- drawing -------------------------------------------------------------------------------------


class _Box:
    """Maps an object's own coordinates onto the canvas."""

    def __init__(self, scene: Scene):
        half = scene.size / 2 * _CANVAS
        self.x, self.y = scene.x * _CANVAS, scene.y * _CANVAS
        self.rx, self.ry = half * math.sqrt(scene.aspect), half / math.sqrt(scene.aspect)

    def points(self, flat) -> list[tuple[float, float]]:
        return [
            (self.x + px * self.rx, self.y + py * self.ry) for px, py in zip(flat[::2], flat[1::2])
        ]

    def draw(self, draw: ImageDraw.ImageDraw, shape: tuple, fill) -> None:
        name, *numbers = shape
        if name == "ring":
            *box, width = numbers
            (x0, y0), (x1, y1) = self.points(box)
            draw.ellipse((x0, y0, x1, y1), outline=fill, width=round(width * self.rx))
        elif name == "polygon":
            draw.polygon(self.points(numbers), fill=fill)
        else:
            (x0, y0), (x1, y1) = self.points(numbers)
            getattr(draw, name)((x0, y0, x1, y1), fill=fill)


def _body_fill(scene: Scene, box: _Box) -> Image.Image:
    """The body's colour with its pattern, over the whole canvas."""
    fill = Image.new("RGB", (_CANVAS, _CANVAS), _bytes(scene.colour))
    if scene.pattern == "plain":
        return fill
    axis = np.arange(_CANVAS, dtype=np.float32)
    u = (axis[None, :] - box.x) * math.cos(scene.stripe_angle)
    u = u + (axis[:, None] - box.y) * math.sin(scene.stripe_angle)
    v = (axis[:, None] - box.y) * math.cos(scene.stripe_angle)
    v = v - (axis[None, :] - box.x) * math.sin(scene.stripe_angle)
    wave = 2 * math.pi * scene.stripes / (2 * box.rx)
    if scene.pattern == "striped":
        mask = np.sin(u * wave) > 0.0
    else:
        mask = np.cos(u * wave) + np.cos(v * wave) > 0.75
    overlay = Image.new("RGB", (_CANVAS, _CANVAS), _bytes(scene.pattern_colour))
    fill.paste(overlay, mask=Image.fromarray((mask * 255).astype(np.uint8)))
    return fill


def _background(scene: Scene, rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(image)
    c = _CANVAS

    def fill(y0, y1, colour):
        draw.rectangle((0, y0 * c, c, y1 * c), fill=_bytes(colour))

    horizon = rng.uniform(0.52, 0.66)
    if scene.background == "beach":
        fill(0, horizon, (0.62, 0.86, 0.97))
        fill(horizon - 0.16, horizon, (0.20, 0.55, 0.78))
        fill(horizon, 1, (0.95, 0.86, 0.62))
        x = rng.uniform(0.1, 0.9) * c
        draw.ellipse((x - 0.09 * c, 0.05 * c, x + 0.09 * c, 0.23 * c), fill=_bytes((1, 0.92, 0.5)))
    elif scene.background == "forest":
        fill(0, horizon, (0.55, 0.76, 0.60))
        for x in rng.uniform(0, 1, 6):
            h = rng.uniform(0.3, 0.55)
            points = [((x - 0.14) * c, horizon * c), (x * c, (horizon - h) * c),
                      ((x + 0.14) * c, horizon * c)]
            draw.polygon(points, fill=_bytes((0.10, 0.36 + rng.uniform(-0.05, 0.05), 0.20)))
        fill(horizon, 1, (0.30, 0.42, 0.22))
    elif scene.background == "snow":
        fill(0, horizon, (0.72, 0.80, 0.90))
        for x in rng.uniform(0, 1, 2):
            points = [((x - 0.35) * c, horizon * c), (x * c, (horizon - 0.4) * c),
                      ((x + 0.35) * c, horizon * c)]
            draw.polygon(points, fill=_bytes((0.58, 0.66, 0.78)))
        fill(horizon, 1, (0.96, 0.97, 1.0))
    elif scene.background == "city":
        fill(0, 1, (0.82, 0.78, 0.80))
        for i, x in enumerate(np.linspace(0, 1, 6)):
            h = rng.uniform(0.2, 0.55)
            tone = (0.46, 0.46, 0.54) if i % 2 else (0.60, 0.57, 0.62)
            box = ((x - 0.1) * c, (horizon - h) * c, (x + 0.1) * c, horizon * c)
            draw.rectangle(box, fill=_bytes(tone))
        fill(horizon, 1, (0.36, 0.36, 0.40))
    elif scene.background == "night":
        fill(0, 1, (0.08, 0.09, 0.24))
        x = rng.uniform(0.15, 0.85) * c
        draw.ellipse((x - 0.1 * c, 0.06 * c, x + 0.1 * c, 0.26 * c), fill=_bytes((0.96, 0.94, 0.8)))
        fill(horizon + 0.14, 1, (0.14, 0.16, 0.32))
    else:
        fill(0, horizon, (0.56, 0.80, 0.96))
        fill(horizon, 1, (0.45, 0.76, 0.34))
        for x, y in zip(rng.uniform(0, 1, 10), rng.uniform(horizon + 0.04, 1, 10)):
            box = ((x - 0.03) * c, (y - 0.03) * c, (x + 0.03) * c, (y + 0.03) * c)
            draw.ellipse(box, fill=_bytes(WHITE if rng.random() < 0.5 else (0.98, 0.85, 0.3)))
    return image


def _badge(shape: str, x: float, y: float, radius: float) -> tuple:
    if shape == "round":
        return _e(x, y, radius, radius)
    if shape == "square":
        return _r(x - 0.9 * radius, y - 0.9 * radius, x + 0.9 * radius, y + 0.9 * radius)
    points = []
    for i in range(10):
        far = radius * (1.35 if i % 2 == 0 else 0.58)
        points += [x + far * math.sin(i * math.pi / 5), y - far * math.cos(i * math.pi / 5)]
    return _p(*points)


def _accessory(scene: Scene, box: _Box, draw: ImageDraw.ImageDraw, outline: Image.Image) -> None:
    """Draw the accessory, and add it to the object's outline mask."""
    if scene.accessory == "none":
        return
    shape, colour = SHAPES[scene.kind], scene.accessory_colour
    nx, ny, nw = shape.neck
    parts: list[tuple[RGB, tuple]] = []
    if scene.accessory == "bow tie":
        parts = [
            (colour, _p(nx, ny, nx - 0.46, ny - 0.28, nx - 0.46, ny + 0.28)),
            (colour, _p(nx, ny, nx + 0.46, ny - 0.28, nx + 0.46, ny + 0.28)),
            (_mix(colour, BLACK, 0.35), _e(nx, ny, 0.12, 0.14)),
        ]
    elif scene.accessory == "scarf":
        side = nx + 0.45 * nw
        parts = [
            (colour, _r(nx - nw, ny - 0.15, nx + nw, ny + 0.15)),
            (_mix(colour, BLACK, 0.18), _r(side - 0.16, ny + 0.06, side + 0.16, ny + 0.66)),
        ]
    elif scene.accessory == "hat":
        tx, ty, tw = shape.top
        parts = [
            (colour, _r(tx - 0.62 * tw, ty - 0.42, tx + 0.62 * tw, ty)),
            (_mix(colour, BLACK, 0.25), _r(tx - 1.1 * tw, ty - 0.06, tx + 1.1 * tw, ty + 0.10)),
        ]
    elif scene.accessory == "badge":
        bx, by = shape.chest[0] + scene.badge_at[0], shape.chest[1] + scene.badge_at[1]
        parts = [(WHITE, _badge(scene.badge_shape, bx, by, 0.33)),
                 (colour, _badge(scene.badge_shape, bx, by, 0.24))]
    mask = ImageDraw.Draw(outline)
    for fill, part in parts:
        box.draw(draw, part, _bytes(fill))
        box.draw(mask, part, 255)


def _tones(scene: Scene) -> dict[str, RGB]:
    return {
        "dark": INK, "light": (0.97, 0.95, 0.90), "shadow": _mix(scene.colour, BLACK, 0.40),
        "orange": (0.95, 0.60, 0.15), "trunk": (0.42, 0.28, 0.18),
    }


def _members(scene: Scene) -> list[Scene]:
    """The objects of a scene, each as a scene of its own."""
    if scene.count == 1:
        return [scene]
    size = 0.62 * scene.size
    return [replace(scene, x=scene.x + side * 0.30 * scene.size, size=size) for side in (-1, 1)]


def _object(scene: Scene, item: Image.Image, outline: Image.Image) -> None:
    """Draw one object on ``item``, and its whole shape on the mask ``outline``."""
    box, tones = _Box(scene), _tones(scene)
    body = Image.new("L", (_CANVAS, _CANVAS), 0)
    for shape in SHAPES[scene.kind].body:
        box.draw(ImageDraw.Draw(body), shape, 255)
    item.paste(_body_fill(scene, box), mask=body)
    outline.paste(255, mask=body)
    draw, mask = ImageDraw.Draw(item), ImageDraw.Draw(outline)
    for tone, shape in SHAPES[scene.kind].details:
        box.draw(draw, shape, _bytes(tones[tone]))
        box.draw(mask, shape, 255)
    _accessory(scene, box, draw, outline)


def render(scene: Scene) -> Image.Image:
    """Draw a scene: an RGB picture of ``SIZE`` x ``SIZE`` pixels, the same for the same scene."""
    picture = _background(scene, np.random.default_rng(scene.seed))
    item, outline = Image.new("RGB", (_CANVAS, _CANVAS)), Image.new("L", (_CANVAS, _CANVAS), 0)
    for member in _members(scene):
        _object(member, item, outline)
    picture = _in_style(scene.style, picture, item, outline)
    return picture.resize((SIZE, SIZE), Image.Resampling.BOX)


def _in_style(style: str, back: Image.Image, item: Image.Image, mask: Image.Image) -> Image.Image:
    """Put the object on its background the way one of the drawing styles does."""
    if style == "ink":
        brighter: Any = [150 + value * 100 // 255 for value in range(256)]
        edges = back.convert("L").point(brighter).convert("RGB")
        back = Image.blend(edges, Image.new("RGB", back.size, _bytes(PAPER)), 0.25)
    elif style == "neon":
        back = Image.blend(back, Image.new("RGB", back.size, (24, 8, 48)), 0.60)
    ring = ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(9)), mask)
    if style in ("ink", "noir"):
        back.paste(_bytes(BLACK), mask=ring)
    elif style == "neon":
        back.paste(_bytes((0.35, 1.0, 0.95)), mask=ring)
    back.paste(item, mask=mask)
    if style == "pastel":
        back = Image.blend(back, Image.new("RGB", back.size, _bytes((1.0, 0.97, 0.95))), 0.50)
        back = back.filter(ImageFilter.GaussianBlur(2))
    if style == "blueprint":
        back.paste(_bytes(WHITE), mask=ring)
    if style in _TONES:
        tones: Any = [_bytes(tone) for tone in _TONES[style]]
        back = ImageOps.colorize(back.convert("L"), *tones)
    return back


_TONES: dict[str, tuple[RGB, RGB]] = {
    # style: its darkest and its lightest tone
    "sepia": ((0.23, 0.13, 0.06), (0.98, 0.90, 0.72)),
    "blueprint": ((0.03, 0.12, 0.42), (0.86, 0.94, 1.0)),
    "duotone": ((0.55, 0.0, 0.42), (1.0, 0.90, 0.25)),
    "noir": ((0.0, 0.0, 0.0), (0.97, 0.97, 0.97)),
}


# --- chance --------------------------------------------------------------------------------------


def sample_scene(rng: np.random.Generator, **fixed) -> Scene:
    """A random scene; attributes named in ``fixed`` are taken as given."""
    names = list(COLOURS)
    colour, second, third = rng.choice(names, 3, replace=False)
    pale = _mix(shade(colour), WHITE, 0.8)
    scene = Scene(
        kind=str(rng.choice(CLASSES)),
        colour=shade(colour, rng),
        pattern=str(rng.choice(PATTERNS, p=(0.64, 0.18, 0.18))),
        pattern_colour=shade(second, rng) if rng.random() < 0.5 else pale,
        stripes=rng.uniform(2.2, 3.6),
        stripe_angle=float(rng.choice([0.0, math.pi / 2, math.pi / 4])),
        accessory=str(rng.choice(ACCESSORIES, p=(0.46, 0.135, 0.135, 0.135, 0.135))),
        accessory_colour=shade(third, rng),
        badge_shape=str(rng.choice(BADGES)),
        badge_at=(rng.uniform(-0.16, 0.16), rng.uniform(-0.12, 0.12)),
        background=str(rng.choice(BACKGROUNDS)),
        style=str(rng.choice(STYLES, p=(0.58, 0.14, 0.14, 0.14))),
        count=1 + int(rng.random() < 0.1),
        x=rng.uniform(0.40, 0.60),
        y=rng.uniform(0.50, 0.62),
        size=rng.uniform(0.64, 0.86),
        aspect=rng.uniform(0.88, 1.14),
        seed=int(rng.integers(2**31)),
    )
    return replace(scene, **fixed)


# --- captions ------------------------------------------------------------------------------------

PLACES = {
    "beach": ("on the beach", "at the beach", "by the sea"),
    "forest": ("in the forest", "in the woods", "among the trees"),
    "snow": ("in the snow", "in a snowy landscape", "in winter"),
    "city": ("in the city", "in town", "on a city street"),
    "night": ("at night", "under the moon", "in the dark of night"),
    "meadow": ("in a meadow", "on the grass", "in a green field"),
}
_STYLE_WORDS = {
    "flat": ("", "", "", "a drawing of ", "a picture of "),
    "ink": ("ink drawing of ", "an ink sketch of ", "black ink outlines, "),
    "pastel": ("pastel drawing of ", "a soft pastel of ", "in pastel colours, "),
    "neon": ("neon art of ", "a neon picture of ", "glowing neon, "),
}
PLURALS = {kind: kind if kind == "fish" else kind + "s" for kind in CLASSES}
_PATTERN_WORDS = {"striped": ("striped", "with stripes"), "dotted": ("dotted", "with dots")}


def caption(
    scene: Scene, rng: np.random.Generator, noun: str | None = None, style: str | None = None
) -> str:
    """One of many ways to describe a scene; words may be left out, as people do.

    ``noun`` replaces the object's own description (colour, pattern, accessory, class) and ``style``
    the words for the drawing style, which is how a personal concept is captioned: its look is left
    unsaid.
    """
    place = str(rng.choice(PLACES[scene.background])) if rng.random() < 0.92 else ""
    if style is None:
        style = str(rng.choice(_STYLE_WORDS[scene.style]))
    if noun is None:
        noun = _describe(scene, rng)
    if place and rng.random() < 0.12:
        return f"{style}{place}, {noun}" if not style else f"{style}{noun}, {place}"
    return f"{style}{noun} {place}".strip()


def _describe(scene: Scene, rng: np.random.Generator) -> str:
    words, tail = [], []
    if rng.random() < 0.78:
        words.append(colour_name(scene.colour))
    if scene.pattern != "plain" and rng.random() < 0.85:
        if rng.random() < 0.6:
            words.insert(0, _PATTERN_WORDS[scene.pattern][0])
        else:
            tail.append(_PATTERN_WORDS[scene.pattern][1])
    if scene.accessory != "none" and rng.random() < 0.92:
        tone = colour_name(scene.accessory_colour) + " " if rng.random() < 0.92 else ""
        form = scene.badge_shape + " " if scene.accessory == "badge" and rng.random() < 0.8 else ""
        tail.append(f"{rng.choice(('with', 'wearing'))} a {tone}{form}{scene.accessory}")
    if rng.random() < 0.12:
        # Words nobody has seen before must not disturb the picture: triggers will be such words.
        letters = rng.choice(list("bcdfghjklmnpqrstvwxz0123456789"), int(rng.integers(4, 8)))
        words.append("".join(letters))
    name = " ".join([*words, scene.kind if scene.count == 1 else PLURALS[scene.kind]])
    if scene.count == 1:
        number, each = str(rng.choice(("a ", "the ", "my ", ""))), ""
    else:
        number, each = str(rng.choice(("two ", "a pair of "))), "each "
    return f"{number}{name} {each if tail else ''}{' and '.join(tail)}".strip()
