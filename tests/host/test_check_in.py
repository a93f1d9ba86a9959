"""Check-in Selector and Load Selected in a real ComfyUI."""

import asyncio
import io
import json
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from miniature.assemble import assemble
from miniature.concepts import CHECKPOINTS
from personalq_core.checkin.decision import Candidate, Decision
from personalq_core.library.card import ModelCard
from tools.comfy import ROOT, Rejected

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


def test_where_nothing_fits_only_error_fails(comfy, bears):
    far = "the quarterly tax report"
    for when_unsure in ("ask", "best match"):
        run, decision = decide(comfy, far, when_unsure=when_unsure)
        assert decision["status"] == "none"
        assert run.ui("text") == [far]
    run, _ = decide(comfy, far, when_unsure="error")
    assert not run.ok


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
    assert 'press "choose again"' in run.error
    assert 't("choose again")' in (ROOT / "web" / "check_in_views.js").read_text()


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


def test_what_is_new_stands_last_so_that_saved_workflows_keep_their_places(comfy):
    known = comfy.get("/object_info")
    inputs = known["PersonalQCheckInSelector"]["input"]
    assert list(inputs["required"]) == ["request", "selection", "when_unsure"]
    assert list(inputs["optional"]) == ["model", "ask", "clip"]
    inputs = known["PersonalQLoadSelected"]["input"]
    assert list(inputs["required"]) == ["model", "clip", "decision", "strength"]
    assert list(inputs["optional"]) == ["vae"]
    assert known["PersonalQLoadSelected"]["output"] == ["MODEL", "CLIP", "VAE"]


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


@pytest.fixture
def fine_tuned(miniature: Path) -> Path:
    """The server's models folder with the miniature and its fine-tuned checkpoints in it."""
    made = ROOT / ".run" / "models"
    assemble(made, checkpoints=True)
    for concept in CHECKPOINTS:
        name = f"{concept.name}.safetensors"
        (miniature / "checkpoints" / name).symlink_to(made / "checkpoints" / name)
    return miniature


