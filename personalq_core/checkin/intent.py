"""What a request asks about the model itself: version, time, base family, what it must not be.

The cue words are ordinary language (English, Spanish, German, French, Chinese, Japanese); none
names a concept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..library.family import normalise_family
from .translate import language, translate
from .words import FUNCTION_WORDS, Word, fold, words

SCENE_WEIGHT = 0.25
"""How much a word of the surroundings ("on the beach") counts beside one of the concept."""
STYLE_WEIGHT = 0.5
"""How much a word of the manner ("as a pencil sketch") counts."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A request, understood. Spans are (start, end) in the request."""

    request: str
    words: tuple[Word, ...]
    """Words that may describe the concept or its surroundings: no function or selection words."""
    weights: tuple[float, ...]
    """One a word: 1 for the concept, STYLE_WEIGHT for its manner, SCENE_WEIGHT for the rest."""
    selecting: tuple[tuple[int, int], ...]
    """Where words stand that only serve the selection: they leave the prompt."""
    excluded: tuple[str, ...] = ()
    """Stems of what it must not be."""
    version: str | None = None
    order: str | None = None
    """"newest" or "oldest"."""
    order_is_soft: bool = False
    """"old" and "new" may as well describe the thing itself."""
    period: tuple[datetime, datetime] | None = None
    base: str | None = None
    base_name: str | None = None
    kind: str | None = None
    foreign: bool = False
    """Whether the words were translated."""

    @property
    def concept(self) -> str:
        """The words of the concept alone."""
        return " ".join(
            w.text for w, weight in zip(self.words, self.weights, strict=True) if weight == 1
        )


_ORDINALS = {
    name: number
    for number, names in enumerate(
        ("first|primera?|erste[nrs]?|premi[eè]re?", "second|segund[ao]|zweite[nrs]?|deuxi[eè]me",
         "third|tercera?|dritte[nrs]?|troisi[eè]me", "fourth|cuart[ao]|vierte[nrs]?|quatri[eè]me",
         "fifth|quint[ao]|fünfte[nrs]?|cinqui[eè]me"), 1)
    for name in [names]
}  # fmt: skip
_VERSION = re.compile(
    r"\b(?:v|ver\.?|version|versión|Version|rev)\s?\.?(\d+(?:\.\d+)*)\b|\bv(\d+(?:\.\d+)*)\b"
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
]  # fmt: skip

_NEWEST = re.compile(
    r"\b(?:the\s+)?(?:newest|latest|newer|most recent|up[- ]to[- ]date|current|recent"
    r"|m[áa]s recientes?"
    r"|m[áa]s nuev[oa]|últim[oa]|actual|neueste[nrsm]?|neuere[nrsm]?|letzte[nrsm]?|aktuelle[nrsm]?"
    r"|jüngste[nrsm]?|derni[eè]re?|plus r[ée]cente?|actuelle?)\b|最新的?|新しい|最近的?",
    re.I,
)
_OLDEST = re.compile(
    r"\b(?:oldest|earliest|original|first ever|older|earlier|previous|former|m[áa]s antigu[oa]"
    r"|älteste[nrsm]?|ältere[nrsm]?|frühere[nrsm]?|ursprüngliche[nrsm]?|plus ancien(?:ne)?"
    r"|ancien(?:ne)?|used to (?:be|look)|back when|when (?:it|he|she|they) (?:was|were) still)\b"
    r"|\bfirst(?=\s+(?:\w+\s+){0,2}(?:model|lora|one|ever|i|we)\b)|最早的?|最旧的?|以前的?|最初の|古い",
    re.I,
)
_BEFORE = re.compile(
    r"\b(?:before|antes de|bevor|vor (?:dem|der)|avant|als \w+ noch)\b|之前|の前", re.I
)
_AFTER = re.compile(
    r"\b(?:after|since|después de|nachdem|nach (?:dem|der)|apr[eè]s)\b|之后|の後", re.I
)
_SOFT_OLD = re.compile(r"\b(?:old|viej[oa]|alte[nrsm]?|vieux|vieille)\b", re.I)
_SOFT_NEW = re.compile(r"\b(?:new|nuev[oa]|neue[nrsm]?|nouvelle|nouveau)\b", re.I)

