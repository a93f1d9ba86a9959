"""Storage formats: how a weight becomes codes and scales, and how it comes back.

A weight is seen as a matrix of shape (rows, columns): one row per output channel, a
convolution's (out, in, height, width) flattened behind `out`. A row is cut into groups that
share one scale; a format without groups has one scale for the whole row.

    weight = (code - zero) * scale

Codes are integers, or short floats that have a scale of their row in common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .gptq import compensated
from .gpu_unpack import unpacked

CPU_CHUNK, GPU_CHUNK = 1 << 18, 1 << 22
"""Weights whose scales are searched at once: so few that they stay in a CPU's cache, so many that a
GPU is busy with them."""
LARGEST_FLOAT = 256.0
"""Largest code of a row of short floats: a power of two that each of them can hold."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A quantized weight as it is stored.

    codes: int8 or short floats (rows, columns), or two 4-bit codes to a byte, uint8
        (rows, groups * group / 2)
    scale: (rows, groups)
    zero: 4-bit zero points, two to a byte, uint8 (rows, ceil(groups / 2)); None if symmetric
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None = None

    def of_rows(self, rows: slice) -> Packed:
        """Some rows of it, without a copy."""
        zero = None if self.zero is None else self.zero[rows]
        return Packed(self.codes[rows], self.scale[rows], zero)

    @property
    def parts(self) -> list[Tensor]:
        """The tensors it consists of."""
        return [part for part in (self.codes, self.scale, self.zero) if part is not None]


