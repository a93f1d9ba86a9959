"""`make screenshots`: the pictures of docs/ and the thumbnails of workflows/, from real runs.

    python -m tools.screenshots [--only thumbnails|pages|check_in|taq] [--frontend pinned|newest]

Everything shown follows the miniature's weights: run it again when those change.
"""

import argparse
import contextlib
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, sync_playwright

from tools.browser import MISSING, find, launch
from tools.comfy import NEWEST_FRONTEND, ROOT, Graph, Server
from tools.demo import BASE, assemble_models
from tools.page import (
    CHECK_IN,
    WORKFLOWS,
    answered,
    asked,
    bring_into_view,
    check_in_graph,
    close_notices,
    drawn,
    load_graph,
    load_workflow,
    node,
    node_box,
    open_library,
    open_workflow,
    press_run,
    run,
    set_nodes_2,
    set_setting,
    write_request,
)

DOCS = ROOT / "docs"
NODES = DOCS / "nodes"
HELP = ROOT / "web" / "docs"
"""What ComfyUI shows beside a node; only what lies here reaches its users."""
THUMBNAIL_SIZE = 512
HELP_LOOK = "nodes2_dark"
PREVIEWS_ARE_THERE = (
    "[...document.querySelectorAll('.personalq-picture img[src]')].every((image) => image.complete)"
)
WITH_GRAPH = {"x": 0, "y": 0, "width": 1600, "height": 1040}
"""The part of the page that the workflow fills."""
WHOLE_GRAPH = "Object.assign(app.canvas.ds, {scale: 0.8, offset: [60, 90]})"
TAQ, COMPARE = "PersonalQTAQQuantize", "PersonalQTAQCompare"
SAVE, LOAD = "PersonalQSaveTAQModel", "PersonalQLoadTAQModel"
LOAD_SELECTED, MARK = "PersonalQLoadSelected", "PersonalQMarkTrigger"
NODE_STATES = {
    "check_in_asks": "Several models fit: Check-in asks",
    "check_in_far": "The same at half size, as in a large graph",
    "check_in_chose": "Chosen, why, and the prompt with its change",
    "check_in_beside": "Two things and a style",
    "check_in_answered": "An answer, to be changed or forgotten",
    "check_in_none": "None of these",
    "check_in_nothing_fits": "Nothing fits: the nearest three and what they lack",
    "check_in_imported": "A workflow or picture from elsewhere, not yet run here",
    "check_in_error": "An error and its remedy",
    "load_selected": "What Load Selected applied",
    "taq_running": "TAQ Quantize while it fits and packs",
    "taq_quantize": "Bytes by kind of layer, and how finely the trigger is read",
    "taq_lora_after": "A LoRA after it works in the slower way",
    "mark_trigger": "Mark Trigger",
    "taq_save": "Save TAQ Model",
    "taq_load": "Load TAQ Model",
    "taq_compare": "TAQ Compare",
}
"""State of a node -> what the gallery says of it."""


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
        graph = page.evaluate("app.graphToPrompt().then(({output}) => output)")
        for entry in graph.values():
            if entry["class_type"] == CHECK_IN:
                entry["inputs"]["when_unsure"] = "best match"
        target = (ROOT / "workflows" / name).with_suffix(".jpg")
        picture_of(server, graph, target, THUMBNAIL_SIZE)


class Look:
    """One page in one theme, and where its pictures go."""

    def __init__(self, page: Page, server: Server, ending: str) -> None:
        self.page, self.server, self.ending = page, server, ending

    def keep(
        self, folder: Path, name: str, part: Locator | None = None, clip: Any = None
    ) -> None:
        """Write docs/.../NAME_LOOK.png, and beside the help pages what those show.

        part: of the page; clip: or its x, y, width and height; else the whole page
        """
        self.page.mouse.move(700, 1390)  # over nothing
        self.page.wait_for_timeout(600)
        self.page.wait_for_function(PREVIEWS_ARE_THERE)
        path = folder / f"{name}_{self.ending}.png"
        if part is not None:
            part.screenshot(path=path)
        else:
            self.page.screenshot(path=path, clip=clip)
        shrink(path)
        shown = HELP / f"{name}.png"
        if self.ending == HELP_LOOK and shown.name in help_pictures():
            shutil.copy(path, shown)

    def node(self, name: str, kind: str, scale: float = 1.0) -> None:
        """A picture of the first node of a kind, whole."""
        self.page.evaluate("app.canvas.deselectAll?.()")
        bring_into_view(self.page, scale, kind)
        left, top, width, height = node_box(self.page, kind)
        edge = 14 * scale
        self.keep(
            NODES, name,
            clip={"x": left - edge, "y": top - edge,
                  "width": width + 2 * edge, "height": height + 2 * edge},
        )  # fmt: skip


