"""The whole path from a request to a decision, on one page."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from ..language.translate import language
from ..language.words import Word
from ..library.card import ModelCard
from ..library.store import Store
from ..models.embed import Embedder
from .ask import MAX_OPTIONS, differences, question
from .beside import (
    BASES,
    Named,
    is_style,
    named_beside,
    other_named,
    without,
    without_base,
)
from .decision import Candidate, Decision
from .fit import fit
from .group import Group, doubt, group
from .intent import Intent, as_written, place_in_list, understand
from .named import as_named
from .picture import said_of_the_picture
from .rerank import (
    Scored,
    Weights,
    as_called,
    author_of,
    is_called,
    learned_weights,
    names,
    rerank,
    version_missed,
    version_numbers,
)
from .retrieve import Index, Retrieved, card_text
from .rewrite import rewrite
from .say import say
from .settle import settle
from .shortlist import named_by_file, near, shortlist, those_of

ASK_ABOVE = {"rarely": 0.7, "normally": 0.5, "often": 0.25}
"""How likely it must be that something else is meant as well, for Check-in to ask."""
_OFFERED = 0.5
"""What is offered beside it is at least this share as likely."""
_ABSTAIN_BELOW = 0.42
"""A little below even: who asks for a model mostly has it."""
KINDS = ("lora", *BASES)
_NONE_OF_THEM = re.compile(
    r"(?:none|neither|nothing|ningun[oa]|keine[rs]?|nichts|aucune?|rien|都不是|没有|どれでもない)"
    r"(?:\s+(?:of (?:these|them)|davon|de (?:estos|ellos)|d['\u2019]entre eux))?[.!]?",
    re.I,
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request beside the library."""

    intent: Intent
    index: Index
    found: Retrieved
    base: str | None
    """Base family of the connected model, else the one asked for."""
    suiting: np.ndarray
    """Numbers of the cards of the kinds and the base asked for."""
    allowed: np.ndarray
    """Of these, the ones that may be chosen."""
    by_file: bool
    """Whether these are the ones whose files it names."""


