"""What the page hears of runs: of other graphs, of runs that never come, of what fails."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_graph import QUESTION, ask, saved_values
from tools.page import (
    CHECK_IN,
    SETTLED_MS,
    answered,
    asked,
    bring_into_view,
    check_in_graph,
    load_graph,
    node,
    open_subgraph,
    run,
)

COMPARE, QUANTIZE = "PersonalQTAQCompare", "PersonalQTAQQuantize"
SECRET = "old.ckpt is refused; llm.home.example:8080 gave no answer"


def candidate(name: str) -> dict[str, Any]:
    return {"selection": f"lora:{name}.safetensors#0123456789", "kind": "lora", "title": name,
            "name": f"{name}.safetensors", "trigger": "trg bear", "evidence": []}  # fmt: skip


def decision(status: str, request: str, name: str = "bear_v1") -> dict[str, Any]:
    """What a run of Check-in sends to the page."""
    return {"status": status, "request": request, "question": "Which one?", "prompt": request,
            "reason": "No model fits.", "notices": [SECRET], "choice": candidate(name),
            "candidates": [candidate(name), candidate("bear_v2")]}  # fmt: skip


def deliver(page: Page, found: dict[str, Any]) -> None:
    """Give the Check-in Selector a run's result, as the page does."""
    page.evaluate(f"found => {node(CHECK_IN)}.onExecuted({{personalq: [found]}})", found)


def hear(page: Page, event: str, detail: dict[str, Any]) -> None:
    """Let the page hear an event of the server."""
    page.evaluate(
        "([name, detail]) => app.api.dispatchEvent(new CustomEvent(name, {detail}))",
        [event, detail],
    )


def failure(node_id: str, node_type: str) -> dict[str, Any]:
    return {"prompt_id": "p", "node_id": node_id, "node_type": node_type, "executed": [],
            "exception_message": "out of memory", "exception_type": "RuntimeError",
            "traceback": [], "current_inputs": {}, "current_outputs": []}  # fmt: skip


def kept(page: Page) -> dict[str, Any] | None:
    return page.evaluate(f"{node(CHECK_IN)}.serialize().properties.personalq ?? null")


def set_widget(page: Page, name: str, value: object) -> None:
    page.evaluate(
        f"([name, value]) => {{ const {{widgets}} = {node(CHECK_IN)};"
        " widgets.find(w => w.name === name).value = value; }",
        [name, value],
    )


def close_dialogs(page: Page) -> None:
    """The page's own message about an error."""
    page.wait_for_timeout(SETTLED_MS)
    page.keyboard.press("Escape")
    page.wait_for_timeout(SETTLED_MS)


# --- what a workflow keeps, and of which run ---


@pytest.mark.parametrize("status", ["ask", "chosen", "none"])
def test_notices_are_shown_and_never_saved(litegraph: Page, status: str):
    load_graph(litegraph, check_in_graph("my bear"))
    deliver(litegraph, decision(status, "my bear"))
    expect(litegraph.locator(".personalq-panel")).to_contain_text(SECRET)
    found = kept(litegraph)
    assert found and found["status"] == status
    assert found["notices"] == []


@pytest.mark.parametrize("request_", ["my mug", "my mug " * 700])
def test_only_a_run_of_its_own_request_is_kept(litegraph: Page, request_: str):
    """Another tab's graph may have a node of the same number."""
    load_graph(litegraph, check_in_graph(request_))
    set_widget(litegraph, "selection", "answer:the old one")
    deliver(litegraph, decision("chosen", "my bear", "bear_v1"))
    assert kept(litegraph) is None
    assert saved_values(litegraph)[1] == "answer:the old one"
    deliver(litegraph, decision("chosen", request_, "mug_v1"))
    assert (kept(litegraph) or {})["choice"]["title"] == "mug_v1"
    assert saved_values(litegraph)[1] == "lora:mug_v1.safetensors#0123456789"


def test_a_request_that_was_edited_while_it_ran_is_still_its_own(litegraph: Page):
    load_graph(litegraph, check_in_graph("my bear"))
    litegraph.evaluate(node(CHECK_IN) + ".widgets.find(w => w.name === 'selection').beforeQueued()")
    set_widget(litegraph, "request", "my mug")
    deliver(litegraph, decision("chosen", "my bear"))
    expect(litegraph.locator(".personalq-panel")).to_contain_text("For: my bear")
    assert (kept(litegraph) or {})["request"] == "my bear"


