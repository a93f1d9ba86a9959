"""safetensors headers: read with a cap, checked against the file's size, never executed.

Layout: 8 bytes little-endian header length, that many bytes of JSON, then the tensors' bytes.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .text import parse_json

MAX_HEADER_BYTES = 16 * 1024 * 1024
"""Largest header that is read. The format allows 100 MB; real ones, with the tags of a whole
training set and a thumbnail, stay below 3 MB."""
_SAMPLES, _SAMPLE_BYTES = 8, 4096
_ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class HeaderError(ValueError):
    """The file cannot be used; the message says why and what the user can do."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says about itself."""

    metadata: Mapping[str, str]
    """`__metadata__`: free text of whoever wrote the file."""
    shapes: Mapping[str, tuple[int, ...]]
    """Tensor name -> shape."""
    size_bytes: int
    fingerprint: str
    """10 hex digits, see `ModelCard.fingerprint`."""


def read_header(path: str | Path) -> Header:
    """Read a file's header and its fingerprint: at most 16 MiB + 32 KiB, whatever the file's size.

    Raises:
        HeaderError: not a complete safetensors file.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        raw = _header_bytes(file, size)
        metadata, shapes = _parse(raw, size - 8 - len(raw))
        return Header(metadata, shapes, size, fingerprint(file, size, raw))


def _header_bytes(file: BinaryIO, size: int) -> bytes:
    if size == 0:
        raise HeaderError("is empty (0 bytes); download it again")
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8:
        raise HeaderError(f"is cut off after {size} bytes; download it again")
    if start[:2] in (b"PK", b"\x80\x02"):
        raise HeaderError("is a pickle under another name; get the .safetensors version of it")
    if start[:1] == b"<" or start[:7] == b"version":
        raise HeaderError(
            "holds text, not a model (a web page or a Git LFS pointer); download it again"
        )
    if length > MAX_HEADER_BYTES and length <= size - 8:
        raise HeaderError(
            f"has a header of {length:,} bytes, more than the {MAX_HEADER_BYTES:,} read here; "
            "it is damaged or not made by a trainer: save it again without its metadata"
        )
    if length > size - 8:
        # A sane length means that the end is missing; any other that it never was safetensors.
        cut = length <= MAX_HEADER_BYTES
        fault = "is cut off inside its header" if cut else "is no safetensors file"
        raise HeaderError(f"{fault}; download it again")
    return file.read(length)


def _parse(raw: bytes, data_bytes: int) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    try:
        tree = parse_json(raw)
    except ValueError as error:
        raise HeaderError("has a damaged header (not valid JSON); download it again") from error
    if not isinstance(tree, dict):
        raise HeaderError("has a damaged header (no table of tensors); download it again")
    metadata = tree.pop("__metadata__", None)
    shapes, end = {}, 0
    for name, entry in tree.items():
        shapes[name], tensor_end = _tensor(entry)
        end = max(end, tensor_end)
    if not shapes:
        raise HeaderError("holds no tensors; download it again")
    if end > data_bytes:
        raise HeaderError(
            f"is cut off: {end - data_bytes:,} of {end:,} bytes of its tensors are missing; "
            "download it again"
        )
    if end < data_bytes:
        raise HeaderError(
            f"holds {data_bytes - end:,} bytes that belong to no tensor; download it again"
        )
    return _strings(metadata), shapes


def _tensor(entry: Any) -> tuple[tuple[int, ...], int]:
    """(shape, end offset) of one entry of the header; HeaderError where they disagree."""
    try:
        shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
        # Types first: 2**60 * "text" would fill the memory.
        if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
            raise ValueError
        bits = _ITEM_BITS.get(entry["dtype"])  # formats to come are not refused for their name
        if start > end or (bits and math.prod(shape) * bits != (end - start) * 8):
            raise ValueError
    except (TypeError, KeyError, ValueError) as error:
        raise HeaderError(
            "has a damaged header (a tensor does not fit); download it again"
        ) from error
    return shape, end


def _strings(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def fingerprint(file: BinaryIO, size: int, raw: bytes) -> str:
    """Hash a file's size, header and evenly spaced samples: milliseconds for any size.

    Two trainings with the same settings have the same header; the samples tell them apart.
    """
    digest = hashlib.sha256(size.to_bytes(8, "little") + raw)
    data_start = 8 + len(raw)
    span = max(0, size - data_start - _SAMPLE_BYTES)
    for index in range(_SAMPLES):
        file.seek(data_start + span * index // (_SAMPLES - 1))
        digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:10]
