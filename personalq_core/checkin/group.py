"""Models that mean the same to a user form one group; a question is worth asking between groups."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..language.words import OWNERS, spelling, words
from .attributes import opposed
from .intent import Intent
from .rerank import DOUBT_FEATURES, FEATURES, SOFT, Scored, Weights, by_name, coverage
from .retrieve import Index, is_edition

_CONTENT = ("title", "tags", "description")
_NO_CONTENT = re.compile(
    r"\d+|v\d.*|train|retrain|redo|redon|rebuilt?|rebuild|new|newer|old|first|second|third|last|latest"
    r"|photo|pictur|imag|print|batch|set|version|again|also|now|try|better|more|plain|my|our"
)
"""Stems that tell how a model was made, not what it shows."""
_ALIKE = 0.5
"""Share of the words that two models have in common, for a word of one's title to mean nothing."""
_TELLING = 2
"""So many words of its own on each side make two models for one base different things."""


@dataclass(frozen=True, slots=True)
class Group:
    """Models that a user would not tell apart, best first."""

    members: tuple[Scored, ...]

    @property
    def best(self) -> Scored:
        return self.members[0]


def group(index: Index, scored: Sequence[Scored]) -> list[Group]:
    """Put each model to the first group whose best member means the same."""
    groups: list[list[Scored]] = []
    for entry in scored:
        home = next((g for g in groups if _same(index, g[0].number, entry.number)), None)
        if home is None:
            groups.append([entry])
        else:
            home.append(entry)
    return [Group(tuple(_newest_first(index, members))) for members in groups]


def doubt_features(
    intent: Intent, index: Index, best: Group, other: Group, weights: Weights
) -> np.ndarray:
    """(len(DOUBT_FEATURES),) of whether the other group may be meant as well as the best.

    Of the words that either answers: how much both, only the best, and only the other answer.
    """
    ahead = best.best.features - other.best.features
    # The second newest is as little the newest as the oldest is.
    ahead = np.where((np.array(FEATURES) == "order") & (ahead > 0), 2.0, ahead)
    gains = ahead * weights.ranking
    mine, theirs = best.best.answers, other.best.answers
    if mine & index.title_words(best.best.number) and not (
        theirs & index.title_words(other.best.number)
    ):
        theirs = frozenset()  # where the title is asked for, what others mention in passing is not
    total = index.mass(mine | theirs) or 1.0
    value = {
        "told": float(np.clip(gains[~SOFT].sum(), -4, 8)),
        "hinted": float(np.clip(gains[SOFT].sum(), -2, 8)),
        "shared": index.mass(mine & theirs) / total,
        # Called by its name it is meant, whatever else is said of it.
        "covered": 1.0 if by_name(intent, index, best.best.number) else (
            coverage(intent, index, best.best.number)[0]
        ),
        "only_best": index.mass(mine - theirs) / total,
        "only_other": index.mass(theirs - mine) / total,
        "bias": 1.0,
    }
    return np.array([value[name] for name in DOUBT_FEATURES])


def doubt(intent: Intent, index: Index, best: Group, other: Group, weights: Weights) -> float:
    """Probability that the other group may be meant as well as the best, 0 to 1."""
    if _is_titled(intent, index, best) and not _is_titled(intent, index, other):
        return 0.0
    logit = float(doubt_features(intent, index, best, other, weights) @ weights.doubt)
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))


def _is_titled(intent: Intent, index: Index, group: Group) -> bool:
    """Whether a title that says whose it is, "my robot", stands in the request as it is."""
    title = index.cards[group.best.number].title
    is_own = any(word.stem in OWNERS for word in words(title))
    return is_own and bool(spelling(title).search(intent.request))


def _same(index: Index, one: int, other: int) -> bool:
    """Whether a user could not name what tells two models apart, but version, time and base."""
    words, others = index.words_of(one), index.words_of(other)
    titles = index.title_words(one), index.title_words(other)
    added = titles[0] - others, titles[1] - words
    if (added[0] and added[1]) or not titles[0] & titles[1] or opposed(words, others):
        return False
    mine, theirs = _content(index, one), _content(index, other)
    if added[0] or added[1]:
        return len(mine & theirs) >= _ALIKE * len(mine | theirs)
    if index.families[one] != index.families[other] or index.bases[one] != index.bases[other]:
        return True  # the same concept, trained again for another base
    return len(mine - others) < _TELLING or len(theirs - words) < _TELLING


def _content(index: Index, number: int) -> set[str]:
    fields = index.fields[number]
    return {
        term
        for name in _CONTENT
        for term in fields[name]
        if not _NO_CONTENT.fullmatch(term) and not is_edition(term)
    }


def _called_alike(index: Index, one: Scored, other: Scored) -> bool:
    """Whether two cards have the same trigger."""
    triggers, others = index.cards[one.number].triggers, index.cards[other.number].triggers
    return bool(triggers) and triggers[:1] == others[:1]


def _newest_first(index: Index, members: Sequence[Scored]) -> list[Scored]:
    """Where the request tells nothing apart, the newest of a group is meant."""
    best = members[0]
    named = index.title_words(best.number)
    tied = [
        entry
        for entry in members
        if entry.tied_with(best)
        and (index.title_words(entry.number) == named or _called_alike(index, entry, best))
    ]
    if len(tied) < 2:
        return list(members)
    newest = max(tied, key=lambda entry: index.cards[entry.number].created_at or "")
    return [newest, *(entry for entry in members if entry is not newest)]
