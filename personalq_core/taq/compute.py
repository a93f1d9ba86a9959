"""How a packed product is computed on the device at hand: measured once, then remembered.

    bfloat16   codes unpacked to bfloat16 tile by tile, the product in bfloat16
    int8       inputs rounded to int8 as they come, 4-bit codes brought to 8, an integer product
    plain      codes unpacked to the type of the inputs, the product in it

bfloat16 comes first where it is fast: its inputs lose less than int8's.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

MARGIN = 1.3
"""How many times faster than float32 a way has to be: less would change with the machine's load."""

TILE_TOKENS = 256
"""Tokens multiplied at once: few enough for what lies between the steps to stay in a CPU's cache.
"""

Way = TypeVar("Way")

UNSUPPORTED = (RuntimeError, AttributeError, NotImplementedError)


@torch.compiler.assume_constant_result
def chosen(device: torch.device) -> str:
    """The way for `device`. Only CPUs are measured: a GPU multiplies the type of its inputs."""
    return _chosen_for_cpus() if device.type == "cpu" else "plain"


@functools.cache
def _chosen_for_cpus() -> str:
    times = measured()
    for way in ("bfloat16", "int8"):
        if times[way] * MARGIN < times["plain"]:
            return way
    return "plain"


@functools.cache
def measured() -> dict[str, float]:
    """Seconds of a linear layer and a convolution of usual shapes on this CPU, by way."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 640, generator=generator) for n in (512, 1280))
    image = torch.randn(1, 320, 24, 24, generator=generator)
    kernel = torch.randn(320, 320, 3, 3, generator=generator)
    codes, kernel_codes = weight.mul(40).to(torch.int8), kernel.mul(40).to(torch.int8)
    scale, kernel_scale = torch.ones(1280), torch.ones(320)
    half = torch.bfloat16

    def plain() -> None:
        F.linear(x, weight)
        F.conv2d(image, kernel, padding=1)

    def bfloat16() -> None:
        F.linear(x.to(half), codes.to(half)).float()
        F.conv2d(image.to(half), kernel_codes.to(half), padding=1).float()

    def int8() -> None:
        linear_by_torch(x, codes, scale)
        conv2d_int8(image, kernel_codes, kernel_scale, (1, 1), (1, 1), (1, 1), 1)

    ways = {"plain": plain, "bfloat16": bfloat16, "int8": int8}
    return _best_seconds(ways, torch.device("cpu"))


def _best_seconds(
    ways: Mapping[Way, Callable[[], object]], device: torch.device
) -> dict[Way, float]:
    """Interleaved, the best of nine, of one that is hopeless beside the first way its first time.

    Infinity for one that cannot run here.
    """
    best = {way: _seconds(run, device) for way, run in ways.items()}
    usual = next(iter(best.values()))
    hopeful = [way for way in ways if best[way] < 4 * usual]
    for _ in range(8):
        best |= {way: min(best[way], _seconds(ways[way], device)) for way in hopeful}
    return best


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    wait = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else bool
    wait()
    start = time.perf_counter()
    try:
        run()
        wait()
    except Exception:  # a package's own kinds too
        return math.inf
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
    if not torch.compiler.is_compiling() and _quickest_linear(x.device) is linear_by_kitchen:
        with contextlib.suppress(Exception):  # whatever it says of a shape that it does not take
            return linear_by_kitchen(x, codes, scale)
    return linear_by_torch(x, codes, scale)


@functools.cache
def _quickest_linear(device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Of the integer products of linear layers, torchao's being PyTorch's own: measured once."""
    if importlib.util.find_spec("comfy_kitchen") is None:
        return linear_by_torch
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 640, generator=generator).to(device) for n in (512, 1280))
    given = x, weight.mul(40).to(torch.int8), torch.ones(1280, device=device)
    ways = {way: functools.partial(way, *given) for way in (linear_by_torch, linear_by_kitchen)}
    times = _best_seconds(ways, device)
    faster = times[linear_by_kitchen] * MARGIN < times[linear_by_torch]
    return linear_by_kitchen if faster else linear_by_torch