def stock_loader(name):
    return {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": f"{name}.safetensors"}}


def drawing(model, clip, vae, text):
    """Stock nodes from a model to a picture; `text` is the prompt or the output that has it."""
    sampling = {
        "model": model, "positive": ["text", 0], "negative": ["no_text", 0],
        "latent_image": ["latent", 0], "seed": 3, "steps": 4, "cfg": 4.0,
        "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
    }  # fmt: skip
    nodes = {
        "text": ("CLIPTextEncode", {"clip": clip, "text": text}),
        "no_text": ("CLIPTextEncode", {"clip": clip, "text": ""}),
        "latent": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        "sample": ("KSampler", sampling),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": vae}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "check_in"}),
    }
    return {name: {"class_type": kind, "inputs": given} for name, (kind, given) in nodes.items()}


def selected(request, vae_input=True, vae=("load", 2)):
    """Draws by Load Selected. Its CLIP input is cut short: one that passes shows in the picture."""
    load = {"model": ["base", 0], "clip": ["cut", 0], "decision": ["1", 0], "strength": 1.0}
    if vae_input:
        load["vae"] = ["base", 2]
    return {
        "1": graph(request)["1"],
        "base": stock_loader("miniature"),
        "cut": {
            "class_type": "CLIPSetLastLayer",
            "inputs": {"clip": ["base", 1], "stop_at_clip_layer": -12},
        },
        "load": {"class_type": "PersonalQLoadSelected", "inputs": load},
        **drawing(["load", 0], ["load", 1], list(vae), ["1", 1]),
    }


def by_hand(checkpoint, prompt, lora="", cut=False):
    """The same picture with stock loaders only."""
    nodes = {"base": stock_loader(checkpoint)}
    model, clip = ["base", 0], ["base", 1]
    if cut:
        clip_inputs = {"clip": clip, "stop_at_clip_layer": -12}
        nodes["cut"] = {"class_type": "CLIPSetLastLayer", "inputs": clip_inputs}
        clip = ["cut", 0]
    if lora:
        lora_inputs = {
            "model": model, "clip": clip, "lora_name": f"{lora}.safetensors",
            "strength_model": 1.0, "strength_clip": 1.0,
        }  # fmt: skip
        nodes["lora"] = {"class_type": "LoraLoader", "inputs": lora_inputs}
        model, clip = ["lora", 0], ["lora", 1]
    return {**nodes, **drawing(model, clip, ["base", 2], prompt)}


def pixels(png):
    return Image.open(io.BytesIO(png)).tobytes()


def picture(comfy, drawn):
    run = comfy.wait(comfy.queue(drawn, client_id="a page"))
    assert run.ok, run.error
    return run, comfy.image(run.images()[0])


@pytest.mark.parametrize("vae_input", [True, False])
def test_a_chosen_checkpoint_is_loaded_whole(comfy, fine_tuned, vae_input):
    run, seen = picture(comfy, selected("the captain's boat at night", vae_input))
    (decision,) = run.ui("personalq")
    assert decision["choice"]["name"] == "captains_boat.safetensors"
    assert "cptnsbt boat" in decision["prompt"]
    assert run.ui("text") == ["Captain's boat: checkpoint loaded"]
    _, wanted = picture(comfy, by_hand("captains_boat", decision["prompt"]))
    assert pixels(seen) == pixels(wanted)
    _, of_the_base = picture(comfy, by_hand("miniature", decision["prompt"]))
    assert pixels(seen) != pixels(of_the_base)


def test_a_style_is_applied_on_top_of_a_chosen_checkpoint(comfy, fine_tuned):
    run, seen = picture(comfy, selected("the captain's boat in workshop blueprint style"))
    (decision,) = run.ui("personalq")
    assert decision["choice"]["name"] == "captains_boat.safetensors"
    assert run.ui("text") == [
        "Captain's boat: checkpoint loaded", "Workshop blueprint: strength 1",
    ]  # fmt: skip
    expected = by_hand("captains_boat", decision["prompt"], lora="workshop_blueprint")
    assert pixels(seen) == pixels(picture(comfy, expected)[1])


def test_two_things_of_one_request_are_both_loaded(comfy, miniature):
    run, seen = picture(comfy, selected("Barnaby v4 and Bolt at night"))
    prompt = run.ui("personalq")[0]["prompt"]
    assert prompt == "brnbyvfour bear and bltrbt robot at night"
    assert run.ui("text") == ["barnaby v4: strength 1", "Bolt the robot: strength 1"]
    wanted = by_hand("miniature", prompt, lora="barnaby_v4", cut=True)
    wanted["second"] = {**wanted["lora"], "inputs": {**wanted["lora"]["inputs"],
        "model": ["lora", 0], "clip": ["lora", 1], "lora_name": "bolt.safetensors"
    }}  # fmt: skip
    wanted |= drawing(["second", 0], ["second", 1], ["base", 2], prompt)
    assert pixels(seen) == pixels(picture(comfy, wanted)[1])


@pytest.fixture
def bare(fine_tuned: Path) -> str:
    """The name of a file in diffusion_models: a fine-tuned checkpoint without CLIP and VAE."""
    boat = fine_tuned / "checkpoints" / "captains_boat.safetensors"
    inside = "model.diffusion_model."
    with safe_open(boat, "pt") as file:
        header = file.metadata()
    unet = {name.removeprefix(inside): tensor for name, tensor in load_file(boat).items()
            if name.startswith(inside)}  # fmt: skip
    save_file(unet, fine_tuned / "diffusion_models" / "boat_unet.safetensors", header)
    boat.unlink()
    return "boat_unet.safetensors"


def test_a_chosen_diffusion_model_takes_the_place_of_the_model_alone(comfy, bare):
    drawn = selected("the captain's boat in workshop blueprint style")
    drawn["unet"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 7]}}
    run, seen = picture(comfy, drawn)
    assert set(run.ui("text")) == {
        "Captain's boat: diffusion model loaded; CLIP and VAE pass", bare,
        "Workshop blueprint: strength 1",
    }  # fmt: skip
    prompt = run.ui("personalq")[0]["prompt"]
    wanted = by_hand("miniature", prompt, lora="workshop_blueprint", cut=True)
    unet = {"unet_name": bare, "weight_dtype": "default"}
    wanted["unet"] = {"class_type": "UNETLoader", "inputs": unet}
    wanted["lora"]["inputs"]["model"] = ["unet", 0]
    assert pixels(seen) == pixels(picture(comfy, wanted)[1])


