"""Learn Check-in's weights from requests with known answers.

    python -m benchmarks.learn_weights --data CARDS.jsonl CASES.jsonl [--data ...] [--write]

Ranking: a conditional logit (softmax over each request's candidates), drawn towards the weights
that common sense gives, so that a hundred requests cannot overturn it. Fit: a logistic regression
whose hard negatives are the same requests asked of a library without the right family. Doubt: a
logistic regression over pairs of the best group of models and another, whose positives are the
pairs that an ambiguous request leaves open. `benchmarks.selection --cross-validate` learns them
anew for each fifth of the families.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

import personalq_core.checkin as package
from benchmarks.selection_data import Case, family, folds, hash_text, load_cards, load_cases
from personalq_core.checkin.beside import is_style
from personalq_core.checkin.checkin import CheckIn
from personalq_core.checkin.fit import fit_features
from personalq_core.checkin.group import doubt_features, group
from personalq_core.checkin.intent import Intent, understand
from personalq_core.checkin.rerank import (
    DOUBT_FEATURES,
    FEATURES,
    FIT_FEATURES,
    Scored,
    Weights,
    evidence,
    name_of_weights,
    rank,
)
from personalq_core.checkin.retrieve import Index, Retrieved
from personalq_core.checkin.shortlist import shortlist
from personalq_core.language.thesaurus import thesaurus
from personalq_core.language.words import stem
from personalq_core.library.card import ModelCard
from personalq_core.models.embed import load_embedder

_RANKING_PRIOR = {
    "sparse": 6, "dense": 8, "trigger": 8, "title": 2, "extra": -1.2, "version": 4,
    "order": 3, "soft_order": 1, "period": 3, "excluded": -6, "author": 4, "base": 3, "kind": 2,
    "conflict": -3, "agreement": 2, "subject": 2, "manner": -1.5, "named": 2, "lost_sparse": -3,
    "lost_dense": 4, "lost_title": -1,
}  # fmt: skip
_FIT_PRIOR = {
    "sparse": 5, "dense": 8, "lost": -2, "title": 2, "trigger": 6, "covered": 1, "unknown": -2,
    "lost_sparse": -2, "lost_dense": 4, "lost_title": -1, "ahead": 2, "head": 2, "stranger": -2,
    "called": 2, "name": 2, "bias": -4,
}  # fmt: skip
_DOUBT_PRIOR = {
    "told": -1, "hinted": -0.5, "shared": 4, "covered": 3, "only_best": -4, "only_other": -1,
    "bias": -3,
}  # fmt: skip
PRIOR = Weights(
    np.array([_RANKING_PRIOR[name] for name in FEATURES], float),
    np.array([_FIT_PRIOR[name] for name in FIT_FEATURES], float),
    np.array([_DOUBT_PRIOR[name] for name in DOUBT_FEATURES], float),
)
_RANKING_PULL, _FIT_PULL, _DOUBT_PULL = 0.05, 0.03, 0.01
_NEGATIVE_COST = 0.3
"""Each case is asked again without its family; users mostly ask for what is there."""
_OTHER_COST = 0.5
"""Each clear case is also asked for another thing of its kind that is not there."""
_AMBIGUOUS = 0.1
"""So many requests of a repository are ambiguous, for doubt to be learned from it."""
_OTHERS = 4
"""Groups beside the best that a question is weighed against."""


@dataclass(frozen=True)
class Library:
    """Requests of one repository, and the engine that holds its index."""

    cases: Sequence[Case]
    cards: Sequence[ModelCard]
    engine: CheckIn


class RememberingCheckIn(CheckIn):
    """Check-in that gathers the evidence on a request once, however often weights change."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seen: dict[tuple[str, int], Any] = {}

    def weigh(
        self, intent: Intent, index: Index, found: Retrieved, allowed: Sequence[int] | np.ndarray
    ) -> list[Scored]:
        key = intent.request, len(allowed)
        if key not in self._seen:
            numbers = shortlist(intent, index, found, allowed)
            self._seen[key] = numbers, evidence(intent, index, found, numbers)
        numbers, seen = self._seen[key]
        return rank(intent, index, found, numbers, seen, self._weights)


