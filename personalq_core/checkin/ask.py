"""When several models stay plausible: one short question about what tells them apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..language.thesaurus import thesaurus
from ..language.words import FUNCTION_WORDS, stem, terms
from ..library.card import ModelCard
from .say import say

MAX_OPTIONS = 5
_DULL = {"lora", "model", "version", "style", "my", "our", "trained"}
_ARTICLES = {"a", "an", "the"}
_BASE_NAMES = {
    "sd15": "SD 1.5", "sd20": "SD 2", "sdxl": "SDXL", "flux": "Flux", "sd3": "SD 3",
    "qwen-image": "Qwen-Image", "wan": "Wan",
}  # fmt: skip


def differences(cards: Sequence[ModelCard]) -> list[str]:
    """For each card, what tells it from the others: "blue scarf, v4, 2025-06". Never a coined
    trigger; its title, where nothing else is found."""
    triggers = " ".join(trigger for card in cards for trigger in card.triggers)
    coined = [word for word in re.findall(r"\w+", triggers) if thesaurus().lemma(word) is None]
    called = set(terms(" ".join(coined)))
    texts = [[word for word in _own_words(card) if stem(word) not in called] for card in cards]
    counts = Counter(word for text in texts for word in {stem(w) for w in text})
    many_versions = len({card.version for card in cards}) > 1
    many_bases = len({card.base_family for card in cards}) > 1
    many_dates = len({(card.created_at or "")[:7] for card in cards}) > 1
    found = []
    for card, text in zip(cards, texts, strict=True):
        parts = _phrases(text, counts, len(cards))[:2]
        if many_versions and card.version:
            parts.append(card.version)
        if many_bases and card.base_family:
            parts.append(_BASE_NAMES.get(card.base_family, card.base_family))
        if many_dates and card.created_at and len(parts) < 3:
            parts.append(card.created_at[:7])
        found.append(", ".join(dict.fromkeys(parts)) or card.title)
    return found


def question(cards: Sequence[ModelCard], options: Sequence[str], language: str = "en") -> str:
    """One question in plain words about the field that differs most."""
    if len({card.version for card in cards}) == len(cards) and all(c.version for c in cards):
        what = "which version"
    elif len({card.base_family for card in cards}) == len(cards):
        what = "which base"
    else:
        what = "which one"
    asked = say(what, language)
    named = [option for option in options if option]
    return f"{asked}: {'; '.join(named)}?" if len(named) >= 2 else f"{asked}?"


def _own_words(card: ModelCard) -> list[str]:
    text = f"{card.title}. {card.description[:200]}. {', '.join(card.tags[:6])}"
    return [w for w in re.findall(r"\w+|[.,;:!?]", text)]


def _phrases(text: list[str], counts: Counter[str], size: int) -> list[str]:
    """Runs of up to three words that not all of the cards say."""
    phrases, run = [], []
    for word in [*text, "."]:
        plain = stem(word)
        if plain in _ARTICLES:
            continue
        telling = (
            word[0].isalnum() and counts[plain] <= size / 2 and plain not in FUNCTION_WORDS
            and plain not in _DULL and not re.fullmatch(r"v?\d+", plain)
        )  # fmt: skip
        if telling and len(run) < 3:
            run.append(word.lower())
        elif run:
            phrases.append(" ".join(run))
            run = []
    distinct: list[str] = []
    for phrase in phrases:
        if not any({*map(stem, phrase.split())} & {*map(stem, o.split())} for o in distinct):
            distinct.append(phrase)
    return distinct
