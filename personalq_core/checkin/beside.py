"""What a request names beside the thing that is chosen: its styles, another thing."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set

from ..language.thesaurus import thesaurus
from ..language.words import OWNERS, Word, stem
from ..library.card import ModelCard
from .attributes import is_manner
from .decision import Candidate
from .group import Group
from .intent import STYLE_WEIGHT, Intent
from .retrieve import Index, Retrieved

_MAX_STYLES = 3
_TITLE_NAMED = 0.6
"""Share of a title that a request has to say, to name a style or another thing."""
_OF_PICTURES = re.compile(
    r"\b(?:styles?|aesthetics?|drawings?|paintings?|illustrations?|prints?|posters?|artworks?)\b",
    re.I,
)
_OWN = re.compile(rf"\b(?:{'|'.join(sorted(OWNERS))})\s+(?:\w+\s+){{0,2}}$", re.I)


def is_style(index: Index, number: int) -> bool:
    """Whether a card tells how something looks rather than what it is.

    By what it says: the word style itself, a medium ("watercolor") in its title or tags, or a
    description of pictures ("posters I printed").
    """
    fields = index.fields[number]
    labels = {*fields["title"], *fields["tags"], *fields["triggers"]}
    return (
        stem("style") in labels
        or any(is_manner(term) for term in (*fields["title"], *fields["tags"]))
        or bool(_OF_PICTURES.search(index.cards[number].description[:300]))
    )


def styles_named(
    intent: Intent, index: Index, found: Retrieved, numbers: Sequence[int], choice: ModelCard
) -> tuple[Candidate, ...]:
    """LoRAs of a manner among some near cards, named by words that the choice does not answer."""
    own = index.words_of(index.number_of[choice.id])
    left = {
        term: weight
        for word, weight in intent.weighed()
        if (term := found.corrections.get(word.stem, word.stem)) not in own
    }
    order = list(left)
    styles: list[tuple[int, Candidate]] = []
    for number in numbers:
        card, base = index.cards[number], choice.base_family
        if card == choice or card.kind != "lora" or (base and not card.suits(base)):
            continue
        title = index.title_words(number)
        named = [term for term in sorted(title) if term in left]
        if not named or len(named) < _TITLE_NAMED * len(title):
            continue
        if is_style(index, number) or all(left[term] == STYLE_WEIGHT for term in named):
            first = min(map(order.index, named))
            styles.append((first, Candidate(card, 1.0, ("says " + ", ".join(named),))))
            left = {term: weight for term, weight in left.items() if term not in named}
    styles.sort(key=lambda named: named[0])
    return tuple(style for _, style in styles[:_MAX_STYLES])


def other_named(
    intent: Intent, index: Index, groups: Sequence[Group], in_doubt: bool
) -> Group | None:
    """What is named beside the thing: the style that came out best, "my bear, pixel art", or,
    where the best is in doubt, another thing: "emma and my dog bella"."""
    best = groups[0].best.number
    best_is_style = is_style(index, best)
    if not (best_is_style or in_doubt):
        return None
    left = _left(intent, index.words_of(best))
    things = (g for g in groups[1:] if not is_style(index, g.best.number))
    other = next((g for g in things if _is_said(intent, index, g.best.number, left)), None)
    return groups[0] if other and best_is_style else other


def left_out(
    intent: Intent, index: Index, numbers: Sequence[int], chosen: Sequence[ModelCard]
) -> list[int]:
    """The versions, among some near cards, of another thing that a request names, by words that the
    chosen cards do not say."""
    own = {term for card in chosen for term in index.words_of(index.number_of[card.id])}
    left = _left(intent, own)
    for number in numbers if left else ():
        card, is_new = index.cards[number], not own & index.title_words(number)
        is_thing = card.kind == "lora" and not is_style(index, number)
        if is_new and is_thing and _is_said(intent, index, number, left):
            return [n for n in numbers if index.title_words(n) & index.title_words(number)]
    return []


def without(intent: Intent, terms: Set[str]) -> Intent:
    """A request as if it did not say some terms."""
    return intent.with_words((w, weight) for w, weight in intent.weighed() if w.stem not in terms)


def _left(intent: Intent, own: Set[str]) -> list[Word]:
    """Words of the concept that some cards do not say."""
    return [w for w, weight in intent.weighed() if weight >= 1 and w.stem not in own]


def _is_said(intent: Intent, index: Index, number: int, words: Sequence[Word]) -> bool:
    """Whether some words say a card's title: most of it, or of the user's own thing or by a name
    one word."""
    title = index.title_words(number)
    said = [word for word in words if word.stem in title]
    is_own = any(_OWN.search(intent.request[: word.start]) for word in said)
    is_name = any(_is_name(word.text, index) for word in said)
    most = len({word.stem for word in said}) >= _TITLE_NAMED * len(title)
    return bool(said) and (is_own or is_name or most)


def _is_name(word: str, index: Index) -> bool:
    """Whether a word calls one thing of the library and no other, or none that there is."""
    telling = word.isalpha() and len(word) > 2
    return telling and (thesaurus().lemma(word) is None or index.things(word) == 1)