def shrink(path: Path) -> None:
    """The same picture with a palette."""
    with Image.open(path) as picture:
        colours = picture.convert("RGB")
    # Refined by k-means, or a small green badge would turn grey.
    small = colours.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def help_pictures() -> set[str]:
    """Names of the pictures that the help pages show."""
    text = "".join(path.read_text() for path in HELP.glob("*.md"))
    return set(re.findall(r"\]\((\w+\.png)\)", text))


def pages(look: Look) -> None:
    """The whole page: the finished graph, a question in it, the library, the settings."""
    page = look.page
    load_workflow(page)
    page.evaluate(WHOLE_GRAPH)
    press_run(page)
    answered(page, "barnaby")
    drawn(page)
    close_notices(page)
    look.keep(DOCS, "graph", clip=WITH_GRAPH)
    load_workflow(page)  # or the picture of the run before would stand beside the question
    page.evaluate(WHOLE_GRAPH)
    write_request(page, "Barnaby the bear")
    press_run(page)
    asked(page)
    look.keep(DOCS, "question", clip=WITH_GRAPH)
    open_library(page)
    page.locator(".personalq-tile").first.wait_for()
    library = page.locator(".personalq-library")
    look.keep(DOCS, "library", library)
    page.locator(".personalq-tile", has_text="barnaby v4").click()
    page.locator(".personalq-fact-list").wait_for()
    look.keep(DOCS, "library_card", library)
    open_library(page)
    page.route("**/personalq/status*", as_anyones)
    page.keyboard.press("Control+,")
    page.get_by_text("PersonalQ", exact=True).last.click()
    page.locator(".personalq-settings", has_text="loras").wait_for()
    look.keep(DOCS, "settings", page.get_by_role("dialog"))
    page.keyboard.press("Escape")
    page.unroute("**/personalq/status*")


def as_anyones(route: Route) -> None:
    """The same answer with another folder's name: where this was made concerns nobody."""
    answer = route.fetch()
    route.fulfill(response=answer, body=answer.text().replace(str(BASE), "/home/you/ComfyUI"))


def check_in_states(look: Look) -> None:
    """The Check-in Selector in every state."""
    page = look.page
    gone = "lora:gone.safetensors#0123456789"
    for name, request, selection in (
        ("chose", "my newest bear on the beach", ""),
        ("beside", "my newest bear and Bolt on the beach, workshop blueprint style", ""),
        ("none", "Barnaby the bear", "none"),
        ("nothing_fits", "a steam locomotive crossing a viaduct", ""),
        ("error", "Barnaby the bear", gone),
        ("asks", "Barnaby the bear", ""),
    ):
        load_state(page, request, selection)
        look.node(f"check_in_{name}", CHECK_IN)
    look.node("check_in_far", CHECK_IN, scale=0.5)
    bring_into_view(page)
    page.locator(".personalq-card", has_text="barnaby v2").click()
    answered(page, "barnaby v2")
    look.node("check_in_answered", CHECK_IN)
    graph = page.evaluate("app.graph.serialize()")
    for entry in graph["nodes"]:
        entry["properties"].pop("personalq", None)
    load_graph(page, graph)
    look.node("check_in_imported", CHECK_IN)


def taq_states(look: Look) -> None:
    """The other nodes: running, done, before a LoRA, saved, loaded, compared."""
    page = look.page
    load_workflow(page)
    page.evaluate(
        f"const add = (kind, pos) => {{ const n = LiteGraph.createNode(kind); n.pos = pos;"
        f" app.graph.add(n); return n; }};"
        f"{node(TAQ)}.connect(0, add('{SAVE}', [1700, 80]), 'model');"
        f"const mark = add('{MARK}', [1700, 300]), look = add('PreviewAny', [2200, 300]);"
        f"{node('CheckpointLoaderSimple')}.connect(1, mark, 'clip');"
        f"{node(CHECK_IN)}.connect(1, mark, 'text'); {node(CHECK_IN)}.connect(2, mark, 'trigger');"
        "mark.connect(1, look, 0)"
    )
    # At 8 bits nothing is fitted, and packing alone is over before it is pictured.
    page.evaluate(f"{node(TAQ)}.widgets.find(w => w.name === 'format').value = '4-bit'")
    forget_results(page, look.server)  # or what was fitted for another look is not fitted again
    bring_into_view(page)
    run(page)
    page.locator(".personalq-progress").first.wait_for(timeout=300_000)
    look.node("taq_running", TAQ)
    drawn(page)
    look.node("taq_quantize", TAQ)
    look.node("load_selected", LOAD_SELECTED)
    look.node("mark_trigger", MARK)
    look.node("taq_save", SAVE)
    page.evaluate(
        "(() => { const lora = LiteGraph.createNode('LoraLoaderModelOnly');"
        f" lora.pos = [1700, 800]; app.graph.add(lora); {node(TAQ)}.connect(0, lora, 0); }})()"
    )
    look.node("taq_lora_after", TAQ)
    saved = page.evaluate(f"{node(SAVE)}.properties.personalq_told[0]").partition(":")[0]
    shelf = look.server.models / "diffusion_models" / Path(saved).name
    shutil.copy(look.server.output / saved, shelf)
    page.evaluate("app.refreshComboInNodes()")
    page.wait_for_timeout(1500)
    load_graph(page, loaded_graph(shelf.name))
    run(page)
    page.locator(".personalq-kinds").wait_for(timeout=300_000)
    look.node("taq_load", LOAD)
    shelf.unlink()
    load_workflow(page, "taq_compare")
    run(page)
    page.wait_for_function(f"app.nodeOutputs[{node(COMPARE)}.id]?.images", timeout=120_000)
    page.wait_for_timeout(1500)
    look.node("taq_compare", COMPARE)


