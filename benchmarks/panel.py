"""The library panel with many models: first paint, search while typing, scrolling.

    python -m benchmarks.panel [--cards 10000] [--frontend pinned|newest] [--folder DIR]
        [--repeats 3] [--json OUT] [--png OUT] [--table OUT.md]

A real ComfyUI serves a real Chromium; the files and pictures are made for it, small but complete.
Every time comes from the browser's own performance entries: the panel's `personalq` measures and
the browser's long tasks. As controls the long tasks of the same page are counted while nothing but
the graph is there, while the graph is moved, and while tasks of 120 ms are made on purpose.

With --folder the library and its embeddings stay there for another run; then the scan is no cold
one and its time is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

from tools.browser import MISSING, find, launch
from tools.comfy import NEWEST_FRONTEND, Server
from tools.page import open_library, open_workflow

LIMITS_MS = {
    "first_open_ms": 1000, "open_ms": 1000, "search_ms": 150, "typed_ms": None,
    "long_task_ms": 100, "jump_task_ms": 100, "idle_task_ms": None, "moved_task_ms": None,
    "made_task_ms": None,
}  # fmt: skip
NAMES = {
    "first_open_ms": "first paint, first time after ComfyUI's start",
    "open_ms": "first paint, later",
    "search_ms": "results after the typing pause",
    "typed_ms": "results after the last key, the pause of 60 ms included",
    "long_task_ms": "long tasks while the library is scrolled",
    "jump_task_ms": "long tasks while the scroll bar is dragged",
    "idle_task_ms": "control: long tasks of the graph, nothing done",
    "moved_task_ms": "control: long tasks while the graph is moved",
    "made_task_ms": "control: tasks of 120 ms made on purpose",
}
QUERIES = ("newest fox", "neon robot v3", "my ceramic mug", "chrome castle", "ink bear")
SUBJECTS = ("bear", "rabbit", "parrot", "mug", "lamp", "chair", "van", "robot", "castle", "fox")
LOOKS = ("plush", "felt", "neon", "watercolour", "linocut", "chrome", "oak", "ceramic", "ink")
PICTURES = 24
WATCHED_S = 6
WATCH_LONG_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((e) => e.duration)))
  .observe({ type: "longtask" });
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the library panel in a real browser.")
    parser.add_argument("--cards", type=int, default=10_000)
    parser.add_argument("--frontend", choices=("pinned", "newest"), default="pinned")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the library here, for another run")
    parser.add_argument("--patience", type=float, default=1800, metavar="SECONDS",
                        help="wait this long at most for the cards' embeddings")  # fmt: skip
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--table", type=Path, help="write the table as Markdown")
    options = parser.parse_args()
    chromium = find()
    if not chromium:
        sys.exit(f"Nothing measured: {MISSING}")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.folder or Path(folder), chromium, options)
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    if options.table:
        options.table.write_text(table(result))
    if options.png:
        draw(result, options.png)


def measure(folder: Path, chromium: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run, times in ms but for those named _s."""
    result: dict[str, Any] = {
        "cards": options.cards,
        "frontend": options.frontend,
        "cores": os.cpu_count(),
    }
    newest = NEWEST_FRONTEND if options.frontend == "newest" else None
    loras = folder / "models" / "loras"
    is_new = not loras.exists()
    if is_new:
        make_library(loras, options.cards)
    with Server(folder, frontend=newest) as server:
        seconds, status = timed(lambda: server.post("/personalq/rescan", {}))
        if status["cards"] != options.cards:
            raise RuntimeError(f"the library holds {status['cards']} cards, not {options.cards}")
        if is_new:
            say("cold scan", result, "cold_scan_s", seconds)
        seconds, _ = timed(lambda: wait_until_learned(server, options.patience))
        if is_new:
            say("embedding", result, "embedding_s", seconds)
    with Server(folder, frontend=newest) as server, sync_playwright() as playwright:
        result["load"] = os.getloadavg()[0]
        page = launch(playwright, chromium).new_page(viewport={"width": 1600, "height": 1000})
        open_workflow(page, server)
        page.evaluate(WATCH_LONG_TASKS)
        say("made", result, "made_task_ms", long_tasks(page, lambda: block(page)))
        say("idle", result, "idle_task_ms", long_tasks(page, lambda: None))
        say("graph moved", result, "moved_task_ms", long_tasks(page, lambda: move_graph(page)))
        say("first paint after a start", result, "first_open_ms", [first_paint(page)])
        wait_until_learned(server, options.patience)
        say("first paint", result, "open_ms", [first_paint(page) for _ in range(options.repeats)])
        found = [search(page, query) for query in QUERIES for _ in range(options.repeats)]
        say("search", result, "search_ms", [paused for paused, _ in found])
        say("typed", result, "typed_ms", [typed for _, typed in found])
        clear_search(page)
        page.locator(".personalq-grid").hover()
        scrolled = long_tasks(page, lambda: page.mouse.wheel(0, 1500), options.repeats)
        say("scrolling", result, "long_task_ms", scrolled)
        say("jumping", result, "jump_task_ms", long_tasks(page, lambda: jump(page)))
        say("tiles", result, "tiles", page.locator(".personalq-tile").count())
    return result


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, what it returned)."""
    started = time.perf_counter()
    value = work()
    return time.perf_counter() - started, value


def say(step: str, result: dict[str, Any], key: str, value: Any) -> None:
    """Keep a figure, and tell it: the whole takes minutes."""
    result[key] = value
    print(f"{step}: {value}", file=sys.stderr, flush=True)


def wait_until_learned(server: Server, patience_s: float) -> None:
    """Until the search knows every card's meaning."""
    end = time.monotonic() + patience_s
    while not server.get("/personalq/cards?limit=1")["by_meaning"]:
        if time.monotonic() > end:
            raise TimeoutError("the cards are not embedded: give more --patience")
        time.sleep(0.5)


