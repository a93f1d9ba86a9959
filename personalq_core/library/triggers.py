"""Trigger words: which there are, where they come from, and which one is canonical."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .text import clean, parse_json

MAX_TRIGGERS = 40
_NEARLY_ALL = 0.9
"""Share of captions a word must be in to be what the training bound the concept to."""

_LORA_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.I)
_WEIGHT = re.compile(r"(?<!\\)\(+([^()\\:]*):\s*-?[\d.]+\)+")
# Names of dataset folders that say where pictures lie, not what was taught.
_FOLDER_WORDS = frozenset(
    re.findall(
        r"\w+",
        "img imgs image images data dataset datasets train training input concept instance class "
        "reg pics photos pictures style character person man woman girl boy object dog cat face",
    )
)


def trigger_groups(phrases: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """An author's phrases as groups of words: "b4rn bear, red tie" -> ("b4rn bear", "red tie").

    Syntax that is no word goes: `<lora:x:1>`, the weight of `(word:1.2)`. Escaped brackets are
    part of a prompt's spelling and stay. No word comes twice.
    """
    groups: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for phrase in phrases:
        plain = _WEIGHT.sub(r"\1", _LORA_TAG.sub(",", clean(phrase, 1000)))
        words = []
        for word in (part.strip(" .;") for part in re.split(r"[,\n]", plain)):
            if word and word.lower() not in seen and len(seen) < MAX_TRIGGERS:
                seen.add(word.lower())
                words.append(word)
        if words:
            groups.append(tuple(words))
    return tuple(groups)


def stated_triggers(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Triggers a header states outright: ModelSpec, AI-Toolkit, and trainers' own fields."""
    keys = ("modelspec.trigger_phrase", "trigger_phrase", "trigger_word", "trigger_words",
            "ss_trigger_words", "instance_prompt", "activation text")  # fmt: skip
    found = (clean(metadata.get(key), 1000) for key in keys)
    # cloneofsimo keeps learned tokens as metadata: {"<s1>": "<embed>", "<s2>": "<embed>"}
    tokens = " ".join(key for key, value in metadata.items() if value == "<embed>")
    return tuple(dict.fromkeys(filter(None, (*found, clean(tokens, 200)))))


def trained_triggers(metadata: Mapping[str, str], name: str) -> tuple[str, ...]:
    """What the captions of a kohya training bound the concept to; () where no word stands out.

    A dataset's folder name (`10_b4rn bear`) or class tokens count where they hold a made-up word
    or one that `name` (the file's and the trainer's output name) holds too. Otherwise a tag or
    word counts that nearly all captions hold and that is made up: ordinary words of captions
    ("1girl", "outdoors") are content, not triggers.
    """
    known = set(re.findall(r"[a-z0-9]{3,}", name.lower()))
    found: dict[str, None] = {}
    counts = _counts(metadata)
    for folder in [*_folders(metadata), *counts]:
        taught = clean(re.sub(r"^\d+_", "", folder), 80)
        words = re.findall(r"[a-z0-9]+", taught.lower())
        if not words or len(words) > 4 or set(words) <= _FOLDER_WORDS:
            continue
        telling = [word for word in words if word not in _FOLDER_WORDS]
        if any(made_up(word) or word in known for word in telling) and _used(taught, counts):
            found[taught] = None
    if not found:
        for tags, captions in counts.values():
            found.update(dict.fromkeys(_in_nearly_all(tags, captions, known)))
    return tuple(found)[:MAX_TRIGGERS]


def frequent_tags(metadata: Mapping[str, str], limit: int = 12) -> tuple[str, ...]:
    """The commonest short caption tags: what a training's pictures show."""
    total: Counter[str] = Counter()
    for tags, _ in _counts(metadata).values():
        total.update({tag: count for tag, count in tags.items() if len(tag) <= 40})
    return tuple(tag for tag, count in total.most_common(limit) if count > 1)


