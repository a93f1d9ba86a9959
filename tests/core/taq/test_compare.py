"""Plain rounding and the measures of nearness that TAQ Compare shows."""

import math

import pytest
import torch

from personalq_core.taq.compare import psnr_db, round_to_nearest, side_by_side, ssim
from personalq_core.taq.formats import FORMATS


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_plain_rounding_takes_the_formats_bytes_and_errs_half_a_step(name):
    torch.manual_seed(0)
    fmt, weight = FORMATS[name], torch.randn(48, 200)
    packed = round_to_nearest(weight, fmt)
    parts = [packed.codes, packed.scale]
    assert sum(part.numel() * part.element_size() for part in parts) == fmt.size_bytes(48, 200)
    error = (fmt.dequantize(packed, 200, torch.float32) - weight).abs()
    step = weight.abs().max() / fmt.code_range[1]
    assert error.max() <= 0.51 * step
    ours = fmt.dequantize(fmt.quantize(weight), 200, torch.float32)
    assert (ours - weight).norm() < error.norm()


def test_equal_pictures_are_as_near_as_can_be():
    picture = torch.rand(24, 32, 3)
    assert psnr_db(picture, picture) == math.inf
    assert ssim(picture, picture) == pytest.approx(1)


def test_nearness_falls_with_noise():
    torch.manual_seed(0)
    picture = torch.rand(24, 32, 3)
    noisy = [picture + size * torch.randn_like(picture) for size in (0.05, 0.2)]
    assert psnr_db(noisy[0], picture) == pytest.approx(26, abs=0.5)  # -20 log10(0.05)
    assert 1 > ssim(noisy[0], picture) > ssim(noisy[1], picture) > 0


def test_pictures_stand_side_by_side_above_their_captions():
    sheet = side_by_side([torch.zeros(64, 64, 3), torch.ones(64, 64, 3)], [["a"], ["b", "c"]])
    _, height, width, channels = sheet.shape
    assert channels == 3
    assert width > 2 * 320
    assert height > 320
    assert sheet[0, 100, 100].max() == 0 < sheet[0, 100, -100].min()
