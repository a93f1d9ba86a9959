"""Words of other languages, read as English: cards are mostly written in it.

Two tables give the words. lexicon.tsv is a small one by hand of what pictures are made of: animals,
people, places, things, clothes, colours, materials, media. tables/translations.tsv.gz, from
Wiktionary and the Chinese Open Wordnet, has what it has not. Names are left as they are; Japanese
kana become Latin letters.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from itertools import zip_longest
from pathlib import Path

from .kana import romaji
from .thesaurus import thesaurus
from .words import Word, fold, is_cjk, own_before, stem, words

LANGUAGES = ("es", "de", "fr", "zh", "ja")
_MARKS = {
    code: frozenset(small.split())
    for code, small in (
        ("es", "a el la los las un una mi mis nuestro nuestra de del con en y sin por para que al "
         "su más nuevo nueva último última viejo vieja"),
        ("de", "der die das den dem ein eine einen einem mein meine meinen unser unsere mit und in "
         "im am auf ohne nicht kein keine von vom für als es war noch aus bei ist zum zur vor nach "
         "neue neuer neueste neuester alte älteste ältester letzte letzter"),
        ("fr", "le la les un une des mon ma mes notre nos de du avec dans sur et sans pas pour en "
         "au aux qui est l d nouveau nouvelle dernier dernière vieux vieille ancien ancienne"),
    )
}  # fmt: skip
_ENGLISH = frozenset(
    ["the", "a", "an", "my", "our", "of", "with", "and", "in", "on", "at", "for", "to", "not",
    "no", "is", "as", "his", "her", "this", "that", "it", "without", "from"]
)  # fmt: skip
_LETTERS = {"de": "äöüß", "es": "ñáíóú¿¡", "fr": "çèêàœîôû"}
"""Letters that tell, where no small word does."""


@lru_cache(maxsize=256)
def language(text: str) -> str:
    """ "en", "es", "de", "fr", "zh" or "ja", by characters and small words.

    The words beside these tell where that is close: a single small word may be an English one.
    """
    if re.search(r"[\u3040-\u30ff]", text):
        return "ja"
    if is_cjk(text):
        return "zh"
    found = re.findall(r"\w+", text.casefold() if text.isupper() else text)
    counts = {
        code: sum(word.casefold() in small for word in _outside_names(found, code))
        + any(letter in text.casefold() for letter in _LETTERS[code]) / 2
        for code, small in _MARKS.items()
    }
    ahead = max(counts.values()) - sum(word.casefold() in _ENGLISH for word in found)
    if ahead <= 0:
        return "en"
    most = [code for code in counts if counts[code] == max(counts.values())]
    known = {code: _known(found, code) for code in most} if len(most) > 1 or ahead <= 1 else {}
    best = max(most, key=lambda code: known.get(code, 0))
    is_english = ahead <= 1 and _known_in_english(found, best) > known[best]
    return "en" if is_english else best


def _outside_names(found: Sequence[str], code: str) -> list[str]:
    """Words but those that begin a name: "Sin City", "Los Angeles". In German, where all nouns are
    large, the first word of a request begins none."""
    kept = [
        word
        for word, after in zip_longest(found, found[1:], fillvalue="")
        if not (word[0].isupper() and after[:1].isupper())
    ]
    return [*found[:1], *kept] if code == "de" and found[:1] != kept[:1] else kept


def _known(found: Sequence[str], code: str) -> int:
    """How many of the words that are no marks are words of a language."""
    table, marks = _lexicon()[code], _MARKS[code]
    others = (fold(word) for word in found if word.casefold() not in marks)
    return sum(_look_up(word, table, "") is not None for word in others)


def _known_in_english(found: Sequence[str], code: str) -> int:
    """The same for English, beside the marks of another language: "sans serif letters"."""
    others = (word for word in found if word.casefold() not in _MARKS[code])
    return sum(thesaurus().lemma(word) is not None for word in others)


_PARTICLE = re.compile(r"[のがをにはでとも的了在我们你他她是]")
"""What joins Chinese and Japanese words, and is no part of a name."""

_OF_ONES_OWN = {
    "mujer": "wife", "frau": "wife", "femme": "wife", "mann": "husband", "hombre": "husband",
}  # fmt: skip
"""What words mean where they are said to be one's own: "meine Frau"."""

Table = Mapping[str, tuple[str, ...]]
"""Folded foreign word -> English, the likeliest first; may be several words each."""


