"""The library as the page shows it: searched, filtered, a page at a time."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from ..personalq_core.checkin.checkin import CheckIn
from ..personalq_core.checkin.decision import format_selection
from ..personalq_core.checkin.intent import Intent, understand
from ..personalq_core.checkin.rerank import learned_weights, rerank
from ..personalq_core.checkin.retrieve import Index, Retrieved
from ..personalq_core.checkin.shortlist import shortlist
from ..personalq_core.language.words import FUNCTION_WORDS
from ..personalq_core.library.card import ModelCard

if TYPE_CHECKING:
    from .library import Library

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
NEAR_ENOUGH = 0.6
"""Share of the best score down to which a card that holds none of the words is still shown."""
NEAR = 0.3
"""The least that a best score counts as for this."""


class Shelf:
    """Answers from what the library read last; only `refresh` looks at the disk."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._view: _View | None = None
        self._progress: tuple[int, int] | None = None

    def refresh(self) -> bool:
        """Read what changed on disk, and say whether anything did.

        What was read before stays served meanwhile.
        """
        before = self._library.cards
        self._progress = (0, 0)
        try:
            return self._library.read_cards(self._report) is not before
        finally:
            self._progress = None

    def _report(self, done: int, total: int) -> None:
        self._progress = (done, total)

    def page(self, query: str, kind: str, base: str, offset: int, limit: int) -> dict[str, Any]:
        """Cards `offset` to `offset + limit` of those that match, best or else newest first."""
        view = self._current()
        allowed = view.matches(kind, base)
        kept = view.search(query, allowed) if query else view.newest(allowed)
        return {
            "total": len(kept),
            "offset": offset,
            "cards": [_summary(view.cards[n]) for n in kept[offset : offset + limit]],
            "kinds": view.kind_counts,
            "bases": view.base_counts,
            "by_meaning": view.index is not None,
        }

    def card(self, card_id: str) -> ModelCard:
        """The card of an id; raises LookupError where the library has none."""
        card = self._current().by_id.get(card_id) if isinstance(card_id, str) else None
        if card is None:
            raise LookupError("There is no such model in the library. Rescan, and look again.")
        return card

    def status(self) -> dict[str, Any]:
        """Size of the library, notices, and the progress of a scan while one runs."""
        cards = self._library.cards
        return {
            "cards": None if cards is None else len(cards),
            "notices": list(self._library.notices),
            "scan": self._progress and dict(zip(("done", "total"), self._progress)),
        }

    def _current(self) -> _View:
        if self._library.cards is None:
            self.refresh()
        cards = self._library.cards
        assert cards is not None
        with self._lock:
            if self._view is None or self._view.cards is not cards:
                self._view = _View(cards)
                # To load the engine and embed a large library takes its time: no page waits for it.
                threading.Thread(
                    target=self._view.learn, args=(self._library.engine,), daemon=True
                ).start()
            return self._view


