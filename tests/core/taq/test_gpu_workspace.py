"""Weights unpacked together: on a GPU where there is one, else by Triton's interpreter on a CPU."""

import contextlib
import copy
import gc
import importlib.util
import itertools
import os
import subprocess
import sys
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from personalq_core.taq import gpu_unpack, gpu_workspace, layers
from personalq_core.taq.formats import FORMATS, Format
from personalq_core.taq.layers import QuantizedConv2d, QuantizedLinear, share_workspace
from personalq_core.taq.lora import Branch

pytest.importorskip("triton")

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
CODES = (torch.int8, torch.uint8)
WIDTH = 32
DTYPES = [torch.float16, torch.float32]  # the interpreter cuts bfloat16 off instead of rounding


@pytest.fixture(scope="module", autouse=True)
def kernels():
    """The module of the kernels, without a GPU a copy whose kernels Triton interprets."""
    with pytest.MonkeyPatch.context() as patch:
        module = gpu_unpack
        if not GPU:
            patch.setenv("TRITON_INTERPRET", "1")
            spec = importlib.util.find_spec(gpu_unpack.__name__)
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, gpu_unpack.__name__, module)
            spec.loader.exec_module(module)
            patch.setattr(module, "can_launch", lambda codes: codes.dtype in CODES)
            patch.setattr(gpu_workspace, "gpu_unpack", module)
            patch.setattr(layers, "is_gpu", lambda device: True)
            patch.setattr(Format, "dequantize", Format.dequantize_at_once)
        yield module
    assert not module._failures


@pytest.fixture
def launches(kernels, monkeypatch):
    """How many weights were unpacked, launch by launch."""
    counted, launch = [], kernels.unpack_together

    def unpack_together(table, out):
        counted.append(len(table.starts))
        return launch(table, out)

    monkeypatch.setattr(kernels, "unpack_together", unpack_together)
    return counted


def network(names=("int8", "int4", "int4_asym", "fp8"), seed=0) -> nn.Sequential:
    """Layers of all formats, linear ones and convolutions in turn, without a workspace."""
    torch.manual_seed(seed)
    made = []
    for name in names:
        conv, linear = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Linear(WIDTH, WIDTH)
        fmt = FORMATS[name]
        made += [
            QuantizedConv2d(conv, conv.weight, fmt), nn.Flatten(2), Swap(),
            QuantizedLinear(linear, linear.weight, fmt), Swap(), nn.Unflatten(2, (2, 2)),
        ]  # fmt: skip
    return nn.Sequential(*made).to(DEVICE).requires_grad_(False)


