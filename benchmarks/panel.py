"""The library panel with many models: first paint, search while typing, scrolling.

    python -m benchmarks.panel [--cards 10000] [--frontend pinned|newest] [--json OUT] [--png OUT]

A real ComfyUI serves a real Chromium; the files and pictures are made for it, small but complete.
Every time comes from the browser's own performance entries: the panel's `personalq` measures and
the browser's long tasks.
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
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

from tools.browser import MISSING, find, launch
from tools.comfy import NEWEST_FRONTEND, Server
from tools.page import open_library, open_workflow

LIMITS_MS = {"open_ms": 1000, "search_ms": 150, "long_task_ms": 100}
QUERIES = ("newest fox", "neon robot v3", "my ceramic mug", "chrome castle", "ink bear")
SUBJECTS = ("bear", "rabbit", "parrot", "mug", "lamp", "chair", "van", "robot", "castle", "fox")
LOOKS = ("plush", "felt", "neon", "watercolour", "linocut", "chrome", "oak", "ceramic", "ink")
PICTURES = 24
SCROLLING_S = 6
WATCH_LONG_TASKS = """
window.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((e) => e.duration)))
  .observe({ type: "longtask" });
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the library panel in a real browser.")
    parser.add_argument("--cards", type=int, default=10_000)
    parser.add_argument("--frontend", choices=("pinned", "newest"), default="pinned")
    parser.add_argument("--opens", type=int, default=3)
    parser.add_argument("--patience", type=float, default=1800, metavar="SECONDS",
                        help="wait this long at most for the cards' embeddings")  # fmt: skip
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    chromium = find()
    if not chromium:
        sys.exit(f"Nothing measured: {MISSING}")
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), chromium, options)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    if options.png:
        draw(result, options.png)


def measure(folder: Path, chromium: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run, times in ms but for those named _s."""
    make_library(folder / "models" / "loras", options.cards)
    result: dict[str, Any] = {
        "cards": options.cards,
        "frontend": options.frontend,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    newest = NEWEST_FRONTEND if options.frontend == "newest" else None
    with Server(folder, frontend=newest) as server, sync_playwright() as playwright:
        started = time.perf_counter()
        if server.post("/personalq/rescan", {})["cards"] != options.cards:
            raise RuntimeError("the library does not hold what was written")
        say("cold scan", result, "cold_scan_s", time.perf_counter() - started)
        say("embedding", result, "embedding_s", wait_until_learned(server, options.patience))
        page = launch(playwright, chromium).new_page(viewport={"width": 1600, "height": 1000})
        open_workflow(page, server)
        page.evaluate(WATCH_LONG_TASKS)
        opens = [first_paint(page) for _ in range(options.opens)]
        say("first paint", result, "open_ms", opens)
        say("search", result, "search_ms", [search(page, query) for query in QUERIES])
        clear_search(page)
        say("scrolling", result, "long_task_ms", scroll(page))
    return result


def say(step: str, result: dict[str, Any], key: str, value: Any) -> None:
    """Keep a figure, and tell it: the whole takes minutes."""
    result[key] = value
    print(f"{step}: {value}", file=sys.stderr, flush=True)


def wait_until_learned(server: Server, patience_s: float) -> float | None:
    """Seconds until the search knows every card's meaning; None where that takes too long."""
    started = time.perf_counter()
    while not server.get("/personalq/cards?limit=1")["by_meaning"]:
        if time.perf_counter() - started > patience_s:
            return None
        time.sleep(0.5)
    return time.perf_counter() - started


def first_paint(page: Page) -> float:
    """From the tab's opening to the frame that shows its first cards."""
    page.evaluate("performance.clearMeasures()")
    open_library(page)
    value = last_measure(page, "personalq library open")
    page.wait_for_timeout(1500)
    open_library(page)  # the same button closes it
    return value


def search(page: Page, query: str) -> float:
    """From the last key to the frame with the results."""
    if not page.locator(".personalq-library").count():
        open_library(page)
        page.locator(".personalq-tile").first.wait_for()
    box = page.get_by_role("searchbox", name="Search the library")
    box.fill("")
    page.wait_for_timeout(800)
    page.evaluate("performance.clearMeasures()")
    box.press_sequentially(query, delay=40)
    page.wait_for_timeout(1500)
    return last_measure(page, "personalq search")


def clear_search(page: Page) -> None:
    page.get_by_role("searchbox", name="Search the library").fill("")
    page.wait_for_timeout(1500)


def scroll(page: Page) -> list[float]:
    """Long tasks (over 50 ms, as browsers count them) while the whole library is scrolled."""
    page.evaluate("longTasks.length = 0")
    page.locator(".personalq-grid").hover()
    end = time.perf_counter() + SCROLLING_S
    while time.perf_counter() < end:
        page.mouse.wheel(0, 1500)
        page.wait_for_timeout(50)
    page.evaluate("document.querySelector('.personalq-grid').scrollTop = 1e9")
    page.wait_for_timeout(1500)
    return page.evaluate("longTasks")


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


def show(result: dict[str, Any]) -> None:
    print(f"{result['cards']:,} cards, {result['frontend']} front end, {result['cores']} cores "
          f"(load {result['load']:.1f})")  # fmt: skip
    learned = result["embedding_s"]
    embedding = "not finished: searched by letters" if learned is None else f"{learned:.1f} s"
    print(f"  cold scan {result['cold_scan_s']:.1f} s, embedding {embedding}")
    print("                            median ms   worst ms   at most")
    names = {"open_ms": "first paint", "search_ms": "search after the last key"}
    for key, name in names.items():
        values = result[key]
        print(f"  {name:26}{statistics.median(values):8.0f}{max(values):11.0f}{LIMITS_MS[key]:10}")
    tasks = result["long_task_ms"]
    worst = max(tasks, default=0)
    print(f"  long tasks in scrolling {len(tasks):10}{worst:11.0f}{LIMITS_MS['long_task_ms']:10}")


def draw(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {"open_ms": "first paint", "search_ms": "search", "long_task_ms": "longest task"}
    worst = [max(result[key], default=0) for key in names]
    figure, axes = pyplot.subplots(figsize=(5, 2.6))
    axes.barh(list(names.values()), worst)
    for place, key in enumerate(names):
        axes.plot([LIMITS_MS[key]] * 2, [place - 0.4, place + 0.4], "k--")
    axes.set_xlabel(f"ms with {result['cards']:,} cards, worst (dashed: at most)")
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
