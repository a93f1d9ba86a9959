"""Evidence: what speaks for and against each of the few cards that retrieval found.

Every feature is between -1 and 1, and whatever moves a card is said in words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..language.thesaurus import is_coined, thesaurus
from ..language.words import fold, spelled_in, stem, terms
from ..library.card import ModelCard
from ..library.ordinary import is_general_tag
from ..library.version import version_key
from .attributes import agreement, is_manner, same_manner
from .intent import STYLE_WEIGHT, Intent
from .period import is_calendar_year
from .retrieve import Index, Retrieved

FEATURES = (
    "sparse", "dense", "trigger", "title", "extra", "version", "order", "soft_order", "period",
    "excluded", "author", "base", "kind", "conflict", "agreement", "subject", "manner", "named",
    "lost_sparse", "lost_dense", "lost_title",
)  # fmt: skip
"""Names of the features, in the order of the columns. `lost_...` are the same where no model
answers most of the request's words: there, they weigh otherwise."""
_LOST = ("sparse", "dense", "title")
SOFT = np.isin(
    FEATURES,
    ("sparse", "dense", "title", "extra", "manner", "named", *(f"lost_{name}" for name in _LOST)),
)  # fmt: skip
"""(len(FEATURES),): those that differ between models although the request says nothing of it."""

_LOST_BELOW = 0.7
"""A request is lost where no model answers this share of its concept's words."""
_ASIDE = 0.1
"""Weight of words that tell what happens, for how much of a request a card answers."""
_CREDIT = re.compile(r"\b(?:trained|made) by ([A-Z][\w.-]*\w)")
_DENIED = re.compile(r"\b(?:no|not|without|before|ohne|sin|sans)\b[^.;,\n]*", re.I)
_STEPS = 4
MAX_TRIGGERS = 8
"""Of a card that may be in a request: some list hundreds."""
_FOUND = 0.3
"""Of the words that name the thing: so many a card has to say, for words to tell which cards are
meant."""
SAME = 0.63
"""From so much on another word says the same."""
_BY_DATE = 0.8
"""A file's date inside the time asked for is weaker than the year in its title."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One card with its evidence."""

    number: int
    """Of the card in the index."""
    features: np.ndarray
    """(len(FEATURES),)"""
    score: float
    hints: float
    """The part of the score that comes from likeness, not from what the request tells apart."""
    evidence: tuple[str, ...]
    answers: frozenset[str]
    """Words of the request that the card answers."""

    def tied_with(self, other: Scored) -> bool:
        """Whether nothing that the request says tells the two apart."""
        said = np.array_equal(self.features[~SOFT], other.features[~SOFT])
        return said and self.answers == other.answers


FIT_FEATURES = (
    "sparse", "dense", "title", "trigger", "covered", "unknown", "lost", "lost_sparse",
    "lost_dense", "lost_title", "ahead", "head", "stranger", "called", "name", "bias",
)  # fmt: skip
"""What tells whether the best card is meant at all, see `fit.py`."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Learned by `python -m benchmarks.learn_weights`, one number a feature."""

    ranking: np.ndarray
    """(len(FEATURES),): the scores are logits of a choice among the candidates."""
    fit: np.ndarray
    """(len(FIT_FEATURES),): logit of "the best card is what was asked for"."""
    doubt: np.ndarray
    """(len(DOUBT_FEATURES),), see `group.py`: logit of "the other one may be meant as well"."""

    def for_answers(self) -> Weights:
        """The same, but what an answer says of version, time or base decides."""
        told = np.isin(FEATURES, ("version", "order", "period", "author", "base", "excluded"))
        return replace(self, ranking=np.where(told, 2 * self.ranking, self.ranking))


DOUBT_FEATURES = ("told", "hinted", "shared", "covered", "only_best", "only_other", "bias")
"""What tells whether another model may be meant as well as the best, see `group.py`."""