class Swap(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def picture(seed=1):
    return torch.randn(2, WIDTH, 2, 2, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def shared(model: nn.Sequential) -> nn.Sequential:
    model = copy.deepcopy(model)
    share_workspace(model)
    return model


def packed_layers(model):
    return [module for module in model if isinstance(module, layers.QuantizedLayer)]


@pytest.fixture
def few(monkeypatch):
    """Room for about two of the convolutions: a network then has several kinds of neighbours."""
    monkeypatch.setattr(gpu_workspace, "TOGETHER", 2 * 9 * WIDTH**2)


@given(
    drawn=st.lists(
        st.tuples(
            st.sampled_from(["int8", "int4", "int4_asym"]),
            st.integers(1, 9), st.sampled_from([16, 64, 80, 144, 576, 3008]),
        ),
        min_size=1, max_size=4,
    ),
    dtype=st.sampled_from(DTYPES),
)  # fmt: skip
@settings(max_examples=20, deadline=None)
def test_one_launch_gives_what_each_weight_gives_alone(kernels, drawn, dtype):
    packed = [FORMATS[name].quantize(torch.randn(rows, columns)) for name, rows, columns in drawn]
    parts = [(p.codes, p.scale, p.zero) for p in packed]
    parts = [tuple(None if t is None else t.to(DEVICE) for t in three) for three in parts]
    assert all(kernels.fits_a_table(*three) for three in parts)
    table = kernels.tabulated(parts)
    out = torch.full((table.size,), 77.0, dtype=dtype, device=DEVICE)
    assert kernels.unpack_together(table, out)
    for three, (name, rows, columns), start, width in zip(parts, drawn, table.starts, table.widths):
        back = out[start : start + rows * width].view(rows, width)[:, :columns]
        alone = FORMATS[name].dequantize_at_once(type(packed[0])(*three), columns, dtype)
        assert torch.equal(back, alone)


def test_memory_that_stays_is_taken_where_the_host_allows_it(kernels, few, monkeypatch):
    events, tabulated = [], kernels.tabulated

    @contextlib.contextmanager
    def lasting():
        events.append("allowed")
        yield
        events.append("over")

    monkeypatch.setattr(kernels, "tabulated", lambda p: events.append("table") or tabulated(p))
    model = copy.deepcopy(network())
    share_workspace(model, lasting)
    for each in (model, copy.deepcopy(model)):
        for _ in range(3):
            each(picture())
        assert events[:5] == ["allowed", "table", "over", "allowed", "over"]  # a table, then memory
        assert events.count("allowed") == events.count("table") + 1
        events.clear()


def test_a_weight_that_is_not_in_whole_steps_is_left_to_itself(kernels):
    packed = FORMATS["int8"].quantize(torch.randn(8, 24))
    assert not kernels.fits_a_table(packed.codes, packed.scale, packed.zero)
    shifted = torch.zeros(1 + 8 * 32, dtype=torch.int8)[1:].view(8, 32)
    assert not kernels.fits_a_table(shifted, packed.scale, None)
    assert not kernels.fits_a_table(torch.zeros(32, 8, dtype=torch.int8).T, packed.scale, None)


def test_every_pass_gives_what_the_layers_give_alone(few, launches):
    plain, x = network(), picture()
    model, wanted = shared(plain), plain(x)
    for _ in range(3):
        assert torch.equal(model(x), wanted)
    # Six of the eight layers are integers; each launch is for several, in the last two passes.
    assert sum(launches) == 2 * 6
    assert len(launches) == 2 * 3


def test_layers_may_come_in_any_order(few, launches):
    plain, x = network(), picture()
    model = shared(plain)
    model(x)
    convolutions = [n for n, m in enumerate(model) if isinstance(m, QuantizedConv2d)]
    for number in (*reversed(convolutions), *convolutions, *convolutions[::2]):
        assert torch.equal(model[number](x), plain[number](x))
    assert launches


def test_codes_changed_in_place_are_seen_in_the_next_pass():
    plain, x = network(("int8",)), picture()
    model = shared(plain)
    for _ in range(2):
        model(x)
    for layer, own in zip(packed_layers(model), packed_layers(plain)):
        layer.weight.data.neg_()
        own.weight.data.neg_()
    assert torch.equal(model(x), plain(x))


def test_codes_that_moved_are_found_again(launches):
    plain, x = network(("int8", "int4")), picture()
    model, wanted = shared(plain), plain(x)
    for _ in range(2):
        model(x)
    before = len(launches)
    for layer in packed_layers(model):
        layer.weight.data = layer.weight.data.clone()
        layer.weight_scale = layer.weight_scale.clone()
    for _ in range(3):
        assert torch.equal(model(x), wanted)
    assert len(launches) > before


def test_a_model_brought_to_another_type_still_reads_its_scales(few):
    plain, x = network(("int8", "int4_asym")), picture()
    model = shared(plain)
    for kind in (torch.float32, torch.float16, torch.float32):
        for each in (model, plain):
            each.to(kind)
        for _ in range(2):
            assert torch.equal(model(x.to(kind)), plain(x.to(kind)))


def test_a_layer_whose_weight_leaves_the_model_takes_no_other_with_it():
    plain, x = network(("int8", "int4")), picture()
    model, wanted = shared(plain), plain(x)
    for _ in range(2):
        model(x)
    layers.set_activations(model, "16-bit")  # what is outside is not to be rounded on any processor
    layer = packed_layers(model)[1]
    layer.evict(layer.packed)
    for _ in range(3):
        assert torch.allclose(model(x), wanted, atol=1e-4)


def test_another_type_of_input_is_not_given_the_wrong_weight(few):
    plain, x = network(), picture()
    model = shared(plain)
    for kind in DTYPES * 2:
        assert torch.equal(model(x.to(kind)), plain(x.to(kind)))


def test_changes_beside_the_codes_are_added_and_taken_away(few):
    plain, x = network(), picture()
    model = shared(plain)
    pairs = list(zip(packed_layers(model), packed_layers(plain)))
    thin = [Branch(torch.randn(WIDTH, 4), torch.randn(4, 9 * WIDTH)) for _ in range(2)]
    for branch in (None, *thin, None):
        for layer in itertools.chain(*pairs):
            own = branch and Branch(branch.up, branch.down[:, : layer.columns])
            layer.set_branch("lora", own)
            layer.set_branch("whole", own and Branch(own.up @ own.down))
        for _ in range(2):
            assert torch.equal(model(x), plain(x))
        for shares, alone in reversed(pairs):
            given = x if isinstance(shares, QuantizedConv2d) else x.flatten(2).mT
            assert torch.equal(shares(given), alone(given))


def test_a_change_is_heard_by_a_layer_that_is_not_the_first_to_run():
    plain, x = network(("int8",)), picture().flatten(2).mT
    model = shared(plain)
    for _ in range(2):
        model(picture())
    (_, shares), (_, alone) = packed_layers(model), packed_layers(plain)
    for layer in (shares, alone):
        layer.set_branch("lora", Branch(torch.ones(WIDTH, 1), torch.ones(1, WIDTH)))
    assert torch.equal(shares(x), alone(x))


def test_memory_made_in_inference_mode_serves_outside_it():
    plain, x = network(("int8",)), picture()
    model = shared(plain)
    for layer in (*packed_layers(model), *packed_layers(plain)):
        layer.set_branch("lora", Branch(torch.ones(WIDTH, 1), torch.ones(1, layer.columns)))
    with torch.inference_mode():
        model(x), model(x)
    assert torch.equal(model(x), plain(x))
    with torch.inference_mode():
        assert torch.equal(model(x), plain(x))


def test_gradients_do_not_see_weights_of_other_layers(few):
    plain, x = network(("int8", "int4", "int4_asym")), picture()
    model = shared(plain)
    for _ in range(2):
        model(x)
    found = []
    for each in (model, plain):
        own = x.clone().requires_grad_()
        each(own).square().sum().backward()
        found.append(own.grad)
    assert torch.equal(*found)


def test_a_layer_that_comes_late_does_not_upset_the_others():
    plain, x = network(("int8", "int4")), picture()
    wide = nn.Linear(WIDTH, 40 * WIDTH)
    plain.append(nn.Flatten(2)).append(Swap()).append(
        QuantizedLinear(wide, wide.weight, FORMATS["int8"]).to(DEVICE)
    )
    model = shared(plain)
    for _ in range(2):
        model[:-1](x)
    lane = packed_layers(model)[0].workspace._lane
    for _ in range(3):  # it needs more memory than they had
        assert torch.equal(model(x), plain(x))
    for layer in (*packed_layers(model), *packed_layers(plain)):
        layer.weight.data.bitwise_not_()
    assert torch.equal(model(x), plain(x))
    assert packed_layers(model)[0].workspace._lane is lane
    assert len(lane.memory) == 4 * 40 * WIDTH**2


def test_another_thread_does_not_overwrite_what_is_still_read(few):
    plain, x = network(("int8", "int4")), picture()
    model, wanted = shared(plain), plain(x)
    for _ in range(2):
        model(x)
    layer, reached, done = packed_layers(model)[0], threading.Event(), threading.Event()
    multiply, found = layer._times, []

    def slow(*arguments):
        reached.set()
        assert done.wait(60)
        return multiply(*arguments)

    layer._times = slow
    reader = threading.Thread(target=lambda: found.append(model(x)))
    reader.start()
    reached.wait(60)
    del layer._times
    for _ in range(3):
        assert torch.equal(model(x), wanted)
    done.set()
    reader.join()
    assert torch.equal(found[0], wanted)


def test_a_copied_model_has_memory_of_its_own(few):
    plain, x = network(), picture()
    model = shared(plain)
    model(x), model(x)
    other = copy.deepcopy(model)
    first, second = packed_layers(model), packed_layers(other)
    assert len({id(layer.workspace) for layer in first + second}) == 2
    for layer in second:
        layer.weight.data = layer.weight.data.clone()
    for each in (model, other, model, other):
        assert torch.equal(each(x), plain(x))


def test_released_memory_is_gone_and_comes_back():
    plain, x = network(("int8",)), picture()
    model = shared(plain)
    model(x), model(x)
    workspace = packed_layers(model)[0].workspace
    assert workspace._lane.memory.numel()
    layers.release_workspace(model)
    assert workspace._lane is None
    assert torch.equal(model(x), plain(x))


def test_where_triton_fails_each_layer_unpacks_its_own(kernels, monkeypatch):
    plain, x = network(("int8",)), picture()
    model, wanted = shared(plain), plain(x)
    model(x)
    monkeypatch.setattr(kernels, "unpack_together", lambda table, out: False)
    for _ in range(3):
        assert torch.equal(model(x), wanted)


@pytest.mark.parametrize("name", ["int8", "int4", "int4_asym"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_wrong_weight_is_found_and_triton_is_not_asked_again(
    few, kernels, monkeypatch, caplog, launches, name, dtype
):
    launch = kernels.unpack_together

    def unpack_together(table, out):
        done = launch(table, out)
        out[table.starts[-1] + 5 * table.widths[-1] + 3] *= 1.01
        return done

    monkeypatch.setattr(gpu_workspace, "COMPARED", 4 * WIDTH)  # several parts to each layer
    monkeypatch.setattr(kernels, "_failures", [])
    monkeypatch.setattr(
        kernels, "can_launch", lambda codes: not kernels._failures and codes.dtype in CODES
    )
    monkeypatch.setattr(kernels, "unpack_together", unpack_together)
    plain, x = network((name,)).to(dtype), picture().to(dtype)
    for layer, own in zip(packed_layers(plain), packed_layers(network((name,)))):
        layer.weight_scale = own.weight_scale  # the type that the kernel takes
    model, wanted = shared(plain), plain(x)
    for _ in range(3):
        assert torch.equal(model(x), wanted)
    assert len(launches) == 1
    assert "it unpacks other weights than PyTorch" in caplog.text


def test_what_is_no_number_is_not_taken_for_a_fault(launches):
    plain, x = network(("int8",)), picture()
    for layer in packed_layers(plain):
        layer.weight_scale[3] = torch.nan
    model = shared(plain)
    for _ in range(3):
        assert torch.equal(model(x).isnan(), plain(x).isnan())
    assert len(launches) == 2


COMPILE = """
import re, torch, triton
from triton.backends.compiler import GPUTarget
from personalq_core.taq import gpu_unpack
signature = {"rows": "*i64", "row_of": "*i32", "out": "*fp16", "FIELDS": "constexpr",
             "BLOCK": "constexpr"}
aligned = {(n,): [["tt.divisibility", 16]] for n in range(3)}
source = triton.compiler.ASTSource(
    fn=gpu_unpack._unpack_many, signature=signature, constexprs={"FIELDS": 9, "BLOCK": 2048},
    attrs=aligned,
)
for generation in (75, 80, 89, 90):
    text = triton.compile(source, target=GPUTarget("cuda", generation, 32)).asm["ptx"]
    assert re.search("ld.global.v[24].b32", text), "codes are not loaded in whole steps"
    assert re.search("st.global.v[24].b32", text), "weights are not stored in whole steps"
"""


def test_the_kernel_compiles_for_gpus_of_each_generation(tmp_path):
    """Needs no GPU: the compiler is asked for one by its number."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE], check=True, timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path),
                          "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
    )  # fmt: skip


def test_codes_go_with_the_model_at_once(launches):
    """Not only when Python's collector comes by: another model may need their memory now."""
    net = shared(network())
    for _ in range(2):
        net(picture())
    assert launches
    codes = weakref.ref(net[0].weight)
    gc.collect()
    gc.disable()
    try:
        del net
        assert codes() is None
    finally:
        gc.enable()
