"""Text out of files nobody vouches for, made safe to store and to show."""

from __future__ import annotations

import html
import json
import re
from typing import Any

MAX_JSON_PARTS = 1_000_000
"""Most brackets and commas in JSON that is read: each costs 60 bytes and more when parsed."""

# C0/C1 controls, lone surrogates, and the bidi marks that make text read as what it is not.
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_TAG = re.compile(r"<(?:/?[a-zA-Z][^<>]{0,2000}|!--.{0,2000}?--)>", re.S)
# No character has such a number, and Python refuses to read one of thousands of digits.
_NO_CHARACTER = re.compile(r"&#[0-9]{20,};?")
_BREAK = re.compile(r"(?i)<\s*(?:br|/p|/div|/li|/h[1-6])\b[^<>]{0,200}>")


def is_plain(text: str) -> bool:
    """Can it be stored and shown as it is?"""
    return not _UNSAFE.search(text)


def clean(value: Any, limit: int = 400) -> str:
    """One line of plain text of at most `limit` characters; "" for anything that is no text."""
    return " ".join(clean_block(value, limit * 4).split())[:limit].strip()


def clean_block(value: Any, limit: int = 8000) -> str:
    """As `clean`, with the line breaks kept."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    # Cut before cleaning: the work is bounded whatever a file holds.
    return _UNSAFE.sub("", str(value)[: limit * 2])[:limit].strip()


def parse_json(raw: bytes | str) -> Any:
    """JSON in bounded memory. Raises ValueError for whatever cannot be read."""
    text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
    if sum(text.count(mark) for mark in "[{,") > MAX_JSON_PARTS:
        raise ValueError("too many parts")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def strip_html(value: Any, limit: int = 8000) -> str:
    """Text of a description written in HTML (Civitai's are). Only for reading: never as a filter
    before showing something as HTML."""
    text = clean_block(value, limit * 2)
    text = _NO_CHARACTER.sub(" ", _TAG.sub(" ", _BREAK.sub("\n", text)))
    text = clean_block(html.unescape(text), limit)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line)[:limit].strip()
