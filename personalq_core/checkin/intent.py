"""What a request asks about the model itself: version, time, base family, what it must not be.

The cue words are ordinary language (English, Spanish, German, French, Chinese, Japanese); none
names a concept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from ..library.family import normalise_family
from .attributes import is_manner
from .period import find_period
from .thesaurus import thesaurus
from .translate import language, translate
from .words import FUNCTION_WORDS, Word, fold, stem, words

SCENE_WEIGHT = 0.25
"""How much a word of the surroundings ("on the beach") counts beside one of the concept."""
STYLE_WEIGHT = 0.5
"""How much a word of the manner ("as a pencil sketch") counts."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """One thing it must not be: a card has to say all of it to be meant."""

    text: str
    stems: frozenset[str]


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
    order: str | None = None
    """"newest" or "oldest"."""
    order_is_soft: bool = False
    """"old" and "new" may as well describe the thing itself."""
    period: tuple[datetime, datetime] | None = None
    author: str | None = None
    """Who is said to have trained it."""
    base: str | None = None
    base_name: str | None = None
    kind: str | None = None
    foreign: bool = False
    """Whether the words were translated."""

    @cached_property
    def naming(self) -> tuple[bool, ...]:
        """Which words name the thing: those of the concept up to the first comma, preposition or
        -ing form after a noun, which tells what it does."""
        first = _REST.search(self.request, self.words[0].end) if self.words else None
        rest = first.start() if first else len(self.request)
        for before, word in zip(self.words, self.words[1:], strict=False):
            if _DOING.search(word.text) and thesaurus().is_noun(before.text):
                rest = min(rest, word.start)
        return tuple(
            weight >= 1
            and word.start < rest
            and not (place and _DOING.search(word.text))
            and not (place and _LOOK.fullmatch(word.text))
            and not (self.order_is_soft and word.stem in ("old", "new"))
            for place, (word, weight) in enumerate(zip(self.words, self.weights, strict=True))
        )

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
        return " ".join(
            w.text for w, weight in zip(self.words, self.weights, strict=True) if weight == 1
        )


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
    r"\b(?:of the )?(?:v|ver\.?|version|versión|Version|rev)\s?\.?(\d+(?:\.\d+)*)s?\b"
    r"|\bv(\d+(?:\.\d+)*)s?\b"
    r"|第\s?(\d+|[一二三四五])\s?[版代]|バージョン\s?(\d+)|\b(0\.\d+)\b(?!\))"
    r"|\bversion\s(one|two|three|four|five)\b",
    re.I,
)
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
    rf"|\b(?P<d>I|we|I['\u2019]ve|we['\u2019]ve)\s+{_TRAINED}\b",
    re.I,
)
_MYSELF = {"i", "we", "i've", "we've", "me", "us", "myself"}

_DOING = re.compile(r"[aeiouy]\w*ing$")
_LOOK = re.compile(r"(?:style|look|aesthetic|vibe)s?", re.I)
_SHOWN = re.compile(
    r"^[^,;:.]*\b(?:(?:style|look|aesthetic)s?\s*[,;:]|(?<!the )(?:style|look)s? of\b"
    r"|\w+\s?:(?!\d))",
    re.I,
)
"""Begins a request: "charcoal style, a boxer", "brush lettering: hello". What follows is shown in
it."""
_REST = re.compile(
    r"[,;.:\uff0c\u3001]|\b(?:in|on|at|with|by|to|from|en|con|mit|auf|im|am|bei|avec|dans|sur)\b",
    re.I,
)

_NEWEST = re.compile(
    r"\b(?:the\s+)?(?:newest|latest|newer|freshest|most recent|up[- ]to[- ]date|current|recent"
    r"|last(?=\s+(?:version|edition|model|lora|one|of them|of the v\d))"
    r"|(?:as|like) it is (?:now|today)|nowadays"
    r"|m[áa]s recientes?"
    r"|m[áa]s nuev[oa]|últim[oa]|actual|neueste[nrsm]?|neuere[nrsm]?|letzte[nrsm]?|aktuelle[nrsm]?"
    r"|jüngste[nrsm]?|derni[eè]re?|plus r[ée]cente?|actuelle?)\b|最新[的の]?|新しい|最近[的の]?",
    re.I,
)
_OLDEST = re.compile(
    r"\b(?:oldest|earliest|original|first ever|very first|older|earlier|previous"
    r"|former|m[áa]s antigu[oa]"
    r"|älteste[nrsm]?|ältere[nrsm]?|frühere[nrsm]?|ursprüngliche[nrsm]?|plus ancien(?:ne)?"
    r"|ancien(?:ne)?|used to (?:be|look)|back when|when (?:it|he|she|they) (?:was|were) still)\b"
    r"|\b(?:the\s+)?first(?=\s+(?:\w+\s+){0,2}(?:model|lora|one|ever|i|we|of them|of the v\d+s?)\b)"
    r"|最早的?|最旧的?|以前的?|最初の|古い",
    re.I,
)
_BEFORE = re.compile(
    r"\b(?:before|prior to|antes de|bevor|vor (?:dem|der)|avant|als \w+ noch)\b|之前|の前", re.I
)
_AFTER = re.compile(
    r"\b(?:after|since|once (?:it|he|she|they|we|i)|después de|nachdem|nach (?:dem|der)|apr[eè]s)\b"
    r"|之后|の後",
    re.I,
)
_SOFT_OLD = re.compile(r"\b(?:old|viej[oa]|alte[nrsm]?|vieux|vieille)\b", re.I)
_SOFT_NEW = re.compile(r"\b(?:new|nuev[oa]|neue[nrsm]?|nouvelle|nouveau)\b", re.I)

_BASE_NAME = (
    r"sd\s?xl(?:\s?1\.0)?|sd\s?1\.?5|sd\s?2\.[01]|sd\s?3(?:\.5)?"
    r"|stable diffusion (?:xl|\d(?:\.\d)?)"
    r"|flux(?:[. ]?[12])?(?:[. ]?d(?:ev)?)?|pony(?:xl)?|illustrious|noob\s?ai|qwen(?:[- ]image)?"
    r"|z-image|chroma|hidream|wan\s?2(?:\.\d)?"
)
_BASE = re.compile(
    rf"(?:,\s*)?\b(?:for|on|with|using|para|für|auf|pour|sur|mit)\s+(?:an?\s+|the\s+|my\s+)?"
    rf"(?P<a>{_BASE_NAME})(?:\s+(?:workflow|checkpoint|model|base|loaded|version))*\b"
    rf"|(?:,\s*)?\b(?P<b>{_BASE_NAME})\s+(?:workflow|checkpoint|model|base|loaded|version)\b"
    rf"|(?:,\s*)?\b(?P<c>sd\s?xl|sd\s?1\.?5|sd\s?2\.1)\b(?:\s+loaded)?",
    re.I,
)
_KIND = re.compile(r"\b(?:(?P<checkpoint>checkpoint|merge)|(?P<lora>loras?))\b", re.I)

_EXCLUDE = re.compile(
    r",?\s*\b(?:(?:and|but|y|und|et)\s+)?(?:(?:that|which)\s+(?:is|are)\s+not|(?:is|are)n['\u2019]t"
    r"|(?:that|which|who)\s+(?:does|do|did|has|have|had)(?:\s+not|n['\u2019]t)(?:\s+(?:have|wear|show))?"
    r"|(?:does|do)n['\u2019]t (?:have|wear|show)|(?:anything|any one|everything|all) (?:but|except)"
    r"|other than|not|no|without|except(?: for)?|excluding|minus|neither|nor|instead of|rather than"
    r"|nicht|ohne"
    r"|au(?:ß|ss)er|keine?[nmrs]?|weder|noch(?=\s+(?:der|die|das|ein|mit))|sin|ni|excepto|salvo|sans"
    r"|pas(?:\s+(?:de|le|la|les))?|sauf)\b(?P<what>(?:(?!\b(?:but|on|at|under|near|next|beside"
    r"|behind|not|no|nor|without|and no|auf|unter|sur|sous|sobre|bajo)\b)[^,;.:()])*)"
    r"|(?:不要|不是|没有|没|别|除了)(?P<zh>[^\uff0c\u3002,的]+)"
    r"|(?P<ja>[^\u3001\u3002,]{1,8}?)(?:ではない|じゃない|以外の?|なしの?)",
    re.I,
)
_ALTERNATIVE = re.compile(r"\b(?:or|and|nor|oder|und|noch|ou|et|o|y|ni)\b|[和或、]", re.I)
_FILLER = FUNCTION_WORDS | {"version", "style", "model", "lora", "look"}

_SCENE = re.compile(
    r"\b(?:on|at|under|near|nearby|beside|behind|above|below|inside|through|among|between|against"
    r"|across|around|during|while|next to|in front of|in (?:a|an|the|my|our)|into|by the|"
    r"that says?|saying|auf|unter|neben|hinter|bei|im|am|in (?:der|dem|einem|einer)|sur|sous|devant"
    r"|derrière|dans|sobre|bajo|junto|cerca|en (?:el|la|un|una|los|las))\b|[“\"]|在",
    re.I,
)
_PLACE_BEFORE = re.compile(r"[㐀-鿿]{1,6}?(?:上|里|中|下|旁边|前)的(?=\w)")
"""Chinese names the place first: "海滩上的", on the beach."""
_STYLE = re.compile(
    r"\b(?:style|look|drawing|painting|sketch|photo|illustration|poster|comic|cartoon|panels"
    r"|version|lora|model|merge)s?\b",
    re.I,
)
_MANNER = re.compile(
    r"\bas an?\b[^,.;]*|\b(?:in|on|with) [^,.;]*\b(?:style|look|posters?|"
    r"merge|panels|cartoon)\b|,[^,.;]*\b(?:style|look)\b[^,.;]*",
    re.I,
)
_PICTURE_OF = re.compile(r"^\W*(?:an?|the|my)?\s*(?P<how>[^,.;]*?\b(?P<last>\w+)) of\b", re.I)
"""Begins a request: "a storyboard sketch of"."""
_SETTING = re.compile(
    r"(?<=[,;.])[^,;.]*\b(?:background|backdrop|lighting|light|shot|view|angle|close-?up|bokeh"
    r"|quality|resolution|composition|scene|mood|atmosphere|hintergrund|fondo|fond|背景)s?\b[^,;.]*",
    re.I,
)
"""A phrase after a comma about the picture, not about what it shows."""
_MODEL_WORD = re.compile(r"(?<=\w )(?:models?|versions?)\b", re.I)
_FILE_WORD = re.compile(r"(?<=\w )(?:loras?|checkpoints?|safetensors)\b", re.I)
PROTECTED = re.compile(
    r":\d+(?:\.\d+)?(?=\))|<[^<>]*>|\bembedding:\S+|__[^\s_][^\s]*?__|\{[^{}]*\}|\bBREAK\b"
    r"|\bAND\b"
)


def understand(request: str, now: datetime) -> Intent:
    """Read a request; `now` settles words like "last spring"."""
    selecting: list[tuple[int, int]] = []
    silent: list[tuple[int, int]] = [found.span() for found in PROTECTED.finditer(request)]

    excluded, spans = _exclusions(_blank(request, silent))
    selecting += spans
    free = _blank(request, spans + silent)

    author, spans = _author(free)
    selecting += spans
    free = _blank(free, spans)

    base = base_name = None
    if found := _BASE.search(free):
        base_name = (found["a"] or found["b"] or found["c"]).lower()
        base = normalise_family(base_name)
        selecting.append(found.span())
    version, spans = _version(free)
    selecting += spans
    kind = _KIND.search(_MANNER.sub("", free))
    period = None
    if timed := find_period(free, now):
        period, span = timed
        selecting.append(span)
        free = _blank(free, [span])
    order, soft, spans = _order(free)
    selecting += spans
    selecting += _model_words(free, bool(order or version or base or period))

    selecting = [
        (end - len(request[start:end].lstrip()), start + len(request[start:end].rstrip()))
        for span in selecting
        for start, end in _outside(span, silent)
        # What is beside a BREAK or a wildcard keeps it apart.
        if re.search(r"\w", request[start:end])
    ]
    kept, weights = _weigh(request, selecting + silent)
    return Intent(
        request=request, words=kept, weights=weights, selecting=tuple(sorted(set(selecting))),
        excluded=excluded, author=author, version=version,
        order=order, order_is_soft=soft, period=period,
        base=base, base_name=base_name, kind=kind.lastgroup if kind else None,
        foreign=language(request) != "en",
    )  # fmt: skip


def _author(text: str) -> tuple[str | None, list[tuple[int, int]]]:
    """Who trained it, and the words that say so; "the fox I trained" names nobody else."""
    found = _AUTHOR.search(text)
    if not found:
        return None, []
    group = str(found.lastgroup)
    name = found[group].removesuffix(".")
    # In "Lena's fox lora" the fox stays.
    span = (found.start(), found.end(group) + 2) if group == "c" else found.span()
    return (None if fold(name).replace("\u2019", "'") in _MYSELF else name), [span]


def _model_words(text: str, chosen_by: bool) -> list[tuple[int, int]]:
    """ "lora", and "model" in "my newest fox model": they name the file, not the picture."""
    patterns = (_FILE_WORD, _MODEL_WORD) if chosen_by else (_FILE_WORD,)
    return [found.span() for pattern in patterns for found in pattern.finditer(text)]


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


def _exclusions(request: str) -> tuple[tuple[Exclusion, ...], list[tuple[int, int]]]:
    excluded: list[Exclusion] = []
    spans: list[tuple[int, int]] = []
    code = language(request)
    for found in _EXCLUDE.finditer(request):
        what = found["what"] or found["zh"] or found["ja"] or ""
        named = [
            Exclusion(" ".join(word.text for word in said), frozenset(word.stem for word in said))
            for part in _ALTERNATIVE.split(what)
            if (said := [w for w in _read_words(part, code) if w.stem not in _FILLER])
        ]
        if named:
            excluded += named
            end = found.end() - (len(found.group()) - len(found.group().rstrip()))
            spans.append((found.start(), end))
    return tuple(excluded), spans


def denied_spans(text: str) -> list[tuple[int, int]]:
    """Where a card's own text says what it is not: "lilac instead of the yellow one"."""
    return [found.span() for found in _EXCLUDE.finditer(text)]


