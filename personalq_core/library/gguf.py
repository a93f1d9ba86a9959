"""GGUF headers: the names and shapes in quantized diffusion models, read with a cap.

Layout: "GGUF", version, number of tensors, number of fields; the fields (key, type, value); the
tensors (name, dimensions, type, offset); the data. Numbers are little-endian.
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

Read here rather than by the `gguf` package, which maps the whole file and believes its lengths.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from .header import MAX_HEADER_BYTES, Header, HeaderError, fingerprint

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MAX_TEXT, _MAX_TENSORS, _MAX_DIMENSIONS, _ALIGNMENT = 8000, 50_000, 8, 32


class _Reader:
    """Reads little-endian values of a file, and no more than the cap."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size, self.place = file, size, 0

    def take(self, length: int) -> bytes:
        self.place += length
        if self.place > self._size:
            raise HeaderError("is cut off inside its header; download it again")
        if self.place > MAX_HEADER_BYTES:
            raise HeaderError(
                f"has a header of more than the {MAX_HEADER_BYTES:,} bytes read here; "
                "it is damaged: download it again"
            )
        return self._file.read(length)

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """A field's value; arrays are passed over, being vocabularies and the like."""
        if kind == _STRING:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise HeaderError("has a damaged header (a field of no known type); download it again")
        inner, count = self.number("I"), self.number("Q")
        if inner in _NUMBERS:
            self.take(count * struct.calcsize(f"<{_NUMBERS[inner]}"))
        elif inner == _STRING:
            for _ in range(count):  # each takes 8 bytes at least: the cap ends it
                self.take(self.number("Q"))
        else:
            raise HeaderError("has a damaged header (an array of arrays); download it again")
        return None


def read_gguf_header(path: str | Path) -> Header:
    """Read a GGUF file's fields, names, shapes and fingerprint: at most 16 MiB + 32 KiB.

    `metadata` holds the texts among its fields ("general.name"); `shapes` are in PyTorch's order,
    outputs first.

    Raises:
        HeaderError: not a complete GGUF file of version 2 or 3.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        reader = _Reader(file, size)
        if size < 24 or reader.take(4) != b"GGUF" or reader.number("I") not in (2, 3):
            raise HeaderError("is no GGUF file of version 2 or 3; download it again")
        tensors, fields = reader.number("Q"), reader.number("Q")
        if max(tensors, fields) > _MAX_TENSORS:
            raise HeaderError("has a damaged header (too many tensors); download it again")
        metadata = {}
        for _ in range(fields):
            key, value = reader.text(), reader.value(reader.number("I"))
            if isinstance(value, str):
                metadata[key] = value[:_MAX_TEXT]
        shapes, last = {}, 0
        for _ in range(tensors):
            name = reader.text()
            dimensions = reader.number("I")
            if dimensions > _MAX_DIMENSIONS:
                raise HeaderError("has a damaged header (a tensor does not fit); download it again")
            shape = tuple(reader.number("Q") for _ in range(dimensions))
            reader.number("I")
            last = max(last, reader.number("Q"))
            shapes[name] = shape[::-1]
        if not shapes:
            raise HeaderError("holds no tensors; download it again")
        start = -(-reader.place // _ALIGNMENT) * _ALIGNMENT
        if start + last >= size:
            raise HeaderError("is cut off: tensors are missing; download it again")
        file.seek(0)
        return Header(metadata, shapes, size, fingerprint(file, size, file.read(reader.place)))
