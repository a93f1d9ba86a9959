"""Model folders -> cards; only what changed since the last scan is read again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .card import ModelCard
from .header import HeaderError
from .note import with_note
from .read import read_card
from .sidecar import PREVIEW_SUFFIXES, sidecar_names
from .store import Store
from .text import clean, is_plain

SAFE_SUFFIXES = (".safetensors", ".sft", ".gguf")
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pt2", ".bin", ".pth", ".pkl")
_BATCH = 500

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Root:
    """One model folder and the kind of model that ComfyUI loads from it."""

    kind: str | None
    """None: a folder of anything; each file's kind is read from its tensors."""
    path: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that is left out, and why."""

    name: str
    path: str
    reason: str
    """Names the file and what the user can do."""
    lasting: bool
    """Does that hold until the file changes? Else the next scan may read it."""


@dataclass(frozen=True, slots=True)
class ScanReport:
    cards: tuple[ModelCard, ...]
    refused: tuple[Refused, ...]
    changed: bool
    """Is anything new, different or gone since the scan before? Always true without a store."""


@dataclass(frozen=True, slots=True)
class _File:
    key: str
    """What the store knows it by: its name below the root, whatever characters that holds."""
    name: str
    """The same as it is shown."""
    path: str
    stamp: str
    mtime_s: float = 0.0
    siblings: Sequence[str] = ()
    """Sidecars and previews that are there."""
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The model files below some roots at one moment; none of them was opened."""

    files: tuple[tuple[Root, tuple[_File, ...]], ...]

    @property
    def state(self) -> str:
        """Changes whenever a model file, a sidecar or a preview does."""
        digest = hashlib.sha256()
        for root, files in self.files:
            digest.update(f"{root.kind}|{root.path}\n".encode(errors="replace"))
            for file in files:
                digest.update(f"{file.key}\0{file.stamp}\n".encode(errors="replace"))
        return digest.hexdigest()


def roots_in(folder: str | Path) -> list[Root]:
    """Roots of a ComfyUI models folder (loras/, checkpoints/...), else the folder itself."""
    folder = Path(folder)
    wanted = {
        "loras": "lora",
        "checkpoints": "checkpoint",
        "diffusion_models": "diffusion_model",
        "unet": "diffusion_model",
        "embeddings": "embedding",
    }
    roots = [
        Root(kind, str(folder / sub)) for sub, kind in wanted.items() if (folder / sub).is_dir()
    ]
    return roots or [Root(None, str(folder))]


def list_files(roots: Sequence[Root]) -> Listing:
    """The model files below `roots`: names, sizes and times, nothing opened."""
    inside = tuple(os.path.join(os.path.realpath(root.path), "") for root in roots)
    return Listing(tuple((root, tuple(_walk(root.path, inside))) for root in roots))


def scan(
    roots: Sequence[Root] | Listing, store: Store | None = None, progress: Progress | None = None
) -> ScanReport:
    """Cards of all usable model files below `roots`, and the files that had to be refused.

    A file is known by its path, size and time, and by those of its sidecars. Of two files that
    ComfyUI would list under one name the first root's counts, as ComfyUI does it. A folder that
    is not there is empty. `progress` is called with (files done, files in all). Who has listed the
    files already gives that listing, and they are not listed again.
    """
    found = (roots if isinstance(roots, Listing) else list_files(roots)).files
    total, done, changed = sum(len(files) for _, files in found), 0, store is None
    notes = store.notes() if store else {}
    cards: dict[str, ModelCard] = {}
    refused: list[Refused] = []
    for root, files in found:
        key = _key(f"{root.kind}|{os.path.abspath(root.path)}")
        known = store.files(key) if store else {}
        batch: list[tuple[str, str, ModelCard | str]] = []
        for file in files:
            stamp, result = known.pop(file.key, ("", ""))
            lasting = True
            if stamp != file.stamp:
                changed, result, lasting = True, *_read(root.kind, file)
                if lasting:
                    batch.append((file.key, file.stamp, result))
            if isinstance(result, str):
                refused.append(Refused(file.name, file.path, result, lasting))
            else:
                note = notes.get(result.fingerprint)
                cards.setdefault(result.id, with_note(result, note) if note else result)
            done += 1
            if progress and (stamp != file.stamp or done == total):
                progress(done, total)
            if store and len(batch) >= _BATCH:
                store.update(key, batch)
                batch = []
        if store:
            store.update(key, batch, known)
        changed = changed or bool(known)
    return ScanReport(tuple(cards.values()), tuple(refused), changed)