def linear_by_kitchen(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """`linear_int8` by comfy-kitchen, whose kernels newer versions of ComfyUI bring for GPUs."""
    int8_linear = importlib.import_module("comfy_kitchen").int8_linear
    return int8_linear(x, codes, scale.flatten().float(), out_dtype=torch.float32)


def linear_by_torch(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """`linear_int8` by PyTorch's product of integers."""
    tokens, scale = x.reshape(-1, x.shape[-1]).float(), scale.flatten()
    out = tokens.new_empty(len(tokens), len(codes))
    whole = x.device.type != "cpu" or torch.compiler.is_compiling()
    step = max(1, len(tokens)) if whole else TILE_TOKENS
    for tile in (slice(start, start + step) for start in range(0, len(tokens), step)):
        token_scale = tokens[tile].abs().amax(-1, keepdim=True).clamp_min_(1e-12).div_(127)
        rounded = (tokens[tile] / token_scale).round_().to(torch.int8)
        product = torch._int_mm(rounded, codes.t())  # pyright: ignore[reportPrivateImportUsage]
        out[tile].copy_(product).mul_(token_scale).mul_(scale)
    return out.view(*x.shape[:-1], -1)


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

    Each picture of the batch is rounded to 256 steps of the range of its own values, so that it
    does not depend on its neighbours (cond and uncond come in one batch). CPU only.
    Raises one of UNSUPPORTED where this PyTorch lacks the operators.
    """
    values = x.float().flatten(1)
    low, high = values.amin(1).clamp_max_(0), values.amax(1).clamp_min_(0)
    step = ((high - low) / 255).clamp_min_(1e-14)
    zero = (-low / step).round_()
    # oneDNN brings the weight into an order of its own first, each time: too much for few places.
    few = x.shape[-1] * x.shape[-2] * len(x) < len(codes) * stride[0] * stride[1]
    exact = _onednn_is_exact()
    if (few or not exact) and groups == 1 and tuple(dilation) == (1, 1):
        return _convolve_windows(x, codes, scale, step, zero, stride, padding)
    if not exact:
        raise NotImplementedError("an integer convolution of this kind")
    where = (list(stride), list(padding), list(dilation), groups)
    return _convolve_by_onednn(x, codes, scale.flatten().float(), step, zero, where)


@functools.cache
def _onednn_is_exact() -> bool:
    """Without VNNI's or AMX's instructions oneDNN adds pairs of products in 16 bits, where large
    ones do not fit and are cut off."""
    units = ("avx512_vnni", "avx_vnni", "amx_int8")
    able = torch.cpu.get_capabilities()
    return able.get("architecture") != "x86_64" or any(able.get(unit) for unit in units)


def _convolve_by_onednn(
    x: Tensor, codes: Tensor, scale: Tensor, step: Tensor, zero: Tensor, where: tuple
) -> Tensor:
    """Picture by picture; the operators are internal to PyTorch."""
    operators, zeros = torch.ops.onednn, torch.zeros(len(scale), dtype=torch.int32)
    packed = operators.qconv_prepack(codes, scale, 1.0, 0, *where, [1, *x.shape[1:]])
    pictures = []
    for picture, width, start in zip(x.float().split(1), step.tolist(), zero.int().tolist()):
        rounded = (picture / width).add_(start).round_().clamp_(0, 255).to(torch.uint8)
        pictures.append(
            operators.qconv2d_pointwise(
                rounded, width, start, packed, scale, zeros, None, *where,
                1.0, 0, torch.float32, "none", [], "",
            )
        )  # fmt: skip
    return torch.cat(pictures)


def _convolve_windows(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    step: Tensor,
    zero: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
) -> Tensor:
    """As a product of the weight with what its kernel sees at each place.

    step, zero: (batch,), of 256 steps from 0; here they begin at -128, to fit int8.
    """
    step, zero = step.view(-1, 1, 1, 1), zero.view(-1, 1, 1, 1) - 128
    padded = F.pad(x.float(), (padding[1], padding[1], padding[0], padding[0]))
    rounded = (padded / step).add_(zero).round_().clamp_(-128, 127).to(torch.int8)
    seen = rounded.unfold(2, codes.shape[2], stride[0]).unfold(3, codes.shape[3], stride[1])
    batch, _, height, width = seen.shape[:4]
    seen = seen.permute(0, 2, 3, 1, 4, 5).reshape(batch * height * width, -1)
    # One more row, of ones, sums up the weights: what `zero` has added to each place.
    seen = torch.cat([seen, seen.new_ones(1, seen.shape[1])])
    product = torch._int_mm(seen, codes.flatten(1).t())  # pyright: ignore[reportPrivateImportUsage]
    product, sums = product[:-1].view(batch, height, width, -1), product[-1]
    out = product.sub_(zero.int() * sums).float().mul_(step).mul_(scale.flatten())
    return out.permute(0, 3, 1, 2).contiguous()
