"""What tests and screenshots do on the graph page, in one place, because pages change."""

from typing import Any

from playwright.sync_api import Page

from tools.comfy import ROOT, Server
from tools.demo import template_url
from tools.workflow import PERSONAL_CONCEPT, saved_on_miniature

CHECK_IN = "PersonalQCheckInSelector"
TITLE_BAR = 30
SETTLED_MS = 1000
"""What the page animates or writes behind its own time-outs is over by then."""


def node(kind: str) -> str:
    """A JavaScript expression for the first node of a kind."""
    return f"app.graph.nodes.find(n => n.type === '{kind}')"


def open_page(page: Page, server: Server) -> None:
    """Open the graph page; with a workflow, because without one it opens a dialog over itself."""
    open_workflow(page, server)


def open_workflow(page: Page, server: Server, name: str = PERSONAL_CONCEPT.stem) -> None:
    """Open workflows/NAME.json from the templates, then put it on the miniature."""
    page.goto(template_url(server, name))
    # A used profile's page first restores what was open last.
    shown = "window.app?.extensionManager?.workflow?.activeWorkflow?.filename"
    page.wait_for_function(
        f"{shown}?.startsWith({name!r}) && app.graph && {node(CHECK_IN)}", timeout=60_000
    )
    page.wait_for_timeout(SETTLED_MS)
    load_workflow(page, name)


def load_graph(page: Page, graph: dict[str, Any]) -> None:
    """Put a graph in the page's UI format on the canvas."""
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    bring_into_view(page)


def load_workflow(page: Page, name: str = PERSONAL_CONCEPT.stem) -> None:
    """Put workflows/NAME.json, on the miniature, on the canvas without opening the page anew."""
    known = page.evaluate("fetch('/object_info').then((answer) => answer.json())")
    load_graph(page, saved_on_miniature(ROOT / "workflows" / f"{name}.json", known))


def bring_into_view(page: Page, scale: float = 0.75, kind: str = CHECK_IN) -> None:
    """Put the first node of a kind, or of any, at the canvas' upper left.

    Small enough for the tallest question to be in view: what is not cannot be clicked.
    """
    page.evaluate(
        "scale => { const {nodes} = app.canvas.graph;"
        f" const [x, y] = (nodes.find(n => n.type === '{kind}') ?? nodes[0])?.pos ?? [0, 0];"
        " Object.assign(app.canvas.ds, {scale, offset: [160 / scale - x, 200 / scale - y]});"
        " app.canvas.setDirty(true, true); }",
        scale,
    )
    page.wait_for_timeout(SETTLED_MS)


def node_box(page: Page, kind: str) -> tuple[float, float, float, float]:
    """Where the first node of a kind is on the screen: left, top, width, height."""
    box = page.evaluate(
        f"(() => {{ const n = {node(kind)}, {{scale, offset}} = app.canvas.ds;"
        " const drawn = document.querySelector(`[data-node-id='${n.id}']`);"
        " if (drawn) { const r = drawn.getBoundingClientRect();"
        "   return [r.left, r.top, r.width, r.height]; }"
        " const {left, top} = app.canvas.canvas.getBoundingClientRect();"
        f" return [left + (n.pos[0] + offset[0]) * scale,"
        f"   top + (n.pos[1] - {TITLE_BAR} + offset[1]) * scale,"
        f"   n.size[0] * scale, (n.size[1] + {TITLE_BAR}) * scale]; }})()"
    )
    return tuple(box)


def open_subgraph(page: Page) -> None:
    """Look into the graph's only subgraph."""
    page.evaluate(
        "(() => { const outer = app.graph.nodes.find(n => n.isSubgraphNode?.());"
        " app.canvas.openSubgraph(outer.subgraph, outer); })()"
    )
    page.wait_for_timeout(SETTLED_MS)
    bring_into_view(page)


def set_nodes_2(page: Page, on: bool) -> None:
    """Switch between LiteGraph and Nodes 2.0."""
    set_setting(page, "Comfy.VueNodes.Enabled", on)


