"""Evidence: what speaks for and against each of the few cards that retrieval found.

Every feature is between -1 and 1, and whatever moves a card is said in words.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files

import numpy as np

from ..library.card import ModelCard
from .intent import STYLE_WEIGHT, Intent
from .retrieve import Index, Retrieved
from .words import fold, stem

FEATURES = (
    "sparse", "dense", "trigger", "title", "extra", "version", "order", "soft_order", "period",
    "excluded", "base", "kind", "conflict", "agreement", "subject",
)  # fmt: skip
"""Names of the features, in the order of the columns."""

_BY_DATE = 0.8
"""A file's date inside the time asked for is weaker than the year in its title."""

# Words that exclude one another: asked for one, a card that says another is the wrong one.
_EXCLUSIVE = tuple(
    {stem(word): word for word in group.split()}
    for group in (
        "red orange yellow green blue purple violet pink brown black white gray silver gold golden "
        "cream beige teal turquoise lilac navy brass copper rose",
        "wood wooden oak walnut metal steel chrome brass glass plastic leather ceramic stone paper "
        "velvet silk wool felt",
        "photo photograph photorealistic watercolor watercolour drawing sketch pencil oil pastel "
        "cartoon comic anime 3d 2d vector pixel illustration plush felt linocut charcoal ink",
        "spring summer autumn winter",
        "puppy kitten baby adult young elderly",
        "day night",
    )
)


@dataclass(frozen=True, slots=True)
class Scored:
    """One card with its evidence."""

    number: int
    """Of the card in the index."""
    features: np.ndarray
    """(len(FEATURES),)"""
    score: float
    evidence: tuple[str, ...]
    answers: frozenset[str]
    """Words of the request that the card answers."""

    def tied_with(self, other: Scored) -> bool:
        """Whether nothing that the request says tells the two apart."""
        soft = [FEATURES.index(name) for name in ("sparse", "dense", "title", "extra")]
        said = np.delete(self.features, soft), np.delete(other.features, soft)
        return self.answers == other.answers and bool(np.allclose(*said))


FIT_FEATURES = ("sparse", "dense", "title", "trigger", "covered", "unknown", "bias")
"""What tells whether the best card is meant at all."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Learned by `python -m benchmarks.learn_weights`, one number a feature."""

    ranking: np.ndarray
    """(len(FEATURES),): the scores are logits of a choice among the candidates."""
    fit: np.ndarray
    """(len(FIT_FEATURES),): logit of "the best card is what was asked for"."""


@cache
def learned_weights(with_meaning: bool) -> Weights:
    """The committed weights: for words and meaning, or for words alone."""
    text = files(__package__).joinpath("weights.json").read_text("utf-8")
    learned = json.loads(text)["words and meaning" if with_meaning else "words alone"]
    return Weights(
        np.array([learned["ranking"][name] for name in FEATURES]),
        np.array([learned["fit"][name] for name in FIT_FEATURES]),
    )


def fit_features(intent: Intent, index: Index, best: Scored) -> np.ndarray:
    """(len(FIT_FEATURES),) of the best card."""
    own = set().union(*index.fields[best.number].values())
    mass = covered = unknown = 0.0
    for word, weight in zip(intent.words, intent.weights, strict=True):
        if weight < 1:
            continue
        readings = index.readings(word.text)
        share = index.idf(next(iter(readings), word.stem))
        mass += share
        covered += share * any(term in own for term in readings)
        unknown += share * (not readings)
    value = dict(zip(FEATURES, best.features, strict=True))
    value |= {"covered": covered / (mass or 1), "unknown": unknown / (mass or 1), "bias": 1.0}
    return np.array([value[name] for name in FIT_FEATURES])


def rerank(
    intent: Intent, index: Index, found: Retrieved, numbers: list[int], weights: Weights
) -> list[Scored]:
    """The given cards with evidence, best first."""
    if not numbers:
        return []
    rows, reasons = evidence(intent, index, found, numbers)
    scores = rows @ weights.ranking
    order = np.argsort(-scores, kind="stable")
    asked = {word.stem for word, w in zip(intent.words, intent.weights, strict=True) if w >= 0.5}
    asked = {found.corrections.get(term, term) for term in asked}
    return [
        Scored(
            numbers[i], rows[i], float(scores[i]), tuple(reasons[i]),
            frozenset(asked & set().union(*index.fields[numbers[i]].values())),
        )
        for i in order
    ]  # fmt: skip


def evidence(
    intent: Intent, index: Index, found: Retrieved, numbers: list[int]
) -> tuple[np.ndarray, list[list[str]]]:
    """Features (cards, len(FEATURES)) and reasons of the given cards."""
    asked = _asked_stems(intent, found)
    has_manner = STYLE_WEIGHT in intent.weights
    related = _related(index, found, numbers, asked)
    orders = _order_positions([index.cards[n] for n in numbers], related)
    rows, reasons = [], []
    for place, number in enumerate(numbers):
        card, why = index.cards[number], []
        fields = index.fields[number]
        own = set().union(*fields.values())
        title = set(fields["title"])
        row = dict.fromkeys(FEATURES, 0.0)
        row["sparse"] = float(found.sparse[number])
        row["dense"] = float(found.dense[number]) if found.dense is not None else 0.0
        if trigger := _trigger_named(intent.request, card, index):
            row["trigger"] = 1.0
            why.append(f'trigger "{trigger}" is in the request')
        mass = sum(index.idf(term) for term in title) or 1.0
        row["title"] = sum(index.idf(term) for term in title & asked) / mass
        row["extra"] = min(1.0, len(title - asked) / 4)
        if shared := [word for word in _said(card) if stem(word) in asked]:
            why.append("says " + ", ".join(dict.fromkeys(word.lower() for word in shared[:5])))
        row["subject"] = float(has_manner and bool(own & asked))
        row["version"] = _version(intent, card, why)
        if intent.order:
            position = orders[place] * (1 if intent.order == "newest" else -1)
            row["soft_order" if intent.order_is_soft else "order"] = position
            if position == 1 and not intent.order_is_soft:
                why.append(f"the {intent.order} of {sum(related)} ({_date(card)})")
        row["period"] = _period(intent, card, why)
        hits = sorted(own & set(intent.excluded))
        if intent.excluded:
            row["excluded"] = len(hits) / len(set(intent.excluded))
        if hits:
            why.append("against: you said not " + ", ".join(hits))
        row["base"] = _base(intent, card, own, why)
        if intent.kind:
            row["kind"] = 1.0 if card.kind == intent.kind else -1.0
        row["agreement"], row["conflict"] = _attributes(asked, own, why)
        rows.append([row[name] for name in FEATURES])
        reasons.append(why)
    return np.array(rows), reasons


