"""Ordinary words by which a request says which model it means; none names a concept.

English ones are heard in every request, for people mix it into theirs; those of another language
only where the request is in it: "sin" rules something out in Spanish, but not in "Sin City".
Chinese and Japanese ones cannot be taken for another language's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

FILE = r"(?:version|edition|model|lora|checkpoint|one)"

_NEWEST = {
    "en": r"(?:from\s+(?:the|my)\s+)?(?:newest|latest|last)\s+training(?:\s+run)?\b"
    r"|newest|latest|newer|freshest|most recent|up[- ]to[- ]date|current|recent"
    rf"|last(?=\s+(?:{FILE}|of them|of the v\d))|(?:as|like) it is (?:now|today)|nowadays",
    "es": r"m[áa]s recientes?|m[áa]s nuev[oa]|últim[oa]|actual",
    "de": r"neue?ste[nrsm]?|neuere[nrsm]?|letzte[nrsm]?|aktuelle[nrsm]?|jüngste[nrsm]?",
    "fr": r"plus r[ée]cente?|derni[eè]re?|actuel(?:le)?",
}
_OLDEST = {
    # An "original painting" is no older than others, "the original painting" is.
    "en": r"oldest|earliest|first ever|very first|older|earlier|previous|former"
    rf"|(?:(?<=the )|(?<=my )|(?<=our ))original|original(?=\s+{FILE}\b)"
    r"|used to (?:be|look)|back when|when (?:it|he|she|they) (?:was|were) still"
    r"|first(?=\s+(?:\w+\s+){0,2}(?:model|lora|one|ever|i|we|of them|of the v\d+s?)\b)",
    "es": r"m[áa]s antigu[oa]",
    "de": r"älteste[nrsm]?|ältere[nrsm]?|frühere[nrsm]?|ursprüngliche[nrsm]?",
    "fr": r"(?:plus )?ancien(?:ne)?",
}
_BUT_ONE = {
    "en": r"second[- ](?:newest|latest|most recent)|(?:newest|latest|last) but one"
    r"|(?:second|next)[- ]to[- ](?:the )?(?:last|newest)|penultimate"
    rf"|previous(?=\s+{FILE}\b)"
    r"|(?:one|version)\s+(?:just\s+|right\s+)?before\s+(?:the\s+)?(?:newest|latest|last)\b(?:\s+one)?",
    "es": r"penúltim[oa]",
    "de": r"vorletzte[nrsm]?|zweitneueste[nrsm]?",
    "fr": r"avant-derni[eè]re?|pénultième",
}
_SECOND_OLDEST = r"second[- ](?:oldest|earliest)"
_LE = r"(?:le|la|les|el|los|las)\s+(?=plus\b|m[áa]s\b)"
_NEWEST_CJK = (
    r"の?(?:最新|一番新しい)(?:版本?|バージョン|モデル)?[的の]?|(?<!一番)新しい|最近[的の]?"
)
_OLDEST_CJK = r"最早[的の]?|最旧的?|以前的?|の?(?:最初|最古)(?:版|バージョン)?の|(?:一番)?古い"

_BEFORE = {"en": r"before|prior to", "es": "antes de", "de": r"bevor|vor|als(?=\s+\w+ noch\b)",
           "fr": "avant"}  # fmt: skip
_AFTER = {"en": r"after|since|once(?=\s+(?:it|he|she|they|we|i)\b)", "es": "después de|desde",
          "de": "nachdem|nach|seit", "fr": "apr[eè]s|depuis"}  # fmt: skip
_BEFORE_CJK, _AFTER_CJK = r"之前的?|の前の?", r"之后的?|の後の?"
_WHO = {"en": "it|he|she|they|we|i", "es": "que", "de": r"es|er|sie|wir|ich|man|\w+ noch",
        "fr": "que?"}  # fmt: skip
"""Begins a clause that tells what happened to the thing: "before it was redrawn"."""

_SOFT_OLD = {"en": "old", "es": "viej[oa]", "de": "alte[nrsm]?", "fr": "vieux|vieille"}
_SOFT_NEW = {"en": "new", "es": "nuev[oa]", "de": "neue[nrsm]?", "fr": "nouvelle|nouveau"}

_NOT = {
    "en": r"(?:that|which)\s+(?:is|are)\s+not|(?:is|are)n['\u2019]t"
    r"|(?:that|which|who)\s+(?:does|do|did|has|have|had)(?:\s+not|n['\u2019]t)"
    r"(?:\s+(?:have|wear|show))?"
    r"|(?:does|do)n['\u2019]t (?:have|wear|show)|(?:anything|any one|everything|all) (?:but|except)"
    r"|other than|not|no|without|except(?: for)?|excluding|minus|neither|nor|instead of"
    r"|rather than|(?:do not|don['\u2019]t|never) use",
    "es": "sin|ni|excepto|salvo",
    "de": r"nicht|ohne|au(?:ß|ss)er|keine?[nmrs]?|weder|noch(?=\s+(?:der|die|das|ein|mit))",
    "fr": r"sans|ni|pas(?:\s+(?:de|le|la|les))?|sauf",
}
_NOT_CJK = (
    r"|(?:不要|不是|没有|没|别|除了)(?P<zh>[^\uff0c\u3002,的]+)"
    r"(?:的(?:那[个只张])?(?=[\uff0c\u3002,]|$))?"
    r"|(?P<ja>[^\u3001\u3002,]{1,8}?)(?:ではない|じゃない|以外の?|なしの?)"
)
_ENDS_WHAT = (
    "but|on|at|under|near|next|beside|behind|not|no|nor|without|and no|auf|unter|sur|sous|sobre"
    "|bajo"
)


@dataclass(frozen=True, slots=True)
class Cues:
    """Patterns for requests of one language."""

    newest: re.Pattern[str]
    oldest: re.Pattern[str]
    but_one: re.Pattern[str]
    """The one before the newest."""
    second_oldest: re.Pattern[str]
    before: re.Pattern[str]
    """Groups: `who` of a clause; `cjk`, after what it follows."""
    after: re.Pattern[str]
    soft_old: re.Pattern[str]
    soft_new: re.Pattern[str]
    exclude: re.Pattern[str]
    """What it must not be is in one of the groups `what`, `zh` and `ja`."""


@cache
def cues(code: str) -> Cues:
    """The cues of a language of `translate.LANGUAGES` or English."""

    def of(by_language: Mapping[str, str]) -> str:
        heard = dict.fromkeys(("en", code))
        return "|".join(by_language[name] for name in heard if name in by_language)

    def read(pattern: str) -> re.Pattern[str]:
        return re.compile(pattern, re.I)

    def event(by_language: Mapping[str, str], cjk: str) -> re.Pattern[str]:
        return read(rf"\b(?:{of(by_language)})\b(?P<who>\s+(?:{of(_WHO)})\b)?|(?P<cjk>{cjk})")

    return Cues(
        newest=read(rf"\b(?:the\s+|{_LE})?(?:{of(_NEWEST)})\b|{_NEWEST_CJK}"),
        oldest=read(rf"\b(?:the\s+(?=first)|{_LE})?(?:{of(_OLDEST)})\b|{_OLDEST_CJK}"),
        but_one=read(rf"\b(?:the\s+|{_LE})?(?:{of(_BUT_ONE)})\b"),
        second_oldest=read(rf"\b(?:the\s+)?(?:{_SECOND_OLDEST})\b"),
        before=event(_BEFORE, _BEFORE_CJK),
        after=event(_AFTER, _AFTER_CJK),
        soft_old=read(rf"\b(?:{of(_SOFT_OLD)})\b"),
        soft_new=read(rf"\b(?:{of(_SOFT_NEW)})\b"),
        exclude=read(
            rf"(?:,\s*)?\b(?:(?:and|but|y|und|et)\s+)?(?:{of(_NOT)})\b"
            rf"(?P<what>(?:(?!\b(?:{_ENDS_WHAT})\b)(?:[^,;.:()]|(?<=\d)\.(?=\d)))*){_NOT_CJK}"
        ),
    )
