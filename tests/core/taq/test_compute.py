"""The ways to compute a packed product agree, and the choice between them is by measurement."""

import time

import pytest
import torch
from torch import nn

from personalq_core.taq import compute
from personalq_core.taq.formats import FORMATS
from personalq_core.taq.layers import QuantizedConv2d, QuantizedLinear, set_activations

CPU = torch.device("cpu")


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(autouse=True)
def _fresh():
    torch.manual_seed(0)
    compute._chosen_for_cpus.cache_clear()
    yield
    compute._chosen_for_cpus.cache_clear()


def pair():
    """Layers, packed ones, inputs: many tokens, a picture with few places and one with many."""
    linear, conv = nn.Linear(128, 96), nn.Conv2d(80, 72, 3, stride=2, padding=1)
    x, few, many = torch.randn(3, 107, 128), torch.randn(3, 80, 9, 9), torch.randn(3, 80, 19, 19)
    return [
        (linear, QuantizedLinear(linear, linear.weight, FORMATS["int8"]), x),
        (conv, QuantizedConv2d(conv, conv.weight, FORMATS["int8"]), few),
        (conv, QuantizedConv2d(conv, conv.weight, FORMATS["int8"]), many),
    ]


@pytest.mark.parametrize(
    "times, way",
    [
        ({"plain": 9.0, "bfloat16": 3.0, "int8": 1.0}, "bfloat16"),
        ({"plain": 9.0, "bfloat16": 8.0, "int8": 3.0}, "int8"),
        ({"plain": 9.0, "bfloat16": 8.0, "int8": 8.0}, "plain"),
        ({"plain": 9.0, "bfloat16": 8.0, "int8": float("inf")}, "plain"),
    ],
)
def test_the_first_way_that_is_clearly_faster_is_taken(monkeypatch, times, way):
    monkeypatch.setattr(compute, "measured", lambda: times)
    assert compute.chosen(CPU) == way
    for plain, packed, x in pair():
        assert relative(packed(x), plain(x)) < 0.02


def test_a_gpu_multiplies_in_the_type_of_its_inputs():
    assert compute.chosen(torch.device("cuda")) == "plain"
    assert compute.product_dtype(torch.empty(1, dtype=torch.float16, device="meta")) is torch.half


@pytest.mark.filterwarnings("error")
def test_a_layer_compiles_whole_and_the_measuring_stays_outside(monkeypatch):
    def measured():
        start = time.perf_counter()  # which no graph can hold
        return {"plain": time.perf_counter() - start, "bfloat16": 9.0, "int8": 9.0}

    monkeypatch.setattr(compute, "measured", measured)
    _, packed, x = pair()[0]
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(packed, backend="eager", fullgraph=True)
        assert relative(compiled(x), packed(x)) < 1e-6


def test_this_machines_ways_are_measured():
    times = compute.measured()
    assert set(times) == {"plain", "bfloat16", "int8"}
    assert all(seconds > 0 for seconds in times.values())


def test_8_bit_inputs_are_rounded_token_by_token_and_picture_by_picture(monkeypatch):
    monkeypatch.setattr(compute, "measured", lambda: {"plain": 1, "bfloat16": 1, "int8": 1})
    for plain, packed, x in pair():
        exact = packed(x)
        set_activations(packed, "8-bit")
        rounded = packed(x)
        assert 1e-4 < relative(rounded, exact) < 0.02
        assert relative(rounded, plain(x)) < 0.02
        # A neighbour with values a thousand times larger changes nothing.
        x[1] *= 1000
        assert torch.equal(packed(x)[0], rounded[0])


def test_comfy_kitchens_product_is_the_same_product():
    pytest.importorskip("comfy_kitchen")
    _, packed, x = pair()[0]
    given = x, packed.weight, packed.weight_scale
    assert relative(compute.linear_by_kitchen(*given), compute.linear_by_torch(*given)) < 1e-6


@pytest.mark.parametrize("seconds, taken", [(1.0, "linear_by_kitchen"), (8.0, "linear_by_torch")])
def test_comfy_kitchens_product_is_taken_where_it_is_clearly_faster(monkeypatch, seconds, taken):
    pytest.importorskip("comfy_kitchen")
    times = {compute.linear_by_torch: 9.0, compute.linear_by_kitchen: seconds}
    monkeypatch.setattr(compute, "_best_seconds", lambda *_: times)
    compute._quickest_linear.cache_clear()
    assert compute._quickest_linear(CPU) is getattr(compute, taken)
    compute._quickest_linear.cache_clear()


def test_a_product_that_comfy_kitchen_cannot_do_is_pytorchs(monkeypatch):
    asked = []

    def cannot(*_):
        asked.append(1)
        raise ValueError("no backend for this shape")

    monkeypatch.setattr(compute, "linear_by_kitchen", cannot)
    monkeypatch.setattr(compute, "_quickest_linear", lambda _: cannot)
    _, packed, x = pair()[0]
    given = x, packed.weight, packed.weight_scale
    assert torch.equal(compute.linear_int8(*given), compute.linear_by_torch(*given))
    assert asked


def test_a_way_that_cannot_run_here_takes_forever():
    ways = {"plain": lambda: None, "broken": lambda: 1 / 0}
    times = compute._best_seconds(ways, CPU)
    assert times["broken"] == float("inf") > times["plain"]


@pytest.mark.parametrize("name", ["int4", "int4_asym"])
def test_4_bit_codes_brought_to_8_bits_lose_next_to_nothing(name):
    linear, x = nn.Linear(200, 96), torch.randn(5, 200)
    linear.weight.data[:, :64] *= 3  # groups far apart
    packed = QuantizedLinear(linear, linear.weight, FORMATS[name])
    lost = packed.dense() - linear.weight
    eight = FORMATS[name].in_8_bits(packed.packed, 200)
    assert (eight.codes * eight.scale - packed.dense()).norm() < 0.2 * lost.norm()
    exact = packed(x)
    set_activations(packed, "8-bit")
    assert relative(packed(x), exact) < 0.03


def test_a_pytorch_without_the_operators_falls_back(monkeypatch):
    def missing(*_):
        raise AttributeError("no such operator")

    for _, packed, x in pair():
        set_activations(packed, "16-bit")
        exact = packed(x)
        set_activations(packed, "8-bit")
        monkeypatch.setattr(compute, "linear_int8", missing)
        monkeypatch.setattr(compute, "conv2d_int8", missing)
        assert torch.equal(packed(x), exact)
