"""What quantization did to a model, in numbers and in words."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass

from torch import nn

from .file import BRANCH
from .layers import QuantizedConv2d, QuantizedLayer
from .plan import KEPT, TaqPlan
from .text_cache import TEXT_LAYERS, outside_bytes

BESIDE = "LoRAs and repairs, kept beside"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a kind of layer: all of it at 16 bits, and as it is stored now."""

    before_bytes: int
    after_bytes: int


def sizes_by_kind(model: nn.Module) -> dict[str, Sizes]:
    """Bytes of a quantized model by kind of layer; before is what 16-bit weights would take.

    What is kept beside packed weights was no part of them: it has no bytes before.
    """
    before, after = defaultdict(int), defaultdict(int)
    packed = {
        name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)
    }
    for name, tensor in model.state_dict().items():
        owner, _, field = name.rpartition(".")
        layer = packed.get(owner)
        is_beside = owner.rpartition(BRANCH)[0] in packed
        kind = BESIDE if is_beside else _kind(layer)
        after[kind] += tensor.nbytes
        if is_beside:
            continue
        if layer is None or field == "bias":
            before[kind] += 2 * tensor.numel()
        elif field == "weight":
            before[kind] += 2 * math.prod(layer.shape)
    return {kind: Sizes(before[kind], after[kind]) for kind in sorted(after)}


def _kind(layer: QuantizedLayer | None) -> str:
    if layer is None:
        return "kept as they are"
    if layer.host is not None:
        return "text keys and values, kept outside"
    kind = "convolutions" if isinstance(layer, QuantizedConv2d) else "linear layers"
    return f"{kind}, {layer.format.name}"


def _bits(fmt: str) -> str:
    return "16 bits" if fmt in (KEPT, "float16") else fmt


def describe(
    model: nn.Module, plan: TaqPlan, loaded_bytes: int, trigger: str, how: str = ""
) -> tuple[dict, str]:
    """The report as JSON-able data and as text.

    loaded_bytes: what the source model takes in memory as its host loaded it.
    how: what the trigger changed, in a sentence.
    """
    kinds = sizes_by_kind(model)
    before = sum(size.before_bytes for size in kinds.values())
    after = sum(size.after_bytes for size in kinds.values())
    lines = [f"{before:,} bytes at 16 bits -> {after:,} bytes ({after / before:.1%})"]
    if loaded_bytes != before:
        lines.append(f"The source model was loaded in {loaded_bytes:,} bytes.")
    lines += [
        f"  {kind}: {size.before_bytes:,} -> {size.after_bytes:,}" for kind, size in kinds.items()
    ]
    outside = outside_bytes(model)
    if outside:
        lines.append(
            f"  {outside:,} bytes of text keys and values stay outside the model at 16 bits, in a "
            "mapped file; each prompt reads them once."
        )
    reasons = Counter(
        (layer.format, layer.reason) for layer in plan.layers.values() if layer.reason != "default"
    )
    lines += [
        f"  {count} layer(s) {'kept' if fmt == KEPT else f'in {fmt}'}: {reason}"
        for (fmt, reason), count in sorted(reasons.items())
    ]
    text_layers = Counter(
        layer.format for name, layer in plan.layers.items() if name.endswith(TEXT_LAYERS)
    )
    if text_layers:
        lines.append(
            "  The prompt, and the trigger in it, is read by "
            + ", ".join(f"{n} layer(s) in {_bits(fmt)}" for fmt, n in sorted(text_layers.items()))
        )
    else:
        lines.append("  This kind of model has no cross-attention: no text to compute only once.")
    if how:
        lines.append(how)
    data = {
        "before_bytes": before,
        "after_bytes": after,
        "loaded_bytes": loaded_bytes,
        "outside_bytes": outside,
        "kinds": {kind: asdict(size) for kind, size in kinds.items()},
        "text_layers": {_bits(fmt): n for fmt, n in sorted(text_layers.items())},
        "trigger": trigger.strip(),
        "how": how,
    }
    return data, "\n".join(lines)