class CheckIn:
    """Chooses among a user's models. One object serves many requests."""

    def __init__(self, embedder: Embedder | None = None, store: Store | None = None) -> None:
        self.embedder = embedder
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
        asked = self._read(request, cards, now, base_family, kinds)
        intent, index = asked.intent, asked.index
        if not len(asked.allowed):
            return _nothing(intent, (), _why_empty(cards, base_family, intent))
        read, scored, groups, sure = self._weighed(asked)
        if sure < _ABSTAIN_BELOW and (named := _as_named(asked)):
            asked, intent = named, named.intent
            read, scored, groups, sure = self._weighed(asked)
        candidates = _candidates(index, groups)
        meant = self._meant(read.intent, index, groups, ASK_ABOVE[ask])
        if version_missed(intent, candidates[0].card):
            meant = _other_versions(index, groups[0].best, scored)
        if answer is not None and answer.strip():
            return self._answered(asked, answer, meant if len(meant) > 1 else groups, now)
        if sure < _ABSTAIN_BELOW:
            missed = _with_what_is_missing(intent, asked.found, scored, index, candidates)
            nearest = say("nothing", language(request), candidates[0].card.title)
            return replace(_nothing(intent, missed, nearest), fit=sure)
        if len(meant) > 1:
            return replace(_question(index, intent, candidates, meant), fit=sure)
        return replace(self._chosen(asked, candidates), fit=sure)

    def _weighed(self, asked: _Asked) -> tuple[_Asked, list[Scored], list[Group], float]:
        """How it was read, the nearest cards, their groups, and the probability that the best is
        meant at all. Where it names a style or another thing too, it is read without that one's
        words: they are no doubt about the first."""
        scored = self.weigh(asked.intent, asked.index, asked.found, asked.allowed)
        groups = group(asked.index, scored)
        likely = fit(asked.intent, asked.index, [groups[0].best, *scored], self._weights)
        sure = 1.0 if asked.by_file else likely
        other = other_named(asked.intent, asked.index, groups, sure < _ABSTAIN_BELOW)
        if other is None:
            return asked, scored, groups, sure
        alone = _without(asked, other)
        found = self._weighed(alone) if len(alone.allowed) else None
        return found if found and found[3] >= _ABSTAIN_BELOW else (asked, scored, groups, sure)

    def _read(
        self,
        request: str,
        cards: Sequence[ModelCard],
        now: datetime,
        base_family: str | None,
        kinds: Sequence[str],
    ) -> _Asked:
        """A request, read beside the library."""
        index = self.index(cards)
        names = index.names_written(request)
        intent = as_written(understand(request, now), names)
        suiting = _suiting(index, kinds, set(filter(None, (base_family, intent.base))))
        by_file = those_of(named_by_file(request, index), suiting)
        allowed = by_file if len(by_file) else suiting
        found = index.search(intent)
        if plain := said_of_the_picture(intent, index, found, near(found, allowed)):
            intent = as_written(understand(request, now, plain), names)
            found = index.search(intent)
        settled = settle(intent, index, found, near(found, allowed))
        if settled is not intent:
            found = index.search(settled)
        base = base_family or intent.base
        return _Asked(settled, index, found, base, suiting, allowed, bool(len(by_file)))

    def weigh(
        self, intent: Intent, index: Index, found: Retrieved, allowed: Sequence[int] | np.ndarray
    ) -> list[Scored]:
        """The nearest of the allowed cards with their evidence, best first."""
        numbers = shortlist(intent, index, found, allowed)
        return rerank(intent, index, found, numbers, self._weights)

    def _meant(
        self, intent: Intent, index: Index, groups: Sequence[Group], ask_above: float
    ) -> list[Group]:
        """The best group and those that may be meant as well; only the best where it is clear."""
        doubts = [doubt(intent, index, groups[0], other, self._weights) for other in groups[1:]]
        if max(doubts, default=0.0) < ask_above:
            return [groups[0]]
        likely = [g for g, p in zip(groups[1:], doubts, strict=True) if p >= _OFFERED * max(doubts)]
        return [groups[0], *likely][:MAX_OPTIONS]

    def _answered(
        self, asked: _Asked, answer: str, meant: Sequence[Group], now: datetime
    ) -> Decision:
        """The choice among what was offered, after the user's own words."""
        index = asked.index
        if _NONE_OF_THEM.fullmatch(answer.strip()):
            return _nothing(asked.intent, (), "You chose none of the models.")
        listed = sorted((index.cards[g.best.number] for g in meant), key=_by_age)
        if (place := place_in_list(answer)) and place <= len(listed) <= MAX_OPTIONS:
            return self._picked(asked, listed[place - 1])
        offered = [entry.number for g in meant for entry in g.members]
        said = settle(understand(answer, now), index, asked.found, np.array(offered))
        told = with_answer(asked.intent, said, index, offered)
        found = index.search(told)
        # Of fifty versions five are offered, and the answer may name any of the others.
        alike = near(asked.found, asked.allowed)
        pool = list(dict.fromkeys([*offered, *shortlist(told, index, found, alike)]))
        scored = rerank(told, index, found, pool, self._weights.for_answers())
        candidates = _candidates(index, [Group((entry,)) for entry in scored])
        told_asked = replace(asked, intent=replace(asked.intent, version=told.version))
        return self._chosen(told_asked, candidates, is_saved=True)

    def best_match(
        self,
        decision: Decision,
        cards: Sequence[ModelCard],
        *,
        now: datetime,
        base_family: str | None = None,
    ) -> Decision:
        """The first candidate of a question, chosen without waiting for the answer."""
        asked = self._read(decision.request, cards, now, base_family, KINDS)
        chosen = self._chosen(asked, decision.candidates)
        return replace(chosen, fit=decision.fit, notices=decision.notices).with_notice(
            "Several models fit; this is the best match.", *chosen.notices
        )

    def use_weights(self, weights: Weights) -> None:
        """Weigh the evidence otherwise from now on; the index stays."""
        self._weights = weights

    def confirm(
        self,
        request: str,
        cards: Sequence[ModelCard],
        card: ModelCard,
        *,
        now: datetime,
        base_family: str | None = None,
    ) -> Decision:
        """The decision for the card that the user picked, with the styles the request names."""
        return self._picked(self._read(request, cards, now, base_family, KINDS), card)

    def _picked(self, asked: _Asked, card: ModelCard) -> Decision:
        return self._chosen(asked, (Candidate(card, 1.0, ("you selected it",)),), is_saved=True)

    def _chosen(
        self, asked: _Asked, candidates: Sequence[Candidate], *, is_saved: bool = False
    ) -> Decision:
        """The decision for the first of some candidates.

        `is_saved`: the user chose it, maybe for another request. Where this one does not name it,
        none of its words gives way to the trigger.
        """
        choice, notices = candidates[0], []
        number = asked.index.number_of[choice.card.id]
        other = None if names(asked.intent, asked.index, number) else _as_named(asked)
        if other and names(other.intent, asked.index, number):
            asked = other  # a style that was asked about, or saved
        intent = asked.intent
        is_named = not is_saved or names(intent, asked.index, number)
        if not is_named:
            notices.append("Your saved choice; nothing in the request names it.")
        if version_missed(intent, choice.card):
            own = choice.card.version
            notices.append(f"Version {intent.version} was asked for; this is {own}.")
        beside, told = self._beside(asked, choice.card, is_named)
        cards = [choice.card, *(other.card for other in beside)]
        called = [as_called(intent.request, card, asked.index) for card in cards]
        prompt, _ = rewrite(_as_spelled(intent, asked.found), called, is_named)
        reason = f"{choice.card.title}: {'; '.join(choice.evidence) or 'nearest in meaning'}"
        return Decision(
            "chosen", intent.request, prompt, reason, choice, beside, tuple(candidates),
            notices=(*notices, *told),
        )  # fmt: skip

    def _beside(
        self, asked: _Asked, choice: ModelCard, is_named: bool
    ) -> tuple[tuple[Candidate, ...], list[str]]:
        """What the request names beside the choice, and notices of what of it is in doubt or for
        another base.

        Where it does not name the choice, the thing that it names is meant instead of it, and only
        styles go beside it.
        """
        index, beside, told = asked.index, [], []
        family = choice.base_family or asked.base
        own = index.called_words(index.number_of[choice.id])
        rest = replace(asked, intent=without(asked.intent, own))  # the choice left unsaid
        for named in named_beside(asked.intent, index, asked.found, choice):
            meant = self._meant_by(rest, named, family)
            if not meant:
                other = index.cards[named.numbers[0]]
                told.append(
                    f"{other.title} is named too, but it is for {other.base_family}, and "
                    f"{choice.title} for {family}."
                )
                continue
            card = index.cards[meant[0]]
            if card.kind in BASES and any(one.card.kind in BASES for one in beside):
                continue
            if is_named or card.kind in BASES or is_style(index, meant[0]):
                beside.append(Candidate(card, 1.0, (f"says {named.words}",)))
                family = family or card.base_family
                if len(meant) > 1:
                    told.append(f"{len(meant)} models fit {named.words}; this is {card.title}.")
        return tuple(beside), told

    def _meant_by(self, asked: _Asked, named: Named, family: str | None) -> list[int]:
        """Of the cards that are named the one that is meant, and others where that is in doubt, of
        equal ones the newest first; none where none is for a base family."""
        intent, index = asked.intent, asked.index
        numbers = those_of(np.array(named.numbers), asked.suiting).tolist()
        fitting = [n for n in numbers if not family or index.cards[n].suits(family)]
        if not fitting:
            return []
        groups = group(index, rerank(intent, index, asked.found, fitting, self._weights))
        meant = [g.best for g in self._meant(intent, index, groups, ASK_ABOVE["normally"])]
        meant.sort(key=lambda entry: index.cards[entry.number].created_at or "", reverse=True)
        meant.sort(key=lambda entry: not entry.tied_with(groups[0].best))
        return [entry.number for entry in meant]

    def index(self, cards: Sequence[ModelCard]) -> Index:
        """The library made ready; kept until other cards are given."""
        if self._index is None or not (
            self._indexed is cards or _are_same(self._index.cards, cards)
        ):
            self._index = Index(cards, self.embedder, self._vectors(cards))
        self._indexed = cards
        return self._index

    def _vectors(self, cards: Sequence[ModelCard]) -> np.ndarray | None:
        """(cards, dim), embedding only texts that were never embedded before."""
        if self.embedder is None or not cards:
            return None
        by_card = [card_text(card) for card in cards]
        texts = {_text_key(text): text for text in by_card}
        model_id = self.embedder.model_id
        known = self._store.load_vectors(model_id, list(texts)) if self._store else {}
        missing = [key for key in texts if key not in known]
        if missing:
            made = self.embedder.embed([texts[key] for key in missing])
            fresh = dict(zip(missing, made, strict=True))
            if self._store:
                self._store.save_vectors(model_id, fresh)
            known = {**known, **fresh}
        return np.stack([known[_text_key(text)] for text in by_card])


