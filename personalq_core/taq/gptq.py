"""Rounding that makes up for its own errors: GPTQ, then coordinate descent.

Weights of one shape are rounded side by side: what one column is rounded to depends on the columns
before it, so a GPU has little to do at once but for many weights.

    weights   (count, rows, width)
    hessians  (count, width, width), the second moments of what the weights are multiplied with
    codes     (count, rows, groups, group), zero-centred
    scale, zero  (count, rows, groups)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .formats import Format

REFINEMENTS = 1
"""Rounds of coordinate descent after GPTQ. A second one gains nothing (docs/fidelity.md)."""
DAMPING = 0.01
"""Part of the mean moment that is added to each column's, as in GPTQ's own code."""
MORE_DAMPING = (0.0, 0.1, 1.0)
"""Added where rounded moments are not positive definite."""


def compensated(fmt: Format, weights: Tensor, hessians: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scale and zero by GPTQ (Frantar et al. 2022, algorithm 1), improved by `_refined`.

    Scales are searched group by group as it comes, in what the columns before have left.
    """
    assert fmt.group is not None
    count, rows, width = weights.shape
    hessians = _damped(hessians)
    power, pull = hessians.diagonal(dim1=1, dim2=2), _pull(hessians)
    left = weights.clone()
    codes = weights.new_empty(width // fmt.group, fmt.group, count, rows)
    scales, zeros = [], []
    for number, start in enumerate(range(0, width, fmt.group)):
        end = start + fmt.group
        scale, zero = fmt.search(left[:, :, start:end], power[:, None, start:end])
        errors = left[:, :, start:end].permute(2, 0, 1).contiguous()
        within = pull[:, start:end, start:end]
        _round_in_turn(errors, within, scale, fmt.bounds(zero), codes[number])
        left[:, :, end:].baddbmm_(errors.permute(1, 2, 0), pull[:, start:end, end:], alpha=-1)
        scales.append(scale)
        zeros.append(zero)
    found = codes.permute(2, 3, 0, 1).contiguous(), torch.stack(scales, -1), torch.stack(zeros, -1)
    return _refined(fmt, weights, hessians, *found)


def _damped(hessians: Tensor) -> Tensor:
    """Moments with a mean of 1, damped. Only their proportions matter, and where nothing was heard
    all columns count the same."""
    mean = hessians.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    one = torch.eye(hessians.shape[1], device=hessians.device, dtype=hessians.dtype)
    return torch.where(mean > 0, hessians / mean + DAMPING * one, one)


def _pull(hessians: Tensor) -> Tensor:
    """How an error in a column is made up for in each column after it: (count, width, width).

    The rows, scaled to a diagonal of ones, of the upper triangular U with U^T U the inverse of the
    moments: with H = R R^T, R upper triangular, U is R's inverse. R is the Cholesky factor of the
    moments in reversed order. A column that heard nothing is left to itself.
    """
    one = torch.eye(hessians.shape[1], device=hessians.device, dtype=hessians.dtype)
    found = one.expand_as(hessians).clone()
    for more in MORE_DAMPING:
        lower, failed = torch.linalg.cholesky_ex((hessians + more * one).flip(1, 2))
        upper = torch.linalg.solve_triangular(lower.flip(1, 2), one, upper=True)
        upper = upper / upper.diagonal(dim1=1, dim2=2)[..., None]
        good = (failed == 0) & upper.isfinite().flatten(1).all(1)
        found = torch.where(good[:, None, None], upper, found)
        if good.all():
            return found
    return found


def _round_in_turn(
    tile: Tensor, pull: Tensor, scale: Tensor, bounds: tuple, codes: Tensor
) -> None:
    """Codes of the columns of a group, one after another. `tile` (group, count, rows) begins as
    weights and ends as each column's error."""
    pull, inverse = pull.permute(1, 2, 0).contiguous()[..., None], 1 / scale
    for column in range(len(tile)):
        code = torch.mul(tile[column], inverse, out=codes[column]).round_().clamp_(*bounds)
        error = tile[column].addcmul_(code, scale, value=-1)
        tile[column + 1 :].addcmul_(pull[column, column + 1 :], error, value=-1)


def _refined(
    fmt: Format, weights: Tensor, hessians: Tensor, codes: Tensor, scale: Tensor, zero: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Better codes and scales for the same bytes, by coordinate descent on what is heard.

    GPTQ decides each column once, before those after it are known. Here every scale, then every
    code, is chosen anew given all others, so that the mean square of the output's error
    (weight - back) H (weight - back)^T never rises (Behdin et al. 2023, QuantEase, for codes).
    """
    heard = (weights - (codes * scale[..., None]).flatten(2)) @ hessians
    group = codes.shape[3]
    for _ in range(REFINEMENTS):
        for number in range(codes.shape[2]):
            columns = slice(number * group, (number + 1) * group)
            own, old = hessians[:, columns, columns], codes[:, :, number]
            before, tile = old * scale[:, :, number, None], heard[:, :, columns]
            power = ((old @ own) * old).sum(2)
            step = torch.where(power > 0, (old * tile).sum(2) / power, 0.0)
            factor = fmt.storable(scale[:, :, number] + step)
            scale[:, :, number] = factor
            tile = tile - (old * factor[..., None] - before) @ own
            chosen = _chosen_in_turn(tile, own, old, factor, fmt.bounds(zero[:, :, number]))
            codes[:, :, number] = chosen
            heard.baddbmm_(before - chosen * factor[..., None], hessians[:, columns])
    return codes, scale, zero


def _chosen_in_turn(
    tile: Tensor, own: Tensor, old: Tensor, scale: Tensor, bounds: tuple
) -> Tensor:
    """The codes of a group (count, rows, group), each the best given all others as they then are.

    tile: what is heard of the errors at these columns; own: their moments with each other
    """
    tile, codes = (part.permute(2, 0, 1).contiguous() for part in (tile, old))
    own = own.permute(1, 2, 0).contiguous()[..., None]
    inverse = 1 / (own.diagonal(dim1=0, dim2=1).permute(2, 0, 1) * scale)
    for column in range(len(tile)):
        code = torch.addcmul(codes[column], tile[column], inverse[column])
        code.round_().clamp_(*bounds)
        moved = (codes[column] - code).mul_(scale)
        codes[column] = code
        tile[column + 1 :].addcmul_(own[column, column + 1 :], moved)
    return codes.permute(1, 2, 0)
