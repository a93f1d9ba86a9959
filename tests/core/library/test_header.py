"""Headers: any bytes give a header or a clear error, in bounded memory and time."""

import contextlib
import json
import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalq_core.library.header import MAX_HEADER_BYTES, HeaderError, read_header

from .files import lora, safetensors_bytes, write


def header_of(raw: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        path.write_bytes(raw)
        return read_header(path)


def framed(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def test_reads_names_shapes_and_metadata():
    header = header_of(safetensors_bytes(lora(), {"ss_output_name": "bear"}))
    assert header.metadata == {"ss_output_name": "bear"}
    assert header.shapes == lora()
    assert len(header.fingerprint) == 10


@given(st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_any_bytes_give_a_header_or_a_clear_error(raw):
    for data in (raw, framed(raw), framed(b'{"a":' + raw + b"}")):
        try:
            header_of(data)
        except HeaderError as error:
            assert "again" in str(error) or "get the" in str(error) or "save it" in str(error)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
entries = st.dictionaries(
    st.sampled_from(["dtype", "shape", "data_offsets", "other"]),
    st.just("F16") | json_values | st.lists(st.integers(-2, 1 << 70), max_size=3),
)


@given(st.dictionaries(st.sampled_from(["__metadata__", "a", "b"]), json_values | entries))
@settings(max_examples=80, deadline=None)
def test_any_json_gives_a_header_or_a_clear_error(tree):
    with contextlib.suppress(HeaderError):
        header_of(framed(json.dumps(tree).encode()))


@pytest.mark.parametrize("shape", [[1 << 60, "text"], [-1, -1], [1.5], ["a"], {"0": 1}, [True]])
def test_a_shape_that_is_none_is_refused_at_once(shape):
    entry = {"dtype": "U8", "shape": shape, "data_offsets": [0, 1]}
    with pytest.raises(HeaderError, match="does not fit"):
        header_of(framed(json.dumps({"a": entry}).encode(), b"x"))


@given(st.integers(0, 3000))
@settings(max_examples=40, deadline=None)
def test_every_truncation_is_noticed(length):
    whole = safetensors_bytes(lora())
    with pytest.raises(HeaderError, match="download it again"):
        header_of(whole[: min(length, len(whole) - 1)])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + b"x" * 60, "pickle"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (framed(b"{}"), "no tensors"),
        (framed(b"[]"), "no table"),
        (framed(b"[" * 100_000), "too deep|not valid"),
        (safetensors_bytes(lora()) + b"more", "belong to no tensor"),
    ],
)
def test_says_what_is_wrong(raw, message):
    with pytest.raises(HeaderError, match=message):
        header_of(raw)


def test_an_oversized_header_is_not_read(tmp_path):
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(MAX_HEADER_BYTES * 2)  # sparse
    tracemalloc.start()
    with pytest.raises(HeaderError, match="header of"):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("part", [b"[],", b"{},", b'"x":0,'])
def test_a_header_made_to_fill_memory_is_refused(part):
    body = b'{"a":[' + part * 1_000_000 + b"0]}"
    tracemalloc.start()
    with pytest.raises(HeaderError):
        header_of(framed(body))
    assert tracemalloc.get_traced_memory()[1] < 80_000_000
    tracemalloc.stop()


def test_the_fingerprint_follows_the_content_not_the_name(tmp_path):
    first = write(tmp_path / "a.safetensors", fill=1)
    before = read_header(first).fingerprint
    assert read_header(write(tmp_path / "b.safetensors", fill=2)).fingerprint != before
    os.rename(first, tmp_path / "c.safetensors")
    assert read_header(tmp_path / "c.safetensors").fingerprint == before
