"""ModelCard: one LoRA or checkpoint of the user, and everything known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .family import FINER, FROM_TENSORS


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model file and its context. All text in it comes from files and is not to be trusted.

    `sources` names, for each field that is set, where its value came from in words for people:
    "your note", "Lora Manager sidecar", "kohya header", "tensor shapes", "file name", "file time".
    """

    id: str
    """`kind:name`; stable as long as the file is neither moved nor renamed."""
    kind: str
    """"lora", "checkpoint", "diffusion_model" or "embedding"; in a folder that is no model folder
    of ComfyUI also "vae", "controlnet", "text_encoder" or "unknown"."""
    name: str
    """Path below its model folder with "/" separators: what ComfyUI lists."""
    path: str = ""
    """Where the file lies. Never shown to a browser."""
    title: str = ""
    """From notes, sidecars or header; else the file name made readable."""
    triggers: tuple[str, ...] = ()
    """Words that call the concept, the canonical one first; empty where there is none."""
    trigger_groups: tuple[tuple[str, ...], ...] = ()
    """The same words as their author grouped them: each group is used together, one at a time."""
    tags: tuple[str, ...] = ()
    description: str = ""
    author: str = ""
    """Who trained it, as a sidecar or the header names them."""
    base_family: str | None = None
    """Canonical family, see `family.py`: "sd15", "sdxl", "flux"...; None where it is unknown."""
    version: str | None = None
    """As its author writes it, for example "v2.1"; `version.version_key` makes it comparable."""
    created_at: str | None = None
    """ISO 8601 in UTC, for example "2025-03-11T12:00:00Z"."""
    preview: str | None = None
    """Path of a picture beside the file."""
    strength: float | None = None
    """The weight its author prefers."""
    fingerprint: str = ""
    """10 hex digits of a hash over size, header and samples: the content, whatever the name."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def suits(self, family: str) -> bool:
        """May it be for this base family?

        One of an unknown family may. One that only its tensors tell of may be for a finer family
        with the same tensors as well: for Chroma where they look like Flux.
        """
        if self.base_family in (None, family):
            return True
        only_tensors = self.sources.get("base_family") == FROM_TENSORS
        return only_tensors and FINER.get(family) == self.base_family

    def to_json(self) -> dict[str, Any]:
        """All fields, JSON-able. It holds paths: not for a browser."""
        return asdict(self)
