"""What a request asks about the model itself: version, time, base family, what it must not be.

What its words surely ask is read here; what they may ask, `settle` reads beside the library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from ..language.thesaurus import is_coined, thesaurus
from ..language.translate import language, translate
from ..language.words import (
    DETERMINERS,
    FUNCTION_WORDS,
    Word,
    fold,
    own_before,
    stem,
    words,
)
from ..library.family import normalise_family
from ..library.ordinary import is_general_tag
from .attributes import is_manner
from .cues import FILE, cues
from .period import find_period
from .scene import (
    PICTURE_OF,
    first_named,
    manner_spans,
    next_place,
    places,
    scene_spans,
)
from .spoken import said_to_the_program

SCENE_WEIGHT = 0.25
"""How much a word of the surroundings ("on the beach") counts beside one of the concept."""
STYLE_WEIGHT = 0.5
"""How much a word of the manner ("as a pencil sketch") counts."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One thing it must not be: a card has to say all of it to be meant."""

    text: str
    stems: frozenset[str]
    span: tuple[int, int]
    """Of the clause that says so."""


@dataclass(frozen=True, slots=True)
class Event:
    """What is before or after something: "before the remodel", "before a castle".

    The first tells versions apart and the second is to be painted: only a library knows.
    """

    order: str
    span: tuple[int, int]
    cue: tuple[int, int]
    """Where "before" stands in it."""
    is_clause: bool
    """"before it was redrawn"."""
    changes: bool | None
    """Whether it is something that changes a thing, as a remodel does; None for unknown words."""


@dataclass(frozen=True, slots=True)
class Cue:
    """Words that ask something of the model, or else tell of the picture: "the older bear", but
    "as an older woman". Only a library knows; see `picture.py`.

    kind: "order", "exclusion", "author" or "period"
    of: where the words stand that it is said of
    """

    kind: str
    span: tuple[int, int]
    of: tuple[int, int]


@dataclass(frozen=True)
class Intent:
    """A request, understood. Spans are (start, end) in the request."""

    request: str
    words: tuple[Word, ...]
    """Words that may describe the concept or its surroundings: no function or selection words."""
    weights: tuple[float, ...]
    """One a word: 1 for the concept, STYLE_WEIGHT for its manner, SCENE_WEIGHT for the rest."""
    selecting: tuple[tuple[int, int], ...]
    """Where words stand that only serve the selection: they leave the prompt."""
    excluded: tuple[Exclusion, ...] = ()
    """What it must not be."""
    version: str | None = None
    maybe_version: tuple[str, tuple[int, int]] | None = None
    """A version and its span, where it may as well be an engine: "V8 engine"."""
    order: str | None = None
    """"newest" or "oldest"."""
    order_place: int = 0
    """How many come before it: 1 for "the second newest"."""
    order_is_soft: bool = False
    """"old" and "new" may as well describe the thing itself."""
    cues: tuple[Cue, ...] = ()
    event: Event | None = None
    """None where words like "newest" tell the order."""
    period: tuple[datetime, datetime] | None = None
    author: str | None = None
    """Who is said to have trained it."""
    base: str | None = None
    base_name: str | None = None
    kind: str | None = None
    foreign: bool = False
    """Whether the words were translated."""

    def weighed(self) -> Iterator[tuple[Word, float]]:
        """The words, each with its weight."""
        return zip(self.words, self.weights, strict=True)

    def with_words(self, weighed: Iterable[tuple[Word, float]]) -> Intent:
        """The same request, read as these words with their weights."""
        pairs = list(weighed)
        return replace(
            self, words=tuple(word for word, _ in pairs), weights=tuple(w for _, w in pairs)
        )

    @cached_property
    def naming(self) -> tuple[bool, ...]:
        """Which words name the thing: those of the concept up to the first comma, preposition or
        word after a noun that tells what it does or how it is."""
        first = _REST.search(self.request, self.words[0].end) if self.words else None
        rest = first.start() if first else len(self.request)
        for before, word in zip(self.words, self.words[1:], strict=False):
            if self.tells_of(before, word):
                rest = min(rest, word.start)
        begin, end = self._ordered or (0, rest)
        owned = any(own_before(self.request, w.start) for w in self.words if w.start < rest)
        if begin < rest or owned:  # "my newest bear", "my bear and the newest robot"
            begin, end = 0, rest
        return tuple(
            weight >= 1
            and begin <= word.start < end
            and not (place and DOING.search(word.text))
            and not (place and _LOOK.fullmatch(word.text))
            and not (self.order_is_soft and word.stem in ("old", "new"))
            for place, (word, weight) in enumerate(zip(self.words, self.weights, strict=True))
        )

    @property
    def _ordered(self) -> tuple[int, int] | None:
        """Where words stand that "newest" is said of; a name ends them."""
        is_told = not (self.order_is_soft or self.foreign)
        spans = [cue.of for cue in self.cues if cue.kind == "order" and is_told]
        said = [w for start, end in spans for w in self.words if start <= w.start < end]
        if not said:
            return None
        last = next((word for word in said if is_coined(word)), said[-1])
        return said[0].start, last.end

    def tells_of(self, noun: Word, word: Word) -> bool:
        """Whether a word after a noun tells what that does or how it is: "bear sitting", "logo
        printed", "armchair alone"."""
        if not thesaurus().is_noun(noun.text):
            return False
        # Spanish and French describe a noun behind it: "oso rojo".
        return bool(DOING.search(word.text)) or (not self.foreign and _tells_how(word.text))

    @property
    def told(self) -> str:
        """The request without the words that only serve the selection."""
        return " ".join(_blank(self.request, list(self.selecting)).split())

    @property
    def plain(self) -> str:
        """What it asks to see, in English as far as the words are known."""
        words_only = " ".join(word.text for word in self.words)
        return (words_only if self.foreign else self.told) or self.request

    @property
    def concept(self) -> str:
        """The words of the concept alone."""
        return " ".join(word.text for word, weight in self.weighed() if weight == 1)


