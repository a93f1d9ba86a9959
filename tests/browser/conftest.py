"""A real Chromium on a real ComfyUI, with the pinned and the newest graph page."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.core.library.files import write
from tools import browser as chromium
from tools.comfy import NEWEST_FRONTEND, ROOT, Server
from tools.page import load_graph, open_library, open_page, set_nodes_2

SCREENSHOTS = ROOT / ".run" / "screenshots"

HOSTILE = (
    '<img src="http://elsewhere.example/x" onerror="window.hurt = 1">'
    "<script>window.hurt = 1</script> javascript:alert(1) \u202egnp.elif"
)
HOSTILE_NAME = 'zzdragon <img src=x onerror="window.hurt=1"> javascript:alert(1)'


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium.find()
    if not path:
        pytest.skip(chromium.MISSING)
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright, path)
        yield browser
        browser.close()


@pytest.fixture(scope="session", params=["pinned", "newest"])
def page_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, assembled: Path
) -> Iterator[Server]:
    """A server of each graph page: the miniature, one picture, and a card that means harm."""
    base = tmp_path_factory.mktemp(request.param)
    loras = base / "models" / "loras"
    shutil.copytree(assembled / "loras", loras)
    (base / "models" / "checkpoints").symlink_to(assembled / "checkpoints")
    Image.new("RGB", (300, 200), (150, 90, 40)).save(loras / "barnaby_v1.preview.png")
    write(loras / f"{HOSTILE_NAME}.safetensors", metadata={
        "modelspec.title": HOSTILE,
        "modelspec.trigger_phrase": f"zzdragon {HOSTILE}"[:300],
        "modelspec.description": f"The zzdragon dragon. {HOSTILE} " + "long " * 2000,
    }, fill=9)  # fmt: skip
    (loras / f"{HOSTILE_NAME}.png").write_text("<svg onload='window.hurt = 1'>")
    with Server(base, frontend=NEWEST_FRONTEND if request.param == "newest" else None) as server:
        yield server


@pytest.fixture(scope="session")
def context(browser: Browser, page_server: Server) -> Iterator[BrowserContext]:
    """One profile for each graph page: the page's scripts are fetched once."""
    context = browser.new_context(viewport={"width": 1600, "height": 1600})
    yield context
    context.close()


@pytest.fixture(scope="session")
def tab(context: BrowserContext, page_server: Server) -> Page:
    """One open page for each graph page; opening one takes longer than most tests."""
    page = context.new_page()
    open_page(page, page_server)
    return page


@pytest.fixture(scope="session")
def second_tab(context: BrowserContext, tab: Page, page_server: Server) -> Page:
    """Another tab of the same profile."""
    page = context.new_page()
    open_page(page, page_server)
    return page


@pytest.fixture(params=["litegraph", "nodes2"])
def page(request: pytest.FixtureRequest, tab: Page) -> Page:
    """An empty graph, in each way of drawing nodes."""
    return emptied(tab, nodes_2=request.param == "nodes2")


@pytest.fixture
def litegraph(tab: Page) -> Page:
    """An empty graph, for what does not depend on how nodes are drawn."""
    return emptied(tab, nodes_2=False)


def emptied(page: Page, nodes_2: bool) -> Page:
    """The page as good as new."""
    page.evaluate("app.extensionManager.queueSettings.mode = 'disabled'")
    page.evaluate("app.extensionManager.toast?.removeAll?.()")  # errors stay, over the Run button
    page.keyboard.press("Escape")
    if page.locator(".personalq-library").count():
        open_library(page)  # the same button closes it
    load_graph(page, {
        "last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4,
    })  # fmt: skip
    if page.evaluate("app.extensionManager.setting.get('Comfy.VueNodes.Enabled')") != nodes_2:
        set_nodes_2(page, nodes_2)
    return page


@pytest.fixture
def screenshot(request: pytest.FixtureRequest) -> Callable[[Page], None]:
    """Save a page's picture under the test's name."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return lambda page: page.screenshot(path=SCREENSHOTS / f"{request.node.name}.png")
