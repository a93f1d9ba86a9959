"""Linear and Conv2d whose weight stays packed; the product unpacks it tile by tile."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import compute
from .formats import FloatFormat, Format, Packed
from .gpu_workspace import Lasting, Workspace
from .lora import Branch
from .text_cache import TextCache

CPU_TILE = 1 << 22
"""Weights unpacked at once on a CPU: 8 MiB in bfloat16, whatever the size of the layer."""
GPU_TILE = 1 << 26
"""On a GPU: 128 MiB, room for any layer of SDXL and Flux, because each launch takes its time."""


class QuantizedLayer(nn.Module):
    """A packed weight, its bias, and 16-bit branches added beside it.

    `weight` holds the codes under the name the layer always had, so that LoRA keys still find it.
    Codes, scales and zero points are part of the state dict: they move and are counted with it.
    A branch is a change of the weight kept apart at 16 bit: nothing is ever rounded into the codes.

    Made from the layer it replaces and its weight: a tensor to pack, or one packed before.
    """

    weight: Tensor
    weight_scale: Tensor | None
    weight_zero: Tensor | None
    branches: Any
    """nn.ModuleDict of `Branch`, by what put them there: a LoRA, a hook, a repair."""
    texts: dict[int, tuple[Tensor, int]]
    activations = "automatic"
    """What the inputs of a product may be rounded to: "16-bit", "8-bit" where the device has an
    integer product, or "automatic": 16-bit, except where only the integer product is fast."""
    text: TextCache | None = None
    """Set on layers that read nothing but text: their products are remembered in `texts`, each with
    PyTorch's count of changes in place."""
    host: Packed | None = None
    """Set on layers whose weight is kept outside the model; see `evict`. `weight` is empty then."""
    workspace: Workspace | None = None
    """Where a GPU unpacks this weight together with its neighbours'; see `share_workspace`."""

    def _store(
        self,
        layer: nn.Linear | nn.Conv2d,
        weight: Tensor | Packed,
        fmt: Format | FloatFormat,
    ):
        self.format = fmt
        self.texts = {}
        self.shape = tuple(layer.weight.shape)
        self.rows, self.columns = self.shape[0], math.prod(self.shape[1:])
        packed = weight
        if isinstance(packed, Tensor):
            packed = fmt.quantize(packed.detach().flatten(1))
        self.weight = nn.Parameter(packed.codes, requires_grad=False)
        self.register_buffer("weight_scale", packed.scale)
        self.register_buffer("weight_zero", packed.zero)
        bias = layer.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), False)
        self.branches = nn.ModuleDict()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            self.texts.clear()
        # ComfyUI takes a LoRA away by putting the old weight back: the LoRA's branch goes with it.
        if name == "weight" and "branches" in self.__dict__.get("_modules", {}):
            self.set_branch("lora", None)
        super().__setattr__(name, value)

    @property
    def packed(self) -> Packed:
        """The weight as it is stored, in the model or outside."""
        return self.host or Packed(*self.stored)

    @property
    def stored(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Codes, scale and zero in the model."""
        buffers = self._buffers
        codes: Any = self._parameters["weight"]
        scale: Any = buffers["weight_scale"]  # None after `evict`, and nobody asks for it
        return codes, scale, buffers["weight_zero"]

    def evict(self, outside: Packed) -> None:
        """Take the weight out of the state dict: it no longer moves or counts with the model.

        outside: the same weight where it stays; a product fetches it from there.
        """
        self.host = outside
        self.weight = nn.Parameter(self.weight.new_empty(0), False)  # the name, for LoRA keys
        self.weight_scale = self.weight_zero = None

    def dense(self, dtype: torch.dtype = torch.float32, weight: Tensor | None = None) -> Tensor:
        """The whole weight in its own shape, branches left out; `weight`: other codes than ours."""
        packed = self.packed
        if weight is not None and self.host is None:
            packed = replace(packed, codes=weight)
        packed = _rows(packed, slice(0, self.rows), packed.codes.device)
        return self.format.dequantize(packed, self.columns, dtype).view(self.shape)

    def set_branch(self, name: str, branch: Branch | None) -> None:
        """Put a change of the weight beside the codes; None takes the one of that name away."""
        if name not in self.branches and branch is None:
            return
        self.texts.clear()
        if self.workspace is not None:
            self.workspace.forget()
        if branch is None:
            del self.branches[name]
        else:
            self.branches[name] = branch.to(self.weight.device)

    def _tiles(self, like: Tensor) -> Sequence[slice]:
        most = CPU_TILE if like.device.type == "cpu" else GPU_TILE
        step = max(1, most // self.columns)
        starts = range(0, self.rows, step)
        return [slice(start, min(start + step, self.rows)) for start in starts]

    def _tile(self, rows: slice, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Rows of the weight ready for a product with `like`, and a factor for what comes out.

        With one scale a row, the codes themselves are multiplied: they are exact in bfloat16,
        where weight times scale would be rounded. Not so in float16: the sums could overflow.
        Nor on a GPU: one pass more over the output would cost more than the rounding.
        """
        packed = _rows(self.packed, rows, like.device)
        if not like.is_cuda and self.format.group is None and like.dtype != torch.float16:
            codes = self.format.codes(packed, self.columns, like.dtype)
            return codes.view(-1, *self.shape[1:]), packed.scale.flatten()
        weight = self.format.dequantize(packed, self.columns, like.dtype)
        return weight.reshape(-1, *self.shape[1:]), None

    def _integer(self, x: Tensor) -> Tensor | None:
        """The product of integer codes with inputs rounded to 8 bits; None where that is not the
        way."""
        wanted = self.activations == "8-bit" or (
            self.activations == "automatic" and compute.chosen(x.device) == "int8"
        )
        if not wanted or isinstance(self.format, FloatFormat):
            return None
        packed = _rows(self.packed, slice(0, self.rows), x.device)
        packed = self.format.in_8_bits(packed, self.columns)
        try:
            return self._integer_product(x, packed.codes, packed.scale).to(x.dtype)
        except compute.UNSUPPORTED:
            return None

    def _integer_product(self, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        raise NotImplementedError

    def _product(self, x: Tensor) -> Tensor:
        """The whole output: of the packed weight, of the branches beside it, and the bias."""
        if self._is_at_hand(x):
            return self._product_at_once(x)
        inputs, bias = x.to(self._product_dtype(x)), self._bias_for(x)
        out = self._integer(x)
        if out is None:
            out, bias = self._unpacked(inputs, x.dtype, bias)
        for branch in self.branches.values():
            out += self._beside(branch, inputs)
        return out if bias is None else out.add_(self._by_row(bias))

    def _is_at_hand(self, x: Tensor) -> bool:
        """Whether nothing stands between the codes and a product with x on its GPU, and all
        changes are in `branches`."""
        weight = self._parameters["weight"]
        here = self.host is None and weight is not None and weight.device == x.device
        small = self.rows * self.columns <= GPU_TILE and self.activations != "8-bit"
        return here and small and is_gpu(x.device)

    def _product_at_once(self, x: Tensor) -> Tensor:
        """On a GPU: each launch, and each line here, takes as long as a small layer's product.

        So a branch is added to the unpacked weight, which is one launch where one beside it is
        three, and parts are looked up where a module keeps them: attributes take several times as
        long. It keeps of the change what merging it into 16-bit weights keeps.
        """
        weight, bias = self._unpacked_with_others(x), self._parameters.get("bias")
        if weight is None:
            weight = self.format.dequantize(Packed(*self.stored), self.columns, x.dtype)
            self.add_branches(weight)
            weight = weight.view(self.shape)
        if bias is not None and bias.dtype != x.dtype:
            bias = bias.to(x.dtype)
        return self._times(x, weight, bias)

    def add_branches(self, weight: Tensor) -> None:
        """Add what lies beside the codes to the unpacked weight (rows, columns), in place."""
        branches = self._modules["branches"]
        for branch in branches._modules.values():  # pyright: ignore[reportOptionalMemberAccess]
            branch.add_to(weight)  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]

    def _unpacked_with_others(self, x: Tensor) -> Tensor | None:
        """The weight where the workspace has it. A gradient would still need it after the others
        have been there, and a compiler wants to see how it is unpacked."""
        if self.workspace is None or torch.compiler.is_compiling() or x.requires_grad:
            return None
        return self.workspace.weight(self, x.dtype)

    def _unpacked(
        self, inputs: Tensor, dtype: torch.dtype, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The product with the unpacked weight in `dtype`, and what of the bias is still to add."""
        parts = []
        tiles = self._tiles(inputs)
        for rows in tiles:
            weight, scale = self._tile(rows, inputs)
            if len(tiles) == 1 and scale is None and inputs.dtype == dtype:
                return self._times(inputs, weight, bias), None
            part = self._times(inputs, weight).to(dtype)
            parts.append(part if scale is None else part.mul_(self._by_row(scale)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=self.row_dimension), bias

    row_dimension = -1
    """Of the output: where the rows of the weight end up."""

    def _by_row(self, values: Tensor) -> Tensor:
        """(rows,) values in a shape that meets the output."""
        return values

    def _times(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def _beside(self, branch: Branch, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def _product_dtype(self, x: Tensor) -> torch.dtype:
        """Text is computed once for all steps: there is no reason to hurry."""
        return compute.product_dtype(x) if self.host is None else x.dtype

    def _bias_for(self, like: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.to(like)

    def extra_repr(self) -> str:
        return f"{self.shape}, {self.format.name}"


class QuantizedLinear(QuantizedLayer):
    """Stands in for nn.Linear: (..., in) -> (..., out)."""

    def __init__(
        self,
        layer: nn.Linear,
        weight: Tensor | Packed,
        fmt: Format | FloatFormat,
    ):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._store(layer, weight, fmt)

    def forward(self, x: Tensor) -> Tensor:
        if self.text is None or not self._is_settled():
            return self._product(x)
        return self.text.product(self, x, self._product)

    def _is_settled(self) -> bool:
        """Whether the same input gives the same product in the next step."""
        return True

    def _times(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(inputs, weight, bias)

    def _beside(self, branch: Branch, inputs: Tensor) -> Tensor:
        return branch.linear(inputs)

    def _integer_product(self, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        return compute.linear_int8(x, codes, scale)


class QuantizedConv2d(QuantizedLayer):
    """Stands in for nn.Conv2d: (batch, in, height, width) -> (batch, out, height, width)."""

    def __init__(
        self,
        layer: nn.Conv2d,
        weight: Tensor | Packed,
        fmt: Format | FloatFormat,
    ):
        super().__init__()
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        self.padding, self.dilation, self.groups = layer.padding, layer.dilation, layer.groups
        self.around: tuple[list[int], str] | None = None
        if layer.padding_mode != "zeros":
            self.around = layer._reversed_padding_repeated_twice, layer.padding_mode
            self.padding = (0, 0)
        self._store(layer, weight, fmt)

    row_dimension = 1

    def forward(self, x: Tensor) -> Tensor:
        if self.around is not None:  # as nodes for seamless textures want it
            x = F.pad(x, self.around[0], mode=self.around[1])
        return self._product(x)

    def _by_row(self, values: Tensor) -> Tensor:
        return values[:, None, None]

    def _times(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        where: Any = (self.stride, self.padding, self.dilation, self.groups)
        return F.conv2d(inputs, weight, bias, *where)

    def _beside(self, branch: Branch, inputs: Tensor) -> Tensor:
        return branch.convolve(inputs, self._times, self.shape)

    def _integer_product(self, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        if x.device.type != "cpu" or isinstance(self.padding, str):
            raise NotImplementedError("an integer convolution")
        codes = codes.view(self.shape)
        where = (self.stride, self.padding, self.dilation, self.groups)
        return compute.conv2d_int8(x, codes, scale, *where)

    def _tiles(self, like: Tensor) -> Sequence[slice]:
        # A grouped convolution's output channels belong to input channels: no cutting.
        return [slice(0, self.rows)] if self.groups > 1 else super()._tiles(like)


def is_gpu(device: torch.device) -> bool:
    """Whether products are made at once there, each weight in one piece."""
    return device.type == "cuda"


def _rows(packed: Packed, rows: slice, device: torch.device) -> Packed:
    if rows != slice(0, len(packed.codes)):
        packed = packed.of_rows(rows)
    zero = None if packed.zero is None else packed.zero.to(device)
    return Packed(packed.codes.to(device), packed.scale.to(device), zero)


def share_workspace(model: nn.Module, lasting: Lasting = nullcontext) -> None:
    """Let a GPU unpack the weights of the model's neighbouring layers together; see `Workspace`.

    The workspace knows the layers, and they it: without the model nobody else would part them
    before Python's collector comes by, and the codes would stay on the GPU until then.
    """
    workspace = Workspace(lasting)
    weakref.finalize(model, workspace.release)
    for module in model.modules():
        if isinstance(module, QuantizedLayer):
            module.workspace = workspace


def release_workspace(model: nn.Module) -> None:
    """Give back the memory of `share_workspace`, as when the model leaves its device."""
    for module in model.modules():
        if isinstance(module, QuantizedLayer) and module.workspace is not None:
            module.workspace.release()


def set_activations(model: nn.Module, activations: str) -> None:
    """Say how all packed layers of a model take their inputs; see QuantizedLayer.activations."""
    for module in model.modules():
        if isinstance(module, QuantizedLayer) and module.activations != activations:
            module.activations = activations
            module.texts.clear()
