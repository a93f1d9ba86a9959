"""Packed codes to weights on a GPU in one pass: kernels in Triton, which PyTorch brings on Linux.

PyTorch's own operators take several passes, and memory is what takes the time there. Where Triton
is missing they do the work; see `Format.dequantize`.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

WORTHWHILE = 1 << 21
"""8-bit weights from which a kernel's longer launch is made up for by its speed."""
BLOCK = 2048
"""Bytes of codes a program unpacks."""

_failures: list[str] = []
"""Why Triton does not work here, found out at the first launch: it wants a C compiler, for one."""


def unpacked(
    codes: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Weights (rows, groups * width) in `dtype`, each the rounded float32 product; None where
    PyTorch's operators are the way.

    codes, scale, zero: as in `formats.Packed`
    """
    if not _is_worth_it(codes):
        return None
    try:
        return _launch(codes, scale, zero, dtype)
    except Exception as error:  # Triton's own kinds, of its compiler and of the driver
        _failures.append(f"{type(error).__name__}: {error}")
        logging.getLogger(__name__).warning(
            "Triton does not work here (%s). Weights are unpacked by PyTorch's own operators, "
            "which takes longer.", _failures[-1].splitlines()[0],
        )  # fmt: skip
        return None


def _is_worth_it(codes: Tensor) -> bool:
    if triton is None or _failures or not codes.is_cuda or torch.compiler.is_compiling():
        return False
    return codes.dtype != torch.int8 or codes.numel() >= WORTHWHILE


def _launch(codes: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    if codes.get_device() != torch.cuda.current_device():
        with torch.cuda.device(codes.device):
            return _launch(codes, scale, zero, dtype)
    count, (rows, columns) = codes.numel(), codes.shape
    grid = ((count + BLOCK - 1) // BLOCK,)
    if codes.dtype == torch.int8:
        out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
        _unpack_8[grid](codes, scale, out, count, columns, BLOCK)
        return out
    out = torch.empty(rows, 2 * columns, dtype=dtype, device=codes.device)
    groups = scale.shape[1]
    zeros, symmetric = (scale, True) if zero is None else (zero, False)
    _unpack_4[grid](codes, scale, zeros, out, count, groups, columns // groups, symmetric, BLOCK)
    return out


if triton is not None:

    @triton.jit
    def _unpack_8(codes, scale, out, count, width, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = at < count
        factor = tl.load(scale + at // width, inside).to(tl.float32)
        weight = tl.load(codes + at, inside).to(tl.float32) * factor
        tl.store(out + at, weight.to(out.dtype.element_ty), inside)

    @triton.jit
    def _unpack_4(
        codes, scale, zero, out, count, groups, half, SYMMETRIC: tl.constexpr, BLOCK: tl.constexpr
    ):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = at < count
        group = at // half
        factor = tl.load(scale + group, inside).to(tl.float32)
        if SYMMETRIC:
            middle = 8.0
        else:
            # Zero points lie two to a byte like the codes, the second half of a row's in high bits.
            row, number = group // groups, group % groups
            stored = (groups + 1) // 2
            pair = tl.load(zero + row * stored + number % stored, inside)
            middle = tl.where(number < stored, pair & 15, pair >> 4).to(tl.float32)
        byte = tl.load(codes + at, inside)
        place = out + group * (2 * half) + at % half
        low = ((byte & 15).to(tl.float32) - middle) * factor
        high = ((byte >> 4).to(tl.float32) - middle) * factor
        tl.store(place, low.to(out.dtype.element_ty), inside)
        tl.store(place + half, high.to(out.dtype.element_ty), inside)
