"""Which cards may be meant: words (BM25), misspelled words (character trigrams) and meaning.

The index is built once per library. A query touches the postings of its own words and makes one
matrix product; nothing else grows with the library.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ..language.thesaurus import thesaurus
from ..language.words import FUNCTION_WORDS, Word, cjk_runs, is_cjk, stem, terms
from ..library.card import ModelCard
from ..models.embed import Embedder
from .attributes import indiscriminate
from .intent import Intent, denied_spans

_K1, _B = 1.2, 0.5
_FIELD_WEIGHTS = {"title": 3.0, "triggers": 3.0, "tags": 1.5, "file": 1.0, "description": 1.0}
_MAX_DESCRIPTION = 1000
_MAX_TRIGGERS = 8
_MIN_SIMILARITY = 0.7
_BASE = r"xl|sdxl|pdxl|sd|sd15|sd\d|flux|pony|illustriou?s?|noob|noobai|qwen"
_EDITION = re.compile(rf"v\d+|mk\d*|lora|model|styl|version|checkpoint|{_BASE}")
_FUZZY_WEIGHT = 0.85
_BESIDE = 0.6
"""What other words for a word that the library holds itself count beside it."""
_KEPT_QUERIES = 64
_TELLING, _LONGEST_NAME = 3, 24
"""Characters of a Chinese or Japanese name: a part of so many is one, more are not looked at."""
_SPARSE_SHARE = 0.55
"""Of the convex sum of words and meaning."""

# A spread of ordinary captions: how near meaning comes by chance, for any model and library size.
_BACKGROUND = (
    "A castle on a hill. castle, fantasy", "Portrait photo of a woman. portrait, photo",
    "Watercolor style. style, painting", "A red sports car. car, vehicle",
    "Anime girl with long hair. anime, character", "Wooden furniture. chair, product",
    "Cyberpunk city at night. city, neon", "My cat. pet, photo", "Detail tweaker. tool, quality",
    "A bowl of noodles. food", "Pixel art sprites. game, pixel", "Mountain landscape. nature",
    "Superhero costume. clothing", "Oil painting of flowers. flowers, art", "Robot mecha. scifi",
    "Handwritten font. text, typography", "Old house. building, interior", "Baby elephant. animal",
    "Logo design. vector, logo", "Black and white film. photography, film",
)  # fmt: skip


def card_text(card: ModelCard) -> str:
    """What a card says, for models that read."""
    parts = (card.title, ", ".join(card.triggers[:3]), ", ".join(card.tags[:8]), card.description)
    return ". ".join(part for part in parts if part)[:500]


@lru_cache(maxsize=65_536)
def is_edition(term: str) -> bool:
    """Whether a stem names a model's version, base or kind, not its concept."""
    return bool(_EDITION.fullmatch(term))


@lru_cache(maxsize=200_000)
def _trigrams(word: str) -> frozenset[str]:
    padded = f"#{word}#"
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2)) | {padded[:2], padded[-2:]}


def skeleton(name: str) -> str:
    """The consonants of a name that survive Japanese spelling: "tilda", "chiruda" -> "tld"."""
    for spelled, sound in (("ch", "t"), ("ts", "t"), ("sh", "s"), ("ph", "h"), ("th", "s")):
        name = name.replace(spelled, sound)
    name = name.translate(str.maketrans("rvfcqj", "lbhkkz"))
    return re.sub(r"[^a-z]|[aeiou]|(.)(?=\1)", "", name)


def similarity(one: str, other: str) -> float:
    """Likeness of two spellings, 0 to 1: best of shared trigrams and edit distance.

    The distance is Damerau's restricted one: a swap of neighbours counts as one edit.
    """
    longest = max(len(one), len(other))
    if abs(len(one) - len(other)) > 2 or longest < 4:
        return float(one == other)
    return 1 - _distance(one, other) / longest


def _distance(one: str, other: str) -> int:
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


@dataclass(slots=True)
class Retrieved:
    """Scores of all cards for one request; each array is (cards,)."""

    sparse: np.ndarray
    """Share of the request's (weighted) word mass that the card answers, about 0 to 1."""
    bm25: np.ndarray
    """The plain sum the share was made from."""
    dense: np.ndarray | None
    """Nearness of meaning: 0 is chance, 1 is as near as a text to itself, roughly."""
    fused: np.ndarray
    corrections: dict[str, str] = field(default_factory=dict)
    """Misspelled stem -> the library's stem it was read as."""


