"""Cards of the same concept, found by what they say rather than by who posted them together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from .card import ModelCard
from .ordinary import is_setting
from .triggers import made_up

_COMMON_SHARE = 0.05


def concept_groups(cards: Sequence[ModelCard]) -> list[list[ModelCard]]:
    """Cards grouped by concept, in the order of their first card; a group may have one card.

    Two cards belong together where their titles, their file names, or the made-up words of their
    canonical triggers agree once versions, bases and training settings are left out. A key that
    many cards share ("style") says nothing and joins none.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for number, card in enumerate(cards):
        for key in _keys(card):
            members[key].append(number)
    parent = list(range(len(cards)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    most = max(60, _COMMON_SHARE * len(cards))
    for numbers in members.values():
        if len(numbers) <= most:
            for other in numbers[1:]:
                low, high = sorted((root(numbers[0]), root(other)))
                parent[high] = low
    groups: dict[int, list[ModelCard]] = defaultdict(list)
    for number, card in enumerate(cards):
        groups[root(number)].append(card)
    return list(groups.values())


def _keys(card: ModelCard) -> set[str]:
    stem = card.name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    keys = {_plain(card.title), _plain(stem)}
    word = card.triggers[0].lower().split()[0] if card.triggers else ""
    if made_up(word) and not word.startswith(("embedding:", "<")):
        # "tdybr4" and "tdybr3" are versions of one token.
        keys.add("trigger " + re.sub(r"(?<=[a-z]{3})\d{1,2}$|(?<=[a-z0-9]{3})(?:xl|fx)$", "", word))
    return {key for key in keys if len(key) >= 3}


def _plain(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=V\d)", " ", name)
    words = re.findall(r"[^\W_]+", spaced.lower())
    return " ".join(word for word in words if not is_setting(word))
