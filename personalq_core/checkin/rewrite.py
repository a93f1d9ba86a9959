"""The prompt with the canonical trigger in the place of the words that named the concept."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..language.words import (
    DETERMINERS,
    FUNCTION_WORDS,
    OWNERS,
    WORN,
    Word,
    fold,
    runs,
    spelling,
    stem,
    terms,
    words,
)
from ..library.card import ModelCard
from .beside import base_named
from .gaps import without_gaps
from .intent import DOING, PROTECTED, QUOTED, SCENE_WEIGHT, Intent

_WEIGHT = re.compile(r":\s*\d+(?:\.\d+)?\s*\)")
_SUFFIX = r"\.(?:safetensors|sft|ckpt|pt)\b"
_REST_OF_NAME = re.compile(
    rf"(?:_\w+)?(?:-\d+)?(?:_\\?\([^()\n]*\)|\\\([^()\n]*\\\))?(?:{_SUFFIX})?", re.I
)
_POSSESSIVE = re.compile(r"(?<=\w)['\u2019]s$")
_OWN_CJK = re.compile(
    r"(?:(?:我们?|我家|咱们?|私|僕|俺|うち|わたし|ぼく)[的の]?|[戴穿带]着?)$"
)
_EDITION = re.compile(r"(?:final|fixed|beta|alpha|test)\d*", re.I)
_FILE_EDITION = re.compile(rf"\b(?:{_EDITION.pattern}|v\d[\d.]*)\b|-\d+$", re.I)
_WEARS = re.compile(
    rf"\s*(?:,|\b(?:in|{'|'.join(sorted(WORN))})\b)\s*(?:\b(?:{'|'.join(sorted(DETERMINERS))})\s+)?",
    re.I,
)
_WHICH_ONE = re.compile(
    r"(?:[,(\[\u2013\u2014]|\s--?\s)\s*(?P<which>(?:the|my|our|that)\s+(?:[\w-]+\s+){0,3}ones?\b"
    r"(?:\s+(?:with|wearing|in|from)\s+[^,.;:()\[\]\u2013\u2014]{1,40}?)?)"
    r"(?=\s*(?:$|[,.;:)\]\u2013\u2014]|--?\s))", re.I
)
"""A phrase of its own, between commas, brackets or dashes: "the one with the hat"."""
_OF = {"of", "de", "du", "von"}
_TAKEN_ALONG = DETERMINERS | {"old", "new"}
"""Words before the noun that go with it."""


@dataclass(frozen=True, slots=True)
class Edit:
    """`text` takes the place of `old`, which stood at `start` of the prompt before this edit."""

    start: int
    old: str
    text: str


def rewrite(
    intent: Intent, cards: Sequence[ModelCard], is_named: bool = True
) -> tuple[str, tuple[Edit, ...]]:
    """The prompt for the chosen cards (subject first), and the edits that `undo` takes back.

    Selection words leave, and those that name a base without a trigger; for each card with a
    trigger, the words that named it become the trigger, brackets escaped; a trigger that is there
    already is left alone. All other bytes stay.
    Unless the first card `is_named`, its trigger comes before what the request says.
    """
    request = intent.request
    there = [
        place for card in cards for name in card.triggers[:1] if (place := _place_of(request, name))
    ]
    quoted = [found.span() for found in QUOTED.finditer(request)]
    bases = [span for card in cards if not card.triggers and (span := base_named(intent, card))]
    editions = [span for card in cards for span in _editions(request, card)]
    apposed = [span for card in cards for span in _apposed(request, card)]
    selecting = sorted({*intent.selecting, *bases, *editions, *apposed})
    leaving = [span for span in without_gaps(request, selecting) if not _overlaps(span, there)]
    replaced = {
        span: text
        for card in cards
        if not card.triggers and card.kind == "lora"
        for span, text in _file_in_words(request, card).items()
        if not _overlaps(span, there)
    }
    for card in cards:
        if not card.triggers or _place_of(request, card.triggers[0]):
            continue
        if _place_of(_apply(request, replaced, leaving)[0], card.triggers[0]):
            continue  # its words come together where others leave: "tdybr4 newest bear"
        taken = [*there, *quoted, *bases, *replaced]
        # Words of a manner or a place name a style or another thing, but never the thing itself.
        least = SCENE_WEIGHT if card is not cards[0] else 1.0 if is_named else math.inf
        span = _spelled_span(intent, card, least) or _named_span(intent, card, taken, least)
        trigger = _escaped(card.triggers[0])
        if span is None or _overlaps(span, taken):
            replaced[(0, 0)] = replaced.get((0, 0), "") + trigger + ", "
        else:
            noun = _kept_noun(request, span, card)
            text = f"{trigger} {noun}" if noun else trigger
            if owns := _POSSESSIVE.search(request[slice(*span)]):
                text += owns.group()
            replaced[span] = _spaced(request, span, leaving, text)
    prompt, edits = _apply(request, replaced, leaving)
    return (prompt, edits) if prompt.strip() else (request, ())


def _overlaps(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in others)


def undo(prompt: str, edits: Sequence[Edit]) -> str:
    """The request that `rewrite` was given."""
    for edit in reversed(edits):
        end = edit.start + len(edit.text)
        prompt = prompt[: edit.start] + edit.old + prompt[end:]
    return prompt


def _apply(
    request: str, replaced: dict[tuple[int, int], str], leaving: list[tuple[int, int]]
) -> tuple[str, tuple[Edit, ...]]:
    taken = list(replaced)
    spans = dict(replaced)
    for start, end in leaving:
        if not any(start < b and a < end for a, b in taken):
            spans[(start, end)] = ""
            taken.append((start, end))
    edits, prompt, shift = [], request, 0
    for (start, end), text in sorted(spans.items()):
        place = start + shift
        edits.append(Edit(place, request[start:end], text))
        prompt = prompt[:place] + text + prompt[place + end - start :]
        shift += len(text) - (end - start)
    return prompt, tuple(edits)


def _spaced(
    request: str, span: tuple[int, int], leaving: Sequence[tuple[int, int]], text: str
) -> str:
    """Apart from its neighbours, which Chinese and Japanese write without spaces."""
    start, end = span
    for a, b in reversed(leaving):
        start = a if b == start else start
    for a, b in leaving:
        end = b if a == end else end
    before, after = request[:start][-1:], request[end:][:1]
    return " " * bool(re.match(r"\w", before)) + text + " " * bool(re.match(r"\w", after))


def _place_of(text: str, trigger: str) -> tuple[int, int] | None:
    """Where a trigger stands already: in its own spelling, with its brackets escaped or not."""
    plain = _unescaped(trigger).casefold()
    places = (found.span() for found in spelling(trigger).finditer(text))
    return next((s for s in places if _unescaped(text[slice(*s)]).casefold() == plain), None)


def _apposed(request: str, card: ModelCard) -> list[tuple[int, int]]:
    """Where a phrase says which one it is, in a card's words: "my tram (the yellow one)"."""
    own = _words_of(card)
    return [
        found.span("which")
        for found in _WHICH_ONE.finditer(request)
        if (said := set(terms(found["which"])) - FUNCTION_WORDS) and said <= own
    ]


