"""One model file and its sidecars -> one card: who is believed about what."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .card import ModelCard
from .facts import Facts
from .family import (
    FROM_TENSORS,
    Identity,
    family_in_file_name,
    identify,
    lineage,
    normalise_family,
    settle_family,
)
from .gguf import read_gguf_header
from .header import Header, HeaderError, read_header
from .sidecar import LOOSE_NOTE, PREVIEW_SUFFIXES, read_sidecar, sidecar_names
from .text import clean, strip_html
from .triggers import (
    canonical_first,
    frequent_tags,
    loose_trigger,
    stated_triggers,
    trained_triggers,
    trigger_groups,
)
from .version import date_in, epoch_in, utc, version_in

FOLDER_OF_KIND = {
    "lora": "loras",
    "checkpoint": "checkpoints",
    "diffusion_model": "diffusion_models",
    "embedding": "embeddings",
    "vae": "vae",
    "controlnet": "controlnet",
    "text_encoder": "text_encoders",
    "clip_vision": "clip_vision",
}
"""Kind -> the folder of ComfyUI's models folder that it belongs in."""

# Whole checkpoints and bare diffusion models load from either folder.
_LOADS_AS_WELL = {("checkpoint", "diffusion_model"), ("diffusion_model", "checkpoint")}


def read_card(
    kind: str | None, name: str, path: str, siblings: Collection[str], mtime_s: float
) -> ModelCard:
    """Read the header of `path` and its sidecars among `siblings`, the names in its folder.

    `kind` is what its model folder holds; None where that is not said.

    Raises:
        HeaderError: the file cannot be used, with the remedy.
        OSError: it cannot be read.
    """
    is_gguf = name.lower().endswith(".gguf")
    header = read_gguf_header(path) if is_gguf else read_header(path)
    identity = identify(header.shapes)
    kind = _kind(kind, identity, is_gguf)
    folder, file_name = os.path.split(path)
    stem = file_name.rsplit(".", 1)[0]
    facts = [
        found
        for sidecar, reader in sidecar_names(file_name).items()
        if sidecar in siblings and (found := read_sidecar(os.path.join(folder, sidecar), reader))
    ]
    facts += _gguf_facts(header) if is_gguf else _header_facts(header, stem)
    facts += [_name_facts(stem, kind), _time_facts(mtime_s)]
    facts = [_not_from_the_future(fact) for fact in _loose_line_judged(facts)]
    card = _merge(kind, name, path, facts, identity, header.fingerprint)
    preview = next((stem + end for end in PREVIEW_SUFFIXES if stem + end in siblings), None)
    return replace(card, preview=os.path.join(folder, preview) if preview else None)


def _kind(folder_kind: str | None, identity: Identity, is_gguf: bool) -> str:
    found = identity.kind
    if folder_kind in (None, found):
        return found
    # No checkpoint loader lists GGUF.
    if (folder_kind, found) in _LOADS_AS_WELL and not (is_gguf and folder_kind == "checkpoint"):
        return folder_kind
    if found == "unknown":
        return folder_kind
    words, wanted = found.replace("_", " "), folder_kind.replace("_", " ")
    article = "an" if words[0] in "aeiou" else "a"
    raise HeaderError(
        f"is {article} {words}, not a {wanted}; move it to models/{FOLDER_OF_KIND[found]}"
    )


def _header_facts(header: Header, stem: str) -> Iterable[Facts]:
    meta = header.metadata
    output = clean(meta.get("ss_output_name"), 200)
    yield Facts(
        origin="ModelSpec header" if any(k.startswith("modelspec.") for k in meta) else "header",
        title=clean(meta.get("modelspec.title")),
        triggers=stated_triggers(meta),
        tags=tuple(filter(None, (clean(tag, 80) for tag in _list(meta.get("modelspec.tags"))))),
        description="\n".join(
            filter(
                None,
                (
                    strip_html(meta.get("modelspec.description")),
                    strip_html(meta.get("modelspec.usage_hint")),
                ),
            )
        ),
        author=clean(meta.get("modelspec.author"), 80),
        base_model=clean(meta.get("modelspec.architecture"), 80),
        version=clean(meta.get("modelspec.version"), 80),
        created_at=utc(meta.get("modelspec.date")),
    )
    software = clean(meta.get("software"), 200).lower()
    yield Facts(
        origin="AI-Toolkit header" if "ai-toolkit" in software else "kohya header",
        title=readable(output) if output else "",
        triggers=trained_triggers(meta, f"{output} {stem}"),
        tags=frequent_tags(meta),
        description=strip_html(meta.get("ss_training_comment")),
        base_model=_trained_on(meta),
        version=version_in(output) or "",
        created_at=utc(meta.get("ss_training_finished_at"))
        or utc(meta.get("ss_training_started_at")),
    )


