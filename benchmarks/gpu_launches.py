"""What packed layers cost a GPU's processor, counted and timed without a GPU.

    python -m benchmarks.gpu_launches

On a fast GPU a step of SD1.5 takes as long as its launches and the Python between them. Printed are
the launches that unpack a step's weights, one by one and together (`gpu_workspace`), in the real
models' shapes; the columns that fitting to prompts rounds in turn (a dozen launches each), layer by
layer and layers of one shape together; and the microseconds of Python a layer takes around its
product, beside ComfyUI's own layer, on layers so small that nothing else counts. Launches
themselves are left out there: the stand-in for one returns at once. Interleaved, medians of 300
rounds, and the quickest.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.memory_speed_systems import SHAPES, empty_model, part, start_comfyui

PRESETS = {"8-bit": "int8", "4-bit": "int4"}
LAYERS, CHANNELS, RANK, ROUNDS = 64, 64, 16, 300


def launches(shape: str, fmt: str) -> tuple[int, int]:
    """Packed layers that a step runs, and the launches that unpack them together."""
    formats, layers = part("personalq_core.taq.formats"), part("personalq_core.taq.layers")
    unet = empty_model(shape, torch.float16, None).diffusion_model
    texts = set(part("personalq_core.taq.text_cache").text_names(unet))
    plan = part("personalq_core.taq").make_plan(unet, fmt).layers
    packed = []
    for name, layer in part("personalq_core.taq.plan").quantizable(unet):
        if name in texts or plan[name].format == "16":  # text: once per prompt, not once a step
            continue
        kind = layers.QuantizedLinear if isinstance(layer, nn.Linear) else layers.QuantizedConv2d
        entry = formats.FORMATS[plan[name].format]
        packed.append(kind(layer, on_meta(entry, layer.weight, formats.Packed), entry))
    workspace = part("personalq_core.taq.gpu_workspace")
    lane = workspace._Lane(torch.device("meta"), contextlib.nullcontext)
    for layer in packed:
        lane.join(layer, torch.float16)
    alone = len(packed) - len(lane.neighbours_of)
    return len(packed), alone + len(set(lane.neighbours_of.values()))


def columns_in_turn(shape: str) -> tuple[int, int]:
    """Columns that fitting 4 bits rounds in turn: layer by layer, and as `quantize` does."""
    taq = {name: part(f"personalq_core.taq.{name}") for name in ("calibrate", "quantize", "plan")}
    unet = empty_model(shape, torch.float16, None).diffusion_model
    fitted = part("nodes.host.preset").fitted_layers(unet)
    plan = taq["plan"].make_plan(unet, "int4").layers
    moments = {}
    for name in fitted:
        blocks, width = taq["calibrate"].blocks_of(unet.get_submodule(name).weight[0].numel())
        moments[name] = torch.empty(blocks, width, width, device="meta")
    batches = taq["quantize"].batches(
        unet, {name: plan[name] for name in fitted}, moments,
        lambda name: unet.get_submodule(name).weight,
    )  # fmt: skip
    alone = sum(blocks * width for blocks, width, _ in (m.shape for m in moments.values()))
    return alone, sum(moments[names[0]].shape[1] for names, _ in batches)


def on_meta(fmt: Any, weight: Tensor, packed: type) -> Any:
    """The codes and scales of a weight, without memory."""
    rows, columns = weight.shape[0], weight[0].numel()
    groups = fmt.groups(columns)
    size = (columns, torch.int8) if fmt.bits == 8 else (groups * fmt.group // 2, torch.uint8)
    codes = torch.empty(rows, size[0], dtype=size[1], device="meta")
    return packed(codes, torch.empty(rows, groups, dtype=fmt.scale_dtype, device="meta"))


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """A GPU's lines, on a CPU; a launch does nothing."""
    names = ("layers", "gpu_unpack", "gpu_workspace", "formats")
    taq = {name: part(f"personalq_core.taq.{name}") for name in names}
    weight = torch.zeros(CHANNELS, CHANNELS)
    stand_ins = (
        (taq["layers"], "is_gpu", lambda device: True),
        (taq["gpu_unpack"], "can_launch", lambda codes: True),
        (taq["gpu_unpack"], "unpack_together", lambda table, out: True),
        (taq["gpu_workspace"], "_is_exact", lambda *_: True),
        (taq["formats"].Format, "dequantize", lambda *_: weight),
    )
    with contextlib.ExitStack() as stack:
        for owner, name, stand_in in stand_ins:
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        yield


@torch.no_grad()
def microseconds() -> dict[str, list[float]]:
    """Of one layer's call, by its kind, round by round."""
    ops, patching = importlib.import_module("comfy.ops"), part("nodes.host.patching")
    runs: dict[str, Callable[[], None]] = {}
    own_layers = ops.disable_weight_init
    for kind, make, shape in (
        ("linear", own_layers.Linear, (1, CHANNELS)),
        ("conv", functools.partial(own_layers.Conv2d, kernel_size=1), (1, CHANNELS, 1, 1)),
    ):
        own = [_filled(make(CHANNELS, CHANNELS)) for _ in range(LAYERS)]
        x = torch.randn(shape)
        runs[f"{kind}, ComfyUI's own"] = functools.partial(_call, own, x)
        for name in ("one by one", "together", "together, a LoRA"):
            packed = [_packed(layer, patching) for layer in own]
            if name.startswith("together"):
                part("personalq_core.taq.layers").share_workspace(nn.ModuleList(packed))
            if name.endswith("LoRA"):
                _wear(packed)
            runs[f"{kind}, TAQ {name}"] = functools.partial(_call, packed, x)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append((time.perf_counter() - start) / LAYERS * 1e6)
    return taken


def _filled(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def _packed(layer: nn.Module, patching: Any) -> Any:
    kind = next(new for old, new in patching.LAYER_TYPES.items() if isinstance(layer, old))
    return kind(layer, layer.weight, part("personalq_core.taq.formats").FORMATS["int8"])


def _wear(layers: list[Any]) -> None:
    branch = part("personalq_core.taq.lora").Branch
    for layer in layers:
        worn = branch(torch.randn(CHANNELS, RANK), torch.randn(RANK, CHANNELS))
        layer.set_branch("lora", worn.float())  # the type of the layer, as on a GPU


def _call(layers: list[nn.Module], x: Tensor) -> None:
    for layer in layers:
        layer(x)


def main() -> None:
    argparse.ArgumentParser(description=str(__doc__).splitlines()[0]).parse_args()
    start_comfyui("cpu")
    with as_on_a_gpu():
        print("launches a step that unpack weights    one by one  together")
        for shape in SHAPES:
            for preset, fmt in PRESETS.items():
                alone, together = launches(shape, fmt)
                print(f"{shape} {preset:33} {alone:10} {together:9}")
        print("\ncolumns rounded in turn to fit 4 bits   layer by layer  together")
        for shape in SHAPES:
            alone, together = columns_in_turn(shape)
            print(f"{shape:39} {alone:14,} {together:9,}")
        print("\nmicroseconds of a layer's call             median  quickest")
        for name, taken in microseconds().items():
            print(f"{name:42} {statistics.median(taken):6.2f} {min(taken):9.2f}")


if __name__ == "__main__":
    main()
