"""What a person does in the graph: open a template, press Run, answer a question."""

import urllib.parse
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tools.page import (
    CHECK_IN,
    SETTLED_MS,
    answered,
    asked,
    bring_into_view,
    check_in_graph,
    drawn,
    load_graph,
    load_workflow,
    node,
    node_box,
    press_run,
    run,
    write_request,
)

QUESTION = "Barnaby the bear"
TAQ = "PersonalQTAQQuantize"


def ask(page: Page, request: str = QUESTION) -> None:
    """A small graph whose request fits several models, run until it asks."""
    load_graph(page, check_in_graph(request))
    run(page)
    asked(page)


def saved_values(page: Page) -> list:
    return page.evaluate(node(CHECK_IN) + ".serialize().widgets_values")


def test_question_click_picture(page: Page, screenshot: Callable):
    load_workflow(page)
    write_request(page, QUESTION)
    press_run(page)
    asked(page)
    assert page.locator(".personalq-card").count() >= 2
    screenshot(page)
    card = page.locator(".personalq-card").nth(1)
    title = card.locator(".personalq-title").inner_text()
    card.click()
    answered(page, title)
    drawn(page)

    drop_saved_picture(page)
    name = title.replace(" ", "_")
    page.locator(".personalq-panel", has_text=f"Your choice: {name}").wait_for()
    assert saved_values(page)[1].startswith(f"lora:{name}")
    assert page.locator(".personalq-card").count() == 0


def drop_saved_picture(page: Page) -> None:
    """What the page does with a picture that is dragged in: open the workflow it holds."""
    image = page.evaluate(f"app.nodeOutputs[{node('SaveImage')}.id].images[0]")
    address = f"/view?{urllib.parse.urlencode(image)}"
    page.evaluate(
        "async address => { const picture = await (await fetch(address)).blob();"
        " await app.handleFile(new File([picture], 'dropped.png', {type: 'image/png'})); }",
        address,
    )
    page.wait_for_timeout(SETTLED_MS)


def test_a_clear_request_needs_no_question(litegraph: Page):
    load_graph(litegraph, check_in_graph("my newest bear on the beach"))
    run(litegraph)
    answered(litegraph, "barnaby v4")
    expect(litegraph.locator(".personalq-prompt mark")).to_have_text("brnbyvfour")
    assert saved_values(litegraph)[:3] == ["my newest bear on the beach", "", "ask"]


def test_keyboard_alone_answers(page: Page):
    load_graph(page, check_in_graph(QUESTION))
    page.keyboard.press("Control+Enter")
    asked(page)
    focused = "document.activeElement?.classList.contains('personalq-card')"
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate(focused):
            break
    assert page.evaluate(focused)
    cards = page.locator(".personalq-card")
    cards.first.focus()
    page.keyboard.press("ArrowDown")
    expect(cards.nth(1)).to_be_focused()
    page.keyboard.press("Delete")  # must not reach the canvas
    page.keyboard.press("Escape")
    assert not page.evaluate(focused)
    cards.nth(1).focus()
    page.keyboard.press("Enter")
    answered(page, "barnaby v2")
    assert saved_values(page)[1].startswith("lora:barnaby_v2")
    # What had the focus is gone; the next Tab goes on in the panel all the same.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.personalq-panel') !== null")


def test_an_answer_in_own_words(litegraph: Page):
    ask(litegraph)
    box = litegraph.get_by_role("textbox", name="Answer in your own words")
    box.fill("the one with the yellow hat")
    box.press("Enter")
    answered(litegraph, "barnaby v2")
    assert saved_values(litegraph)[1].startswith("lora:barnaby_v2")


def test_none_of_these_keeps_the_prompt(litegraph: Page):
    ask(litegraph)
    litegraph.get_by_role("button", name="None of these").click()
    expect(litegraph.locator(".personalq-prompt")).to_have_text(QUESTION, timeout=60_000)
    assert saved_values(litegraph)[1] == "none"


def test_change_forget_and_always_ask(litegraph: Page):
    ask(litegraph)
    litegraph.locator(".personalq-card").first.click()
    answered(litegraph, "barnaby v1")
    litegraph.get_by_role("button", name="change").click()
    litegraph.locator(".personalq-card").nth(2).click()
    answered(litegraph, "barnaby v3")

    litegraph.get_by_role("button", name="forget").click()
    assert saved_values(litegraph)[1] == ""
    run(litegraph)
    asked(litegraph)
    litegraph.get_by_role("checkbox", name="always ask here").check()
    litegraph.locator(".personalq-card").first.click()
    answered(litegraph, "barnaby v1")
    assert saved_values(litegraph)[1] == ""


def test_nothing_fits_shows_the_nearest(litegraph: Page, screenshot: Callable):
    load_graph(litegraph, check_in_graph("a steam locomotive crossing a viaduct"))
    run(litegraph)
    litegraph.locator(".personalq-question", has_text="fits").wait_for(timeout=60_000)
    assert 1 <= litegraph.locator(".personalq-card").count() <= 3
    missing = litegraph.locator(".personalq-difference").first
    expect(missing).to_contain_text("says nothing of steam, locomotive")
    screenshot(litegraph)