def corrected(text: str, corrections: Mapping[str, str]) -> str:
    """A text with its misspelled words as the library spells them."""
    for wrong, right in corrections.items():
        text = re.sub(rf"\b{re.escape(wrong)}", right, text, flags=re.I)
    return text


class Index:
    """A library, ready to be asked."""

    def __init__(
        self, cards: Sequence[ModelCard], embedder: Embedder | None, vectors: np.ndarray | None
    ) -> None:
        self.cards = tuple(cards)
        self.number_of = {card.id: number for number, card in enumerate(self.cards)}
        self.embedder = embedder
        self.vectors = vectors
        self.kinds = np.array([card.kind for card in self.cards])
        self.families = np.array([card.base_family or "" for card in self.cards])
        self.fields = [_fields(card) for card in self.cards]
        self.bases = [
            frozenset(t for t in f["title"] + f["tags"] if re.fullmatch(_BASE, t))
            for f in self.fields
        ]
        """Names of bases, fine-tunes such as Pony among them, that each card says."""
        self._suiting: dict[str, np.ndarray] = {}
        self._own = [frozenset().union(*fields.values()) for fields in self.fields]
        self._build_postings()
        self._grams: defaultdict[str, list[str]] = defaultdict(list)
        for term in self._postings:
            if not is_cjk(term):
                for gram in _trigrams(term):
                    self._grams[gram].append(term)
        self._skeletons: defaultdict[str, set[str]] = defaultdict(set)
        for fields in self.fields:
            for term in fields["title"]:
                if term.isascii() and not (embedder and embedder.knows(term)):
                    self._skeletons[skeleton(term)].add(term)
        self._written = frozenset(name for card in cards for name in _written_names(card))
        self._queries: dict[tuple[str, str], np.ndarray] = {}
        self._last_read: tuple[Intent | None, tuple[dict[str, float], ...]] = None, ()
        self._background = (
            embedder.embed(_BACKGROUND) if embedder is not None and vectors is not None else None
        )

    def _build_postings(self) -> None:
        postings: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        lengths = np.array([sum(map(len, field.values())) for field in self.fields] or [1], float)
        mean = lengths.mean() or 1.0
        for number, card_fields in enumerate(self.fields):
            counts: defaultdict[str, float] = defaultdict(float)
            for name, found in card_fields.items():
                for term in found:
                    counts[term] += _FIELD_WEIGHTS[name]
            norm = _K1 * (1 - _B + _B * lengths[number] / mean)
            for term, count in counts.items():
                postings[term].append((number, count * (_K1 + 1) / (count + norm)))
        called: defaultdict[str, list[int]] = defaultdict(list)
        for number in range(len(self.fields)):
            for term in self.called_words(number):
                called[term].append(number)
        self._called = {term: np.array(numbers) for term, numbers in called.items()}
        self._postings = {
            term: (np.array([n for n, _ in found]), np.array([s for _, s in found], np.float32))
            for term, found in postings.items()
        }

    def suiting(self, family: str) -> np.ndarray:
        """(cards,) which may be for a base family."""
        if family not in self._suiting:
            self._suiting[family] = np.array([card.suits(family) for card in self.cards], bool)
        return self._suiting[family]

    def words_of(self, number: int) -> Set[str]:
        """All stems that a card says."""
        return self._own[number]

    def title_words(self, number: int) -> Set[str]:
        """The stems of a title that name its concept: no version and no base."""
        return {term for term in self.fields[number]["title"] if not is_edition(term)}

    def called_words(self, number: int) -> Set[str]:
        """The stems by which a card is called: those of its title and its triggers."""
        return self.title_words(number) | set(self.fields[number]["triggers"])

    def called(self, terms: Set[str]) -> np.ndarray:
        """Numbers of the cards that are called by one of some terms."""
        lists = [self._called[term] for term in sorted(terms) if term in self._called]
        return np.unique(np.concatenate(lists)) if lists else np.array([], int)

    def names_written(self, text: str) -> list[tuple[int, int]]:
        """Where a text has a Chinese or Japanese name, or a part of one, as a card writes it."""
        spans = []
        longest = max(map(len, self._written), default=0)
        for place, end in cjk_runs(text):
            while place < end:
                sizes = range(min(longest, end - place), 1, -1)
                size = next((n for n in sizes if text[place : place + n] in self._written), 0)
                if size:
                    spans.append((place, place + size))
                place += size or 1
        return spans

    def things(self, word: str) -> int:
        """How many cards with triggers of their own say a word: versions of a thing count once."""
        found = self._postings.get(stem(word))
        return 0 if found is None else len({self.cards[n].triggers for n in found[0]})

    def is_label(self, term: str) -> bool:
        """Whether a card's title, triggers or tags say a word."""
        found = self._postings.get(term)
        said = (self.fields[n] for n in found[0]) if found else ()
        return any(term in f["title"] + f["triggers"] + f["tags"] for f in said)

    def idf(self, term: str) -> float:
        """How telling a word is in this library; a word it does not hold is the most telling."""
        count = len(self._postings[term][0]) if term in self._postings else 0
        return math.log(1 + (len(self.cards) - count + 0.5) / (count + 0.5))

    def mass(self, terms: Set[str]) -> float:
        """The sum of `idf` over some words, the same to the last bit in whatever order."""
        return math.fsum(map(self.idf, terms))

    def read(self, intent: Intent) -> tuple[dict[str, float], ...]:
        """For each word of a request the library's terms it may stand for, with weights up to 1:
        itself or its right spelling, and other words for the same thing."""
        last = self._last_read  # one look: the panel's searches run beside the node's
        if last[0] is not intent:
            self._last_read = last = intent, tuple(self._read(intent))
        return last[1]

    def _read(self, intent: Intent) -> list[dict[str, float]]:
        found = []
        for word in intent.words:
            spelled = self.spellings(word.text, by_sound=intent.foreign)
            share = _BESIDE if spelled else 1.0
            if spelled and word.stem not in spelled:
                found.append(spelled)  # misspelled: what else it may mean, nobody knows
            else:
                found.append(self._others(word.text, share) | self._also(word) | spelled)
        for place, (one, two) in enumerate(zip(intent.words, intent.words[1:], strict=False)):
            if not _side_by_side(intent.request, one, two):
                continue
            for term, weight in self._others(f"{one.text} {two.text}", 1.0).items():
                for number in (place, place + 1):
                    found[number][term] = max(found[number].get(term, 0.0), weight)
        return found

    def _also(self, word: Word) -> dict[str, float]:
        """What a word of another language may mean as well."""
        found: dict[str, float] = {}
        for other in word.also:
            found |= self._others(other, _BESIDE)
            if (term := stem(other)) in self._postings:
                found[term] = _FUZZY_WEIGHT
        return found

    def _others(self, word: str, share: float) -> dict[str, float]:
        """Other words for a word that the library holds."""
        related = thesaurus().related(word)
        return {term: share * w for term, w in related.items() if term in self._postings}

    def spellings(self, word: str, by_sound: bool = False) -> dict[str, float]:
        """A request's word -> itself, or what it may be misspelled from, as the library has it.

        `by_sound`: or a name that Japanese may write so.
        """
        if is_cjk(word):
            pairs = [word[i : i + 2] for i in range(max(1, len(word) - 1))]
            return {pair: 1.0 for pair in pairs if pair in self._postings}
        term = stem(word)
        if term in self._postings:
            return {term: 1.0}
        if len(term) < 3 or self.is_plain_word(re.sub(r"['\u2019]s$", "", word)):
            return {}
        if len(term) == 3:
            swapped = {term[1] + term[0] + term[2], term[0] + term[2] + term[1]}
            meant = sorted(swapped & self._postings.keys()) if term.isalpha() else ()
            return dict.fromkeys(meant, _FUZZY_WEIGHT * _MIN_SIMILARITY)
        shared: Counter[str] = Counter()
        for gram in sorted(_trigrams(term)):  # ties in the same order each time
            shared.update(self._grams.get(gram, ()))
        silent = term.removesuffix("e")
        near = [
            (max(similarity(term, other), similarity(silent, other)), other)
            for other, count in shared.most_common(60)
            if count >= 2
        ]
        best = max(near, default=(0.0, ""))
        if best[0] < _MIN_SIMILARITY:
            bones = skeleton(term) if by_sound else ""
            heard = self._skeletons.get(bones, ()) if len(bones) > 2 else ()
            return dict.fromkeys(sorted(heard), _FUZZY_WEIGHT * _MIN_SIMILARITY)
        return {other: _FUZZY_WEIGHT * s**0.5 for s, other in near if s >= best[0] - 1e-9}

    def is_plain_word(self, word: str) -> bool:
        """Whether it is a word of the language: no misspelling, no coined name."""
        known = stem(word) in FUNCTION_WORDS or thesaurus().knows(word)
        return known or (self.embedder is not None and self.embedder.knows(word))

    def search(self, intent: Intent) -> Retrieved:
        """Score every card."""
        size = len(self.cards)
        bm25 = np.zeros(size, np.float32)
        mass = 0.0
        corrections = {}
        readings = self.read(intent)
        for word, weight, found in zip(intent.words, intent.weights, readings, strict=True):
            if intent.order_is_soft and word.stem in ("old", "new") and not found:
                continue  # it tells how old the model is
            spelled = self.spellings(word.text, by_sound=intent.foreign)
            mass += weight * self.idf(next(iter(spelled), word.stem))
            if spelled and word.stem not in spelled and not is_cjk(word.text):
                corrections[word.stem] = next(iter(spelled))
            hit = np.zeros(size, np.float32)
            for term, strength in found.items():
                numbers, scores = self._postings[term]
                hit[numbers] = np.maximum(hit[numbers], scores * strength * self.idf(term))
            bm25 += weight * hit
        sparse = bm25 / (mass * (_K1 + 1)) if mass else bm25
        dense = self._dense(intent, corrections)
        fused = sparse if dense is None else _SPARSE_SHARE * sparse + (1 - _SPARSE_SHARE) * dense
        return Retrieved(sparse, bm25, dense, fused, corrections)

    def _query(self, concept: str, plain: str) -> np.ndarray:
        """(2, dim) of a request's concept and its whole; kept, for who turns a page asks again."""
        known = self._queries.get((concept, plain))
        if known is None:
            assert self.embedder is not None
            known = self.embedder.embed(list(dict.fromkeys((concept, plain))))[[0, -1]]
            if len(self._queries) >= _KEPT_QUERIES:
                self._queries = {}
            self._queries[concept, plain] = known
        return known

    def _dense(self, intent: Intent, corrections: dict[str, str]) -> np.ndarray | None:
        if self._background is None or self.vectors is None or self.embedder is None:
            return None
        concept = corrected(intent.concept or intent.plain, corrections)
        queries = self._query(concept, corrected(intent.plain, corrections))
        chance = (queries @ self._background.T).mean(1)
        # Nearness is (query @ vector - chance) / (1 - chance), mixed of both queries: being
        # linear, the mix needs one product with the library.
        share = np.array([0.65, 0.35]) / (1 - chance)
        near = self.vectors @ (share @ queries).astype(np.float32) - share @ chance
        return np.clip(near, 0, 1).astype(np.float32)