_MONTHS = [
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
]  # fmt: skip
_MONTH = "|".join(_MONTHS)
_PERIOD = re.compile(
    rf"\b(?:from|in|of|made in)?\s*(?:(?P<rel>this|last)\s+)?(?P<month>{_MONTH})"
    r"(?:\s+(?:of\s+)?(?P<year>(?:19|20)\d\d))?\b"
    r"|\b(?:from\s+|in\s+|of\s+)?(?P<only>20\d\d)\b"
    r"|\b(?:from\s+)?(?P<rel2>this|last)\s+(?P<unit>week|month|year|spring|summer|autumn|fall|winter)\b"
    r"|\b(?:from\s+)?(?P<ago>\d+|a|one|two|three|four|five)\s+(?P<ago_unit>day|week|month|year)s?\s+ago\b"
    r"|\b(?:from\s+)?yesterday\b",
    re.I,
)
_SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}

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
    r"|not|no|without|except|excluding|minus|instead of|rather than|nicht|ohne|keine?[nmrs]?|sin"
    r"|excepto|sans|pas(?:\s+(?:de|le|la|les))?|sauf)\b(?P<what>(?:(?!\b(?:but|on|at|under|near|"
    r"next|beside|behind|not|no|without|and no|auf|unter|sur|sous|sobre|bajo)\b)[^,;.:()])*)"
    r"|(?:不要|不是|没有|别)(?P<zh>[^\uff0c\u3002,]+)"
    r"|(?P<ja>[^\u3001\u3002,]{1,8}?)(?:ではない|じゃない|以外の?|なしの?)",
    re.I,
)
_FILLER = FUNCTION_WORDS | {"version", "style", "model", "lora", "look"}

_SCENE = re.compile(
    r"\b(?:on|at|under|near|nearby|beside|behind|above|below|inside|through|among|between|against"
    r"|across|around|during|while|next to|in front of|in (?:a|an|the|my|our|his)|into|by the|"
    r"that says?|saying|auf|unter|neben|hinter|bei|im|am|in (?:der|dem|einem|einer)|sur|sous|devant"
    r"|derrière|dans|sobre|bajo|junto|cerca|en (?:el|la|un|una|los|las))\b|[“\"]|在",
    re.I,
)
_STYLE = re.compile(
    r"\b(?:style|look|drawing|painting|sketch|photo|illustration|poster|comic|cartoon|panels"
    r"|version|lora|model|merge)s?\b",
    re.I,
)
_MANNER = re.compile(
    r"\bas an?\b[^,.;]*|\b(?:in|on|with) (?:my|the|an?|one of my)\b[^,.;]*\b(?:style|look|posters?|"
    r"merge|panels|cartoon)\b|,[^,.;]*\b(?:style|look)\b[^,.;]*",
    re.I,
)
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

    base = base_name = None
    if found := _BASE.search(free):
        base_name = (found["a"] or found["b"] or found["c"]).lower()
        base = normalise_family(base_name)
        selecting.append(found.span())
    version, spans = _version(free)
    selecting += spans
    kind = _KIND.search(_MANNER.sub("", free))
    order, soft, spans = _order(free)
    selecting += spans
    period, spans = _period(free, now)
    selecting += spans

    selecting = [part for span in selecting for part in _outside(span, silent)]
    kept, weights = _weigh(request, selecting + silent)
    return Intent(
        request=request, words=kept, weights=weights, selecting=tuple(sorted(set(selecting))),
        excluded=excluded, version=version, order=order, order_is_soft=soft, period=period,
        base=base, base_name=base_name, kind=kind.lastgroup if kind else None,
        foreign=language(request) != "en",
    )  # fmt: skip


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