def learn(libraries: Sequence[Library]) -> Weights:
    """Weights from the cases of some libraries."""
    weights = replace(PRIOR, ranking=_learn_ranking(libraries))
    weights = replace(weights, fit=_learn_fit(libraries, weights))
    # Where hardly any request is ambiguous, the others would teach not to ask.
    asking = [one for one in libraries if _ambiguous(one.cases) >= _AMBIGUOUS]
    return replace(weights, doubt=_learn_doubt(asking, weights))


def _ambiguous(cases: Sequence[Case]) -> float:
    """The share of requests for what is there that fit several models."""
    found = [case.ambiguous for case in cases if case.gold]
    return sum(found) / (len(found) or 1)


def _learn_ranking(libraries: Sequence[Library]) -> np.ndarray:
    examples = [e for library in libraries for case in library.cases if (e := _rows(library, case))]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        """And its gradient."""
        away = (weights - PRIOR.ranking) / PRIOR.ranking
        total = _RANKING_PULL * (away**2).sum() / 4
        gradient = _RANKING_PULL * away / PRIOR.ranking / 2
        for rows, right in examples:
            logits = rows @ weights
            total += (_logsumexp(logits) - _logsumexp(logits[right])) / len(examples)
            chances = _softmax(logits)
            chances[right] -= _softmax(logits[right])
            gradient += rows.T @ chances / len(examples)
        return float(total), gradient

    return minimize(loss, PRIOR.ranking, jac=True, method="L-BFGS-B").x


def _rows(library: Library, case: Case) -> tuple[np.ndarray, np.ndarray] | None:
    """Features of a request's candidates, and which are right; None where none is."""
    intent = understand(case.request, case.now)
    index = library.engine.index(library.cards)
    scored = library.engine.weigh(intent, index, index.search(intent), _for_the_thing(index, case))
    right = np.array([index.cards[s.number].id in case.gold | case.acceptable for s in scored])
    return (np.array([s.features for s in scored]), right) if right.any() else None


def _for_the_thing(index: Index, case: Case) -> list[int]:
    """Numbers of the cards that may be the first choice: what is named beside it is told apart
    before anything is weighed."""
    return [n for n, card in enumerate(index.cards) if card.id not in case.secondary]


def _without_the_thing(index: Index, case: Case, numbers: Sequence[int]) -> list[int]:
    """Those of some cards that are no version of what is right, and share no word of its title."""
    families = set(map(family, case.gold))
    golds = [index.number_of[card_id] for card_id in case.gold]
    titles = {term for number in golds for term in index.title_words(number)}
    return [
        n
        for n in numbers
        if family(index.cards[n].id) not in families and not titles & index.title_words(n)
    ]


def _learn_fit(libraries: Sequence[Library], weights: Weights) -> np.ndarray:
    rows, labels, costs = [], [], []
    for library in libraries:
        library.engine.use_weights(weights)
        index = library.engine.index(library.cards)
        for case in library.cases:
            intent = understand(case.request, case.now)
            everything = _for_the_thing(index, case)
            kept = _without_the_thing(index, case, everything)
            asked_of = [(intent, everything, bool(case.gold), 1.0)]
            asked_of += [(intent, kept, False, _NEGATIVE_COST)] if case.gold else []
            if other := _other_thing(intent, index, case):
                asked_of.append((other, everything, False, _OTHER_COST))
            for intent, allowed, label, cost in asked_of:
                found = index.search(intent)
                scored = library.engine.weigh(intent, index, found, allowed)
                rows.append(fit_features(intent, index, scored))
                labels.append(label)
                costs.append(cost)
    return _logistic(np.array(rows), np.array(labels), np.array(costs), PRIOR.fit, _FIT_PULL)


def _other_thing(intent: Intent, index: Index, case: Case) -> Intent | None:
    """The same request for another thing of the kind, that the library has not: a "tern suitcase"
    where there is a tern backpack. None where no noun can be exchanged."""
    naming = [word for word, at in zip(intent.words, intent.naming, strict=True) if at]
    golds = [index.number_of[card_id] for card_id in case.gold]
    called = case.category == "explicit_trigger"
    if called or not (naming and golds) or intent.foreign or any(is_style(index, n) for n in golds):
        return None
    head = naming[-1]
    if not all(head.stem in index.words_of(number) for number in golds):
        return None
    others = sorted(
        (hash_text(other + case.request), other)
        for other in thesaurus().siblings(head.text)
        if index.embedder is None or index.embedder.knows(other)
        if not index.things(other)
        if head.stem not in thesaurus().related(stem(other))  # a canine is a dog
    )
    if not others:
        return None
    request = case.request[: head.start] + others[0][1] + case.request[head.end :]
    return understand(request, case.now)


