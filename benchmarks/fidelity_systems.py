"""The quantizers that `benchmarks.fidelity` compares, each by its own code, on the same weights.

A weight-only system gives back the weights that its codes stand for and the bytes it stores them
in; all then run through the same products. Peers that leave convolutions alone are charged for
them at 16 bit. Scales that a peer holds in 32 bit are charged at 16, as in a 16-bit model.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.fidelity_world import base_unet, lora, probes, tokens, unet_with
from miniature.concepts import Concept
from personalq_core.taq import KEPT, TaqPlan, literal, make_plan, quantize
from personalq_core.taq.bits import fit_plan, sensitivity
from personalq_core.taq.calibrate import importance
from personalq_core.taq.formats import FORMATS
from personalq_core.taq.layers import QuantizedLayer
from personalq_core.taq.plan import LayerPlan, quantizable


class NotRun(RuntimeError):
    """A system that this machine cannot run; the message says why."""


class Subject:
    """One concept's full-precision model, and what has been learnt about it by calibration."""

    def __init__(self, concept: Concept, count: int):
        self.concept, self.count = concept, count
        self.unet = unet_with(concept)

    @functools.cached_property
    def probes(self) -> list:
        return probes(self.unet, self.concept, self.count)

    @functools.cache  # noqa: B019 - lives as long as the benchmark's one subject does
    def moments(self, trigger: float = 0.5) -> dict[str, Tensor]:
        rest = (1 - trigger) / 2
        shares = {"trigger": trigger, "class": rest, "generic": rest}
        chosen = [probe for probe in self.probes if shares[probe.role]]
        return importance(self.unet, chosen, shares=shares)

    @functools.cache  # noqa: B019
    def sensitivity(self, calibrated: bool = True) -> dict[str, dict[str, float]]:
        one_each = {probe.role: probe for probe in self.probes}.values()
        moments = self.moments() if calibrated else None
        return sensitivity(self.unet, list(one_each), moments, choices=("int4", "int4+8", "int8"))


@dataclass
class Made:
    """A system's model of a concept. `listen` takes the prompts of the batch that comes next."""

    unet: nn.Module
    bytes: int
    listen: Callable[[Sequence[str]], None] = lambda _: None


@dataclass(frozen=True)
class System:
    """name: of its row; ours: of this project; quick: part of `--quick`."""

    name: str
    make: Callable[[Subject], Made]
    ours: bool = False
    quick: bool = True
    ablation: bool = False


# --- weights to a model --------------------------------------------------------------------------


def with_weights(subject: Subject, weights: dict[str, Tensor], stored: dict[str, int]) -> Made:
    """The model with other weights; `stored` bytes of those layers, the rest is charged at 16 bit.
    """
    unet = copy.deepcopy(subject.unet)
    for name, weight in weights.items():
        layer = unet.get_submodule(name)
        layer.weight.data = weight.detach().float().reshape(layer.weight.shape)
    return Made(unet, charged(subject.unet, stored))


def charged(unet: nn.Module, stored: dict[str, int]) -> int:
    plain = sum(2 * tensor.numel() for tensor in unet.state_dict().values())
    return plain + sum(
        size - 2 * unet.get_submodule(name).weight.numel() for name, size in stored.items()
    )


def matrices(unet: nn.Module) -> dict[str, Tensor]:
    """The weights every all-layer system packs: all but the first and the last."""
    plan = make_plan(unet, "int8").layers
    return {
        name: layer.weight.flatten(1)
        for name, layer in quantizable(unet)
        if plan[name].format != KEPT
    }


def by_matrix(rounding: Callable[[Tensor], tuple[Tensor, int]]) -> Callable[[Subject], Made]:
    """A system that rounds each (rows, columns) weight on its own: -> (weight, bytes)."""

    def make(subject: Subject) -> Made:
        done = {name: rounding(w) for name, w in matrices(subject.unet).items()}
        weights = {name: weight for name, (weight, _) in done.items()}
        return with_weights(subject, weights, {name: size for name, (_, size) in done.items()})

    return make


# --- peers ---------------------------------------------------------------------------------------