def _side_by_side(text: str, one: Word, two: Word) -> bool:
    """Whether two words of a request may be one expression."""
    return text[one.end : two.start] in (" ", "-") or (one.start, one.end) == (two.start, two.end)


def _fields(card: ModelCard) -> dict[str, list[str]]:
    """The stems of each part of a card, without attributes of which it lists too many."""
    stem_of_file = card.name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    fields = {
        "title": _distinct(card.title),
        "triggers": _distinct(" ".join(card.triggers[:_MAX_TRIGGERS])),
        "tags": _distinct(" ".join(card.tags)),
        "file": _distinct(stem_of_file),
        "description": _distinct(_without_denials(card.description[:_MAX_DESCRIPTION])),
    }
    nothing = indiscriminate(set().union(*fields.values()))
    if nothing:
        fields = {name: [t for t in found if t not in nothing] for name, found in fields.items()}
    return fields


def _written_names(card: ModelCard) -> Iterator[str]:
    """Runs of Chinese or Japanese in a title or file name, and what of them is too long to stand
    anywhere by chance."""
    for text in (card.title, card.name):
        for start, end in () if text.isascii() else cjk_runs(text):
            run = text[start : min(end, start + _LONGEST_NAME)]
            for size in range(_TELLING, len(run)):
                yield from (run[at : at + size] for at in range(len(run) - size + 1))
            if len(run) > 1:
                yield run


def _without_denials(text: str) -> str:
    """A description without what it says the model is not."""
    for start, end in reversed(denied_spans(text)):
        text = text[:start] + text[end:]
    return text


def _distinct(text: str) -> list[str]:
    """Each term once: repeating a word must not make a card more relevant."""
    return [term for term in dict.fromkeys(terms(text)) if term not in FUNCTION_WORDS]
