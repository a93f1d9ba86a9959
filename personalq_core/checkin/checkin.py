"""The whole path from a request to a decision, on one page."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np

from ..library.card import ModelCard
from ..library.store import Store
from ..models.embed import Embedder
from .ask import MAX_OPTIONS, differences, question
from .decision import Candidate, Decision
from .intent import Intent, understand
from .rerank import Scored, Weights, fit_features, learned_weights, rerank
from .retrieve import Index, Retrieved, card_text
from .rewrite import rewrite
from .words import stem

TOP_K = 24
ASK_BELOW = {"rarely": 0.4, "normally": 0.6, "often": 0.8}
"""How sure the best candidate must be for the node not to ask."""
_PLAUSIBLE = 0.25
"""A candidate this likely, measured against the best, may be meant too."""
_TIED = 0.1
"""The same for one that answers the very same words: only its general nearness is less."""
_ABSTAIN_BELOW = 0.5
_MAX_STYLES = 3
KINDS = ("lora", "checkpoint")


class CheckIn:
    """Chooses among a user's models. One object serves many requests."""

    def __init__(
        self,
        embedder: Embedder | None = None,
        store: Store | None = None,
    ) -> None:
        self._embedder = embedder
        self._weights = learned_weights(embedder is not None)
        self._store = store
        self._index: Index | None = None
        self._indexed: Sequence[ModelCard] | None = None

    def decide(
        self,
        request: str,
        cards: Sequence[ModelCard],
        *,
        now: datetime,
        base_family: str | None = None,
        kinds: Sequence[str] = KINDS,
        ask: str = "normally",
        answer: str | None = None,
    ) -> Decision:
        """Choose the model that a request means, ask, or say that none fits.

        `base_family` is that of the connected model: other families are left out. `answer` is what
        the user said to an earlier question. Raises ValueError for an empty request.
        """
        if not request.strip():
            raise ValueError("The request is empty. Say what the picture shall show.")
        intent = understand(request, now)
        index = self.index(cards)
        asked, offered = intent, None
        if answer:
            asked = _with_answer(intent, answer, now)
            first = self.decide(
                request, cards, now=now, base_family=base_family, kinds=kinds, ask=ask
            )
            if first.status == "ask":
                offered = {c.card.id for c in first.options}
        found = index.search(asked)
        allowed = _allowed(index, kinds, {base_family, asked.base} - {None}, offered)
        if not len(allowed):
            return _nothing(intent, (), _why_empty(cards, base_family or asked.base))
        scored = rerank(asked, index, found, top_numbers(found, allowed), self._weights)
        candidates = _candidates(index, scored)
        sure = fit(asked, index, scored[0], self._weights)
        if answer is None and sure < _ABSTAIN_BELOW:
            nearest = candidates[0].card.title
            nothing = _nothing(intent, candidates, f"Nothing fits; the nearest is {nearest}.")
            return replace(nothing, fit=sure)
        options = _plausible(candidates, scored, ask)
        if answer is None and len(options) > 1:
            return replace(_question(intent, candidates, options), fit=sure)
        styles = self._styles(asked, index, found, candidates[0], allowed)
        return replace(choose(intent, candidates[0], styles, candidates), fit=sure)

    def use_weights(self, weights: Weights) -> None:
        """Weigh the evidence otherwise from now on; the index stays."""
        self._weights = weights

    def confirm(
        self, request: str, cards: Sequence[ModelCard], card: ModelCard, *, now: datetime
    ) -> Decision:
        """The decision for the card that the user picked, with the styles the request names."""
        intent = understand(request, now)
        index = self.index(cards)
        choice = Candidate(card, 1.0, ("you selected it",))
        styles = self._styles(intent, index, index.search(intent), choice, range(len(cards)))
        return choose(intent, choice, styles, (choice,))

    def index(self, cards: Sequence[ModelCard]) -> Index:
        """The library made ready; kept until other cards are given."""
        if self._index is None or (
            self._indexed is not cards and self._index.cards != tuple(cards)
        ):
            self._index = Index(cards, self._embedder, self._vectors(cards))
        self._indexed = cards
        return self._index

    def _vectors(self, cards: Sequence[ModelCard]) -> np.ndarray | None:
        """(cards, dim), embedding only texts that were never embedded before."""
        if self._embedder is None or not cards:
            return None
        by_card = [card_text(card) for card in cards]
        texts = {_text_key(text): text for text in by_card}
        model_id = self._embedder.model_id
        known = self._store.load_vectors(model_id, list(texts)) if self._store else {}
        missing = [key for key in texts if key not in known]
        if missing:
            made = self._embedder.embed([texts[key] for key in missing])
            fresh = dict(zip(missing, made, strict=True))
            if self._store:
                self._store.save_vectors(model_id, fresh)
            known = {**known, **fresh}
        return np.stack([known[_text_key(text)] for text in by_card])

    def _styles(
        self,
        intent: Intent,
        index: Index,
        found: Retrieved,
        choice: Candidate,
        allowed: Sequence[int] | np.ndarray,
    ) -> tuple[Candidate, ...]:
        """Models named by words that the choice does not answer."""
        own = set().union(*index.fields[index.number_of[choice.card.id]].values())
        left = [
            found.corrections.get(word.stem, word.stem)
            for word in intent.words
            if found.corrections.get(word.stem, word.stem) not in own
        ]
        styles: list[Candidate] = []
        for number in top_numbers(found, allowed):
            card = index.cards[number]
            if (
                card == choice.card
                or card.kind != "lora"
                or not _fits(card, choice.card.base_family)
            ):
                continue
            title = [term for term in index.fields[number]["title"] if stem(term) != "style"]
            named = [term for term in title if term in left]
            if named and len(named) >= 0.6 * len(title) and "style" in _style_words(index, number):
                styles.append(Candidate(card, 1.0, ("says " + ", ".join(named),)))
                left = [term for term in left if term not in named]
        return tuple(styles[:_MAX_STYLES])


