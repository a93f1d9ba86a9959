"""Which cards are worth weighing: the nearest, and the near ones of the version or time asked for.

Fifty versions of one thing are equally near to "my bear from March 2024". Words and meaning alone
would leave the right one out by chance, so among the near cards those that a request's version,
period or order picks out join the nearest, and the newest where it says nothing of time; and so do
those whose trigger or name stands in the request.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from ..language.thesaurus import is_coined
from ..language.words import fold
from ..library.card import ModelCard
from .intent import Intent
from .rerank import MAX_TRIGGERS, moment_of, version_numbers
from .retrieve import Index, Retrieved

TOP_K = 24
_TRIGGER_WORDS = 5
_PUNCTUATION = str.maketrans(dict.fromkeys(",;.:!?()[]<>\"_\\", " "))
_NUMBERED = re.compile(r"[_-].*\d|\d.*[_-]")
_MAY_BE_A_FILE = re.compile(r"[_<]|\w-\w|\.\w")
_ENDING = r"(?:\.(?:safetensors|sft|ckpt|pt)\b|(?=:[\d.]+(?::[\d.]+)?>))"
_MORE = 8
"""So many join for each thing asked."""
_NEAR = 0.6
"""Of the nearest card's score: cards of the same thing."""


def shortlist(
    intent: Intent, index: Index, found: Retrieved, allowed: Sequence[int] | np.ndarray
) -> list[int]:
    """Numbers of at most TOP_K + 4 * 8 of the allowed cards, the nearest first."""
    numbers = np.asarray(allowed, int)
    editions = _editions(index)
    called = those_of(editions.called_by(intent.request), numbers)
    named = those_of(index.called({w.stem for w in intent.words if is_coined(w)}), numbers)
    called = np.union1d(called, named)
    picked = [nearest(found, numbers, TOP_K), nearest(found, called, _MORE)]
    alike = near(found, numbers)
    dates = editions.dates[alike]
    if intent.version:
        picked.append(nearest(found, of_version(intent.version, index, alike), _MORE))
    if intent.period:
        start, end = (moment.timestamp() for moment in intent.period)
        picked.append(nearest(found, alike[(dates >= start) & (dates < end)], _MORE))
    picked.append(_extremes(alike, dates, newest=intent.order != "oldest"))
    return nearest(found, np.unique(np.concatenate(picked)), None).tolist()


def those_of(some: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Those of a few numbers that are among others, each once.

    `np.intersect1d` would first seek doubles in what may be the whole library.
    """
    return np.unique(some[np.isin(some, numbers)])


def near(found: Retrieved, numbers: np.ndarray) -> np.ndarray:
    """Those of some cards that are about the same thing as the nearest."""
    scores = found.fused[numbers]
    return numbers[scores >= _NEAR * scores.max(initial=-np.inf)]


def of_version(version: str, index: Index, numbers: np.ndarray) -> np.ndarray:
    """Those of some cards that have a version, as a request says it."""
    editions = _editions(index)
    return numbers[editions.versions[numbers] == editions.version_id(version)]


def _extremes(numbers: np.ndarray, dates: np.ndarray, newest: bool) -> np.ndarray:
    """The _MORE newest or oldest of some cards; undated ones are neither."""
    ages = np.where(np.isnan(dates), np.inf, -dates if newest else dates)
    if len(numbers) > _MORE:
        best = np.argpartition(ages, _MORE)[:_MORE]
        numbers, ages = numbers[best], ages[best]
    return numbers[np.isfinite(ages)]


class _Editions:
    """Versions, dates and triggers of a library, ready to look up: a query loops over no cards."""

    def __init__(self, index: Index) -> None:
        self._ids: dict[tuple[int, ...], int] = {}
        numbers = [version_numbers(card.version) for card in index.cards]
        self.versions = np.array(
            [self._ids.setdefault(n, len(self._ids)) if n else -1 for n in numbers], int
        )
        """(cards,) an id for each version; -1 where a card has none."""
        self.dates = np.array([_seconds(card.created_at) for card in index.cards], float)
        """(cards,) seconds since 1970; NaN where a card has no date."""

        self._called: defaultdict[str, list[int]] = defaultdict(list)
        for number, card in enumerate(index.cards):
            for trigger in card.triggers[:MAX_TRIGGERS]:
                self._called[_plain(trigger)].append(number)

        self._files = [_file_of(card) for card in index.cards]

    def named_by_file(self, request: str) -> np.ndarray:
        """Numbers of the cards whose file a request names: as a file, or by a name with a number
        that calls nothing else."""
        if not _MAY_BE_A_FILE.search(request):
            return np.array([], int)
        text = fold(request)
        near = (n for n, file in enumerate(self._files) if file and file in text)
        return np.array([n for n in near if self._is_file(text, self._files[n])], int)

    def _is_file(self, text: str, file: str) -> bool:
        telling = _NUMBERED.search(file) and _plain(file) not in self._called
        ends = rf"(?:{_ENDING}|(?![\w.-]))" if telling else _ENDING
        return bool(re.search(rf"(?<![\w.-]){re.escape(file)}{ends}", text))

    def called_by(self, request: str) -> np.ndarray:
        """Numbers of the cards one of whose triggers stands in a request."""
        words = _plain(request).split()
        spans = (
            " ".join(words[start : start + length])
            for length in range(1, _TRIGGER_WORDS + 1)
            for start in range(len(words) - length + 1)
        )
        return np.array([n for span in spans for n in self._called.get(span, ())], int)

    def version_id(self, version: str) -> int:
        """The id of a version as a request says it; -2 where no card has it."""
        return self._ids.get(version_numbers(version) or (), -2)


def _file_of(card: ModelCard) -> str:
    return fold(card.name.rsplit("/", 1)[-1].rsplit(".", 1)[0])


def named_by_file(request: str, index: Index) -> np.ndarray:
    """Numbers of the cards whose file a request names: "bear_v7", "<lora:bear:1>"."""
    return _editions(index).named_by_file(request)


def called_by(intent: Intent, index: Index) -> np.ndarray:
    """Numbers of the cards one of whose triggers stands in a request."""
    return _editions(index).called_by(intent.request)


_EDITIONS: WeakKeyDictionary[Index, _Editions] = WeakKeyDictionary()


def _editions(index: Index) -> _Editions:
    return _EDITIONS.get(index) or _EDITIONS.setdefault(index, _Editions(index))


def _plain(text: str) -> str:
    """Words in lower case without the punctuation around them."""
    return " ".join(fold(text).translate(_PUNCTUATION).split())


def _seconds(date: str | None) -> float:
    return moment_of(date).timestamp() if date else float("nan")


def nearest(found: Retrieved, numbers: np.ndarray, count: int | None) -> np.ndarray:
    """The `count` nearest of some cards, the nearest first."""
    scores = found.fused[numbers]
    if count is not None and len(numbers) > count:
        best = np.argpartition(-scores, count)[:count]
        numbers, scores = numbers[best], scores[best]
    return numbers[np.lexsort((numbers, -scores))].astype(int)
