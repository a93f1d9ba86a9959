"""The library in the side bar."""

import json
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import HOSTILE
from tests.core.library.files import write
from tools.comfy import Server
from tools.page import (
    CHECK_IN,
    check_in_graph,
    load_graph,
    node,
    open_library,
    open_page,
    open_whole_library,
    set_setting,
)


@pytest.fixture
def library(litegraph: Page) -> Page:
    open_whole_library(litegraph)
    return litegraph


def test_search_while_typing(library: Page, screenshot: Callable):
    tiles = library.locator(".personalq-tile")
    assert tiles.count() > 6
    screenshot(library)
    library.get_by_role("searchbox", name="Search the library").press_sequentially("barn")
    expect(tiles.first).to_contain_text("barnaby")
    expect(tiles).to_have_count(4)
    library.get_by_label("Kind").select_option("checkpoint")
    expect(library.locator(".personalq-empty")).to_contain_text("No model fits")
    library.get_by_role("button", name="show all").click()
    expect(library.get_by_role("searchbox")).to_be_focused()
    expect(tiles.nth(6)).to_be_visible()
    library.get_by_role("searchbox").press_sequentially("my newest barnaby")
    expect(tiles.first).to_contain_text("barnaby v4")


def test_arrow_keys_walk_the_grid(library: Page):
    tiles = library.locator(".personalq-tile")
    count = tiles.count()
    tiles.first.focus()
    library.keyboard.press("End")
    expect(tiles.nth(count - 1)).to_be_focused()
    library.keyboard.press("Home")
    library.keyboard.press("ArrowRight")
    expect(tiles.nth(1)).to_be_focused()
    library.keyboard.press("Enter")
    expect(library.get_by_role("button", name="back", exact=True)).to_be_focused()
    library.keyboard.press("Escape")
    expect(tiles.nth(1)).to_be_focused()


def test_facts_and_own_notes(library: Page, page_server: Server, screenshot: Callable):
    library.locator(".personalq-tile", has_text="barnaby v3").click()
    facts = library.locator(".personalq-fact-list")
    expect(facts).to_contain_text("A1111 sidecar")
    library.get_by_role("textbox", name="Title").fill("Barnaby in the garden")
    library.get_by_role("textbox", name="Your note").fill("photographed in June")
    library.get_by_role("button", name="save", exact=True).click()
    expect(facts).to_contain_text("your note")
    expect(facts).to_contain_text("photographed in June")
    screenshot(library)
    library.get_by_role("button", name="back", exact=True).click()
    search = library.get_by_role("searchbox")
    search.fill("garden")
    expect(library.locator(".personalq-tile").first).to_contain_text("Barnaby in the garden")

    library.get_by_role("button", name="rescan").click()
    expect(library.get_by_role("button", name="rescan")).to_be_enabled()
    assert card(page_server, "barnaby_v3")["title"] == "Barnaby in the garden"

    library.locator(".personalq-tile").first.click()
    library.get_by_role("button", name="take notes back").click()
    expect(facts).not_to_contain_text("your note")
    assert card(page_server, "barnaby_v3")["title"] == "barnaby v3"


def card(server: Server, name: str) -> dict:
    query = urllib.parse.urlencode({"id": f"lora:{name}.safetensors"})
    with urllib.request.urlopen(f"{server.url}/personalq/card?{query}") as answer:
        return json.load(answer)


def test_rescan_finds_what_is_new(library: Page, page_server: Server):
    path = page_server.models / "loras" / "lighthouse.safetensors"
    write(path, metadata={"modelspec.title": "Lighthouse", "modelspec.date": "2031-01-01"}, fill=5)
    tile = library.locator(".personalq-tile", has_text="Lighthouse")
    try:
        library.get_by_role("button", name="rescan").click()
        expect(tile).to_be_visible()
    finally:
        path.unlink()
    library.get_by_role("button", name="rescan").click()
    expect(tile).to_have_count(0)


def test_a_lost_server_is_told_and_found_again(library: Page):
    cards = "**/personalq/cards*"
    library.route(cards, lambda route: route.abort())
    library.get_by_role("searchbox").fill("barnaby")
    expect(library.get_by_role("status").filter(has_text="fetch")).to_be_visible()
    library.unroute(cards)
    library.get_by_role("searchbox").fill("mug")
    expect(library.locator(".personalq-tile").first).to_contain_text("mug")


