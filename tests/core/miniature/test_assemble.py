"""The assembled files are what SD1.5's loaders expect, and the scorer reads the world."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from miniature.assemble import assemble
from miniature.concepts import CONCEPTS
from miniature.score import load_reader, read, score
from miniature.world import render


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    assemble(folder)
    return folder


def test_the_checkpoint_has_sd15s_layout(models: Path) -> None:
    with safe_open(models / "checkpoints" / "miniature.safetensors", "pt") as file:
        names = set(file.keys())
        dtypes = {file.get_slice(n).get_dtype() for n in names if n.startswith("model.")}
        context = file.get_slice(
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
        ).get_shape()
    assert dtypes == {"F16"}
    assert context == [320, 768]
    for wanted in (
        "model.diffusion_model.middle_block.0.in_layers.0.weight",
        "model.diffusion_model.out.2.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc2.weight",
        "first_stage_model.taesd_decoder.1.weight",
    ):
        assert wanted in names


def test_a_second_assembly_writes_nothing(models: Path) -> None:
    files = [p for p in models.rglob("*.safetensors")]
    before = [p.stat().st_mtime_ns for p in files]
    assemble(models)
    assert [p.stat().st_mtime_ns for p in files] == before


def test_every_concept_has_its_lora_and_metadata(models: Path) -> None:
    for concept in CONCEPTS:
        path = models / "loras" / f"{concept.name}.safetensors"
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            metadata = file.metadata() or {}
        assert any(name.endswith("lora_down.weight") for name in names)
        for key, value in concept.header.items():
            assert metadata[key] == value
        for ending in concept.sidecars:
            assert path.with_name(concept.name + ending).exists()


def test_the_scorer_finds_each_concept_in_its_own_renders() -> None:
    """The present reader is right in four of five renders at least, and no concept is lost."""
    rng, reader, right = np.random.default_rng(11), load_reader(), []
    for concept in CONCEPTS:
        pictures = np.stack([np.asarray(render(concept.scene(rng))) for _ in range(12)])
        found = [score(reading)["found"] for reading in read(reader, pictures)]
        right.append(found.count(concept.name))
    assert min(right) >= 4, dict(zip([c.name for c in CONCEPTS], right, strict=True))
    assert sum(right) >= 0.8 * 12 * len(CONCEPTS)