_ORDINALS = {
    name: number
    for number, names in enumerate(
        ("first|1st|primera?|erste[nrs]?|premi[eè]re?",
         "second|2nd|segund[ao]|zweite[nrs]?|deuxi[eè]me|seconde?",
         "third|3rd|tercera?|dritte[nrs]?|troisi[eè]me",
         "fourth|4th|cuart[ao]|vierte[nrs]?|quatri[eè]me",
         "fifth|5th|quint[ao]|fünfte[nrs]?|cinqui[eè]me"), 1)
    for name in [names]
}  # fmt: skip
_VERSION = re.compile(
    r"\b(?:of the )?(?:ver\.?|version|versión|rev)\s?\.?(\d+(?:\.\d+)*)s?\b"
    r"|\bof the v(\d+(?:\.\d+)*)s?\b"
    r"|第\s?(\d+|[一二三四五])\s?[版代]|バージョン\s?(\d+)"
    r"|\bversion\s(one|two|three|four|five)\b|\b((?:epoch|step)\s?\d+)\b"
    r"|\b(?:[ée]poca|epoche|[ée]poque|schritt|paso|[ée]tape|エポック|ステップ)\s?(\d+)\b",
    re.I,
)
_DECIMAL = re.compile(r"(?<![\w.:])(0\.\d+)(?![\w.)])")
"""A version, or else a weight."""
_TRAINED_FOR = re.compile(r"\b(\d+)\s(?:steps?|epochs?)\b", re.I)
_SHORT_VERSION = re.compile(r"\bv\s?\.?(\d+(?:\.\d+)*)(?P<several>s?)\b", re.I)
_NUMBERS = dict(zip("一二三四五", "12345", strict=True)) | dict(
    zip(("one", "two", "three", "four", "five"), "12345", strict=True)
)
_ORDINAL_VERSION = [
    (re.compile(rf"\b(?:{names})\s+(?:version|versión|edition|attempt|try|release|generation)"
                r"(?:\s+of)?\b", re.I), str(number))
    for names, number in _ORDINALS.items()
]
_ORDINAL_FIRST = [
    (re.compile(rf"^\W*(?:the|my|our|el|la|mi|der|die|das|mein|meine|le|mon|ma)\s+(?:{names})(?=\s\w)",
                re.I), str(number))
    for names, number in _ORDINALS.items() if number > 1
]  # fmt: skip
"""Begins a request: "the second Pepi"."""
_PLACES = [
    (re.compile(rf"(?:(?:the|el|la|der|die|das|le)\s+)?(?:{names})(?:\s+one)?[.!]?", re.I), number)
    for names, number in _ORDINALS.items()
]

