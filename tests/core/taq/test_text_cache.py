"""Text layers compute once per text, whatever way it is batched, and never give another's."""

import copy
import io

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from personalq_core.taq import file, make_plan, quantize, size_bytes
from personalq_core.taq.formats import FORMATS
from personalq_core.taq.layers import QuantizedLinear
from personalq_core.taq.lora import Branch
from personalq_core.taq.text_cache import (
    MEMORY_CALLS,
    MOST_TEXTS,
    cache_text,
    forget_text,
    full_precision_text,
    in_a_file,
    keep_outside,
    outside_bytes,
)


class Attention(nn.Module):
    def __init__(self, heard):
        super().__init__()
        self.to_q = nn.Linear(96, 96, bias=False)
        self.to_k, self.to_v = (nn.Linear(heard, 96, bias=False) for _ in range(2))

    def forward(self, x, context):
        return nn.functional.scaled_dot_product_attention(
            self.to_q(x), self.to_k(context), self.to_v(context)
        )


class Block(nn.Module):
    """A model of one block; `replaced` stands for a patch that swaps the text inside."""

    def __init__(self):
        super().__init__()
        self.attn1, self.attn2 = Attention(96), Attention(72)
        self.replaced = None

    def forward(self, x, step, context=None):
        x = x * step
        x = x + self.attn1(x, x)
        return x + self.attn2(x, context if self.replaced is None else self.replaced)


@pytest.fixture
def runs(monkeypatch):
    """How often a packed product was computed, by layer."""
    counts = {}
    plain = QuantizedLinear._product

    def counted(self, x):
        counts[self] = counts.get(self, 0) + 1
        return plain(self, x)

    monkeypatch.setattr(QuantizedLinear, "_product", counted)
    return counts


@pytest.fixture
def models():
    torch.manual_seed(0)
    model = Block()
    plain = quantize(model, make_plan(model, "int8"))
    torch.manual_seed(0)
    model = Block()
    cached = quantize(model, make_plan(model, "int8"))
    assert cache_text(cached) == 2
    return plain, cached


def texts(count, tokens=77):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, tokens, 72, generator=generator)


def test_each_text_is_computed_once_and_every_picture_is_the_same(models, runs):
    plain, cached = models
    x = torch.randn(2, 16, 96)
    cond, uncond = texts(2).split(1)
    long = torch.cat([cond, uncond], dim=1)
    turns = [
        torch.cat([cond, uncond]), torch.cat([uncond, cond]),  # batched, reversed
        torch.cat([cond, cond]), torch.cat([long, torch.cat([uncond, uncond], 1)]),  # repeated
    ]  # fmt: skip
    for step in (1.0, 0.7, 0.4):
        for turn in turns:
            # ComfyUI makes a new tensor of the same content in each step.
            assert torch.equal(cached(x, step, context=turn.clone()), plain(x, step, context=turn))
        alone = cached(x[:1], step, context=cond.clone())
        assert torch.equal(alone, plain(x[:1], step, context=cond))
    assert runs[cached.attn2.to_k] == runs[cached.attn2.to_v] == len(turns) + 1
    assert runs[cached.attn1.to_k] == 3 * (len(turns) + 1)


def test_a_text_that_changes_or_is_replaced_is_computed(models, runs):
    plain, cached = models
    x, text = torch.randn(1, 16, 96), texts(1)
    cached(x, 1.0, context=text)
    changed = text.clone()
    changed[0, 5, 7] += 1e-3
    assert torch.equal(cached(x, 1.0, context=changed), plain(x, 1.0, context=changed))
    cached.replaced = plain.replaced = texts(3)[:1]
    assert torch.equal(cached(x, 1.0, context=text), plain(x, 1.0, context=text))
    assert runs[cached.attn2.to_k] == 3


def test_a_text_changed_in_place_is_seen(models):
    plain, cached = models
    x, text = torch.randn(1, 16, 96), texts(1)
    cached(x, 1.0, context=text)
    text += 1
    assert torch.equal(cached(x, 1.0, context=text), plain(x, 1.0, context=text))


def test_what_a_patch_does_to_a_product_in_place_does_not_stay(models):
    plain, cached = models
    for model in models:
        model.attn2.to_v.register_forward_hook(lambda _, __, value: value.mul_(0.5))
    x, text = torch.randn(1, 16, 96), texts(1)
    for _ in range(3):
        assert torch.equal(cached(x, 1.0, context=text), plain(x, 1.0, context=text))