@dataclass(frozen=True, slots=True)
class Format:
    """Integers. Adding a format is adding one entry to FORMATS."""

    name: str
    bits: int
    group: int | None
    """Neighbouring weights of a row that share a scale; None: the whole row."""
    symmetric: bool
    scale_dtype: torch.dtype

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code. int8 leaves -128 out, so that -w is stored as exactly as w."""
        if not self.symmetric:
            return 0, 2**self.bits - 1
        high = 2 ** (self.bits - 1) - 1
        return (-high if self.bits == 8 else -high - 1), high

    def groups(self, columns: int) -> int:
        """Groups in a row; the last one is padded with zeros where the row does not fill it."""
        return 1 if self.group is None else math.ceil(columns / self.group)

    def size_bytes(self, rows: int, columns: int) -> int:
        """Exact bytes of a packed (rows, columns) weight, its scales and zero points included."""
        return sum(part.nbytes for part in self.frame(rows, columns).parts)

    def frame(self, rows: int, columns: int) -> Packed:
        """Types and shapes of a packed (rows, columns) weight: tensors on `meta`."""
        groups = self.groups(columns)
        scale = torch.empty(rows, groups, dtype=self.scale_dtype, device="meta")
        if self.bits == 8:
            return Packed(torch.empty(rows, columns, dtype=torch.int8, device="meta"), scale)
        width = groups * self._width(columns) // 2
        codes = torch.empty(rows, width, dtype=torch.uint8, device="meta")
        return Packed(codes, scale, None if self.symmetric else codes[:, : math.ceil(groups / 2)])

    def _width(self, columns: int) -> int:
        return columns if self.group is None else self.group

    def quantize(self, weight: Tensor, importance: Tensor | None = None) -> Packed:
        """Pack a (rows, columns) weight.

        `importance` (columns,) says how much an error in each column hurts: the mean square of
        the inputs that meet it (the diagonal of GPTQ's Hessian). Without it all count the same.
        (blocks, width, width) also says how inputs go together, columns side by side in blocks:
        then each column's rounding error is made up for in the columns after it.
        """
        rows, columns = weight.shape
        width, groups = self._width(columns), self.groups(columns)
        if importance is not None and importance.ndim == 3:
            if self.compensates:
                return self.quantize_alike([weight], [importance])[0]
            importance = importance.diagonal(dim1=1, dim2=2).flatten()[:columns]
        step = max(1, _chunk(weight) // columns)
        chunks = [
            self._quantize_rows(weight[start : start + step].float(), importance, groups, width)
            for start in range(0, rows, step)
        ]
        codes, scale, zero = (torch.cat(parts) for parts in zip(*chunks))
        return self._stored(codes, scale, zero, rows, columns)

    @property
    def compensates(self) -> bool:
        """Whether moments of inputs with each other change the codes: at 8 bits of a row they would
        gain nothing."""
        return self.group is not None

    def quantize_alike(self, weights: Sequence[Tensor], moments: Sequence[Tensor]) -> list[Packed]:
        """`quantize` of weights of one shape with (blocks, width, width) moments, all at once."""
        (rows, columns), (blocks, width, _) = weights[0].shape, moments[0].shape
        padding = 0, blocks * width - columns
        padded = [torch.nn.functional.pad(weight.float(), padding) for weight in weights]
        problems = torch.cat([w.view(rows, blocks, width).transpose(0, 1) for w in padded])
        parts = compensated(self, problems, torch.cat([m.to(problems) for m in moments]))
        codes, scale, zero = (
            part.view(len(weights), blocks, rows, -1, *part.shape[3:]).transpose(1, 2).flatten(2, 3)
            for part in parts
        )
        used = self.groups(columns)
        return [
            self._stored(c + z[..., None], s.to(self.scale_dtype), z, rows, columns)
            for c, s, z in zip(codes[:, :, :used], scale[:, :, :used], zero[:, :, :used])
        ]

    def _stored(
        self, codes: Tensor, scale: Tensor, zero: Tensor, rows: int, columns: int
    ) -> Packed:
        if self.bits == 8:
            return Packed(codes.view(rows, columns).to(torch.int8), scale)
        codes = codes if not self.symmetric else codes + 8
        packed = pack_nibbles(codes.to(torch.uint8)).view(rows, -1)
        if self.symmetric:
            return Packed(packed, scale)
        return Packed(packed, scale, _pack_zeros(zero.to(torch.uint8)))

    def _quantize_rows(
        self, weight: Tensor, importance: Tensor | None, groups: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (rows, groups, width), scale and zero (rows, groups) of the least squared error."""
        padding = 0, groups * width - weight.shape[1]
        weight = torch.nn.functional.pad(weight, padding).view(-1, groups, width)
        if importance is not None:
            importance = torch.nn.functional.pad(importance.to(weight), padding)
            importance = importance.view(groups, width)
        scale, zero = self.search(weight, importance)
        return self._round(weight, scale, zero), scale.to(self.scale_dtype), zero

    def search(self, weight: Tensor, importance: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scale, as it can be stored, and zero of the least squared error: (..., groups).

        weight: (..., groups, width); importance: of each column, to be multiplied with it
        """
        best: tuple[Tensor, Tensor] | None = None
        best_error = weight.new_full(weight.shape[:-1], torch.inf)
        for scale, zero in self._candidates(weight):
            scale = self.storable(scale)
            codes = self._round(weight, scale, zero)
            scale = self.storable(_fit_scale(weight, codes - zero[..., None], importance, scale))
            codes = self._round(weight, scale, zero)
            off = codes.sub_(zero[..., None]).mul_(scale[..., None]).sub_(weight).square_()
            error = (off if importance is None else off.mul_(importance)).sum(-1)
            better = error < best_error
            best_error = torch.where(better, error, best_error)
            best = (scale, zero) if best is None else (
                torch.where(better, scale, best[0]), torch.where(better, zero, best[1])
            )  # fmt: skip
        assert best is not None
        return best

    def bounds(self, zero: Tensor) -> tuple[float, float] | tuple[Tensor, Tensor]:
        """Smallest and largest zero-centred code."""
        low, high = self.code_range
        return (low, high) if self.symmetric else (low - zero, high - zero)

    def _candidates(self, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Scales and zero points to try. 4 bits never clip the ends of a group: the square error
        of its weights would fall, but that of the model's output rise (see docs/fidelity.md)."""
        low, high = self.code_range
        zero = weight.new_zeros(weight.shape[:-1])
        if self.symmetric and self.bits == 8:
            peak = weight.abs().amax(-1)
            return [(peak * clip / high, zero) for clip in (1.0, 0.9)]
        if self.symmetric:
            # 4 bits have one more code below zero than above: a negative scale puts it at the
            # side that needs it. Or neither side does.
            top, bottom = weight.amax(-1), weight.amin(-1)
            peak = torch.where(top.abs() > bottom.abs(), top, bottom)
            return [(peak / low, zero), (peak / high, zero)]
        top, bottom = weight.amax(-1).clamp_min(0), weight.amin(-1).clamp_max(0)
        scale = (top - bottom) / (high - low)
        nearest = torch.round(-bottom / scale.clamp_min(1e-12)).clamp_(low, high)
        return [(scale, nearest)]

    def storable(self, scale: Tensor) -> Tensor:
        """The scale as it will be read back, never zero: a group of zeros gets any small one."""
        scale = scale.to(self.scale_dtype).float()
        smallest = torch.finfo(self.scale_dtype).tiny
        return torch.where(scale == 0, smallest, scale)

    def _round(self, weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        low, high = self.code_range
        return (weight / scale[..., None]).add_(zero[..., None]).round_().clamp_(low, high)

    def codes(self, packed: Packed, columns: int, dtype: torch.dtype) -> Tensor:
        """Zero-centred codes (rows, groups, width) in `dtype`; exact in any float type."""
        if self.bits == 8:
            return packed.codes.to(dtype).unsqueeze(1)
        codes = unpack_nibbles(packed.codes, self._width(columns), dtype)
        if packed.zero is None:
            return codes.sub_(8)
        groups = self.groups(columns)
        zero = unpack_nibbles(packed.zero, packed.zero.shape[1] * 2, dtype)
        return codes.sub_(zero.flatten(1)[:, :groups, None])

    def dequantize(self, packed: Packed, columns: int, dtype: torch.dtype) -> Tensor:
        """The (rows, columns) weight that `packed` stands for."""
        if packed.codes.is_cuda:
            return self.dequantize_at_once(packed, columns, dtype)
        # float16 has few digits left for a scale as small as int8's are.
        exact = torch.float32 if dtype == torch.float16 else dtype
        weight = self.codes(packed, columns, exact).mul_(packed.scale.to(exact)[..., None])
        return weight.flatten(1)[:, :columns].to(dtype)

    def dequantize_at_once(self, packed: Packed, columns: int, dtype: torch.dtype) -> Tensor:
        """`dequantize` in as few passes and launches as there can be, as a GPU wants it."""
        weight = unpacked(packed.codes, packed.scale, packed.zero, dtype)
        if weight is None:
            return self.dequantize_by_operators(packed, columns, dtype)
        return weight if weight.shape[1] == columns else weight[:, :columns]

    def dequantize_by_operators(self, packed: Packed, columns: int, dtype: torch.dtype) -> Tensor:
        """`dequantize_at_once` by PyTorch's own operators: what a kernel has to give, bit for bit.
        """
        codes = self.codes(packed, columns, torch.int8)
        weight = torch.empty(codes.shape, dtype=dtype, device=codes.device)
        weight = torch.mul(codes, packed.scale.float()[..., None], out=weight).flatten(1)
        return weight if weight.shape[1] == columns else weight[:, :columns]

    def in_8_bits(self, packed: Packed, columns: int) -> Packed:
        """The weight in int8 with one scale a row, as a product of integers wants it.

        Groups of 4-bit codes are brought to their row's largest scale, in fixed point with 7 bits
        behind the point. That adds about 1 % to the square of the error that 4 bits made.
        """
        if self.bits == 8:
            return packed
        largest = 8 if self.symmetric else 15
        scale = packed.scale.float()
        row_scale = scale.abs().amax(1, keepdim=True) * (largest / 127)
        factors = (scale / row_scale * 128).round_().to(torch.int16)[..., None]
        rows = len(packed.codes)
        step = rows if torch.compiler.is_compiling() else max(1, _chunk(packed.codes) // columns)
        out = packed.codes.new_empty(rows, columns, dtype=torch.int8)
        for tile in (slice(start, start + step) for start in range(0, rows, step)):
            codes = self.codes(packed.of_rows(tile), columns, torch.int16).mul_(factors[tile])
            out[tile] = codes.add_(64).bitwise_right_shift_(7).flatten(1)[:, :columns]
        return Packed(out, row_scale)


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """Short floats, nearest to each weight, with one float32 scale a row.

    The scale is a power of two: a weight that was 16 bits long comes back from float16 as it was.
    """

    name: str
    dtype: torch.dtype
    group: None = None
    symmetric: bool = True
    compensates: bool = False

    @property
    def bits(self) -> int:
        return self.dtype.itemsize * 8

    def size_bytes(self, rows: int, columns: int) -> int:
        """Exact bytes of a packed (rows, columns) weight, its scales included."""
        return sum(part.nbytes for part in self.frame(rows, columns).parts)

    def frame(self, rows: int, columns: int) -> Packed:
        """Types and shapes of a packed (rows, columns) weight: tensors on `meta`."""
        codes = torch.empty(rows, columns, dtype=self.dtype, device="meta")
        return Packed(codes, torch.empty(rows, 1, device="meta"))

    def quantize(self, weight: Tensor, importance: Tensor | None = None) -> Packed:
        """Pack a (rows, columns) weight. Its nearest floats are the best, whatever importance says.
        """
        weight = weight.float()
        peak = weight.abs().amax(1, keepdim=True).clamp_min(1e-30)
        scale = torch.exp2(peak.log2().ceil()) / LARGEST_FLOAT
        return Packed((weight / scale).to(self.dtype), scale)

    def codes(self, packed: Packed, columns: int, dtype: torch.dtype) -> Tensor:
        """Codes (rows, 1, columns) in `dtype`."""
        return packed.codes.to(dtype).unsqueeze(1)

    def dequantize(self, packed: Packed, columns: int, dtype: torch.dtype) -> Tensor:
        """The (rows, columns) weight that `packed` stands for."""
        return packed.codes.float().mul_(packed.scale).to(dtype)


FORMATS: dict[str, Format | FloatFormat] = {
    entry.name: entry
    for entry in (
        Format("int8", 8, None, True, torch.float32),
        Format("int4", 4, 64, True, torch.float16),
        Format("int4_asym", 4, 64, False, torch.float16),
        FloatFormat("fp8", torch.float8_e4m3fn),
        FloatFormat("float16", torch.float16),
    )
}


def _chunk(like: Tensor) -> int:
    return CPU_CHUNK if like.device.type == "cpu" else GPU_CHUNK


def pack_nibbles(codes: Tensor) -> Tensor:
    """Two 4-bit codes to a byte: uint8 (..., width) of 0..15 -> uint8 (..., width / 2).

    Byte i holds code i in its low half and code i + width / 2 in its high half, so that both
    halves of a group unpack to neighbouring memory.
    """
    low, high = codes.chunk(2, dim=-1)
    return low | (high << 4)


def unpack_nibbles(packed: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Undo `pack_nibbles`: uint8 (rows, groups * width / 2) -> `dtype` (rows, groups, width)."""
    packed = packed.view(packed.shape[0], -1, width // 2)
    codes = torch.empty(*packed.shape[:2], width, dtype=dtype, device=packed.device)
    codes[..., : width // 2] = packed & 15
    codes[..., width // 2 :] = packed >> 4
    return codes


def _pack_zeros(zero: Tensor) -> Tensor:
    return pack_nibbles(torch.nn.functional.pad(zero, (0, zero.shape[1] % 2)))


def _fit_scale(
    weight: Tensor, codes: Tensor, importance: Tensor | None, fallback: Tensor
) -> Tensor:
    """The scale of least weighted squared error for given codes: sum(h w c) / sum(h c^2)."""
    weighted = codes if importance is None else codes * importance
    power = (weighted * codes).sum(-1)
    fitted = (weighted * weight).sum(-1) / power
    return torch.where(power > 0, fitted, fallback)
