"""`make screenshots`: the pictures of docs/ and the thumbnails of workflows/, from real runs.

    python -m tools.screenshots [--only thumbnails|states] [--frontend pinned|newest]

The models' previews are drawn by the models themselves, so everything shown follows the miniature's
weights: run it again when those change.
"""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from tools.browser import MISSING, find, launch
from tools.comfy import NEWEST_FRONTEND, ROOT, Graph, Server
from tools.demo import BASE, assemble_models
from tools.page import (
    CHECK_IN,
    WORKFLOWS,
    answered,
    asked,
    check_in_graph,
    close_notices,
    drawn,
    load_graph,
    open_library,
    open_workflow,
    press_run,
    run,
    set_nodes_2,
    set_setting,
    write_request,
)
from tools.workflow import on_miniature

DOCS = ROOT / "docs"
HELP = ROOT / "web" / "docs"
"""What ComfyUI shows beside a node; only what lies here reaches its users."""
THUMBNAIL_SIZE = 512
THEMES = ("dark", "light")


def previews(server: Server, loras: Path) -> None:
    """Draw each personal model once, as the preview beside its file."""
    graph = json.loads((DOCS / "personal_concept_api.json").read_text())
    selector = next(n for n in graph.values() if n["class_type"] == CHECK_IN)
    for card in server.get("/personalq/cards?kind=lora")["cards"]:
        target = loras / card["name"].replace(".safetensors", ".preview.png")
        selector["inputs"].update(request=card["title"], selection=card["selection"])
        picture_of(server, graph, target, 256)
    server.post("/personalq/rescan", {})


def picture_of(server: Server, graph: Graph, target: Path, side: int) -> None:
    """Run a graph and write its saved picture, enlarged."""
    # To others than its own page ComfyUI does not repeat what cached nodes showed.
    result = server.wait(server.queue(graph, client_id="screenshots"))
    if not result.ok:
        sys.exit(f"{target.name}: {result.error}")
    saved = [image for image in result.images() if image["type"] == "output"]
    image = (saved or result.images())[-1]
    folder = server.output if image["type"] == "output" else server.base / "temp"
    with Image.open(folder / image["subfolder"] / image["filename"]) as picture:
        big = picture.convert("RGB")
        scale = max(1, side // max(big.size))
        big = big.resize((big.width * scale, big.height * scale), Image.Resampling.NEAREST)
        big.thumbnail((side, side))
        big.save(target, quality=85)


def thumbnails(page: Page, server: Server) -> None:
    """Each workflow opened as a template and run, as Browse Templates shows it."""
    for name in WORKFLOWS:
        open_workflow(page, server, name)
        graph = on_miniature(page.evaluate("app.graphToPrompt().then(({output}) => output)"))
        for entry in graph.values():
            if entry["class_type"] == CHECK_IN:
                entry["inputs"]["when_unsure"] = "best match"
        target = (ROOT / "workflows" / name).with_suffix(".jpg")
        picture_of(server, graph, target, THUMBNAIL_SIZE)


def states(page: Page, server: Server, theme: str, ending: str) -> None:
    """Every node in every state, and the library, in one theme."""
    open_workflow(page, server)
    set_setting(page, "Comfy.ColorPalette", theme)

    def keep(name: str, part: Locator | None = None) -> None:
        page.wait_for_timeout(600)
        (part or page).screenshot(path=DOCS / f"{name}_{ending}.png")
        if part and ending == "dark":
            shutil.copy(DOCS / f"{name}_{ending}.png", HELP / f"{name}.png")

    press_run(page)
    answered(page, "barnaby")
    drawn(page)
    close_notices(page)
    keep("graph")
    write_request(page, "Barnaby the bear")
    press_run(page)
    asked(page)
    keep("question")
    keep("taq_quantize", page.locator(".personalq-panel", has=page.locator(".personalq-bar")))

    panel = page.locator(".personalq-panel").first
    for name, request, selection in (
        ("asks", "Barnaby the bear", ""),
        ("chose", "my newest bear on the beach", ""),
        ("nothing_fits", "a steam locomotive crossing a viaduct", ""),
        ("error", "Barnaby the bear", "lora:gone.safetensors#0123456789"),
    ):
        load_state(page, request, selection)
        keep(f"check_in_{name}", panel)
    load_state(page, "Barnaby the bear", "")
    far(page)
    keep("check_in_far", page.locator("#graph-canvas-container, .graph-canvas-container").first)
    open_library(page)
    page.locator(".personalq-tile").first.wait_for()
    library = page.locator(".personalq-library")
    keep("library", library)
    page.locator(".personalq-tile", has_text="barnaby v4").click()
    page.locator(".personalq-fact-list").wait_for()
    keep("library_card", library)
    open_library(page)


def load_state(page: Page, request: str, selection: str) -> None:
    """A small graph, run until its panel shows something."""
    graph = check_in_graph(request)
    graph["nodes"][0]["widgets_values"][1] = selection
    load_graph(page, graph)
    page.evaluate("app.canvas.ds.scale = 1; app.canvas.ds.offset = [-300, 0]")  # all in sight
    run(page)
    page.locator(".personalq-question, .personalq-prompt, .personalq-error").first.wait_for()
    page.wait_for_timeout(1500)
    with contextlib.suppress(Exception):
        page.keyboard.press("Escape")  # the page's own dialog of an error


def far(page: Page) -> None:
    """Half size, as in a large graph."""
    page.evaluate("app.canvas.ds.changeScale(0.5); app.canvas.setDirty(true, true)")
    page.wait_for_timeout(800)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("thumbnails", "states"))
    parser.add_argument("--frontend", choices=("pinned", "newest"), default="pinned")
    options = parser.parse_args()
    chromium = find()
    if not chromium:
        sys.exit(f"No screenshots: {MISSING}")
    assemble_models(BASE / "models")
    newest = options.frontend == "newest"
    with Server(BASE, frontend=NEWEST_FRONTEND if newest else None) as server:
        previews(server, BASE / "models" / "loras")
        with sync_playwright() as playwright:
            page = launch(playwright, chromium).new_page(viewport={"width": 1600, "height": 1400})
            steps: dict[str, Callable[[], None]] = {
                "thumbnails": lambda: thumbnails(page, server),
                "states": lambda: [
                    states(page, server, theme, f"nodes2_{theme}" if newest else theme)
                    for theme in THEMES
                ],
            }
            open_workflow(page, server)
            set_nodes_2(page, newest)
            for name, step in steps.items():
                if options.only in (None, name):
                    step()


if __name__ == "__main__":
    main()
