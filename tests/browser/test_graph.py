"""What a person does in the graph: open a template, press Run, answer a question."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tools.comfy import Server
from tools.page import (
    CHECK_IN,
    answered,
    asked,
    check_in_graph,
    drawn,
    load_graph,
    node,
    open_workflow,
    press_run,
    run,
    write_request,
)

QUESTION = "Barnaby the bear"


def ask(page: Page, request: str = QUESTION) -> None:
    """A small graph whose request fits several models, run until it asks."""
    load_graph(page, check_in_graph(request))
    run(page)
    asked(page)


def saved_values(page: Page) -> list:
    return page.evaluate(node(CHECK_IN) + ".serialize().widgets_values")


def test_question_click_picture(page: Page, page_server: Server, screenshot: Callable):
    open_workflow(page, page_server)
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
