"""A real Chromium on a real ComfyUI, with the pinned and the newest graph page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tools import browser as chromium
from tools.comfy import NEWEST_FRONTEND, ROOT, Server

SCREENSHOTS = ROOT / ".run" / "screenshots"


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
    """A server of each graph page, with the miniature's models."""
    base = tmp_path_factory.mktemp(request.param)
    (base / "models").symlink_to(assembled)
    with Server(base, frontend=NEWEST_FRONTEND if request.param == "newest" else None) as server:
        yield server


@pytest.fixture
def screenshot(request: pytest.FixtureRequest):
    """Save a page's picture under the test's name."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return lambda page: page.screenshot(path=SCREENSHOTS / f"{request.node.name}.png")
