"""A GPU's way, weights in one piece: on a GPU where there is one, else the same lines on a CPU."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from personalq_core.taq import gpu_unpack, layers
from personalq_core.taq.bits import sensitivity
from personalq_core.taq.calibrate import Probe, importance
from personalq_core.taq.formats import FORMATS, Format
from personalq_core.taq.layers import QuantizedConv2d, QuantizedLinear, set_activations
from personalq_core.taq.lora import Branch
from personalq_core.taq.text_cache import TextCache

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPES = (torch.float16, torch.bfloat16, torch.float32) if GPU else (torch.float32,)


@pytest.fixture(autouse=True)
def _gpus_way(monkeypatch):
    torch.manual_seed(0)
    if not GPU:
        monkeypatch.setattr(layers, "is_gpu", lambda device: True)
        monkeypatch.setattr(Format, "dequantize", Format.dequantize_at_once)


def relative(a, b):
    return ((a.float().cpu() - b).norm() / b.norm()).item()


@pytest.mark.parametrize("name", [n for n in FORMATS if n.startswith("int")])
@given(
    shape=st.tuples(st.integers(1, 9), st.sampled_from([1, 63, 64, 65, 200, 576, 3000])),
    large=st.booleans(),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
)
@settings(max_examples=30, deadline=None)
def test_weights_in_one_pass_are_the_rounded_products(name, shape, large, dtype):
    rows, columns = shape[0] * (800 if large and GPU else 1), shape[1]
    fmt = FORMATS[name]
    packed = fmt.quantize(torch.randn(rows, columns))
    codes = fmt.codes(packed, columns, torch.float32)
    exact = (codes * packed.scale.float()[..., None]).flatten(1)[:, :columns]
    parts = (packed.codes, packed.scale, packed.zero)
    parts = (None if part is None else part.to(DEVICE) for part in parts)
    weight = fmt.dequantize_at_once(type(packed)(*parts), columns, dtype)
    assert torch.equal(weight.cpu(), exact.to(dtype))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_gives_what_it_gives_on_a_cpu(name, dtype, bias):
    linear = nn.Linear(200, 96, bias=bias)
    conv = nn.Conv2d(80, 72, 3, stride=2, padding=1, bias=bias)
    for layer, kind, x in (
        (linear, QuantizedLinear, torch.randn(3, 7, 200)),
        (conv, QuantizedConv2d, torch.randn(2, 80, 9, 9)),
    ):
        packed = kind(layer, layer.weight, FORMATS[name])
        set_activations(packed, "16-bit")
        change = 0.1 * torch.randn(layer.weight.shape[0], 4) @ torch.randn(4, packed.columns)
        for branch in (None, Branch.of(change)):
            packed.set_branch("lora", branch)
            dense = packed.dense().flatten(1)
            dense = dense if branch is None else dense + change
            plain = copy.deepcopy(layer)
            plain.weight.data = dense.view_as(layer.weight)
            there = copy.deepcopy(packed).to(DEVICE)
            assert relative(there(x.to(DEVICE, dtype)), plain(x)) < 0.01


def test_a_text_layers_weight_that_lies_outside_is_fetched():
    linear, text = nn.Linear(96, 40, bias=False), torch.randn(2, 5, 96)
    packed = QuantizedLinear(linear, linear.weight, FORMATS["float16"])
    packed.evict(packed.packed)
    packed.text, packed.texts = TextCache([packed]), {}
    there = packed.to(DEVICE)
    given_text = text.to(DEVICE)
    there.text.enter(given_text)
    assert relative(there(given_text), linear(text)) < 0.01
    assert len(there.texts) == 1


def test_8_bit_inputs_are_asked_for_in_the_other_way(monkeypatch):
    linear = nn.Linear(128, 96)
    packed = QuantizedLinear(linear, linear.weight, FORMATS["int8"]).to(DEVICE)
    set_activations(packed, "8-bit")
    monkeypatch.setattr(packed, "_product_at_once", None)
    assert relative(packed(torch.randn(32, 128, device=DEVICE)), torch.zeros(1)) > 0


def test_where_triton_fails_pytorch_unpacks_from_then_on(monkeypatch, caplog):
    calls = []

    def no_compiler(*_):
        calls.append(1)
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(gpu_unpack, "_failures", [])
    monkeypatch.setattr(gpu_unpack, "_launch", no_compiler)
    monkeypatch.setattr(gpu_unpack, "can_launch", lambda codes: not gpu_unpack._failures)
    fmt, weight = FORMATS["int4"], torch.randn(8, 128)
    packed = fmt.quantize(weight)
    for _ in range(2):
        back = fmt.dequantize_at_once(packed, 128, torch.float32)
        assert relative(back, weight) < 0.12
    assert len(calls) == 1
    assert "Failed to find C compiler" in caplog.text


@pytest.mark.skipif(not GPU, reason="needs a second device")
def test_layers_kept_elsewhere_are_tried_where_the_model_runs():
    near, far = nn.Linear(128, 128).to(DEVICE), nn.Linear(128, 128)
    model = nn.ModuleDict({"near": near, "far": far}).requires_grad_(False)

    def run():
        x = torch.ones(3, 128, device=DEVICE)
        return near(x) + nn.functional.linear(x, far.weight.to(DEVICE))

    probe = Probe("generic", run)
    moments = importance(model, [probe])
    found = sensitivity(model, [probe], {"near": moments["near"], "far": moments["near"]})
    assert far.weight.device.type == "cpu"
    assert all(0 < found[name]["int4"] < 1 for name in ("near", "far"))
