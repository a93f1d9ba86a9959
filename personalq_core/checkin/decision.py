"""What Check-in answers with: one Decision, the same object for nodes, shell, tests and browser."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..library.card import ModelCard

_SHOWN = 5
NONE = "none"
"""The selection a user makes by saying "none of these"."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be meant, and what speaks for and against it."""

    card: ModelCard
    score: float
    """Probability among the candidates, 0 to 1."""
    evidence: tuple[str, ...] = ()
    """In words for people: "version 4 asked, this is v4"."""
    difference: str = ""
    """What tells it from the other candidates: "blue scarf, 2025"."""

    @property
    def selection(self) -> str:
        """What a saved workflow keeps: kind, name and content of the model."""
        return format_selection(self.card)

    def to_json(self) -> dict[str, Any]:
        """For the browser: no path of the file system in it."""
        card = self.card
        return {
            "selection": self.selection,
            "kind": card.kind,
            "title": card.title,
            "name": card.name,
            "trigger": card.triggers[0] if card.triggers else "",
            "version": card.version,
            "created_at": card.created_at,
            "base_family": card.base_family,
            "evidence": list(self.evidence),
            "difference": self.difference,
            "score": round(self.score, 4),
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of one request."""

    status: str
    """"chosen", "ask" or "none"."""
    request: str
    prompt: str
    """The request with the canonical trigger in place; unchanged unless chosen."""
    reason: str
    choice: Candidate | None = None
    beside: tuple[Candidate, ...] = ()
    """Up to four further models that the request names: styles, other things, one base."""
    candidates: tuple[Candidate, ...] = ()
    """What was weighed, best first."""
    options: tuple[Candidate, ...] = ()
    """The answers to the question, two to five, oldest first."""
    question: str | None = None
    notices: tuple[str, ...] = ()
    fit: float = 1.0
    """How sure it is that the best candidate is meant at all, 0 to 1."""

    @property
    def trigger(self) -> str:
        """Canonical trigger of the choice, "" where it has none."""
        return self.choice.card.triggers[0] if self.choice and self.choice.card.triggers else ""

    @property
    def strength(self) -> float:
        """Weight its author prefers for the choice, else 1."""
        strength = self.choice.card.strength if self.choice else None
        return 1.0 if strength is None else strength

    @property
    def chosen(self) -> tuple[Candidate, ...]:
        """All models to load, the choice first."""
        return ((self.choice,) if self.choice else ()) + self.beside

    def with_notice(self, *notices: str) -> Decision:
        """The same decision with further notices."""
        return replace(self, notices=self.notices + notices)

    def to_json(self) -> dict[str, Any]:
        """For the browser, the shell and tests."""
        return {
            "status": self.status,
            "request": self.request,
            "question": self.question,
            "prompt": self.prompt,
            "trigger": self.trigger,
            "strength": self.strength,
            "reason": self.reason,
            "notices": list(self.notices),
            "choice": self.choice.to_json() if self.choice else None,
            "beside": [other.to_json() for other in self.beside],
            "candidates": [c.to_json() for c in self.options or self.candidates[:_SHOWN]],
        }


def format_selection(card: ModelCard) -> str:
    """`lora:sub/bear_v4.safetensors#0123456789`."""
    return f"{card.kind}:{card.name}#{card.fingerprint}"


def parse_selection(selection: str) -> tuple[str, str, str]:
    """Kind, name and fingerprint of a selection.

    Raises ValueError where the text is no selection.
    """
    kind, colon, rest = selection.partition(":")
    name, hash_sign, fingerprint = rest.rpartition("#")
    if not (kind and colon and name and hash_sign and fingerprint):
        raise ValueError(
            f"The selection {selection!r} is not of the form kind:name#fingerprint. "
            "Choose again in the Check-in Selector."
        )
    return kind, name, fingerprint