_TRAINED = r"(?:trained|made|created|finished|built)"
_AUTHOR = re.compile(
    rf"\b(?:lora|model|checkpoint|version|one|{_TRAINED})\s+by\s+(?P<a>[\w.-]+)"
    rf"|\b(?:that|which)\s+(?P<b>[\w.-]+)\s+{_TRAINED}\b"
    rf"|\b(?P<c>[A-Z][\w.-]*)['\u2019]s\s+(?:\w+\s+){{0,3}}(?:lora|checkpoint)\b"
    rf"|\b(?:(?:the\s+)?ones?\s+)?(?:that\s+)?\b(?P<d>I|we|I['\u2019]ve|we['\u2019]ve)\s+{_TRAINED}\b",
    re.I,
)
_MYSELF = {"i", "we", "i've", "we've", "me", "us", "myself"}

DOING = re.compile(r"[aeiouy]\w*(?:ing|ando|iendo|yendo)$")
"""Tells what a thing does, not what it is."""
_DONE = re.compile(r"hung|seen|shown|sat|stood|caught|ridden|lit|shot")
"""Forms of a verb that no table of adjectives has."""
_LOOK = re.compile(r"(?:style|look|aesthetic|vibe)s?", re.I)
_REST = re.compile(
    r"[,;.:\uff0c\u3001]|\b(?-i:BREAK|AND)\b|\b(?:in|on|at|with|without|by|to|from|but|is|are|not|as|full"
    r"|en|con|sin|mit|ohne|auf|im|am|bei|avec|sans|dans|sur)\b",
    re.I,
)

_MODEL = r"(?:workflow|checkpoint|model|base|loaded|version|loras?)"
_FOR = r"(?:for|on|with|using|para|für|auf|pour|sur|mit)"
_CLAUSE_ENDS = r"(?=\s*(?:$|[,.;:!?()]|\b(?:in|on|at|with|under|beside|near|not|without)\b))"
_BASE_NAME = (
    r"sd\s?xl(?:\s?1\.0)?|sd\s?1\.?5|sd\s?2\.[01]|sd\s?3(?:\.5)?"
    r"|stable diffusion (?:xl|\d(?:\.\d)?)"
    r"|flux[. ]?[12](?:[. ]?d(?:ev)?)?|flux[. ]?d(?:ev)?|ponyxl|noob\s?ai|qwen(?:[- ]image)?"
    r"|z-image|hidream|wan\s?2(?:\.\d)?"
)
_BASE_WORD = "flux|pony|illustrious|chroma"
"""Ordinary words too: "Anna with a pony", "a flux capacitor"."""
_BASE = re.compile(
    rf"(?:,\s*)?\b(?:the|my|our)\s+(?P<e>{_BASE_NAME}|{_BASE_WORD})\s+ones?\b"
    rf"|(?:,\s*)?\b{_FOR}\s+(?:an?\s+|the\s+|my\s+)?(?P<a>{_BASE_NAME})(?:\s+{_MODEL})*\b"
    rf"|(?:,\s*)?\b(?:{_FOR}\s+(?:an?\s+|the\s+|my\s+)?)?"
    rf"(?P<b>{_BASE_NAME}|{_BASE_WORD})(?:\s+{_MODEL})+\b"
    rf"|(?:,\s*)?\b{_FOR}\s+(?P<c>{_BASE_WORD})\b{_CLAUSE_ENDS}"
    rf"|(?:,\s*)?\b(?P<d>sd\s?xl|sd\s?1\.?5|sd\s?2\.1)\b",
    re.I,
)
_KIND = re.compile(
    r"\b(?:(?P<checkpoint>checkpoint|(?<!\ws )merge)|(?P<lora>loras?))\b", re.I
)
"""But "two roads merge"."""