@cache
def learned_weights(with_meaning: bool) -> Weights:
    """The committed weights for words alone or with embeddings."""
    text = Path(__file__).with_name("weights.json").read_text("utf-8")
    learned = json.loads(text)[name_of_weights(with_meaning)]
    return Weights(
        np.array([learned["ranking"][name] for name in FEATURES]),
        np.array([learned["fit"][name] for name in FIT_FEATURES]),
        np.array([learned["doubt"][name] for name in DOUBT_FEATURES]),
    )


def name_of_weights(with_meaning: bool) -> str:
    """Their key in weights.json."""
    return "words and embeddings" if with_meaning else "words"


def by_name(intent: Intent, index: Index, number: int) -> bool:
    """Whether a request calls a card by a name: by a word of its title or triggers that is none of
    the language."""
    called = index.called_words(number)
    return any(
        weight >= 1 and is_coined(word) and any(t in called and w >= SAME for t, w in read.items())
        for (word, weight), read in zip(intent.weighed(), index.read(intent), strict=True)
    )


def _named(intent: Intent, index: Index, number: int) -> float:
    """Share of the words that name the thing which a card answers, 0 to 1."""
    own = index.words_of(number)
    mass = answered = 0.0
    for word, readings, naming in zip(
        intent.words, index.read(intent), intent.naming, strict=True
    ):
        if naming or (readings and is_coined(word)):
            share = index.idf(word.stem)
            mass += share
            answered += share * max((w for t, w in readings.items() if t in own), default=0.0)
    return answered / (mass or 1)


def names(intent: Intent, index: Index, number: int) -> bool:
    """Whether a word of the concept says what a card says, in this or other words."""
    own = index.words_of(number)
    return any(
        weight >= 1 and any(w >= SAME and term in own for term, w in readings.items())
        for weight, readings in zip(intent.weights, index.read(intent), strict=True)
    )


def same(readings: Mapping[str, float]) -> set[str]:
    """Those of a word's readings that say the same."""
    return {term for term, weight in readings.items() if weight >= SAME}


def meant_by(intent: Intent, index: Index, start: int, end: int) -> set[str]:
    """The terms that the words between two places of a request mean."""
    return {
        term
        for word, readings in zip(intent.words, index.read(intent), strict=True)
        if start <= word.start < end
        for term in same(readings)
    }


def coverage(intent: Intent, index: Index, number: int) -> tuple[float, float]:
    """Shares of the concept's words that a card answers, and that the library does not hold.

    Words beside those that name the thing rather tell what happens than what it is: where the card
    does not answer them, they count little.
    """
    own = index.words_of(number)
    mass = covered = unknown = 0.0
    for word, weight, readings, naming in zip(
        intent.words, intent.weights, index.read(intent), intent.naming, strict=True
    ):
        if weight < 1:
            continue
        share = index.idf(word.stem)
        answered = max((w for term, w in readings.items() if term in own), default=0.0)
        if not naming and not answered:
            share *= _ASIDE
        mass += share
        covered += share * answered
        unknown += share * (not readings)
    return covered / (mass or 1), unknown / (mass or 1)


def rerank(
    intent: Intent,
    index: Index,
    found: Retrieved,
    numbers: list[int],
    weights: Weights,
) -> list[Scored]:
    """The given cards with evidence, best first."""
    return rank(intent, index, found, numbers, evidence(intent, index, found, numbers), weights)


def rank(
    intent: Intent,
    index: Index,
    found: Retrieved,
    numbers: list[int],
    seen: tuple[np.ndarray, list[list[str]]],
    weights: Weights,
) -> list[Scored]:
    """The given cards with the evidence that was seen, best first."""
    if not numbers:
        return []
    rows, reasons = seen
    scores = rows @ weights.ranking
    hints = rows[:, SOFT] @ weights.ranking[SOFT]
    order = np.argsort(-scores, kind="stable")
    asked = {word.stem for word, w in intent.weighed() if w >= 0.5}
    asked = {found.corrections.get(term, term) for term in asked}
    return [
        Scored(
            numbers[i], rows[i], float(scores[i]), float(hints[i]), tuple(reasons[i]),
            frozenset(asked & index.words_of(numbers[i])),
        )
        for i in order
    ]  # fmt: skip


