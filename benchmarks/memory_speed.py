"""Bytes, peak memory, load time and speed of quantized UNets, side by side in one run.

    python -m benchmarks.memory_speed [--device cpu|cuda] [--quick] [--shape sd15|sdxl|both]
                                      [--systems NAME ...] [--json OUT]

The weights are random in the real models' shapes: memory and speed do not depend on their values.
Each system lives in a process of its own; their steps are interleaved, so that a busy machine
slows all alike. Reported are medians and the spread (least and most). Peers that are not
installed (torchao, optimum-quanto, sdnq, gguf) are named and left out.

A step is one run of the UNet on a batch of two (prompt and empty prompt).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from personalq_core.taq import compute, file, make_plan, quantize
from personalq_core.taq.layers import QuantizedLayer, set_activations
from personalq_core.taq.lora import Branch

SHAPES: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
LORA_RANK = 16
SPARE_BYTES = 2 << 30
"""Memory left to the machine: a system that would not fit is left out, and said so."""


# -- the systems: each turns a 16-bit UNet into its own form


def _as_is(model: nn.Module, device: torch.device) -> nn.Module:
    return model


def _taq(fmt: str, activations: str = "automatic") -> Callable:
    def build(model: nn.Module, device: torch.device) -> nn.Module:
        quantize(model, make_plan(model, fmt))
        set_activations(model, activations)
        if device.type == "cpu":  # as in ComfyUI: what is not packed computes in float32
            for module in model.modules():
                if not isinstance(module, QuantizedLayer) and not list(module.children()):
                    module.float()
        return model

    return build


def _torchao(model: nn.Module, device: torch.device) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())
    return model


def _quanto(bits: int) -> Callable:
    def build(model: nn.Module, device: torch.device) -> nn.Module:
        from optimum import quanto

        quanto.quantize(model, weights=quanto.qint8 if bits == 8 else quanto.qint4)
        quanto.freeze(model)
        return model

    return build


def _sdnq(kind: str) -> Callable:
    def build(model: nn.Module, device: torch.device) -> nn.Module:
        from sdnq import sdnq_post_load_quant

        return sdnq_post_load_quant(
            model, weights_dtype=kind, quant_conv=True, torch_dtype=torch.bfloat16
        )

    return build


class _GgufLayer(nn.Module):
    """What ComfyUI's GGUF loader does: blocks of the gguf package, unpacked whole in each step."""

    def __init__(self, layer: nn.Linear | nn.Conv2d):
        super().__init__()
        import gguf

        weight = layer.weight.detach().float().flatten(1)
        self.columns, self.shape = weight.shape[1], layer.weight.shape
        rows = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
        self.register_buffer("blocks", torch.from_numpy(rows))
        self.layer = layer
        layer.weight = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blocks = self.blocks.view(len(self.blocks), -1, 34)  # a float16 scale, 32 int8 codes
        scale = blocks[..., :2].contiguous().view(torch.float16).to(x.dtype)
        weight = (blocks[..., 2:].view(torch.int8).to(x.dtype) * scale).view(self.shape)
        bias = None if self.layer.bias is None else self.layer.bias.to(x.dtype)
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(x, weight, bias)
        return self.layer._conv_forward(x, weight, bias)


def _gguf(model: nn.Module, device: torch.device) -> nn.Module:
    plan = make_plan(model, "int8")
    for name, planned in plan.layers.items():
        layer = model.get_submodule(name)
        if planned.format == "int8" and layer.weight[0].numel() % 32 == 0:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _GgufLayer(layer))
    return model


SYSTEMS: dict[str, tuple[str | None, torch.dtype, Callable]] = {
    "float32 (ComfyUI on a CPU)": (None, torch.float32, _as_is),
    "bfloat16": (None, torch.bfloat16, _as_is),
    "float16": (None, torch.float16, _as_is),
    "TAQ 8-bit": (None, torch.float32, _taq("int8")),
    "TAQ 8-bit, 8-bit inputs": (None, torch.float32, _taq("int8", "8-bit")),
    "TAQ 4-bit": (None, torch.float32, _taq("int4")),
    "torchao int8 (linear only)": ("torchao", torch.bfloat16, _torchao),
    "quanto int8": ("optimum.quanto", torch.bfloat16, _quanto(8)),
    "SDNQ int8": ("sdnq", torch.bfloat16, _sdnq("int8")),
    "SDNQ int4": ("sdnq", torch.bfloat16, _sdnq("int4")),
    "GGUF Q8_0, unpacked whole": ("gguf", torch.bfloat16, _gguf),
}
"""Name -> the package it needs, the type of its inputs on a CPU, how it is made from 16 bits."""
GPU_DTYPE = torch.float16
SLOW = {"float16": "no CPU computes well in float16"}


def inputs_dtype(system: str, device: torch.device) -> torch.dtype:
    """float32 and bfloat16 as their names say; on a GPU all others take float16."""
    dtype = SYSTEMS[system][1]
    return dtype if device.type == "cpu" or SYSTEMS[system][2] is _as_is else GPU_DTYPE


# -- one system in a process of its own