def test_an_error_says_what_to_do(litegraph: Page, screenshot: Callable):
    graph = check_in_graph(QUESTION)
    graph["nodes"][0]["widgets_values"][1] = "lora:gone.safetensors#0123456789"
    load_graph(litegraph, graph)
    expect(litegraph.locator(".personalq-panel")).to_contain_text("gone")
    run(litegraph)
    error = litegraph.locator(".personalq-error")
    error.wait_for(timeout=60_000)
    expect(error).to_contain_text("choose again")
    screenshot(litegraph)
    litegraph.keyboard.press("Escape")
    litegraph.evaluate("document.querySelector('.personalq-panel .personalq-button').click()")
    asked(litegraph)


def test_an_open_question_stops_auto_queueing(litegraph: Page):
    litegraph.evaluate("app.extensionManager.queueSettings.mode = 'instant'")
    litegraph.evaluate("window.runs = 0; app.api.addEventListener('execution_start', () => runs++)")
    ask(litegraph)
    litegraph.wait_for_timeout(3000)
    assert litegraph.evaluate("app.extensionManager.queueSettings.mode") == "disabled"
    assert litegraph.evaluate("runs") <= 2
    litegraph.evaluate("app.graph.clear()")
    assert litegraph.evaluate("app.extensionManager.queueSettings.mode") == "instant"


def test_a_question_is_readable_at_half_size(page: Page):
    ask(page)
    # The panel, not the node: Nodes 2.0 itself lowers other widgets of a far node.
    height = "document.querySelector('.personalq-content').offsetHeight"
    before = page.evaluate(height)
    bring_into_view(page, scale=0.5)
    letters = page.evaluate(
        "['.personalq-question', '.personalq-card .personalq-title', '.personalq-difference'].map("
        "name => 0.5 * parseFloat(getComputedStyle(document.querySelector(name)).fontSize))"
    )
    assert min(letters) >= 9  # pixels on the screen
    panel = page.locator(".personalq-panel").bounding_box()
    last = page.get_by_role("button", name="None of these").bounding_box()
    assert panel and last and last["y"] + last["height"] <= panel["y"] + panel["height"] + 1
    assert page.evaluate(height) == before


def test_a_node_can_be_resized(page: Page):
    ask(page)
    panel = page.locator(".personalq-panel")
    narrow = panel.bounding_box()
    left, top, width, height = node_box(page, CHECK_IN)
    page.mouse.move(left + width - 4, top + height - 4)
    page.mouse.down()
    page.mouse.move(left + width + 150, top + height + 90, steps=6)
    page.mouse.up()
    page.wait_for_timeout(SETTLED_MS)
    wide = panel.bounding_box()
    assert narrow and wide and wide["width"] > narrow["width"] + 100
    page.locator(".personalq-card").last.click()
    answered(page, "barnaby v4")
    after = panel.bounding_box()
    assert after and after["width"] == pytest.approx(wide["width"], abs=2)


def test_taq_shows_how_far_it_is_and_what_it_saved(litegraph: Page):
    load_workflow(litegraph)
    write_request(litegraph, "my newest bear in the snow")
    seen = litegraph.evaluate_handle(
        "(() => { const seen = []; new MutationObserver(() => { const bar ="
        " document.querySelector('.personalq-progress');"
        " if (bar) seen.push([bar.ariaValueNow, bar.ariaValueMax]);"
        "}).observe(document.body, {childList: true, subtree: true}); return seen; })()"
    )
    run(litegraph)
    sizes = litegraph.locator(".personalq-panel", has=litegraph.locator(".personalq-kinds"))
    sizes.wait_for(timeout=60_000)
    assert seen.json_value()
    assert all(0 <= int(done) <= int(total) for done, total in seen.json_value())
    expect(sizes).to_contain_text("brnbyvfour bear")
    expect(sizes).to_contain_text("layers that read the prompt stay at 16 bits")
    assert sizes.locator(".personalq-kinds li").count() == 4
    told = litegraph.locator(".personalq-panel", has_text="barnaby v4: strength 1")
    expect(told).to_be_visible()

    slower = litegraph.get_by_text("a little slower in each step")
    expect(slower).to_have_count(0)
    litegraph.evaluate(
        "(() => { const lora = LiteGraph.createNode('LoraLoaderModelOnly'); app.graph.add(lora);"
        f" {node(TAQ)}.connect(0, lora, 0); }})()"
    )
    expect(slower).to_be_visible()


def test_compare_shows_its_picture_in_the_node(page: Page):
    load_workflow(page, "taq_compare")
    page.evaluate(f"{node('PersonalQTAQCompare')}.widgets.find(w => w.name === 'steps').value = 2")
    run(page)
    shown = f"app.nodeOutputs[{node('PersonalQTAQCompare')}.id]?.images"
    page.wait_for_function(f"{shown}?.length === 1", timeout=120_000)
    drawn = f"{node('PersonalQTAQCompare')}.imgs?.[0]?.naturalWidth > 100"
    page.wait_for_function(f"{drawn} || document.querySelector('.lg-node img[src*=\"/view\"]')")
