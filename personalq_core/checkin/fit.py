"""Whether the best card is what was asked for at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..language.words import Word, own_before, runs
from .beside import names_base
from .intent import Intent
from .rerank import FEATURES, FIT_FEATURES, Scored, Weights, by_name, coverage, same
from .retrieve import Index


def fit(intent: Intent, index: Index, scored: Sequence[Scored], weights: Weights) -> float:
    """Probability that the best card is what was asked for at all, 0 to 1."""
    best = dict(zip(FEATURES, scored[0].features, strict=True))
    if best["trigger"] or names_base(intent, index, scored[0].number):
        return 1.0  # it is called by its trigger, or as the base to use
    if best["excluded"] == 1:
        return 0.0  # even the best is what it must not be
    logit = float(fit_features(intent, index, scored) @ weights.fit)
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))


def fit_features(intent: Intent, index: Index, scored: Sequence[Scored]) -> np.ndarray:
    """(len(FIT_FEATURES),) of the best of some cards.

    "ahead" is how far it is ahead of a middling one, and so the same for any library; "head" how
    well it answers the noun that names the thing; "stranger" whether a name is asked for that no
    card says; "called" whether one of the user's own is spoken of, and this is called so; "name"
    whether it is called by a name.
    """
    best = scored[0]
    value = dict(zip(FEATURES, best.features, strict=True))
    covered, unknown = coverage(intent, index, best.number)
    middling = float(np.median([entry.hints for entry in scored]))
    value |= {
        "covered": covered, "unknown": unknown, "bias": 1.0,
        "lost": float(value["lost_dense"] != 0 or value["lost_sparse"] != 0),
        "ahead": (best.hints - middling) / 10,
        "head": _head(intent, index, best.number), "stranger": _stranger(intent, index),
        "called": float(_is_called(intent, index, best.number)),
        "name": float(by_name(intent, index, best.number)),
    }  # fmt: skip
    return np.array([value[name] for name in FIT_FEATURES])


def _head(intent: Intent, index: Index, number: int) -> float:
    """How well a card answers the noun that names the thing asked for, 0 to 1; 1 without one."""
    own = index.words_of(number)
    answers = [
        max((w for term, w in readings.items() if term in own), default=0.0)
        for readings, at in zip(index.read(intent), intent.naming, strict=True)
        if at
    ]
    if not answers:
        return 1.0
    # Other languages put what describes a noun after it.
    return max(answers) if intent.foreign else answers[-1]


def _stranger(intent: Intent, index: Index) -> float:
    """1 where the request calls something by a name that no card says."""
    return float(
        any(
            at and not readings and word.start > 0 and intent.request[word.start].isupper()
            for word, readings, at in zip(
                intent.words, index.read(intent), intent.naming, strict=True
            )
        )
    )


def _is_called(intent: Intent, index: Index, number: int) -> bool:
    """Whether the words that call a card speak of one of the user's own, and say nothing that it
    is not, "my bear", "the newest dragon", "emma v8"; or whether its whole title is said.
    """
    called, own = index.called_words(number), index.words_of(number)
    title = index.title_words(number)
    naming = {w.stem for w, at in zip(intent.words, intent.naming, strict=True) if at}
    if title and (title <= naming or (len(title) > 1 and title <= {w.stem for w in intent.words})):
        return True
    ordered = [cue.of for cue in intent.cues if cue.kind == "order" and intent.order]

    def is_own(word: Word) -> bool:
        return (
            bool(intent.version)
            or own_before(intent.request, word.start)
            or any(start <= word.start < end for start, end in ordered)
        )

    meant = dict(zip(intent.words, map(same, index.read(intent)), strict=True))
    for phrase in runs(intent.words, lambda one, other: _is_one_thing(intent, one, other)):
        calls = any(meant[word] & called and is_own(word) for word in phrase)
        if calls and all(meant[word] & own for word in phrase):
            return True
    return False


def _is_one_thing(intent: Intent, word: Word, after: Word) -> bool:
    """Whether a word names a thing together with the one before it: "bear lamp"."""
    return not intent.request[word.end : after.start].strip() and not intent.tells_of(word, after)