def test_hostile_card_is_only_text(library: Page):
    library.get_by_role("searchbox").fill("zzdragon")
    library.locator(".personalq-tile", has_text="<img src=").click()
    facts = library.locator(".personalq-fact-list")
    shown = HOSTILE.replace("\u202e", "")  # what turns the rest of a line around is taken out
    assert shown in facts.locator("dd").first.inner_text()
    own = library.get_by_label("Trigger to use")
    assert (own.get_attribute("placeholder") or "").startswith("zzdragon <img src=")
    pictures = library.locator(".personalq-library img")
    sources = pictures.evaluate_all("found => found.map(img => img.getAttribute('src') ?? '')")
    assert all("/personalq/preview?" in source for source in sources)
    width = library.locator(".personalq-library").bounding_box()["width"]
    assert facts.bounding_box()["width"] <= width
    assert library.evaluate("window.hurt") is None


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_no_serious_accessibility_violation(library: Page, theme: str, screenshot: Callable):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    set_setting(library, "Comfy.ColorPalette", theme)
    found = []
    library.get_by_role("searchbox").fill("qqqqqqq")
    library.locator(".personalq-empty").wait_for()
    found += axe.run(library, context=".personalq-library").response["violations"]
    library.get_by_role("button", name="show all").click()
    library.locator(".personalq-tile").nth(6).wait_for()
    found += axe.run(library, context=".personalq-library").response["violations"]
    screenshot(library)
    library.locator(".personalq-tile").first.click()
    library.locator(".personalq-fact-list").wait_for()
    found += axe.run(library, context=".personalq-library").response["violations"]
    set_setting(library, "Comfy.ColorPalette", "dark")
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found] == []


def test_a_newcomer_sees_what_to_do(browser: Browser, tmp_path: Path, screenshot: Callable):
    with Server(tmp_path) as server:
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        open_page(page, server)
        open_library(page)
        empty = page.locator(".personalq-empty")
        expect(empty).to_contain_text("No models yet")
        expect(empty).to_contain_text(str(tmp_path / "models" / "loras"))
        screenshot(page)
        write(server.models / "loras" / "mine.safetensors", metadata={}, fill=1)
        page.get_by_role("button", name="rescan").click()
        expect(page.locator(".personalq-tile")).to_contain_text("mine")
        page.close()


def test_dragged_to_the_canvas_it_is_a_wired_node(page: Page):
    open_whole_library(page)
    page.locator(".personalq-tile", has_text="barnaby v4").drag_to(
        page.locator("#graph-canvas"), target_position={"x": 900, "y": 400}
    )
    page.wait_for_function(f"app.graph.nodes.length === 2 && {node(CHECK_IN)}")
    selection = node(CHECK_IN) + ".widgets[1].value"
    assert page.evaluate(selection).startswith("lora:barnaby_v4")
    assert page.evaluate("Object.keys(app.graph.serialize().links).length") == 1
    expect(page.get_by_label("PersonalQ check-in")).to_contain_text("barnaby_v4")


def test_it_is_wired_to_the_one_model_there_is(page: Page):
    page.evaluate("""() => {
        const loader = LiteGraph.createNode("CheckpointLoaderSimple");
        app.graph.add(loader);
    }""")
    open_whole_library(page)
    page.locator(".personalq-tile", has_text="barnaby v4").click()
    page.get_by_role("button", name="add to graph").click()
    page.wait_for_function(f"app.graph.nodes.length === 3 && {node(CHECK_IN)}")
    wired = "(n) => n.inputs.filter((i) => i.link != null).map((i) => i.name).sort()"
    load = node("PersonalQLoadSelected")
    assert page.evaluate(f"({wired})({load})") == ["clip", "decision", "model", "vae"]
    assert page.evaluate(f"({wired})({node(CHECK_IN)})") == ["model"]


@pytest.mark.parametrize(
    "title, chosen", [("barnaby v2", "lora:barnaby_v2"), ("miniature", "checkpoint:miniature")]
)
def test_dropped_on_a_check_in_node_it_is_its_answer(page: Page, title: str, chosen: str):
    load_graph(page, check_in_graph("Barnaby the bear"))
    open_whole_library(page)
    place = page.evaluate(
        f"(() => {{ const {{ pos, size }} = {node(CHECK_IN)};"
        " return app.canvasPosToClientPos([pos[0] + size[0] / 2, pos[1] + 20]); })()"
    )
    page.locator(".personalq-tile", has_text=title).first.hover()
    page.mouse.down()
    page.mouse.move(*place, steps=5)
    page.mouse.up()
    expect(page.locator(".personalq-panel")).to_contain_text(chosen.partition(":")[2])
    assert page.evaluate("app.graph.nodes.length") == 2
    assert page.evaluate(node(CHECK_IN) + ".widgets[1].value").startswith(chosen)


def test_a_checkpoint_becomes_a_loader(library: Page):
    library.get_by_label("Kind").select_option("checkpoint")
    library.locator(".personalq-tile").first.click()
    library.get_by_role("button", name="add to graph").click()
    loader = node("CheckpointLoaderSimple")
    assert library.evaluate(loader + ".widgets[0].value") == "miniature.safetensors"
