"""ComfyUI's web server, where our routes are added."""

from __future__ import annotations

from aiohttp import web
from server import PromptServer


def routes() -> web.RouteTableDef:
    """The table our routes go into; a loose one where no server runs."""
    instance = getattr(PromptServer, "instance", None)
    return instance.routes if instance else web.RouteTableDef()