def nearest(bits: int, group: int | None) -> Callable[[Tensor], tuple[Tensor, int]]:
    """Plain rounding to nearest, symmetric, the scale from the largest value of the group."""

    def rounding(weight: Tensor) -> tuple[Tensor, int]:
        rows, columns = weight.shape
        width = group or columns
        cut = nn.functional.pad(weight, (0, -columns % width)).view(rows, -1, width)
        high = 2 ** (bits - 1) - 1
        scale = (cut.abs().amax(-1, keepdim=True) / high).half().float().clamp_min(1e-7)
        back = (cut / scale).round().clamp(-high - 1, high) * scale
        size = cut.numel() * bits // 8 + scale.numel() * 2
        return back.flatten(1)[:, :columns], size

    return rounding


def package(name: str):
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise NotRun(f"{name.partition('.')[0]} cannot be imported: {error}") from error


def gguf(kind: str) -> Callable[[Tensor], tuple[Tensor, int]]:
    def rounding(weight: Tensor) -> tuple[Tensor, int]:
        quants, types = package("gguf.quants"), package("gguf").GGMLQuantizationType
        codes = quants.quantize(np.ascontiguousarray(weight.numpy()), types[kind])
        return torch.from_numpy(quants.dequantize(codes, types[kind]).copy()), codes.nbytes

    return rounding


def nf4(weight: Tensor) -> tuple[Tensor, int]:
    functional = package("bitsandbytes.functional")
    codes, state = functional.quantize_4bit(weight.contiguous(), blocksize=64, quant_type="nf4")
    back = functional.dequantize_4bit(codes, state)
    return back, codes.numel() + 4 * state.absmax.numel()


def torchao(bits: int) -> Callable[[Subject], Made]:
    def make(subject: Subject) -> Made:
        api = package("torchao.quantization")
        unet, kept = copy.deepcopy(subject.unet), matrices(subject.unet)
        config = api.Int8WeightOnlyConfig() if bits == 8 else api.IntxWeightOnlyConfig(
            weight_dtype=torch.int4, granularity=api.PerGroup(64)
        )
        api.quantize_(unet, config, filter_fn=lambda m, n: n in kept and isinstance(m, nn.Linear))
        linear = [n for n, m in unet.named_modules() if n in kept and isinstance(m, nn.Linear)]
        weights = {n: unet.get_submodule(n).weight.dequantize() for n in linear}
        group = 64 if bits == 4 else math.inf
        stored = {
            n: w.numel() * bits // 8 + 2 * w.shape[0] * math.ceil(w.shape[1] / group)
            for n, w in weights.items()
        }
        return with_weights(subject, weights, stored)

    return make


def quanto(kind: str) -> Callable[[Subject], Made]:
    def make(subject: Subject) -> Made:
        api = package("optimum.quanto")
        unet, kept = copy.deepcopy(subject.unet), matrices(subject.unet)
        others = [name for name, _ in quantizable(unet) if name not in kept]
        api.quantize(unet, weights=getattr(api, kind), exclude=[*others, "*norm*"])
        api.freeze(unet)
        return _dense(subject, unet, kept, lambda layer: layer.weight.dequantize(), ("bias",))

    return make


def sdnq(kind: str, **settings: object) -> Callable[[Subject], Made]:
    def make(subject: Subject) -> Made:
        api, kept = package("sdnq"), matrices(subject.unet)
        others = [name for name, _ in quantizable(subject.unet) if name not in kept]
        unet = api.sdnq_post_load_quant(
            copy.deepcopy(subject.unet), weights_dtype=kind, quant_conv=True,
            torch_dtype=torch.float32, modules_to_not_convert=others, add_skip_keys=False,
            **settings,
        )  # fmt: skip

        def back(layer: nn.Module) -> Tensor:
            if not hasattr(layer, "sdnq_dequantizer"):
                return layer.weight
            asked = inspect.signature(layer.sdnq_dequantizer.__call__).parameters
            given = {key: getattr(layer, key) for key in asked if hasattr(layer, key)}
            return layer.sdnq_dequantizer(**given, skip_compile=True)

        return _dense(subject, unet, kept, back, ("bias",))

    return make


