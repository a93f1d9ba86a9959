"""Packed codes to weights on a GPU in one pass: kernels in Triton, which PyTorch brings on Linux.

PyTorch's own operators take several passes, and memory is what takes the time there. Where Triton
is missing they do the work; see `Format.dequantize`. One launch unpacks one weight (`unpacked`), or
those of many layers (`unpack_together`).
"""

# pyright: reportArgumentType=false
# Triton's kernels take plain numbers where their signatures say constexpr.

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

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
ALIGNED = 16
"""Bytes that `unpack_together` loads at once: whatever it reads is a multiple of them."""
APART = 128
"""Weights begin at multiples of so many in the output of `unpack_together`, as products like it."""

Parts = tuple[Tensor, Tensor, Tensor | None]
"""codes, scale and zero as in `formats.Packed`."""

_failures: list[str] = []
"""Why Triton does not work here, found out at the first launch: it wants a C compiler, for one, or
unpacks something else than PyTorch's operators."""


def unpacked(
    codes: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """Weights (rows, groups * width) in `dtype`, each the rounded float32 product; None where
    PyTorch's operators are the way.

    codes, scale, zero: as in `formats.Packed`
    """
    if not can_launch(codes) or (codes.dtype == torch.int8 and codes.numel() < WORTHWHILE):
        return None
    out = torch.empty(codes.shape[0], _width(codes), dtype=dtype, device=codes.device)
    return out if _succeeds(_launch, codes, scale, zero, out) else None


def can_launch(codes: Tensor) -> bool:
    """Whether Triton is there, as far as is known, for codes where these are."""
    if triton is None or _failures or torch.compiler.is_compiling():
        return False
    return codes.is_cuda and codes.dtype in (torch.int8, torch.uint8)


def _succeeds(launch: Callable[..., None], codes: Tensor, *arguments: Tensor | None) -> bool:
    """Whether Triton did its work; where it fails once it is not asked again."""
    try:
        if codes.is_cuda and codes.get_device() != torch.cuda.current_device():
            with torch.cuda.device(codes.device):
                launch(codes, *arguments)
        else:
            launch(codes, *arguments)
    except Exception as error:  # Triton's own kinds, of its compiler and of the driver
        give_up(f"{type(error).__name__}: {error}")
        return False
    return True


def give_up(reason: str) -> None:
    """Ask Triton for nothing more, and say so."""
    _failures.append(reason)
    logging.getLogger(__name__).warning(
        "Triton does not work here (%s). Weights are unpacked by PyTorch's own operators, "
        "which takes longer.", reason.splitlines()[0],
    )  # fmt: skip


def _width(codes: Tensor) -> int:
    """Weights in a row, the padding of its last group included."""
    return codes.shape[1] if codes.dtype == torch.int8 else 2 * codes.shape[1]


def _launch(codes: Tensor, scale: Tensor, zero: Tensor | None, out: Tensor) -> None:
    count, columns = codes.numel(), codes.shape[1]
    grid = ((count + BLOCK - 1) // BLOCK,)
    if codes.dtype == torch.int8:
        _unpack_8[grid](codes, scale, out, count, columns, BLOCK)
        return
    groups = scale.shape[1]
    zeros, symmetric = (scale, True) if zero is None else (zero, False)
    _unpack_4[grid](codes, scale, zeros, out, count, groups, columns // groups, symmetric, BLOCK)


# -- many weights in one launch


@dataclass(frozen=True, slots=True)
class Table:
    """Some weights, and where in one output each is unpacked to.

    rows: int64 (weights, fields), what the kernel knows of each; see `_unpack_many`
    row_of: int32 (programs,), the weight each program has a part of
    starts, widths: of each weight in the output, in weights; size: of the output
    """

    rows: Tensor
    row_of: Tensor
    starts: list[int]
    widths: list[int]
    size: int


def fits_a_table(codes: Tensor, scale: Tensor, zero: Tensor | None) -> bool:
    """Whether the kernel for many weights can read this one: everything in whole steps, scales of
    the type it takes them for (a model's `to(dtype)` changes them)."""
    whole_row = codes.dtype == torch.int8
    stride = codes.shape[1] if whole_row else codes.shape[1] // scale.shape[1]
    parts = [part for part in (codes, scale, zero) if part is not None]
    return (
        scale.dtype == (torch.float32 if whole_row else torch.float16)
        and stride % ALIGNED == 0
        and codes.numel() < 1 << 31
        and codes.data_ptr() % ALIGNED == 0
        and all(part.is_contiguous() and part.device == codes.device for part in parts)
    )


def room_for(codes: Tensor) -> int:
    """Weights that codes take in the output of `unpack_together`."""
    return -(-len(codes) * _width(codes) // APART) * APART


def tabulated(weights: Sequence[Parts]) -> Table:
    """The table of weights that all `fits_a_table` and are on one device."""
    starts = [0, *accumulate(room_for(codes) for codes, _, _ in weights)]
    programs = [-(-codes.numel() // BLOCK) for codes, _, _ in weights]
    firsts = [0, *accumulate(programs)]
    rows = [_row(*parts, start, first) for parts, start, first in zip(weights, starts, firsts)]
    row_of = torch.arange(len(rows), dtype=torch.int32)
    device = weights[0][0].device
    return Table(
        torch.tensor(rows, dtype=torch.int64).to(device),
        row_of.repeat_interleave(torch.tensor(programs)).to(device),
        starts[:-1],
        [_width(codes) for codes, _, _ in weights],
        starts[-1],
    )


def _row(codes: Tensor, scale: Tensor, zero: Tensor | None, start: int, first: int) -> list[int]:
    groups = scale.shape[1]
    kind = 8 if codes.dtype == torch.int8 else 4 if zero is None else 5
    addresses = codes.data_ptr(), scale.data_ptr(), 0 if zero is None else zero.data_ptr()
    return [kind, *addresses, start, first, codes.numel(), groups, codes.shape[1] // groups]


def unpack_together(table: Table, out: Tensor) -> bool:
    """Unpack all weights of a table into `out` (size,); False where Triton does not work.

    The codes have to be where they were when the table was made.
    """
    return _succeeds(_launch_many, table.rows, table.row_of, out)


def _launch_many(rows: Tensor, row_of: Tensor, out: Tensor) -> None:
    _unpack_many[(len(row_of),)](rows, row_of, out, rows.shape[1], BLOCK)


if triton is not None:

    @triton.jit
    def _unpack_8(codes, scale, out, count, width, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        _write_8(codes, scale, out, at, at < count, width)

    @triton.jit
    def _unpack_4(
        codes, scale, zero, out, count, groups, half, SYMMETRIC: tl.constexpr, BLOCK: tl.constexpr
    ):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        _write_4(codes, scale, zero, out, at, at < count, groups, half, SYMMETRIC)

    @triton.jit
    def _unpack_many(rows, row_of, out, FIELDS: tl.constexpr, BLOCK: tl.constexpr):
        program = tl.program_id(0)
        row = rows + tl.load(row_of + program) * FIELDS
        kind, codes, scale = tl.load(row), tl.load(row + 1), tl.load(row + 2)
        start, first = tl.load(row + 4), tl.load(row + 5).to(tl.int32)
        # What is known to be whole steps is loaded in whole steps; see `fits_a_table`.
        out += tl.multiple_of(start, 16)
        count = tl.multiple_of(tl.load(row + 6).to(tl.int32), 16)
        groups, width = tl.load(row + 7).to(tl.int32), tl.load(row + 8).to(tl.int32)
        width = tl.multiple_of(width, 16)
        at = (program - first) * BLOCK + tl.arange(0, BLOCK)
        inside = at < count
        if kind == 8:
            bytes_ = tl.multiple_of(codes.to(tl.pointer_type(tl.int8)), 16)
            _write_8(bytes_, scale.to(tl.pointer_type(tl.float32)), out, at, inside, width)
        else:
            pairs = tl.multiple_of(codes.to(tl.pointer_type(tl.uint8)), 16)
            factors = scale.to(tl.pointer_type(tl.float16))
            zero = tl.load(row + 3).to(tl.pointer_type(tl.uint8))
            if kind == 4:
                _write_4(pairs, factors, zero, out, at, inside, groups, width, True)
            else:
                _write_4(pairs, factors, zero, out, at, inside, groups, width, False)

    @triton.jit
    def _write_8(codes, scale, out, at, inside, width):
        factor = tl.load(scale + at // width, inside).to(tl.float32)
        weight = tl.load(codes + at, inside).to(tl.float32) * factor
        tl.store(out + at, weight.to(out.dtype.element_ty), inside)

    @triton.jit
    def _write_4(codes, scale, zero, out, at, inside, groups, half, SYMMETRIC: tl.constexpr):
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
