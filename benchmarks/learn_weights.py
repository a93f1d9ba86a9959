"""Learn Check-in's weights, and report five-fold cross-validated figures by family.

    python -m benchmarks.learn_weights --repository CARDS.jsonl --cases CASES.jsonl [--write]

Ranking: a conditional logit (softmax over each request's candidates), drawn towards the weights
that common sense gives, so that a hundred requests cannot overturn it. Fit: a logistic regression
whose hard negatives are the same requests asked of a library without the right family.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

import personalq_core.checkin as package
from benchmarks.selection_data import Case, family, folds, load_cards, load_cases
from personalq_core.checkin.checkin import CheckIn, top_numbers
from personalq_core.checkin.intent import understand
from personalq_core.checkin.rerank import (
    FEATURES,
    FIT_FEATURES,
    Weights,
    evidence,
    fit_features,
    rerank,
)
from personalq_core.library.card import ModelCard
from personalq_core.models.embed import load_embedder

PRIOR = Weights(
    np.array([6, 8, 8, 2, -1.2, 4, 3, 1, 3, -5, 3, 2, -1.5, 1.0, 2.0]),
    np.array([5, 8, 2, 6, 1, -2, -3.0]),
)
_RANKING_PULL, _FIT_PULL = 0.05, 0.03
_NEGATIVE_COST = 0.3
"""Each case is asked again without its family; users mostly ask for what is there."""


@dataclass(frozen=True)
class Example:
    """Candidates' features of one request and which of them are right."""

    rows: np.ndarray
    right: np.ndarray


def learn(cases: Sequence[Case], cards: Sequence[ModelCard], engine: CheckIn) -> Weights:
    """Weights from cases."""
    ranking = _learn_ranking([e for case in cases if (e := _example(case, cards, engine))])
    rows, labels = _fit_rows(cases, cards, engine, ranking)
    return Weights(ranking, _learn_fit(rows, labels))


def _example(case: Case, cards: Sequence[ModelCard], engine: CheckIn) -> Example | None:
    intent = understand(case.request, case.now)
    index = engine.index(cards)
    found = index.search(intent)
    numbers = top_numbers(found, range(len(cards)))
    right = np.array([index.cards[n].id in case.gold | case.acceptable for n in numbers])
    rows, _ = evidence(intent, index, found, numbers)
    return Example(rows, right) if right.any() else None


def _learn_ranking(examples: Sequence[Example]) -> np.ndarray:
    scale = np.abs(PRIOR.ranking)

    def loss(weights: np.ndarray) -> float:
        total = 0.0
        for example in examples:
            logits = example.rows @ weights
            total += _logsumexp(logits) - _logsumexp(logits[example.right])
        pull = ((weights - PRIOR.ranking) / scale) ** 2
        return total / len(examples) + _RANKING_PULL * pull.mean() * len(weights) / 4

    return minimize(loss, PRIOR.ranking, method="L-BFGS-B").x


def _fit_rows(
    cases: Sequence[Case], cards: Sequence[ModelCard], engine: CheckIn, ranking: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    weights = Weights(ranking, PRIOR.fit)
    rows, labels = [], []
    index = engine.index(cards)
    for case in cases:
        intent = understand(case.request, case.now)
        found = index.search(intent)
        families = set(map(family, case.gold))
        kept = [n for n, card in enumerate(index.cards) if family(card.id) not in families]
        for allowed, label in ((range(len(cards)), bool(case.gold)), (kept, False)):
            if label is False and allowed is not kept and case.gold:
                continue
            best = rerank(intent, index, found, top_numbers(found, allowed), weights)[0]
            rows.append(fit_features(intent, index, best))
            labels.append(label)
    return np.array(rows), np.array(labels)


def _learn_fit(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    signs = np.where(labels, 1.0, -1.0)
    costs = np.where(labels, 1.0, _NEGATIVE_COST)

    def loss(weights: np.ndarray) -> float:
        margins = signs * (rows @ weights)
        pull = ((weights - PRIOR.fit) / np.abs(PRIOR.fit)) ** 2
        return float((costs * np.logaddexp(0, -margins)).mean() + _FIT_PULL * pull.sum() / 4)

    return minimize(loss, PRIOR.fit, method="L-BFGS-B").x


def _logsumexp(values: np.ndarray) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).sum()))


def cross_validated(
    cases: Sequence[Case], cards: Sequence[ModelCard], engine: CheckIn
) -> list[tuple[Case, Weights]]:
    """Each case with weights that were learned without its family."""
    fold_of = folds(cases)
    learned = {
        fold: learn([c for c, f in zip(cases, fold_of, strict=True) if f != fold], cards, engine)
        for fold in sorted(set(fold_of))
    }
    return [(case, learned[fold]) for case, fold in zip(cases, fold_of, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="write personalq_core's weights.json")
    options = parser.parse_args()
    cards, cases = load_cards(options.repository), load_cases(options.cases)
    learned = {}
    for name, embedder in (("words and meaning", load_embedder()[0]), ("words alone", None)):
        weights = learn(cases, cards, CheckIn(embedder))
        learned[name] = {
            "ranking": dict(zip(FEATURES, np.round(weights.ranking, 3).tolist(), strict=True)),
            "fit": dict(zip(FIT_FEATURES, np.round(weights.fit, 3).tolist(), strict=True)),
        }
    text = json.dumps(learned, indent=1) + "\n"
    print(text)
    if options.write:
        Path(package.__path__[0], "weights.json").write_text(text)


if __name__ == "__main__":
    main()