def _dense(
    subject: Subject, unet: nn.Module, kept: dict, back: Callable, apart: tuple[str, ...]
) -> Made:
    """A peer's own packed model as dense weights; bytes by what its state dict holds."""
    weights, stored = {}, {}
    for name in kept:
        layer = unet.get_submodule(name)
        weights[name] = back(layer).detach()
        stored[name] = sum(
            t.numel() * (min(2, t.element_size()) if t.is_floating_point() else t.element_size())
            for key, t in layer.state_dict().items()
            if key not in apart and t.numel() > 1
        )
    return with_weights(subject, weights, stored)


# --- the paper -----------------------------------------------------------------------------------


def paper(weights: str, bits: int, how: str, protect: literal.Protect) -> Callable[[Subject], Made]:
    def make(subject: Subject) -> Made:
        rows, tokenizer = literal.Rows(), tokens()
        unet = literal.apply(
            copy.deepcopy(subject.unet),
            weights=weights, activation_bits=bits, attention=how, rows=rows,
        )  # fmt: skip
        trigger = tokenizer.tokenizer(subject.concept.trigger).input_ids[1:-1]
        end = tokenizer.tokenizer.eos_token_id

        def listen(prompts: Sequence[str]) -> None:
            ids = tokenizer(list(prompts)).tolist()
            rows.mask = torch.stack([
                literal.protected(row, trigger, protect, end, seed=n) for n, row in enumerate(ids)
            ])

        stored = {
            name: layer.format.size_bytes(layer.shape[0], math.prod(layer.shape[1:]))
            for name, layer in unet.named_modules()
            if isinstance(layer, QuantizedLayer)
        }
        exact = [] if protect == "none" else [
            m for n, m in unet.named_modules() if n.endswith((".exact_k", ".exact_v"))
        ]
        extra = sum(2 * layer.weight.numel() for layer in exact)
        return Made(unet, charged(subject.unet, stored) + extra, listen)

    return make


# --- ours ----------------------------------------------------------------------------------------


def packed(subject: Subject, plan: TaqPlan, moments: dict[str, Tensor] | None) -> Made:
    """Really packed by `quantize`, then unpacked, its repairs added."""
    unet = quantize(copy.deepcopy(subject.unet), plan, importance=moments)
    weights, stored = {}, {}
    for name, layer in unet.named_modules():
        if isinstance(layer, QuantizedLayer):
            weight = layer.dense().flatten(1)
            for branch in layer.branches.values():
                weight = weight + branch.up.float() @ branch.down.float()
            weights[name] = weight
            own = [layer.weight, layer.weight_scale, layer.weight_zero, *layer.branches.buffers()]
            stored[name] = sum(t.numel() * t.element_size() for t in own if t is not None)
    return with_weights(subject, weights, stored)


def uniform(fmt: str, trigger: float | None = 0.5, rank: int = 0) -> Callable[[Subject], Made]:
    """One format throughout. trigger: the share of trigger prompts in calibration; None: without.
    """

    def make(subject: Subject) -> Made:
        plan = make_plan(subject.unet, fmt)
        if rank:
            plan = TaqPlan({
                name: layer if layer.format == KEPT else LayerPlan(layer.format, layer.reason, rank)
                for name, layer in plan.layers.items()
            })
        return packed(subject, plan, None if trigger is None else subject.moments(trigger))

    return make


def squares(fmt: str) -> Callable[[Subject], Made]:
    """Importance by mean squares alone, as imatrix has it."""

    def make(subject: Subject) -> Made:
        found = {
            name: m.diagonal(dim1=1, dim2=2).flatten()[
                : subject.unet.get_submodule(name).weight[0].numel()
            ]
            for name, m in subject.moments().items()
        }
        return packed(subject, make_plan(subject.unet, fmt), found)

    return make


def mixed(bits: float, choices: tuple[str, ...] = ("int4", "int8"), calibrated: bool = True):
    """The knapsack's plan at a mean number of bits a weight, over the whole model."""

    def make(subject: Subject) -> Made:
        total = sum(t.numel() for t in subject.unet.state_dict().values())
        found = {
            name: {choice: changes[choice] for choice in choices}
            for name, changes in subject.sensitivity(calibrated).items()
        }
        plan = fit_plan(subject.unet, found, target_bytes=int(total * bits / 8))
        return packed(subject, plan, subject.moments() if calibrated else None)

    return make