def evidence(
    intent: Intent, index: Index, found: Retrieved, numbers: list[int]
) -> tuple[np.ndarray, list[list[str]]]:
    """Features (cards, len(FEATURES)) and reasons of the given cards."""
    asked = _asked_stems(intent, found)
    said = asked | _manner_stems(intent, found)
    has_manner = STYLE_WEIGHT in intent.weights
    told_of = _told_of(intent, index)
    agreements = [
        agreement(asked - {kind for kind, nouns in told_of if not nouns & own}, own)
        for own in map(index.words_of, numbers)
    ]
    ruled_out = [e.stems for e in intent.excluded]
    affirmed = [index.words_of(n) - _denied(index.cards[n]) for n in numbers if ruled_out]
    excluded = [_excluded(ruled_out, own) for own in affirmed] or [0.0] * len(numbers)
    outs = [a.conflicting > 0 or e == 1 for a, e in zip(agreements, excluded, strict=True)]
    named = {w.stem for w, at in zip(intent.words, intent.naming, strict=True) if at} or asked
    related = _related(index, found, numbers, asked, named, outs)
    versions = [_version(intent, index.cards[n], []) == 1 for n in numbers]
    if any(r and v for r, v in zip(related, versions, strict=True)):  # "the first of the v2s"
        related = [r and v for r, v in zip(related, versions, strict=True)]
    orders = _order_positions([index.cards[n] for n in numbers], related, intent)
    covered = max((coverage(intent, index, n)[0] for n in numbers), default=0.0)
    lost = bool(intent.words) and covered < _LOST_BELOW
    rows, reasons = [], []
    for place, number in enumerate(numbers):
        card, why = index.cards[number], []
        own = index.words_of(number)
        title = index.title_words(number)
        row = dict.fromkeys(FEATURES, 0.0)
        row["sparse"] = float(found.sparse[number])
        row["dense"] = float(found.dense[number]) if found.dense is not None else 0.0
        if trigger := trigger_named(intent.request, card, index):
            row["trigger"] = 1.0
            why.append(f"its trigger {trigger} is in the request")
        mass = index.mass(title) or 1.0
        row["title"] = index.mass(title & asked) / mass
        row |= {f"lost_{name}": row[name] for name in _LOST if lost}
        row["named"] = _named(intent, index, number)
        row["extra"] = min(1.0, len(title - asked) / 4)
        other_manner = _unasked_manner(title, said)
        row["manner"] = float(bool(other_manner) and not has_manner)
        if shared := [word for word in _said(card) if stem(word) in asked]:
            why.append("says " + ", ".join(dict.fromkeys(word.lower() for word in shared[:5])))
        row["subject"] = float(has_manner and bool(own & asked))
        row["version"] = _version(intent, card, why)
        if intent.order:
            position = orders[place]
            row["soft_order" if intent.order_is_soft else "order"] = position
            if position == 1 and not intent.order_is_soft:
                which = "second " * intent.order_place + intent.order
                why.append(f"the {which} of {sum(related)} ({_date(card)})")
        row["period"] = _period(intent, card, why)
        row["excluded"] = excluded[place]
        if hits := [e.text for e in intent.excluded if e.stems <= affirmed[place]]:
            why.append("against: you said not " + ", ".join(hits))
        row["author"] = _author(intent, card, why)
        row["base"] = _base(intent, card, own, why)
        if intent.kind:
            row["kind"] = 1.0 if (card.kind == "lora") == (intent.kind == "lora") else -1.0
        row["agreement"], row["conflict"] = (
            agreements[place].agreeing,
            agreements[place].conflicting,
        )
        for has, wanted in agreements[place].conflicts:
            why.append(f"against: {has}, not {wanted}")
        rows.append([row[name] for name in FEATURES])
        reasons.append(why)
    return np.array(rows), reasons


def _excluded(ruled_out: Sequence[Set[str]], own: Set[str]) -> float:
    """How much of something it must not be a card says, in these or other words, 0 to 1."""
    shares = [sum(says(term, own) for term in stems) / len(stems) for stems in ruled_out]
    return max((share**2 for share in shares), default=0.0)


