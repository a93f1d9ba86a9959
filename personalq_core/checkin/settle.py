"""What a request may ask of the model, settled beside the library.

"Before the remodel" tells two kitchens apart where the cards of kitchens tell of a remodel, and
"v8" is a version where the bear has that many. "Before a castle" and "V8 engine" ask nothing: they
are a part of the picture and stay in the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..language.translate import language
from ..language.words import terms
from ..library.card import ModelCard
from .cues import cues
from .intent import Intent
from .rerank import coverage, meant_by
from .retrieve import Index, Retrieved
from .shortlist import TOP_K, nearest, of_version

_CLAUSE_ENDS = re.compile(r"[.;,\n]")


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


def _asking(intent: Intent, span: tuple[int, int], **asked: Any) -> Intent:
    """It asks this by the words of a span, which leave the picture."""
    left = intent.with_words(
        (word, weight)
        for word, weight in intent.weighed()
        if not span[0] <= word.start < span[1]
    )
    return replace(left, selecting=tuple(sorted({*intent.selecting, span})), **asked)


def _tells_apart(intent: Intent, index: Index, numbers: np.ndarray) -> bool:
    """Whether one of the cards tells of the same: by the same word, or of any time before or after
    something, if what is asked for may be a change of the thing."""
    assert intent.event is not None
    start, end = intent.event.span
    said = meant_by(intent, index, start, end)
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
