"""The paper's own TAQ: in cross-attention the trigger's rows of K and V, and its columns of the
attention weights, stay exact; all weights and all other activations are rounded.

Reported for PersonalQ (arXiv 2603.22943), which widens DGQ's protected start token to the trigger.
Activations are rounded by simulation: this mode measures the idea, it saves memory but no time.
What is not in the abstract is our reading: weights by this package's formats in the place of
AdaRound, ranges of activations taken from each sample as it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from .layers import QuantizedLayer
from .plan import make_plan
from .quantize import quantize

Protect = Literal["none", "trigger", "start", "trigger and start", "random", "all"]


@dataclass
class Rows:
    """Which rows of the text are exact in the batch at hand; its host sets it before each call.

    mask: (batch, tokens) of booleans; None: no row
    """

    mask: Tensor | None = field(default=None)

    def of(self, text: Tensor) -> Tensor:
        """The mask for (batch, tokens, width), as (batch, tokens, 1)."""
        if self.mask is None:
            return torch.zeros(*text.shape[:2], 1, dtype=torch.bool, device=text.device)
        if tuple(self.mask.shape) != tuple(text.shape[:2]):
            raise ValueError(
                f"The mask is for {tuple(self.mask.shape)} rows, the text has "
                f"{tuple(text.shape[:2])}; give one mask row to each prompt of the batch."
            )
        return self.mask[..., None].to(text.device)


def protected(
    ids: Sequence[int], trigger: Sequence[int], protect: Protect, end: int, seed: int = 0
) -> Tensor:
    """Mask (tokens,) of a prompt's exact rows.

    ids: of the padded prompt, start token first; trigger: ids of the trigger's words; end: the end
    token's id, which also pads. "random" takes as many other rows of the same prompt, from the
    padding only where the words do not suffice: the control that the trigger has to beat.
    """
    mask = torch.zeros(len(ids), dtype=torch.bool)
    found = [
        at + offset
        for at in range(len(ids) - len(trigger) + 1)
        if trigger and list(ids[at : at + len(trigger)]) == list(trigger)
        for offset in range(len(trigger))
    ]
    if protect in ("trigger", "trigger and start"):
        mask[found] = True
    if protect in ("start", "trigger and start"):
        mask[0] = True
    if protect == "all":
        mask[:] = True
    if protect == "random":
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed)).tolist()
        others = [at for at in order if at and at not in found]
        words = [at for at in others if ids[at] != end]
        mask[(words + [at for at in others if ids[at] == end])[: len(found)]] = True
    return mask


def apply(
    model: nn.Module, *, weights: str, activation_bits: int, attention: str, rows: Rows
) -> nn.Module:
    """Round `model` in place as the paper has it, and return it.

    weights: a name in FORMATS; activation_bits: 8 or 4, 16 for exact ones
    attention: how attention weights are rounded, "linear" or "log2"
    Raises ValueError for a model without cross-attention.
    """
    texts = [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "attn2" and hasattr(module, "to_k")
    ]
    if not texts:
        raise ValueError(
            "This model has no cross-attention to protect rows in; quantize it by a plan instead."
        )
    exact = {n: (model.get_submodule(n).to_k, model.get_submodule(n).to_v) for n in texts}
    quantize(model, make_plan(model, weights))
    for name in texts:
        parent, _, child = name.rpartition(".")
        inner = model.get_submodule(name)
        replaced = ProtectedAttention(inner, *exact[name], activation_bits, attention, rows)
        setattr(model.get_submodule(parent), child, replaced)

    def rounded(_: nn.Module, given: tuple) -> tuple:
        return (round_linear(given[0], activation_bits), *given[1:])

    if activation_bits < 16:
        for name, layer in model.named_modules():
            # The text rows are rounded where they are used: some of them are exact.
            text = name.endswith((".to_k", ".to_v")) and ".attn2." in name
            if isinstance(layer, QuantizedLayer) and not text:
                layer.register_forward_pre_hook(rounded)
    return model


class ProtectedAttention(nn.Module):
    """Cross-attention with exact rows, in the place of diffusers' or ComfyUI's own."""

    def __init__(
        self, inner: nn.Module, key: nn.Module, value: nn.Module, bits: int, how: str, rows: Rows
    ):
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (
            inner.to_q, inner.to_k, inner.to_v, inner.to_out
        )  # fmt: skip
        self.exact_k, self.exact_v = key, value
        self.heads, self.bits, self.rows = inner.heads, bits, rows
        self.round_weights = round_log2 if how == "log2" else round_linear

    def forward(
        self, x: Tensor, context: Tensor | None = None, *_: object,
        encoder_hidden_states: Tensor | None = None, **__: object,
    ) -> Tensor:  # fmt: skip
        text = context if context is not None else encoder_hidden_states
        assert text is not None, "cross-attention needs a text"
        kept = self.rows.of(text)
        heard = round_linear(text, self.bits)
        key = torch.where(kept, self.exact_k(text), round_linear(self.to_k(heard), self.bits))
        value = torch.where(kept, self.exact_v(text), round_linear(self.to_v(heard), self.bits))
        query = round_linear(self.to_q(x), self.bits)
        query, key, value = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value)
        )
        chances = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).float().softmax(-1)
        columns = kept[:, None, None, :, 0]
        chances = torch.where(columns, chances, self.round_weights(chances, self.bits)).to(value)
        out = (chances @ value).transpose(1, 2).flatten(2)
        for layer in self.to_out:
            out = layer(out)
        return out


def round_linear(x: Tensor, bits: int) -> Tensor:
    """x (batch, ...) to 2^bits even steps between each sample's smallest and largest value."""
    if bits >= 16:
        return x
    flat = x.flatten(1)
    low, high = flat.amin(1).clamp_max(0), flat.amax(1).clamp_min(0)
    shape = (-1, *[1] * (x.ndim - 1))
    step = ((high - low).float() / (2**bits - 1)).clamp_min(1e-12).view(shape)
    zero = (-low.float().view(shape) / step).round()
    codes = (x / step + zero).round().clamp(0, 2**bits - 1)
    return ((codes - zero) * step).to(x.dtype)


def round_log2(chances: Tensor, bits: int) -> Tensor:
    """Attention weights to powers of two, from 1 down; the last code means 0 (Lin et al. 2022)."""
    if bits >= 16:
        return chances
    codes = (-chances.clamp_min(1e-12).log2()).round().clamp(0, 2**bits - 1)
    return torch.where(codes == 2**bits - 1, 0.0, torch.exp2(-codes))
