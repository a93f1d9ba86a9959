"""How a packed product is computed on the device at hand: measured once, then remembered.

    bfloat16   codes unpacked to bfloat16 tile by tile, the product in bfloat16
    int8       inputs rounded to int8 as they come, an integer product
    plain      codes unpacked to the type of the inputs, the product in it

bfloat16 comes first where it is fast: its inputs lose less than int8's. Integer products need
both sides in 8 bits: a group of int4 codes has a scale of its own and is always unpacked.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MARGIN = 1.5
"""How many times faster than float32 a way has to be: less would change with the machine's load."""

UNSUPPORTED = (RuntimeError, AttributeError, NotImplementedError)


@torch.compiler.assume_constant_result
@functools.cache
def chosen(device: torch.device) -> str:
    """The way for `device`. Only CPUs are measured: a GPU multiplies the type of its inputs."""
    if device.type != "cpu":
        return "plain"
    times = measured()
    for way in ("bfloat16", "int8"):
        if times[way] * MARGIN < times["plain"]:
            return way
    return "plain"


@functools.cache
def measured() -> dict[str, float]:
    """Seconds of a small linear layer and a small convolution on this CPU, by way.

    Interleaved, the best of five; infinity where this PyTorch lacks the operator.
    """
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 640, generator=generator) for n in (256, 640))
    image = torch.randn(1, 160, 16, 16, generator=generator)
    kernel = torch.randn(160, 160, 3, 3, generator=generator)
    codes, kernel_codes = weight.mul(40).to(torch.int8), kernel.mul(40).to(torch.int8)
    scale, kernel_scale = torch.ones(640), torch.ones(160)
    half = torch.bfloat16

    def plain() -> None:
        F.linear(x, weight)
        F.conv2d(image, kernel, padding=1)

    def bfloat16() -> None:
        F.linear(x.to(half), codes.to(half)).float()
        F.conv2d(image.to(half), kernel_codes.to(half), padding=1).float()

    def int8() -> None:
        linear_int8(x, codes, scale)
        conv2d_int8(image, kernel_codes, kernel_scale, (1, 1), (1, 1), (1, 1), 1)

    ways = {"plain": plain, "bfloat16": bfloat16, "int8": int8}
    best = {way: _seconds(run) for way, run in ways.items()}
    for _ in range(4):
        best = {way: min(best[way], _seconds(run)) for way, run in ways.items()}
    return best


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    try:
        run()
    except UNSUPPORTED:
        return float("inf")
    return time.perf_counter() - start


def product_dtype(x: Tensor) -> torch.dtype:
    """The type in which an unpacked weight meets x. No CPU is quick in float16."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float16):
        return x.dtype
    return torch.bfloat16 if chosen(x.device) == "bfloat16" else torch.float32


def linear_int8(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """x (..., in) times int8 codes (out, in) with a scale a row, in float32.

    Each token of x is rounded to int8 by a scale of its own, taken from its largest value.
    Raises RuntimeError where the device has no integer product of this shape.
    """
    tokens = x.flatten(0, -2).float()
    token_scale = tokens.abs().amax(-1, keepdim=True).clamp_min_(1e-12).div_(127)
    rounded = (tokens / token_scale).round_().to(torch.int8)
    out = torch._int_mm(rounded, codes.t()).float()
    return out.mul_(token_scale).mul_(scale.flatten()).view(*x.shape[:-1], -1)


def conv2d_int8(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """x (batch, in, height, width) convolved with int8 codes, a scale a row, in float32.

    Each picture of the batch is rounded to uint8 by the range of its own values, so that it does
    not depend on its neighbours (cond and uncond come in one batch). CPU only (oneDNN); its
    operators are internal to PyTorch: raises one of UNSUPPORTED where they are not there.
    """
    where = (list(stride), list(padding), list(dilation), groups)
    scale, zeros = scale.flatten().float(), torch.zeros(len(scale), dtype=torch.int32)
    operators = torch.ops.onednn
    packed = operators.qconv_prepack(codes, scale, 1.0, 0, *where, [1, *x.shape[1:]])
    pictures = []
    for picture in x.float().split(1):
        low, high = (float(value) for value in torch.aminmax(picture))
        step = max(max(high, 0.0) - min(low, 0.0), 1e-12) / 255
        zero = round(-min(low, 0.0) / step)
        rounded = (picture / step).add_(zero).round_().clamp_(0, 255).to(torch.uint8)
        pictures.append(
            operators.qconv2d_pointwise(
                rounded, step, zero, packed, scale, zeros, None, *where,
                1.0, 0, torch.float32, "none", [], "",
            )
        )  # fmt: skip
    return torch.cat(pictures)
