"""The systems that `benchmarks.memory_speed` compares: MODELs of ComfyUI, each in its own form.

All begin with the same random weights in ComfyUI's own classes. What ComfyUI counts, loads and
samples is ComfyUI's own code; only the layers differ.
"""

from __future__ import annotations

import importlib
import math
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tools.comfy import COMFYUI, ROOT
from tools.run_comfy import HOST_ONLY_PACKAGES, import_torchvision

PEERS = ROOT / ".bench"
"""Where the peers' packages are installed; see memory_speed's docstring."""
PACK = "personalq_pack"

COMMON = {
    "use_checkpoint": False, "image_size": 32, "in_channels": 4, "out_channels": 4,
    "use_spatial_transformer": True, "legacy": False, "model_channels": 320,
    "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "sd15": ("SD15", COMMON | {
        "adm_in_channels": None, "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1] * 9 + [0] * 3, "use_linear_in_transformer": False,
        "context_dim": 768, "num_heads": 8,
    }),
    "sdxl": ("SDXL", COMMON | {
        "adm_in_channels": 2816, "num_classes": "sequential", "num_res_blocks": [2] * 3,
        "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "use_linear_in_transformer": True, "context_dim": 2048, "num_head_channels": 64,
    }),
}  # fmt: skip
"""Shape -> ComfyUI's class of the model, and its UNet's configuration as ComfyUI detects it."""


def start_comfyui(device: str) -> None:
    """Make ComfyUI and this pack importable, as ComfyUI itself loads it."""
    sys.path += [str(COMFYUI), str(HOST_ONLY_PACKAGES), str(PEERS)]
    import_torchvision()
    importlib.import_module("comfy.cli_args").args.cpu = device == "cpu"
    pack = types.ModuleType(PACK)
    pack.__path__ = [str(ROOT)]
    sys.modules[PACK] = pack


def part(name: str) -> Any:
    """A module of the pack, such as "nodes.host.preset"."""
    return importlib.import_module(f"{PACK}.{name}")


def empty_model(shape: str, weights: torch.dtype, compute: torch.dtype | None) -> Any:
    """ComfyUI's model of a shape on `meta`; compute: where it is another type than the weights."""
    kind, unet = SHAPES[shape]
    config = getattr(importlib.import_module("comfy.supported_models"), kind)(dict(unet))
    config.set_inference_dtype(weights, compute)
    return config.get_model({}, "", device=torch.device("meta"))


def random_model(
    shape: str,
    device: torch.device,
    weights: torch.dtype,
    compute: torch.dtype | None = None,
    at: torch.device | None = None,
) -> Any:
    """A MODEL for a device with weights of a trained model's size; one random block, repeated.

    at: where the weights are meanwhile
    """
    at = at or device
    model = empty_model(shape, weights, compute)
    model.diffusion_model.to_empty(device=at)
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(at, weights)
    for parameter in model.diffusion_model.parameters():
        if parameter.dim() == 1:
            parameter.data.fill_(0.5)
            continue
        flat = parameter.data.view(-1)
        for start in range(0, flat.numel(), block.numel()):
            rows = flat[start : start + block.numel()]
            rows.copy_(block[: rows.numel()]).mul_(0.6 * math.sqrt(2 / parameter[0].numel()))
    model.requires_grad_(False)
    patcher = importlib.import_module("comfy.model_patcher").ModelPatcher
    return patcher(model, load_device=device, offload_device=torch.device("cpu"))


def as_it_is(weights: torch.dtype, compute: torch.dtype | None = None) -> Callable:
    def build(shape: str, device: torch.device) -> tuple[Any, Callable[[Any], Any]]:
        return random_model(shape, device, weights, compute), lambda model: model

    return build


def sixteen(device: torch.device) -> tuple[torch.dtype, torch.dtype | None]:
    """16-bit weights and what ComfyUI computes them in: float32 on a CPU, as they are on a GPU."""
    cpu = device.type == "cpu"
    return (torch.bfloat16, torch.float32) if cpu else (torch.float16, None)


class NoiseClip:
    """Stands in for a text encoder, whose weights are not at hand: noise for each prompt."""

    layer_idx = None
    patcher = types.SimpleNamespace(patches_uuid=None)

    def __init__(self, shape: str):
        self.width = SHAPES[shape][1]["context_dim"]

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list:
        noise = torch.Generator().manual_seed(len(text))
        context = torch.randn(1, 77, self.width, generator=noise)
        return [[context, {"pooled_output": torch.randn(1, 1280, generator=noise)}]]


def taq(preset: str, activations: str = "automatic", calibrated: bool = False) -> Callable:
    def build(shape: str, device: torch.device) -> tuple[Any, Callable[[Any], Any]]:
        def quantize(source: Any) -> Any:
            preset_of = part("nodes.host.preset")
            words = {"trigger": "brnbyvfour bear", "class_word": "bear", "clip": NoiseClip(shape)}
            wish = preset_of.Wish(preset, **words if calibrated else {})
            made, _ = preset_of.quantized_by(source, wish)
            part("personalq_core.taq.layers").set_activations(made.model, activations)
            return made

        at = torch.device("cpu")  # as a file is loaded
        return random_model(shape, device, *sixteen(device), at), quantize

    return build


