"""What a model's layers hear: statistics of their inputs on prompts with and without the trigger.

No pictures are needed. The model itself draws short trajectories from noise, for prompts with the
trigger, the same prompts with the class word in its place, and generic ones; what it met on the
way is what its layers are measured on.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .plan import quantizable
from .quantize import TaqError

ROLES = {"trigger": 0.5, "class": 0.25, "generic": 0.25}
"""How much each kind of prompt counts. A kind without prompts leaves its share to the others."""

BLOCK = 1024
"""Columns whose inputs are correlated with each other: bounds memory to `4 * BLOCK` bytes a column.
Half as many leave 2 to 3 % more error (docs/fidelity.md)."""

TOKENS = 512
"""Inputs of a layer that are taken from one call of the model, drawn evenly: more would only cost
time."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x (batch, ...), sigma (batch,)) -> predicted noise like x, for the prompts it stands for.

x is the noisy picture, not scaled for the network: clean + sigma * noise, as k-diffusion has it."""

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


class NotFinite(TaqError):
    """The model computes no finite numbers on what it was to be fitted to."""

    def __init__(self, where: str = "") -> None:
        super().__init__(
            "On a prompt that it was to be fitted to, this model computes numbers that are not "
            f"finite{where}, as for a black picture."
        )


@dataclass(frozen=True)
class Prompts:
    """Prompts that run as one batch.

    role: a key of ROLES
    numbers: which prompts of their role they are
    """

    role: str
    numbers: Sequence[int]
    predict: Predict


@dataclass(frozen=True)
class Probe:
    """Some fixed inputs of a model.

    role: a key of ROLES
    run: calls the model on them and returns the predicted noise (batch, ...)
    calls: how often `run` calls the model
    prompts: how many it stands for
    """

    role: str
    run: Callable[[], Tensor]
    calls: int = 1
    prompts: int = 1


def make_probes(
    prompts: Sequence[Prompts],
    shape: Sequence[int],
    sigmas: Sequence[float],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Probe]:
    """A probe per batch: the noisy pictures that Euler's method meets on the way from `sigmas`.

    shape: of one latent, without the batch
    sigmas: falling noise levels above 0; one step each

    Nothing is drawn before a probe runs. The prompts of a role share their noise with the other
    roles' prompts of the same number, so that trigger and class word differ by the word alone.
    Running one raises NotFinite where the model predicts such numbers.
    """
    probes = []
    for batch in prompts:
        noise = [
            torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed + number))
            for number in batch.numbers
        ]
        start = torch.cat(noise).to(device, dtype) * sigmas[0]
        run = _walk(batch.predict, start, sigmas)
        probes.append(Probe(batch.role, run, len(sigmas), len(batch.numbers)))
    return probes


def _walk(predict: Predict, start: Tensor, sigmas: Sequence[float]) -> Callable[[], Tensor]:
    """Predictions (levels * batch, ...) on the way from `start`; where it led is remembered."""
    met = [start]

    @torch.no_grad()
    def run() -> Tensor:
        found = []
        for level, (now, then) in enumerate(itertools.pairwise([*sigmas, 0.0])):
            x = met[level]
            found.append(predict(x, x.new_full((len(x),), now)))
            if not found[-1].isfinite().all():
                raise NotFinite
            if len(met) < len(sigmas):
                met.append(x + found[-1] * (then - now))
        return torch.cat(found)

    return run


def importance(
    model: nn.Module,
    probes: Sequence[Probe],
    *,
    names: Container[str] | None = None,
    shares: Mapping[str, float] = ROLES,
    correlations: bool = True,
    keep_on: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Second moments of each layer's inputs over the probes; for `quantize` and `bits`.

    names: of the layers that are wanted; None: all
    shares: how much each role counts; those of absent roles are shared out.
    correlations: (blocks, width, width), columns side by side in blocks of at most BLOCK, whose
        products steer rounding (GPTQ's Hessian); else mean squares alone, (columns,).
    keep_on: where they are gathered; `moments_bytes` says how much that takes.

    Grouped convolutions are left out: their columns meet different inputs in each group.
    Raises NotFinite where a layer hears what is not finite.
    """
    moments: dict[str, Tensor] = {}
    count = 0.0

    def hear(name: str, layer: nn.Linear | nn.Conv2d) -> Callable:
        def hook(_: nn.Module, given: tuple, named: dict[str, Tensor], __: object) -> None:
            (x,) = given or named.values()
            x = inputs(layer, x, TOKENS).float()
            x = x * math.sqrt(count / max(1, len(x)))
            # Sums of products in 16 bit would not be positive definite.
            with torch.autocast(x.device.type, enabled=False):
                _add_moments(moments, name, x, correlations, keep_on)

        return hook

    hooks = [
        layer.register_forward_hook(hear(name, layer), with_kwargs=True)
        for name, layer in _heard(model, names)
    ]
    calls, done = sum(probe.calls for probe in probes), itertools.count(1)
    if progress is not None:
        hooks.append(model.register_forward_hook(lambda *_: progress(next(done), calls)))
    try:
        for probe, weight in zip(probes, probe_weights(probes, shares)):
            count = weight / probe.calls
            with torch.no_grad():
                probe.run()
    finally:
        for hook in hooks:
            hook.remove()
    for name, heard in moments.items():
        power = heard.diagonal(dim1=1, dim2=2) if heard.ndim == 3 else heard
        if not power.isfinite().all():
            raise NotFinite(f" (the first layer to hear them is {name})")
    return moments


