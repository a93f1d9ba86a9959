"""Everything PersonalQ does, without a page: post a graph, read the question, answer, get pictures.

    python docs/drive.py [--server http://127.0.0.1:8188] [--answer NUMBER] [--out FOLDER]
        [--graph docs/personal_concept_api.json] REQUEST [REQUEST ...]

Needs Python's standard library only. Where Check-in asks, the question and its options are printed
and one is read from the terminal, or --answer chooses it.
"""

import argparse
import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

SELECTOR = "PersonalQCheckInSelector"
GRAPH = "personal_concept_api.json"


def main() -> None:
    parser = argparse.ArgumentParser(description="Requests in plain words -> pictures.")
    parser.add_argument("requests", nargs="+", metavar="REQUEST")
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("--graph", type=Path, default=Path(__file__).parent / GRAPH)
    parser.add_argument("--answer", type=int, help="number of the option to choose, from 1")
    parser.add_argument("--out", type=Path, default=Path("."))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for request in options.requests:
        for path in draw(options, request):
            print(path)


def draw(options: argparse.Namespace, request: str) -> list[Path]:
    """Pictures of one request; a question on the way is answered."""
    graph = json.loads(options.graph.read_text())
    selector = next(node for node in graph.values() if node["class_type"] == SELECTOR)
    selector["inputs"].update(request=request, selection="")
    outputs = run(options.server, graph)
    decision = decision_of(outputs)
    if decision["status"] == "ask":
        selector["inputs"]["selection"] = answer(decision, options.answer)
        outputs = run(options.server, graph)
        decision = decision_of(outputs)
    print(f"{request!r}: {decision['reason']} -> {decision['prompt']!r}", file=sys.stderr)
    return [save(options, image) for out in outputs.values() for image in out.get("images", [])]


def run(server: str, graph: dict) -> dict:
    """Queue a graph, wait for its end, and return what its nodes showed: node id -> ui output."""
    # A client_id makes ComfyUI repeat what nodes from its cache showed before.
    body = json.dumps({"prompt": graph, "client_id": "drive"}).encode()
    post = urllib.request.Request(f"{server}/prompt", body, {"Content-Type": "application/json"})
    prompt_id = get(post)["prompt_id"]
    while prompt_id not in (history := get(f"{server}/history/{prompt_id}")):
        time.sleep(0.2)
    entry = history[prompt_id]
    for event, details in entry["status"]["messages"]:
        if event == "execution_error":
            sys.exit(f"{details['node_type']}: {details['exception_message'].strip()}")
    return entry["outputs"]


def decision_of(outputs: dict) -> dict:
    """Check-in's decision among the ui outputs."""
    return next(out["personalq"][0] for out in outputs.values() if "personalq" in out)


def answer(decision: dict, number: int | None) -> str:
    """The `selection` of the option that is chosen; "none" for none of them."""
    print(decision["question"], file=sys.stderr)
    for place, option in enumerate(decision["candidates"], 1):
        print(f"  {place}  {option['title']}: {option['difference']}", file=sys.stderr)
    if number is None:
        number = int(input("number (0: none of these): "))
    return decision["candidates"][number - 1]["selection"] if number else "none"


def save(options: argparse.Namespace, image: dict) -> Path:
    """Download one picture."""
    path = options.out / Path(image["filename"]).name
    address = f"{options.server}/view?{urllib.parse.urlencode(image)}"
    with urllib.request.urlopen(address) as picture:
        path.write_bytes(picture.read())
    return path


def get(request: str | urllib.request.Request) -> dict:
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main()
