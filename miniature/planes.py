"""Trained weights in little space: bfloat16 numbers, their two bytes apart, each compressed.

Nothing is lost beyond the rounding to 16 bit. The upper bytes (sign and exponent) of trained
weights take few values, so that ordinary compression saves a quarter of the file; packed side by
side with the lower ones it would find nothing. Of changes that are mostly zero, a bit for each
weight says which are not, and only these follow.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def write(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors to ``path`` (``.npz``), whole or not at all."""
    _store(path, _arrays(state))


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that :func:`write` made, bfloat16."""
    with np.load(path, allow_pickle=False) as file:
        return {n.removesuffix("/low"): _tensor(file, n.removesuffix("/low"))
                for n in file.files if n.endswith("/low")}


def write_changes(path: Path, changes: dict[str, Tensor]) -> None:
    """Write tensors of which most numbers are 0 to ``path`` (``.npz``), whole or not at all."""
    rounded = {name: change.detach().to(torch.bfloat16) for name, change in changes.items()}
    rounded = {name: change for name, change in rounded.items() if change.any()}
    arrays = _arrays({name: change[change != 0] for name, change in rounded.items()})
    for name, change in rounded.items():
        arrays[f"{name}/where"] = np.packbits((change != 0).numpy())
    _store(path, arrays)


def add_changes(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a file of :func:`write_changes` changes: ``weights`` with it added, 32 bit.

    Raises ``KeyError`` where the file changes a tensor that ``weights`` do not have.
    """
    changed = {}
    with np.load(path, allow_pickle=False) as file:
        for name in (n.removesuffix("/where") for n in file.files if n.endswith("/where")):
            weight = weights[name].detach().float().clone()
            where = np.unpackbits(file[f"{name}/where"], count=weight.numel()).astype(bool)
            where = torch.from_numpy(where).reshape(weight.shape)
            weight[where] += _tensor(file, name).float()
            changed[name] = weight
    return changed


def _arrays(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in state.items():
        pairs = tensor.detach().to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
        pairs = pairs.reshape(*tensor.shape, 2)
        arrays[f"{name}/low"], arrays[f"{name}/high"] = pairs[..., 0], pairs[..., 1]
    return arrays


def _tensor(file, name: str) -> Tensor:
    pairs = np.stack([file[f"{name}/low"], file[f"{name}/high"]], axis=-1)
    return torch.from_numpy(pairs).view(torch.bfloat16).squeeze(-1)


def _store(path: Path, arrays: dict[str, np.ndarray]) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    part.rename(path)