def empty_unet(shape: str) -> nn.Module:
    """diffusers' UNet in a real model's shape, without weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**SHAPES[shape]).eval().requires_grad_(False)


def random_unet(shape: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The UNet with weights of a trained model's size; one random block, repeated."""
    model = empty_unet(shape).to(dtype).to_empty(device=device)
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.fill_(0.5)
            continue
        flat = parameter.data.view(-1)
        for start in range(0, flat.numel(), block.numel()):
            part = flat[start : start + block.numel()]
            part.copy_(block[: part.numel()]).mul_(0.6 * math.sqrt(2 / parameter[0].numel()))
    return model


class Peak:
    """Most memory held between `start` and `stop`, in bytes: the device's, or this process's."""

    def __init__(self, device: torch.device):
        self.device, self.process = device, psutil.Process()

    def start(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        self.most, self.running = self.now(), True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def now(self) -> int:
        """Bytes held now; on a CPU what this process has for itself (not its libraries' files)."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated()
        memory = self.process.memory_info()
        return memory.rss - memory.shared

    def stop(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        self.running = False
        self.thread.join()
        return self.most

    def _watch(self) -> None:
        while self.running:
            self.most = max(self.most, self.now())
            time.sleep(0.005)


def serve(pipe: Connection, system: str, shape: str, device_name: str, latent: int) -> None:
    """The process of a system: makes it, then answers "step", "swap", "load" and "peak"."""
    warnings.filterwarnings("ignore")
    device = torch.device(device_name)
    try:
        with torch.no_grad():
            _serve(pipe, system, shape, device, latent)
    except EOFError:
        pass
    except Exception as error:
        pipe.send({"error": f"{type(error).__name__}: {error}"})


def _serve(pipe: Connection, system: str, shape: str, device: torch.device, latent: int) -> None:
    dtype = inputs_dtype(system, device)
    build = SYSTEMS[system][2]
    source = dtype if build is _as_is else (torch.bfloat16 if device.type == "cpu" else GPU_DTYPE)
    model = random_unet(shape, source, device)
    start = time.perf_counter()
    model = build(model, device)
    made_s = time.perf_counter() - start
    gc.collect()
    held = sum(t.numel() * t.element_size() for t in _tensors(model))
    pipe.send({"bytes": held, "quantize_s": made_s if build is not _as_is else 0.0})
    given = _inputs(shape, dtype, device, latent)
    peak = Peak(device)
    while True:
        wish = pipe.recv()
        if wish == "step":
            peak.start()
            seconds = _timed(lambda: model(**given), device)
            pipe.send({"step_s": seconds, "peak_bytes": peak.stop()})
        elif wish == "swap":
            pipe.send({"swap_s": _swap(model, device)})
        elif wish == "load":
            pipe.send({"load_s": _load(model, shape, device)})
        else:
            return


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    """All tensors of a model, those inside packed ones of other libraries too."""
    found = []
    for tensor in model.state_dict(keep_vars=True).values():
        if not isinstance(tensor, torch.Tensor):
            continue
        parts = getattr(tensor, "__tensor_flatten__", None)
        names = parts()[0] if parts and type(tensor.data) is not torch.Tensor else []
        found += [getattr(tensor, name) for name in names] or [tensor]
    return found


def _inputs(shape: str, dtype: torch.dtype, device: torch.device, latent: int) -> dict[str, Any]:
    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, device=device).to(dtype)

    width = SHAPES[shape]["cross_attention_dim"]
    given: dict[str, Any] = {
        "sample": draw(2, 4, latent, latent),
        "timestep": torch.tensor(500, device=device),
        "encoder_hidden_states": draw(2, 77, width),
    }
    if shape == "sdxl":
        given["added_cond_kwargs"] = {"text_embeds": draw(2, 1280), "time_ids": draw(2, 6)}
    return given


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _swap(model: nn.Module, device: torch.device) -> float | None:
    """Seconds to put another LoRA of rank 16 on every packed layer; None where there are none."""
    layers = [layer for layer in model.modules() if isinstance(layer, QuantizedLayer)]
    if not layers:
        return None
    factors = [
        (torch.randn(layer.shape[0], LORA_RANK), torch.randn(LORA_RANK, math.prod(layer.shape[1:])))
        for layer in layers
    ]

    def swap() -> None:
        for layer, (up, down) in zip(layers, factors):
            layer.set_branch("lora", Branch(up * 0.01, down))

    seconds = _timed(swap, device)
    for layer in layers:
        layer.set_branch("lora", None)
    return seconds


def _load(model: nn.Module, shape: str, device: torch.device) -> float | None:
    """Seconds from a saved TAQ file to a model that can run; None for other systems.

    The file is in the system's cache: this is the work of loading, without the disk.
    """
    if not any(isinstance(module, QuantizedLayer) for module in model.modules()):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.taq.safetensors")
        formats = {
            name: module.format.name
            for name, module in model.named_modules()
            if isinstance(module, QuantizedLayer)
        }
        frame = empty_unet(shape)
        plan = make_plan(frame, next(iter(formats.values())))
        file.save(path, file.contents(model, plan))
        return _timed(lambda: file.restore(empty_unet(shape), file.load(path)).to(device), device)


# -- all systems of a shape, step by step in turn


class Worker:
    """A system's process, and what it has answered."""

    def __init__(self, system: str, shape: str, device: str, latent: int):
        self.system, self.answers = system, []
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(
            target=serve, args=(other, system, shape, device, latent), daemon=True
        )
        self.process.start()
        other.close()
        self.made = self._receive()

    def ask(self, wish: str) -> dict[str, Any]:
        self.pipe.send(wish)
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        try:
            answer = self.pipe.recv()
        except EOFError:
            answer = {"error": "its process ended (out of memory?)"}
        if "error" in answer:
            raise RuntimeError(answer["error"].splitlines()[0][:160])
        return answer

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send("stop")
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def measure(
    shape: str, systems: list[str], device: str, latent: int, rounds: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of the systems that ran, and why the others did not."""
    workers: dict[str, Worker] = {}
    left_out: dict[str, str] = {}
    weights = sum(p.numel() for p in empty_unet(shape).parameters())
    for system in systems:
        package, dtype, _ = SYSTEMS[system]
        if package and importlib.util.find_spec(package.split(".")[0]) is None:
            left_out[system] = f"{package} is not installed"
        elif device == "cpu" and system in SLOW:
            left_out[system] = SLOW[system]
        elif device == "cpu" and _free_bytes() < weights * max(3, dtype.itemsize) + SPARE_BYTES:
            left_out[system] = "not enough free memory beside the others"
        else:
            try:
                workers[system] = Worker(system, shape, device, latent)
                print(f"  made {system}", flush=True)
            except RuntimeError as error:
                left_out[system] = str(error)
    steps: dict[str, list[dict[str, Any]]] = {system: [] for system in workers}
    for turn in range(rounds + 1):
        for system, worker in list(workers.items()):
            try:
                answer = worker.ask("step")
                if turn:  # the first one warms up
                    steps[system].append(answer)
            except RuntimeError as error:
                left_out[system] = str(error)
                workers.pop(system).stop()
    rows = []
    for system, worker in workers.items():
        taken = [answer["step_s"] for answer in steps[system]]
        row = {
            "system": system,
            "shape": shape,
            "ours": system.startswith("TAQ"),
            **worker.made,
            "share_of_16_bit": worker.made["bytes"] / (2 * weights),
            "step_s": statistics.median(taken),
            "step_s_spread": [min(taken), max(taken)],
            "peak_bytes": max(answer["peak_bytes"] for answer in steps[system]),
        }
        if row["ours"]:
            row |= worker.ask("swap") | worker.ask("load")
        rows.append(row)
        worker.stop()
    return rows, left_out


def _free_bytes() -> int:
    return psutil.virtual_memory().available


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text, times beside the first one's."""
    lines = [
        f"{'system':30} {'MB':>7} {'of 16 bit':>9} {'peak MB':>8} {'s/step':>8} {'spread':>15} "
        f"{'speed':>6} {'quantize s':>10} {'load s':>7} {'LoRA swap s':>11}"
    ]
    for row in rows:
        low, high = row["step_s_spread"]
        speed = rows[0]["step_s"] / row["step_s"]
        load, swap = (
            f"{row[key]:.3f}" if row.get(key) is not None else "-" for key in ("load_s", "swap_s")
        )
        lines.append(
            f"{row['system']:30} {row['bytes'] / 1e6:7.0f} {row['share_of_16_bit']:9.3f} "
            f"{row['peak_bytes'] / 1e6:8.0f} {row['step_s']:8.3f} {low:7.3f}-{high:7.3f} "
            f"{speed:5.2f}x {row['quantize_s']:10.1f} {load:>7} {swap:>11}"
        )
    return "\n".join(lines)


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    if device == "cpu":
        with contextlib.suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            name = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    return {
        "device": name,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "chosen_product": compute.chosen(torch.device(device)),
    }


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", default="both", choices=[*SHAPES, "both"])
    parser.add_argument("--systems", nargs="*", help="only those whose names contain one of these")
    parser.add_argument("--quick", action="store_true", help="small pictures, three steps each")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    latent, rounds = (16, 3) if options.quick else (64, 7)
    systems = [
        name
        for name in SYSTEMS
        if not options.systems or any(part.lower() in name.lower() for part in options.systems)
    ]
    about = machine(options.device) | {"latent": latent, "rounds": rounds}
    print(json.dumps(about), flush=True)
    result: dict[str, Any] = {"machine": about, "rows": [], "left_out": {}}
    for shape in SHAPES if options.shape == "both" else [options.shape]:
        rows, left_out = measure(shape, systems, options.device, latent, rounds)
        result["rows"] += rows
        result["left_out"][shape] = left_out
        print(f"\n{shape}, {latent * 8} x {latent * 8} pixels, batch of 2")
        print(table(rows))
        for system, reason in left_out.items():
            print(f"left out: {system}: {reason}")
    about["load_average_after"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if (about["load_average_before"] or 0) > 0.5:
        print(f"\nThe machine was busy (load {about['load_average_before']:.1f} before).")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
