"""Delta-safe LoRA: a change of a quantized weight is kept beside it at 16 bit, never rounded in.

Rounding a LoRA of 1 % of the weight's size into int4 codes would keep 2 % of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TOLERANCE = 1e-3
"""Part of a change's size that its factors may miss: about float16's own rounding."""


class Branch(nn.Module):
    """A change of a weight: thin 16-bit factors where its rank is low, else the change itself.

    Several LoRAs on one layer are one branch; their ranks add up, until the whole change is the
    smaller of the two.

    up: (rows, rank), or the whole change where `down` is None
    down: (rank, columns)
    """

    up: Tensor
    down: Tensor | None

    def __init__(self, up: Tensor, down: Tensor | None = None):
        super().__init__()
        if down is not None and up.numel() + down.numel() > len(up) * down.shape[1]:
            up, down = up.float() @ down.float(), None
        if down is not None and up.dtype == torch.float32:
            up, down = _balanced(up, down)
        self.register_buffer("up", up.to(torch.float16))
        self.register_buffer("down", None if down is None else down.to(torch.float16))

    @classmethod
    def of(cls, change: Tensor) -> Branch:
        """The branch of a change that is known only as a whole, in the weight's shape."""
        factors = low_rank_factors(change.flatten(1).float())
        return cls(change.flatten(1)) if factors is None else cls(*factors)

    def add_to(self, weight: Tensor) -> None:
        """Add the change to an unpacked weight (rows, columns), in place."""
        factors = self._buffers  # looking them up as attributes would take longer than a launch
        up, down = factors["up"], factors["down"]
        assert up is not None
        if down is None:
            weight.add_(up.to(weight))
        else:
            weight.addmm_(up.to(weight), down.to(weight))

    def linear(self, x: Tensor) -> Tensor:
        """The change times x: (..., in) -> (..., out)."""
        if self.down is None:
            return F.linear(x, self.up.to(x))
        return F.linear(F.linear(x, self.down.to(x)), self.up.to(x))

    def convolve(
        self, x: Tensor, convolve: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]
    ) -> Tensor:
        """The change, a kernel of `shape` (out, in, height, width), convolved with x."""
        up = self.up.to(x)
        # A grouped kernel has no thin form that the same convolution could run.
        if self.down is None or x.shape[1] != shape[1]:
            kernel = up if self.down is None else up @ self.down.to(x)
            return convolve(x, kernel.view(shape))
        thin = convolve(x, self.down.to(x).view(-1, *shape[1:]))
        return F.conv2d(thin, up[:, :, None, None])


def _balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The factors with the sizes of each rank alike, by powers of two: a small alpha and strength
    would press one of them below what float16 can hold."""
    ratio = down.abs().amax(1) / up.abs().amax(0)
    power = torch.exp2((ratio.log2() / 2).round()).nan_to_num(1.0, 1.0, 1.0)
    power = torch.where(power > 0, power, 1.0)
    return up * power, down / power[:, None]


def solvable(matrix: Tensor) -> Tensor:
    """The matrix on a device with all of PyTorch's linear algebra: a Mac's GPU has no QR."""
    return matrix if matrix.device.type in ("cpu", "cuda") else matrix.cpu()


def low_rank_factors(change: Tensor) -> tuple[Tensor, Tensor] | None:
    """Factors up (rows, rank), down (rank, columns) of a change, or None where none are thin.

    Randomised range finder (Halko, Martinsson and Tropp 2011, algorithm 4.1) with a doubling
    rank, then the exact singular values of the small core: no knowledge of LoRA file formats.
    """
    change = solvable(change)
    rows, columns = change.shape
    size = change.norm()
    if size == 0:
        return change.new_zeros(rows, 1), change.new_zeros(1, columns)
    rank, widest = 40, rows * columns // (2 * (rows + columns))
    generator = torch.Generator().manual_seed(0)
    while rank <= widest:
        probe = torch.randn(columns, rank, generator=generator).to(change)
        basis = torch.linalg.qr(change @ probe).Q
        core = basis.T @ change
        if (change - basis @ core).norm() <= TOLERANCE * size:
            return _trim(basis, core, size)
        rank *= 2
    return None


def _trim(basis: Tensor, core: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the factors to the rank that matters, their sizes balanced for float16."""
    eigenvalues, vectors = torch.linalg.eigh(core @ core.T)
    keep = eigenvalues.clamp_min(0).sqrt() > 0.1 * TOLERANCE * size
    vectors = vectors[:, keep]
    down = vectors.T @ core
    balance = down.norm(dim=1).sqrt()
    return (basis @ vectors) * balance, down / balance[:, None]
