"""Weights come back as they were stored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from miniature import manifest, planes


@given(arrays(np.float32, array_shapes(max_dims=4, max_side=5),
              elements=st.floats(width=32, allow_nan=False)))
def test_every_16_bit_number_survives(tmp_path_factory, values: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("planes") / "weights.npz"
    tensor = torch.from_numpy(values).to(torch.bfloat16)
    planes.write(path, {"layer.weight": tensor})
    back = planes.read(path)["layer.weight"]
    assert back.dtype == torch.bfloat16 and back.shape == tensor.shape
    assert torch.equal(back.view(torch.int16), tensor.view(torch.int16))


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "weights.npz"
    planes.write(path, {"a": torch.ones(3)})

    def broken(file, **arrays) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", broken)
    with pytest.raises(OSError):
        planes.write(path, {"a": torch.zeros(3)})
    assert torch.equal(planes.read(path)["a"].float(), torch.ones(3))


def test_the_stored_weights_are_those_of_the_manifest() -> None:
    assert manifest.differences() == []
