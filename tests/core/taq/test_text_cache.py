"""Text layers compute once per text, whatever way it is batched, and never give another's."""

import pytest
import torch
from torch import nn

from personalq_core.taq import make_plan, quantize
from personalq_core.taq.layers import QuantizedLinear
from personalq_core.taq.lora import Branch
from personalq_core.taq.text_cache import MOST_TEXTS, cache_text


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(96, 96, bias=False) for _ in range(3))

    def forward(self, x, context):
        return nn.functional.scaled_dot_product_attention(
            self.to_q(x), self.to_k(context), self.to_v(context)
        )


class Block(nn.Module):
    """A model of one block; `replaced` stands for a patch that swaps the text inside."""

    def __init__(self):
        super().__init__()
        self.attn1, self.attn2 = Attention(), Attention()
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
    return torch.randn(count, tokens, 96, generator=generator)


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


def test_a_lora_on_a_text_layer_is_heard_at_once_and_leaves_at_once(models):
    _, cached = models
    x, text = torch.randn(1, 16, 96), texts(1)
    before = cached(x, 1.0, context=text)
    cached.attn2.to_v.set_branch("lora", Branch(torch.randn(96, 2), torch.randn(2, 96)))
    assert not torch.equal(cached(x, 1.0, context=text), before)
    cached.attn2.to_v.set_branch("lora", None)
    assert torch.equal(cached(x, 1.0, context=text), before)


def test_old_texts_are_forgotten(models):
    _, cached = models
    for number in range(3 * MOST_TEXTS):
        cached(torch.randn(1, 16, 96), 1.0, context=texts(1) + number)
    assert len(cached.attn2.to_k.texts) <= MOST_TEXTS + 1
    assert not cached.attn1.to_k.texts


def test_models_without_text_layers_have_none():
    model = nn.Sequential(nn.Linear(96, 96))
    assert cache_text(quantize(model, make_plan(model, "int8"))) == 0
