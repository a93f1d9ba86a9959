"""A measurement is taken once for the same weights, and again for others."""

import pytest

from miniature import evaluate
from miniature.concepts import CONCEPTS


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "WORK", tmp_path)
    monkeypatch.setattr(evaluate, "WEIGHTS", tmp_path)
    monkeypatch.setattr(evaluate, "path_of", lambda concept: tmp_path / "lora")
    (tmp_path / "lora").write_bytes(b"one")
    (tmp_path / "unet.npz").write_bytes(b"one")
    return tmp_path


def measured_again(effort=evaluate.QUICK) -> bool:
    taken = []
    row = evaluate.remembered(effort, CONCEPTS[0], lambda: taken.append(1) or {"found": 0.5})
    assert row == {"found": 0.5}
    return bool(taken)


def test_the_same_weights_are_measured_once(weights):
    assert measured_again()
    assert not measured_again()


@pytest.mark.parametrize("name", ["lora", "unet.npz"])
def test_other_weights_are_measured_again(weights, name):
    measured_again()
    (weights / name).write_bytes(b"two")
    assert measured_again()


def test_more_pictures_are_measured_again(weights):
    measured_again()
    assert measured_again(evaluate.FULL)
