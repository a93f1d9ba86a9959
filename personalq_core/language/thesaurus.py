"""Other words for the same thing: "sausage dog" is a dachshund, "knapsack" a backpack.

From WordNet 3.0's nouns and adjectives (tables/LICENSE); `tools/word_tables.py` makes the table.
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from functools import cache, lru_cache
from pathlib import Path

from .words import Word, stem

_SAME = 0.9
_NARROWER = (0.8, 0.7, 0.6)
"""Who says "dog" may mean a dachshund, or a kind of it."""
_WIDER = (0.55, 0.35)
"""Who says "husky" less likely means what is only called a dog."""
_ALIKE = 0.7
"""Adjectives of like meaning, and words made of one another: "stormy", "storm"."""
_BY_SENSE = (1.0, 0.9, 0.75, 0.5, 0.4)
"""A word's commonest sense counts most; later ones than these do not count."""
_COMMON = 2
"""So many senses of a word are common ones."""
_CALLED = {"living thing", "imaginary being", "spiritual being", "vehicle", "toy", "robot"}
_CLOTHING = {"clothing", "footwear"}
_TOO_WIDE = 60
"""A word for so many kinds of things ("animal") says nothing about one of them."""
_MOST = 800
_ENDINGS = (("ies", "y"), ("ves", "f"), ("men", "man"), ("es", ""), ("s", ""))


class Thesaurus:
    """Synsets by number: their lemmas, what is wider, narrower and alike."""

    def __init__(self, lines: list[str]) -> None:
        self._lemmas: list[list[str]] = []
        self._wider: list[list[int]] = []
        self._alike: list[list[int]] = []
        self._narrower: defaultdict[int, list[int]] = defaultdict(list)
        self._senses: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        self._joined: dict[str, str] = {}
        for number, line in enumerate(lines):
            words, wider, alike = line.split("\t")
            self._lemmas.append([])
            self._wider.append([int(n) for n in wider.split()])
            self._alike.append([int(n) for n in alike.split()])
            for entry in words.split():
                lemma, _, rank = entry.partition(":")
                lemma = lemma.replace("_", " ")
                self._lemmas[number].append(lemma)
                self._senses[lemma].append((int(rank or 1), number))
                if " " in lemma:
                    self._joined.setdefault(lemma.replace(" ", ""), lemma)
            for other in self._wider[number]:
                self._narrower[other].append(number)

    def lemma(self, word: str) -> str | None:
        """A word, or two with or without a space, as the table has it; None where it does not."""
        word = word.lower().replace("-", " ")
        forms = (word, *(word.removesuffix(e) + r for e, r in _ENDINGS if word.endswith(e)))
        known = (form if form in self._senses else self._joined.get(form) for form in forms)
        return next(filter(None, known), None)

    def knows(self, word: str) -> bool:
        """Whether it is a word of the language, or a form of a verb: "chipped"."""
        forms = (stem(word), stem(word) + "e") if word.endswith(("ed", "ing")) else ()
        return any(self.lemma(form) for form in (word, *forms))

    def is_noun(self, word: str) -> bool:
        """Whether a word may name a thing; a word that the table has not is a name."""
        lemma = self.lemma(word)
        return lemma is None or any(self._wider[number] for _, number in self._senses[lemma])

    def is_adjective(self, word: str) -> bool:
        """Whether a word may tell how a thing is: "tall", "silver"."""
        lemma = self.lemma(word)
        return lemma is not None and not all(self._wider[n] for _, n in self._senses[lemma])

    def is_change(self, word: str) -> bool:
        """Whether a noun commonly names what makes a thing another: "renovation", but no "walk"."""
        return any("change" in kinds and "motion" not in kinds for kinds in self._common(word))

    def may_be_called(self, word: str) -> bool:
        """Whether a word may name what people call by a name: "dog", "boat", but no "vase"."""
        return self.lemma(word) is None or any(_CALLED & kinds for kinds in self._common(word))

    def is_clothing(self, word: str) -> bool:
        """Whether a noun commonly names what is worn: "raincoat"."""
        return any(_CLOTHING & kinds for kinds in self._common(word))

    def _common(self, word: str) -> list[set[str]]:
        """For each common sense of a word, the lemmas of all that is wider."""
        lemma = self.lemma(word)
        senses = sorted(self._senses[lemma])[:_COMMON] if lemma else ()
        return [self._kinds(start) for _, start in senses]

    def _kinds(self, start: int) -> set[str]:
        """Lemmas of all that is wider than one sense of a word."""
        found: set[int] = set()
        level = [start]
        while level := [n for one in level for n in self._wider[one] if n not in found]:
            found.update(level)
        return {lemma for number in found for lemma in self._lemmas[number]}

    @lru_cache(maxsize=20_000)  # noqa: B019 (one object for the whole process)
    def related(self, word: str) -> dict[str, float]:
        """Stem of another word -> how likely it says the same, 0 to 1; {} for unknown words."""
        lemma = self.lemma(word)
        if lemma is None:
            return {}
        found: dict[str, float] = {}
        for rank, start in sorted(self._senses[lemma])[:12]:
            share = _BY_SENSE[rank - 1] if rank <= len(_BY_SENSE) else 0.0
            for number, weight in self._around(start).items():
                for other in self._lemmas[number]:
                    if " " not in other and other != lemma:
                        term = stem(other)
                        found[term] = max(found.get(term, 0.0), share * weight)
        found.pop(stem(word), None)
        return {term: weight for term, weight in found.items() if weight > 0.2}

    def siblings(self, word: str) -> list[str]:
        """Other things of the same kind, by the commonest sense: "violin" has "cello"."""
        lemma = self.lemma(word)
        if lemma is None:
            return []
        start = min(self._senses[lemma])[1]
        others = [
            number
            for wider in self._wider[start]
            if len(self._narrower[wider]) <= _TOO_WIDE
            for number in self._narrower[wider]
            if number != start
        ]
        return [other for n in others for other in self._lemmas[n] if " " not in other]

    def _around(self, start: int) -> dict[int, float]:
        """Synset -> weight of all that one sense of a word may stand for."""
        found = {start: _SAME}
        for other in self._alike[start]:
            found[other] = _ALIKE
        level = [start]
        for weight in _NARROWER:
            level = [other for number in level for other in self._narrower.get(number, ())]
            if len(found) + len(level) > _MOST:
                break
            found = dict.fromkeys(level, weight) | found
        level = [start]
        for weight in _WIDER:
            level = [
                other
                for number in level
                for other in self._wider[number]
                if len(self._narrower.get(other, ())) <= _TOO_WIDE
            ]
            found = dict.fromkeys(level, weight) | found
        return found


@cache
def thesaurus() -> Thesaurus:
    """The table, read once, at the first request."""
    packed = Path(__file__).with_name("tables").joinpath("thesaurus.tsv.gz").read_bytes()
    return Thesaurus(gzip.decompress(packed).decode().splitlines())


def is_coined(word: Word) -> bool:
    """Whether a word is none of the language: a name."""
    return word.text.isalpha() and len(word.text) > 2 and not thesaurus().knows(word.text)