def first_paint(page: Page) -> float:
    """From the tab's opening to the frame that shows its first cards."""
    page.evaluate("performance.clearMeasures()")
    open_library(page)
    value = last_measure(page, "personalq library open")
    page.wait_for_timeout(1500)
    open_library(page)  # the same button closes it
    return value


def search(page: Page, query: str) -> tuple[float, float]:
    """From the end of the pause, and from the last key, to the frame with the results."""
    if not page.locator(".personalq-library").count():
        open_library(page)
        page.locator(".personalq-tile").first.wait_for()
    box = page.get_by_role("searchbox", name="Search the library")
    box.fill("")
    page.wait_for_timeout(800)
    page.evaluate("performance.clearMeasures()")
    box.press_sequentially(query, delay=40)
    page.wait_for_timeout(800)
    return last_measure(page, "personalq search"), last_measure(page, "personalq typed")


def clear_search(page: Page) -> None:
    page.get_by_role("searchbox", name="Search the library").fill("")
    page.wait_for_timeout(1500)


def long_tasks(page: Page, act: Callable[[], object], times: int = 1) -> list[float]:
    """Durations of the long tasks (over 50 ms, as browsers count them) while `act` is repeated."""
    page.evaluate("longTasks.length = 0")
    end = time.perf_counter() + times * WATCHED_S
    while time.perf_counter() < end:
        act()
        page.wait_for_timeout(50)
    page.wait_for_timeout(500)
    return page.evaluate("longTasks")


def jump(page: Page) -> None:
    """Twenty screens on, and again from the top at the end."""
    page.evaluate("""() => {
        const grid = document.querySelector('.personalq-grid');
        const end = grid.scrollHeight - grid.clientHeight;
        grid.scrollTop = grid.scrollTop >= end ? 0 : grid.scrollTop + 20 * grid.clientHeight;
    }""")


