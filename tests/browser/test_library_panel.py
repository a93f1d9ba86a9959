"""The library in the side bar."""

import json
import urllib.request
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tools.comfy import Server
from tools.page import CHECK_IN, node, open_library


@pytest.fixture
def library(litegraph: Page) -> Page:
    open_library(litegraph)
    litegraph.get_by_role("searchbox", name="Search the library").fill("")
    litegraph.get_by_label("Kind").select_option("")
    litegraph.locator(".personalq-tile", has_text="barnaby").first.wait_for()
    return litegraph


def test_search_while_typing(library: Page, screenshot: Callable):
    tiles = library.locator(".personalq-tile")
    assert tiles.count() > 6
    screenshot(library)
    library.get_by_role("searchbox", name="Search the library").press_sequentially("barn")
    expect(tiles.first).to_contain_text("barnaby")
    expect(tiles).to_have_count(4)
    library.get_by_label("Kind").select_option("checkpoint")
    expect(tiles).to_have_count(0)


def test_arrow_keys_walk_the_grid(library: Page):
    tiles = library.locator(".personalq-tile")
    tiles.first.focus()
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

    body = {"id": "lora:barnaby_v3.safetensors", "note": {"title": None, "note": None}}
    page_server.post("/personalq/note", body)
    with urllib.request.urlopen(
        f"{page_server.url}/personalq/card?id=lora:barnaby_v3.safetensors"
    ) as answer:
        assert json.load(answer)["title"] == "barnaby v3"


def test_dragged_to_the_canvas_it_is_a_wired_node(library: Page):
    library.locator(".personalq-tile", has_text="barnaby v4").drag_to(
        library.locator("#graph-canvas"), target_position={"x": 900, "y": 400}
    )
    library.wait_for_function(f"app.graph.nodes.length === 2 && {node(CHECK_IN)}")
    assert library.evaluate(node(CHECK_IN) + ".widgets[1].value").startswith("lora:barnaby_v4")
    assert library.evaluate("Object.keys(app.graph.serialize().links).length") == 1
    expect(library.locator(".personalq-panel")).to_contain_text("barnaby_v4")


def test_a_checkpoint_becomes_a_loader(library: Page):
    library.get_by_label("Kind").select_option("checkpoint")
    library.locator(".personalq-tile").first.click()
    library.get_by_role("button", name="add to graph").click()
    loader = node("CheckpointLoaderSimple")
    assert library.evaluate(loader + ".widgets[0].value") == "miniature.safetensors"