def _as_spelled(intent: Intent, found: Retrieved) -> Intent:
    """A request whose misspelled words are read as the library has them."""
    right = found.corrections
    return intent.with_words(
        (replace(word, stem=right.get(word.stem, word.stem)), weight)
        for word, weight in intent.weighed()
    )


def with_answer(intent: Intent, said: Intent, index: Index, offered: Sequence[int]) -> Intent:
    """The request, with the words and wishes of the answer that was said.

    "the old one" asks for the oldest, unless an offered model itself is called old.
    """
    terms = {term for number in offered for term in index.words_of(number)}
    ages = [word for word in said.words if word.stem in ("old", "new")]
    named = any(word.stem in terms for word in ages)
    told = [word for word in said.words if named or word not in ages]
    words = tuple(_as_offered(word, terms) for word in told)
    return replace(
        intent,
        words=intent.words + words,
        weights=intent.weights + tuple(2.0 for _ in words),
        excluded=intent.excluded + said.excluded,
        version=said.version or intent.version,
        order=said.order or intent.order,
        order_place=said.order_place if said.order else intent.order_place,
        author=said.author or _author_said(said.request, [index.cards[n] for n in offered]),
        order_is_soft=said.order_is_soft and named if said.order else intent.order_is_soft,
        period=said.period or intent.period,
        base=said.base or intent.base,
        base_name=said.base_name or intent.base_name,
        foreign=intent.foreign or said.foreign,
    )