@pytest.mark.parametrize("vae_input, vae", [(True, ("load", 2)), (False, ("base", 2))])
def test_a_chosen_lora_is_applied_to_the_inputs(comfy, fine_tuned, vae_input, vae):
    """The second is how workflows were saved before there was a VAE."""
    run, seen = picture(comfy, selected("my newest Barnaby on the beach", vae_input, vae))
    assert run.ui("text") == ["barnaby v4: strength 1"]
    prompt = run.ui("personalq")[0]["prompt"]
    assert "brnbyvfour bear" in prompt
    expected = by_hand("miniature", prompt, lora="barnaby_v4", cut=True)
    assert pixels(seen) == pixels(picture(comfy, expected)[1])


def test_without_a_choice_the_inputs_pass(comfy, fine_tuned):
    plain = selected("a red mug")
    plain["1"]["inputs"]["selection"] = "none"
    run, seen = picture(comfy, plain)
    assert run.ui("text") == ["Nothing to load: the inputs pass as they are."]
    assert pixels(seen) == pixels(picture(comfy, by_hand("miniature", "a red mug", cut=True))[1])


def test_what_a_checkpoint_lacks_passes_from_the_inputs(comfy, fine_tuned):
    folder = fine_tuned / "checkpoints"
    whole = load_file(folder / "captains_boat.safetensors")
    bare = {n: t for n, t in whole.items() if n.startswith("model.diffusion_model.")}
    header = {"modelspec.title": "Lone tower", "modelspec.description": "A model alone."}
    save_file(bare, folder / "lone.safetensors", header)
    run, _ = picture(comfy, selected("the lone tower"))
    told = "checkpoint loaded (no CLIP and no VAE in the file: the input passes)"
    assert run.ui("text") == [f"Lone tower: {told}"]


def test_a_file_that_is_no_checkpoint_is_named(comfy, fine_tuned):
    header = {"modelspec.title": "Hollow tower"}
    save_file({"x": torch.zeros(2)}, fine_tuned / "checkpoints" / "hollow.safetensors", header)
    run = comfy.run(selected("the hollow tower"))
    assert not run.ok
    assert "hollow.safetensors cannot be loaded as a checkpoint" in run.error
    assert "Put a sound file in its place" in run.error
    assert str(fine_tuned) not in run.error


def test_a_vae_that_is_nowhere_stops_only_what_wants_it(comfy, fine_tuned):
    request = "my newest Barnaby on the beach"
    assert "Connect the VAE of your checkpoint loader" in heard(comfy, selected(request, False))
    assert not heard(comfy, selected(request, False, ("base", 2)))


@pytest.mark.parametrize(
    "output, called", [(3, "LoRA"), (4, "checkpoint"), (7, "diffusion model")]
)
def test_a_stock_loader_without_a_choice_is_told_of_load_selected(comfy, bears, output, called):
    unfit = graph(selection="none")
    unfit["2"]["inputs"]["source"] = ["1", output]
    message = heard(comfy, unfit)
    assert f"Check-in chose no {called} for this request" in message
    assert "Connect Load Selected instead" in message