_ALTERNATIVE = re.compile(r",|\b(?:or|and|nor|oder|und|noch|ou|et|o|y|ni)\b|[和或、]", re.I)
_MORE_OF_THEM = re.compile(
    r"(?:\s*,\s*[\w-]+){1,3}?\s*,?\s*(?:or|nor|and)\s+(?:the\s+)?[\w-]+\s+ones?\b", re.I
)
"""Goes on after "not the cozy": ", cute or baroque one"."""
_NOT_THE_NEWEST = re.compile(
    r"(?P<not>\bnot\s+the\s+(?:newest|latest|last))\b[^,;.]{1,40}?"
    r"(?P<but>,?\s*(?:but\s+)?the\s+one\s+(?:just\s+|right\s+)?before(?:\s+(?:it|that(?:\s+one)?))?)"
    r"(?=\s*(?:$|[,;.]))", re.I
)
"""Rules out the newest and no other: "not the newest bear, the one before it"."""
_FILLER = FUNCTION_WORDS | {"version", "style", "model", "lora", "look"}

_EVENT_ENDS = re.compile(
    r"[,;.:()\n\uff0c\u3002\u3001]"
    r"|(?<!['\u2019])\b(?:in|on|at|with|near|under|beside|mit|auf|im|am|con|en|avec|dans|sur)\b",
    re.I,
)
_NAMED_NO = re.compile(r"\b[A-Z]\w*\s+(?P<no>no)\s+(?=[A-Z])")
"""A name in Japanese: "Ni no Kuni"."""
_MODEL_WORD = re.compile(
    r"(?<=\w )(?:models?|versions?|modelos?|versi[óo]n(?:es)?|modelle?|versionen|mod[èe]les?)\b",
    re.I,
)
_FILE_WORD = re.compile(
    r"(?<=\w )(?:loras?|checkpoints?|safetensors)\b|\bloras?(?=:?\s+\w*_)", re.I
)
_OF_ANY = re.compile(r"\ban?\s+(?:\w+\s+)?$", re.I)
"""Before the word, where it is no file: "an old version of Sherlock"."""
_OF_FILES = re.compile(rf"{FILE}s?|versi[óo]n|modelo|mod[èe]le|modell", re.I)
_I_HAVE = re.compile(
    r"\b(?:that\s+)?(?:i|we)(?:['\u2019]ve|\s+have)?\s+(?:got|have|own|made|trained)\b"
    r"(?=\s*(?:[,.;:]|$))",
    re.I,
)
_SYNTAX = re.compile(
    r":\d+(?:\.\d+)?(?=\))|<[^<>]*>|\bembedding:\S+|__[^\s_][^\s]*?__|\{[^{}]*\}|\bBREAK\b"
    r"|\bAND\b"
)
QUOTED = re.compile(r"(?<!\w)\"(?=\S)[^\"\n]*\"(?!\w)|[“„][^“”„\n]*[”“]|«[^«»\n]*»")
"""Text to be written in the picture. The words in it describe, but ask nothing of the model."""
PROTECTED = re.compile(f"{_SYNTAX.pattern}|{QUOTED.pattern}")
"""Stays in the prompt as it is."""


