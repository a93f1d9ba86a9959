"""Words that rule one another out: colours, materials, media, seasons, ages.

Who asks for a red one does not mean the blue one. Each group holds kinds; a kind has words for the
whole of it ("wood", "drawing") before the slash and words for a part of it ("oak", "pencil")
after it. A whole agrees with its parts; two parts of one kind rule each other out.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from ..language.words import stem

_GROUPS = {
    "colour": (
        "red / crimson scarlet burgundy maroon", "orange / amber apricot", "yellow / gold mustard",
        "green / olive emerald mint celadon lime jade", "blue / navy azure cobalt sky indigo",
        "teal turquoise cyan", "purple violet lilac lavender", "pink / magenta salmon rose",
        "brown / tan chestnut chocolate", "beige cream sand ivory", "black", "white",
        "gray silver",
    ),
    "material": (
        "wood timber / oak walnut pine maple ebony birch cherry bamboo",
        "metal / steel chrome brass copper bronze iron aluminium gold silver",
        "stone / marble granite slate", "glass crystal", "plastic", "leather / suede",
        "paper cardboard", "ceramic porcelain", "canvas linen cotton denim",
        "velvet", "silk", "wool", "felt", "clay", "wax",
    ),
    "medium": (
        "photo photorealistic realistic photography",
        "drawing redrawn illustration illustrated sketch 2d / watercolor pencil pastel cartoon "
        "comic anime manga chibi vector pixel linocut charcoal ink gouache crayon acrylic etching "
        "woodcut engraving doodle storybook stencil marker",
        "3d render cgi / clay voxel",
    ),
    "season": ("spring", "summer", "autumn fall", "winter"),
    "age": ("puppy kitten baby young child", "adult", "elderly old senior veteran"),
    "daytime": ("day", "night"),
}  # fmt: skip

_MOST_KINDS = 3
_MADE_AS = frozenset(map(stem, ("plush", "felt", "toy", "puppet", "figurine", "sticker", "icon")))


@dataclass(frozen=True, slots=True)
class _Value:
    group: str
    kind: int
    word: str
    whole: bool

    def agrees(self, other: _Value) -> bool:
        same = self.kind == other.kind
        return same and (self.whole or other.whole or self.word == other.word)


def _read_groups() -> dict[str, list[_Value]]:
    values: dict[str, list[_Value]] = {}
    for group, kinds in _GROUPS.items():
        for number, kind in enumerate(kinds):
            wholes, _, parts = kind.partition("/")
            for words, whole in ((wholes, True), (parts, False)):
                for word in words.split():
                    value = _Value(group, number, stem(word), whole)
                    values.setdefault(stem(word), []).append(value)
    return values


_VALUES = _read_groups()


_AGES = {"old", "new"}


def tells_what_kind(term: str) -> bool:
    """Whether a stem is an attribute, such as a colour or an age."""
    return term in _VALUES or term in _AGES


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the attributes that were asked for and those of a card go together."""

    agreeing: float
    """Share of the groups asked for in which a value agrees, 0 to 1."""
    conflicting: float
    """Share of the groups asked for in which the card says only other values, 0 to 1."""
    conflicts: tuple[tuple[str, str], ...]
    """(stem the card says, stem asked for) of each conflict."""


def agreement(asked: Set[str], own: Set[str]) -> Agreement:
    """Compare the stems asked for with the stems a card says."""
    wanted = _by_group(asked)
    has = _by_group(own)
    agreeing, conflicts = 0, []
    for group, values in wanted.items():
        others = has.get(group, [])
        if any(one.agrees(other) for one in values for other in others):
            agreeing += 1
        elif others:
            conflicts.append((others[0].word, values[0].word))
    total = len(wanted) or 1
    return Agreement(agreeing / total, len(conflicts) / total, tuple(conflicts))


def opposed(one: Set[str], other: Set[str]) -> bool:
    """Whether two cards say different values of some attribute."""
    first, second = _by_group(one), _by_group(other)
    return any(
        not any(a.agrees(b) for a in first[group] for b in second[group])
        for group in first.keys() & second.keys()
    )


def indiscriminate(stems: Set[str]) -> set[str]:
    """Values that say nothing, because a card lists so many of the kind: "red blue green white"."""
    return {
        value.word
        for values in _by_group(stems).values()
        if len({value.kind for value in values}) > _MOST_KINDS
        for value in values
    }


def is_manner(term: str) -> bool:
    """Whether a stem says how something is pictured or made: "pencil", "3d", "plush"."""
    return term in _MADE_AS or is_medium(term)


def is_medium(term: str) -> bool:
    """Whether a stem says how something is pictured: "pencil", "3d"."""
    return any(value.group == "medium" for value in _VALUES.get(term, ()))


def same_manner(one: str, other: str) -> bool:
    """Whether two stems of manner go together."""
    return one == other or any(
        a.agrees(b)
        for a in _VALUES.get(one, ())
        for b in _VALUES.get(other, ())
        if a.group == b.group == "medium"
    )


def _by_group(stems: Set[str]) -> dict[str, list[_Value]]:
    found: dict[str, list[_Value]] = {}
    for term in sorted(stems & _VALUES.keys()):
        for value in _VALUES[term]:
            found.setdefault(value.group, []).append(value)
    return found
