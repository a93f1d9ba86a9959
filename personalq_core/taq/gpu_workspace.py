"""Weights of layers that follow one another, unpacked by one launch into memory used over again.

On a fast GPU a launch takes longer than a small layer's product, so one more for each layer would
be what a step's time goes into. The first pass through a model shows the order of its layers; from
then on the first of some neighbours unpacks them all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import gpu_unpack
from .formats import Format, Packed
from .gpu_unpack import Table

if TYPE_CHECKING:
    from .layers import QuantizedLayer

Lasting = Callable[[], AbstractContextManager]

TOGETHER = 1 << 25
"""Weights unpacked at once: 64 MiB in 16 bits. The largest layer of SD1.5 and of SDXL takes 59 MiB
anyway."""
COMPARED = 1 << 22
"""Weights compared at once with those of PyTorch's operators, in 32 bits: 16 MiB."""


class Workspace:
    """Where the layers of one model find their weights unpacked.

    It belongs to the thread that ran the model last: another begins anew, with memory of its own,
    so that nothing is overwritten that is still to be read.

    lasting: entered while memory is taken that stays from call to call, for a host to know
    """

    def __init__(self, lasting: Lasting = nullcontext) -> None:
        self.lasting = lasting
        self._lane: _Lane | None = None

    def __reduce__(self) -> tuple:
        return Workspace, (self.lasting,)  # a copied model has memory of its own

    def weight(self, layer: QuantizedLayer, dtype: torch.dtype) -> Tensor | None:
        """The layer's weight in its own shape, its branches added, until one of others runs.

        None where the layer has to unpack its weight itself: in the first pass, and where it does
        not go together with the others.
        """
        lane = self._lane
        if lane is None or lane.thread != threading.get_ident():
            lane = self._lane = _Lane(layer.stored[0].device, self.lasting)
        neighbours = lane.neighbours_of.get(layer)
        if neighbours is None:
            lane.join(layer, dtype)
            return None
        if neighbours.dtype != dtype:
            return None
        # The first one always: the codes may be others than in the last pass.
        anew = lane.unpacked is not neighbours or layer is neighbours.layers[0]
        if anew and not lane.unpack(neighbours):
            self._lane = None
            return None
        return neighbours.views[layer]

    def forget(self) -> None:
        """What is unpacked is no longer what the layers stand for."""
        if self._lane is not None:
            self._lane.unpacked = None

    def release(self) -> None:
        """Give the memory back."""
        self._lane = None


class _Neighbours:
    """Layers that are unpacked together: who they are, and where their weights then lie.

    room: of all in the workspace, in weights
    addresses: of the tensors that `table` was made from
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.layers: list[QuantizedLayer] = []
        self.room = 0
        self.table: Table | None = None
        self.addresses: list[int] = []
        self.matrices: list[Tensor] = []
        self.views: dict[QuantizedLayer, Tensor] = {}

    def addresses_now(self) -> list[int]:
        parts = (part for layer in self.layers for part in layer.stored if part is not None)
        return [part.data_ptr() for part in parts]

    def lie_in(self, out: Tensor, table: Table) -> None:
        """From now on the weights are unpacked to `out`, and seen there without padding."""
        places = zip(self.layers, table.starts, table.widths)
        self.matrices = [
            out[start : start + layer.rows * width].view(layer.rows, width)[:, : layer.columns]
            for layer, start, width in places
        ]
        self.views = {
            layer: matrix.view(layer.shape) for layer, matrix in zip(self.layers, self.matrices)
        }

    def are_exact(self) -> bool:
        """Whether what was unpacked is what PyTorch's operators make of the codes, bit for bit."""
        return all(map(_is_exact, self.layers, self.matrices))


class _Lane:
    """The memory of one thread and stream, and the layers that share it."""

    def __init__(self, device: torch.device, lasting: Lasting) -> None:
        self.lasting = lasting
        self.thread, self.device, self.stream = threading.get_ident(), device, _stream(device)
        self.neighbours_of: dict[QuantizedLayer, _Neighbours] = {}
        self.last: _Neighbours | None = None
        self.unpacked: _Neighbours | None = None
        self.memory = torch.empty(0, dtype=torch.uint8, device=device)

    def join(self, layer: QuantizedLayer, dtype: torch.dtype) -> None:
        """Make the layer a neighbour of those that ran before it, where it can be one."""
        codes = layer.stored[0]
        able = gpu_unpack.can_launch(codes) and gpu_unpack.fits_a_table(*layer.stored)
        if not able or codes.device != self.device:
            return
        room, last = gpu_unpack.room_for(codes), self.last
        if last is None or last.table or last.dtype != dtype or last.room + room > TOGETHER:
            last = self.last = _Neighbours(dtype)
        last.layers.append(layer)
        last.room += room
        self.neighbours_of[layer] = last

    def unpack(self, neighbours: _Neighbours) -> bool:
        """False where codes have moved since, the stream is another, or Triton does not work."""
        self.unpacked = None
        addresses, is_first = neighbours.addresses_now(), neighbours.table is None
        if neighbours.table is None:
            neighbours.addresses = addresses
            with self.lasting():
                parts = [layer.stored for layer in neighbours.layers]
                neighbours.table = gpu_unpack.tabulated(parts)
        if neighbours.addresses != addresses or _stream(self.device) != self.stream:
            return False
        with torch.inference_mode(False):  # others write to it in other modes
            out = self._out(neighbours)
            if not neighbours.views:
                neighbours.lie_in(out, neighbours.table)
        if not gpu_unpack.unpack_together(neighbours.table, out):
            return False
        # A driver or compiler never tried before must not draw wrong pictures in silence.
        if is_first and not neighbours.are_exact():
            gpu_unpack.give_up("it unpacks other weights than PyTorch")
            return False
        for layer, matrix in zip(neighbours.layers, neighbours.matrices):
            layer.add_branches(matrix)
        self.unpacked = neighbours
        return True

    def _out(self, neighbours: _Neighbours) -> Tensor:
        """The memory, large enough for whatever has joined."""
        needed = neighbours.room * neighbours.dtype.itemsize
        if len(self.memory) < needed:
            everyone = set(self.neighbours_of.values())
            for other in everyone:
                other.matrices, other.views = [], {}
            most = max(other.room * other.dtype.itemsize for other in everyone)
            with self.lasting():
                self.memory = self.memory.new_empty(most)
        return self.memory[:needed].view(neighbours.dtype)


def _is_exact(layer: QuantizedLayer, matrix: Tensor) -> bool:
    packed, step = Packed(*layer.stored), max(1, COMPARED // layer.columns)
    fmt = layer.format
    assert isinstance(fmt, Format), "the kernels read integers only"
    for start in range(0, layer.rows, step):
        rows = slice(start, start + step)
        part = packed.of_rows(rows)
        exact = fmt.dequantize_by_operators(part, layer.columns, matrix.dtype)
        if not torch.allclose(matrix[rows], exact, rtol=0, atol=0, equal_nan=True):
            return False
    return True


def _stream(device: torch.device) -> object:
    return torch.cuda.current_stream(device) if device.type == "cuda" else None
