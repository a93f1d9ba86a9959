"""Bytes, peak memory, load time and speed of quantized models in ComfyUI, side by side in one run.

    python -m benchmarks.memory_speed [--device cpu|cuda] [--quick] [--shape sd15|sdxl|both]
                                      [--systems NAME ...] [--json OUT] [--png OUT]

The weights are random in the real models' shapes: memory and speed do not depend on their values.
Models, loading, LoRA patches and the count of bytes are ComfyUI's own. Each system lives in a
process of its own; their steps are interleaved, so that a busy machine slows all alike. Where not
all fit into memory together, they run in passes, each beside ComfyUI's own path, which all speeds
are relative to. Reported are medians and the spread (least and most).

The peers are no requirement of the pack or of its tests. Install them where only this benchmark
looks; whatever is missing is named and left out:

    pip install --no-deps --target .bench -r requirements-bench.txt

A step is one run of the UNet on a batch of two (prompt and empty prompt). "MB more" is the most
that quantizing takes beside the 16-bit model. `--json` adds to what
the file has of other shapes and systems.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import gc
import importlib
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
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.memory_speed_systems import (
    BASELINE,
    LEFT_OUT,
    SHAPES,
    SYSTEMS,
    empty_model,
    part,
    start_comfyui,
)

LORA_RANK = 16
AT_ONCE = {"cpu": 1, "cuda": 10}
"""Steps in a row that are timed together: a GPU that has just served another process is slow at
first."""
LATENT = 32
"""Side of the latents: 256 pixels, so that a CPU is done with all systems in half an hour."""
SPARE_BYTES = 2 << 30
"""Memory left to the machine beside what the systems of a pass take."""
PROCESS_BYTES = 1 << 30
"""What a system's process takes beside its weights: libraries, and what lies between the layers."""


# -- one system in a process of its own


