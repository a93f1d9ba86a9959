"""Check-in Selector and Load Selected in a real ComfyUI."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tools.comfy import Rejected

LOOKS = {1: "red bow tie", 2: "green hat", 3: "yellow ribbon", 4: "blue scarf"}
KEY = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def bears(models: Path) -> Path:
    for number, look in LOOKS.items():
        header = {
            "modelspec.title": f"Barnaby v{number}",
            "modelspec.trigger_phrase": f"tdybr{number} bear",
            "modelspec.description": f"Barnaby the bear, {look}.",
            "modelspec.date": f"2025-0{number}-01T00:00:00",
        }
        tensors = {
            f"{KEY}.lora_down.weight": torch.randn(4, 768),
            f"{KEY}.lora_up.weight": torch.randn(320, 4),
        }
        save_file(tensors, models / "loras" / f"barnaby_v{number}.safetensors", header)
    return models / "loras"


def graph(request="my bear on the beach", selection="", when_unsure="ask"):
    return {
        "1": {
            "class_type": "PersonalQCheckInSelector",
            "inputs": {
                "request": request, "selection": selection, "when_unsure": when_unsure,
            },
        },
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}},
    }  # fmt: skip


def decide(comfy, *args, **kwargs):
    # As a page does: to others ComfyUI does not repeat what cached nodes showed.
    run = comfy.wait(comfy.queue(graph(*args, **kwargs), client_id="a page"))
    return run, (run.ui("personalq") or [None])[0]


def test_chooses_and_rewrites(comfy, bears):
    run, decision = decide(comfy, "my newest bear on the beach")
    assert run.ok, run.error
    assert decision["status"] == "chosen"
    assert decision["choice"]["name"] == "barnaby_v4.safetensors"
    assert run.ui("text") == ["tdybr4 bear on the beach"]
    assert str(bears) not in json.dumps(decision)


def test_asks_without_waiting_and_takes_the_answer(comfy, bears):
    run, decision = decide(comfy)
    assert run.ok
    assert decision["status"] == "ask"
    assert not run.ui("text"), "the outputs must be blocked"
    assert len(decision["candidates"]) == 4
    again, repeated = decide(comfy)
    assert again.ok
    assert repeated["status"] == "ask", "an open question is asked again"
    chosen = next(c for c in decision["candidates"] if c["version"] == "v2")
    run, decision = decide(comfy, selection=chosen["selection"])
    assert run.ui("text") == ["tdybr2 bear on the beach"]


def test_best_match_and_error(comfy, bears):
    run, decision = decide(comfy, when_unsure="best match")
    assert decision["status"] == "chosen"
    assert run.ui("text")
    run, _ = decide(comfy, when_unsure="error")
    assert not run.ok
    assert "Which" in run.error


def test_none_of_these_keeps_the_prompt(comfy, bears):
    run, decision = decide(comfy, selection="none")
    assert decision["status"] == "none"
    assert run.ui("text") == ["my bear on the beach"]


def test_a_renamed_file_is_found_by_its_content(comfy, bears):
    _, decision = decide(comfy, "bear v3 on the beach")
    (bears / "barnaby_v3.safetensors").rename(bears / "renamed.safetensors")
    run, decision = decide(comfy, selection=decision["choice"]["selection"])
    assert run.ok, run.error
    assert decision["choice"]["name"] == "renamed.safetensors"


def test_a_missing_file_is_named(comfy, bears):
    run, _ = decide(comfy, selection="lora:gone.safetensors#0123456789")
    assert not run.ok
    assert "gone.safetensors" in run.error
    assert "clear the selection" in run.error


def test_an_empty_request_is_refused(comfy, bears):
    with pytest.raises(Rejected, match="request is empty"):
        comfy.run(graph("  "))


def test_an_empty_folder_is_said(comfy, models):
    run, decision = decide(comfy)
    assert run.ok, run.error
    assert decision["status"] == "none"
    assert "no LoRA" in decision["reason"]


def test_bad_files_are_named_and_the_others_work(comfy, bears):
    (bears / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    (bears / "old.ckpt").write_bytes(b"\x80\x02}q\x00.")
    _, decision = decide(comfy, "my newest bear on the beach")
    assert decision["choice"]["name"] == "barnaby_v4.safetensors"
    notices = " ".join(decision["notices"])
    assert "cut.safetensors" in notices
    assert "old.ckpt" in notices


def test_served_from_cache_until_a_new_file_appears(comfy, bears):
    decide(comfy, "my newest bear in the rain")
    run, _ = decide(comfy, "my newest bear in the rain")
    assert "1" in run.cached
    source = bears / "barnaby_v4.safetensors"
    (bears / "copy.safetensors").write_bytes(source.read_bytes())
    run, _ = decide(comfy, "my newest bear in the rain")
    assert "1" not in run.cached


def test_new_inputs_stand_last_so_that_saved_values_keep_their_places(comfy):
    inputs = comfy.get("/object_info/PersonalQCheckInSelector")["PersonalQCheckInSelector"]["input"]
    assert list(inputs["required"]) == ["request", "selection", "when_unsure"]
    assert list(inputs["optional"]) == ["model", "ask", "clip"]


def test_a_text_encoder_that_cannot_write_is_said(comfy, miniature):
    asking = graph("my newest bear on the beach")
    name = min(path.name for path in (miniature / "checkpoints").iterdir())
    asking["3"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}
    asking["1"]["inputs"]["clip"] = ["3", 1]
    run = comfy.wait(comfy.queue(asking, client_id="a page"))
    assert run.ok, run.error
    (decision,) = run.ui("personalq")
    assert decision["choice"]["name"] == "barnaby_v4.safetensors"
    assert "no language model" in " ".join(decision["notices"])


def test_asking_can_be_rarer(comfy, bears):
    asking = graph("my bear on the beach")
    asking["1"]["inputs"]["ask"] = "often"
    run = comfy.wait(comfy.queue(asking, client_id="a page"))
    assert run.ui("personalq")[0]["status"] == "ask"
    asking["1"]["inputs"]["ask"] = "always"
    with pytest.raises(Rejected, match="ask"):
        comfy.run(asking)
