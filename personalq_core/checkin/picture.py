"""Words that seem to ask something of the model, and are said of the picture.

"My older bear" asks for a version, "an older woman" is to be painted; "without the hat" rules a
bear out, "a room without windows" none. What no model of the library bears out stays in the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ..language.words import DETERMINERS, fold, is_cjk, words
from .cues import FILE
from .intent import Cue, Intent
from .rerank import author_of, coverage, is_called, meant_by, moment_of, says
from .retrieve import Index, Retrieved
from .shortlist import TOP_K, nearest

_CLAUSE = re.compile(r"used|back|when|as|like|nowadays", re.I)
"""Begins an order that is no adjective: "when it was still small"."""
_INDEFINITE = re.compile(r"\b(?:an?|eine?[nrsm]?|une?)\s+$", re.I)
_FILE = re.compile(rf"\b{FILE}s?\b", re.I)
_CERTAIN = re.compile(
    r"^\W*(?:\w+\s+){0,2}(?:the|der|die|das|den|dem|el|la|los|las|le|les)\b"
    r"|\b(?:ones?|version|lora|model)\b", re.I
)
_PLACE = re.compile(r"\b(?:in|on|at|with|against|by|from|to|into|for)\s+(?:the\s+)?$", re.I)
_ANY_THING = re.compile(r"\ban?\s+(?:\w+\s+){1,2}$", re.I)
_IN_A_MONTH = re.compile(r"(?:in|im|en)\s+[^\W\d]+", re.I)


def said_of_the_picture(
    intent: Intent, index: Index, found: Retrieved, numbers: np.ndarray
) -> list[tuple[int, int]]:
    """Where words stand that none of the given cards, near the request, bears out as a wish."""
    near = nearest(found, numbers, TOP_K).tolist() if intent.words else []
    near = [number for number in near if coverage(intent, index, number)[0] > 0]
    checks = {
        "order": _orders_them, "exclusion": _rules_out, "author": _has_trained, "period": _is_then
    }  # fmt: skip
    return [
        cue.span
        for cue in intent.cues
        if near and not checks[cue.kind](intent, cue, index, near)
    ]


def _orders_them(intent: Intent, cue: Cue, index: Index, near: Sequence[int]) -> bool:
    """Whether "newest" is said of what the cards are or another is called, or of nothing else."""
    request, start = intent.request, cue.span[0]
    if _CLAUSE.match(request, start):
        return True
    if is_cjk(request):
        return _orders_next(intent, cue, index)
    of = slice(*cue.of)
    if _INDEFINITE.search(request[:start]):
        return bool(_FILE.search(request[of]))
    if any(cue.of[0] <= word.start < cue.of[1] for word in intent.words):
        meant = meant_by(intent, index, *cue.of)
        is_said = any(index.is_label(term) for term in meant) or any(
            meant & index.words_of(number) for number in near
        )
        return is_said or (intent.foreign and _stands_alone(intent, start, index))
    return bool(request[of].strip()) or _stands_alone(intent, start, index)


def _orders_next(intent: Intent, cue: Cue, index: Index) -> bool:
    """Whether the word right after "最新的" calls a card, or none stands there: "古い本", an old
    book, asks for no version."""
    end = cue.span[1]
    after = any(word.start == end for word in intent.words)
    return not after or any(map(index.is_label, meant_by(intent, index, end, end + 1)))


def _stands_alone(intent: Intent, start: int, index: Index) -> bool:
    """Whether "newest" before nothing is said of the thing: "my bear, the newest", but neither of a
    place, "against the current", nor of how it is, "looking older"."""
    request = intent.request
    if _PLACE.search(request[:start]):
        return False
    before = [word for word in words(request) if word.end <= start]
    if not before or request[before[-1].end : start].strip():
        return True
    last = before[-1]
    is_selecting = any(a <= last.start < b for a, b in intent.selecting)
    if is_selecting or fold(last.text) in DETERMINERS or index.is_label(last.stem):
        return True
    meant = meant_by(intent, index, last.start, last.end)
    return any(map(index.is_label, meant))  # "oso más nuevo"


def _rules_out(intent: Intent, cue: Cue, index: Index, near: Sequence[int]) -> bool:
    """Whether it must not be a certain one, or a card says anything of what it must not be. Who
    rules out one thing so means another the same way: "not the toy and not comic"."""
    stems = {stem for e in intent.excluded for stem in e.stems}
    spans = {e.span for e in intent.excluded}
    is_certain = any(_CERTAIN.search(intent.request[slice(*span)]) for span in spans)
    return is_certain or any(says(s, index.words_of(n)) for s in stems for n in near)


def _has_trained(intent: Intent, cue: Cue, index: Index, near: Sequence[int]) -> bool:
    """Whether who "made" it is known for a model, or it is a model that was made."""
    name, text = intent.author or "", intent.request[slice(*cue.span)]
    known = any(is_called(author_of(card), name) for card in index.cards)
    return known or bool(_FILE.search(text)) or "trained" in text


def _is_then(intent: Intent, cue: Cue, index: Index, near: Sequence[int]) -> bool:
    """Whether a card is of that time, or the words can be of nothing but a time: "last spring", and
    are not said of any other thing: "a newspaper from last week"."""
    if other := _ANY_THING.search(intent.request[: cue.span[0]]):
        meant = meant_by(intent, index, other.start(), cue.span[0])
        if not any(map(index.is_label, meant)):
            return False
    if not _IN_A_MONTH.fullmatch(intent.request[slice(*cue.span)].strip()):
        return True
    assert intent.period is not None
    start, end = intent.period
    dates = [index.cards[number].created_at for number in near]
    return any(date and start <= moment_of(date) < end for date in dates)