def rounded_in(fmt: str, beside: bool) -> Callable[[Subject], Made]:
    """A LoRA added to an already packed base: rounded into its codes, or kept beside them."""

    def make(subject: Subject) -> Made:
        base, changes = base_unet(), lora(subject.concept.name)
        plan, weights, stored = make_plan(base, fmt).layers, {}, {}
        for name, matrix in matrices(base).items():
            entry, columns = FORMATS[plan[name].format], matrix.shape[1]
            old = entry.quantize(matrix)
            weight = entry.dequantize(old, columns, torch.float32)
            stored[name] = entry.size_bytes(*matrix.shape)
            if name in changes:
                change = changes[name].flatten(1)
                if beside:
                    weight = weight + change
                    stored[name] += 16 * sum(matrix.shape)
                else:
                    zero = entry.codes(old, columns, torch.float32)
                    scale = old.scale.float()[..., None]
                    cut = nn.functional.pad(change, (0, zero[0].numel() - columns))
                    moved = zero + (cut.view_as(zero) / scale)
                    low, high = entry.code_range
                    weight = (moved.round().clamp(low, high) * scale).flatten(1)[:, :columns]
            weights[name] = weight
        return with_weights(subject, weights, stored)

    return make


SYSTEMS = (
    System("full precision", lambda s: Made(s.unet, charged(s.unet, {}))),
    System("RTN int8", by_matrix(nearest(8, None))),
    System("RTN int4, groups of 64", by_matrix(nearest(4, 64))),
    System("GGUF Q8_0, all layers", by_matrix(gguf("Q8_0"))),
    System("GGUF Q4_0, all layers", by_matrix(gguf("Q4_0"))),
    System("NF4 (bitsandbytes), all layers", by_matrix(nf4)),
    System("torchao int8, linear only", torchao(8), quick=False),
    System("torchao int4, linear only", torchao(4), quick=False),
    System("quanto int8", quanto("qint8"), quick=False),
    System("quanto int4", quanto("qint4")),
    System("SDNQ int8", sdnq("int8")),
    System("SDNQ uint4", sdnq("uint4")),
    System("SDNQ uint4, SVD rank 32", sdnq("uint4", use_svd=True), quick=False),
    *(
        System(f"paper TAQ W{w[3:]}A{bits} {how}, {protect}", paper(w, bits, how, protect),
               quick=how == "linear" and (w, bits) in (("int8", 8), ("int8", 4))
               and protect in ("none", "trigger", "random", "start"))
        for w, bits, how in (("int8", 8, "linear"), ("int8", 4, "linear"), ("int8", 4, "log2"),
                             ("int4", 8, "linear"))
        for protect in ("none", "trigger", "start", "trigger and start", "random", "all")
    ),
    System("TAQ 8-bit", uniform("int8", None), ours=True),
    System("TAQ 4-bit", uniform("int4"), ours=True),
    System("TAQ mixed, 4.8 bits", mixed(4.8), ours=True),
    System("TAQ mixed, 5.2 bits", mixed(5.2), ours=True, quick=False),
    System("TAQ mixed, 6 bits", mixed(6.0), ours=True),
    System("ablation: 4-bit, no calibration", uniform("int4", None), True, ablation=True),
    System("ablation: 4-bit, mean squares only", squares("int4"), True, ablation=True),
    System("ablation: 4-bit, no trigger prompts", uniform("int4", 0.0), True, ablation=True),
    System("ablation: 4-bit, trigger prompts only", uniform("int4", 1.0), True, ablation=True),
    System("ablation: 4-bit asymmetric", uniform("int4_asym"), True, ablation=True),
    System("ablation: 4-bit + repair rank 8", uniform("int4", rank=8), True, ablation=True),
    System("ablation: mixed with repair, 5.2 bits", mixed(5.2, ("int4", "int4+8", "int8")), True,
           quick=False, ablation=True),
    System("ablation: mixed, no calibration, 5.2 bits", mixed(5.2, calibrated=False), True,
           quick=False, ablation=True),
    System("ablation: LoRA rounded into int4", rounded_in("int4", False), True, ablation=True),
    System("ablation: LoRA beside int4", rounded_in("int4", True), True, ablation=True),
    System("ablation: LoRA rounded into int8", rounded_in("int8", False), True, quick=False,
           ablation=True),
)  # fmt: skip
"""In the order of the table; the first is the reference of the others."""
