"""`make screenshots`: the pictures of docs/ and the thumbnail of workflows/, from a real run."""

import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tools.browser import MISSING, find, launch
from tools.comfy import ROOT, Server
from tools.demo import BASE, assemble_models
from tools.page import (
    answered,
    close_notices,
    drawn,
    open_workflow,
    press_run,
    set_setting,
    write_request,
)
from tools.workflow import PERSONAL_CONCEPT, load_graph

DOCS = ROOT / "docs"
THUMBNAIL_SIZE = 512
THEMES = ("dark", "light")


def graph_pictures(page: Page, theme: str) -> None:
    """The finished graph, and the question, in one theme."""
    set_setting(page, "Comfy.ColorPalette", theme)
    press_run(page)
    answered(page, "barnaby")
    drawn(page)
    close_notices(page)
    page.screenshot(path=DOCS / f"graph_{theme}.png")

    write_request(page, "Barnaby the bear")
    press_run(page)
    page.locator(".personalq-card").first.wait_for(timeout=60_000)
    page.wait_for_timeout(1000)
    page.screenshot(path=DOCS / f"question_{theme}.png")
    write_request(page, "my newest bear on the beach")


def thumbnail(server: Server, target: Path) -> None:
    """The picture of the workflow, enlarged, as Browse Templates shows it."""
    run = server.run(load_graph(PERSONAL_CONCEPT, server.get("/object_info")))
    image = next(image for image in run.images() if image["type"] == "output")
    with Image.open(server.output / image["subfolder"] / image["filename"]) as picture:
        size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
        picture.convert("RGB").resize(size, Image.Resampling.NEAREST).save(target, quality=85)


def main() -> None:
    chromium = find()
    if not chromium:
        sys.exit(f"No screenshots: {MISSING}")
    assemble_models(BASE / "models")
    with Server(BASE) as server, sync_playwright() as playwright:
        thumbnail(server, PERSONAL_CONCEPT.with_suffix(".jpg"))
        browser = launch(playwright, chromium)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        open_workflow(page, server)
        for theme in THEMES:
            graph_pictures(page, theme)
        browser.close()


if __name__ == "__main__":
    main()