class _View:
    """One state of the library, ready to be looked through."""

    def __init__(self, cards: Sequence[ModelCard]) -> None:
        self.cards = cards
        self.by_id = {card.id: card for card in cards}
        self.kinds = np.array([card.kind for card in cards], dtype=object)
        self.bases = np.array([card.base_family or "" for card in cards], dtype=object)
        by_age = sorted(
            range(len(cards)),
            key=lambda n: (cards[n].created_at or "", cards[n].title),
            reverse=True,
        )
        self.kind_counts = dict(Counter(self.kinds.tolist()).most_common())
        self.base_counts = dict(Counter(self.bases.tolist()).most_common())
        self._newest_first = np.array(by_age, dtype=int)
        self.index: Index | None = None
        self._age = self._newest_first.argsort()
        self._texts = [
            " ".join((c.title, *c.triggers, *c.tags, os.path.splitext(c.name)[0])).casefold()
            for c in cards
        ]

    def learn(self, engine: Callable[[], CheckIn]) -> None:
        """From now on search with Check-in's engine, too."""
        self.index = engine().index(self.cards)
        if self.cards:  # the first search reads tables of words: not while somebody waits for it
            self.search(self.cards[0].title, np.ones(len(self.cards), bool))

    def matches(self, kind: str, base: str) -> np.ndarray:
        """(cards,) of bool: is it of this kind and base family? Empty means any."""
        kept = np.ones(len(self.cards), bool)
        if kind:
            kept &= self.kinds == kind
        if base:
            kept &= self.bases == ("" if base == "unknown" else base)
        return kept

    def newest(self, allowed: np.ndarray) -> np.ndarray:
        """Numbers of the allowed cards, the newest first."""
        return self._newest_first[allowed[self._newest_first]]

    def search(self, query: str, allowed: np.ndarray) -> np.ndarray:
        """Numbers of the cards that fit, best first; `allowed` is (cards,) of bool.

        While a word is being typed no engine knows it: cards that hold the typed letters come
        first. Among these and among the others Check-in's evidence orders the likeliest, its
        retrieval the rest.
        """
        intent = understand(query, datetime.now(timezone.utc))
        letters = self._hold(_typed(intent))
        if not intent.words and not letters.any():
            letters[:] = True  # "newest": of everything
        allowed = allowed & ~self._ruled_out(intent)
        fits, likely, near = letters, np.zeros(len(letters)), np.zeros(len(letters))
        if self.index is not None and allowed.any():
            found = self.index.search(intent)
            near = found.fused
            fits = fits | (found.sparse > 0) | (near >= NEAR_ENOUGH * max(near.max(), NEAR))
            likely = self._likely(intent, found, np.flatnonzero(allowed & fits))
        age = -self._age if intent.order == "oldest" else self._age
        order = np.lexsort((age, -near, -likely, ~letters))
        return order[(allowed & fits)[order]]

    def _hold(self, words: Sequence[str]) -> np.ndarray:
        """(cards,) of bool: do a card's names hold all these letters?"""
        held = np.ones(len(self._texts), bool)
        for word in words:
            held &= np.fromiter((word in text for text in self._texts), bool, len(held))
        return held

    def _ruled_out(self, intent: Intent) -> np.ndarray:
        """(cards,) of bool: is it for another base than asked for, or what it must not be?"""
        out = np.zeros(len(self.cards), bool)
        if intent.base:
            out |= [not card.suits(intent.base) for card in self.cards]
        if intent.excluded and self.index is not None:
            own = [self.index.words_of(n) for n in range(len(out))]
            out |= [any(e.stems <= words for e in intent.excluded) for words in own]
        return out

    def _likely(self, intent: Intent, found: Retrieved, numbers: np.ndarray) -> np.ndarray:
        """(cards,): above 0 where Check-in would weigh the card, the more the likelier."""
        likely = np.zeros(len(self.cards))
        if self.index is None or not len(numbers):
            return likely
        weights = learned_weights(self.index.vectors is not None)
        nearest = shortlist(intent, self.index, found, numbers)
        for place, scored in enumerate(rerank(intent, self.index, found, nearest, weights)):
            likely[scored.number] = len(nearest) - place
        return likely


def _typed(intent: Intent) -> list[str]:
    """The words of a search that name something; all of them where it has no such."""
    told = intent.told.casefold().split()
    return [w for w in told if w not in FUNCTION_WORDS] or told or intent.request.casefold().split()


def _summary(card: ModelCard) -> dict[str, Any]:
    """What the grid shows of a card; like all of this no path of the file system."""
    return {
        "id": card.id,
        "selection": format_selection(card),
        "kind": card.kind,
        "name": card.name,
        "title": card.title,
        "trigger": card.triggers[0] if card.triggers else "",
        "version": card.version,
        "created_at": card.created_at,
        "base_family": card.base_family,
        "preview": _has_picture(card),
    }


def details(card: ModelCard) -> dict[str, Any]:
    """Everything the page may know of a card, and where each fact came from."""
    return {
        **_summary(card),
        "triggers": list(card.triggers),
        "trigger_groups": [list(group) for group in card.trigger_groups],
        "tags": list(card.tags),
        "description": card.description,
        "author": card.author,
        "strength": card.strength,
        "sources": dict(card.sources),
    }


def preview_stamp(card: ModelCard) -> tuple[str, int, int] | None:
    """(path, time of change in ns, size in bytes) of a card's picture; None where it has none."""
    if not _has_picture(card) or card.preview is None:
        return None
    try:
        stat = os.stat(card.preview)
    except OSError:
        return None
    return card.preview, stat.st_mtime_ns, stat.st_size


def _has_picture(card: ModelCard) -> bool:
    return bool(card.preview) and str(card.preview).lower().endswith(PICTURES)