def test_nothing_stays_of_what_is_forgotten(models):
    plain, cached = models
    x, text = torch.randn(1, 16, 96), texts(1)
    cached(x, 1.0, context=text)
    cache = cached.attn2.to_k.text
    assert cache.texts and cache.given is text
    forget_text(cached)
    assert not cache.texts and not cache.last_call and cache.given is None
    assert not cached.attn2.to_k.texts and not cached.attn2.to_v.texts
    assert torch.equal(cached(x, 1.0, context=text), plain(x, 1.0, context=text))


def test_a_lora_on_a_text_layer_is_heard_at_once_and_leaves_at_once(models):
    _, cached = models
    x, text = torch.randn(1, 16, 96), texts(1)
    before = cached(x, 1.0, context=text)
    cached.attn2.to_v.set_branch("lora", Branch(torch.randn(96, 2), torch.randn(2, 72)))
    assert not torch.equal(cached(x, 1.0, context=text), before)
    cached.attn2.to_v.set_branch("lora", None)
    assert torch.equal(cached(x, 1.0, context=text), before)


def test_old_texts_are_forgotten(models):
    _, cached = models
    for number in range(3 * MOST_TEXTS):
        cached(torch.randn(1, 16, 96), 1.0, context=texts(1) + number)
    assert len(cached.attn2.to_k.texts) <= MOST_TEXTS
    assert not cached.attn1.to_k.texts


def test_a_former_prompts_text_does_not_stay(models):
    _, cached = models
    former, new = texts(2).split(1)
    cached(torch.randn(1, 16, 96), 1.0, context=former)
    for _ in range(MEMORY_CALLS + 1):
        cached(torch.randn(1, 16, 96), 1.0, context=new)
    assert [len(layer.texts) for layer in (cached.attn2.to_k, cached.attn2.to_v)] == [1, 1]


def test_models_without_text_layers_have_none():
    model = nn.Sequential(nn.Linear(96, 96))
    assert cache_text(quantize(model, make_plan(model, "int8"))) == 0


@pytest.fixture
def outside():
    """The plain model with 16-bit weights, and its int4 form whose text layers lie in a file."""
    torch.manual_seed(0)
    model = Block()
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    small = copy.deepcopy(model)
    quantize(small, full_precision_text(small, make_plan(small, "int4")))
    cache_text(small)
    keep_outside(small, in_a_file)
    return model, small


def test_weights_outside_count_nothing_and_give_full_precision(outside, tmp_path):
    model, small = outside
    rest = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q")
    assert size_bytes(small) == len(rest) * FORMATS["int4"].size_bytes(96, 96)
    assert outside_bytes(small) == 2 * FORMATS["float16"].size_bytes(96, 72)
    assert small.attn2.to_k.weight.numel() == 0
    assert "attn2.to_k.weight" in small.state_dict()  # LoRA keys are looked up here
    text = texts(2)
    for layer in ("to_k", "to_v"):
        wanted = getattr(model.attn2, layer)
        assert torch.equal(getattr(small.attn2, layer)(text), wanted(text))
        assert torch.equal(getattr(small.attn2, layer).dense(), wanted.weight)
    moved = small.to(torch.bfloat16)  # a host casts or moves a model: what lies outside stays
    assert torch.equal(moved.attn2.to_k.dense(), model.attn2.to_k.weight)


def test_a_model_with_weights_outside_is_saved_whole(outside, tmp_path):
    model, small = outside
    path, x, text = tmp_path / "small.safetensors", torch.randn(2, 16, 96), texts(2)
    wanted = small(x, 1.0, context=text)
    file.save(path, file.contents(small, make_plan(model, "int4")))
    back = file.restore(copy.deepcopy(model), file.load(path))
    cache_text(back)
    keep_outside(back)
    assert size_bytes(back) == size_bytes(small)
    assert torch.equal(back(x, 1.0, context=text), wanted)


def test_a_diffusers_unet_is_quantized_in_three_lines():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(128,), layers_per_block=1, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",), mid_block_type="UNetMidBlock2D",
        up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=96, attention_head_dim=4,
    ).requires_grad_(False)  # fmt: skip
    x, text = torch.randn(2, 4, 8, 8), texts(2)[..., :1].expand(2, 77, 96).contiguous()
    wanted, plain = unet(x, 500, text).sample, 2 * sum(p.numel() for p in unet.parameters())
    quantize(unet, full_precision_text(unet, make_plan(unet, "int8")))
    assert cache_text(unet) == 2 * 3
    keep_outside(unet, in_a_file)
    for _ in range(2):
        out = unet(x, 500, encoder_hidden_states=text).sample
        assert (out - wanted).norm() < 0.02 * wanted.norm()
    assert size_bytes(unet) < 0.55 * plain


def test_a_full_disk_is_not_hidden(outside, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda dir: Full())
    with pytest.raises(OSError, match="No space"):
        in_a_file([torch.ones(3)])
