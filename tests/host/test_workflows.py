"""Every shared workflow runs on the miniature, and so does the API page's script."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.comfy import ROOT, Server
from tools.workflow import PERSONAL_CONCEPT, load_graph, on_miniature, saved_on_miniature

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
FOR_USERS = [path for path in WORKFLOWS if path != PERSONAL_CONCEPT]
ORDINARY = ("v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors")
CLIENT = "page"  # to others ComfyUI does not repeat what cached nodes showed
STEPS = 2  # that it runs is asked here, not how it looks
each_of = functools.partial(pytest.mark.parametrize, "path", ids=lambda path: path.stem)


@each_of(WORKFLOWS)
def test_workflow_runs(comfy: Server, miniature: Path, path: Path):
    graph = on_miniature(load_graph(path, comfy.get("/object_info")))
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = STEPS
    run = comfy.wait(comfy.queue(graph, client_id=CLIENT))
    decision = run.ui("personalq")[0]
    assert (decision["status"] == "ask") == (path.stem == "ask_and_answer")
    if decision["status"] == "ask":
        assert not run.images()
        selector = next(n for n in graph.values() if "selection" in n["inputs"])
        selector["inputs"]["selection"] = decision["candidates"][-1]["selection"]
        run = comfy.wait(comfy.queue(graph, client_id=CLIENT))
    assert run.ok, run.error
    assert comfy.image(run.images()[-1])
    assert path.with_suffix(".jpg").read_bytes().startswith(b"\xff\xd8\xff")


@each_of(FOR_USERS)
def test_users_can_run_it_with_models_of_their_own(comfy: Server, path: Path):
    workflow = json.loads(path.read_text())
    assert [node["type"] for node in workflow["nodes"]].count("Note") == 1
    graph = load_graph(path, comfy.get("/object_info"))
    for node in graph.values():
        inputs = node["inputs"]
        assert inputs.get("ckpt_name", ORDINARY[0]) in ORDINARY
        assert inputs.get("width", 512) >= 512
        assert inputs.get("cfg", 7) >= 6
        if node["class_type"].startswith("PersonalQTAQ"):
            assert inputs["clip"][0] == inputs["model"][0]  # of Load Selected: with the LoRA's
            assert "latent_image" in inputs


def test_only_the_demo_stays_at_home():
    kept = {line for line in (ROOT / ".comfyignore").read_text().split() if "workflows" in line}
    assert kept == {f"workflows/{PERSONAL_CONCEPT.stem}.*"}


@each_of(WORKFLOWS)
def test_both_forms_are_put_on_the_miniature_alike(comfy: Server, tmp_path: Path, path: Path):
    known = comfy.get("/object_info")
    saved = tmp_path / path.name
    saved.write_text(json.dumps(saved_on_miniature(path, known)))
    assert load_graph(saved, known) == on_miniature(load_graph(path, known))


def test_the_api_pages_script_draws(comfy: Server, miniature: Path, tmp_path: Path):
    command = [sys.executable, str(ROOT / "docs" / "drive.py"), "--server", comfy.url]
    command += ["--answer", "4", "--out", str(tmp_path), "Barnaby the bear"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "4  barnaby v4: " in done.stderr
    assert "brnbyvfour bear" in done.stderr
    pictures = [Path(line) for line in done.stdout.split()]
    assert pictures
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