def _words_of(card: ModelCard) -> set[str]:
    """The stems of all that a card says."""
    return set(terms(" ".join((card.title, *card.triggers, *card.tags, card.description))))


def _editions(request: str, card: ModelCard) -> list[tuple[int, int]]:
    """Where the name of a card is followed by what tells its version: the "final2" of "lamplighter
    final2"."""
    title = set(terms(card.title))
    name = title.union(*map(terms, card.triggers[:1]))
    return [
        (word.start, word.end)
        for one, word in pairwise(words(request))
        if word.stem in title and _EDITION.fullmatch(word.text) and one.stem in name
        and not request[one.end : word.start].strip(" ")
    ]  # fmt: skip


def _file_in_words(request: str, card: ModelCard) -> dict[tuple[int, int], str]:
    """Where a request names a card's file, with the words of that name: "dragon" for
    "dragon_final_v2.safetensors"."""
    file = card.name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    said = re.search(rf"(?<![\w.-]){re.escape(file)}(?:{_SUFFIX})?(?![\w-])", request, re.I)
    kept = [found.span() for found in PROTECTED.finditer(request)]
    if said is None or said.group().isalnum() or _overlaps(said.span(), kept):
        return {}
    named = _FILE_EDITION.sub(" ", file.replace("_", " "))
    start, end = said.span()
    return {(_with_folder(request, start, card), end): " ".join(named.split()) or file}


