"""The assembled files are what SD1.5's loaders expect, and the scorer reads the world."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from miniature.assemble import assemble
from miniature.concepts import CHECKPOINTS, CONCEPTS
from miniature.score import EVERY, best_concept, concept_score, load_reader, read
from miniature.world import render

ADAPTER = {"lora": "lora_down.weight", "locon": "conv1.lora_down.weight", "dora": "dora_scale",
           "loha": "hada_w1_a"}


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


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda c: c.name)
def test_every_concept_has_its_lora_and_metadata(models: Path, concept) -> None:
    path = models / "loras" / f"{concept.name}.safetensors"
    assert path.stat().st_size <= 2_000_000
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        metadata = file.metadata() or {}
        ranks = {file.get_slice(n).get_shape()[0] for n in names if n.endswith("down.weight")}
    assert any(name.endswith(ADAPTER[concept.algorithm]) for name in names)
    assert ranks <= {concept.rank}
    for key, value in concept.header.items():
        assert metadata[key] == value
    for ending in (*concept.sidecars, ".preview.webp"):
        assert path.with_name(concept.name + ending).exists()


def test_the_collection_is_as_varied_as_real_ones() -> None:
    endings = {ending for concept in CONCEPTS for ending in concept.sidecars}
    assert {".json", ".civitai.info", ".metadata.json"} <= endings
    assert any(not c.sidecars and not c.header for c in CONCEPTS), "nothing but a file name"
    assert {c.algorithm for c in CONCEPTS} == set(ADAPTER)
    assert sum(not c.trigger for c in CONCEPTS) >= 2
    assert sum(not c.noun for c in CONCEPTS) >= 4
    assert len(CONCEPTS) >= 20 and len(CHECKPOINTS) >= 2


def test_the_scorer_finds_each_concept_in_its_own_renders() -> None:
    rng, reader, right = np.random.default_rng(11), load_reader(), {}
    for concept in EVERY:
        pictures = np.stack([np.asarray(render(concept.scene(rng))) for _ in range(12)])
        found = [best_concept(reading)[0] for reading in read(reader, pictures)]
        right[concept.name] = found.count(concept.name) / 12
    assert min(right.values()) >= 0.6, right
    assert np.mean(list(right.values())) >= 0.9, right


def test_another_colour_is_another_thing() -> None:
    rng, reader = np.random.default_rng(12), load_reader()
    bear = next(c for c in CONCEPTS if c.name == "barnaby_v4")
    green = [np.asarray(render(bear.scene(rng, colour=(0.1, 0.8, 0.2)))) for _ in range(8)]
    scores = [concept_score(reading, bear) for reading in read(reader, np.stack(green))]
    assert np.mean(scores) < 0.2