def _asked_stems(intent: Intent, found: Retrieved) -> set[str]:
    """The words of the concept, spelled as the library spells them."""
    return {
        found.corrections.get(word.stem, word.stem)
        for word, weight in zip(intent.words, intent.weights, strict=True)
        if weight >= 1
    }


def _said(card: ModelCard) -> list[str]:
    return re.findall(r"\w+", f"{card.title} {' '.join(card.tags)} {card.description[:400]}")


def _trigger_named(request: str, card: ModelCard, index: Index) -> str | None:
    """A trigger that stands in the request, unless it is made of ordinary words alone."""
    text = fold(request)
    for trigger in card.triggers[:8]:
        plain = re.escape(fold(trigger))
        if re.search(rf"(?<!\w){plain}(?!\w)", text) and _is_rare(trigger, index):
            return trigger
    return None


def _is_rare(trigger: str, index: Index) -> bool:
    """Whether a word in it is no plain language, and hardly another card says it."""
    for word in re.findall(r"\w+", trigger):
        known = index.embedder.knows(word) if index.embedder else word.isalpha()
        coined = bool(re.search(r"\d|_|[a-z][A-Z]", word))
        if not known and (coined or index.frequency(word) <= 2):
            return True
    return False


def _related(index: Index, found: Retrieved, numbers: list[int], asked: set[str]) -> list[bool]:
    """Which cards answer the request about as well as the best one, time apart."""
    covered = [
        sum(index.idf(t) for t in asked & set().union(*index.fields[n].values())) for n in numbers
    ]
    top = max(covered, default=0.0)
    fused = found.fused[numbers]
    return [
        mass >= 0.7 * top if top > 0 else score >= 0.8 * fused.max()
        for mass, score in zip(covered, fused, strict=True)
    ]


def _order_positions(cards: list[ModelCard], related: list[bool]) -> list[float]:
    """-1 the oldest ... 1 the newest of the related ones; 0 where no date is known."""
    dates = sorted({_age(c) for c, r in zip(cards, related, strict=True) if r and _age(c)})
    if len(dates) < 2:
        return [0.0] * len(cards)
    return [
        2 * dates.index(_age(card)) / (len(dates) - 1) - 1 if is_related and _age(card) else 0.0
        for card, is_related in zip(cards, related, strict=True)
    ]


def _age(card: ModelCard) -> str:
    return card.created_at or ""


def _date(card: ModelCard) -> str:
    return (card.created_at or "no date")[:10]


def version_numbers(version: str | None) -> tuple[int, ...] | None:
    """ "V2.0" -> (2,): comparable, without trailing zeros; None where there is no number."""
    match = re.search(r"\d+(?:\.\d+)*", version or "")
    if not match:
        return None
    parts = [int(part) for part in match.group().split(".")]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _version(intent: Intent, card: ModelCard, why: list[str]) -> float:
    asked, own = version_numbers(intent.version), version_numbers(card.version)
    if asked is None or own is None:
        return 0.0
    why.append(f"version {intent.version} asked, this is {card.version}")
    return 1.0 if asked == own else -1.0


def _period(intent: Intent, card: ModelCard, why: list[str]) -> float:
    if not intent.period:
        return 0.0
    start, end = intent.period
    if (
        str(start.year) in f"{card.title} {card.version} {card.description[:400]}"
        and (end - start).days >= 360
    ):
        return 1.0
    if not card.created_at:
        return 0.0
    made = datetime.fromisoformat(card.created_at).replace(tzinfo=None)
    inside = start.replace(tzinfo=None) <= made < end.replace(tzinfo=None)
    why.append(f"made {_date(card)}" + ("" if inside else ", outside the time asked for"))
    return _BY_DATE if inside else -1.0


def _base(intent: Intent, card: ModelCard, own: set[str], why: list[str]) -> float:
    if not intent.base:
        return 0.0
    if intent.base_name and stem(intent.base_name) in own:
        why.append(f"made for {intent.base_name}")
        return 1.0
    if card.base_family is None:
        return 0.0
    return 0.5 if card.base_family == intent.base else -1.0


def _attributes(asked: set[str], own: set[str], why: list[str]) -> tuple[float, float]:
    """Share of exclusive words (colours, materials, media...) that agree, and that conflict."""
    agree = conflict = total = 0
    for group in _EXCLUSIVE:
        wanted = asked & group.keys()
        if not wanted:
            continue
        total += 1
        if wanted & own:
            agree += 1
        elif has := own & group.keys():
            conflict += 1
            said, missed = ", ".join(sorted(has)[:2]), ", ".join(sorted(wanted)[:2])
            why.append(f"against: {said}, not {missed}")
    return (agree / total, conflict / total) if total else (0.0, 0.0)