def _author_said(answer: str, offered: Sequence[ModelCard]) -> str | None:
    """The word of an answer that names the author of an offered model: "Lena's"."""
    said = [re.sub(r"['\u2019]s?$", "", word) for word in re.findall(r"[\w'\u2019.-]+", answer)]
    authors = [author for card in offered if (author := author_of(card))]
    return next((w for w in said if any(is_called(author, w) for author in authors)), None)


def _as_offered(word: Word, terms: Set[str]) -> Word:
    """ "paint" where an offered model says "repainted"."""
    if word.stem in terms or len(word.stem) < 4:
        return word
    longer = [t for t in sorted(terms) if t.startswith(word.stem) or t.endswith(word.stem)]
    return replace(word, text=longer[0], stem=longer[0]) if longer else word


def _suiting(index: Index, kinds: Sequence[str], families: Set[str]) -> np.ndarray:
    """Numbers of the cards of some kinds that may be for all of some base families."""
    suiting = np.isin(index.kinds, list(kinds))
    for family in families:
        suiting &= index.suiting(family)
    return np.flatnonzero(suiting)


def _as_named(asked: _Asked) -> _Asked | None:
    """A request read as one for a style or pose that it names; None where it names none."""
    intent = as_named(asked.intent, asked.index, asked.found)
    return replace(asked, intent=intent, found=asked.index.search(intent)) if intent else None


