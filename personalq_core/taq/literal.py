"""The paper's own TAQ: in cross-attention the trigger's rows of K and V, and its columns of the
attention weights, stay exact; all weights and all other activations are rounded.

Reported for PersonalQ (arXiv 2603.22943), which widens DGQ's protected start token to the trigger.
Activations are rounded by simulation: this mode measures the idea, it saves memory but no time.
What is not in the abstract is our reading: weights by this package's formats in the place of
AdaRound, ranges of activations taken from each sample as it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .layers import QuantizedLayer, set_activations
from .plan import make_plan
from .quantize import quantize

Protect = Literal["trigger", "trigger and start", "start", "random", "all", "none"]
PROTECT = get_args(Protect)
PADDING, WORD, TRIGGER, START = range(4)
"""What a token of a prompt is; the end token counts as padding."""


@dataclass
class Rows:
    """Which rows of the text are exact in the batch at hand; its host sets it before each call.

    mask: (batch, tokens) of booleans; None: no row
    """

    mask: Tensor | None = field(default=None)

    def of(self, text: Tensor) -> Tensor:
        """The mask for (batch, tokens, width), as (batch, tokens, 1).

        A patch of the host may have added tokens to the text: they are rounded like the others.
        """
        batch, tokens = text.shape[:2]
        if self.mask is None:
            return torch.zeros(batch, tokens, 1, dtype=torch.bool, device=text.device)
        if len(self.mask) != batch or self.mask.shape[1] > tokens:
            raise ValueError(
                f"The mask is for {tuple(self.mask.shape)} rows, the text has "
                f"{(batch, tokens)}; give one mask row to each prompt of the batch."
            )
        mask = nn.functional.pad(self.mask, (0, tokens - self.mask.shape[1]))
        return mask[..., None].to(text.device)


def roles(
    chunks: Sequence[Sequence[Any]], triggers: Sequence[Sequence[Any]], end: Any
) -> list[int]:
    """What each token of a prompt is: PADDING, WORD, TRIGGER or START.

    chunks: the prompt's tokens, 77 by 77 for CLIP, each chunk with a start token and padding
    triggers: spellings of the trigger in tokens; one may begin in a chunk and end in the next
    end: the end token, after which a chunk is padding
    """
    found: list[int] = []
    words: list[int] = []
    tokens: list[Any] = []
    for chunk in chunks:
        ends = (at for at, token in enumerate(chunk) if at and _same(token, end))
        length = next(ends, len(chunk))
        words += range(len(found) + 1, len(found) + length)
        tokens += chunk[1:length]
        found += [START, *[WORD] * (length - 1), *[PADDING] * (len(chunk) - length)]
    for trigger in triggers:
        for at in range(len(tokens) - len(trigger) + 1) if trigger else ():
            if all(_same(a, b) for a, b in zip(tokens[at:], trigger)):
                for place in words[at : at + len(trigger)]:
                    found[place] = TRIGGER
    return found


def _same(a: Any, b: Any) -> bool:
    """Tokens are ids, or vectors of a textual inversion."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


def exact_rows(of: Sequence[int], protect: Protect, seed: int = 0) -> Tensor:
    """Mask (tokens,) of the rows of a prompt that stay exact, by the roles of its tokens.

    "random" takes as many other rows of the same prompt as the trigger has, from the padding only
    where the words do not suffice: the control that the trigger has to beat.
    """
    held = torch.tensor(of)
    if protect == "none":
        return torch.zeros_like(held, dtype=torch.bool)
    if protect == "all":
        return torch.ones_like(held, dtype=torch.bool)
    if protect == "random":
        order = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))
        others = [at for role in (WORD, PADDING) for at in order.tolist() if of[at] == role]
        mask = torch.zeros_like(held, dtype=torch.bool)
        mask[others[: int((held == TRIGGER).sum())]] = True
        return mask
    return ((held == TRIGGER) & ("trigger" in protect)) | ((held == START) & ("start" in protect))


def protected(
    ids: Sequence[int], trigger: Sequence[int], protect: Protect, end: int, seed: int = 0
) -> Tensor:
    """`exact_rows` of one chunk of token ids; end: the end token's id, which also pads."""
    return exact_rows(roles([ids], [trigger], end), protect, seed)


def apply(
    model: nn.Module, *, weights: str, activation_bits: int, attention: str, rows: Rows
) -> nn.Module:
    """Round `model` in place as the paper has it, and return it.

    weights: a name in FORMATS; activation_bits: 8 or 4, 16 for exact ones
    attention: how attention weights are rounded, "linear" or "log2"
    Raises ValueError for a model without cross-attention.
    """
    texts = attentions(model)
    weights_of = {
        f"{name}.{part}": getattr(model.get_submodule(name), part).weight.detach()
        for name in texts
        for part in ("to_k", "to_v")
    }
    quantize(model, make_plan(model, weights))
    return simulate(model, weights_of.__getitem__, activation_bits, attention, rows)


