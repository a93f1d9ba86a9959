"""Trained weights in little space: bfloat16 numbers, their two bytes apart, each compressed.

Nothing is lost beyond the rounding to 16 bit. The upper bytes (sign and exponent) of trained
weights take few values, so that ordinary compression saves a quarter of the file; packed side by
side with the lower ones it would find nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def write(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors to ``path`` (``.npz``), whole or not at all."""
    arrays = {}
    for name, tensor in state.items():
        pairs = tensor.detach().to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
        pairs = pairs.reshape(*tensor.shape, 2)
        arrays[f"{name}/low"], arrays[f"{name}/high"] = pairs[..., 0], pairs[..., 1]
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    part.rename(path)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that :func:`write` made, bfloat16."""
    state = {}
    with np.load(path, allow_pickle=False) as file:
        for name in (n.removesuffix("/low") for n in file.files if n.endswith("/low")):
            pairs = np.stack([file[f"{name}/low"], file[f"{name}/high"]], axis=-1)
            state[name] = torch.from_numpy(pairs).view(torch.bfloat16).squeeze(-1)
    return state