def peer(quantize: Callable[[nn.Module], nn.Module | None]) -> Callable:
    """A system that changes the layers of a diffusion model, in the type quickest on the device."""

    def build(shape: str, device: torch.device) -> tuple[Any, Callable[[Any], Any]]:
        def made(source: Any) -> Any:
            changed = quantize(source.model.diffusion_model)
            if changed is not None:
                source.model.diffusion_model = changed
            source.size = 0
            return source

        return random_model(shape, device, quickest(device)), made

    return build


def quickest(device: torch.device) -> torch.dtype:
    """float16 on a GPU; on a CPU what its processor multiplies fast, where many only imitate
    bfloat16."""
    if device.type != "cpu":
        return torch.float16
    times = part("personalq_core.taq.compute").measured()
    return torch.bfloat16 if times["bfloat16"] < times["plain"] else torch.float32


def torchao(model: nn.Module) -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())


def quanto(model: nn.Module) -> None:
    from optimum import quanto

    quanto.quantize(model, weights=quanto.qint8)
    quanto.freeze(model)


def sdnq(kind: str, **settings: bool) -> Callable[[nn.Module], nn.Module]:
    def quantize(model: nn.Module) -> nn.Module:
        from sdnq import sdnq_post_load_quant

        dtype = next(model.parameters()).dtype
        return sdnq_post_load_quant(
            model, weights_dtype=kind, quant_conv=True, torch_dtype=dtype, **settings
        )

    return quantize


class GgufLayer(nn.Module):
    """What ComfyUI's GGUF loader does: blocks of the gguf package, unpacked whole in each step."""

    def __init__(self, layer: nn.Linear | nn.Conv2d):
        super().__init__()
        import gguf

        weight = layer.weight.detach().float().flatten(1).cpu()
        self.shape = layer.weight.shape
        rows = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
        self.blocks: Tensor
        self.register_buffer("blocks", torch.from_numpy(rows).to(layer.weight.device))
        self.layer = layer
        layer.weight = None  # pyright: ignore[reportAttributeAccessIssue]: freed

    def forward(self, x: Tensor) -> Tensor:
        blocks = self.blocks.view(len(self.blocks), -1, 34)  # a float16 scale, 32 int8 codes
        scale = blocks[..., :2].contiguous().view(torch.float16).to(x.dtype)
        weight = (blocks[..., 2:].view(torch.int8).to(x.dtype) * scale).view(self.shape)
        bias = None if self.layer.bias is None else self.layer.bias.to(x.dtype)
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(x, weight, bias)
        return self.layer._conv_forward(x, weight, bias)


def gguf(model: nn.Module) -> None:
    plan = part("personalq_core.taq").make_plan(model, "int8")
    for name, planned in plan.layers.items():
        layer: Any = model.get_submodule(name)
        if planned.format == "int8" and layer.weight[0].numel() % 32 == 0:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, GgufLayer(layer))


@dataclass(frozen=True)
class System:
    """package: what has to be installed; on: devices it is for; bytes: a weight, about, for what
    fits into memory; build: (shape, device) -> a MODEL and what turns it into the system's own.
    """

    build: Callable[[str, torch.device], tuple[Any, Callable[[Any], Any]]]
    bytes: float
    package: str | None = None
    on: tuple[str, ...] = ("cpu", "cuda")


BASELINE = {"cpu": "ComfyUI, float32", "cuda": "ComfyUI, float16"}
"""ComfyUI's own choice on the device."""
SYSTEMS = {
    "ComfyUI, float32": System(as_it_is(torch.float32), 4, on=("cpu",)),
    "ComfyUI, float16": System(as_it_is(torch.float16), 2, on=("cuda",)),
    "ComfyUI, 16-bit weights, float32": System(
        as_it_is(torch.bfloat16, torch.float32), 2, on=("cpu",)
    ),
    "ComfyUI, bfloat16": System(as_it_is(torch.bfloat16), 2),
    "TAQ 8-bit": System(taq("8-bit"), 1.05),
    "TAQ 8-bit, 8-bit inputs": System(taq("8-bit", "8-bit"), 1.05, on=("cuda",)),
    "TAQ 4-bit": System(taq("4-bit"), 0.6),
    "TAQ 4-bit, fitted to prompts": System(taq("4-bit", calibrated=True), 0.6),
    "TAQ mixed 6-bit, fitted": System(taq("mixed 6-bit", calibrated=True), 0.8, on=("cuda",)),
    "torchao int8 (linear only)": System(peer(torchao), 1.6, "torchao"),
    "quanto int8": System(peer(quanto), 1.1, "optimum"),
    "SDNQ int8": System(peer(sdnq("int8")), 1.1, "sdnq"),
    "SDNQ int8, integer products": System(
        peer(sdnq("int8", use_quantized_matmul=True, use_quantized_matmul_conv=True)), 1.1, "sdnq"
    ),
    "SDNQ int4": System(peer(sdnq("int4")), 0.7, "sdnq"),
    "GGUF Q8_0, unpacked whole": System(peer(gguf), 1.15, "gguf"),
}
LEFT_OUT = {
    "ComfyUI, float16": "no CPU computes well in float16",
    "TAQ 8-bit, 8-bit inputs": "TAQ 8-bit itself, where the CPU is fast at it",
    "TAQ mixed 6-bit, fitted": "tries every layer: half an hour on a CPU",
}