@cache
def _lexicon() -> dict[str, Table]:
    """Language -> its table."""
    tables: dict[str, dict[str, tuple[str, ...]]] = {code: {} for code in LANGUAGES}
    for line in Path(__file__).with_name("lexicon.tsv").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        english, *columns = line.split("|")
        for code, column in zip(LANGUAGES, columns, strict=True):
            for form in column.split("/"):
                tables[code].setdefault(form if is_cjk(form) else fold(form), (english,))
    packed = Path(__file__).with_name("tables").joinpath("translations.tsv.gz").read_bytes()
    for line in gzip.decompress(packed).decode().splitlines():
        code, form, english = line.split("\t")
        known = tuple(word.replace("_", " ") for word in english.split())
        tables[code].setdefault(form if is_cjk(form) else fold(form), known)
    return dict(tables)


def translate(request: str, code: str) -> list[Word]:
    """The words of a request: places in the request, but text and stem in English."""
    table = _lexicon()[code]
    if code in ("zh", "ja"):
        return [part for word in _unbroken(words(request)) for part in _segment(word, table)]
    found: list[Word] = []
    for word in words(request):
        text, skip = word.text, 0
        if prefix := re.match(r"[ldLDqu]{1,2}['\u2019]", text):
            text, skip = text[prefix.end() :], prefix.end()
        english = _look_up(fold(text), table, code)
        if fold(text) in _OF_ONES_OWN and own_before(request, word.start):
            english = (_OF_ONES_OWN[fold(text)],)
        found += _words_of(english or (text,), word.start + skip, word.end, text)
    return found


def _unbroken(found: Sequence[Word]) -> list[Word]:
    """Runs of Chinese or Japanese, whatever script they are in: a word may have several."""
    runs: list[Word] = []
    for word in found:
        last = runs[-1] if runs else word
        if runs and last.end == word.start and is_cjk(last.text) and is_cjk(word.text):
            runs[-1] = replace(last, text=last.text + word.text, end=word.end)
        else:
            runs.append(word)
    return runs


def _words_of(english: Sequence[str], start: int, end: int, said: str) -> list[Word]:
    """The likeliest translation; the others, and what was said itself, beside it."""
    first, *rest = english
    parts = first.split()
    also = (*rest, said) if len(parts) == 1 and said != first else ()
    return [Word(part, stem(part), start, end, also) for part in parts]


def _look_up(word: str, table: Table, code: str) -> tuple[str, ...] | None:
    for form in (word, word.rstrip("s"), re.sub(r"(?:es|en|er|e|n|x)$", "", word)):
        if form in table:
            return table[form]
    if code == "de":  # compounds: "Plüschhase" is a plush rabbit
        for cut in range(3, len(word) - 2):
            head, tail = word[:cut].removesuffix("s"), word[cut:]
            left = table.get(word[:cut]) or table.get(head) or table.get(head.removesuffix("n"))
            right = _look_up(tail, table, "") or _english(tail)
            if left and right:
                return (f"{left[0]} {right[0]}",)
    return None


def _english(word: str) -> tuple[str, ...] | None:
    """A long word that both languages share: "Strudel"."""
    return (word,) if len(word) > 4 and thesaurus().lemma(word) == word else None


def _segment(word: Word, table: Table) -> list[Word]:
    """Longest known words first; kana that mean nothing known are a name."""
    if not is_cjk(word.text):
        return [word]
    found: list[Word] = []
    place = 0
    unknown = ""
    text = word.text
    while place <= len(text):
        sizes = range(min(8, len(text) - place), 0, -1)
        size = next((n for n in sizes if text[place : place + n] in table), 0)
        if size or place == len(text):
            found += _name(unknown, word.start + place)
            unknown = ""
        if place == len(text):
            break
        if size:
            start, said = word.start + place, text[place : place + size]
            found += _words_of(table[said], start, start + size, romaji(said) or said)
            place += size
        else:
            joins = not unknown or _script(unknown[-1]) == _script(text[place])
            if _PARTICLE.match(text[place]) or not joins:
                found += _name(unknown, word.start + place)
                unknown = ""
            if not _PARTICLE.match(text[place]):
                unknown += text[place]
            place += 1
    return found


def _script(char: str) -> int:
    """Hiragana 0, katakana 1, characters 2: a name is written in one of them."""
    return 0 if "ぁ" <= char <= "ゖ" else 1 if "ァ" <= char <= "ヿ" else 2


def _name(text: str, end: int) -> list[Word]:
    """The word of a name that ends at `end`; a single character is none."""
    if len(text) < 2:
        return []
    latin = romaji(text) or text
    return [Word(latin, stem(latin), end - len(text), end)]
