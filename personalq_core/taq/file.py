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
from contextlib import nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .formats import FORMATS, Packed
from .gpu_workspace import Lasting
from .layers import QuantizedLayer, share_workspace
from .lora import Branch
from .plan import KEPT, LayerPlan, TaqPlan
from .quantize import PLAIN, LayerTypes, TaqError

KEY, VERSION = "personalq_taq", 1
PARTS = ("weight", "weight_scale", "weight_zero")
BRANCH = ".branches."
WRONG = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What reading a header raises that another program wrote."""


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
        if _is_newer(about["plan"]):
            raise TaqError(f"{path.name} was saved by a newer PersonalQ. Update PersonalQ.")
        plan = TaqPlan.from_json(about["plan"])
        shapes = {name: tuple(int(n) for n in shape) for name, shape in about["shapes"].items()}
        held = TaqFile(plan, shapes, about["trigger"], about["sources"], about["host"], tensors)
        _check_notes(held)
        _check_packed(held)
        _check_branches(held)
        return held
    except FileNotFoundError as error:
        raise TaqError(f"{path} is not there. Was it moved or renamed?") from error
    except (SafetensorError, OSError, *WRONG) as error:
        if isinstance(error, TaqError):
            raise
        raise TaqError(f"{broken} ({error}). {remedy}") from error


def restore(
    model: nn.Module,
    file: TaqFile,
    layer_types: LayerTypes = PLAIN,
    lasting: Lasting = nullcontext,
) -> nn.Module:
    """Put the file's tensors into `model`, whose own weights may be on `meta`; returns it.

    The model needs the modules the saved one had, packed layers as plain Linear and Conv2d.
    lasting: see `Workspace`.
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
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, fresh.train(layer.training))
    for name, branch in _branches(left):
        key = f"{name}{BRANCH}{branch}"
        down = left.pop(f"{key}.down", None)
        layer = _module(model, name)
        if not isinstance(layer, QuantizedLayer):
            raise TaqError(f"The file holds a branch for {name}, which it does not pack.")
        layer.set_branch(branch, Branch(left.pop(f"{key}.up"), down))
    try:
        missing, unexpected = model.load_state_dict(left, strict=False, assign=True)
    except RuntimeError as error:  # of PyTorch, for a tensor of another shape
        named = str(error).splitlines()[-1].strip()
        raise TaqError(f"The file does not fit the model: {named}") from error
    lacking = [key for key in missing if key not in file.tensors]
    if lacking or unexpected:
        named = (lacking or unexpected)[0]
        what = "lacks" if lacking else "has"
        raise TaqError(f"The file does not fit the model: it {what} {named}.")
    share_workspace(model, lasting)
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


def _is_newer(plan: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a plan has fields or formats that are not known here."""
    known = {field.name for field in fields(LayerPlan)}
    formats = {*FORMATS, KEPT}
    return any(not known.issuperset(p) or p["format"] not in formats for p in plan.values())


def _check_notes(file: TaqFile) -> None:
    """Raise TypeError where what is told about the model is of another type."""
    words = [file.trigger, *file.sources.values(), *(p.reason for p in file.plan.layers.values())]
    if not all(isinstance(word, str) for word in words) or not isinstance(file.host, dict):
        raise TypeError("its notes are of another type")


def _check_packed(file: TaqFile) -> None:
    """Raise ValueError where a packed weight is not what its format and shape ask for."""
    for name, shape in file.shapes.items():
        fmt = FORMATS[file.plan.layers[name].format]
        wanted = fmt.frame(shape[0], math.prod(shape[1:]))
        for part, meta in zip(PARTS, (wanted.codes, wanted.scale, wanted.zero)):
            if _look(file.tensors.get(f"{name}.{part}")) != _look(meta):
                raise ValueError(f"{name}.{part} is none of {fmt.name} and shape {shape}")


def _look(tensor: Tensor | None) -> tuple | None:
    return None if tensor is None else (tensor.dtype, tensor.shape)


def _branches(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Names of the layers that have branches, each with its branch's name."""
    keys = [key.removesuffix(".up") for key in tensors if BRANCH in key and key.endswith(".up")]
    return [(name, branch) for name, _, branch in (key.rpartition(BRANCH) for key in keys)]


def _check_branches(file: TaqFile) -> None:
    """Raise ValueError where a branch is no change of the packed weight beside it."""
    for name, branch in _branches(file.tensors):
        nn.ModuleDict({branch: nn.Identity()})  # raises KeyError for what cannot be a name
        rows, columns = file.shapes[name][0], math.prod(file.shapes[name][1:])
        key = f"{name}{BRANCH}{branch}"
        up, down = file.tensors[f"{key}.up"], file.tensors.get(f"{key}.down")
        rank = columns if down is None else len(down)
        parts = [(up, (rows, rank))] + ([] if down is None else [(down, (rank, columns))])
        if any(part.shape != shape or not part.is_floating_point() for part, shape in parts):
            raise ValueError(f"{key} is no change of a weight of shape {file.shapes[name]}")
