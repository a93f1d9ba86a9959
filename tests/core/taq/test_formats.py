"""Packing loses nothing, sizes are exact, errors stay where the format puts them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from personalq_core.taq.formats import FORMATS, pack_nibbles, unpack_nibbles

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 200))


@given(rows=st.integers(1, 8), groups=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_nibbles_come_back_bit_for_bit(rows, groups, seed):
    codes = torch.randint(
        0, 16, (rows, groups, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    packed = pack_nibbles(codes).view(rows, -1)
    assert packed.numel() * 2 == codes.numel()
    assert torch.equal(unpack_nibbles(packed, 64, torch.float32), codes.float())


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: fmt.name)
@given(shape=SHAPES, seed=st.integers(0, 99), size=st.sampled_from([0.0, 1e-3, 1.0, 300.0]))
@settings(max_examples=25, deadline=None)
def test_any_weight_packs_to_its_exact_size_and_comes_back_near(fmt, shape, seed, size):
    rows, columns = shape
    weight = size * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    packed = fmt.quantize(weight)
    tensors = [t for t in (packed.codes, packed.scale, packed.zero) if t is not None]
    assert sum(t.numel() * t.element_size() for t in tensors) == fmt.size_bytes(rows, columns)
    frame = fmt.frame(rows, columns).parts
    assert [(t.dtype, t.shape) for t in tensors] == [(t.dtype, t.shape) for t in frame]
    back = fmt.dequantize(packed, columns, torch.float32)
    assert back.shape == weight.shape
    limit = {"int8": 0.02, "int4": 0.25, "int4_asym": 0.25, "fp8": 0.07, "float16": 0.001}[fmt.name]
    assert (back - weight).norm() <= limit * weight.norm() + 1e-6


@given(shape=SHAPES, seed=st.integers(0, 99), exponent=st.integers(-12, 6))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float16_gives_16_bit_weights_back_bit_for_bit(dtype, shape, seed, exponent):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    weight = weight.to(dtype).float()
    fmt = FORMATS["float16"]
    assert torch.equal(fmt.dequantize(fmt.quantize(weight), shape[1], torch.float32), weight)


@pytest.mark.parametrize("name", ["int8", "int4", "int4_asym"])
@pytest.mark.parametrize("size", [1.0, 2e-4])
def test_small_weights_lose_no_digits_in_float16(name, size):
    weight = size * torch.randn(16, 200, generator=torch.Generator().manual_seed(0))
    fmt = FORMATS[name]
    packed = fmt.quantize(weight)
    exact = fmt.dequantize(packed, 200, torch.float32)
    assert torch.equal(fmt.dequantize(packed, 200, torch.float16), exact.half())


def test_asymmetric_groups_follow_weights_that_lie_at_one_side():
    weight = torch.rand(32, 256, generator=torch.Generator().manual_seed(0)) + 0.5
    lost = {}
    for name in ("int4", "int4_asym"):
        fmt = FORMATS[name]
        lost[name] = (fmt.dequantize(fmt.quantize(weight), 256, torch.float32) - weight).norm()
    assert lost["int4_asym"] < 0.6 * lost["int4"]


def test_importance_moves_the_error_to_where_it_does_not_hurt():
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    importance = torch.ones(128)
    importance[:64:2] = 100.0
    fmt = FORMATS["int4"]

    def harm(given):
        back = fmt.dequantize(fmt.quantize(weight, given), 128, torch.float32)
        return ((back - weight).square() * importance).sum()

    assert harm(importance) < 0.98 * harm(None)
