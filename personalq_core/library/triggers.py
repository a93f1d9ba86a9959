"""Trigger words: which there are, where they come from, and which one is canonical."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from ..language.words import FUNCTION_WORDS, content, terms, words
from .ordinary import is_general_tag, is_ordinary, is_setting
from .text import clean, parse_json

MAX_TRIGGERS = 40
_NEARLY_ALL = 0.9
"""Share of captions a word must be in to be what the training bound the concept to."""
_MAX_TAG_WORDS = 4
"""Longer captions are sentences."""
_BEGINNING = 3
"""So many letters at the beginning of two words make them alike."""
_ALIKE = 0.6
"""Share of letters in common that makes a trigger one of a name."""

_LORA_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.I)
_WEIGHT = re.compile(r"(?<!\\)\(+([^()\\:]*):\s*-?[\d.]+\)+")
_URL = re.compile(
    r"\b(?:[a-z]{2,9}://|www\.)\S+|"
    r"(?<![\w.-])[\w-]{1,63}(?:\.[\w-]{1,63}){0,3}\.[a-z]{2,9}/\S*",
    re.I,
)
_LABEL = re.compile(r"(\w[\w '/()-]{0,30}?)\s*(:(?!//)|\uff1a)(\s*)(?=\S)")
_DENIALS = frozenset(("no", "none", "not", "nothing", "without", "n/a", "null", "nil"))
# What labels of triggers are made of, and what is said about a trigger that there is none of.
_TRIGGER_WORDS = frozenset(
    re.findall(
        r"\w+",
        "trigger triggers triggerword triggerwords word words keyword keywords key activation "
        "activate trained instance token tokens tag tags prompt prompts phrase text",
    )
)
_NEEDED = frozenset(re.findall(r"\w+", "a the any is are use used need needed required necessary"))
_NUMBER = re.compile(r"^\d+_")  # how often kohya repeats a folder's pictures
# Names of dataset folders that say where pictures lie, not what was taught.
_FOLDER_WORDS = frozenset(
    re.findall(
        r"\w+",
        "img imgs image images data dataset datasets train training input concept instance class "
        "reg pics photo photos pictures style character person man woman girl boy object dog cat "
        "face",
    )
)


def trigger_groups(phrases: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """An author's phrases as groups of words: "b4rn bear, red tie" -> ("b4rn bear", "red tie").

    What is no word goes: `<lora:x:1>`, the weight of `(word:1.2)`, addresses of web pages, and what
    is filled in where there is none. Escaped brackets are part of a prompt's spelling and stay. No
    word comes twice.
    """
    groups: list[tuple[str, ...]] = []
    seen: set[str] = set()
    for phrase in phrases:
        plain = _URL.sub(",", _LORA_TAG.sub(",", clean(phrase, 1000)))
        plain = _WEIGHT.sub(r"\1", plain)
        group = []
        for word in (part.strip(" .;") for part in re.split(r"[,\n]", plain)):
            if word.lower() not in seen and len(seen) < MAX_TRIGGERS and not _is_none(word):
                seen.add(word.lower())
                group.append(word)
        if group:
            groups.append(tuple(group))
    return tuple(groups)


def _is_none(word: str) -> bool:
    """Is it what is filled in where there is none: "None", "-", "no trigger words needed"?"""
    said = set(re.findall(r"n/a|\w+", word.lower()))
    return not said or (bool(said & _DENIALS) and said <= _DENIALS | _TRIGGER_WORDS | _NEEDED)


def led_by(first: str | None, groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """The groups with the canonical trigger at the front of its own, and that one before others."""
    if not first:
        return groups
    own = next((group for group in groups if first in group), ())
    rest = tuple(group for group in groups if group is not own)
    return ((first, *(word for word in own if word != first)), *rest)


def canonical_first(
    groups: tuple[tuple[str, ...], ...], names: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """The groups led by what calls the model, where they begin with a tag of all prompts.

    Of "masterpiece, best quality, inkmood" it is "inkmood": the word that is most like one of
    `names` (the title, the file name), else the rarest. An order that begins otherwise stays.
    """
    if not groups or not is_general_tag(groups[0][0]):
        return groups
    for listed in (groups[0], [word for group in groups for word in group]):
        if own := [word for word in listed if not is_general_tag(word)]:
            return led_by(max(own, key=lambda word: _calling(word, names)), groups)
    return groups


def _calling(word: str, names: Sequence[str]) -> tuple[bool, int, float]:
    """The more a word looks like what calls the model of these names, the greater."""
    likeness = max((_likeness(word, name) for name in names), default=0.0)
    is_made_up = any(map(made_up, re.findall(r"[a-z0-9]+", word.lower())))
    return likeness > _ALIKE, 2 if is_made_up else 0 if is_ordinary(word) else 1, likeness


def _likeness(trigger: str, name: str) -> float:
    """Share of the letters that both have in common: in stems that begin alike, or as a whole."""
    said, named = (
        [word.stem for word in words(text) if not is_setting(word.stem)] for text in (trigger, name)
    )
    in_stems = sum(max((_beginning(one, other) for other in named), default=0) for one in said)
    shared = max(in_stems, _beginning("".join(said), "".join(named)))
    return 2 * shared / max(1, len("".join(said + named)))


def _beginning(one: str, other: str) -> int:
    """How many letters two words begin with alike; 0 where they are too few to tell."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other)))
    return shared if shared >= _BEGINNING else 0


