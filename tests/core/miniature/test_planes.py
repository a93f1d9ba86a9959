"""Weights come back as they were stored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from miniature import manifest, planes


@settings(deadline=None)
@given(arrays(np.float32, array_shapes(max_dims=4, max_side=5),
              elements=st.floats(width=32, allow_nan=False)))
def test_every_16_bit_number_survives(tmp_path_factory, values: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("planes") / "weights.npz"
    tensor = torch.from_numpy(values).to(torch.bfloat16)
    planes.write(path, {"layer.weight": tensor})
    back = planes.read(path)["layer.weight"]
    assert back.dtype == torch.bfloat16 and back.shape == tensor.shape
    assert torch.equal(back.view(torch.int16), tensor.view(torch.int16))


@settings(deadline=None)
@given(arrays(np.float32, array_shapes(max_dims=4, max_side=5),
              elements=st.sampled_from([0.0, 0.0, 0.0, -0.5, 1.25e-3, 3.0])))
def test_changes_are_added_where_they_were(tmp_path_factory, values: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("planes") / "changes.npz"
    base, change = torch.ones(values.shape), torch.from_numpy(values).to(torch.bfloat16).float()
    planes.write_changes(path, {"layer.weight": change, "same.weight": torch.zeros(3)})
    changed = planes.add_changes(path, {"layer.weight": base, "same.weight": torch.ones(3)})
    assert set(changed) <= {"layer.weight"}, "what stays is not stored"
    assert torch.equal(changed.get("layer.weight", base), base + change)
    assert torch.equal(base, torch.ones(values.shape)), "the weights given stay as they are"


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
