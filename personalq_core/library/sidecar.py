"""Sidecars of other tools: read, capped, believed only as far as their types go; never written.

Their order is their rank: the first that says something about a field is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .facts import Facts
from .text import clean, clean_block, parse_json, strip_html
from .version import utc

LOOSE_NOTE = "text file"
"""Origin of what a .txt says: a line of it may be a trigger or not, see `loose_trigger`."""
MAX_SIDECAR_BYTES = 4 * 1024 * 1024
_MAX_WORDS = 40

PREVIEW_SUFFIXES = tuple(
    f"{middle}.{suffix}"
    for middle in (".preview", "")
    for suffix in ("png", "jpg", "jpeg", "webp", "mp4")
)


def sidecar_names(file_name: str) -> dict[str, Callable[[Any], Facts | None]]:
    """Names of the sidecars a model file can have, best first, each with its reader."""
    stem = file_name.rsplit(".", 1)[0]
    return {
        f"{stem}.metadata.json": _lora_manager,
        f"{stem}.civitai.info": _civitai_info,
        f"{stem}.json": _a1111,
        f"{file_name}.rgthree-info.json": _rgthree,
        f"{stem}.txt": _text,
    }


def read_sidecar(path: str, reader: Callable[[Any], Facts | None]) -> Facts | None:
    """Facts of one sidecar; None where it says nothing that can be read."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_SIDECAR_BYTES + 1)
        if len(raw) > MAX_SIDECAR_BYTES:
            return None
        if reader is _text:
            return _text(raw.decode("utf-8-sig", "replace"))
        tree = parse_json(raw)
        return reader(tree) if isinstance(tree, dict) else None
    except (OSError, ValueError):
        return None


def _lora_manager(tree: Mapping[str, Any]) -> Facts:
    civitai = _dict(tree.get("civitai"))
    tips = _dict(_json_text(tree.get("usage_tips")))
    inner = _civitai(civitai, "Lora Manager sidecar")
    return Facts(
        origin="Lora Manager sidecar",
        title=clean(tree.get("model_name")) or inner.title,
        triggers=inner.triggers,
        tags=_words(tree.get("tags")) or inner.tags,
        description="\n".join(
            filter(None, (strip_html(tree.get("notes")), strip_html(tree.get("modelDescription"))))
        )
        or inner.description,
        author=inner.author,
        base_model=clean(tree.get("base_model"), 80) or inner.base_model,
        version=inner.version,
        created_at=inner.created_at,
        strength=_strength(tips.get("strength")),
    )


def _civitai_info(tree: Mapping[str, Any]) -> Facts:
    return _civitai(tree, "Civitai sidecar")


def _civitai(tree: Mapping[str, Any], origin: str) -> Facts:
    """A model version as Civitai's own interface answers it."""
    model = _dict(tree.get("model"))
    texts = (strip_html(tree.get("description")), strip_html(model.get("description")))
    creator = _dict(tree.get("creator")) or _dict(model.get("creator"))
    return Facts(
        origin=origin,
        title=clean(model.get("name")),
        triggers=_words(tree.get("trainedWords")),
        tags=_words(model.get("tags")) or _words(tree.get("tags")),
        description="\n".join(filter(None, texts)),
        author=clean(creator.get("username"), 80),
        base_model=clean(tree.get("baseModel"), 80),
        version=clean(tree.get("name"), 80),
        created_at=utc(tree.get("createdAt")) or utc(tree.get("publishedAt")),
    )


def _a1111(tree: Mapping[str, Any]) -> Facts | None:
    known = {"activation text", "preferred weight", "notes", "sd version", "description"}
    if not known & tree.keys():  # any program may write an x.json
        return None
    texts = (clean_block(tree.get("description")), clean_block(tree.get("notes")))
    activation = clean(tree.get("activation text"), 1000)
    return Facts(
        origin="A1111 sidecar",
        triggers=(activation,) if activation else (),
        description="\n".join(filter(None, texts)),
        base_model=clean(tree.get("sd version"), 80),
        strength=_strength(tree.get("preferred weight")),
    )


def _rgthree(tree: Mapping[str, Any]) -> Facts:
    raw = _civitai(_dict(_dict(tree.get("raw")).get("civitai")), "rgthree sidecar")
    entries = [entry for entry in _list(tree.get("trainedWords")) if isinstance(entry, dict)]
    # It also lists every word of the training captions, marked as coming from the header only.
    stated = [entry.get("word") for entry in entries if entry.get("civitai") or entry.get("user")]
    return Facts(
        origin="rgthree sidecar",
        title=clean(tree.get("name")) or raw.title,
        triggers=_words(stated) or raw.triggers,
        tags=_words(tree.get("tags")) or raw.tags,
        description=clean_block(tree.get("userNote")) or raw.description,
        author=raw.author,
        base_model=clean(tree.get("baseModel"), 80) or raw.base_model,
        version=raw.version,
        created_at=raw.created_at,
        strength=_strength(tree.get("strengthMax")),
    )


def _text(text: str) -> Facts | None:
    """A loose note: one short line is what people keep triggers in, anything longer describes."""
    note = clean_block(text)
    if not note:
        return None
    if "\n" not in note and len(note) <= 120 and not note.endswith("."):
        return Facts(origin=LOOSE_NOTE, triggers=(clean(note),))
    return Facts(origin=LOOSE_NOTE, description=note)


def _words(value: Any) -> tuple[str, ...]:
    """Texts of a list, or of a list of {"name": text}; each once, in order."""
    entries: Iterable[Any] = (
        entry.get("name") if isinstance(entry, dict) else entry
        for entry in _list(value)[:_MAX_WORDS]
    )
    return tuple(dict.fromkeys(filter(None, (clean(entry, 1000) for entry in entries))))


def _strength(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # JSON's whole numbers have no largest
        return None
    # 0 stands for "not set" in these tools.
    return number if math.isfinite(number) and number != 0 and abs(number) <= 10 else None


def _json_text(value: Any) -> Any:
    try:
        return parse_json(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
