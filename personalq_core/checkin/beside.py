"""What a request names beside the thing that is chosen: its styles, other things, the base."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from ..language.thesaurus import is_coined, thesaurus
from ..language.words import DETERMINERS, Word, own_before, runs, stem, terms, words
from ..library.card import ModelCard
from .attributes import is_manner, is_medium, tells_what_kind
from .group import Group
from .intent import DOING, PROTECTED, STYLE_WEIGHT, Intent
from .rerank import trigger_named
from .retrieve import Index, Retrieved, is_edition
from .shortlist import called_by, nearest

BASES = ("checkpoint", "diffusion_model")
"""Kinds of model that a LoRA is applied to."""
_MAX_BESIDE = 4
_TITLE_NAMED = 0.6
"""Share of a title that a request has to say, to name a style or another thing."""
STYLE_NAMED = 0.5
"""The same where it says that it is a manner: "in ghibli style"."""
LOOKED_AT = 64
"""Of the cards that are called by a word of the request, the nearest to it."""
_OF_PICTURES = re.compile(
    r"\b(?:styles?|aesthetics?|drawings?|paintings?|illustrations?|prints?|posters?|artworks?)\b",
    re.I,
)
_BASE_WORDS = frozenset(map(stem, ("merge", "checkpoint", "model")))
_BASE_WORD = r"(?:merge|checkpoint|model|modell|modelo|modèle)s?"
_BASE_AFTER = re.compile(rf"\s+{_BASE_WORD}\b|\s*で(?=$|[\u3001\u3002,.])", re.I)
_BASE_BEFORE = re.compile(
    rf"\b(?:{_BASE_WORD}(?:\s*:)?|(?:using|made with)(?:\s+(?:the|my))?)\s+$", re.I
)
_WITH = re.compile(r"\b(?:in|on|with)\s+$", re.I)
"""Before a name that is none of the language: "with dreamshaper"."""
_ON_THE = re.compile(
    r"(?:\b(?:made|rendered|drawn|done|generated|shot)\s+(?=\w+\s))?"
    r"(?:\b(?:in|on|with|using|from|by|im|auf|mit|en|con|dans|sur|avec)\s+)?"
    rf"(?:\b(?:{'|'.join(sorted(DETERMINERS))})\s+)?(?:\b(?:newest|latest|old|new|own)\s+)?$",
    re.I,
)
_ANY = re.compile(r"\ban?\s+(?:(?!(?:of|in|on|with|by|and)\b)\w+\s+){0,2}$", re.I)
PHRASE_ENDS = re.compile(r"[,;.!?]\s|[\uff0c\u3002\u3001]")
_NAMED_THE = re.compile(r"\w+ the \w", re.I)
_POSSESSIVE = re.compile(r"['\u2019]s?$")
_OWNER_NAMED = re.compile(r"\b(\w+)['\u2019]s\b")


@dataclass(frozen=True, slots=True)
class Named:
    """A thing, a style or a base that a request names beside what is chosen."""

    numbers: tuple[int, ...]
    """Of its cards: versions of one thing."""
    words: str
    """By which the request names it, as it says them."""


def is_style(index: Index, number: int) -> bool:
    """Whether a card tells how something looks rather than what it is.

    By what it says: the word style itself, a medium ("watercolor") in its title or tags, what
    things are made as ("plush") in its title, or a description of pictures ("posters I printed").
    """
    fields = index.fields[number]
    labels = {*fields["title"], *fields["tags"], *fields["triggers"]}
    return (
        stem("style") in labels
        or any(map(is_manner, fields["title"]))
        or any(map(is_medium, fields["tags"]))
        or bool(_OF_PICTURES.search(index.cards[number].description[:300]))
    )


def named_beside(
    intent: Intent, index: Index, found: Retrieved, choice: ModelCard
) -> list[Named]:
    """What is named by words that the choice does not answer, in the order of the request."""
    chosen = index.number_of[choice.id]
    own = index.words_of(chosen)
    # What is misspelled in another language is mostly a word that no table has.
    read = {} if intent.foreign else found.corrections
    left = [
        (term, word, weight)
        for word, weight in intent.weighed()
        if (term := read.get(word.stem, word.stem)) not in own
    ]
    numbers = np.union1d(index.called({term for term, _, _ in left}), called_by(intent, index))
    cards = nearest(found, np.setdiff1d(numbers, [chosen]), LOOKED_AT)
    said = [(n, calling) for n in cards if (calling := _said(intent, index, n, choice, left))]
    said.sort(key=lambda entry: -index.mass(entry[1]))
    named: list[tuple[int, Named]] = []
    taken: set[str] = set()
    for _, calling in said:
        if not taken & calling:
            taken |= calling
            alike = tuple(n for n, others in said if others == calling)
            words = [word for term, word, _ in left if term in calling]
            named.append((words[0].start, Named(alike, ", ".join(w.text for w in words))))
    return [entry for _, entry in sorted(named, key=lambda pair: pair[0])][:_MAX_BESIDE]


_Left = tuple[str, Word, float]
"""A term that the choice does not answer, the word it was read from, and its weight."""


def _said(
    intent: Intent, index: Index, number: int, choice: ModelCard, left: Sequence[_Left]
) -> frozenset[str]:
    """The terms by which a request names a card; none where it does not."""
    card, title = index.cards[number], index.title_words(number)
    if card.kind in BASES and choice.kind in BASES:
        return frozenset()
    if trigger := trigger_named(intent.request, card, index):
        called = frozenset(terms(trigger))
        return frozenset(term for term, _, _ in left if term in title | called)
    named = _in_one_phrase(intent, index, [entry for entry in left if entry[0] in title])
    said = frozenset(term for term, _, _ in named)
    in_manner = bool(named) and all(weight == STYLE_WEIGHT for _, _, weight in named)
    least = STYLE_NAMED if in_manner and says_rarest(index, said, title) else _TITLE_NAMED
    most = says_most(said, title, least)
    if card.kind in BASES:
        is_meant = names_base(intent, index, number)
    elif is_style(index, number) or in_manner:
        is_meant = most
    elif title & index.words_of(index.number_of[choice.id]):
        is_meant = False  # another version of what is chosen
    else:
        things = [
            word
            for _, word, weight in named
            if weight >= 1 or (most and len(said) > 1) or is_coined(word)
        ]
        is_called = most or _is_called(intent, index, number, things)
        is_meant = bool(things) and is_called and not _is_any(intent, things)
        said |= _owned(intent, left) & index.called_words(number)
        is_meant = is_meant or bool(said - title)
    if not is_style(index, number) and all(map(tells_what_kind, said)):
        return frozenset()  # "an old version" names no old house
    return said if is_meant else frozenset()


def _in_one_phrase(intent: Intent, index: Index, named: Sequence[_Left]) -> list[_Left]:
    """Those of some words between two commas that tell the most: "warm colours, a full page" names
    no colouring page."""
    phrases: defaultdict[int, list[_Left]] = defaultdict(list)
    for entry in named:
        phrases[len(PHRASE_ENDS.findall(intent.request, 0, entry[1].start))].append(entry)

    def told(phrase: list[_Left]) -> float:
        return index.mass({term for term, _, _ in phrase})

    return max(phrases.values(), key=told, default=[])


def says_rarest(index: Index, said: Set[str], title: Set[str]) -> bool:
    """Whether the most telling word of a title is said, or one as telling."""
    most = max(map(index.idf, title), default=0.0)
    return any(index.idf(term) >= most for term in said & title)


def _owned(intent: Intent, left: Sequence[_Left]) -> frozenset[str]:
    """The terms that are said to be the user's own: "my newest bear"."""
    return frozenset(
        term
        for term, word, weight in left
        if weight >= 1 and own_before(intent.request, word.start)
    )