def loose_trigger(line: str, names: Sequence[str], tags: Collection[str]) -> str | None:
    """The phrase that a loose line beside a model gives as its trigger; None for plain language.

    A label before it goes: "Trigger words: strwht". Without one that says so, known words alone
    are a trigger only where one of them stands in `names` or is one of the `tags` of its captions.
    """
    phrase, is_stated = _without_label(line, names)
    listed = [word for group in trigger_groups([phrase]) for word in group]
    tagged = {tag.lower() for tag in tags}
    is_called = is_stated or any(
        word.lower() in tagged or not is_ordinary(word) or _stands_in(word, names)
        for word in listed
    )
    return phrase if is_called or not listed else None


def _without_label(line: str, names: Sequence[str]) -> tuple[str, bool]:
    """(a line without the label before it, whether that says that triggers follow).

    What stands in a name is no label: "NieR: Automata". Nor is one part of a word: "re:zero".
    """
    found = _LABEL.match(line)
    if not found:
        return line, False
    label, colon, space = found.groups()
    is_stated = not _TRIGGER_WORDS.isdisjoint(re.findall(r"\w+", label.lower()))
    is_label = is_stated or ((space or colon != ":") and not _stands_in(label, names))
    return (line[found.end() :], is_stated) if is_label else (line, False)


def _stands_in(text: str, names: Iterable[str]) -> bool:
    """Is a word of the text one of the names' words, or what one of them begins with?"""
    named = set(terms(" ".join(names)))
    return any(
        term in named or (len(term) > _BEGINNING and any(name.startswith(term) for name in named))
        for term in content(text)
        if not is_setting(term)
    )


