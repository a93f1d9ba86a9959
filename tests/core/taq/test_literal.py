"""The paper's TAQ: exact rows are exact, the others are rounded, controls protect as many."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from personalq_core.taq.literal import (
    PADDING,
    START,
    TRIGGER,
    WORD,
    Rows,
    apply,
    exact_rows,
    protected,
    roles,
    round_linear,
    round_log2,
)
from personalq_core.taq.lora import Branch

IDS = [100, 5, 7, 8, 9, 6, 101, 101, 101, 101]


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(128,), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",), mid_block_type="UNetMidBlock2D",
        up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=96, attention_head_dim=4,
    ).requires_grad_(False)  # fmt: skip


@pytest.fixture
def call():
    torch.manual_seed(1)
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 10, 96)
    return lambda model: model(x, 500, text).sample


def attention_of(unet):
    return unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2


def error(unet, call, mask, **given):
    given = {"weights": "int8", "activation_bits": 16, "attention": "linear"} | given
    model = apply(copy.deepcopy(unet), rows=Rows(mask), **given)
    return ((call(model) - call(unet)).norm() / call(unet).norm()).item()


def test_masks():
    def at(protect, trigger=(8, 9)):
        return protected(IDS, trigger, protect, 101).nonzero().flatten().tolist()

    assert at("trigger") == [3, 4]
    assert at("trigger and start") == [0, 3, 4]
    assert at("start") == [0]
    assert (at("none"), at("all")) == ([], list(range(10)))
    assert at("trigger", (42,)) == at("random", (42,)) == at("trigger", ()) == []
    random = at("random")
    assert len(random) == 2
    assert set(random) <= {1, 2, 5}
    assert len(at("random", (5, 7, 8, 9))) == 4


def test_a_trigger_is_found_over_chunks_in_any_spelling_and_more_than_once():
    start, end, vector = 100, 101, torch.randn(8)
    chunks = [[start, 5, 7, 8, end, end], [start, 9, 8, 9, vector, end]]
    found = roles(chunks, [[8, 9]], end)
    assert found[:6] == [START, WORD, WORD, TRIGGER, PADDING, PADDING]
    assert found[6:] == [START, TRIGGER, TRIGGER, TRIGGER, WORD, PADDING]
    assert roles(chunks, [[77], [vector.clone()]], end)[10] == TRIGGER  # a textual inversion
    assert TRIGGER not in roles(chunks, [[], [9, 5], [torch.randn(8)]], end)
    assert exact_rows(found, "trigger and start").sum() == 6
    assert exact_rows(found, "random").sum() == exact_rows(found, "trigger").sum() == 4


def test_a_lora_beside_the_rounded_rows_is_in_the_exact_ones_too(unet):
    text, mask = torch.randn(1, 10, 96), torch.arange(10).expand(1, 10) < 5
    holder = nn.ModuleDict({"attn2": copy.deepcopy(attention_of(unet))})
    exact = holder["attn2"].to_k.weight.clone()
    given = {"weights": "int4", "activation_bits": 4, "attention": "linear"}
    attention = apply(holder, rows=Rows(mask), **given)["attn2"]
    branch = Branch(torch.randn(128, 2), torch.randn(2, 96))
    attention.to_k.set_branch("lora", branch)
    made = attention._projected(text, attention.to_k, attention.exact_k, mask[..., None])
    wanted = text @ exact.T + branch.linear(text)
    assert (made - wanted)[:, :5].norm() < 1e-2 * wanted.norm()
    assert (made - wanted)[:, 5:].norm() > 3e-2 * wanted.norm()


def test_text_that_a_patch_lengthens_and_masks_are_taken(unet):
    attention = attention_of(unet)
    x, text = torch.randn(2, 16, 128), torch.randn(2, 10, 96)
    holder = nn.ModuleDict({"attn2": copy.deepcopy(attention)})
    given = {"weights": "int8", "activation_bits": 16, "attention": "linear"}
    made = apply(holder, rows=Rows(torch.ones(2, 8, dtype=torch.bool)), **given)["attn2"]
    assert (made(x, text) - attention(x, text)).norm() < 0.02 * attention(x, text).norm()
    hidden = torch.zeros(16, 10)
    hidden[:, 6:] = -torch.inf
    wanted = attention(x, text[:, :6])
    assert (made(x, text, mask=hidden) - wanted).norm() < 0.02 * wanted.norm()


def test_without_rounded_activations_it_is_weight_rounding(unet, call):
    assert error(unet, call, None) < 0.02
    assert error(unet, call, None, weights="int4") > 3 * error(unet, call, None)


@pytest.mark.parametrize("attention", ["linear", "log2"])
def test_exact_rows_lower_the_error_of_the_attention(unet, attention):
    torch.manual_seed(2)
    x, text = torch.randn(2, 16, 128), torch.randn(2, 10, 96)
    block = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    exact = block.attn2(x, text)
    errors = []
    for mask in (None, torch.arange(10).expand(2, 10) < 5, torch.ones(2, 10, dtype=torch.bool)):
        holder = nn.ModuleDict({"attn2": copy.deepcopy(block.attn2)})
        made = apply(
            holder, weights="int8", activation_bits=4, attention=attention, rows=Rows(mask)
        )
        errors.append((made["attn2"](x, text) - exact).norm().item())
    assert errors[0] > errors[1] > errors[2]


def test_fewer_bits_are_worse_and_samples_do_not_disturb_each_other(unet, call):
    assert error(unet, call, None, activation_bits=4) > 3 * error(
        unet, call, None, activation_bits=8
    )
    x = torch.randn(2, 5)
    alone = round_linear(x[:1], 4)
    x[1] *= 1000
    assert torch.equal(round_linear(x, 4)[:1], alone)
    assert round_linear(x, 4)[0].unique().numel() <= 16


def test_a_range_wider_than_float16_is_rounded():
    x = torch.tensor([[40000.0, -40000.0, 1.0]], dtype=torch.float16)
    assert (round_linear(x, 8) - x).abs().max() <= 80000 / 255


def test_powers_of_two():
    chances = torch.tensor([[1.0, 0.5, 0.26, 1e-9]])
    assert round_log2(chances, 4).tolist() == [[1.0, 0.5, 0.25, 0.0]]


def test_a_wrong_mask_and_a_model_without_text_are_said(unet, call):
    with pytest.raises(ValueError, match="one mask row to each prompt"):
        error(unet, call, torch.ones(3, 10, dtype=torch.bool))
    with pytest.raises(ValueError, match="no cross-attention"):
        apply(
            nn.Sequential(nn.Linear(128, 128)),
            weights="int8", activation_bits=8, attention="linear", rows=Rows(),
        )  # fmt: skip
