"""Text K and V once per prompt: they depend on the prompt alone, not on the step.

A hook on the model sees the text that a run is given and finds it among the texts of the runs
before, by content: whatever is batched, reversed or repeated is simply another text. The layers
below recognise it as the very tensor they are handed. What they are handed instead, by IP-Adapter
or another patch, is computed as ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

TEXT_LAYERS = (".attn2.to_k", ".attn2.to_v")
"""Ends of the names of the layers that read nothing but text, in ComfyUI and in diffusers."""
MOST_TEXTS = 8
"""Texts remembered: several regions or schedules alternate within a step."""


class TextCache:
    """The texts that a model has lately been given, and which of them it is given now."""

    def __init__(self) -> None:
        self.texts: OrderedDict[int, Tensor] = OrderedDict()
        self.given: Tensor | None = None
        self.number = self.newest = 0

    def enter(self, text: Tensor | None) -> None:
        """A run begins with this text (batch, tokens, width), or with none."""
        self.given = None
        if text is None or torch.compiler.is_compiling() or text.requires_grad:
            return
        for number in reversed(self.texts):
            if _same(self.texts[number], text):
                break
        else:
            number = self.newest = self.newest + 1
            self.texts[number] = text.detach().clone()
            if len(self.texts) > MOST_TEXTS:
                self.texts.popitem(last=False)
        self.texts.move_to_end(number)
        self.given, self.number = text, number

    def product(self, layer: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """run(x), remembered in `layer.texts` where x is the text of this run."""
        if self.given is None or x is not self.given:
            return run(x)
        known: dict[int, Tensor] = layer.texts
        if self.number not in known:
            for number in [number for number in known if number not in self.texts]:
                del known[number]
            known[self.number] = run(x)
        return known[self.number]


def _same(a: Tensor, b: Tensor) -> bool:
    alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    return alike and torch.equal(a, b)


def cache_text(model: nn.Module) -> int:
    """Let a quantized model's text layers remember their products; returns how many they are.

    model: called with the text as `context` or `encoder_hidden_states`, or as third argument.
    Models without cross-attention have none.
    """
    cache = TextCache()
    layers = list(text_layers(model))
    for layer in layers:
        layer.text = cache
        layer.texts = {}
    if layers:

        def begin(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            text = kwargs.get("context", kwargs.get("encoder_hidden_states"))
            if text is None and len(args) > 2:
                text = args[2]
            cache.enter(text if isinstance(text, Tensor) else None)

        model.register_forward_pre_hook(begin, with_kwargs=True)
    return len(layers)


def text_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Packed layers that read nothing but text."""
    for name, module in model.named_modules():
        if f".{name}".endswith(TEXT_LAYERS) and hasattr(module, "texts"):
            yield module


def forget_text(model: nn.Module) -> None:
    """Drop all remembered products, as when weights changed or the model leaves its device."""
    for layer in text_layers(model):
        layer.texts.clear()
