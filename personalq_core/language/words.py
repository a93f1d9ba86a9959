"""Words: how a request and the text of a card are cut so that they can be compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from .kana import romaji

_WORD = re.compile(r"[぀-ヿㇰ-ㇿ]+|[㐀-鿿々]+|[^\W_぀-ヿㇰ-ㇿ㐀-鿿々]+(?:['\u2019][^\W\d_]+)*")
_CJK = re.compile(r"[぀-ヿ㐀-鿿々]")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_WHOLE = re.compile(r"[vV]\d+|LoRAs?|LoCon|LoHa|LoKr|LyCORIS")
"""Looks like several words run together, and is one."""
_BREAK = re.compile(r"(?<=[^\W_]|\))[\s_]+|\\?([()])")


def _listed(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


DETERMINERS = _listed(
    "a an the my our your his her its their this that these those "
    "el la los las un una unos unas mi mis tu su sus nuestro nuestra "
    "der die das den dem des ein eine einen einem einer eines mein meine meinen meinem meiner "
    "meines unser unsere unserer unserem unseren unseres le les l une mon ma mes notre nos ce cette"
)
"""Words that stand before a noun and leave the prompt with it."""
OWNERS = _listed(
    "my our mi mis nuestro nuestra mein meine meinen meinem meiner meines unser unsere unserem "
    "unseren unseres mon ma mes notre nos"
)
"""Words that say whose a thing is: the user's own."""
WORN = _listed("with wearing mit con avec")
"""Words after which stands what a thing has or wears."""

_FUNCTION_WORDS = DETERMINERS | _listed(
    "i we you he she it they me us of in on at by to for from with and or but as is are was were "
    "be been am do does did has have had so if then than too very just only some any all one ones "
    "into onto over under near next beside behind above below inside outside through among between "
    "against across around toward towards during while when where which who whose what how up down "
    "off out about there please want need make made give show use using s t m ve re ll d not no "
    "can could will would shall should may might must thing things something anything "
    "without nor neither "
    "mas menos plus moins cote beim "
    "de del al en con por para y o que es como sin era cuando fue esta muy "
    "war wurde noch unserem unseren als "
    "etait quand est tres "
    "und oder mit von vom zu zum zur im am auf aus bei als ist es fur nicht kein keine ohne "
    "du et ou avec dans sur sous au aux par pour qu elle il pas sans"
)


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a request, which stands at `[start:end]`; `text` may be its translation."""

    text: str
    stem: str
    start: int
    end: int
    also: tuple[str, ...] = ()
    """What a word of another language may mean as well, itself (a name) among it."""


def words(text: str) -> list[Word]:
    """The words of a request with their places; runs of Chinese or Japanese stay whole."""
    return [
        Word(found.group(), stem(found.group()), found.start(), found.end())
        for found in _WORD.finditer(text)
    ]


def runs(found: Iterable[Word], are_joined: Callable[[Word, Word], bool]) -> list[list[Word]]:
    """Words, those together that are joined with the one before."""
    together: list[list[Word]] = []
    for word in found:
        if together and are_joined(together[-1][-1], word):
            together[-1].append(word)
        else:
            together.append([word])
    return together


_OWN = re.compile(
    rf"\b(?:{'|'.join(sorted(OWNERS))})\s+(?:\w+\s+){{0,2}}$"
    "|(?:我们?|我家|咱们?|私|僕|俺|うち)[的の]?(?:最[新旧][的の]?)?$", re.I
)
_NEAR = 60
"""Characters: the longest words between "my" and what is said to be one's own."""


def own_before(text: str, place: int) -> bool:
    """Whether the words before a place say that what stands there is the user's own."""
    return bool(_OWN.search(text[max(0, place - _NEAR) : place]))


def cjk_runs(text: str) -> list[tuple[int, int]]:
    """Where runs of Chinese or of one Japanese script stand."""
    return [found.span() for found in _WORD.finditer(text) if is_cjk(found.group())]


def is_cjk(text: str) -> bool:
    """Whether a text holds Chinese or Japanese characters."""
    return bool(_CJK.search(text))


def fold(text: str) -> str:
    """Lower case without accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char))


_IRREGULAR = {
    "grey": "gray", "wooden": "wood", "golden": "gold", "woolen": "wool", "silken": "silk",
    "children": "child", "women": "woman", "men": "man", "mice": "mouse", "leaves": "leaf",
    "leave": "leaf", "knives": "knife", "wolves": "wolf", "wolve": "wolf", "photograph": "photo",
    "photographic": "photo", "foto": "photo", "xmas": "christmas", "aquarelle": "watercolor",
    "drawn": "draw", "mom": "mother", "mum": "mother", "dad": "father",
    "grandma": "grandmother", "granny": "grandmother", "grandpa": "grandfather",
}  # fmt: skip


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A word without accents, possessive, plural, -ed, -ing and silent e: enough to match words,
    not a grammar."""
    word = fold(word)
    word = re.sub(r"['\u2019]s?$", "", word)
    word = re.sub(r"['\u2019].*$", "", word) if len(re.split(r"['\u2019]", word)[0]) > 2 else word
    if not word.isascii() or not word.isalpha() or word in _IRREGULAR or len(word) < 4:
        return _IRREGULAR.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif re.search(r"(?:ss|x|ch|sh|zz)es$", word):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for suffix in ("ing", "ed"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 4:
            word = word[: -len(suffix)]
            word = word[:-1] if re.search(r"([bdgmnprt])\1$", word) else word
            break
    if word.endswith("our") and len(word) > 4:
        word = word[:-3] + "or"
    word = _IRREGULAR.get(word, word)
    return re.sub(r"(?<=[^aeiou])e$", "", word) if len(word) > 4 else word


FUNCTION_WORDS = _FUNCTION_WORDS | frozenset(map(stem, _FUNCTION_WORDS))
"""Words that say nothing about what a picture shows, as they are and as stems."""


def terms(text: str) -> list[str]:
    """Stems of a card's text; compounds like `PiratePunkAI` also in their parts.

    Chinese and Japanese runs give their pairs of characters, names in kana their Latin letters too.
    """
    found: list[str] = []
    for match in _WORD.finditer(text):
        word = match.group()
        if is_cjk(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
            found += [latin] if len(word) > 1 and (latin := romaji(word)) else []
            continue
        found.append(stem(word))
        parts = [] if _WHOLE.fullmatch(word) else _CAMEL.findall(word)
        if len(parts) > 1:
            found += [stem(part) for part in parts if len(part) > 1]
    return found


@lru_cache(maxsize=4096)
def spelling(name: str) -> re.Pattern[str]:
    """Finds a whole name, however its spaces and brackets are written: "miku (vocaloid)" in
    "miku_(vocaloid)" and in "miku \\(vocaloid\\)", where brackets are no weight."""
    pattern, end = "", 0
    for found in _BREAK.finditer(name):
        pattern += re.escape(name[end : found.start()])
        pattern += rf"\\?\{found[1]}" if found[1] else r"[\s_]+"
        end = found.end()
    return re.compile(rf"(?<!\w){pattern}{re.escape(name[end:])}(?!\w)", re.I)


def spelled_in(name: str, text: str) -> re.Match[str] | None:
    """Where a text has a name, however it is spelled; both folded.

    Most names are not there, which their parts tell sooner than a pattern is made.
    """
    parts = _BREAK.split(name)[::2]
    return spelling(name).search(text) if all(part in text for part in parts) else None


def content(text: str) -> list[str]:
    """`terms` without function words."""
    return [term for term in terms(text) if term not in FUNCTION_WORDS]