class Peak:
    """Most memory held between `start` and `stop`, in bytes: the device's, or this process's."""

    def __init__(self, device: torch.device):
        self.device, self.process = device, psutil.Process()

    def start(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what making the model has left behind
        self.most, self.running = self.now(), True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def now(self) -> int:
        """Bytes held now; on a CPU what this process has for itself, without mapped files."""
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
    """The process of a system: asked to "make" it, then for a "step", and for "more"."""
    warnings.filterwarnings("ignore")
    try:
        if pipe.recv() == "make":
            _serve(pipe, system, shape, torch.device(device_name), latent)
    except EOFError:
        pass
    except Exception as error:
        pipe.send({"error": f"{type(error).__name__}: {error}"})


@torch.no_grad()
def _serve(pipe: Connection, system: str, shape: str, device: torch.device, latent: int) -> None:
    start_comfyui(device.type)
    if device.type == "cpu":
        part("personalq_core.taq.compute").measured()  # once per device, not part of a model's time
    source, make = SYSTEMS[system].build(shape, device)
    peak = Peak(device)
    peak.start()
    before, start = peak.now(), time.perf_counter()
    model = make(source)
    made = {"quantize_s": time.perf_counter() - start, "quantize_bytes": peak.stop() - before}
    del source
    importlib.import_module("comfy.model_management").load_models_gpu([model])
    ours = system.startswith("TAQ")
    answer = {"bytes": _bytes(model)}
    if ours:
        outside = part("personalq_core.taq.text_cache").outside_bytes
        answer["outside_bytes"] = outside(model.model.diffusion_model)
    pipe.send(answer | ({} if system.startswith("ComfyUI") else made))
    inputs = _inputs(shape, model, device, latent)
    while True:
        ask = pipe.recv()
        if ask == "step":
            peak.start()
            run = functools.partial(model.model.apply_model, **inputs)
            seconds = _timed(run, device, AT_ONCE[device.type])
            pipe.send({"step_s": seconds, "peak_bytes": peak.stop()})
        elif ask == "more" and ours:
            answer = _swap(model, shape, inputs, device) | {"load_s": _load(model)}
            if shape == "sd15" and "fitted" not in system:  # which fits another LoRA anew
                answer["swap_identical"] = _is_as_fresh(system, model, shape, inputs, device)
            pipe.send(answer)
        elif ask == "more":
            pipe.send({})
        else:
            return


def _bytes(model: Any) -> int:
    """What ComfyUI counts; a peer's packed tensors by what is inside them."""
    if type(model).__name__.startswith("Taq"):
        return model.model_size()
    return sum(t.numel() * t.element_size() for t in _tensors(model.model))


def _tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    """All tensors of a model, those inside packed ones of other libraries too."""
    found = []
    for tensor in model.state_dict(keep_vars=True).values():
        if not isinstance(tensor, torch.Tensor):
            continue
        parts = getattr(tensor, "__tensor_flatten__", None)
        names = parts()[0] if parts and type(tensor.data) is not torch.Tensor else []
        found += [getattr(tensor, name) for name in names] or [tensor]
    return found


def _inputs(shape: str, model: Any, device: torch.device, latent: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).to(device)

    width = SHAPES[shape][1]["context_dim"]
    given = {
        "x": draw(2, 4, latent, latent),
        "t": torch.full((2,), 5.0, device=device),
        "c_crossattn": draw(2, 77, width),
    }
    return given | ({"y": draw(2, 2816)} if shape == "sdxl" else {})


def _timed(run: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Seconds of one run, the mean of `times` in a row."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def _lora(model: Any, seed: int) -> dict[str, Any]:
    """Patches of rank 16 on every packed layer, as ComfyUI's LoRA loader makes them."""
    adapter = importlib.import_module("comfy.weight_adapter.lora").LoRAAdapter
    generator = torch.Generator().manual_seed(seed)
    patches = {}
    for name, layer in part("nodes.host.model").packed_layers(model.model):
        rows, columns = layer.shape[0], math.prod(layer.shape[1:])
        up, down = (torch.randn(size, generator=generator) * 0.02 for size in (
            (rows, LORA_RANK), (LORA_RANK, columns)
        ))  # fmt: skip
        patches[f"{name}.weight"] = adapter(set(), (up, down, LORA_RANK, None, None, None))
    return patches


def _swap(model: Any, shape: str, inputs: dict[str, Any], device: torch.device) -> dict[str, float]:
    """Seconds from a resident model with one LoRA to the same with another, ready to sample."""
    load = importlib.import_module("comfy.model_management").load_models_gpu
    worn = []
    for seed in (1, 2):
        patched = model.clone()
        patched.add_patches(_lora(model, seed))
        worn.append(patched)
    load([worn[0]])
    seconds = statistics.median(
        _timed(lambda patched=patched: load([patched]), device) for patched in (worn[1], *worn) * 2
    )
    load([model])
    return {"swap_s": seconds}


def _is_as_fresh(
    system: str, model: Any, shape: str, inputs: dict[str, Any], device: torch.device
) -> bool:
    """Whether a LoRA swapped in gives the output of a model newly quantized with that LoRA."""
    load = importlib.import_module("comfy.model_management").load_models_gpu
    swapped = model.clone()
    swapped.add_patches(_lora(model, 2))
    load([swapped])
    output = swapped.model.apply_model(**inputs)
    load([model])
    source, make = SYSTEMS[system].build(shape, device)
    source.add_patches(_lora(model, 2))
    fresh = make(source)
    load([fresh])
    return torch.equal(fresh.model.apply_model(**inputs), output)


def _load(model: Any) -> float:
    """Seconds from a saved TAQ file to a MODEL that is ready to sample.

    The file is in the system's cache: this is the work of loading, without the disk.
    """
    files = part("nodes.host.taq_file")
    load = importlib.import_module("comfy.model_management").load_models_gpu
    with tempfile.TemporaryDirectory() as folder:
        files.folder_paths.set_output_directory(folder)
        name, _ = files.save_model(model, "model")
        start = time.perf_counter()
        loaded, _ = files.load_model(str(Path(folder, name)))
        load([loaded])
        return time.perf_counter() - start


# -- all systems of a shape, step by step in turn


class Worker:
    """A system's process, and what it has answered."""

    def __init__(self, system: str, shape: str, device: str, latent: int):
        self.system = system
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(
            target=serve, args=(other, system, shape, device, latent), daemon=True
        )
        self.process.start()
        other.close()

    def send(self, wish: str) -> None:
        with contextlib.suppress(OSError):  # of a process that ended; `receive` says so
            self.pipe.send(wish)

    def receive(self) -> dict[str, Any]:
        try:
            answer = self.pipe.recv()
        except (EOFError, ConnectionError):
            answer = {"error": "its process ended (out of memory?)"}
        if "error" in answer:
            self.stop()
            raise RuntimeError(answer["error"].splitlines()[0][:160])
        return answer

    def stop(self) -> None:
        self.send("stop")
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def ask(
    workers: dict[str, Worker], wish: str, lost: dict[str, str], together: bool
) -> dict[str, dict[str, Any]]:
    """Answers by system. One that fails leaves `workers`; `lost` says why.

    together: all at work at once, where nothing is timed or there are cores for all; else in turn.
    """
    answers: dict[str, dict[str, Any]] = {}
    for batch in [list(workers)] if together else [[system] for system in workers]:
        for system in batch:
            workers[system].send(wish)
        for system in batch:
            try:
                answers[system] = workers[system].receive()
            except RuntimeError as error:
                lost[system] = str(error)
                del workers[system]
    return answers


def passes(systems: Sequence[str], weights: int, room: int, baseline: str) -> list[list[str]]:
    """The systems in groups that fit into `room` bytes, the baseline in each, made last.

    While a system is made its 16-bit source is there too.
    """
    groups: list[list[str]] = []
    used = 0.0
    for system in (name for name in systems if name != baseline):
        size = SYSTEMS[system].bytes
        together = (used + size + max(SYSTEMS[baseline].bytes, 2)) * weights
        fits = together + (len(groups[-1]) + 2 if groups else 0) * PROCESS_BYTES <= room
        if not groups or not fits:
            groups.append([])
            used = 0.0
        groups[-1].append(system)
        used += size
    return [[*group, baseline] for group in groups] or [[baseline]]


def measure(
    shape: str, systems: list[str], device: str, latent: int, rounds: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of the systems that ran, and why the others did not."""
    left_out: dict[str, str] = {}
    for system in systems:
        package = SYSTEMS[system].package
        if device not in SYSTEMS[system].on:
            left_out[system] = LEFT_OUT.get(system, f"not for {device}")
        elif package and importlib.util.find_spec(package) is None:
            left_out[system] = f"{package} is not installed"
    unet = empty_model(shape, torch.float16, None).diffusion_model
    weights = sum(parameter.numel() for parameter in unet.parameters())
    room = psutil.virtual_memory().available - SPARE_BYTES
    if device == "cuda":
        room = torch.cuda.mem_get_info()[0] - SPARE_BYTES
    runnable = [system for system in systems if system not in left_out]
    rows: list[dict[str, Any]] = []
    for group in passes(runnable, weights, room, BASELINE[device]):
        found, lost = measure_together(shape, group, device, latent, rounds, weights)
        left_out |= lost
        known = {row["system"] for row in rows}
        rows += [row for row in found if row["system"] not in known]
    return sorted(rows, key=lambda row: list(SYSTEMS).index(row["system"])), left_out


def measure_together(
    shape: str, group: list[str], device: str, latent: int, rounds: int, weights: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of one pass; speeds are relative to the pass's own baseline, its last system."""
    left_out: dict[str, str] = {}
    on_gpu = device == "cuda"  # the rest of the machine then has time for all of them
    workers = {system: Worker(system, shape, device, latent) for system in group}
    made = ask(workers, "make", left_out, on_gpu)
    print(f"  made {', '.join(made)}", flush=True)
    ask(workers, "step", left_out, on_gpu)  # the first one warms up
    steps: dict[str, list[dict[str, Any]]] = {system: [] for system in group}
    for _ in range(rounds):
        for system, answer in ask(workers, "step", left_out, together=False).items():
            steps[system].append(answer)
    rows = []
    if not steps[group[-1]]:
        lost = {system: f"not measured: {group[-1]} beside it failed" for system in workers}
        for worker in workers.values():
            worker.stop()
        return [], lost | left_out
    baseline = statistics.median(answer["step_s"] for answer in steps[group[-1]])
    if group[-1] in workers and len(workers) > 1:  # room for what the others still do
        workers.pop(group[-1]).stop()
    more = ask(workers, "more", left_out, on_gpu)
    for worker in workers.values():
        worker.stop()
    for system in (system for system in group if steps[system]):
        taken = [answer["step_s"] for answer in steps[system]]
        row = {
            "system": system,
            "shape": shape,
            "ours": system.startswith("TAQ"),
            **made[system],
            "share_of_16_bit": made[system]["bytes"] / (2 * weights),
            "step_s": statistics.median(taken),
            "step_s_spread": [min(taken), max(taken)],
            "speed": baseline / statistics.median(taken),
            "peak_bytes": max(answer["peak_bytes"] for answer in steps[system]),
            "latent": latent,
        }
        rows.append(row | more.get(system, {}))
    return rows, left_out


def peak_saved(row: dict[str, Any], rows: list[dict[str, Any]], other: str) -> float | None:
    """How far the peak fell below another system's, as a part of what the weights saved."""
    base = next((r for r in rows if r["system"] == other and r["shape"] == row["shape"]), None)
    if base is None or base["bytes"] <= row["bytes"]:
        return None
    return (base["peak_bytes"] - row["peak_bytes"]) / (base["bytes"] - row["bytes"])


def table(rows: list[dict[str, Any]], device: str) -> str:
    """The rows of a shape as text."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    exact = ".2f" if device == "cpu" else ".4f"
    lines = [
        f"{'system':33} {'MB':>6} {'of 16 bit':>9} {'peak MB':>8} {'of saved':>8} {'s/step':>7} "
        f"{'spread':>13} {'speed':>6} {'quantize s':>10} {'MB more':>7} {'load s':>7} "
        f"{'swap s':>7} {'same':>5}"
    ]
    for row in rows:
        low, high = row["step_s_spread"]
        lines.append(
            f"{row['system']:33} {row['bytes'] / 1e6:6.0f} {row['share_of_16_bit']:9.3f} "
            f"{row['peak_bytes'] / 1e6:8.0f} "
            f"{number(peak_saved(row, rows, BASELINE[device]), '.2f'):>8} "
            f"{row['step_s']:7{exact}} {low:6{exact}}-{high:6{exact}} {row['speed']:5.2f}x "
            f"{number(row.get('quantize_s'), '.1f'):>10} "
            f"{number(row.get('quantize_bytes', 0) / 1e6 or None, '.0f'):>7} "
            f"{number(row.get('load_s'), '.2f'):>7} "
            f"{number(row.get('swap_s'), '.3f'):>7} {row.get('swap_identical', '-')!s:>5}"
        )
    return "\n".join(lines)


def chart(result: dict[str, Any], path: Path) -> None:
    """Bytes and seconds a step of all systems, a row of panels for each shape."""
    from matplotlib import pyplot

    shapes = [shape for shape in SHAPES if any(r["shape"] == shape for r in result["rows"])]
    heights = [1 + sum(row["shape"] == shape for row in result["rows"]) for shape in shapes]
    figure, axes = pyplot.subplots(
        len(shapes), 2, figsize=(11, 0.4 * sum(heights) + 0.6), squeeze=False,
        layout="constrained", height_ratios=heights,
    )  # fmt: skip
    for shape, (left, right) in zip(shapes, axes):
        rows = [row for row in result["rows"] if row["shape"] == shape][::-1]
        names = [row["system"] for row in rows]
        colors = ["#2a7f62" if row["ours"] else "#9aa5b1" for row in rows]
        left.barh(names, [row["bytes"] / 1e6 for row in rows], color=colors)
        left.set_title(f"{shape}: MB of the diffusion model as ComfyUI holds it")
        spread = [
            [row["step_s"] - row["step_s_spread"][0] for row in rows],
            [row["step_s_spread"][1] - row["step_s"] for row in rows],
        ]
        seconds = [row["step_s"] for row in rows]
        right.barh(names, seconds, xerr=spread, color=colors, ecolor="#444444")
        right.set_title(f"seconds a step, {rows[0]['latent'] * 8} pixels, batch of two")
        right.set_yticks([])
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(result["machine"]["device"])
    figure.savefig(path, dpi=110)


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return {
        "device": name,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_average_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "chosen_product": part("personalq_core.taq.compute").chosen(torch.device(device)),
    }


def _processor() -> str:
    """Cores, and what of the processor matters to products of integers and short floats."""
    kind, flags = platform.processor(), ""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind = next(line.split(":")[1].strip() for line in lines if "model name" in line)
        flags = next(line for line in lines if line.startswith("flags"))
    known = {"avx512_vnni": "AVX-512 VNNI", "avx512_bf16": "AVX-512 BF16", "amx_int8": "AMX"}
    found = [name for flag, name in known.items() if flag in flags]
    return f"{os.cpu_count()} cores of {kind}" + (f" with {', '.join(found)}" if found else "")


def merged(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The result with the rows of other shapes and systems that the file already has."""
    if not path.exists():
        return result
    old = json.loads(path.read_text())
    new = {(row["shape"], row["system"]) for row in result["rows"]}
    rows = [row for row in old["rows"] if (row["shape"], row["system"]) not in new]
    order = list(SYSTEMS)
    result["rows"] = sorted(
        rows + result["rows"],
        key=lambda row: (list(SHAPES).index(row["shape"]), order.index(row["system"])),
    )
    for shape, lost in old["left_out"].items():
        result["left_out"][shape] = lost | result["left_out"].get(shape, {})
    return result


def main() -> None:
    """Measure, print the table, write the JSON and the chart."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", default="both", choices=[*SHAPES, "both"])
    parser.add_argument("--systems", nargs="*", help="only those whose names contain one of these")
    parser.add_argument("--quick", action="store_true", help="small pictures, two steps each")
    parser.add_argument("--rounds", type=int, default=3, help="steps of each system")
    parser.add_argument("--latent", type=int, default=LATENT, help="side; an eighth of the pixels")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    start_comfyui(options.device)
    rounds = 2 if options.quick else options.rounds
    systems = [
        name
        for name in SYSTEMS
        if not options.systems or any(part.lower() in name.lower() for part in options.systems)
    ]
    if BASELINE[options.device] not in systems:
        systems.insert(0, BASELINE[options.device])
    about = machine(options.device) | {"rounds": rounds}
    print(json.dumps(about), flush=True)
    result: dict[str, Any] = {"machine": about, "rows": [], "left_out": {}}
    for shape in SHAPES if options.shape == "both" else [options.shape]:
        latent = 16 if options.quick else options.latent
        rows, left_out = measure(shape, systems, options.device, latent, rounds)
        result["rows"] += rows
        result["left_out"][shape] = left_out
    if options.json:
        result = merged(options.json, result)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    for shape in SHAPES:
        rows = [row for row in result["rows"] if row["shape"] == shape]
        if rows:
            side = rows[0]["latent"] * 8
            print(f"\n{shape}, {side} x {side} pixels, batch of two")
            print(table(rows, options.device))
        for system, reason in result["left_out"].get(shape, {}).items():
            print(f"left out: {system}: {reason}")
    if options.png:
        chart(result, options.png)
    if (about["load_average_before"] or 0) > 0.5:
        print(f"\nThe machine was busy (load {about['load_average_before']:.1f} before).")


if __name__ == "__main__":
    main()