def _gguf_facts(header: Header) -> Iterable[Facts]:
    meta = header.metadata
    yield Facts(
        origin="GGUF header",
        title=clean(meta.get("general.name"), 200),
        description=strip_html(meta.get("general.description")),
        author=clean(meta.get("general.author"), 80),
        base_model=clean(meta.get("general.architecture"), 80),
        version=clean(meta.get("general.version"), 80),
    )


def _trained_on(meta: Mapping[str, str]) -> str:
    """The base a kohya header names; the fine-tune's own file name says more than "sdxl_base"."""
    version, file_name = meta.get("ss_base_model_version"), meta.get("ss_sd_model_name")
    family = normalise_family(clean(version, 80))
    if file_name and lineage(file_name) and normalise_family(file_name) == (family or "sdxl"):
        return clean(file_name, 80)
    return clean(version or file_name, 80)


def _name_facts(stem: str, kind: str) -> Facts:
    return Facts(
        origin="file name",
        title=readable(stem),
        # ComfyUI calls an embedding by its file name.
        triggers=(f"embedding:{stem}",) if kind == "embedding" else (),
        base_model=family_in_file_name(stem) or "",
        version=version_in(stem) or "",
        created_at=date_in(stem),
    )


def _time_facts(mtime_s: float) -> Facts:
    return Facts(origin="file time", created_at=utc(mtime_s))


def _loose_line_judged(facts: Sequence[Facts]) -> Sequence[Facts]:
    """A loose line that tells of no trigger describes, but only where nothing else does."""
    loose = next((fact for fact in facts if fact.origin == LOOSE_NOTE and fact.triggers), None)
    if loose is None:
        return facts
    others = [fact for fact in facts if fact is not loose]
    names = [name for fact in others for name in (fact.title, *fact.triggers)]
    line = loose.triggers[0]
    trigger = loose_trigger(line, names, [tag for fact in others for tag in fact.tags])
    if trigger is None:
        return [*others, replace(loose, triggers=(), description=line)]
    return [replace(loose, triggers=(trigger,)) if fact is loose else fact for fact in facts]


def _not_from_the_future(fact: Facts) -> Facts:
    """A date still to come is a mistake, or is there to be the newest."""
    tomorrow = utc(time.time() + 86400) or ""
    late = fact.created_at is not None and fact.created_at > tomorrow
    return replace(fact, created_at=None) if late else fact


def _merge(
    kind: str, name: str, path: str, facts: Sequence[Facts], identity: Identity, fingerprint: str
) -> ModelCard:
    """Each field from the first source that has it."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for field in (
        "title", "tags", "description", "author", "version", "created_at", "strength",
    ):  # fmt: skip
        for fact in facts:
            if value := getattr(fact, field):
                values[field], sources[field] = value, fact.origin
                break
    groups: tuple[tuple[str, ...], ...] = ()
    for fact in facts:
        if groups := trigger_groups(fact.triggers):
            sources["triggers"] = fact.origin
            break
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    groups = canonical_first(groups, (values.get("title", ""), stem))
    values["version"] = _version(values, sources, name)
    family, origin, base_name = _family(facts, identity)
    if family:
        sources["base_family"] = origin
    if base_name and base_name.lower() not in map(str.lower, values.get("tags", ())):
        values["tags"] = (*values.get("tags", ()), base_name)
    return ModelCard(
        id=f"{kind}:{name}",
        kind=kind,
        name=name,
        path=path,
        triggers=tuple(word for group in groups for word in group),
        trigger_groups=groups,
        base_family=family,
        fingerprint=fingerprint,
        sources=sources,
        **values,
    )


def _version(values: Mapping[str, Any], sources: dict[str, str], name: str) -> str | None:
    """A stated version, else one in the title; and the epoch that only the file name knows."""
    version = values.get("version")
    if not version and (version := version_in(values.get("title", ""))):
        sources["version"] = sources["title"]
    epoch = epoch_in(name.rsplit(".", 1)[0])
    if version and epoch and epoch not in version:
        version = f"{version} {epoch}"
    return version


def _family(facts: Sequence[Facts], identity: Identity) -> tuple[str | None, str, str]:
    """(family, who says so, what people call that base: "Pony"): a name that tells more."""
    for fact in facts:
        stated = normalise_family(fact.base_model)
        if stated:
            family = settle_family(stated, identity.family)
            if family != stated:
                return family, FROM_TENSORS, ""
            return family, fact.origin, lineage(fact.base_model) or ""
    return identity.family, FROM_TENSORS, ""


def readable(stem: str) -> str:
    """A file name as a title: "bear_v2-000008" -> "bear v2"."""
    plain = re.sub(r"[-_]\d{6}(?:\d{3})?$", "", stem)
    return clean(re.sub(r"[_\s]+", " ", plain), 200) or clean(stem, 200)


def _list(text: str | None) -> list[str]:
    return (text or "")[:4000].split(",")[:40]