def test_a_linked_request_is_not_known_to_the_page(litegraph: Page):
    load_graph(litegraph, check_in_graph("my mug"))
    litegraph.evaluate(
        "(() => { const words = LiteGraph.createNode('PrimitiveString'); app.graph.add(words);"
        f" words.connect(0, {node(CHECK_IN)}, {node(CHECK_IN)}.findInputSlot('request')); }})()"
    )
    deliver(litegraph, decision("chosen", "my bear"))
    assert (kept(litegraph) or {})["request"] == "my bear"


def test_errors_of_other_nodes_with_its_number_are_not_its_own(litegraph: Page):
    load_graph(litegraph, check_in_graph(QUESTION))
    litegraph.evaluate(f"void app.graph.convertToSubgraph(new Set([{node(CHECK_IN)}]))")
    open_subgraph(litegraph)
    inner = litegraph.evaluate("app.canvas.graph.nodes.find(n => n.comfyClass).id")
    outer = litegraph.evaluate("app.graph.nodes.find(n => n.isSubgraphNode?.()).id")
    shown = litegraph.locator(".personalq-error")
    for other in (
        failure(f"{inner}", CHECK_IN),
        failure(f"7{outer}:{inner}", CHECK_IN),
        failure(f"{outer}:{inner}", "KSampler"),
    ):
        hear(litegraph, "execution_error", other)
    litegraph.wait_for_timeout(SETTLED_MS)
    expect(shown).to_have_count(0)
    hear(litegraph, "execution_error", failure(f"{outer}:{inner}", CHECK_IN))
    expect(shown).to_contain_text("out of memory")
    close_dialogs(litegraph)


# --- answers whose run does not come, or comes later ---


@pytest.fixture
def held(litegraph: Page) -> Iterator[Page]:
    """A question; the server hears of no run until `release()` is called in the page."""
    ask(litegraph)
    litegraph.wait_for_timeout(SETTLED_MS)  # the run that asked is over for the page, too
    litegraph.evaluate(
        "window.sending = app.api.queuePrompt;"
        "const held = new Promise(resolve => { window.release = resolve; });"
        "app.api.queuePrompt = async (...run) => { await held;"
        " return window.sending.apply(app.api, run); }; void 0"
    )
    yield litegraph
    litegraph.evaluate(
        "app.api.queuePrompt = sending; release(); delete window.sending; delete window.release"
    )
    close_dialogs(litegraph)


def answer(page: Page, title: str) -> None:
    page.locator(".personalq-card", has_text=title).click()


def test_an_answer_while_the_page_is_queueing_is_not_lost(held: Page):
    held.get_by_role("checkbox", name="always ask here").check()
    run(held)
    held.wait_for_timeout(SETTLED_MS)
    answer(held, "barnaby v3")
    asked(held)  # the page promised nothing
    expect(held.locator(".personalq-panel")).to_contain_text("Your choice: barnaby_v3")
    assert saved_values(held)[1].startswith("lora:barnaby_v3")
    held.evaluate("release()")
    answered(held, "barnaby v3")
    assert saved_values(held)[1] == ""


def test_after_a_validation_error_the_question_is_there_again(litegraph: Page):
    ask(litegraph)
    set_widget(litegraph, "when_unsure", "nonsense")
    answer(litegraph, "barnaby v1")
    expect(litegraph.locator(".personalq-panel")).to_contain_text(
        "Your choice: barnaby_v1", timeout=30_000
    )
    assert litegraph.locator(".personalq-card").count() >= 2
    expect(litegraph.get_by_text("Running again")).to_have_count(0)
    close_dialogs(litegraph)
    set_widget(litegraph, "when_unsure", "ask")
    run(litegraph)
    answered(litegraph, "barnaby v1")


STOPPED = {"prompt_id": "p", "node_id": "2", "node_type": "PreviewAny", "executed": []}


@pytest.mark.parametrize(
    ("event", "detail"),
    [
        ("execution_interrupted", STOPPED),
        ("execution_error", failure("2", "PreviewAny")),
        ("status", {"exec_info": {"queue_remaining": 0}}),
    ],
)
def test_when_its_run_ends_without_it_the_question_is_there_again(
    litegraph: Page, event: str, detail: dict[str, Any]
):
    ask(litegraph)
    litegraph.wait_for_timeout(SETTLED_MS)
    litegraph.evaluate(
        "window.sending = app.api.queuePrompt;"
        "app.api.queuePrompt = async () => ({prompt_id: 'p', number: 1, node_errors: {}}); void 0"
    )
    answer(litegraph, "barnaby v1")
    litegraph.wait_for_timeout(SETTLED_MS)
    expect(litegraph.get_by_text("Running again")).to_be_visible()
    hear(litegraph, event, detail)
    asked(litegraph)
    expect(litegraph.get_by_text("Running again")).to_have_count(0)
    litegraph.evaluate("app.api.queuePrompt = sending; delete window.sending")
    close_dialogs(litegraph)


