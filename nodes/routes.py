"""What the page asks of the library over HTTP. docs/api.md describes each route.

Whoever reaches ComfyUI reaches these. So they name no file by path, take no path and no address,
serve pictures of known cards only, and write nothing but the user's own notes.
"""

from __future__ import annotations

import asyncio
import functools
import io
import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from PIL import Image

from ..personalq_core.library.card import ModelCard
from ..personalq_core.library.text import clean
from ..personalq_core.models.llm import Endpoint, load_llm
from .host import folders, web_server
from .library import LIBRARY
from .shelf import Shelf, details, preview_stamp

MAX_PAGE = 200
MAX_QUERY = 400
MAX_BODY_BYTES = 64 * 1024
NOTED = {"title", "trigger", "note"}
MAX_PIXELS = 64_000_000
THUMBNAIL_SIDE = 320
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP")
"""What a preview may hold. Pillow reads more, some through other programs (EPS: Ghostscript)."""

routes = web_server.routes()
shelf = Shelf(LIBRARY)


class Refused(ValueError):
    """A request that is not as docs/api.md says; the message tells what is wrong."""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _answers(handler: Handler) -> Handler:
    """Turn what goes wrong into a JSON answer with one clear message."""

    @functools.wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as error:
            return web.json_response({"error": str(error)}, status=400)
        except LookupError as error:
            return web.json_response({"error": str(error.args[0])}, status=404)
        except sqlite3.OperationalError as error:
            message = f"The library file cannot be written ({error}). Try again in a moment."
            return web.json_response({"error": message}, status=503)

    return answer


@routes.get("/personalq/cards")
@_answers
async def get_cards(request: web.Request) -> web.Response:
    """One page of the library, searched and filtered."""
    query = request.query.get("q", "")[:MAX_QUERY].strip()
    offset = _number(request, "offset", 0, 10**9)
    limit = _number(request, "limit", 60, MAX_PAGE)
    kind, base = request.query.get("kind", ""), request.query.get("base", "")
    page = await asyncio.to_thread(shelf.page, query, kind, base, offset, limit)
    return web.json_response(page)


@routes.get("/personalq/card")
@_answers
async def get_card(request: web.Request) -> web.Response:
    """One card with where each fact came from."""
    card = await asyncio.to_thread(shelf.card, request.query.get("id", ""))
    return web.json_response(await asyncio.to_thread(_shown, card))


@routes.get("/personalq/preview")
@_answers
async def get_preview(request: web.Request) -> web.Response:
    """A card's picture, drawn anew as a small WebP; 204 where it has none."""
    card = await asyncio.to_thread(shelf.card, request.query.get("id", ""))
    stamp = await asyncio.to_thread(preview_stamp, card)
    if stamp is None:
        return web.Response(status=204)
    headers = {
        "ETag": f'"{stamp[1]:x}-{stamp[2]:x}"',
        "Cache-Control": "private, no-cache",
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return web.Response(status=304, headers=headers)
    picture = await asyncio.to_thread(_thumbnail, *stamp)
    if picture is None:
        return web.Response(status=204)
    return web.Response(body=picture, content_type="image/webp", headers=headers)


@routes.post("/personalq/note")
@_answers
async def post_note(request: web.Request) -> web.Response:
    """Keep or take back the user's own title, trigger and note of a card."""
    body = await _own_json(request)
    card = await asyncio.to_thread(shelf.card, body.get("id", ""))
    note = _note(body.get("note"))
    try:
        await asyncio.to_thread(LIBRARY.write_note, card.fingerprint, note)
    except ValueError as error:
        raise Refused(str(error)) from None
    await asyncio.to_thread(shelf.refresh)
    noted = await asyncio.to_thread(shelf.card, card.id)
    return web.json_response(await asyncio.to_thread(_shown, noted))


@routes.post("/personalq/rescan")
@_answers
async def post_rescan(request: web.Request) -> web.Response:
    """Read again what changed in the model folders; ends when that is done."""
    await _own_json(request)
    changed = await asyncio.to_thread(shelf.refresh)
    status = await asyncio.to_thread(_status)
    return web.json_response({**status, "changed": changed})


@routes.get("/personalq/status")
@_answers
async def get_status(_: web.Request) -> web.Response:
    """Folders in use, size of the library, a running scan's progress, notices."""
    return web.json_response(await asyncio.to_thread(_status))


def _status() -> dict[str, Any]:
    in_use = [{"kind": kind, "path": path} for kind, path in folders.model_folders()]
    return {**shelf.status(), "folders": in_use, "llm": _llm()}


def _llm() -> str:
    """The language model that was set up on this server, in words; no key and no address."""
    try:
        settings = load_llm()
    except ValueError as error:
        logging.warning("PersonalQ's language model: %s", error)
        return "set up, but not usable: see the server's log"
    if settings is None:
        return ""
    if isinstance(settings.llm, Endpoint):
        return f"{settings.llm.model or 'a model'} at {urlsplit(settings.llm.url).hostname}"
    return "a GGUF file on this server"


def _number(request: web.Request, name: str, default: int, largest: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit()):
        raise Refused(f"{name} has to be a whole number, not {clean(text, 40)!r}.")
    return min(int(text[:12]), largest)


async def _own_json(request: web.Request) -> dict[str, Any]:
    """The JSON object a page of this server sent; other sites' pages are refused.

    A foreign page can post only without asking first where the content is no JSON.
    """
    origin = request.headers.get("Origin")
    foreign = origin is not None and urlsplit(origin).netloc.lower() != request.host.lower()
    if foreign or request.headers.get("Sec-Fetch-Site", "same-origin") not in (
        "same-origin", "none",
    ):  # fmt: skip
        raise web.HTTPForbidden(text="Only pages of this ComfyUI may write.")
    if request.content_type != "application/json":
        raise Refused("Send application/json.")
    raw = await request.content.read(MAX_BODY_BYTES + 1)
    while len(raw) <= MAX_BODY_BYTES and not request.content.at_eof():
        raw += await request.content.read(MAX_BODY_BYTES + 1 - len(raw))
    if len(raw) > MAX_BODY_BYTES:
        raise Refused(f"Send at most {MAX_BODY_BYTES} bytes.")
    try:
        body = json.loads(raw or b"{}")
    except (ValueError, RecursionError):
        raise Refused("This is no JSON.") from None
    if not isinstance(body, dict):
        raise Refused("Send a JSON object.")
    return body


def _note(value: Any) -> dict[str, Any]:
    """The noted fields, of which a page may write three; their values the library checks."""
    if not isinstance(value, dict) or not value or value.keys() - NOTED:
        raise Refused(f"note is an object of {', '.join(sorted(NOTED))}.")
    if not all(isinstance(text, (str, type(None))) for text in value.values()):
        raise Refused("What is noted has to be text, or null to take it back.")
    return value


def _shown(card: ModelCard) -> dict[str, Any]:
    return {**details(card), "note": LIBRARY.note_of(card.fingerprint)}


@functools.lru_cache(maxsize=2000)
def _thumbnail(path: str, mtime_ns: int, size: int) -> bytes | None:
    """The picture as WebP of at most THUMBNAIL_SIDE pixels; None where it is none.

    Drawn anew, so that whatever a file named .png really holds never reaches the page. `mtime_ns`
    and `size` are of the file at `path`: another content is another entry of the cache.
    """
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            picture.draft("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
            small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            out = io.BytesIO()
            small.save(out, "WEBP", quality=82)
            return out.getvalue()
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError):
        return None