def heard(comfy, graph):
    """The error that a page hears of a run, "" for none: blocked outputs are not in the history."""
    address = f"{comfy.url}/ws?clientId=ear"

    async def listen():
        async with aiohttp.ClientSession() as session, session.ws_connect(address) as socket:
            comfy.queue(graph, client_id="ear")
            while (told := await socket.receive_json(timeout=120))["type"] != "execution_success":
                if told["type"] == "execution_error":
                    return told["data"]["exception_message"]
        return ""

    # A browser driven by the tests before has an event loop in this thread.
    with ThreadPoolExecutor() as threads:
        return threads.submit(asyncio.run, listen()).result()


@pytest.fixture(scope="module")
def nodes(pack):
    """nodes/check_in.py in this process, for what files alone cannot bring about."""
    return pack("nodes.check_in")


def chosen(*cards):
    choice, *beside = (Candidate(card, 1.0) for card in cards)
    return Decision("chosen", "a boat", "a boat", "", choice, tuple(beside))


def card(kind, name, base_family):
    return ModelCard(f"{kind}:{name}", kind, name, title=name, base_family=base_family)


def test_the_trigger_output_has_those_of_all_that_is_loaded(nodes):
    things = [replace(card("lora", name, None), triggers=(f"{name}, a", "b")) for name in "xy"]
    untold = card("checkpoint", "z", None)
    assert nodes._output(chosen(things[0], untold, things[1])).args[2] == "x, a; y, a"
    assert nodes._output(chosen(untold)).args[2] == ""


@pytest.mark.parametrize("kind, folder", [("checkpoint", "checkpoints"), ("lora", "loras")])
def test_a_file_that_went_after_the_choice_is_named(nodes, monkeypatch, kind, folder):
    monkeypatch.setattr(nodes.folders, "full_path", lambda kind, name: None)
    with pytest.raises(ValueError, match=f"gone.safetensors is no longer in the {folder} folder"):
        nodes.LoadSelected.execute(None, None, chosen(card(kind, "gone.safetensors", None)), 1.0)


def of_family(name):
    """As much of a MODEL as tells its family."""
    config = type(name, (), {})()
    return types.SimpleNamespace(model=types.SimpleNamespace(model_config=config))


def test_a_diffusion_model_that_cannot_be_loaded_is_refused_in_words(nodes, monkeypatch):
    def load(path):
        raise RuntimeError(f"Could not detect model type of: {path}")

    monkeypatch.setattr(nodes.folders, "full_path", lambda kind, name: f"/secret/{name}")
    monkeypatch.setattr(nodes.folders, "load_diffusion_model", load)
    for name, message in (
        ("boat.gguf", "boat.gguf is a GGUF file, .* connect diffusion_model_name to a GGUF loader"),
        ("boat", "boat is a diffusion model for sdxl, but the connected model, .* is sd15"),
    ):
        decision = chosen(card("diffusion_model", name, "sdxl"))
        with pytest.raises(ValueError, match=message):
            nodes.LoadSelected.execute(of_family("SD15"), None, decision, 1.0)
    with pytest.raises(ValueError, match="boat cannot be loaded as a diffusion model") as caught:
        nodes.LoadSelected.execute(None, None, decision, 1.0)
    assert "/secret" not in str(caught.value)


def test_a_lora_for_another_base_than_the_chosen_checkpoint_is_refused(nodes, monkeypatch):
    loaded = (of_family("SDXL"), "clip", "vae")
    monkeypatch.setattr(nodes.folders, "full_path", lambda kind, name: name)
    monkeypatch.setattr(nodes.folders, "load_checkpoint", lambda path: loaded)
    decision = chosen(card("checkpoint", "boat", None), card("lora", "ink", "sd15"))
    with pytest.raises(ValueError, match="ink is a LoRA for sd15, but boat is sdxl"):
        nodes.LoadSelected.execute(None, None, decision, 1.0)