def test_a_trigger_that_cannot_be_saved_is_said(litegraph: Page):
    litegraph.route("**/personalq/card?*", lambda route: route.fulfill(
        json={"trigger_groups": [["trg bear"], ["other bear"]]}
    ))  # fmt: skip
    litegraph.route("**/personalq/note", lambda route: route.fulfill(
        status=500, json={"error": "The note cannot be written: disk full"}
    ))  # fmt: skip
    load_graph(litegraph, check_in_graph("my bear"))
    deliver(litegraph, decision("chosen", "my bear"))
    litegraph.get_by_role("button", name="other bear").click()
    expect(litegraph.locator(".personalq-error")).to_contain_text("disk full")
    expect(litegraph.locator(".personalq-title")).to_contain_text("bear_v1")
    litegraph.unroute("**/personalq/card?*")
    litegraph.unroute("**/personalq/note")


# --- TAQ ---


def add(page: Page, kind: str) -> None:
    page.evaluate(
        "kind => { const node = LiteGraph.createNode(kind); node.pos = [500, 100];"
        " app.graph.add(node); }",
        kind,
    )
    bring_into_view(page, kind=kind)


def choose(page: Page, kind: str, name: str, value: str) -> None:
    """Set a widget as its own control does."""
    page.evaluate(
        f"([name, value]) => {{ const widget = {node(kind)}.widgets.find(w => w.name === name);"
        " widget.value = value; widget.callback(value); }",
        [name, value],
    )
    page.wait_for_timeout(SETTLED_MS)


def of_the_paper(page: Page, kind: str, nodes_2: bool) -> int:
    """How many of the two inputs that only the paper's preset reads are to be seen."""
    if nodes_2:
        return sum(page.locator(".lg-node").get_by_text(name, exact=True).count()
                   for name in ("paper_variant", "protect"))  # fmt: skip
    return page.evaluate(
        f"{node(kind)}.widgets.filter(w => ['paper_variant', 'protect'].includes(w.name)"
        f" && {node(kind)}.isWidgetVisible(w)).length"
    )


@pytest.mark.parametrize("kind", [QUANTIZE, COMPARE])
def test_the_papers_inputs_show_with_its_preset_only(page: Page, kind: str):
    nodes_2 = page.evaluate("app.extensionManager.setting.get('Comfy.VueNodes.Enabled')")
    height = f"{node(kind)}.size[1]"
    add(page, kind)
    values = page.evaluate(f"{node(kind)}.serialize().widgets_values")
    small = page.evaluate(height)
    assert of_the_paper(page, kind, nodes_2) == 0

    choose(page, kind, "trigger", "")
    for _ in range(2):
        choose(page, kind, "format", "paper W8A8")
        assert of_the_paper(page, kind, nodes_2) == 2
        tall = page.evaluate(height)
        load_graph(page, page.evaluate("app.graph.serialize()"))
        assert of_the_paper(page, kind, nodes_2) == 2
        if not nodes_2:  # else the page measures nodes itself
            assert small + 30 < tall < small + 80
            assert page.evaluate(height) == pytest.approx(tall, abs=2)

        choose(page, kind, "format", "8-bit")
        assert of_the_paper(page, kind, nodes_2) == 0
        assert page.evaluate(f"{node(kind)}.serialize().widgets_values") == values
        if not nodes_2:
            assert page.evaluate(height) == pytest.approx(small, abs=2)


def test_taq_says_what_reads_the_prompt(litegraph: Page):
    add(litegraph, QUANTIZE)
    sizes = {"before_bytes": 100, "after_bytes": 50, "trigger": "trg bear", "how": "", "kinds": {},
             "text_layers": {"16 bits": 6, "int8": 2}}  # fmt: skip
    litegraph.evaluate(f"sizes => {node(QUANTIZE)}.onExecuted({{personalq_taq: [sizes]}})", sizes)
    panel = litegraph.locator(".personalq-panel")
    expect(panel).to_contain_text("the 6 layers that read the prompt stay at 16 bits")
    expect(panel).to_contain_text("the 2 layers that read the prompt are stored as int8")