def _denied(card: ModelCard) -> Set[str]:
    """Words for what a card says it is not: "before we got her the bell", "without hat"."""
    return set(terms(" ".join(_DENIED.findall(f"{card.title}. {card.description}"))))


def says(term: str, own: Set[str]) -> bool:
    """Whether a card says a word or another for the same: "stormy" where it says "storm"."""
    if term in own:
        return True
    return any(w >= SAME and other in own for other, w in thesaurus().related(term).items())


def _unasked_manner(title: Set[str], said: Set[str]) -> str:
    """The medium ("pencil", "plush") of a title that the request does not ask for, or ""."""
    own = sorted(term for term in title if is_manner(term))
    asked = any(same_manner(term, other) for term in own for other in said)
    return "" if asked or not own else own[0]


def _manner_stems(intent: Intent, found: Retrieved) -> set[str]:
    return {
        found.corrections.get(word.stem, word.stem)
        for word, weight in intent.weighed()
        if weight == STYLE_WEIGHT
    }


def _told_of(intent: Intent, index: Index) -> list[tuple[str, set[str]]]:
    """Words with what the noun means that they tell of, where that is not the thing: "orange
    juice"."""
    read = zip(intent.words, intent.naming, index.read(intent), strict=True)
    return [
        (one.stem, same(readings))
        for (one, _, _), (other, at, readings) in pairwise(read)
        if not at and not intent.request[one.end : other.start].strip()
    ]


def _asked_stems(intent: Intent, found: Retrieved) -> set[str]:
    """The words of the concept, spelled as the library spells them."""
    return {
        found.corrections.get(word.stem, word.stem)
        for word, weight in intent.weighed()
        if weight >= 1
    }


def _said(card: ModelCard) -> list[str]:
    return re.findall(r"\w+", f"{card.title} {' '.join(card.tags)} {card.description[:400]}")


def trigger_named(request: str, card: ModelCard, index: Index) -> str | None:
    """A trigger that stands in the request, unless it is made of ordinary words alone."""
    return _standing(request, card.triggers[:MAX_TRIGGERS], index)


def as_called(request: str, card: ModelCard, index: Index) -> ModelCard:
    """The card with the trigger first that a request calls it by, of those that begin a group."""
    firsts = [words[0] for words in card.trigger_groups if words]
    called = _standing(request, [*card.triggers[:1], *firsts], index)
    first = (called,) if called else ()
    return replace(card, triggers=tuple(dict.fromkeys((*first, *card.triggers))))


def _standing(request: str, triggers: Sequence[str], index: Index) -> str | None:
    text = fold(request)
    rare = (t for t in triggers if not is_general_tag(t) and _is_rare(t, index))
    return next((trigger for trigger in rare if spelled_in(fold(trigger), text)), None)


def _is_rare(trigger: str, index: Index) -> bool:
    """Whether a word in it is no plain language, and hardly another card says it."""
    for word in re.findall(r"\w+", trigger):
        coined = bool(re.search(r"\d|_|[a-z][A-Z]", word))
        plain = index.is_plain_word(word) or (index.embedder is None and word.isalpha())
        if not plain and (coined or index.things(word) <= 2):
            return True
    return False


def _related(
    index: Index,
    found: Retrieved,
    numbers: list[int],
    asked: set[str],
    named: set[str],
    outs: list[bool],
) -> list[bool]:
    """Which cards answer the request about as well as the best one, time apart: by its words or,
    where these are hardly found, by meaning."""
    covered = [
        0.0 if out else index.mass(asked & index.words_of(n))
        for n, out in zip(numbers, outs, strict=True)
    ]
    top = max(covered, default=0.0)
    fused = found.fused[numbers]
    is_found = top > _FOUND * index.mass(named)
    return [
        not out and (mass >= 0.7 * top if is_found else score >= 0.8 * fused.max())
        for mass, score, out in zip(covered, fused, outs, strict=True)
    ]