def forget_results(page: Page, server: Server) -> None:
    """Empty ComfyUI's cache, which else answers for what has run before."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    page.wait_for_timeout(1000)  # ComfyUI does it between runs, some time after its answer


def loaded_graph(name: str) -> dict[str, Any]:
    """A graph that loads a saved model and shows its report."""
    load = {
        "id": 1, "type": LOAD, "pos": [100, 100], "size": [340, 120], "flags": {}, "order": 0,
        "mode": 0, "properties": {}, "inputs": [], "widgets_values": [name],
        "outputs": [
            {"name": "model", "type": "MODEL", "links": []},
            {"name": "trigger", "type": "STRING", "links": []},
            {"name": "report", "type": "STRING", "links": [1]},
        ],
    }  # fmt: skip
    sink = {
        "id": 2, "type": "PreviewAny", "pos": [600, 100], "size": [300, 150], "flags": {},
        "order": 1, "mode": 0, "properties": {}, "outputs": [], "widgets_values": [],
        "inputs": [{"name": "source", "type": "*", "link": 1}],
    }  # fmt: skip
    return {
        "last_node_id": 2, "last_link_id": 1, "nodes": [load, sink], "version": 0.4,
        "links": [[1, 1, 2, 2, 0, "STRING"]], "groups": [], "config": {}, "extra": {},
    }  # fmt: skip


def gallery() -> None:
    """docs/nodes.md: every node in every state, on both pages, in the reader's own theme."""
    lines = [
        "# Every node in every state", "",
        "Made by `make screenshots`: real runs on the miniature. LiteGraph on the pinned graph "
        "page, Nodes 2.0 on the newest; dark or light as this page is.", "",
    ]  # fmt: skip
    for name, title in NODE_STATES.items():
        lines += [f"## {title}", "", "| Nodes 2.0 | LiteGraph |", "|---|---|"]
        pictures = (_in_both_themes(f"nodes/{name}{page}", title) for page in ("_nodes2", ""))
        lines += ["| " + " | ".join(pictures) + " |", ""]
    (DOCS / "nodes.md").write_text("\n".join(lines))


def _in_both_themes(path: str, title: str) -> str:
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{path}_dark.png">'
    return f'<picture>{dark}<img src="{path}_light.png" width="400" alt="{title}"></picture>'


def load_state(page: Page, request: str, selection: str) -> None:
    """A small graph, run until its panel shows something."""
    graph = check_in_graph(request)
    graph["nodes"][0]["widgets_values"][1] = selection
    load_graph(page, graph)
    run(page)
    page.locator(".personalq-question, .personalq-prompt, .personalq-error").first.wait_for()
    page.wait_for_timeout(1500)
    with contextlib.suppress(Exception):
        page.keyboard.press("Escape")  # the page's own dialog of an error


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", choices=("thumbnails", "pages", "check_in", "taq"))
    parser.add_argument("--frontend", choices=("pinned", "newest"))
    options = parser.parse_args()
    chromium = find()
    if not chromium:
        sys.exit(f"No screenshots: {MISSING}")
    assemble_models(BASE / "models")
    NODES.mkdir(exist_ok=True)
    for newest in (False, True):
        if options.frontend in (None, "newest" if newest else "pinned"):
            served = Server(BASE, frontend=NEWEST_FRONTEND if newest else None)
            with served as server, sync_playwright() as playwright:
                take(launch(playwright, chromium), server, newest, options.only)
    gallery()


def take(browser: Browser, server: Server, newest: bool, only: str | None) -> None:
    """All pictures, or those of one kind, on one graph page."""
    page = browser.new_page(viewport={"width": 1600, "height": 1400})
    page.add_init_script("localStorage.vueNodesBannerDismissed = 'true'")
    open_workflow(page, server)
    set_nodes_2(page, newest)
    if only in (None, "thumbnails") and not newest:
        thumbnails(page, server)
    for theme in ("dark", "light"):
        set_setting(page, "Comfy.ColorPalette", theme)
        look = Look(page, server, f"nodes2_{theme}" if newest else theme)
        for name, step in (
            ("pages", pages), ("check_in", check_in_states), ("taq", taq_states),
        ):  # fmt: skip
            if only in (None, name):
                step(look)
    browser.close()


if __name__ == "__main__":
    main()
