"""The quantizers that `benchmarks.fidelity` compares, each by its own code, on the same weights.

A weight-only system gives back the weights that its codes stand for and the bytes it stores them
in; all then run through the same products. Peers that leave convolutions alone are charged for
them at 16 bit. Scales that a peer holds in 32 bit are charged at 16, as in a 16-bit model.

Bytes are what lies beside the device's products while it samples. Our systems keep the text's K
and V outside the model, as the node does: they are charged for what remembers the products of two
prompts instead (see `text_cache`); "text packed too" is the same without that.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import inspect
import math
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.fidelity_world import (
    MIDDLE,
    base_unet,
    context,
    lora,
    probes,
    tokens,
    unet_with,
)
from miniature.base import DEVICE
from miniature.concepts import Concept
from personalq_core.taq import (
    KEPT,
    TaqPlan,
    calibrate,
    formats,
    gptq,
    literal,
    make_plan,
    quantize,
)
from personalq_core.taq.bits import fit_plan, sensitivity
from personalq_core.taq.formats import FORMATS
from personalq_core.taq.layers import QuantizedLayer, set_activations
from personalq_core.taq.plan import LayerPlan, quantizable
from personalq_core.taq.text_cache import full_precision_text, text_names
from tools.comfy import COMFYUI

PROMPTS = 2
"""Whose products are remembered: the wanted one and the empty one."""
FOUR = (0.98, 0.75, 0.5, 0.25)
"""Levels of noise: all that the node's fitting looks at."""
CLIPS = (1.0, 0.94, 0.88, 0.82, 0.75, 0.68)
"""Parts of a group's range: what a search for the least square error of the weights tries."""


class NotRun(RuntimeError):
    """A system that this machine cannot run; the message says why."""


class Subject:
    """One concept's full-precision model, and what has been learnt about it by calibration."""

    def __init__(self, concept: Concept, count: int):
        self.concept, self.count = concept, count
        self.unet = unet_with(concept)

    @functools.cache  # noqa: B019 - lives as long as the benchmark's one subject does
    def moments(self, about: str = "mixed", block: int = calibrate.BLOCK) -> dict[str, Tensor]:
        unet = copy.deepcopy(self.unet).to(DEVICE)
        with mock.patch.object(calibrate, "BLOCK", block):
            return calibrate.importance(unet, probes(unet, self.concept, self.count, about))

    @functools.cache  # noqa: B019
    def sensitivity(
        self, calibrated: bool = True, at: Sequence[float] = MIDDLE
    ) -> dict[str, dict[str, float]]:
        few = probes(self.unet, self.concept, 1, at=at)
        moments = self.moments() if calibrated else None
        texts = text_names(self.unet)
        return sensitivity(self.unet, few, moments, leave_out=texts)


@dataclass
class Made:
    """A system's model of a concept, and where it draws. `listen` takes the prompts of the batch
    that comes next."""

    unet: nn.Module
    bytes: int
    listen: Callable[[Sequence[str]], None] = lambda _: None
    device: str = DEVICE


@dataclass(frozen=True)
class System:
    """name: of its row; ours: of this project; grid: measured on some concepts only;
    ablation: shows what a part is worth, and is no point of the curve."""

    name: str
    make: Callable[[Subject], Made]
    ours: bool = False
    grid: bool = False
    ablation: bool = False


# --- weights to a model --------------------------------------------------------------------------


def with_weights(subject: Subject, weights: dict[str, Tensor], stored: dict[str, int]) -> Made:
    """The model with other weights; `stored` bytes of those layers, the rest is charged at 16 bit.
    """
    unet = copy.deepcopy(subject.unet)
    for name, weight in weights.items():
        kept = unet.get_parameter(f"{name}.weight")
        kept.data = weight.detach().to(kept.dtype).reshape(kept.shape)
    return Made(unet, charged(subject.unet, stored))


def charged(unet: nn.Module, stored: dict[str, int]) -> int:
    plain = sum(2 * tensor.numel() for tensor in unet.state_dict().values())
    return plain + sum(
        size - 2 * unet.get_parameter(f"{name}.weight").numel() for name, size in stored.items()
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
            weight_dtype=torch.int4,  # pyright: ignore[reportAttributeAccessIssue]
            granularity=api.PerGroup(64),
        )
        api.quantize_(unet, config, filter_fn=lambda m, n: n in kept and isinstance(m, nn.Linear))
        linear = [n for n, m in unet.named_modules() if n in kept and isinstance(m, nn.Linear)]
        weights = {n: unet.get_parameter(f"{n}.weight").dequantize() for n in linear}
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
        os.environ["SDNQ_USE_TORCH_COMPILE"] = "0"  # a minute less, the same numbers
        api, kept = package("sdnq"), matrices(subject.unet)
        others = [name for name, _ in quantizable(subject.unet) if name not in kept]
        unet = api.sdnq_post_load_quant(
            copy.deepcopy(subject.unet), weights_dtype=kind, quant_conv=True,
            torch_dtype=torch.float32, modules_to_not_convert=others, add_skip_keys=False,
            **settings,
        )  # fmt: skip

        def back(layer: Any) -> Tensor:
            if not hasattr(layer, "sdnq_dequantizer"):
                return layer.weight
            asked = inspect.signature(layer.sdnq_dequantizer.__call__).parameters
            given = {key: getattr(layer, key) for key in asked if hasattr(layer, key)}
            return layer.sdnq_dequantizer(**given, skip_compile=True)

        return _dense(subject, unet, kept, back, ("bias",))

    return make


