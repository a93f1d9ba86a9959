"""What leaves a request with some of its words: the space, the comma, the brackets around them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..language.words import DETERMINERS, fold

_DASH_BEFORE = re.compile(r"(?<=\s)[-\u2013\u2014]{1,2}$")
_DASH_AFTER = re.compile(r"\s*[-\u2013\u2014]{1,2}(?=\s)")
_NO_SPACE_BEFORE = ("", *",.;:!?)'\u2019")
_CLOSES = re.compile(r"[\s!?.]*[)\]]")


def without_gaps(text: str, selecting: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Selection words with one neighbouring space, so that none is left double."""
    spans = []
    for start, end in _merged(text, selecting):
        end = _with_of(text, start, end)
        start = _with_lone_article(text, start, end)
        start, end = _with_brackets(text, start, end)
        if text[end:].startswith(":") and _is_gone(text[:start], spans):  # "using Dreamy: my bear"
            end = _begins_after(text, end)
        elif end < len(text) and text[end] == " " and (start == 0 or text[start - 1] in " ("):
            end += 1
        elif start > 0 and text[start - 1] == " " and text[end : end + 1] in _NO_SPACE_BEFORE:
            start -= 1
        if text[end:].lstrip()[:1] in ("", ","):  # of the commas around it, one stays at most
            start = len(re.sub(r"\s*,\s*$", "", text[:start]))
            end = end if start else _begins_after(text, end)
        if spans and start < spans[-1][1]:
            start = spans[-1][1]
        if start < end:
            spans += _keeping_apart(text, start, end)
    return spans


def _is_gone(before: str, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether nothing is left of what stands before."""
    for start, end in spans:
        before = before[:start] + " " * (end - start) + before[end:]
    return not before.strip()


def _begins_after(text: str, place: int) -> int:
    """Where the next word stands, after spaces, commas and colons."""
    return len(text) - len(text[place:].lstrip(" \t\n,:"))


def _with_of(text: str, start: int, end: int) -> int:
    """The end with the "of" that nothing is left for: "the newest of my bears", but not "the bear
    v2 of the north"."""
    before, of = text[:start].rstrip(), re.match(r"\s+(?:of|de|du|von)\b", text[end:], re.I)
    stands_alone = not before or re.search(r"(?:[,.;:(]|\b(?:of|de|du|von))$", before, re.I)
    return end + of.end() if of and stands_alone else end


def _with_lone_article(text: str, start: int, end: int) -> int:
    """The start with the "the" that nothing is left for: ", the newest one,"."""
    before = re.search(r"(?:^|[,.;:(])\s*(\w+\s+)$", text[:start])
    if before is None or fold(before[1].strip()) not in DETERMINERS:
        return start
    return before.start(1) if text[end:].lstrip()[:1] in ("", *",.;:)") else start


def _with_brackets(text: str, start: int, end: int) -> tuple[int, int]:
    """With the brackets that nothing is left in, "bear (v8)", or dashes, "bear - v8 - at sea"."""
    before, closed = text[:start].rstrip(), _CLOSES.match(text, end)
    if closed and before.endswith(("(", "[")) and not before.endswith("\\("):
        return len(before) - 1, closed.end()
    dash, after = _DASH_BEFORE.search(before), _DASH_AFTER.match(text, end)
    if dash and after:
        return len(before[: dash.start()].rstrip()), after.end()
    return start, end


def _merged(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans with nothing but spaces between them are one."""
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and not text[merged[-1][1] : start].strip(" "):
            start, until = merged.pop()
            end = max(end, until)
        merged.append((start, end))
    return merged


def _keeping_apart(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """A span that leaves, but for a space or comma where its neighbours would else run together."""
    gap = re.search(r"\s", text[start:end]) or re.search(r"\W", text[start:end])
    between = re.search(r"[^\s(]$", text[:start]) and re.match(r"[^\s,.;:!?)'\u2019]", text[end:])
    if gap is None or not between:
        return [(start, end)]
    place = start + gap.start()
    return [(a, b) for a, b in ((start, place), (place + 1, end)) if a < b]
