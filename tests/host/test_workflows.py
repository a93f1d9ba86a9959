"""Every shared workflow runs on the miniature, and so does the API page's script."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.comfy import ROOT, Server
from tools.workflow import load_graph, on_miniature

CLIENT = "page"  # to others ComfyUI does not repeat what cached nodes showed
STEPS = 2  # that it runs is asked here, not how it looks


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda p: p.stem)
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