def comfyui_fp8(rounding: Callable[[Tensor, str], Tensor] | None) -> Callable[[Subject], Made]:
    """Every parameter cast to fp8 e4m3, as ComfyUI's loader does where that type is asked for.

    rounding: of a layer's weight, by its name, once its LoRA was added to the cast base, as a LoRA
    node adds it; None: the LoRA was merged before the cast
    """

    def make(subject: Subject) -> Made:
        unet = copy.deepcopy(subject.unet) if rounding is None else base_unet()
        for parameter in unet.parameters():
            parameter.data = parameter.to(torch.float8_e4m3fn).to(parameter.dtype)
        if rounding is not None:
            for name, change in lora(subject.concept.name).items():
                weight = unet.get_parameter(f"{name}.weight")
                weight.data = rounding(weight + change, name).to(weight.dtype)
        return Made(unet, sum(parameter.numel() for parameter in unet.parameters()))

    return make


def as_comfyui_rounds(weight: Tensor, name: str) -> Tensor:
    if str(COMFYUI) not in sys.path:
        sys.path.append(str(COMFYUI))
    seed = zlib.crc32(name.encode())
    return package("comfy.float").stochastic_rounding(weight, torch.float8_e4m3fn, seed)


def to_nearest_fp8(weight: Tensor, name: str) -> Tensor:
    """The control: what the same would be without ComfyUI's dithering."""
    return weight.to(torch.float8_e4m3fn)


def comfyui_layout(name: str) -> Callable[[Subject], Made]:
    """One of the quantized layouts that newer ComfyUI loads, in linear layers: it has them for no
    others. Rounded by its own library."""

    def make(subject: Subject) -> Made:
        layout, weights, stored = getattr(package("comfy_kitchen.tensor"), name), {}, {}
        for layer, weight in matrices(subject.unet).items():
            if isinstance(subject.unet.get_submodule(layer), nn.Linear):
                codes, parameters = layout.quantize(weight)
                back = layout.dequantize(codes, parameters)
                weights[layer] = back[: weight.shape[0], : weight.shape[1]]
                scales = getattr(parameters, "block_scale", parameters.scale)
                stored[layer] = codes.nbytes + scales.nbytes
        return with_weights(subject, weights, stored)

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


def paper(weights: str, bits: int, how: str, protect: Any) -> Callable[[Subject], Made]:
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
            for name, layer in packed_layers(unet)
        }
        exact = [] if protect == "none" else [
            m for n, m in unet.named_modules() if n.endswith((".exact_k", ".exact_v"))
        ]
        extra = sum(2 * parameter.numel() for layer in exact for parameter in layer.parameters())
        return Made(unet, charged(subject.unet, stored) + extra, listen)

    return make


# --- ours ----------------------------------------------------------------------------------------


def packed(
    subject: Subject, plan: TaqPlan, moments: dict[str, Tensor] | None, text: bool = False
) -> Made:
    """Really packed by `quantize`, then unpacked, its repairs added.

    text: whether the text's K and V are packed like the rest; else they stay outside.
    """
    plan = plan if text else full_precision_text(subject.unet, plan)
    unet = quantize(copy.deepcopy(subject.unet), plan, importance=moments)
    weights = {}
    for name, layer in packed_layers(unet):
        weight = layer.dense().flatten(1)
        layer.add_branches(weight)
        weights[name] = weight
    texts = [] if text else text_names(subject.unet)
    return with_weights(subject, weights, stored_bytes(unet, texts))


