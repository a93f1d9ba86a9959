"""What the user notes about a model. It outranks everything a file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .card import ModelCard
from .family import normalise_family
from .text import clean, clean_block
from .triggers import MAX_TRIGGERS, led_by, trigger_groups
from .version import utc

SOURCE = "your note"


def clean_note(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they are kept; None stands for a field that is to be taken back.

    title, version, author: a line. note: text that comes before the description. trigger: the
    canonical one. triggers: all of them, as phrases whose words are used together. tags: lines.
    base_family: any usual name of a base. created_at: ISO 8601. strength: -10 to 10.

    Raises:
        ValueError: a field that cannot be noted or a value that is none, with the remedy.
    """
    unknown = sorted(fields.keys() - _FIELDS.keys())
    if unknown:
        raise ValueError(f"no such field to note: {unknown}; there are {sorted(_FIELDS)}")
    return {
        name: None if value in (None, "", []) else _FIELDS[name](name, value)
        for name, value in fields.items()
    }


def with_note(card: ModelCard, note: Mapping[str, Any]) -> ModelCard:
    """The card as its user notes it, given as `clean_note` made it."""
    changed = dict(note)
    if own := changed.pop("note", None):
        changed["description"] = "\n".join(filter(None, (own, card.description)))
    if "tags" in changed:
        changed["tags"] = tuple(changed["tags"])
    first = changed.pop("trigger", None)
    if first or "triggers" in changed:
        phrases = changed.pop("triggers", None) or map(", ".join, card.trigger_groups)
        groups = trigger_groups(phrases)
        changed["trigger_groups"] = groups = led_by(first, groups)
        changed["triggers"] = tuple(word for group in groups for word in group)
    return replace(card, **changed, sources={**card.sources, **dict.fromkeys(changed, SOURCE)})


def _line(name: str, value: Any) -> str:
    return _text(name, clean(value))


def _block(name: str, value: Any) -> str:
    return _text(name, clean_block(value))


def _text(name: str, text: str) -> str:
    if not text:
        raise ValueError(f"{name} must be a text")
    return text


def _trigger(name: str, value: Any) -> str:
    groups = trigger_groups([_line(name, value)])
    if len(groups) != 1 or len(groups[0]) != 1:
        raise ValueError(f"{name} must be one trigger without commas; list several as triggers")
    return groups[0][0]


def _lines(name: str, value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_TRIGGERS:
        raise ValueError(f"{name} must be a list of at most {MAX_TRIGGERS} texts")
    return [_line(name, entry) for entry in value]


def _base(name: str, value: Any) -> str:
    family = normalise_family(_line(name, value))
    if family is None:
        raise ValueError(f"{name}: {clean(value, 80)!r} is no base model known here; say SDXL...")
    return family


def _date(name: str, value: Any) -> str:
    date = utc(value)
    if date is None:
        raise ValueError(f"{name} must be a date like 2025-03-11")
    return date


def _strength(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number")
    if not abs(value) <= 10:  # so nan is refused, too
        raise ValueError(f"{name} must lie between -10 and 10")
    return float(value)


_FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "title": _line, "version": _line, "author": _line, "note": _block, "trigger": _trigger,
    "triggers": _lines, "tags": _lines, "base_family": _base, "created_at": _date,
    "strength": _strength,
}  # fmt: skip
