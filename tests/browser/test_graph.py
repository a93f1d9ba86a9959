"""What a person does in the graph: open the template, press Run, answer a question by a click."""

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tools.comfy import Server
from tools.page import (
    CHECK_IN,
    answered,
    drawn,
    node,
    open_workflow,
    press_run,
    set_nodes_2,
    write_request,
)

QUESTION = "Barnaby the bear"


@pytest.fixture
def page(browser: Browser, page_server: Server) -> Iterator[Page]:
    """The template, opened in a fresh profile."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    page = context.new_page()
    open_workflow(page, page_server)
    yield page
    context.close()


def test_run_draws_the_picture(page: Page, screenshot: Callable):
    press_run(page)
    answered(page, "barnaby v4")
    drawn(page)
    screenshot(page)


@pytest.mark.parametrize("renderer", ["litegraph", "nodes2"])
def test_question_keyboard_picture(page: Page, renderer: str, screenshot: Callable):
    set_nodes_2(page, renderer == "nodes2")
    ask(page)
    cards = page.locator(".personalq-card")
    assert cards.count() >= 2
    screenshot(page)

    cards.first.focus()
    page.keyboard.press("ArrowDown")
    expect(cards.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    answered(page, "barnaby")
    drawn(page)

    widgets = page.evaluate(node(CHECK_IN) + ".widgets.map(w => [w.name, !!w.hidden])")
    assert ["selection", True] in widgets
    request, selection, when_unsure = page.evaluate(node(CHECK_IN) + ".serialize().widgets_values")
    assert (request, when_unsure) == (QUESTION, "ask")
    assert selection.startswith("lora:barnaby_v")


def test_click_on_an_answer(page: Page):
    ask(page)
    card = page.locator(".personalq-card").first
    title = card.locator(".personalq-title").inner_text()
    card.click()
    answered(page, title)


def test_an_open_question_stops_auto_queueing(page: Page):
    page.evaluate("app.extensionManager.queueSettings.mode = 'instant'")
    ask(page, press=lambda page: page.evaluate("void app.queuePrompt(0)"))
    assert page.evaluate("app.extensionManager.queueSettings.mode") == "disabled"
    page.evaluate("app.graph.clear()")
    assert page.evaluate("app.extensionManager.queueSettings.mode") == "instant"


def ask(page: Page, press: Callable[[Page], None] = press_run) -> None:
    """Run with a request that fits several models, and wait for the question."""
    write_request(page, QUESTION)
    press(page)
    page.locator(".personalq-card").first.wait_for(timeout=60_000)


def test_the_pack_asks_no_other_host(browser: Browser, page_server: Server):
    def hosts(with_pack: bool) -> set[str]:
        page = browser.new_page()
        if not with_pack:
            page.route("**/extensions/personalq/**", lambda route: route.abort())
        seen: set[str] = set()
        page.on("request", lambda request: seen.add(request.url.split("/")[2]))
        open_workflow(page, page_server)
        page.wait_for_timeout(2000)
        page.close()
        return seen

    assert hosts(with_pack=True) <= hosts(with_pack=False)
