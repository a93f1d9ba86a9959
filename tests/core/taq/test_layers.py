"""Packed layers compute what the plain ones do; changes beside them are exact and removable."""

import copy

import pytest
import torch
from torch import nn

from personalq_core.taq import KEPT, TaqError, TaqPlan, make_plan, quantize, size_bytes
from personalq_core.taq.formats import FORMATS
from personalq_core.taq.layers import QuantizedConv2d, QuantizedLinear
from personalq_core.taq.lora import Branch, low_rank_factors
from personalq_core.taq.repair import repair


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "fmt, limit", [("int8", 0.015), ("int4", 0.12), ("int4_asym", 0.12), ("fp8", 0.04)]
)
def test_products_are_near_the_plain_ones(fmt, limit, monkeypatch):
    monkeypatch.setattr("personalq_core.taq.layers.CPU_TILE", 1000)  # several tiles
    linear, conv = nn.Linear(128, 96), nn.Conv2d(80, 72, 3, stride=2, padding=1)
    x, image = torch.randn(2, 7, 128), torch.randn(2, 80, 9, 9)
    packed = QuantizedLinear(linear, linear.weight, FORMATS[fmt])
    assert relative(packed(x), linear(x)) < limit
    packed = QuantizedConv2d(conv, conv.weight, FORMATS[fmt])
    assert relative(packed(image), conv(image)) < limit


def test_a_branch_holds_a_lora_that_rounding_would_lose():
    linear = nn.Linear(256, 256)
    packed = QuantizedLinear(linear, linear.weight, FORMATS["int4"])
    change = 0.01 * linear.weight.norm() / 256 * torch.randn(256, 4) @ torch.randn(4, 256) / 2
    x = torch.randn(64, 256)
    before = packed(x)
    packed.set_branch("lora", Branch.of(change))
    assert packed.branches["lora"].down.shape[0] == 4
    assert relative(packed(x) - before, x @ change.T) < 0.05
    packed.set_branch("lora", None)
    assert torch.equal(packed(x), before)


def test_a_change_of_full_rank_is_kept_whole():
    change = torch.randn(128, 128)
    assert low_rank_factors(change) is None
    assert relative(Branch.of(change).linear(torch.eye(128)).T, change) < 1e-3


def test_many_loras_take_no_more_than_the_change_they_make():
    up, down = torch.randn(96, 70), torch.randn(70, 128)
    few, many = Branch(up[:, :50], down[:50]), Branch(up, down)
    assert few.down is not None and many.down is None
    assert size_bytes(few) < size_bytes(many) == 2 * 96 * 128
    x = torch.randn(4, 128)
    assert relative(many.linear(x), x @ (up @ down).T) < 1e-3


class OnMac(torch.Tensor):
    """A tensor that says it is on a Mac's GPU."""

    device = property(lambda self: torch.device("mps"))

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        assert function not in (torch.linalg.qr, torch.svd_lowrank), "not implemented for MPS"
        return super().__torch_function__(function, types, args, kwargs)


def test_factors_are_found_where_the_device_has_no_qr():
    change = torch.randn(192, 4) @ torch.randn(4, 256)
    up, down = low_rank_factors(change.as_subclass(OnMac))
    assert relative(up @ down, change) < 1e-3
    branch = repair(change.as_subclass(OnMac), 4)
    assert relative(branch.up.float() @ branch.down.float(), change) < 1e-3


def test_a_convolutions_branch():
    conv = nn.Conv2d(96, 80, 3, padding=1)
    packed = QuantizedConv2d(conv, conv.weight, FORMATS["int8"])
    change = (torch.randn(80, 2) @ torch.randn(2, 96 * 9)).view_as(conv.weight) * 0.01
    x = torch.randn(1, 96, 6, 6)
    before = packed(x)
    packed.set_branch("lora", Branch.of(change))
    wanted = nn.functional.conv2d(x, change, padding=1)
    assert relative(packed(x) - before, wanted) < 0.05


def test_a_seamless_convolution_stays_seamless():
    conv = nn.Conv2d(64, 72, 3, padding=1, padding_mode="circular")
    packed = QuantizedConv2d(conv, conv.weight, FORMATS["int8"])
    x = torch.randn(1, 64, 8, 8)
    with torch.no_grad():
        wanted, turned = packed(x), packed(x.roll(3, 2))
        assert (wanted - conv(x)).norm() < 0.02 * wanted.norm()
    assert torch.allclose(turned, wanted.roll(3, 2), atol=1e-5)


def test_plan_keeps_first_and_last_and_packs_the_rest():
    model = nn.Sequential(
        nn.Conv2d(4, 320, 3), nn.Conv2d(320, 320, 3), nn.GroupNorm(32, 320), nn.Conv2d(320, 4, 3)
    )
    plan = make_plan(model, "int4")
    assert [layer.format for layer in plan.layers.values()] == [KEPT, "int4", KEPT]
    assert TaqPlan.from_json(plan.to_json()) == plan
    model.half()
    small = quantize(copy.deepcopy(model), plan)
    assert size_bytes(small) < 0.3 * size_bytes(model)
    assert torch.equal(small[0].weight, model[0].weight)


def test_nothing_to_quantize_is_said():
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    with pytest.raises(TaqError, match="no Linear or Conv2d"):
        quantize(model, make_plan(model, "int8"))


def test_factors_far_apart_in_size_fit_into_16_bits():
    """A rank of 128 with alpha 1, its first factor small, at a strength of .3."""
    up, down = torch.randn(384, 128) * 1e-4 / 128 * 0.3, torch.randn(128, 200)
    up[:, 5], down[7] = 0.0, 0.0
    branch = Branch(up, down)
    assert branch.down is not None
    change = branch.up.float() @ branch.down.float()
    assert (change - up @ down).norm() < 1e-3 * (up @ down).norm()
    again = Branch(branch.up, branch.down)
    assert torch.equal(again.up, branch.up)