def _without(asked: _Asked, other: Group) -> _Asked:
    """A request as if one of the things it names were not named."""
    number = other.best.number
    alone = without_base(asked.intent, asked.index.cards[number])
    alone = without(alone, asked.index.called_words(number))
    others = [entry.number for entry in other.members]
    allowed = np.setdiff1d(asked.allowed, others, assume_unique=True)
    return replace(asked, intent=alone, found=asked.index.search(alone), allowed=allowed)


def _candidates(index: Index, groups: Sequence[Group]) -> tuple[Candidate, ...]:
    """All models, the best of each group before its others, with their chances."""
    scored = [entry for g in groups for entry in g.members]
    raw = np.array([entry.score for entry in scored])
    chances = np.exp(raw - raw.max())
    chances /= chances.sum()
    ranked = sorted(
        zip(scored, chances, strict=True),
        key=lambda pair: (pair[0] is not groups[0].best, -pair[1]),
    )
    return tuple(
        Candidate(index.cards[entry.number], float(chance), entry.evidence)
        for entry, chance in ranked
    )


def _are_same(known: Sequence[ModelCard], cards: Sequence[ModelCard]) -> bool:
    """Also where their facts come from, which tells what a base family is worth."""
    return len(known) == len(cards) and all(
        one is other or (one == other and one.sources == other.sources)
        for one, other in zip(known, cards, strict=True)
    )


def _by_age(card: ModelCard) -> tuple[str, str]:
    """The order in which options are listed, oldest first."""
    return card.created_at or "", card.name


def _other_versions(index: Index, best: Scored, scored: Sequence[Scored]) -> list[Group]:
    """The best one and the others of that thing that have a version."""
    title = index.title_words(best.number)
    others = [
        entry
        for entry in scored
        if entry is not best
        and entry.answers == best.answers
        and title & index.title_words(entry.number)
        and version_numbers(index.cards[entry.number].version)
    ]
    return [Group((entry,)) for entry in (best, *others)][:MAX_OPTIONS]


def _question(
    index: Index, intent: Intent, candidates: tuple[Candidate, ...], meant: Sequence[Group]
) -> Decision:
    known = {candidate.card.id: candidate for candidate in candidates}
    options = [known[index.cards[g.best.number].id] for g in meant]
    options.sort(key=lambda option: _by_age(option.card))
    cards = [option.card for option in options]
    told = differences(cards)
    shown = tuple(replace(o, difference=d) for o, d in zip(options, told, strict=True))
    code = language(intent.request)
    reason, asking = say("several", code), question(cards, told, code)
    if version_missed(intent, candidates[0].card):
        reason = say("no such version", code, str(intent.version))
        asking = f"{reason} {asking}"
    return Decision(
        "ask", intent.request, intent.request, reason, candidates=candidates,
        options=shown, question=asking,
    )  # fmt: skip


def _with_what_is_missing(
    intent: Intent,
    found: Retrieved,
    scored: Sequence[Scored],
    index: Index,
    candidates: Sequence[Candidate],
) -> tuple[Candidate, ...]:
    """The candidates; the difference of each is what of the concept it does not say."""
    answers = {index.cards[entry.number].id: entry.answers for entry in scored}
    concept = {
        found.corrections.get(word.stem, word.stem): word.text
        for word, weight in intent.weighed()
        if weight >= 0.5
    }

    def missing(candidate: Candidate) -> str:
        said = answers[candidate.card.id]
        words = [text for term, text in concept.items() if term not in said]
        return f"says nothing of {', '.join(words)}" if words else ""

    return tuple(replace(candidate, difference=missing(candidate)) for candidate in candidates)


def _nothing(intent: Intent, candidates: tuple[Candidate, ...], reason: str) -> Decision:
    return Decision("none", intent.request, intent.request, reason, candidates=candidates)


def _why_empty(cards: Sequence[ModelCard], base_family: str | None, intent: Intent) -> str:
    if not cards:
        return "There is no LoRA or checkpoint in the model folders yet."
    if base_family and intent.base and base_family != intent.base:
        return f"The request asks for {intent.base_name}, but the connected model is {base_family}."
    return f"None of the {len(cards)} models is for {intent.base_name or base_family}."


def _text_key(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