def _used(taught: str, counts: Mapping[str, tuple[Counter[str], int]]) -> bool:
    """Without captions kohya trains on the folder's name; with captions it must be in them."""
    if not counts:
        return True
    first = taught.lower().split()[0]
    return any(first in tag.lower() for tags, _ in counts.values() for tag in tags)


def _in_nearly_all(tags: Counter[str], captions: int, known: set[str]) -> list[str]:
    whole = [
        (count, tag)
        for tag, count in tags.items()
        if count >= _NEARLY_ALL * captions and len(tag.split()) <= 3 and _stands_out(tag, known)
    ]
    if whole:
        return [max(whole, key=lambda pair: pair[0])[1]]
    words: Counter[str] = Counter()
    for tag, count in tags.items():  # whole captions: count the words in them
        words.update(dict.fromkeys(set(re.findall(r"[^\s,.;()]+", tag)), count))
    wanted = _NEARLY_ALL * captions
    telling = [word for word, n in words.most_common(50) if n >= wanted and made_up(word.lower())]
    return telling[:1]


def _stands_out(tag: str, known: set[str]) -> bool:
    words = re.findall(r"[a-z0-9]+", tag.lower())
    return any(made_up(word) or (word in known and word not in _FOLDER_WORDS) for word in words)


_COUNTED = re.compile(r"\d+(?:girl|boy|person|other|people|man|woman|k|d|mm|st|nd|rd|th|px|s)s?")


# No vowel at all, six consonants in a row, or two letters that words do not put together.
_UNREADABLE = re.compile(
    r"^[^aeiouy]+$|[bcdfghjklmnpqrstvwxz]{6}|q[^aiu]|[bcdfghjkmpqrstvwxz]x"
    r"|[jv][bcdfgjkpqxz]|w[jqvz]|z[jqv]"
)


def made_up(word: str) -> bool:
    """Does a lower-case word look invented: digits among letters, or nothing one could read?"""
    letters = re.sub(r"[^a-z]", "", word)
    if len(letters) < 2 or _COUNTED.fullmatch(word):
        return False
    if re.search(r"[a-z]", word) and re.search(r"\d", word):
        return True
    return len(letters) >= 3 and bool(_UNREADABLE.search(letters))


def _counts(metadata: Mapping[str, str]) -> dict[str, tuple[Counter[str], int]]:
    """Dataset folder -> (tag -> count, number of captions)."""
    sizes = _object(metadata.get("ss_dataset_dirs"))
    result = {}
    for folder, tags in list(_object(metadata.get("ss_tag_frequency")).items())[:200]:
        if not isinstance(tags, dict):
            continue
        counted: Counter[str] = Counter()
        for tag, count in list(tags.items())[:20000]:
            if isinstance(count, int) and 0 < count < 10**9 and (text := clean(tag, 300)):
                counted[text] += count
        if counted:
            entry = sizes.get(folder)
            size = entry.get("img_count") if isinstance(entry, dict) else None
            most = max(counted.values())
            # The folder's own number may count repeats or pictures without a caption.
            captions = size if isinstance(size, int) and most <= size < 10**9 else most
            result[folder] = (counted, captions)
    return result


def _folders(metadata: Mapping[str, str]) -> list[str]:
    """Names of dataset folders, and the class tokens of DreamBooth subsets."""
    names = list(_object(metadata.get("ss_dataset_dirs")))[:200]
    for dataset in _array(metadata.get("ss_datasets"))[:50]:
        subsets = dataset.get("subsets") if isinstance(dataset, dict) else None
        for subset in (subsets if isinstance(subsets, list) else [])[:50]:
            if isinstance(subset, dict) and isinstance(subset.get("class_tokens"), str):
                names.append(subset["class_tokens"])
    return names


def _object(text: str | None) -> dict[str, Any]:
    value = _json(text)
    return value if isinstance(value, dict) else {}


def _array(text: str | None) -> list[Any]:
    value = _json(text)
    return value if isinstance(value, list) else []


def _json(text: str | None) -> Any:
    try:
        return parse_json(text) if text else None
    except ValueError:
        return None