def packed_layers(unet: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    return ((n, layer) for n, layer in unet.named_modules() if isinstance(layer, QuantizedLayer))


def stored_bytes(unet: nn.Module, texts: Sequence[str]) -> dict[str, int]:
    """Bytes of each packed layer; those of `texts` lie outside, what is remembered of them here."""
    found = {}
    for name, layer in packed_layers(unet):
        own = [layer.weight, layer.weight_scale, layer.weight_zero, *layer.branches.buffers()]
        found[name] = sum(t.numel() * t.element_size() for t in own if t is not None)
        if name in texts:
            found[name] = 2 * PROMPTS * context("").shape[1] * layer.shape[0]
    return found


def uniform(
    fmt: str, about: str | None = "mixed", *, rank: int = 0, text: bool = False,
    time: bool = False, correlations: bool = True, rounds: int = gptq.REFINEMENTS,
    clips: Sequence[float] = (1.0,), block: int = calibrate.BLOCK,
) -> Callable[[Subject], Made]:  # fmt: skip
    """One format throughout.

    about: what calibration heard; None: without
    time: also where every block hears the time, which the plan would keep at 8 bits
    correlations: else mean squares alone, as imatrix has it
    rounds: of refinement after GPTQ
    clips: parts of a group's range that scales are tried for
    block: columns whose inputs are correlated with each other
    """

    def make(subject: Subject) -> Made:
        plan = TaqPlan({
            name: layer if layer.format == KEPT or not (rank or time)
            else LayerPlan(fmt if time else layer.format, layer.reason, rank)
            for name, layer in make_plan(subject.unet, fmt).layers.items()
        })  # fmt: skip
        moments = None if about is None else subject.moments(about, block)
        if moments is not None and not correlations:
            moments = {name: squares(m, subject.unet, name) for name, m in moments.items()}
        with mock.patch.object(gptq, "REFINEMENTS", rounds), tried_for(clips):
            return packed(subject, plan, moments, text)

    return make


def integer_products(fmt: str, about: str | None) -> Callable[[Subject], Made]:
    """A preset, each product as a CPU with VNNI computes it: inputs rounded to 8 bits too. Only
    CPUs have such a product for convolutions."""

    def make(subject: Subject) -> Made:
        plan = full_precision_text(subject.unet, make_plan(subject.unet, fmt))
        moments = None if about is None else subject.moments(about)
        unet = quantize(copy.deepcopy(subject.unet), plan, importance=moments)
        set_activations(unet, "8-bit")
        stored = stored_bytes(unet, text_names(subject.unet))
        return Made(unet, charged(subject.unet, stored), device="cpu")

    return make


def squares(moments: Tensor, unet: nn.Module, name: str) -> Tensor:
    columns = unet.get_parameter(f"{name}.weight")[0].numel()
    return moments.diagonal(dim1=1, dim2=2).flatten()[:columns]


def tried_for(clips: Sequence[float]) -> contextlib.AbstractContextManager:
    """Let symmetric formats also try scales that clip the ends of a group."""
    whole = formats.Format._candidates

    def candidates(fmt: formats.Format, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = whole(fmt, weight)
        return [(scale * clip, zero) for scale, zero in found for clip in clips]

    return mock.patch.object(formats.Format, "_candidates", candidates)


def mixed(
    bits: float,
    calibrated: bool = True,
    at_random: bool = False,
    tried_at: Sequence[float] = MIDDLE,
) -> Callable[[Subject], Made]:
    """The knapsack's plan at a mean number of bits a weight, over the whole model.

    at_random: the same bytes on layers drawn by lot, the control of the knapsack.
    tried_at: levels of noise at which each layer is tried
    """

    def make(subject: Subject) -> Made:
        weights = dict(quantizable(subject.unet))
        texts = text_names(subject.unet)
        free = sum(weights[name].weight.numel() for name in texts)
        cached = sum(2 * PROMPTS * context("").shape[1] * len(weights[n].weight) for n in texts)
        total = sum(t.numel() for t in subject.unet.state_dict().values())
        if at_random:
            rng = np.random.default_rng(0)
            found = {
                name: {"int4": rng.random() * layer.weight.numel(), "int8": 1e-9}
                for name, layer in weights.items()
                if name in subject.moments() and name not in texts
            }  # fmt: skip
        else:
            found = subject.sensitivity(calibrated, tried_at)
        target = int(total * bits / 8) - cached + 2 * free
        counted = copy.deepcopy(subject.unet).half()  # bytes are those of a model kept at 16 bits
        plan = fit_plan(counted, found, target_bytes=target)
        return packed(subject, plan, subject.moments() if calibrated else None)

    return make


def rounded_in(fmt: str, beside: bool) -> Callable[[Subject], Made]:
    """A LoRA added to an already packed base: rounded into its codes, or kept beside them."""

    def make(subject: Subject) -> Made:
        base, changes = base_unet(), lora(subject.concept.name)
        plan, weights, stored = make_plan(base, fmt).layers, {}, {}
        for name, matrix in matrices(base).items():
            entry: Any = FORMATS[plan[name].format]
            columns = matrix.shape[1]
            old = entry.quantize(matrix)
            weight = entry.dequantize(old, columns, torch.float32)
            stored[name] = entry.size_bytes(*matrix.shape)
            if name in changes:
                change = changes[name].flatten(1)
                if beside:
                    weight = weight + change
                    stored[name] += 2 * subject.concept.rank * sum(matrix.shape)
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
    System("full precision", lambda s: with_weights(s, {}, {})),
    System("RTN int8", by_matrix(nearest(8, None))),
    System("GGUF Q8_0", by_matrix(gguf("Q8_0"))),
    System("torchao int8, linear only", torchao(8), grid=True),
    System("quanto int8", quanto("qint8")),
    System("SDNQ int8", sdnq("int8")),
    System("ComfyUI fp8", comfyui_fp8(None)),
    System("ComfyUI fp8, LoRA added to it", comfyui_fp8(as_comfyui_rounds), grid=True),
    System("ComfyUI fp8 scaled, linear only", comfyui_layout("TensorCoreFP8Layout"), grid=True),
    System("ComfyUI nvfp4, linear only", comfyui_layout("TensorCoreNVFP4Layout"), grid=True),
    System("RTN int4, groups of 64", by_matrix(nearest(4, 64))),
    System("GGUF Q4_0", by_matrix(gguf("Q4_0"))),
    System("GGUF Q4_1", by_matrix(gguf("Q4_1"))),
    System("NF4 (bitsandbytes)", by_matrix(nf4)),
    System("torchao int4, linear only", torchao(4), grid=True),
    System("quanto int4", quanto("qint4")),
    System("SDNQ uint4", sdnq("uint4")),
    System("SDNQ uint4, SVD rank 32", sdnq("uint4", use_svd=True), grid=True),
    System("TAQ 8-bit", uniform("int8", None), ours=True),
    System("TAQ 8-bit, 8-bit inputs", integer_products("int8", None), True, True, True),
    System("TAQ mixed, 6 bits", mixed(6.0), ours=True, grid=True),
    System("TAQ mixed, 5 bits", mixed(5.0), ours=True, grid=True),
    System("TAQ 4-bit", uniform("int4"), ours=True),
    System("TAQ 4-bit, 8-bit inputs", integer_products("int4", "mixed"), True, True, True),
    System("TAQ 4-bit, time too", uniform("int4", time=True), ours=True),
    *(
        System(f"paper TAQ {label} {how}, {protect}", paper(w, bits, how, protect), grid=True)
        for label, w, bits, how, protections in (
            ("W8A8", "int8", 8, "linear", ("none", "trigger", "random", "start")),
            ("W8A4", "int8", 4, "linear",
             ("none", "trigger", "random", "start", "trigger and start", "all")),
            ("W8A4", "int8", 4, "log2", ("none", "trigger", "random", "trigger and start")),
            ("W4A8", "int4", 8, "linear", ("none", "trigger", "random", "start")),
        )
        for protect in protections
    ),
    *(
        System(f"ablation: {name}", make, True, grid=True, ablation=True)
        for name, make in (
            ("4-bit by search, no calibration", uniform("int4", None, time=True)),
            ("4-bit by search, mean squares", uniform("int4", correlations=False, time=True)),
            ("4-bit, GPTQ without refinement", uniform("int4", rounds=0, time=True)),
            ("4-bit, two rounds of refinement", uniform("int4", rounds=2, time=True)),
            ("4-bit, blocks of 512 columns", uniform("int4", block=512, time=True)),
            ("4-bit, random prompts for trigger and class", uniform("int4", "generic", time=True)),
            ("4-bit, trigger prompts only", uniform("int4", "trigger", time=True)),
            ("4-bit by search, scales clipped", uniform("int4", None, time=True, clips=CLIPS)),
            ("4-bit, scales clipped", uniform("int4", time=True, clips=CLIPS)),
            ("4-bit, noise for all prompts", uniform("int4", "noise", time=True)),
            ("4-bit asymmetric", uniform("int4_asym", time=True)),
            ("4-bit, text packed too", uniform("int4", time=True, text=True)),
            ("4-bit, repair rank 8", uniform("int4", rank=8, time=True)),
            ("8-bit, text packed too", uniform("int8", None, text=True)),
            ("mixed 5 bits, layers by lot", mixed(5.0, at_random=True)),
            ("mixed 5 bits, layers tried at four levels", mixed(5.0, tried_at=FOUR)),
            ("mixed 5 bits, no calibration", mixed(5.0, calibrated=False)),
            ("LoRA rounded into int4", rounded_in("int4", False)),
            ("LoRA beside int4", rounded_in("int4", True)),
            ("LoRA rounded into int8", rounded_in("int8", False)),
            ("LoRA beside int8", rounded_in("int8", True)),
            ("LoRA added to fp8, to nearest", comfyui_fp8(to_nearest_fp8)),
        )
    ),
)
"""In the order of the table; the first is the reference of the others."""
