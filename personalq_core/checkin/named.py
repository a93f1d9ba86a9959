"""A style, a pose, a garment that a request names, whatever else the picture shows."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set

from ..language.words import FUNCTION_WORDS, Word, own_before, words
from ..library.card import ModelCard
from .beside import LOOKED_AT, PHRASE_ENDS, STYLE_NAMED, is_style, says_most, says_rarest
from .intent import SCENE_WEIGHT, STYLE_WEIGHT, Intent
from .retrieve import Index, Retrieved, is_edition
from .shortlist import nearest

_TITLE_PARTS = re.compile(r"\s*[()\[\]/|]\s*|\s+[-\u2013]\s+")


def as_named(intent: Intent, index: Index, found: Retrieved) -> Intent | None:
    """A request read as one for the style that it names, "a heron in the mosaic style", or for what
    it calls by its whole title, "a clown doing a handstand", whatever else the picture shows; None
    where it names none, or shows a thing of the user's own."""
    shown = [w for w, names in zip(intent.words, intent.naming, strict=True) if names]
    if any(own_before(intent.request, word.start) for word in shown):
        return None
    called = index.called({word.stem for word in intent.words})
    near = nearest(found, called, LOOKED_AT).tolist()
    naming = {word for word, weight in intent.weighed() if weight == STYLE_WEIGHT}
    said = {word.stem for word in naming}
    if not any(_is_style_named(index, number, said) for number in near):
        naming = _titled(intent, [index.cards[number] for number in near])
    if not naming:
        return None
    return intent.with_words(
        (word, 1.0 if word in naming else SCENE_WEIGHT) for word in intent.words
    )


def _titled(intent: Intent, cards: Sequence[ModelCard]) -> set[Word]:
    """The words that are the whole title of a card, or a part of it, the most of them; none where
    no title stands in the request."""
    titles = {title for card in cards for title in _whole_titles(card)}
    longest = max(map(len, titles), default=0)
    found: tuple[Word, ...] = ()
    for start in range(len(intent.words)):
        for count in range(len(found) + 1, longest + 1):
            run = intent.words[start : start + count]
            gap = intent.request[run[0].start : run[-1].end]
            if tuple(word.stem for word in run) in titles and not PHRASE_ENDS.search(gap):
                found = run
    return set(found)


def _whole_titles(card: ModelCard) -> list[tuple[str, ...]]:
    """The stems of a title and of the parts of it, "klompen (wooden clogs)", without what tells its
    version and base; and of a trigger of several words."""
    title, *parts = _TITLE_PARTS.split(card.title)
    said = [part for part in parts if part.isalpha()]  # one word: not the "comic" of "comic style"
    phrases = [name for text in (*parts, *card.triggers[:1]) if len(name := _concept(text)) > 1]
    return [name for name in (_concept(title), *map(_concept, said), *phrases) if name]


def _concept(name: str) -> tuple[str, ...]:
    stems = (word.stem for word in words(name))
    return tuple(s for s in stems if not is_edition(s) and s not in FUNCTION_WORDS)


def _is_style_named(index: Index, number: int, said: Set[str]) -> bool:
    title = index.title_words(number)
    is_most = says_rarest(index, said, title) and says_most(said & title, title, STYLE_NAMED)
    return is_most and is_style(index, number)
