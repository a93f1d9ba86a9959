"""A saved workflow (the page's UI format) as the graph that ComfyUI's `/prompt` takes.

The page does this itself when a person presses Queue; here it is done without a browser. Covered
is what the workflows of this repository use: no muted or by-passed nodes, no subgraphs.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.comfy import ROOT, Graph

PERSONAL_CONCEPT = ROOT / "workflows" / "demo_personal_concept.json"
"""The demo's workflow, saved on the miniature; the others are for a user's own models."""
PAGE_ONLY = ("Note", "MarkdownNote")
MINIATURE = {
    "CheckpointLoaderSimple": {"ckpt_name": "miniature.safetensors"},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"cfg": 2.0},
    "PersonalQTAQCompare": {"cfg": 2.0},
}
"""Node -> what stands in for its own model, size and guidance where the model is not here."""
WIDGET_TYPES = ("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO")


def load_graph(path: Path, object_info: dict[str, Any]) -> Graph:
    """The API graph of a saved workflow.

    Args:
        path: a workflow in UI format.
        object_info: the answer of `/object_info`: every node's inputs, in order.

    Raises:
        ValueError: a node is not known to the server, or its saved values do not fit its inputs.
    """
    workflow = json.loads(path.read_text())
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    return {
        str(node["id"]): {
            "class_type": node["type"],
            "inputs": _inputs(node, sources, object_info),
        }
        for node in workflow["nodes"]
        if node["type"] not in PAGE_ONLY
    }


def on_miniature(graph: Graph) -> Graph:
    """The same API graph, its own checkpoint, picture size and guidance as the miniature's."""
    for node in graph.values():
        node["inputs"] |= MINIATURE.get(node["class_type"], {})
    return graph


def saved_on_miniature(path: Path, object_info: dict[str, Any]) -> dict[str, Any]:
    """A saved workflow, still in UI format, with the miniature in the same way."""
    workflow = json.loads(path.read_text())
    for node in workflow["nodes"]:
        if node["type"] in MINIATURE:
            names = list(_widget_names(object_info[node["type"]]["input"]))
            for name, value in MINIATURE[node["type"]].items():
                node["widgets_values"][names.index(name)] = value
    return workflow


def _inputs(node: dict, sources: dict[int, list], object_info: dict[str, Any]) -> dict[str, Any]:
    if node["type"] not in object_info:
        raise ValueError(f"the server has no node {node['type']}")
    names = list(_widget_names(object_info[node["type"]]["input"]))
    values = node.get("widgets_values", [])
    # As in the page: inputs newer than the workflow keep their defaults.
    if len(values) > len(names):
        raise ValueError(f"{node['type']} has the values {names}, the workflow saved {values}")
    inputs = {name: value for name, value in zip(names, values) if name}
    linked = {slot["name"]: sources[slot["link"]] for slot in node["inputs"] if slot.get("link")}
    return {**inputs, **linked}


def _widget_names(inputs: dict[str, dict[str, list]]) -> Iterator[str]:
    """Names in the order of `widgets_values`; "" for a value that never leaves the page."""
    for name, (kind, *rest) in {**inputs.get("required", {}), **inputs.get("optional", {})}.items():
        options = rest[0] if rest else {}
        if (isinstance(kind, str) and kind not in WIDGET_TYPES) or options.get("forceInput"):
            continue
        yield name
        if options.get("control_after_generate"):
            yield ""  # fixed | increment | randomize
