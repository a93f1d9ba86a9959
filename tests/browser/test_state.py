"""What a node shows survives reload, undo, copies, other tabs, subgraphs and other people."""

from playwright.sync_api import Browser, Page, expect

from tests.browser.test_graph import QUESTION, ask, saved_values
from tools.comfy import Server
from tools.page import (
    CHECK_IN,
    answered,
    asked,
    check_in_graph,
    load_graph,
    node,
    open_page,
    open_subgraph,
    run,
    set_nodes_2,
)

WRITTEN_MS = 2500  # the page writes its draft this long after a change


def test_reload_keeps_the_question(page: Page):
    ask(page)
    page.wait_for_timeout(WRITTEN_MS)
    page.reload()
    asked(page)
    page.locator(".personalq-card").first.click()
    answered(page, "barnaby v1")


def test_reload_keeps_the_answer(litegraph: Page):
    ask(litegraph)
    litegraph.locator(".personalq-card").first.click()
    answered(litegraph, "barnaby v1")
    litegraph.wait_for_timeout(WRITTEN_MS)
    litegraph.reload()
    answered(litegraph, "barnaby v1")
    assert saved_values(litegraph)[1].startswith("lora:barnaby_v1")


def test_two_tabs_two_questions(page: Page, second_tab: Page):
    other = second_tab
    set_nodes_2(other, page.evaluate("app.extensionManager.setting.get('Comfy.VueNodes.Enabled')"))
    ask(page)
    ask(other, "my office mug")
    page.locator(".personalq-card", has_text="barnaby v3").click()
    answered(page, "barnaby v3")
    other.locator(".personalq-card", has_text="2025").click()
    answered(other, "2025")
    assert saved_values(page)[1].startswith("lora:barnaby_v3")
    assert saved_values(other)[1].startswith("lora:office_mug_2025")


def test_inside_a_subgraph(page: Page):
    load_graph(page, check_in_graph(QUESTION))
    page.evaluate(f"void app.graph.convertToSubgraph(new Set([{node(CHECK_IN)}]))")
    open_subgraph(page)
    run(page)
    asked(page)
    page.locator(".personalq-card", has_text="barnaby v4").click()
    answered(page, "barnaby v4")
    selection = "app.canvas.graph.nodes.find(n => n.type === 'PersonalQCheckInSelector')"
    assert page.evaluate(selection + ".widgets[1].value").startswith("lora:barnaby_v4")


def test_answered_workflow_in_a_clean_profile(page: Page, browser: Browser, page_server: Server):
    ask(page)
    page.locator(".personalq-card", has_text="barnaby v2").click()
    answered(page, "barnaby v2")
    workflow = page.evaluate("app.graph.serialize()")
    selector = next(n for n in workflow["nodes"] if n["type"] == CHECK_IN)
    kept = selector["properties"]["personalq"]
    assert kept["candidates"] == []  # of the library nothing but the choice is shared

    context = browser.new_context(viewport={"width": 1600, "height": 1600})
    clean = context.new_page()
    open_page(clean, page_server)
    load_graph(clean, workflow)
    answered(clean, "barnaby v2")
    run(clean)
    expect(clean.locator(".personalq-evidence")).to_contain_text("you selected it", timeout=60_000)
    assert clean.locator(".personalq-card").count() == 0
    assert saved_values(clean) == saved_values(page)
    context.close()


def test_undo_and_copies(litegraph: Page):
    ask(litegraph)
    litegraph.wait_for_timeout(500)
    litegraph.evaluate(
        f"app.canvas.selectItems([{node(CHECK_IN)}]); app.canvas.copyToClipboard();"
        " app.canvas.pasteFromClipboard()"
    )
    expect(litegraph.locator(".personalq-question")).to_have_count(2)
    litegraph.evaluate("app.graph.remove(app.graph.nodes.at(-1))")
    litegraph.locator(".personalq-card").first.click()
    answered(litegraph, "barnaby v1")
    undo = "app.extensionManager.workflow.activeWorkflow.changeTracker.undo()"
    for _ in range(4):
        litegraph.evaluate(undo)
        litegraph.wait_for_timeout(700)
        if litegraph.locator(".personalq-card").count():
            break
    expect(litegraph.locator(".personalq-question")).to_be_visible()
    assert saved_values(litegraph)[1] == ""
    for _ in range(4):
        litegraph.evaluate(undo.replace("undo", "redo"))
        litegraph.wait_for_timeout(700)
        if not litegraph.locator(".personalq-card").count():
            break
    expect(litegraph.locator(".personalq-panel")).to_contain_text("barnaby")
    assert saved_values(litegraph)[1].startswith("lora:barnaby_v1")


def test_other_workflow_and_back(litegraph: Page):
    ask(litegraph)
    command = "app.extensionManager.command.execute"
    litegraph.evaluate(f"{command}('Comfy.NewBlankWorkflow')")
    expect(litegraph.locator(".personalq-card")).to_have_count(0)
    litegraph.evaluate(f"{command}('Workspace.PreviousOpenedWorkflow')")
    asked(litegraph)


def test_raw_widget_stays_hidden(page: Page):
    ask(page)
    widgets = page.evaluate(node(CHECK_IN) + ".widgets.map(w => [w.name, !!w.hidden])")
    assert ["selection", True] in widgets
    expect(page.get_by_label("selection", exact=True)).to_have_count(0)


def test_values_saved_today_load_tomorrow(litegraph: Page):
    """More widgets at the end, as a later version has them, and fewer, as an earlier had."""
    graph = check_in_graph(QUESTION)
    graph["nodes"][0]["widgets_values"] = [QUESTION, "none", "best match"]
    load_graph(litegraph, graph)
    assert saved_values(litegraph)[:3] == [QUESTION, "none", "best match"]
    graph["nodes"][0]["widgets_values"] = [QUESTION, "none", "error", "often", "later", 7]
    load_graph(litegraph, graph)
    assert saved_values(litegraph)[:3] == [QUESTION, "none", "error"]
