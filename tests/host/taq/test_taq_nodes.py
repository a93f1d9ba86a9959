"""The TAQ nodes as a real server runs them."""

import dataclasses
import importlib
import io
import json
import urllib.request

import pytest
import torch
from PIL import Image

from .models import conditioning


def test_search_words_are_given_where_they_are_known(host, monkeypatch):
    search = importlib.import_module("personalq_pack.nodes.search")
    known = {field.name for field in dataclasses.fields(search.io.Schema)}
    assert bool(search.found_as("word")) == ("search_aliases" in known)
    newer = dataclasses.make_dataclass("Schema", ["node_id", "search_aliases"])
    monkeypatch.setattr(search.io, "Schema", newer)
    assert search.found_as("LoRA loader", "int8") == {"search_aliases": ["LoRA loader", "int8"]}


def test_the_nodes_are_served_with_their_widgets_in_the_workflows_order(comfy):
    with urllib.request.urlopen(f"http://127.0.0.1:{comfy.port}/object_info") as answer:
        served = json.load(answer)
    node = served["PersonalQTAQQuantize"]
    assert node["input_order"]["optional"][:2] == ["trigger", "format"]
    assert node["output_name"][:2] == ["model", "report"]
    for name in ("PersonalQSaveTAQModel", "PersonalQLoadTAQModel", "PersonalQTAQCompare"):
        assert all(served[name]["output_name"])


def miniature_graph(**nodes):
    """The miniature's base and a prompt, and further nodes: (class, inputs)."""
    graph = {
        "base": ("CheckpointLoaderSimple", {"ckpt_name": "miniature.safetensors"}),
        "yes": ("CLIPTextEncode", {"clip": ["base", 1], "text": "a bear on the beach"}),
        "no": ("CLIPTextEncode", {"clip": ["base", 1], "text": ""}),
        "size": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        **nodes,
    }
    return {name: {"class_type": kind, "inputs": given} for name, (kind, given) in graph.items()}


DRAWING = {
    "positive": ["yes", 0], "negative": ["no", 0], "latent_image": ["size", 0], "seed": 1,
    "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal",
}  # fmt: skip


def test_compare_draws_three_pictures_with_bytes_and_nearness(comfy, miniature):
    inputs = DRAWING | {"model": ["base", 0], "vae": ["base", 2], "format": "4-bit"}
    run = comfy.run(miniature_graph(compare=("PersonalQTAQCompare", inputs)))
    assert run.ok, run.error
    full, plain, ours = run.ui("personalq_taq_compare")[0]["rows"]
    assert [row["system"] for row in (full, plain, ours)] == [
        "full precision", "plain rounding", "TAQ",
    ]  # fmt: skip
    assert plain["bytes"] == ours["bytes"] < 0.3 * full["bytes"]
    assert all(0 < row["ssim"] <= 1 and row["psnr_db"] > 0 for row in (plain, ours))
    assert len(run.images()) == 1


@pytest.mark.parametrize("amiss", [torch.nan, torch.inf])
def test_a_picture_that_is_not_finite_is_told_in_json_and_words(nodes, tiny, monkeypatch, amiss):
    pictures = iter(torch.full((16, 16, 3), value) for value in (0.0, 0.0, amiss))
    monkeypatch.setattr(nodes.sampling, "draw", lambda *_, **__: next(pictures))
    monkeypatch.setattr(nodes.sampling, "preview", lambda *_: {})
    given = (conditioning(1), conditioning(2), {}, None, "8-bit", 1, 1, 1.0, "euler", "normal")
    made = nodes.PersonalQTAQCompare.execute(tiny, *given)
    _, text, data = made.args
    refuse = lambda word: pytest.fail(f"a browser cannot read {word}")  # noqa: E731
    rows = json.loads(data, parse_constant=refuse)["rows"]
    assert rows[1]["psnr_db"] == 99 and rows[2]["psnr_db"] is rows[2]["ssim"] is None
    assert made.ui["personalq_taq_compare"][0]["rows"] == rows
    assert text.splitlines()[2].endswith("not finite: nothing to compare")


def test_a_model_saved_by_the_server_draws_the_same_picture(comfy, miniature):
    def drawn(model, **nodes):
        graph = miniature_graph(
            **nodes,
            sample=("KSampler", DRAWING | {"model": model, "denoise": 1.0}),
            decode=("VAEDecode", {"samples": ["sample", 0], "vae": ["base", 2]}),
            show=("PreviewImage", {"images": ["decode", 0]}),
        )
        run = comfy.run(graph)
        assert run.ok, run.error
        return run, Image.open(io.BytesIO(comfy.image(run.images()[0]))).tobytes()

    taq = ("PersonalQTAQQuantize", {"model": ["base", 0], "trigger": "<bear>", "format": "int8"})
    saving = {"model": ["taq", 0], "filename_prefix": "diffusion_models/small"}
    run, wanted = drawn(["taq", 0], taq=taq, save=("PersonalQSaveTAQModel", saving))
    name = run.ui("text")[0].split(":")[0]
    loaded = ("PersonalQLoadTAQModel", {"file_name": name.removeprefix("diffusion_models/")})
    assert drawn(["load", 0], load=loaded)[1] == wanted
    file = comfy.output / name
    file.write_bytes(file.read_bytes()[:-100])
    run = comfy.run(miniature_graph(load=loaded, text=("PreviewAny", {"source": ["load", 1]})))
    assert not run.ok
    assert "damaged" in run.error
    file.unlink()