def _is_any(intent: Intent, things: Sequence[Word]) -> bool:
    """Whether no certain one is meant: "in front of an old house"."""
    is_any = _ANY.search(intent.request[: things[0].start])
    return bool(is_any) and not any(map(is_coined, things))


def says_most(said: Set[str], title: Set[str], share: float) -> bool:
    """Whether some terms are that share of a title's; numbers ("01", "mk3") and words for a base
    are left out."""
    told = [t for t in title if t in said or not (any(map(str.isdigit, t)) or t in _BASE_WORDS)]
    return bool(said) and len(said & title) >= share * len(told)


def names_base(intent: Intent, index: Index, number: int) -> bool:
    """Whether a card is a base that a request says to use."""
    card = index.cards[number]
    if card.kind not in BASES:
        return False
    # Whole words: "DreamShaper" is one.
    title = index.title_words(number) & {word.stem for word in words(card.title)}
    said = title & {word.stem for word in intent.words}
    is_titled = says_most(said, title, _TITLE_NAMED)
    return is_titled and base_named(intent, card) is not None


def base_named(intent: Intent, card: ModelCard) -> tuple[int, int] | None:
    """Where a request says that a base is to be used, "in the storybook merge"; None where it does
    not, or where the card is no base."""
    if card.kind not in BASES:
        return None
    request, title = intent.request, set(terms(card.title))
    called = (word for word in intent.words if word.stem in title)
    for run in runs(called, lambda one, other: not request[one.end : other.start].strip(" -_")):
        start, end = run[0].start, run[-1].end
        before, after = _BASE_BEFORE.search(request[:start]), _BASE_AFTER.match(request, end)
        is_base = before or after or any(word.stem in _BASE_WORDS for word in run)
        is_base = is_base or (_WITH.search(request[:start]) and any(map(is_coined, run)))
        if not is_base or _is_written(request, start):
            continue
        start, end = before.start() if before else start, after.end() if after else end
        on_the = _ON_THE.search(request[:start])
        start = on_the.start() if on_the else start
        is_bracketed = request[start - 1 : start] == "(" and request[end : end + 1] == ")"
        return start - is_bracketed, end + is_bracketed
    return None