def _read_words(text: str, code: str) -> list[Word]:
    return words(text) if code == "en" else translate(text, code)


def _version(text: str) -> tuple[str | None, list[tuple[int, int]]]:
    for pattern, number in _ORDINAL_VERSION:
        if found := pattern.search(text):
            return number, [found.span()]
    if found := _VERSION.search(text):
        number = next(group for group in found.groups() if group)
        return _NUMBERS.get(number.lower(), number), [found.span()]
    for pattern, number in _ORDINAL_FIRST:
        if found := pattern.search(text):
            return number, [(found.end() - len(found.group().split()[-1]), found.end())]
    return None, []


def _order(text: str) -> tuple[str | None, bool, list[tuple[int, int]]]:
    for pattern, order in (
        (_NEWEST, "newest"), (_OLDEST, "oldest"), (_BEFORE, "oldest"), (_AFTER, "newest"),
    ):  # fmt: skip
        if found := pattern.search(text):
            names_event = pattern in (_BEFORE, _AFTER)
            # "before the move" tells the model apart, and must not be painted.
            comma = re.search(r"[,;.]|$", text[found.end() :])
            end = found.end() + (comma.start() if names_event and comma else 0)
            return order, False, [(found.start(), end)]
    naming = re.split(r"[,;.]", text)[0]
    for pattern, order in ((_SOFT_NEW, "newest"), (_SOFT_OLD, "oldest")):
        if pattern.search(naming):
            return order, True, []
    return None, False, []