def moments_bytes(model: nn.Module, names: Container[str] | None = None) -> int:
    """What `importance` will hold, correlations included."""
    sizes = (blocks_of(layer.weight[0].numel()) for _, layer in _heard(model, names))
    return sum(4 * blocks * width * width for blocks, width in sizes)


def _heard(
    model: nn.Module, names: Container[str] | None
) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    return [
        (name, layer)
        for name, layer in quantizable(model)
        if getattr(layer, "groups", 1) == 1 and (names is None or name in names)
    ]


def _add_moments(
    moments: dict[str, Tensor], name: str, x: Tensor, correlations: bool, keep_on: Any
) -> None:
    """Add x^T x, of all columns within blocks or of each with itself, for x (number, columns)."""
    columns = x.shape[1]
    if not correlations:
        squares = x.square().sum(0).to(keep_on)
        moments[name] = moments[name] + squares if name in moments else squares
        return
    blocks, width = blocks_of(columns)
    x = F.pad(x, (0, blocks * width - columns)).view(len(x), blocks, width).transpose(0, 1)
    if name not in moments:
        moments[name] = torch.zeros(blocks, width, width, device=keep_on)
    kept = moments[name]
    if kept.device == x.device:
        kept.baddbmm_(x.transpose(1, 2), x)
    else:
        kept += (x.transpose(1, 2) @ x).to(kept.device)


def blocks_of(columns: int) -> tuple[int, int]:
    """How many blocks of how many columns, the last padded."""
    blocks = math.ceil(columns / BLOCK)
    return blocks, math.ceil(columns / blocks / 64) * 64


def probe_weights(probes: Sequence[Probe], shares: Mapping[str, float] = ROLES) -> list[float]:
    """What each probe counts: its part of the role's share, by its prompts; they sum to 1."""
    prompts: Counter[str] = Counter()
    for probe in probes:
        prompts[probe.role] += probe.prompts
    total = sum(shares[role] for role in prompts)
    return [shares[p.role] / total * p.prompts / prompts[p.role] for p in probes]


def inputs(layer: nn.Linear | nn.Conv2d, x: Tensor, most: int) -> Tensor:
    """At most so many of the vectors that the rows of a layer's weight are multiplied with, drawn
    evenly: (number, columns)."""
    if isinstance(layer, nn.Linear):
        x = x.reshape(-1, x.shape[-1])
        return x[_evenly(len(x), most, x.device)]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    # Positions first, then their patches: all patches together are many times the picture.
    seen = x
    for dimension, (kernel, spread, step) in enumerate(
        zip(layer.kernel_size, layer.dilation, layer.stride), 2
    ):
        seen = seen.unfold(dimension, spread * (kernel - 1) + 1, step)
    seen = seen[..., :: layer.dilation[0], :: layer.dilation[1]]
    batch, _, rows, columns = seen.shape[:4]
    at = _evenly(batch * rows * columns, most, x.device)
    picture, row, column = at // (rows * columns), at // columns % rows, at % columns
    return seen[picture, :, row, column].flatten(1)


def _evenly(count: int, most: int, device: torch.device) -> Tensor:
    """Indices of at most `most` of `count`, from the first to the last."""
    if count <= most:
        return torch.arange(count, device=device)
    return torch.arange(most, device=device) * (count - 1) // max(1, most - 1)
