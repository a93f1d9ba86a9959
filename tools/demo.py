"""`make demo`: a plain request becomes a picture, in a real ComfyUI, from a quantized model.

`make ui` (`--ui`) leaves that ComfyUI running, with the same graph open for a person.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tools.comfy import ROOT, Run, Server
from tools.workflow import PERSONAL_CONCEPT, load_graph

BASE = ROOT / ".run" / "demo"
UI_PORT = 8188
LABEL_WIDTH = 14


def assemble_models(models: Path) -> None:
    """Write the miniature checkpoint and its LoRAs into a models folder."""
    command = [sys.executable, "-m", "miniature.assemble", "--models", str(models)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def score(picture: Path) -> dict[str, Any]:
    """What the miniature's scorer finds in a picture."""
    command = [sys.executable, "-m", "miniature.score", str(picture)]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    return json.loads(answer)[str(picture)]


def run_with_progress(server: Server, graph: dict[str, Any]) -> Run:
    """Run a graph; on a terminal the seconds count up meanwhile."""
    started = time.monotonic()
    prompt_id = server.queue(graph)

    def tick() -> None:
        if sys.stdout.isatty():
            print(f"\r  {time.monotonic() - started:4.0f} s", end="\r", flush=True)

    return server.wait(prompt_id, on_wait=tick)


def explain(run: Run, picture: Path) -> None:
    """Print what was asked, what was chosen and why, and what came of it."""
    decision = run.ui("personalq")[0]
    choice = decision["choice"]
    if choice is None:
        sys.exit(f"Nothing was chosen: {decision['question'] or decision['reason']}")
    sizes = run.ui("personalq_taq")[0]
    share = sizes["after_bytes"] / sizes["before_bytes"]
    line("request", decision["request"])
    line("chosen", f"{choice['name']} ({choice['title']})")
    line("because", "; ".join(choice["evidence"]) or decision["reason"])
    line("prompt", decision["prompt"])
    line("model before", f"{sizes['before_bytes']:,} bytes")
    line("model after", f"{sizes['after_bytes']:,} bytes ({share:.0%})")
    line("picture", str(picture))
    reading = score(picture)
    seen = ", ".join(f"{name} {value}" for name, value in reading["attributes"].items())
    line("found in it", f"{reading['found'] or 'no personal concept'} ({seen})")
    line("time", f"{run.seconds:.1f} s")


def line(label: str, text: str) -> None:
    print(f"  {label:<{LABEL_WIDTH}}{text}")


def demo() -> None:
    """One run of the demo's workflow over HTTP."""
    print("Assembling the miniature models ...", flush=True)
    assemble_models(BASE / "models")
    print("Starting ComfyUI ...", flush=True)
    with Server(BASE) as server:
        print(f"Running {PERSONAL_CONCEPT.relative_to(ROOT)} ...", flush=True)
        run = run_with_progress(server, load_graph(PERSONAL_CONCEPT, server.get("/object_info")))
        if not run.ok:
            sys.exit(f"The graph failed: {run.error}")
        picture = next(image for image in run.images() if image["type"] == "output")
        explain(run, server.output / picture["subfolder"] / picture["filename"])


def ui() -> None:
    """ComfyUI with the graph open, until Ctrl-C."""
    assemble_models(BASE / "models")
    with Server(BASE, port=UI_PORT) as server:
        print(f"Open {template_url(server)}\n(Ctrl-C ends it)", flush=True)
        try:
            while True:
                time.sleep(1)
        except KeyboardInterrupt:
            print()


def template_url(server: Server, name: str = PERSONAL_CONCEPT.stem) -> str:
    """The page with workflows/NAME.json open."""
    return f"{server.url}/?template={name}&source=personalq"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--ui", action="store_true", help="leave ComfyUI running, the graph open")
    ui() if parser.parse_args().ui else demo()


if __name__ == "__main__":
    main()