def _with_folder(request: str, start: int, card: ModelCard) -> int:
    """The start with the folder that a file is in, where it stands before: "people/emma"."""
    folder, slash, _ = card.name.rpartition("/")
    return start - len(folder + slash) if request[:start].endswith(folder + slash) else start


def _unescaped(text: str) -> str:
    return re.sub(r"\\([()])", r"\1", text)


def _escaped(trigger: str) -> str:
    """Brackets that are no weights, so that they are not taken for some."""
    return trigger if _WEIGHT.search(trigger) else re.sub(r"(?<!\\)([()])", r"\\\1", trigger)


def _spelled_span(intent: Intent, card: ModelCard, least: float) -> tuple[int, int] | None:
    """Where the trigger stands in another spelling: "moss_knight" for "moss knight"."""
    found = spelling(card.triggers[0]).search(intent.request)
    if found is None or least == math.inf or PROTECTED.search(found.group()):
        return None
    start, end = _whole(intent.request, *found.span())
    return _with_determiner(intent, start), end


def _whole(request: str, start: int, end: int) -> tuple[int, int]:
    """With the rest of the name that it is a part of: "bear" in "bear_v7.safetensors"."""
    before = re.search(r"(?:\w*_|(?:\w+-)+)?\Z", request[:start])
    after = _REST_OF_NAME.match(request, end)
    assert before is not None and after is not None
    whole = before.start(), after.end()
    return (start, end) if PROTECTED.search(request[slice(*whole)]) else whole


def _named_span(
    intent: Intent, card: ModelCard, taken: list[tuple[int, int]], least: float
) -> tuple[int, int] | None:
    """The run of words that named the concept: its matched words and what is between them.

    Words that weigh less than `least` name nothing.
    """
    own = _words_of(card)
    name = set(terms(f"{card.title} {card.triggers[0]}"))
    labels = name | set(terms(" ".join((*card.triggers, *card.tags))))
    free = [
        (word, weight)
        for word, weight in intent.weighed()
        if not any(a <= word.start < b for a, b in taken)
        and not (DOING.search(word.text) and word.stem not in name)  # "bear sitting"
    ]
    named = _named_runs(intent, [word for word, weight in free if weight >= least], card.title)
    named = _told_together(intent, named, name, set(terms(card.triggers[0])))
    if not named:
        return None

    def strength(run: list[Word]) -> tuple[int, ...]:
        told = [sum(word.stem in said for word in run) for said in (name, labels, own)]
        return (*told, -run[0].start)

    best = max(named, key=strength)
    is_said = any(word.stem in own for word in best)
    # Only the thing itself may be called otherwise.
    if not is_said and (best is not named[0] or least < 1):
        return None
    if best is not named[0] and strength(best)[1] == 0 and _is_worn(intent, best):
        best = named[named.index(best) - 1][-1:]  # what wears it is the concept
    matched = [word for word in best if word.stem in own] or best
    called = [place for place, word in enumerate(matched) if word.stem in labels]
    matched = matched[: called[-1] + 1] if called else matched  # "Emma's hat", "blueprint drawing"
    start, end = _whole(intent.request, matched[0].start, matched[-1].end)
    start = _with_folder(intent.request, start, card)
    return _with_determiner(intent, _with_article(intent.request, start)), end