def _learn_doubt(libraries: Sequence[Library], weights: Weights) -> np.ndarray:
    rows, labels = [], []
    for library in libraries:
        library.engine.use_weights(weights)
        index = library.engine.index(library.cards)
        for case in library.cases:
            if not case.gold:
                continue
            intent = understand(case.request, case.now)
            found = index.search(intent)
            scored = library.engine.weigh(intent, index, found, _for_the_thing(index, case))
            groups = group(index, scored)
            for other in groups[1 : 1 + _OTHERS]:
                is_open = any(index.cards[entry.number].id in case.gold for entry in other.members)
                rows.append(doubt_features(intent, index, groups[0], other, weights))
                labels.append(case.ambiguous and is_open)
    costs = np.ones(len(labels))
    return _logistic(np.array(rows), np.array(labels), costs, PRIOR.doubt, _DOUBT_PULL)


def _logistic(
    rows: np.ndarray, labels: np.ndarray, costs: np.ndarray, prior: np.ndarray, pull: float
) -> np.ndarray:
    """Logistic regression that is drawn towards a prior, each weight in its own measure."""
    signs = np.where(labels, 1.0, -1.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        """And its gradient."""
        away = (weights - prior) / np.abs(prior)
        wrong = -signs * (rows @ weights)
        fit = (costs * np.logaddexp(0, wrong)).mean()
        slope = -signs * costs / (1 + np.exp(-np.clip(wrong, -50, 50))) / len(rows)
        gradient = rows.T @ slope + pull * away / np.abs(prior) / 2
        return float(fit + pull * (away**2).sum() / 4), gradient

    return minimize(loss, prior, jac=True, method="L-BFGS-B").x


def _logsumexp(values: np.ndarray) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).sum()))


def _softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values - _logsumexp(values))


def cross_validated(
    cases: Sequence[Case],
    cards: Sequence[ModelCard],
    engine: CheckIn,
    others: Sequence[tuple[Sequence[Case], Sequence[ModelCard]]] = (),
) -> Iterator[tuple[Case, Weights]]:
    """Each case with weights that were learned without its family.

    `others` are cases and cards of other repositories, which are learned from in each fold.
    """
    elsewhere = [
        Library(theirs, of_them, RememberingCheckIn(engine.embedder)) for theirs, of_them in others
    ]
    here, fold_of = RememberingCheckIn(engine.embedder), folds(cases)
    learned = {}
    for fold in sorted(set(fold_of)):
        kept = [case for case, f in zip(cases, fold_of, strict=True) if f != fold]
        learned[fold] = learn([Library(kept, cards, here), *elsewhere])
    for case, fold in zip(cases, fold_of, strict=True):
        yield case, learned[fold]


def _to_json(weights: Weights) -> dict[str, dict[str, float]]:
    named: list[tuple[str, Sequence[str], np.ndarray]] = [
        ("ranking", FEATURES, weights.ranking), ("fit", FIT_FEATURES, weights.fit),
        ("doubt", DOUBT_FEATURES, weights.doubt),
    ]  # fmt: skip
    return {
        part: dict(zip(names, np.round(values, 3).tolist(), strict=True))
        for part, names, values in named
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--data", type=Path, nargs=2, action="append", required=True, metavar=("CARDS", "CASES")
    )
    parser.add_argument("--write", action="store_true", help="write personalq_core's weights.json")
    options = parser.parse_args()
    data = [(load_cases(cases), load_cards(cards)) for cards, cases in options.data]
    embedder = load_embedder()[0]
    if embedder is None:
        raise SystemExit("Install requirements-dev.txt: it brings the embedder.")
    learned = {}
    for by in (embedder, None):
        weights = learn([Library(cases, cards, RememberingCheckIn(by)) for cases, cards in data])
        learned[name_of_weights(by is not None)] = _to_json(weights)
    text = json.dumps(learned, indent=1) + "\n"
    print(text)
    if options.write:
        Path(package.__path__[0], "weights.json").write_text(text)


if __name__ == "__main__":
    main()