def attentions(model: nn.Module) -> list[str]:
    """Names of the cross-attentions; raises ValueError for a model that has none."""
    found = [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "attn2" and hasattr(module, "to_k")
    ]
    if not found:
        raise ValueError(
            "This model has no cross-attention to protect rows in; quantize it by a plan instead."
        )
    return found


def simulate(
    model: nn.Module,
    weight_of: Callable[[str], Tensor],
    activation_bits: int,
    attention: str,
    rows: Rows,
) -> nn.Module:
    """Let a packed model round its activations and keep `rows` exact, in place; returns it.

    weight_of: the exact weight of a layer by its name; see `apply` for the rest.
    """
    for name in attentions(model):
        parent, _, child = name.rpartition(".")
        inner = model.get_submodule(name)
        key, value = (
            Rest(getattr(inner, part), weight_of(f"{name}.{part}")) for part in ("to_k", "to_v")
        )
        replaced = ProtectedAttention(inner, key, value, activation_bits, attention, rows)
        setattr(model.get_submodule(parent), child, replaced)
    set_activations(model, "16-bit")  # what is rounded is rounded below, in all devices alike

    def rounded(_: nn.Module, given: tuple) -> tuple:
        return (round_linear(given[0], activation_bits), *given[1:])

    if activation_bits < 16:
        for name, layer in model.named_modules():
            # The text rows are rounded where they are used: some of them are exact.
            text = f".{name}".endswith((".attn2.to_k", ".attn2.to_v"))
            if isinstance(layer, QuantizedLayer) and not text:
                layer.register_forward_pre_hook(rounded)
    return model


class Rest(nn.Module):
    """What rounding took from a weight: its product, beside the packed layer's, is the exact one.

    So a LoRA that comes to the packed layer is in both.
    """

    def __init__(self, layer: nn.Module, exact: Tensor):
        super().__init__()
        lost = exact.detach().float()
        if isinstance(layer, QuantizedLayer):
            lost = lost - layer.dense().to(lost.device)
        else:
            lost = torch.zeros_like(lost)
        self.weight = nn.Parameter(lost.to(torch.float16), False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x))


class ProtectedAttention(nn.Module):
    """Cross-attention with exact rows, in the place of diffusers' or ComfyUI's own."""

    def __init__(self, inner: Any, key: Rest, value: Rest, bits: int, how: str, rows: Rows):
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (
            inner.to_q, inner.to_k, inner.to_v, inner.to_out
        )  # fmt: skip
        self.exact_k, self.exact_v = key, value
        self.heads, self.bits, self.rows = inner.heads, bits, rows
        self.round_weights = round_log2 if how == "log2" else round_linear

    def forward(
        self, x: Tensor, context: Tensor | None = None, value: Tensor | None = None,
        mask: Tensor | None = None, *, encoder_hidden_states: Tensor | None = None, **_: object,
    ) -> Tensor:  # fmt: skip
        text = context if context is not None else encoder_hidden_states
        assert text is not None, "cross-attention needs a text"
        kept = self.rows.of(text)
        query = round_linear(self.to_q(x), self.bits)
        key = self._projected(text, self.to_k, self.exact_k, kept)
        value = self._projected(text if value is None else value, self.to_v, self.exact_v, kept)
        query, key, value = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value)
        )
        scores = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).float()
        if mask is not None:
            mask = mask.reshape(1 if mask.ndim == 2 else len(mask), -1, *mask.shape[-2:])
            hidden = mask.dtype == torch.bool
            scores = scores.masked_fill(~mask, -torch.inf) if hidden else scores + mask
        chances = scores.softmax(-1)
        columns = kept[:, None, None, :, 0]
        chances = torch.where(columns, chances, self.round_weights(chances, self.bits)).to(value)
        out = (chances @ value).transpose(1, 2).flatten(2)
        for layer in self.to_out:
            out = layer(out)
        return out

    def _projected(self, text: Tensor, layer: nn.Module, rest: Rest, kept: Tensor) -> Tensor:
        rounded = round_linear(layer(round_linear(text, self.bits)), self.bits)
        if not kept.any():
            return rounded
        return torch.where(kept, layer(text) + rest(text), rounded)


def round_linear(x: Tensor, bits: int) -> Tensor:
    """x (batch, ...) to 2^bits even steps between each sample's smallest and largest value."""
    if bits >= 16:
        return x
    flat = x.flatten(1)
    low, high = flat.amin(1).float().clamp_max(0), flat.amax(1).float().clamp_min(0)
    shape = (-1, *[1] * (x.ndim - 1))
    step = ((high - low) / (2**bits - 1)).clamp_min(1e-12).view(shape)
    zero = (-low.view(shape) / step).round()
    codes = (x / step + zero).round().clamp(0, 2**bits - 1)
    return ((codes - zero) * step).to(x.dtype)


def round_log2(chances: Tensor, bits: int) -> Tensor:
    """Attention weights to powers of two, from 1 down; the last code means 0 (Lin et al. 2022)."""
    if bits >= 16:
        return chances
    codes = (-chances.clamp_min(1e-12).log2()).round().clamp(0, 2**bits - 1)
    return torch.where(codes == 2**bits - 1, 0.0, torch.exp2(-codes))