def understand(request: str, now: datetime, plain: Sequence[tuple[int, int]] = ()) -> Intent:
    """Read a request; `now` settles words like "last spring", and what is `plain` asks nothing."""
    code = language(request)
    syntax = [found.span() for found in _SYNTAX.finditer(request)]
    kept = [*plain, *(found.span() for found in PROTECTED.finditer(request))]
    selecting: list[tuple[int, int]] = []

    not_it = _NOT_THE_NEWEST.search(_blank(request, kept))
    passed = [not_it.span("not"), not_it.span("but")] if not_it else []
    excluded, spans = _exclusions(_blank(request, kept + passed), code)
    heard = [Cue("exclusion", span, span) for span in spans]
    selecting += spans + passed
    free = _blank(request, spans + kept + passed)

    author, spans = _author(free)
    heard += [Cue("author", span, span) for span in spans if author]
    selecting += spans
    free = _blank(free, spans)

    base = base_name = None
    if found := _BASE.search(free):
        base_name = str(found[str(found.lastgroup)]).lower()
        base = normalise_family(base_name)
        selecting.append(found.span())
    order, place, ordered = _order(free, code)
    unordered = _blank(free, ordered) if place else free  # "the second newest" is no version 2
    version, spans = _version(unordered, said_otherwise=bool(order))
    selecting += [(start, _with_one(free, end)) for start, end in spans]
    kind = _KIND.search(_blank(free, manner_spans(free)))
    period = None
    if timed := find_period(free, now):
        period, span = timed
        heard.append(Cue("period", span, span))
        selecting.append(span)
        free = _blank(free, [span])
    order, place, spans = _order(free, code)
    if not_it and not order:
        order, place = "newest", 1
    selecting += spans
    event = None if order else _event(free, code, kept)
    soft, told_by = (None, []) if order else _soft_order(free, code, event)
    heard += [Cue("order", span, _said_of(free, span[1])) for span in spans + told_by]
    selecting += said_to_the_program(free)
    selecting += _model_words(free, bool(order or soft or version or base or period))

    selecting = [
        (end - len(request[start:end].lstrip()), start + len(request[start:end].rstrip()))
        for span in selecting
        for start, end in _outside(span, kept)
        # What is beside a BREAK or a wildcard keeps it apart.
        if re.search(r"\w", request[start:end])
    ]
    asked = [cue.of for cue in heard if cue.kind == "order" and order and code == "en"]
    silent = syntax + ([event.cue] if event else []) + _general_tags(request)
    silent += [found.span() for found in _DECIMAL.finditer(request)]
    words, weights = _weigh(request, code, selecting + silent, event, asked)
    return Intent(
        request=request, words=words, weights=weights, selecting=tuple(sorted(set(selecting))),
        excluded=excluded, author=author, version=version,
        maybe_version=None if version else _maybe_version(free),
        order=order or soft, order_place=place, order_is_soft=soft is not None,
        cues=tuple(heard), event=event, period=period,
        base=base, base_name=base_name, kind=kind.lastgroup if kind else None,
        foreign=code != "en",
    )  # fmt: skip


def as_written(intent: Intent, names: Sequence[tuple[int, int]]) -> Intent:
    """With the names at these spans, Chinese or Japanese, in the place of what their characters
    mean: as pairs of characters, as cards are indexed."""
    read = list(intent.weighed())
    for start, end in names:
        inside = [(w, weight) for w, weight in read if start < w.end and w.start < end]
        meant = tuple(word.text for word, _ in inside)
        weight = max((weight for _, weight in inside), default=1.0)
        pairs = [
            Word(pair := intent.request[at : at + 2], pair, at, at + 2, meant)
            for at in range(start, end - 1)
        ]
        read = [entry for entry in read if entry not in inside]
        read += [(word, weight) for word in pairs]
    return intent.with_words(sorted(read, key=lambda entry: entry[0].start))


def _tells_how(word: str) -> bool:
    """Whether a word is an adjective and no noun, or a form of a verb: "alone", "printed"."""
    if thesaurus().lemma(word) is None:
        return bool(_DONE.fullmatch(word)) or (word.endswith("ed") and thesaurus().knows(word))
    return not thesaurus().is_noun(word)


def _general_tags(text: str) -> list[tuple[int, int]]:
    """Phrases between commas that prompts have whatever they show: "masterpiece, best quality"."""
    phrases = list(re.finditer(r"[^,\n]+", text))
    general = [found.span() for found in phrases if is_general_tag(found.group().strip())]
    return general if len(general) < len(phrases) else []


def _author(text: str) -> tuple[str | None, list[tuple[int, int]]]:
    """Who trained it, and the words that say so; "the fox I trained" names nobody else."""
    found = _AUTHOR.search(text)
    if not found:
        return None, []
    group = str(found.lastgroup)
    name = found[group].removesuffix(".")
    if fold(name) in FUNCTION_WORDS - _MYSELF:
        return None, []  # "a fashion model by the pool"
    # In "Lena's fox lora" the fox stays.
    span = (found.start(), found.end(group) + 2) if group == "c" else found.span()
    return (None if fold(name).replace("\u2019", "'") in _MYSELF else name), [span]