def block(page: Page) -> None:
    """Keep the page busy for 120 ms: shows that what should be counted is."""
    page.evaluate("""() => setTimeout(() => {
        const end = performance.now() + 120;
        while (performance.now() < end);
    })""")


def move_graph(page: Page) -> None:
    page.evaluate("app.canvas.ds.offset[0] += 5; app.canvas.setDirty(true, true)")


def last_measure(page: Page, name: str) -> float:
    entries = f"performance.getEntriesByName({name!r})"
    page.wait_for_function(f"{entries}.length > 0", timeout=60_000)
    return page.evaluate(f"{entries}.at(-1).duration")


def make_library(folder: Path, count: int) -> None:
    """LoRAs with ModelSpec headers and previews, in folders of 500."""
    rng = random.Random(1)
    folder.mkdir(parents=True)
    pictures = [make_picture(folder.parent / f"{n}.png", rng) for n in range(PICTURES)]
    for number in range(count):
        below = folder / f"{number // 500:03d}"
        below.mkdir(exist_ok=True)
        look, subject, version = rng.choice(LOOKS), rng.choice(SUBJECTS), 1 + number % 4
        stem = below / f"{look}_{subject}_{number}"
        stem.with_suffix(".safetensors").write_bytes(lora({
            "modelspec.title": f"{look} {subject} {number} v{version}",
            "modelspec.trigger_phrase": f"x{number}y {subject}",
            "modelspec.description": f"A {look} {subject}, trained on {rng.randint(8, 60)} photos.",
            "modelspec.date": f"20{20 + version}-0{1 + number % 9}-11T00:00:00",
        }, number))  # fmt: skip
        os.link(pictures[number % PICTURES], stem.with_suffix(".png"))


def make_picture(path: Path, rng: random.Random) -> Path:
    picture = Image.new("RGB", (384, 512), tuple(rng.choices(range(256), k=3)))
    corner = rng.randint(0, 200)
    box = (corner, corner, corner + 150, corner + 200)
    ImageDraw.Draw(picture).ellipse(box, tuple(rng.choices(range(256), k=3)))
    picture.save(path)
    return path


def lora(metadata: dict[str, str], number: int) -> bytes:
    """A complete safetensors file with the names of an SD1.5 LoRA."""
    module = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for part, shape in (("lora_down", [1, 768]), ("lora_up", [640, 1])):
        size = shape[0] * shape[1]
        header[f"{module}.{part}.weight"] = {
            "dtype": "U8", "shape": shape, "data_offsets": [end, end + size],
        }  # fmt: skip
        end += size
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + number.to_bytes(4, "little") * (end // 4)


def table(result: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    head = (
        f"{result['cards']:,} cards, {result['frontend']} front end, {result['cores']} cores, "
        f"load {result['load']:.1f} at the start."
    )
    if "cold_scan_s" in result:
        head += f" Cold scan {result['cold_scan_s']:.1f} s,"
        head += f" embedding {result['embedding_s']:.0f} s."
    head += f" {result['tiles']} tiles in the page at the end."
    rows = ["| | n | median ms | least | most | at most |", "|---|---|---|---|---|---|"]
    for key, name in NAMES.items():
        values = result[key]
        told = [f"{of(values):.0f}" for of in (statistics.median, min, max) if values] or [""] * 3
        rows.append(f"| {' | '.join((name, str(len(values)), *told, str(LIMITS_MS[key] or '')))} |")
    return "\n".join((head, "", *rows, ""))


def draw(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = [key for key, limit in LIMITS_MS.items() if limit]
    figure, axes = pyplot.subplots(figsize=(7, 2.8))
    axes.barh([NAMES[key] for key in keys], [max(result[key], default=0) for key in keys])
    for place, key in enumerate(keys):
        axes.plot([LIMITS_MS[key]] * 2, [place - 0.4, place + 0.4], "k--")
    axes.set_xlabel(f"ms with {result['cards']:,} cards, worst (dashed: at most)")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