def choose(
    intent: Intent,
    choice: Candidate,
    styles: Sequence[Candidate] = (),
    candidates: Sequence[Candidate] = (),
) -> Decision:
    """The decision for a candidate, with its prompt."""
    prompt, _ = rewrite(intent, [choice.card, *(style.card for style in styles)])
    reason = f"{choice.card.title}: {'; '.join(choice.evidence) or 'nearest in meaning'}"
    return Decision(
        "chosen", intent.request, prompt, reason, choice, tuple(styles), tuple(candidates)
    )


def fit(intent: Intent, index: Index, best: Scored, weights: Weights) -> float:
    """Probability that the best card is what was asked for at all, 0 to 1."""
    logit = float(fit_features(intent, index, best) @ weights.fit)
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))


def _with_answer(intent: Intent, answer: str, now: datetime) -> Intent:
    """The request, with the answer's words and wishes added."""
    said = understand(answer, now)
    return replace(
        intent,
        words=intent.words + said.words,
        weights=intent.weights + tuple(2.0 for _ in said.words),
        excluded=intent.excluded + said.excluded,
        version=said.version or intent.version,
        order=said.order or intent.order,
        order_is_soft=said.order_is_soft if said.order else intent.order_is_soft,
        period=said.period or intent.period,
        base=said.base or intent.base,
        base_name=said.base_name or intent.base_name,
    )


def _allowed(
    index: Index, kinds: Sequence[str], families: set[str | None], offered: set[str] | None
) -> np.ndarray:
    """Numbers of the cards that may be chosen: an unknown base family may."""
    allowed = np.isin(index.kinds, list(kinds))
    for family in families:
        allowed &= (index.families == "") | (index.families == family)
    numbers = np.flatnonzero(allowed)
    if offered is not None:
        return np.array([n for n in numbers if index.cards[n].id in offered], int)
    return numbers


def _fits(card: ModelCard, base_family: str | None) -> bool:
    return base_family is None or card.base_family in (None, base_family)


def top_numbers(found: Retrieved, allowed: Sequence[int] | np.ndarray) -> list[int]:
    """The cards that retrieval ranks first among the allowed ones, best first."""
    numbers = np.asarray(allowed)
    scores = found.fused[numbers]
    best = (
        np.argpartition(-scores, TOP_K)[:TOP_K] if len(numbers) > TOP_K else np.arange(len(numbers))
    )
    return [int(n) for n in numbers[best[np.argsort(-scores[best], kind="stable")]]]


def _candidates(index: Index, scored: Sequence[Scored]) -> tuple[Candidate, ...]:
    raw = np.array([entry.score for entry in scored])
    chances = np.exp(raw - raw.max())
    chances /= chances.sum()
    return tuple(
        Candidate(index.cards[entry.number], float(chance), entry.evidence)
        for entry, chance in zip(scored, chances, strict=True)
    )


def _plausible(
    candidates: Sequence[Candidate], scored: Sequence[Scored], ask: str
) -> list[Candidate]:
    """The candidates that may be meant as well as the best; only that one where it is clear."""
    best = candidates[0].score
    unsure = best < ASK_BELOW[ask]
    likely = [
        candidate
        for candidate, entry in zip(candidates, scored, strict=True)
        if (unsure and candidate.score >= _PLAUSIBLE * best)
        or (
            ask != "rarely"
            and entry.answers
            and entry.tied_with(scored[0])
            and candidate.score >= _TIED * best
        )
        or candidate is candidates[0]
    ]
    return likely[:MAX_OPTIONS]


def _question(
    intent: Intent, candidates: tuple[Candidate, ...], options: Sequence[Candidate]
) -> Decision:
    options = sorted(options, key=lambda o: (o.card.created_at or "", o.card.name))
    cards = [option.card for option in options]
    told = differences(cards)
    shown = tuple(replace(o, difference=d) for o, d in zip(options, told, strict=True))
    return Decision(
        "ask", intent.request, intent.request, "Several models fit the request equally well.",
        candidates=candidates,
        options=shown, question=question(cards, told),
    )  # fmt: skip


def _nothing(intent: Intent, candidates: tuple[Candidate, ...], reason: str) -> Decision:
    return Decision("none", intent.request, intent.request, reason, candidates=candidates)


def _why_empty(cards: Sequence[ModelCard], base_family: str | None) -> str:
    if not cards:
        return "There is no LoRA or checkpoint in the model folders yet."
    return f"None of the {len(cards)} models is for {base_family}."


def _style_words(index: Index, number: int) -> set[str]:
    fields = index.fields[number]
    return {*fields["title"], *fields["tags"], *fields["triggers"]}


def _text_key(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
