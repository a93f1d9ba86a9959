"""Facts: what one source (a note, a sidecar, the header, the name) says about a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """Fields of a ModelCard as one source states them; empty where it says nothing."""

    origin: str
    """Where they come from, in words for people."""
    title: str = ""
    triggers: tuple[str, ...] = ()
    """As the source has them: entries may be whole comma-joined phrases."""
    tags: tuple[str, ...] = ()
    description: str = ""
    author: str = ""
    base_model: str = ""
    """As the source names it: "SDXL 1.0", "Pony"."""
    version: str = ""
    created_at: str | None = None
    strength: float | None = None
