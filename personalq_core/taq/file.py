"""A quantized model as one safetensors file that loads without the original.

The tensors are the model's state dict as it is in memory. The header's metadata holds one JSON
text: the plan, the shapes of the packed weights, the trigger, hashes of the sources, what a host
needs to build the model's frame, and a checksum over all of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .formats import FORMATS, Packed
from .layers import QuantizedLayer, share_workspace
from .lora import Branch
from .plan import KEPT, LayerPlan, TaqPlan
from .quantize import PLAIN, LayerTypes, TaqError

KEY, VERSION = "personalq_taq", 1
PARTS = ("weight", "weight_scale", "weight_zero")


@dataclass(frozen=True)
class TaqFile:
    """What a file holds.

    shapes: of the packed weights, by layer name
    sources: hashes of what the model was made from, by what they are of
    host: JSON-able notes of the program that saved it
    tensors: by state dict key; on disk until they are read (memory map)
    """

    plan: TaqPlan
    shapes: dict[str, tuple[int, ...]]
    trigger: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


def contents(model: nn.Module, plan: TaqPlan, **about: Any) -> TaqFile:
    """A quantized model as a file holds it; `about`: trigger, sources, host of TaqFile."""
    layers = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLayer)
    }
    packed = {name: plan.layers.get(name, LayerPlan(KEPT, "")) for name in plan.layers}
    packed |= {
        name: LayerPlan(layer.format.name, packed[name].reason if name in packed else "")
        for name, layer in layers.items()
    }
    shapes = {name: layer.shape for name, layer in layers.items()}
    tensors = dict(model.state_dict())
    for name, layer in layers.items():
        stored = zip(PARTS, (layer.packed.codes, layer.packed.scale, layer.packed.zero))
        tensors |= {f"{name}.{part}": tensor for part, tensor in stored if tensor is not None}
    return TaqFile(TaqPlan(packed), shapes, tensors=tensors, **about)


def save(path: Path | str, file: TaqFile) -> None:
    """Write the file beside `path` and move it there when it is whole; raises TaqError."""
    path = Path(path)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in file.tensors.items()}
    about = {
        "version": VERSION,
        "plan": file.plan.to_json(),
        "shapes": {name: list(shape) for name, shape in file.shapes.items()},
        "trigger": file.trigger,
        "sources": file.sources,
        "host": file.host,
    }
    text = json.dumps(about | {"checksum": _checksum(about, tensors)})
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, {KEY: text, "format": "pt"})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise TaqError(
            f"{path.name} could not be written ({error}). Is the disk full or the folder read-only?"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path | str) -> TaqFile:
    """Map the file into memory and check it; raises TaqError where it is not whole or not ours.

    Reads it once, for the checksum: the time of reading it from disk.
    """
    path = Path(path)
    broken = f"{path.name} is damaged or was changed"
    remedy = "Save the model again with Save TAQ Model, or copy the file again."
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
            if KEY not in metadata:
                raise TaqError(
                    f"{path.name} is no TAQ model. Choose a file made by Save TAQ Model; "
                    "ordinary checkpoints go through ComfyUI's own loaders."
                )
            about = json.loads(metadata[KEY])
            version = about["version"]
            if version != VERSION:
                raise TaqError(
                    f"{path.name} is a TAQ model of version {version}; this PersonalQ reads "
                    f"version {VERSION}. Update PersonalQ."
                )
            checksum = about.pop("checksum")
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        if _checksum(about, tensors) != checksum:
            raise TaqError(f"{broken}: its checksum differs. {remedy}")
        plan = TaqPlan.from_json(about["plan"])
        shapes = {name: tuple(int(n) for n in shape) for name, shape in about["shapes"].items()}
        _check_packed(plan, shapes, tensors)
        return TaqFile(plan, shapes, about["trigger"], about["sources"], about["host"], tensors)
    except FileNotFoundError as error:
        raise TaqError(f"{path} is not there. Was it moved or renamed?") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, TaqError):
            raise
        raise TaqError(f"{broken} ({error}). {remedy}") from error


def restore(model: nn.Module, file: TaqFile, layer_types: LayerTypes = PLAIN) -> nn.Module:
    """Put the file's tensors into `model`, whose own weights may be on `meta`; returns it.

    The model needs the modules the saved one had, packed layers as plain Linear and Conv2d.
    Raises TaqError where they do not fit.
    """
    left = dict(file.tensors)
    for name, shape in file.shapes.items():
        layer = _module(model, name)
        if not isinstance(layer, nn.Linear | nn.Conv2d) or tuple(layer.weight.shape) != shape:
            raise TaqError(f"The model has no layer {name} of shape {shape} that the file packs.")
        kind = next(new for old, new in layer_types.items() if isinstance(layer, old))
        codes, scale, zero = (left.pop(f"{name}.{part}", None) for part in PARTS)
        assert codes is not None and scale is not None, "`read` has seen them"
        packed = Packed(codes, scale, zero)
        fresh = kind(layer, packed, FORMATS[file.plan.layers[name].format])
        bias = left.pop(f"{name}.bias", None)
        fresh.bias = None if bias is None else nn.Parameter(bias, False)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, fresh.train(layer.training))
    for key in [key for key in left if ".branches." in key and key.endswith(".up")]:
        name, _, branch = key.removesuffix(".up").rpartition(".branches.")
        down = left.pop(key.removesuffix("up") + "down", None)
        layer = _module(model, name)
        if not isinstance(layer, QuantizedLayer):
            raise TaqError(f"The file holds a branch for {name}, which it does not pack.")
        layer.set_branch(branch, Branch(left.pop(key), down))
    missing, unexpected = model.load_state_dict(left, strict=False, assign=True)
    lacking = [key for key in missing if key not in file.tensors]
    if lacking or unexpected:
        named = (lacking or unexpected)[0]
        what = "lacks" if lacking else "has"
        raise TaqError(f"The file does not fit the model: it {what} {named}.")
    share_workspace(model)
    return model.requires_grad_(False)


def _module(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _checksum(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the metadata and each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    digest.update(tensors_sha256(tensors).encode())
    return digest.hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the names, types, shapes and bytes of tensors, whatever order they come in."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_packed(plan: TaqPlan, shapes: dict, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a packed weight has not the size that its format and shape ask for."""
    for name, shape in shapes.items():
        fmt = FORMATS[plan.layers[name].format]
        rows, columns = shape[0], math.prod(shape[1:])
        found = [tensors[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in tensors]
        size = sum(tensor.numel() * tensor.element_size() for tensor in found)
        if size != fmt.size_bytes(rows, columns) or any(len(part) != rows for part in found):
            raise ValueError(f"{name} is no {fmt.name} weight of shape {shape}")