def _exclusions(request: str) -> tuple[tuple[str, ...], list[tuple[int, int]]]:
    stems: list[str] = []
    spans: list[tuple[int, int]] = []
    for found in _EXCLUDE.finditer(request):
        what = found["what"] or found["zh"] or found["ja"] or ""
        code = language(request)
        said = words(what) if code == "en" else translate(what, code)
        named = [word.stem for word in said if word.stem not in _FILLER]
        if named:
            stems += named
            end = found.end() - (len(found.group()) - len(found.group().rstrip()))
            spans.append((found.start(), end))
    return tuple(stems), spans


def _version(text: str) -> tuple[str | None, list[tuple[int, int]]]:
    for pattern, number in _ORDINAL_VERSION:
        if found := pattern.search(text):
            return number, [found.span()]
    if found := _VERSION.search(text):
        number = next(group for group in found.groups() if group)
        return _NUMBERS.get(number.lower(), number), [found.span()]
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
    for pattern, order in ((_SOFT_NEW, "newest"), (_SOFT_OLD, "oldest")):
        if pattern.search(text):
            return order, True, []
    return None, False, []


def _period(
    text: str, now: datetime
) -> tuple[tuple[datetime, datetime] | None, list[tuple[int, int]]]:
    found = _PERIOD.search(text)
    if not found:
        return None, []
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if found["month"]:
        # "may" and "march" are also plain words: as months they need company.
        if found["month"].lower() in ("may", "march") and not (found["rel"] or found["year"]):
            return None, []
        month = _MONTHS.index(found["month"].lower()) + 1
        year = int(found["year"] or (now.year - (month > now.month or found["rel"] == "last")))
        start, months = day.replace(year=year, month=month, day=1), 1
    elif found["only"]:
        start, months = day.replace(year=int(found["only"]), month=1, day=1), 12
    elif found["unit"]:
        return _relative(found["rel2"].lower(), found["unit"].lower(), day), [found.span()]
    elif found["ago"]:
        number = {"a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
        count = number.get(found["ago"].lower()) or int(found["ago"])
        days = {"day": 1, "week": 7, "month": 30.4, "year": 365.25}[found["ago_unit"].lower()]
        middle = day - timedelta(days=min(count, 99) * days)
        half = timedelta(days=days / 2)
        return (middle - half, middle + half), [found.span()]
    else:
        return (day - timedelta(days=1), day), [found.span()]
    return (start, _add_months(start, months)), [found.span()]


def _relative(which: str, unit: str, day: datetime) -> tuple[datetime, datetime]:
    back = which == "last"
    if unit == "week":
        start = day - timedelta(days=day.weekday() + 7 * back)
        return start, start + timedelta(days=7)
    if unit == "month":
        start = _add_months(day.replace(day=1), -int(back))
        return start, _add_months(start, 1)
    if unit == "year":
        start = day.replace(month=1, day=1, year=day.year - back)
        return start, _add_months(start, 12)
    start = day.replace(month=_SEASONS[unit], day=1)
    while start > day or (back and _add_months(start, 3) > day):
        start = _add_months(start, -12)
    return start, _add_months(start, 3)


def _add_months(moment: datetime, months: int) -> datetime:
    total = moment.year * 12 + moment.month - 1 + months
    return moment.replace(year=total // 12, month=total % 12 + 1)


def _weigh(
    request: str, hidden: list[tuple[int, int]]
) -> tuple[tuple[Word, ...], tuple[float, ...]]:
    """Words that describe, each with its weight: the surroundings start at a word of place."""
    kept: list[Word] = []
    weights: list[float] = []
    free = _blank(request, hidden)
    scene_spans = _scene_spans(free)
    manner_spans = [m.span() for m in _MANNER.finditer(free) if _names_before(free, m.start())]
    code = language(request)
    for word in words(request) if code == "en" else translate(request, code):
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
    return spans


def _names_before(text: str, place: int) -> bool:
    """Whether something was named before this place."""
    return any(word.stem not in FUNCTION_WORDS for word in words(text[:place]))
