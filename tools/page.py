"""What tests and screenshots do on the graph page, in one place, because pages change."""

from playwright.sync_api import Page

from tools.comfy import Server
from tools.demo import template_url

CHECK_IN = "PersonalQCheckInSelector"


def node(kind: str) -> str:
    """A JavaScript expression for the first node of a kind."""
    return f"app.graph.nodes.find(n => n.type === '{kind}')"


def open_workflow(page: Page, server: Server) -> None:
    """Open workflows/personal_concept.json and wait until its nodes stand there."""
    page.goto(template_url(server))
    page.wait_for_function(f"window.app?.graph && {node(CHECK_IN)}", timeout=60_000)
    page.wait_for_timeout(500)


def set_nodes_2(page: Page, on: bool) -> None:
    """Switch between LiteGraph and Nodes 2.0."""
    set_setting(page, "Comfy.VueNodes.Enabled", on)


def set_setting(page: Page, name: str, value: object) -> None:
    script = "([name, value]) => app.extensionManager.setting.set(name, value)"
    page.evaluate(script, [name, value])
    page.wait_for_timeout(1000)


def write_request(page: Page, text: str) -> None:
    """Put a request into the Check-in Selector."""
    page.evaluate(
        f"text => {{ {node(CHECK_IN)}.widgets.find(w => w.name === 'request').value = text }}", text
    )


def press_run(page: Page) -> None:
    page.get_by_role("button", name="Run", exact=True).first.click()


def answered(page: Page, title: str) -> None:
    """Wait until the panel shows what was chosen."""
    page.locator(".personalq-prompt").wait_for(timeout=60_000)
    page.locator(".personalq-title", has_text=title).first.wait_for()


def drawn(page: Page) -> None:
    """Wait until the preview has its picture."""
    preview = f"app.nodeOutputs[{node('PreviewImage')}.id]"
    page.wait_for_function(f"{preview}?.images?.length > 0", timeout=60_000)
    page.wait_for_timeout(1000)


def close_notices(page: Page) -> None:
    """Take away the page's own banners and toasts, for pictures."""
    for button in page.get_by_role("button", name="Close").all():
        if button.is_visible():
            button.click()
    page.wait_for_timeout(1000)
