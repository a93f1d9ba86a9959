"""Words under which ComfyUI's node search finds a node, besides its name."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io


def found_as(*words: str) -> dict[str, Any]:
    """Arguments for a schema; none where this ComfyUI's schemas do not know of such words yet.

    An unknown argument would keep the whole pack from loading.
    """
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return {"search_aliases": list(words)} if "search_aliases" in known else {}
