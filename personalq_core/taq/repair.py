"""Low-rank repair: what rounding lost, where the calibration prompts would hear it."""

from __future__ import annotations

import torch
from torch import Tensor

from .lora import Branch, solvable

TINY = 1e-30
"""What silence counts: its mean square is 0, and something is divided by it."""


def repair(lost: Tensor, rank: int, moments: Tensor | None = None) -> Branch:
    """The branch of `rank` nearest to `lost` (rows, columns) as inputs with `moments` hear it.

    With moments M = L L^T of the inputs x, the mean of |(lost - up down) x|^2 is
    |(lost - up down) L|^2: least for the leading singular vectors of lost L, brought back by L's
    inverse (Zhang et al. 2024, QERA, theorem 1). Moments as `calibrate.importance` gives them:
    (columns,), or (blocks, width, width); without them plain singular vectors.
    """
    lost, columns = solvable(lost), lost.shape[1]
    if moments is None:
        heard = lost

        def back(down: Tensor) -> Tensor:
            return down

    elif moments.ndim == 1:
        root = _floored(moments.to(lost)).sqrt()
        heard = lost * root

        def back(down: Tensor) -> Tensor:
            return down / root

    else:
        blocks, width, _ = moments.shape
        moments = moments.to(lost)
        power = _floored(moments.diagonal(dim1=1, dim2=2).flatten()).view(blocks, width)
        damping = torch.full_like(power, 0.01) * power.mean()
        root = torch.linalg.cholesky(moments + torch.diag_embed(damping))
        padded = torch.nn.functional.pad(lost, (0, blocks * width - columns))
        heard = (padded.view(-1, blocks, width).transpose(0, 1) @ root).transpose(0, 1).flatten(1)

        def back(down: Tensor) -> Tensor:
            parts = down.view(-1, blocks, width).transpose(0, 1)
            solved = torch.linalg.solve_triangular(root, parts, upper=False, left=False)
            return solved.transpose(0, 1).flatten(1)[:, :columns]

    gpus = [lost.device] if lost.is_cuda else []
    with torch.random.fork_rng(gpus):  # the same repair each time
        torch.manual_seed(0)
        up, sizes, down = torch.svd_lowrank(heard, q=min(rank + 8, *heard.shape), niter=4)
    balance = sizes[:rank].sqrt()
    up, down = up[:, :rank] * balance, (down[:, :rank] * balance).T
    return Branch(up, back(down))


def size_bytes(rows: int, columns: int, rank: int) -> int:
    """Bytes of a repair of a (rows, columns) weight."""
    return 2 * min(rank * (rows + columns), rows * columns)


def _floored(power: Tensor) -> Tensor:
    return power.clamp_min(1e-4 * power.mean() + TINY)