def set_setting(page: Page, name: str, value: object) -> None:
    script = "([name, value]) => app.extensionManager.setting.set(name, value)"
    page.evaluate(script, [name, value])
    page.wait_for_timeout(SETTLED_MS)


def write_request(page: Page, text: str) -> None:
    """Put a request into the Check-in Selector."""
    page.evaluate(
        f"text => {{ {node(CHECK_IN)}.widgets.find(w => w.name === 'request').value = text }}", text
    )


def press_run(page: Page) -> None:
    page.get_by_role("button", name="Run", exact=True).first.click()


def run(page: Page) -> None:
    """What the Run button does, wherever a page has it."""
    page.evaluate("void app.queuePrompt(0, 1)")


def asked(page: Page) -> None:
    """Wait until the panel shows a question."""
    page.locator(".personalq-card").first.wait_for(timeout=60_000)


def answered(page: Page, title: str) -> None:
    """Wait until the panel shows what was chosen."""
    page.locator(".personalq-prompt").wait_for(timeout=60_000)
    page.locator(".personalq-title", has_text=title).first.wait_for()


def drawn(page: Page) -> None:
    """Wait until the preview has its picture."""
    preview = f"app.nodeOutputs[{node('PreviewImage')}.id]"
    page.wait_for_function(f"{preview}?.images?.length > 0", timeout=300_000)
    page.wait_for_timeout(SETTLED_MS)


def open_library(page: Page) -> None:
    """Press the side bar's PersonalQ button."""
    page.locator(".personalq-tab-button, [data-testid=personalq-tab-button]").first.click()


def open_whole_library(page: Page) -> None:
    """Open the library and take away what an earlier visit searched and filtered for."""
    open_library(page)
    page.get_by_role("searchbox", name="Search the library").fill("")
    page.get_by_label("Kind").select_option("")
    page.get_by_label("Base").select_option("")
    page.wait_for_timeout(SETTLED_MS)  # or what was shown before would be taken for the whole
    page.locator(".personalq-tile", has_text="barnaby").first.wait_for()


def close_notices(page: Page) -> None:
    """Take away the page's own banners and toasts, for pictures."""
    for button in page.get_by_role("button", name="Close").all():
        if button.is_visible():
            button.click()
    page.wait_for_timeout(SETTLED_MS)


def check_in_graph(request: str, **properties: object) -> dict[str, Any]:
    """A small graph in UI format as one was saved first: Check-in, and its prompt looked at."""
    outputs = (
        ("decision", "PERSONALQ_DECISION"), ("prompt", "STRING"), ("trigger", "STRING"),
        ("lora_name", "COMBO"), ("checkpoint_name", "COMBO"), ("strength", "FLOAT"),
        ("text", "STRING"), ("diffusion_model_name", "COMBO"),
    )  # fmt: skip
    selector = {
        "id": 1, "type": CHECK_IN, "pos": [500, 100], "size": [420, 380], "flags": {}, "order": 0,
        "mode": 0, "properties": {"Node name for S&R": CHECK_IN, **properties},
        "inputs": [
            {"name": "model", "type": "MODEL", "link": None},
            {"name": "request", "type": "STRING", "link": None, "widget": {"name": "request"}},
        ],
        "outputs": [
            {"name": name, "type": kind, "links": [1] if name == "prompt" else []}
            for name, kind in outputs
        ],
        "widgets_values": [request, "", "ask"],
    }  # fmt: skip
    sink = {
        "id": 2, "type": "PreviewAny", "pos": [1000, 100], "size": [300, 150], "flags": {},
        "order": 1, "mode": 0, "properties": {"Node name for S&R": "PreviewAny"},
        "inputs": [{"name": "source", "type": "*", "link": 1}], "outputs": [], "widgets_values": [],
    }  # fmt: skip
    return {
        "last_node_id": 2, "last_link_id": 1, "nodes": [selector, sink],
        "links": [[1, 1, 1, 2, 0, "STRING"]], "groups": [], "config": {}, "extra": {},
        "version": 0.4,
    }  # fmt: skip


WORKFLOWS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
