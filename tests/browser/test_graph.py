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


@pytest.fixture(params=["litegraph", "nodes2"])
def page(request: pytest.FixtureRequest, browser: Browser, page_server: Server) -> Iterator[Page]:
    """The template, opened in a fresh profile."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    page = context.new_page()
    open_workflow(page, page_server)
    set_nodes_2(page, request.param == "nodes2")
    yield page
    context.close()


def test_run_draws_the_picture(page: Page, screenshot: Callable):
    press_run(page)
    answered(page, "Barnaby")
    drawn(page)
    screenshot(page)


def test_question_click_picture(page: Page, screenshot: Callable):
    write_request(page, "Barnaby the bear")
    press_run(page)
    cards = page.locator(".personalq-card")
    cards.first.wait_for(timeout=60_000)
    assert cards.count() >= 2
    screenshot(page)

    cards.first.focus()
    page.keyboard.press("ArrowDown")
    expect(cards.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    answered(page, "Barnaby")
    drawn(page)
    selection = page.evaluate(node(CHECK_IN) + ".serialize().widgets_values[1]")
    assert selection.startswith("lora:barnaby_v")


def test_raw_selection_is_hidden_and_the_panel_not_saved(page: Page):
    widgets = page.evaluate(node(CHECK_IN) + ".widgets.map(w => [w.name, !!w.hidden])")
    assert ["selection", True] in widgets
    saved = page.evaluate(node(CHECK_IN) + ".serialize().widgets_values")
    assert len(saved) == 3


def test_an_open_question_stops_auto_queueing(page: Page):
    write_request(page, "Barnaby the bear")
    page.evaluate("app.extensionManager.queueSettings.mode = 'instant'")
    press_run(page)
    page.locator(".personalq-card").first.wait_for(timeout=60_000)
    assert page.evaluate("app.extensionManager.queueSettings.mode") == "disabled"
    page.evaluate("app.graph.clear()")
    assert page.evaluate("app.extensionManager.queueSettings.mode") == "instant"


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