def _model_words(text: str, chosen_by: bool) -> list[tuple[int, int]]:
    """ "lora", and "model" in "my newest fox model", "i have" in "the oldest fox i have": they tell
    of the file, not of the picture."""
    patterns = (_FILE_WORD, _MODEL_WORD, _I_HAVE) if chosen_by else (_FILE_WORD,)
    found = [m.span() for pattern in patterns for m in pattern.finditer(text)]
    return [span for span in found if not _OF_ANY.search(text[: span[0]])]


def place_in_list(answer: str) -> int | None:
    """The place that an answer names and nothing else: "the second one" is 2."""
    said = answer.strip()
    return next((number for pattern, number in _PLACES if pattern.fullmatch(said)), None)


def _blank(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with spans overwritten by spaces, so that places stay."""
    for start, end in spans:
        text = text[:start] + " " * (end - start) + text[end:]
    return text


def _outside(span: tuple[int, int], holes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The parts of a span that lie in none of the holes."""
    start, end = span
    parts = []
    for a, b in sorted(holes):
        if a < end and start < b:
            parts.append((start, a))
            start = b
    return [(a, b) for a, b in [*parts, (start, end)] if a < b]


def _exclusions(text: str, code: str) -> tuple[tuple[Exclusion, ...], list[tuple[int, int]]]:
    excluded: list[Exclusion] = []
    spans: list[tuple[int, int]] = []
    text = _blank(text, [found.span("no") for found in _NAMED_NO.finditer(text)])
    for found in cues(code).exclude.finditer(text):
        more = _MORE_OF_THEM.match(text, found.end())
        what = (found["what"] or found["zh"] or found["ja"] or "") + (more.group() if more else "")
        end = more.end() if more else found.start() + len(found.group().rstrip())
        span = found.start(), end
        named = [
            Exclusion(" ".join(w.text for w in said), frozenset(w.stem for w in said), span)
            for part in _ALTERNATIVE.split(what)
            if (said := [w for w in _read_words(part, code) if w.stem not in _FILLER])
        ]
        if named:
            excluded += named
            spans.append(span)
    return tuple(excluded), spans


def denied_spans(text: str) -> list[tuple[int, int]]:
    """Where a card's own text says what it is not: "lilac instead of the yellow one"."""
    return [found.span() for found in cues(language(text)).exclude.finditer(text)]


def _read_words(text: str, code: str) -> list[Word]:
    return words(text) if code == "en" else translate(text, code)


def _version(text: str, said_otherwise: bool) -> tuple[str | None, list[tuple[int, int]]]:
    """`said_otherwise`: "first edition" may be said of the picture then."""
    for pattern, number in _ORDINAL_VERSION:
        if (found := pattern.search(text)) and not said_otherwise:
            return number, [found.span()]
    if found := _VERSION.search(text):
        number = next(group for group in found.groups() if group)
        return _NUMBERS.get(number.lower(), number), [found.span()]
    for found in _SHORT_VERSION.finditer(text):
        if _is_version(text, found):
            return found[1], [found.span()]
    for pattern, number in _ORDINAL_FIRST:
        if found := pattern.search(text):
            return number, [(found.end() - len(found.group().split()[-1]), found.end())]
    return None, []


def _with_one(text: str, end: int) -> int:
    """The end with the "one" that it is said of: "the v7 one", "the newest one"."""
    one = re.match(r"\s+ones?\b", text[end:], re.I)
    return end + one.end() if one else end


def _is_version(text: str, found: re.Match[str]) -> bool:
    """Whether nothing follows that it may belong to: "bear v2 at sea", but not "V8 engine"."""
    if found["several"]:
        return True
    after = re.match(r"[ \t]*(\w+)", text[found.end() :])
    ends = after is None or fold(after[1]) in FUNCTION_WORDS or DOING.search(after[1])
    return bool(ends) and not _after_a(text, found.start())


def _maybe_version(text: str) -> tuple[str, tuple[int, int]] | None:
    for pattern in (_SHORT_VERSION, _TRAINED_FOR, _DECIMAL):
        for found in pattern.finditer(text):
            if not _after_a(text, found.start()):
                return found[1], found.span()
    return None


def _after_a(text: str, place: int) -> bool:
    """Whether "a" or "an" stands before a place."""
    return bool(re.search(r"\ban?\s$", text[max(0, place - 4) : place], re.I))


def _order(text: str, code: str) -> tuple[str | None, int, list[tuple[int, int]]]:
    """Which end is asked for, how many come before it there, and where that is said."""
    cue = cues(code)
    asked = (
        (cue.but_one, "newest", 1), (cue.second_oldest, "oldest", 1),
        (cue.newest, "newest", 0), (cue.oldest, "oldest", 0),
    )  # fmt: skip
    for pattern, order, place in asked:
        if found := pattern.search(text):
            return order, place, [(found.start(), _with_one(text, found.end()))]
    return None, 0, []


def _event(text: str, code: str, kept: Sequence[tuple[int, int]]) -> Event | None:
    """The first that it is before or after, with the words up to where a clause ends or what is
    kept as it is begins."""
    for pattern, order in ((cues(code).before, "oldest"), (cues(code).after, "newest")):
        if not (found := pattern.search(text)):
            continue
        start = found.end()
        end = min((a for a, _ in kept if a >= start), default=len(text))
        end = start + len(text[start : min(end, next_place(_EVENT_ENDS, text, start))].rstrip())
        if found["cjk"]:  # there it stands before the cue
            before = [w.start for w in _read_words(text, code) if w.end == found.start()]
            start, end = min(before, default=found.start()), found.start()
        said = [w.text for w in _read_words(text[start:end], code) if w.stem not in FUNCTION_WORDS]
        span = min(start, found.start()), max(end, found.end())
        return Event(order, span, found.span(), bool(found["who"]), _changes(said))
    return None


def _changes(said: Sequence[str]) -> bool | None:
    if any(map(thesaurus().is_change, said)):
        return True
    return None if any(thesaurus().lemma(word) is None for word in said) else False


def _soft_order(
    text: str, code: str, event: Event | None
) -> tuple[str | None, list[tuple[int, int]]]:
    """What it rather asks: what happened to a thing may have come and gone in the picture, and
    "old" and "new", which are at the spans, may describe it."""
    if event and (event.is_clause or event.changes):
        return event.order, []
    naming = re.split(r"[,;.]", text)[0]
    for pattern, order in ((cues(code).soft_new, "newest"), (cues(code).soft_old, "oldest")):
        if found := pattern.search(naming):
            return order, [found.span()]
    return None, []


def _said_of(text: str, start: int) -> tuple[int, int]:
    """Where the words stand that "newest" before `start` is said of: "newest of my bears"."""
    end = start
    is_said = False  # "the latest issue of a magazine" is said of the issue alone
    for word in words(text[start:]):
        apart, said = text[end : start + word.start].strip(), fold(word.text)
        leads = said in DETERMINERS or bool(_OF_FILES.fullmatch(said))
        leads = leads or (said in {"of", "de", "von"} and not is_said)
        if apart or (word.stem in FUNCTION_WORDS and not leads):
            break
        is_said = is_said or not leads
        end = start + word.end
    return start, end


def _weigh(
    request: str,
    code: str,
    hidden: list[tuple[int, int]],
    event: Event | None,
    asked: list[tuple[int, int]],
) -> tuple[tuple[Word, ...], tuple[float, ...]]:
    """Words that describe, each with its weight: the surroundings start at a word of place. What is
    `asked` for, "the newest" of it, is none of them."""
    kept: list[Word] = []
    weights: list[float] = []
    free = _blank(request, hidden)
    named = first_named(free)
    is_hidden = places(hidden, request)
    in_scene = places(scene_spans(free, named) + ([event.span] if event else []), request)
    manner = [(start, end) for start, end in manner_spans(free) if named < start]
    if (led := PICTURE_OF.search(free)) and is_manner(stem(led["last"])):
        manner.append(led.span("how"))
    in_manner = places(manner, request)
    is_asked = places(asked, request)
    for word in _read_words(request, code):
        if word.stem in FUNCTION_WORDS or fold(request[word.start : word.end]) in FUNCTION_WORDS:
            continue
        if is_hidden[word.start]:
            continue
        kept.append(word)
        if in_scene[word.start] and not is_asked[word.start]:
            weights.append(SCENE_WEIGHT)
        else:
            weights.append(STYLE_WEIGHT if in_manner[word.start] else 1.0)
    return tuple(kept), tuple(weights)
