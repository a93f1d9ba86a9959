"""Names of embedding models: vectors of one are never taken for those of another."""

import shutil
import sys
import types
from pathlib import Path

import pytest

from personalq_core.models.embed import SentenceTransformerEmbedder


@pytest.fixture(autouse=True)
def library(monkeypatch):
    """sentence_transformers that loads nothing."""
    model = types.SimpleNamespace(tokenizer=types.SimpleNamespace(get_vocab=dict))
    fake = types.ModuleType("sentence_transformers")
    fake.SentenceTransformer = lambda *_, **__: model
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)


def model_at(folder: Path, weights: bytes, pooling: str = "mean") -> str:
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (folder / "modules.json").write_text("[]")
    (folder / "1_Pooling" / "config.json").write_text(f'{{"pooling_mode": "{pooling}"}}')
    (folder / "model.safetensors").write_bytes(weights)
    return SentenceTransformerEmbedder(str(folder)).model_id


def test_models_in_folders_of_one_name_are_told_apart(tmp_path):
    names = {
        model_at(tmp_path / "a/model", bytes(100_000)),
        model_at(tmp_path / "b/model", bytes(100_004)),
        model_at(tmp_path / "c/model", bytes(50_000) + bytes([1]) * 50_000),
        model_at(tmp_path / "d/model", bytes(100_000), pooling="cls"),
    }
    assert len(names) == 4


def test_a_model_keeps_its_name_wherever_it_lies(tmp_path):
    name = model_at(tmp_path / "a/model", bytes(100_000))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert SentenceTransformerEmbedder(str(tmp_path / "b/model")).model_id == name
    assert name.startswith("sentence-transformers:model:")


def test_a_folder_is_not_taken_for_the_model_of_that_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    on_the_hub = SentenceTransformerEmbedder("maker/small").model_id
    assert on_the_hub == "sentence-transformers:maker/small"
    assert model_at(tmp_path / "small", b"weights") != on_the_hub