def _read(kind: str | None, file: _File) -> tuple[ModelCard | str, bool]:
    """(card or reason, whether that holds until the file changes)."""
    if file.refusal:
        return file.refusal, True
    try:
        return read_card(kind, file.name, file.path, file.siblings, file.mtime_s), True
    except HeaderError as error:
        return f"{file.name} {error}.", True
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        return f"{file.name} cannot be read ({reason}); check its permissions and disk.", False
    except Exception as error:  # one odd file must not cost the user all others
        fault = type(error).__name__
        logging.getLogger(__name__).warning("%s cannot be understood: %s", file.name, fault)
        remedy = "download it again, or take away the text files beside it"
        return f"{file.name} cannot be understood ({fault}); {remedy}.", False


def _walk(root: str, inside: tuple[str, ...]) -> Iterator[_File]:
    """Model files below a root in the order of their names, each folder listed once.

    Links to folders and to models are followed, as ComfyUI follows them. A picture or a text beside
    a model has to lie `inside` the model folders: it is shown, and a link in a downloaded archive
    may point at anything.
    """
    folders, linked, listed = [("", root)], [], set()
    while folders or linked:
        prefix, folder = folders.pop() if folders else linked.pop()
        real = os.path.realpath(folder)
        if real in listed:
            continue
        listed.add(real)
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            continue
        siblings: dict[str, os.DirEntry[str]] = {}
        for entry in entries:
            if entry.name.startswith("."):
                continue
            is_model = entry.name.lower().endswith(SAFE_SUFFIXES)
            if _is_folder(entry):
                (linked if entry.is_symlink() else folders).append(
                    (f"{prefix}{entry.name}/", entry.path)
                )
            elif is_model or not entry.is_symlink() or _stays(entry.path, inside):
                siblings[entry.name] = entry
        for name, entry in siblings.items():
            lower = name.lower()
            if lower.endswith(PICKLE_SUFFIXES):
                yield _refused(prefix, entry, "is a pickle, which can run code when opened; get or "
                               "convert it to .safetensors")  # fmt: skip
            elif lower.endswith(SAFE_SUFFIXES) and (file := _model(prefix, entry, siblings)):
                yield file


def _model(
    prefix: str, entry: os.DirEntry[str], siblings: Mapping[str, os.DirEntry[str]]
) -> _File | None:
    if entry.name != clean(entry.name, 1000):
        return _refused(prefix, entry, "has characters in its name that cannot be used; rename it")
    if not is_plain(prefix):
        return _refused(prefix, entry, "lies in a folder with characters in its name that cannot "
                        "be used; rename the folder")  # fmt: skip
    status = _stat(entry)
    if status is None:
        return None
    stem = entry.name.rsplit(".", 1)[0]
    names = (*sidecar_names(entry.name), *(stem + end for end in PREVIEW_SUFFIXES))
    beside = {
        name: found for name in names if name in siblings and (found := _stat(siblings[name]))
    }
    stamp = "|".join(
        (_stamp(status), *(f"{name}:{_stamp(found)}" for name, found in beside.items()))
    )
    name = prefix + entry.name
    return _File(_key(name), name, entry.path, stamp, status.st_mtime, tuple(beside))


def _refused(prefix: str, entry: os.DirEntry[str], reason: str) -> _File:
    name = clean(prefix + entry.name, 1000)
    key = _key(prefix + entry.name)
    return _File(key, name, entry.path, stamp=reason, refusal=f"{name} {reason}.")


def _key(name: str) -> str:
    """ASCII, and another one for every name: SQLite takes no bytes that are no UTF-8."""
    return json.dumps(name)


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}:{status.st_mtime_ns}"


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """None for a broken link, for what is gone since it was listed, and for what is no file."""
    try:
        status = entry.stat()
    except OSError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _stays(path: str, inside: tuple[str, ...]) -> bool:
    return os.path.realpath(path).startswith(inside)