def _with_article(request: str, start: int) -> int:
    """Take "l'" before the noun along."""
    elided = re.search(r"\b[ld]['\u2019]$", request[:start], re.I)
    return elided.start() if elided else start


def _is_worn(intent: Intent, run: list[Word]) -> bool:
    """Whether it tells of the thing before: "with his yellow hat", but not "with my bear"."""
    before = [fold(word.text) for word in words(intent.request) if word.end <= run[0].start]
    if before and before[-1] in DETERMINERS - OWNERS:
        before.pop()
    return bool(before) and before[-1] in WORN


def _named_runs(intent: Intent, kept: list[Word], title: str) -> list[list[Word]]:
    """Words with nothing between them but spaces, function words and selection words, or what is
    between them in the title as well: "Ni no Kuni"."""
    title = fold(title)

    def is_joined(last: Word, word: Word) -> bool:
        is_titled = fold(intent.request[last.start : word.end]) in title
        return is_titled or _joined(intent, last.end, word.start)

    return runs(kept, is_joined)


def _told_together(
    intent: Intent, named: list[list[Word]], name: set[str], trigger: set[str]
) -> list[list[Word]]:
    """With what a thing wears, where its trigger says that too: "pim in a yellow raincoat"."""
    told: list[list[Word]] = []
    for run in named:
        before = told[-1] if told else []
        gap = intent.request[before[-1].end : run[0].start] if before else ""
        is_said = all(w.stem in name for w in before) and all(w.stem in trigger for w in run)
        if is_said and _WEARS.fullmatch(gap):
            before += run
        else:
            told.append([*run])
    return told


def _joined(intent: Intent, start: int, end: int) -> bool:
    if PROTECTED.search(intent.request[start:end]):
        return False
    if any(a < end and start < b for a, b in intent.selecting):
        return not re.search(r"[,.;:()\[\]{}<>|]", intent.request[start:end])
    between = intent.request[start:end]
    if re.fullmatch(r"['\u2019]?\s*|_+", between):
        return True
    joining = r"(?:\s+(?:the|el|la|der|die|das|le|of|de|du))+\s+|[\u306e\u306a\u7684]"
    return bool(re.fullmatch(joining, between))


def _with_determiner(intent: Intent, start: int) -> int:
    """Take "my newest" before the noun along, and "the newest version of my"."""

    def is_selecting(word: Word) -> bool:
        return any(a <= word.start < b for a, b in intent.selecting)

    start = _with_own_cjk(intent, start)
    before = [word for word in words(intent.request) if word.end <= start]
    for place, word in reversed([*enumerate(before)]):
        gap, text = intent.request[word.end : start], fold(word.text)
        is_of = text in _OF and place > 0 and is_selecting(before[place - 1])
        if gap.strip(" '\u2019") or not (text in _TAKEN_ALONG or is_of or is_selecting(word)):
            break
        if PROTECTED.search(intent.request[word.start : start]):
            break
        start = word.start
    return start


def _with_own_cjk(intent: Intent, start: int) -> int:
    """Take "my newest" along where it is written without spaces, "我最新的", and what it is that
    it wears, "戴"."""
    selected = start
    for a, b in reversed(intent.selecting):
        selected = a if b == selected else selected
    own = _OWN_CJK.search(intent.request[:selected])
    return own.start() if own else start


def _kept_noun(request: str, span: tuple[int, int], card: ModelCard) -> str:
    """The class noun, where the trigger does not hold one: "tdybr4" -> "tdybr4 bear"."""
    trigger_words = words(card.triggers[0])
    if len(trigger_words) > 1:
        return ""
    last = [word for word in words(request[span[0] : span[1]]) if word.stem not in FUNCTION_WORDS]
    if not last:
        return ""
    noun = last[-1]
    names = {stem(word.text) for word in words(card.title)[:1]}
    described = set(terms(card.description)) | set(terms(" ".join(card.tags)))
    is_class = noun.stem in described and noun.stem not in names and noun.text.islower()
    return noun.text if is_class and noun.stem not in terms(card.triggers[0]) else ""
