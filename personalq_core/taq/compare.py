"""What plain rounding would do with the same bytes, and how near two pictures are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from .formats import Format, Packed, pack_nibbles


def round_to_nearest(weight: Tensor, fmt: Format) -> Packed:
    """The plain way to fill a symmetric format: the largest weight of a group sets its scale.

    weight: (rows, columns)
    """
    rows, columns = weight.shape
    width, groups = fmt.group or columns, fmt.groups(columns)
    grouped = F.pad(weight.float(), (0, groups * width - columns)).view(rows, groups, width)
    low, high = fmt.code_range
    scale = (grouped.abs().amax(-1) / high).to(fmt.scale_dtype)
    scale = scale.clamp_min(torch.finfo(fmt.scale_dtype).tiny)
    codes = (grouped / scale.float()[..., None]).round_().clamp_(low, high)
    if fmt.bits == 8:
        return Packed(codes.view(rows, columns).to(torch.int8), scale)
    return Packed(pack_nibbles((codes + 8).to(torch.uint8)).view(rows, -1), scale)


def psnr_db(picture: Tensor, wanted: Tensor) -> float:
    """Peak signal-to-noise ratio of pictures with values 0..1, in dB; infinite where equal."""
    error = (picture.float() - wanted.float()).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(picture: Tensor, wanted: Tensor) -> float:
    """Structural similarity of pictures (height, width, channels), values 0..1; 1 where equal.

    Wang, Bovik, Sheikh and Simoncelli 2004: a Gaussian window of 11 pixels, deviation 1.5.
    """
    axis = torch.arange(11) - 5.0
    window = torch.exp(-(axis**2) / (2 * 1.5**2))
    window = window / window.sum()

    def blur(x: Tensor) -> Tensor:
        x = F.conv2d(x, window.view(1, 1, -1, 1))
        return F.conv2d(x, window.view(1, 1, 1, -1))

    a, b = (x.float().cpu().permute(2, 0, 1)[:, None] for x in (picture, wanted))
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    both = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * both + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean().item()


def side_by_side(pictures: Sequence[Tensor], captions: Sequence[Sequence[str]]) -> Tensor:
    """Pictures (height, width, 3), values 0..1, in a row with lines of text under each.

    Small pictures are enlarged, pixel by pixel, so that the text can be read.
    Returns (1, height, width, 3).
    """
    arrays = [(p[..., :3].float().cpu().clamp(0, 1).numpy() * 255).round() for p in pictures]
    images = [Image.fromarray(array.astype(np.uint8)) for array in arrays]
    times = max(1, math.ceil(320 / min(image.width for image in images)))
    images = [image.resize((image.width * times, image.height * times), 0) for image in images]
    width, height = (max(getattr(image, side) for image in images) for side in ("width", "height"))
    size = max(14, width // 24)
    font = ImageFont.load_default(size)
    gap, lines = size // 2, max(len(caption) for caption in captions)
    sheet = Image.new(
        "RGB",
        (len(images) * (width + gap) + gap, height + lines * (size + gap) + 2 * gap),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    for number, (image, caption) in enumerate(zip(images, captions)):
        left = gap + number * (width + gap)
        sheet.paste(image, (left, gap))
        for line, text in enumerate(caption):
            top = height + 2 * gap + line * (size + gap)
            draw.text((left, top), text, fill="black", font=font)
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255)[None]