def _is_written(request: str, place: int) -> bool:
    """Whether a place is in a text that the picture shows, or in syntax: '"the merge"'."""
    return any(a <= place < b for a, b in (found.span() for found in PROTECTED.finditer(request)))


def _is_called(intent: Intent, index: Index, number: int, said: Sequence[Word]) -> bool:
    """Whether words of a title call the user's own thing, "my cat", or are a name, "Milo"."""
    request, title = intent.request, index.cards[number].title
    said = [w for w in said if stem(request[w.start : w.end]) == w.stem]  # as the title writes it
    owners = {stem(found[1]) for found in _OWNER_NAMED.finditer(title)}
    return any(
        word.stem not in owners
        and not _POSSESSIVE.search(word.text)
        and (own_before(request, word.start) or _is_name(intent, index, number, word))
        for word in said
    )


def _is_name(intent: Intent, index: Index, number: int, word: Word) -> bool:
    """Whether a word is none of the language, or begins a title "Mittens the cat", or one of two
    words, "milo dog", and calls nothing else. The "snow" of "snow globe" is no name."""
    if is_coined(word):
        return True
    if thesaurus().is_adjective(word.text) and _describes(intent, word, index.words_of(number)):
        return False
    title = [term for term in index.fields[number]["title"] if not is_edition(term)]
    if not title or title[0] != word.stem or tells_what_kind(word.stem):
        return False
    is_told = _NAMED_THE.match(index.cards[number].title)
    is_alone = len(title) <= 2 and index.things(word.text) == 1
    may_be = word.text[:1].isupper() or all(map(thesaurus().may_be_called, title[1:]))
    return bool(is_told) or (is_alone and may_be)


def _describes(intent: Intent, word: Word, own: Set[str]) -> bool:
    """Whether a word stands before a noun that a card does not say: the "tall" of "tall windows"
    names no tall vase."""
    after = next((other for other in intent.words if other.start > word.start), None)
    if after is None or intent.request[word.end : after.start].strip():
        return False
    return not DOING.search(after.text) and after.stem not in own


def other_named(
    intent: Intent, index: Index, groups: Sequence[Group], in_doubt: bool
) -> Group | None:
    """What is named beside the thing: a base to use; what came out best where that is a style, "my
    bear, pixel art", or any of its kind, "my bear and a dog"; or, where the best is in doubt,
    another thing: "emma and my dog bella"."""
    if base := next((g for g in groups if names_base(intent, index, g.best.number)), None):
        return base
    best = groups[0].best.number
    own = index.words_of(best)
    said = [w for w, weight in intent.weighed() if weight >= 1 and w.stem in own]
    not_the_thing = is_style(index, best) or (bool(said) and _is_any(intent, said))
    if not (not_the_thing or in_doubt):
        return None
    left = [(w.stem, w, wt) for w, wt in intent.weighed() if wt >= 1 and w.stem not in own]
    things = (g for g in groups[1:] if not is_style(index, g.best.number))
    choice = index.cards[best]
    other = next((g for g in things if _said(intent, index, g.best.number, choice, left)), None)
    return groups[0] if other and not_the_thing else other


def without(intent: Intent, unsaid: Set[str]) -> Intent:
    """A request as if it did not say some terms."""
    return intent.with_words((w, weight) for w, weight in intent.weighed() if w.stem not in unsaid)


def without_base(intent: Intent, card: ModelCard) -> Intent:
    """A request as if it did not say which base to use, where a card is that base."""
    if (span := base_named(intent, card)) is None:
        return intent
    start, end = span
    said = [(w, weight) for w, weight in intent.weighed() if not start <= w.start < end]
    return replace(intent.with_words(said), kind=None)
