"""Ordinary words: what names, notes and prompts of all models say, and so calls none of them."""

from __future__ import annotations

import re

from ..language.thesaurus import thesaurus
from ..language.words import FUNCTION_WORDS, Word, fold, words
from .family import family_in_file_name

# What names add to a concept: its version, base, training settings; not what it is.
_SETTING = re.compile(
    r"v(?:er(?:sion)?)?\d[\da-z]*|\d+|xl|sdxl|sd|sd15|flux|flux1|pony|illustrious|il|dev|lora|loha|"
    r"locon|lokr|dora|(?:new|old|final|latest|last|beta|alpha|test)\d*|rank|dim|epoch|step|"
    r"safetensors|"
    r"(?:rank|dim|r|e|ep|epoch)\d+"
)
# Tags that prompts for booru and Pony models have in common: quality, rating, source, how many.
_GENERAL_TAG = re.compile(
    r"score \d+(?: up)?|source (?:anime|cartoon|furry|pony)|"
    r"(?:rating )?(?:safe|sensitive|questionable|explicit|general)|nsfw|sfw|"
    r"(?:best|amazing|great|good|high|highest|normal|low|worst|top) quality|masterpiece|"
    r"very aesthetic|absurdres|highres|(?:very )?newest|\d+k|u?hd|"
    r"(?:ultra|extremely|highly|very)[ -]?(?:detailed|realistic)|photorealistic|raw photo|"
    r"\d+\+?(?:girl|boy|other|people|person)s?|multiple (?:girls|boys|others)|solo|solo focus|"
    r"no humans|looking at viewer|(?:simple|white|grey|black) background"
)
# WordNet has no verbs here, but the nouns made of them: "require", "requirement".
_NOUN_ENDINGS = ("e", "er", "or", "ion", "ation", "ment", "ement")
_MADE_OF = 5
"""So many letters of a stem tell what a noun is made of."""


def is_setting(word: str) -> bool:
    """Is a lower-case word a version, a base model or a setting of the training?"""
    return bool(_SETTING.fullmatch(word) or family_in_file_name(word))


def is_general_tag(tag: str) -> bool:
    """Is it a tag that prompts have whatever they show: "score_9", "best quality", "1girl"?"""
    return bool(_GENERAL_TAG.fullmatch(" ".join(re.split(r"[\s_]+", tag.lower()))))


def is_ordinary(text: str) -> bool:
    """Does a text hold nothing but words that are known?"""
    return is_general_tag(text) or all(map(_is_known, words(text)))


def _is_known(word: Word) -> bool:
    plain = fold(word.text)
    if {plain, word.stem} & FUNCTION_WORDS or is_setting(word.stem) or thesaurus().lemma(plain):
        return True
    is_told = len(word.stem) >= _MADE_OF or word.stem != plain
    return is_told and any(thesaurus().lemma(word.stem + ending) for ending in _NOUN_ENDINGS)
