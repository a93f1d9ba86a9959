"""GGUF headers: name and architecture are read; any bytes give a header or a clear error."""

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalq_core.library import Root, scan
from personalq_core.library.gguf import read_gguf_header
from personalq_core.library.header import HeaderError

FLUX = {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)}
TEXT_ENCODER = {"token_embd.weight": (32, 4), "enc.blk.0.attn_q.weight": (4, 4)}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_bytes(shapes=FLUX, **fields) -> bytes:
    """A complete file; the tensors' bytes are left out but for the last one's first."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(fields) + 1)
    for key, value in fields.items():
        out += text(f"general.{key}") + struct.pack("<I", 8) + text(value)
    out += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    for name, shape in shapes.items():
        dimensions = struct.pack(f"<{len(shape)}Q", *reversed(shape))
        out += text(name) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", 2, 0)
    return out + b"\0" * (32 - len(out) % 32 + 32)


def header_of(folder, raw: bytes):
    path = folder / "x.gguf"
    path.write_bytes(raw)
    return read_gguf_header(path)


def test_reads_fields_names_and_shapes(tmp_path):
    header = header_of(tmp_path, gguf_bytes(architecture="flux", name="Flux dev"))
    assert header.metadata == {"general.architecture": "flux", "general.name": "Flux dev"}
    assert header.shapes == FLUX


def test_becomes_a_card(tmp_path):
    raw = gguf_bytes(architecture="flux", name="My Flux")
    (tmp_path / "flux-dev-Q4_0.gguf").write_bytes(raw)
    for kind in ("diffusion_model", None):
        (card,) = scan([Root(kind, str(tmp_path))]).cards
        assert (card.kind, card.base_family, card.title) == ("diffusion_model", "flux", "My Flux")
        assert (card.sources["title"], card.sources["base_family"]) == ("GGUF header",) * 2


@pytest.mark.parametrize(
    ("kind", "shapes", "remedy"),
    [
        ("diffusion_model", TEXT_ENCODER, "models/text_encoders"),
        ("checkpoint", FLUX, "models/diffusion_models"),
        ("lora", FLUX, "models/diffusion_models"),
    ],
)
def test_in_the_wrong_folder_it_is_refused(tmp_path, kind, shapes, remedy):
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(shapes))
    report = scan([Root(kind, str(tmp_path))])
    assert not report.cards
    assert remedy in report.refused[0].reason


@given(st.binary(max_size=300), st.integers(24, 200))
@settings(max_examples=80, deadline=None)
def test_any_bytes_give_a_header_or_a_clear_error(tmp_path_factory, raw, place):
    folder = tmp_path_factory.getbasetemp()
    whole = gguf_bytes(architecture="flux")
    for data in (raw, whole[:24] + raw, whole[:place] + raw, b"GGUF\3\0\0\0" + raw):
        try:
            header_of(folder, data)
        except HeaderError as error:
            assert "again" in str(error)


@given(st.integers(0, 230))
@settings(max_examples=40, deadline=None)
def test_every_truncation_is_noticed(tmp_path_factory, length):
    whole = gguf_bytes(architecture="flux")
    with pytest.raises(HeaderError, match="download it again"):
        header_of(tmp_path_factory.getbasetemp(), whole[: min(length, len(whole) - 64)])


@pytest.mark.parametrize(
    "start",
    [
        struct.pack("<IQQ", 3, 1 << 60, 0),
        struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 1 << 60),
        struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 60),
        struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<IIQ", 9, 12, 1 << 60),
    ],
)
def test_lengths_are_not_believed(tmp_path, start):
    path = tmp_path / "x.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + start)
        file.truncate(1 << 30)  # sparse
    tracemalloc.start()
    with pytest.raises(HeaderError):
        read_gguf_header(path)
    assert tracemalloc.get_traced_memory()[1] < 40_000_000
    tracemalloc.stop()
