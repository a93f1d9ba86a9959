"""Text K and V once per prompt: they depend on the prompt alone, not on the step.

A hook on the model sees the text that a run is given and finds it among the texts of the runs
before, by content: whatever is batched, reversed or repeated is simply another text. The layers
below recognise it as the very tensor they are handed. What they are handed instead, by IP-Adapter
or another patch, is computed as ever.

Weights that are read once per prompt need not lie beside the others: `keep_outside` takes them out
of the model, at 16 bits, into a file mapped into memory, for whoever needs them again.
"""

from __future__ import annotations

import itertools
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .formats import Packed
from .plan import KEPT, LayerPlan, TaqPlan

if TYPE_CHECKING:
    from .layers import QuantizedLinear

TEXT_LAYERS = (".attn2.to_k", ".attn2.to_v")
"""Ends of the names of the layers that read text, in ComfyUI and in diffusers."""
MOST_TEXTS = 8
"""Texts remembered: several regions or schedules alternate within a step."""
MEMORY_CALLS = 2 * MOST_TEXTS
"""Calls of the model after which a text that did not come again is forgotten: those of a former
prompt would hold memory for nothing."""
ALIGNED_BYTES = 64


class TextCache:
    """The texts that a model has lately been given, and which of them it is given now."""

    def __init__(self, layers: Iterable[QuantizedLinear] = ()) -> None:
        self.layers = weakref.WeakSet(layers)
        self.texts: OrderedDict[int, Tensor] = OrderedDict()
        self.last_call: dict[int, int] = {}
        self.given: Tensor | None = None
        self.number = self.newest = self.calls = 0

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
        self.texts.move_to_end(number)
        self.calls += 1
        self.last_call[number] = self.calls
        self.given, self.number = text, number
        self._forget_old()

    def _forget_old(self) -> None:
        oldest = next(iter(self.texts))
        waited = self.calls - self.last_call[oldest]
        if len(self.texts) > MOST_TEXTS or waited > MEMORY_CALLS:
            del self.texts[oldest], self.last_call[oldest]
            for layer in self.layers:
                layer.texts.pop(oldest, None)

    def product(
        self, layer: QuantizedLinear, x: Tensor, run: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """run(x), remembered in `layer.texts` where x is the text of this run.

        Made anew where a patch of the host has changed it in place since.
        """
        if self.given is None or x is not self.given:
            return run(x)
        known, version = layer.texts.get(self.number, (None, 0))
        if known is None or known._version != version:
            # Tensors of inference mode do not count their changes.
            with torch.inference_mode(False), torch.no_grad():
                known = run(x)
            layer.texts[self.number] = known, known._version
        return known

    def forget(self) -> None:
        """Drop all texts and their products."""
        self.given = None
        self.texts.clear()
        self.last_call.clear()
        for layer in self.layers:
            layer.texts.clear()


def _same(a: Tensor, b: Tensor) -> bool:
    alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    return alike and torch.equal(a, b)


def cache_text(model: nn.Module) -> int:
    """Let a quantized model's text layers remember their products; returns how many they are.

    model: called with the text as `context` or `encoder_hidden_states`, or as third argument.
    Models without cross-attention have none.
    """
    layers = list(text_layers(model))
    cache = TextCache(layers)
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


def text_names(model: nn.Module) -> list[str]:
    """Names of the layers that read nothing but text, in ComfyUI's models and in diffusers'.

    They are K and V of a cross-attention. One that hears as many channels as it asks with may as
    well listen to the picture, and is left out.
    """
    return [
        f"{name}.{part}"
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "attn2" and _hears_text(module)
        for part in ("to_k", "to_v")
    ]


def _hears_text(attention: Any) -> bool:
    return hasattr(attention, "to_k") and (
        attention.to_k.in_features != attention.to_q.in_features
    )


def text_layers(model: nn.Module) -> Iterator[QuantizedLinear]:
    """Packed layers that read nothing but text."""
    layers = (model.get_submodule(name) for name in text_names(model))
    return (cast("QuantizedLinear", layer) for layer in layers if hasattr(layer, "texts"))


def full_precision_text(model: nn.Module, plan: TaqPlan) -> TaqPlan:
    """The plan with 16 bits for the layers that read nothing but text, as `keep_outside` wants."""
    why = "text: read once per prompt, kept outside the model"
    texts = [name for name in text_names(model) if plan.layers[name].format != KEPT]
    return TaqPlan(plan.layers | {name: LayerPlan("float16", why) for name in texts})


def keep_outside(
    model: nn.Module, keep: Callable[[list[Tensor]], list[Tensor]] | None = None
) -> None:
    """Take the weights of the text layers out of the model.

    keep: gives the packed tensors back from where they stay, in order; where they are by default.
    """
    layers = list(text_layers(model))
    held = [layer.packed.parts for layer in layers]
    flat = [part.detach() for parts in held for part in parts]
    kept = iter(flat if keep is None else keep(flat))
    for layer, parts in zip(layers, held):
        layer.evict(Packed(*itertools.islice(kept, len(parts))))


def outside_bytes(model: nn.Module) -> int:
    """Bytes of the weights that are kept outside the model."""
    held = [layer.packed for layer in text_layers(model) if layer.host is not None]
    return sum(part.nbytes for packed in held for part in packed.parts)


def in_a_file(tensors: list[Tensor], folder: Path | str | None = None) -> list[Tensor]:
    """The same tensors, mapped from a nameless file in `folder`: the system may drop them from
    memory and read them again. It goes when the last of them goes; raises OSError on a full disk.
    """
    if not tensors:
        return []
    starts = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for tensor in tensors:
            file.write(bytes(-file.tell() % ALIGNED_BYTES))
            starts.append(file.tell())
            file.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        whole = torch.from_numpy(np.memmap(file, np.uint8, "c"))
    return [
        whole[start : start + t.nbytes].view(t.dtype).view(t.shape)
        for start, t in zip(starts, tensors)
    ]


def forget_text(model: nn.Module) -> None:
    """Drop all that is remembered, as when weights changed or the model leaves its device."""
    for cache in {layer.text for layer in text_layers(model) if layer.text is not None}:
        cache.forget()
