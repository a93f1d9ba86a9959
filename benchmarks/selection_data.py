"""Cards and cases of the selection benchmarks, read from JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from personalq_core.library.card import ModelCard
from personalq_core.library.family import normalise_family


@dataclass(frozen=True)
class Case:
    """One request with its right answer; ids are those of the cards."""

    id: str
    request: str
    category: str
    now: datetime
    gold: frozenset[str]
    """Right first choices: of several concepts, the subject's. Empty: the right answer is none."""
    acceptable: frozenset[str]
    secondary: frozenset[str]
    """What is to be chosen beside it: a style, another thing, a base."""
    ambiguous: bool
    answer: str | None
    answer_gold: str | None
    prompts: frozenset[str]
    """What a person would send to the model, in one way or another; empty where none wrote it."""


def load_cards(path: Path) -> tuple[ModelCard, ...]:
    """Cards from a repository file. A base model that is a fine-tune also becomes a tag."""
    return tuple(_card(row) for row in _rows(path))


def load_cases(path: Path) -> list[Case]:
    """Cases from a file of requests."""
    return [_case(row) for row in _rows(path)]


def family(card_id: str) -> str:
    """Which cards go into the same fold: versions of one concept share the stem of their id."""
    return re.sub(r"[-_]?(?:v?\d+|[a-z0-9]+)$", "", card_id) if card_id.count("-") > 1 else card_id


def folds(cases: Sequence[Case], count: int = 5) -> list[int]:
    """Fold of each case: cases whose right answers share a family share the fold."""
    names = [min(map(family, case.gold), default=case.id) for case in cases]
    order = sorted(set(names), key=lambda name: (hash_text(name), name))
    return [order.index(name) % count for name in names]


def hash_text(text: str) -> int:
    """The same number in every process."""
    return int.from_bytes(text.encode()[::-1][:8], "big") * 2654435761 % 2**32


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def _card(row: dict[str, Any]) -> ModelCard:
    base = row.get("base_model") or ""
    return ModelCard(
        id=row["id"],
        kind=row["kind"],
        name=row["file_name"],
        title=row["title"],
        triggers=tuple(row["triggers"]),
        tags=(*row["tags"], base) if base else tuple(row["tags"]),
        description=row["description"] or "",
        base_family=normalise_family(base),
        version=row["version"] or None,
        created_at=row["created_at"],
        fingerprint="0" * 10,
    )


def _case(row: dict[str, Any]) -> Case:
    clarified = row.get("clarified") or {}
    return Case(
        id=row["id"],
        request=row["request"],
        category=row["category"],
        now=datetime.fromisoformat(row["now"]).replace(tzinfo=timezone.utc),
        gold=frozenset(row.get("primary") or row["gold"]),
        acceptable=frozenset(row.get("also_acceptable") or ()),
        secondary=frozenset(row.get("secondary") or ()),
        ambiguous=row["ambiguous"],
        answer=clarified.get("answer"),
        answer_gold=clarified.get("gold"),
        prompts=frozenset(row.get("prompt") or ()),
    )