def stated_triggers(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Triggers a header states outright: ModelSpec, AI-Toolkit, and trainers' own fields."""
    keys = ("modelspec.trigger_phrase", "trigger_phrase", "trigger_word", "trigger_words",
            "ss_trigger_words", "instance_prompt", "activation text")  # fmt: skip
    found = (clean(metadata.get(key), 1000) for key in keys)
    # cloneofsimo keeps learned tokens as metadata: {"<s1>": "<embed>", "<s2>": "<embed>"}
    tokens = " ".join(key for key, value in metadata.items() if value == "<embed>")
    return tuple(dict.fromkeys(filter(None, (*found, clean(tokens, 200)))))


def trained_triggers(metadata: Mapping[str, str], name: str) -> tuple[str, ...]:
    """What a kohya training bound each of its folders to; () where no word stands out.

    kohya trains pictures without captions on the folder's text (`10_b4rn bear`). With captions that
    text counts where nearly all of them hold its first word; else a tag made of that word which
    nearly all hold; else a tag or word in nearly all that is made up or stands in `name` (the
    file's and the trainer's output name): ordinary words of captions ("1girl", "outdoors") are
    content, not triggers.
    """
    known = set(re.findall(r"[a-z0-9]{3,}", name.lower()))
    counts = _counts(metadata)
    found: dict[str, None] = {}
    for folder, taught in _taught(metadata, counts):
        if folder in counts:
            tags, captions = counts[folder]
            bound = _in_captions(taught, tags, captions) or _in_nearly_all(tags, captions, known)
            found.update(dict.fromkeys(bound))
        elif _first_telling(taught):
            found[taught] = None
    return tuple(found)[:MAX_TRIGGERS]


def frequent_tags(metadata: Mapping[str, str], limit: int = 12) -> tuple[str, ...]:
    """The commonest short caption tags: what a training's pictures show."""
    total: Counter[str] = Counter()
    for tags, _ in _counts(metadata).values():
        total.update({tag: count for tag, count in tags.items() if len(tag) <= 40})
    return tuple(tag for tag, count in total.most_common(limit) if count > 1)


def _in_captions(taught: str, tags: Counter[str], captions: int) -> list[str]:
    """A folder's text or, where its first word is only part of a tag, that tag."""
    first = _first_telling(taught)
    if not first:
        return []
    whole = re.compile(rf"(?<![\w-]){re.escape(first)}(?![\w-])", re.I)
    enough = _NEARLY_ALL * captions
    held = sum(count for tag, count in tags.items() if whole.search(tag))
    if held >= enough and len(taught.split()) <= _MAX_TAG_WORDS:
        return [taught]
    parts = set(_parts(first))
    made_of_it = [
        (count, tag)
        for tag, count in tags.items()
        if count >= enough and len(tag.split()) <= _MAX_TAG_WORDS and parts <= set(_parts(tag))
    ]
    return [max(made_of_it, key=lambda pair: pair[0])[1]] if made_of_it else []


def _first_telling(text: str) -> str:
    """The first word of a folder's text that says more than where pictures lie, how large they are
    or what they commonly show; "" where none does."""
    return next((word for word in text.split() if any(map(_is_telling, _parts(word)))), "")


def _is_telling(part: str) -> bool:
    is_size = re.fullmatch(r"[\dx]+(?:px|p|k)?", part)
    return not (is_size or part in _FOLDER_WORDS | FUNCTION_WORDS or is_general_tag(part))


def _parts(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


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


def _taught(metadata: Mapping[str, str], captioned: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(dataset folder, the text that stands for a missing caption), without those of pictures that
    are there for regularization."""
    numbered = filter(_NUMBER.match, list(_object(metadata.get("ss_dataset_dirs")))[:200])
    texts = {folder: _NUMBER.sub("", folder) for folder in [*numbered, *captioned]}
    left_out = set(_object(metadata.get("ss_reg_dataset_dirs")))
    for subset in _subsets(metadata):
        tokens = subset.get("class_tokens")
        folder = clean(subset.get("image_dir"), 300)
        if subset.get("is_reg"):
            left_out.add(folder)
        elif isinstance(tokens, str):
            texts[folder if folder in texts else tokens] = tokens
    for folder, text in texts.items():
        # kohya numbers a folder that it uses at several sizes: "10_b4rn bear (2)".
        is_again = (first := re.sub(r" \(\d+\)$", "", folder)) != folder and first in texts
        if not is_again and folder not in left_out:
            yield folder, clean(text, 80)


def _subsets(metadata: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for dataset in _array(metadata.get("ss_datasets"))[:50]:
        subsets = dataset.get("subsets") if isinstance(dataset, dict) else None
        for subset in (subsets if isinstance(subsets, list) else [])[:50]:
            if isinstance(subset, dict):
                yield subset


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