def _weigh(
    request: str, hidden: list[tuple[int, int]]
) -> tuple[tuple[Word, ...], tuple[float, ...]]:
    """Words that describe, each with its weight: the surroundings start at a word of place."""
    kept: list[Word] = []
    weights: list[float] = []
    free = _blank(request, hidden)
    scene_spans = _scene_spans(free)
    manner_spans = [m.span() for m in _MANNER.finditer(free) if _names_before(free, m.start())]
    if (led := _PICTURE_OF.search(free)) and is_manner(stem(led["last"])):
        manner_spans.append(led.span("how"))
    code = language(request)
    for word in _read_words(request, code):
        if word.stem in FUNCTION_WORDS or fold(request[word.start : word.end]) in FUNCTION_WORDS:
            continue
        if any(a <= word.start < b for a, b in hidden):
            continue
        kept.append(word)
        if any(a <= word.start < b for a, b in scene_spans):
            weights.append(SCENE_WEIGHT)
        else:
            in_manner = any(a <= word.start < b for a, b in manner_spans)
            weights.append(STYLE_WEIGHT if in_manner else 1.0)
    return tuple(kept), tuple(weights)


def _scene_spans(text: str) -> list[tuple[int, int]]:
    """From a word of place to the next comma, except where that names a style."""
    spans = []
    for found in _SCENE.finditer(text):
        stop = re.search(r"[,;.\uff0c\u3002]|\bwith\b|$", text[found.end() :])
        end = found.end() + (stop.start() if stop else 0)
        if _names_before(text, found.start()) and not _STYLE.search(text[found.end() : end]):
            spans.append((found.start(), end))
    spans += [found.span() for found in _PLACE_BEFORE.finditer(text)]
    spans += [(found.end(), len(text)) for found in _SHOWN.finditer(text)]
    return spans + [m.span() for m in _SETTING.finditer(text) if _names_before(text, m.start())]


def _names_before(text: str, place: int) -> bool:
    """Whether something was named before this place."""
    return any(fold(word.text) not in FUNCTION_WORDS for word in words(text[:place]))
