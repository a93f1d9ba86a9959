"""The library as the page shows it: searched, filtered, a page at a time."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np

from ..personalq_core.checkin.checkin import CheckIn
from ..personalq_core.checkin.decision import format_selection
from ..personalq_core.checkin.intent import understand
from ..personalq_core.checkin.retrieve import Index
from ..personalq_core.library.card import ModelCard

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
NEAR_ENOUGH = 0.6
"""Share of the best score down to which a card that holds none of the words is still shown."""

Read = tuple[CheckIn, tuple[ModelCard, ...], tuple[str, ...]]


class Library(Protocol):
    @property
    def last_read(self) -> Read | None:
        """What `read` gave last, without a look at the disk."""
        ...

    def read(self, progress: Callable[[int, int], None] | None = None) -> Read:
        """Engine, cards and notices as the disk has them now."""
        ...


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
        before = self._library.last_read
        self._progress = (0, 0)
        try:
            now = self._library.read(self._report)
        finally:
            self._progress = None
        return before is None or before[1] is not now[1]

    def _report(self, done: int, total: int) -> None:
        self._progress = (done, total)

    def page(self, query: str, kind: str, base: str, offset: int, limit: int) -> dict[str, Any]:
        """Cards `offset` to `offset + limit` of those that match, best or else newest first."""
        view = self._current()
        numbers = view.search(query) if query else view.newest_first
        kept = numbers[view.matches(kind, base)[numbers]]
        return {
            "total": len(kept),
            "offset": offset,
            "cards": [_summary(view.cards[n]) for n in kept[offset : offset + limit]],
            "kinds": dict(Counter(view.kinds.tolist()).most_common()),
            "bases": dict(Counter(view.bases.tolist()).most_common()),
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
        read = self._library.last_read
        return {
            "cards": len(read[1]) if read else None,
            "notices": list(read[2]) if read else [],
            "scan": self._progress and dict(zip(("done", "total"), self._progress)),
        }

    def _current(self) -> _View:
        if self._library.last_read is None:
            self.refresh()
        read = self._library.last_read
        assert read is not None
        with self._lock:
            if self._view is None or self._view.cards is not read[1]:
                self._view = _View(read[1])
                # Embedding a large library takes its time: no page waits for it.
                threading.Thread(target=self._view.learn, args=(read[0],), daemon=True).start()
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
        self.newest_first = np.array(by_age, dtype=int)
        self.index: Index | None = None
        self._texts = [
            " ".join((card.title, *card.triggers, *card.tags, card.name)).casefold()
            for card in cards
        ]

    def learn(self, engine: CheckIn) -> None:
        """From now on search with Check-in's engine, too."""
        self.index = engine.index(self.cards)

    def matches(self, kind: str, base: str) -> np.ndarray:
        """(cards,) of bool: is it of this kind and base family? Empty means any."""
        kept = np.ones(len(self.cards), bool)
        if kind:
            kept &= self.kinds == kind
        if base:
            kept &= self.bases == ("" if base == "unknown" else base)
        return kept

    def search(self, query: str) -> np.ndarray:
        """Numbers of the cards that fit, best first.

        While a word is being typed no engine knows it: cards that hold the typed letters come
        first, ordered as Check-in ranks them.
        """
        typed = query.casefold().split()
        scores = np.array([float(all(t in text for t in typed)) for text in self._texts])
        fits = scores > 0
        if self.index is not None and len(self.cards):
            found = self.index.search(understand(query, datetime.now(UTC)))
            scores = scores + found.fused
            fits |= (found.sparse > 0) | (found.fused >= NEAR_ENOUGH * max(found.fused.max(), 0.3))
        newest_first = self.newest_first[fits[self.newest_first]]
        return newest_first[np.argsort(-scores[newest_first], kind="stable")]


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
