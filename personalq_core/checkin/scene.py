"""Where a request speaks of the surroundings and the manner of a picture, not of the thing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

from ..language.thesaurus import thesaurus
from ..language.words import FUNCTION_WORDS, WORN, fold, words

_SHOWN = re.compile(
    r"^(?!\W*(?:using|subject|prompt|for)\b)"
    r"[^,;:.]*\b(?:(?:style|look|aesthetic)s?\s*[,;:]|(?<!the )(?:style|look)s? of\b"
    r"|\w+\s?:(?!\d))",
    re.I,
)
"""Begins a request: "charcoal style, a boxer", "brush lettering: hello". What follows is shown in
it."""
_SCENE = re.compile(
    r"\b(?:on|over|at|under|near|nearby|beside|behind|above|below|inside|through|among|between|against"
    r"|across|around|during|while|next to|in front of|in (?:a|an|the|my|our)|into|by the|"
    r"that says?|saying|auf|unter|neben|hinter|bei|beim|im|am|in (?:der|dem|einem|einer)|sur|sous"
    r"|devant|derrière|dans|sobre|bajo|junto|cerca|en (?:el|la|un|una|los|las))\b"
    r"|“|(?<!\w)\"(?=\S)|在",
    re.I,
)
_PLACE_BEFORE = re.compile(r"[㐀-鿿]{1,6}?(?:上|里|中|下|旁边|前)的(?=\w)")
"""Chinese names the place first: "海滩上的", on the beach."""
_PLACE_BY_KANA = re.compile(r"[㐀-鿿々ァ-ヿー]{1,12}(?<![絵風調])(?:の[中上下前横隣])?[でに](?!は)")
"""Japanese tells the place behind it: "浜辺で", on the beach."""
_STYLE = re.compile(
    r"\b(?:style|look|drawing|painting|sketch|photo|illustration|poster|comic|cartoon|panels"
    r"|version|lora|model|merge)s?\b",
    re.I,
)
_MANNER = re.compile(r"\bas an?\b[^,.;]*|,[^,.;]*\b(?:style|look)\b[^,.;]*", re.I)
_MANNER_BEGINS = re.compile(r"\b(?:in|on|with) ", re.I)
_MANNER_ENDS = re.compile(r"\b(?:style|look|posters?|merge|panels|cartoon)\b", re.I)
PICTURE_OF = re.compile(
    r"^\W*(?:(?:an?|the|my)\b\s*)?(?P<how>\b[^,.;]*?\b(?P<last>\w+)) of\b", re.I
)
"""Begins a request: "a storyboard sketch of"."""
_LEADING_PLACE = re.compile(
    r"\W*(?P<place>(?:in|on|at|under|inside|beside|behind|during|near|among)\s[^,.;:]*),(?=\s*\w)",
    re.I,
)
"""Begins a request with the surroundings: "In a night market, my robot pours tea"."""
_PICTURE_OF_ONE = re.compile(
    r"(?<=['\u2019]s )(?:portrait|photo|photograph|picture|headshot|selfie)s?\b", re.I
)
"""What "Sarah's portrait" is, and not what it shows."""
_SETTING = re.compile(
    r"(?<=[,;.])[^,;.]*\b(?:background|backdrop|lighting|light|shot|view|angle|close-?up|bokeh"
    r"|quality|resolution|composition|scene|mood|atmosphere|hintergrund|fondo|fond|背景)s?\b[^,;.]*",
    re.I,
)
"""A phrase after a comma about the picture, not about what it shows."""
_SCENE_ENDS = re.compile(r"[,;.\uff0c\u3002]|\bwith\b|\bBREAK\b")
_AND_A = re.compile(r"\b(?:and an?|und eine?[mnr]?|et une?|y una?)\b", re.I)
"""Begins what else is in the picture: "my bear and a dog", but not "with a hat and a scarf"."""
_LONGEST_NAME = 60
"""Characters of what something wears: "yellow raincoat"."""
_WORN = re.compile(rf"\b(?:{'|'.join(sorted(WORN))})\b", re.I)


def manner_spans(text: str) -> list[tuple[int, int]]:
    """How it is pictured: "as a sketch", "in my old poster style", ", oil painting look"."""
    spans = [found.span() for found in _MANNER.finditer(text)]
    for clause in re.finditer(r"[^,.;]+", text):
        if begins := _MANNER_BEGINS.search(text, *clause.span()):
            ends = [m.end() for m in _MANNER_ENDS.finditer(text, begins.end(), clause.end())]
            spans += [(begins.start(), end) for end in ends[-1:]]
    return spans


def places(spans: Sequence[tuple[int, int]], text: str) -> bytearray:
    """For each place of a text whether one of the spans covers it."""
    covered = bytearray(len(text))
    for start, end in spans:
        covered[start:end] = bytes([1]) * (end - start)
    return covered


def next_place(pattern: re.Pattern[str], text: str, place: int) -> int:
    """Where a pattern is next found; the end of the text where it is not."""
    found = pattern.search(text, place)
    return found.start() if found else len(text)


def scene_spans(text: str, named: int) -> list[tuple[int, int]]:
    """From a word of place to the next comma, except where that names a style. The surroundings
    are named after the thing, which begins at `named`."""
    spans = []
    end = style = 0  # the next ones
    begins = [*_SCENE.finditer(text), *_AND_A.finditer(text, 0, next_place(_WORN, text, 0))]
    for found in sorted(begins, key=re.Match.start):
        end = end if found.end() <= end else next_place(_SCENE_ENDS, text, found.end())
        style = style if found.end() <= style else next_place(_STYLE, text, found.end())
        if named < found.start() and end <= style and not _is_dressed(text, found, end):
            spans.append((found.start(), end))
    spans += [found.span() for found in _PLACE_BEFORE.finditer(text)]
    spans += [found.span() for found in _PLACE_BY_KANA.finditer(text) if named < found.start()]
    if (led := _LEADING_PLACE.match(text)) and not _STYLE.search(led["place"]):
        spans.append(led.span("place"))
    spans += [(found.end(), len(text)) for found in _SHOWN.finditer(text)]
    spans += [found.span() for found in _PICTURE_OF_ONE.finditer(text)]
    return spans + [m.span() for m in _SETTING.finditer(text) if named < m.start()]


def _is_dressed(text: str, place: re.Match[str], end: int) -> bool:
    """Whether it is no place that a thing is in but what it wears: "in the yellow raincoat"."""
    if not place.group().lower().startswith("in "):
        return False
    near = text[place.end() : min(end, place.end() + _LONGEST_NAME)]
    said = takewhile(lambda word: word.stem not in FUNCTION_WORDS, words(near))
    return any(thesaurus().is_clothing(word.text) for word in [*said][-1:])


def first_named(text: str) -> int:
    """Where the first word is that says anything; the end of the text where none does."""
    starts = (word.start for word in words(text) if fold(word.text) not in FUNCTION_WORDS)
    return next(starts, len(text))