def _order_positions(cards: list[ModelCard], related: list[bool], intent: Intent) -> list[float]:
    """1 the newest (or oldest, as asked) of the related ones, less for each one beside it, to -1.

    0 where no date is known. Of many versions the next one is as wrong as it is of four.
    """
    dates = sorted({_age(c) for c, r in zip(cards, related, strict=True) if r and _age(c)})
    if intent.order == "newest":
        dates.reverse()
    if len(dates) < 2:
        return [0.0] * len(cards)
    step = 2 / (min(len(dates), _STEPS) - 1)
    return [
        max(-1.0, 1 - step * abs(dates.index(_age(card)) - intent.order_place))
        if is_related and _age(card)
        else 0.0
        for card, is_related in zip(cards, related, strict=True)
    ]


def _age(card: ModelCard) -> str:
    return card.created_at or ""


def _date(card: ModelCard) -> str:
    return (card.created_at or "no date")[:10]


def version_missed(intent: Intent, card: ModelCard) -> bool:
    """Whether a version is asked for and a card has another one."""
    asked, own = version_numbers(intent.version), version_numbers(card.version)
    return asked is not None and own is not None and asked != own


def version_numbers(version: str | None) -> tuple[int, ...] | None:
    """ "SD1.5 V2.0 epoch 4" -> (2,): comparable, without trailing zeros; None without a number.

    Who asks for a version means it whichever the epoch. Any number is better than none.
    """
    whole = version or ""
    named = re.split(r"\s*\b(?:epoch|step)\b", whole)[0]
    parts = list(version_key(named) or ())
    if not parts and (found := re.search(r"\d+(?:\.\d+)*", named) or re.search(r"\d+", whole)):
        parts = [int(part) for part in found.group().split(".")]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts) or None


def _version(intent: Intent, card: ModelCard, why: list[str]) -> float:
    asked, own = version_numbers(intent.version), version_numbers(card.version)
    if asked is None or own is None:
        return 0.0
    against = "" if asked == own else "against: "
    why.append(f"{against}version {intent.version} asked, this is {card.version}")
    return 1.0 if asked == own else -1.0


def _period(intent: Intent, card: ModelCard, why: list[str]) -> float:
    if not intent.period:
        return 0.0
    start, end = intent.period
    said = f"{card.title} {card.version} {card.description[:400]}"
    if is_calendar_year(intent.period) and str(start.year) in said:
        return 1.0
    if not card.created_at:
        return 0.0
    inside = start <= moment_of(card.created_at) < end
    made = f"made {_date(card)}"
    why.append(made if inside else f"against: {made}, outside the time asked for")
    return _BY_DATE if inside else -1.0


def moment_of(date: str) -> datetime:
    """ISO 8601 as cards hold it; Python 3.10 does not read the Z."""
    moment = datetime.fromisoformat(date.replace("Z", "+00:00"))
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc)


def _author(intent: Intent, card: ModelCard, why: list[str]) -> float:
    """1 where its author is the one named, -1 where it is another, 0 where nobody knows."""
    author = author_of(card)
    if not (intent.author and author):
        return 0.0
    is_same = is_called(author, intent.author)
    why.append(f"made by {author}" if is_same else f"against: made by {author}")
    return 1.0 if is_same else -1.0


def author_of(card: ModelCard) -> str:
    """Who trained it, as its sources or its description say; "" where neither does."""
    credit = _CREDIT.search(card.description)
    return card.author or (credit[1] if credit else "")


def is_called(author: str, name: str) -> bool:
    """Whether an author ("lena_k") is meant by a name ("Lena")."""
    return bool(name) and fold(name) in (fold(author), *re.split(r"[\W_]+", fold(author)))


def _base(intent: Intent, card: ModelCard, own: Set[str], why: list[str]) -> float:
    if not intent.base:
        return 0.0
    if intent.base_name and stem(intent.base_name) in own:
        why.append(f"made for {intent.base_name}")
        return 1.0
    if card.base_family != intent.base:
        return 0.0 if card.suits(intent.base) else -1.0
    why.append(f"made for {intent.base_name}")
    return 0.5
