"""What a request may ask of the model, settled beside the library.

"Before the remodel" tells two kitchens apart where the cards of kitchens tell of a remodel, and
"v8" is a version where the bear has that many. "Before a castle" and "V8 engine" ask nothing: they
are a part of the picture and stay in the prompt. So do "an older woman" beside "my older bear", and
"without windows" where no such model says anything of windows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..language.translate import language
from ..language.words import is_cjk, terms
from ..library.card import ModelCard
from .cues import cues
from .intent import Cue, Intent
from .rerank import SAME, author_of, coverage, is_called, moment_of, says
from .retrieve import Index, Retrieved
from .shortlist import TOP_K, nearest, of_version

_CLAUSE_ENDS = re.compile(r"[.;,\n]")
_CLAUSE = re.compile(r"used|back|when|as|like|nowadays", re.I)
"""Begins an order that is no adjective: "when it was still small"."""
_INDEFINITE = re.compile(r"\b(?:an?|eine?[nrsm]?|une?)\s+$", re.I)
_FILE = re.compile(r"\b(?:version|edition|model|lora|checkpoint|one)s?\b", re.I)
_CERTAIN = re.compile(
    r"\b(?:the|one|ones|der|die|das|den|dem|el|la|los|las|le|les|version|lora|model)\b", re.I
)
_PLACE = re.compile(r"\b(?:in|on|at|with|against|by|from|to|into|for)\s+(?:the\s+)?$", re.I)
_IN_A_MONTH = re.compile(r"(?:in|im|en)\s+[^\W\d]+", re.I)


def settle(intent: Intent, index: Index, found: Retrieved, numbers: np.ndarray) -> Intent:
    """The request with what the given cards, near it, bear out; the same where that is nothing."""
    if intent.event and _tells_apart(intent, index, nearest(found, numbers, TOP_K)):
        event = intent.event
        intent = _asking(intent, event.span, order=event.order, order_is_soft=False)
    if intent.maybe_version:
        version, span = intent.maybe_version
        same = nearest(found, of_version(version, index, numbers), TOP_K)
        if any(coverage(intent, index, number)[0] > 0 for number in same):
            intent = _asking(intent, span, version=version)
    return intent


def asking_nothing(
    intent: Intent, index: Index, found: Retrieved, numbers: np.ndarray
) -> list[tuple[int, int]]:
    """Where words stand that none of the given cards, near the request, bears out as its wish."""
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
    if _CLAUSE.match(request, start) or is_cjk(request):
        return True
    of = slice(*cue.of)
    if _INDEFINITE.search(request[:start]):
        return bool(_FILE.search(request[of]))
    said = [
        readings
        for word, readings in zip(intent.words, index.read(intent), strict=True)
        if cue.of[0] <= word.start < cue.of[1]
    ]
    if said:
        meant = {term for readings in said for term, weight in readings.items() if weight >= SAME}
        return any(index.is_label(term) for term in meant) or any(
            meant & index.words_of(number) for number in near
        )
    # "Against the current": a noun.
    return bool(request[of].strip()) or not _PLACE.search(request[:start])


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
    """Whether a card is of that time, or the words can be of nothing but a time: "last spring"."""
    if not _IN_A_MONTH.fullmatch(intent.request[slice(*cue.span)].strip()):
        return True
    assert intent.period is not None
    start, end = intent.period
    dates = [index.cards[number].created_at for number in near]
    return any(date and start <= moment_of(date) < end for date in dates)


def _asking(intent: Intent, span: tuple[int, int], **asked: Any) -> Intent:
    """It asks this by the words of a span, which leave the picture."""
    kept = [
        (word, weight)
        for word, weight in zip(intent.words, intent.weights, strict=True)
        if not span[0] <= word.start < span[1]
    ]
    return replace(
        intent,
        words=tuple(word for word, _ in kept),
        weights=tuple(weight for _, weight in kept),
        selecting=tuple(sorted({*intent.selecting, span})),
        **asked,
    )


def _tells_apart(intent: Intent, index: Index, numbers: np.ndarray) -> bool:
    """Whether one of the cards tells of the same: by the same word, or of any time before or after
    something, if what is asked for may be a change of the thing."""
    assert intent.event is not None
    start, end = intent.event.span
    said = {
        term
        for word, readings in zip(intent.words, index.read(intent), strict=True)
        if start <= word.start < end
        for term, weight in readings.items()
        if weight >= SAME
    }
    is_clause = intent.event.is_clause
    may_change = is_clause or intent.event.changes is not False
    return any(
        (is_clause and said & index.words_of(number))
        or any(may_change or said & told for told in _times_told(index.cards[number]))
        for number in numbers
    )


def _times_told(card: ModelCard) -> Iterator[set[str]]:
    """The words of all that a card says to be before or after something."""
    text = f"{card.title}. {card.description}"
    cue = cues(language(text))
    for pattern in (cue.before, cue.after, cue.oldest):
        for found in pattern.finditer(text):
            yield set(terms(_CLAUSE_ENDS.split(text[found.end() :], maxsplit=1)[0]))
