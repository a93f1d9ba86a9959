"""What a model's layers hear: statistics of their inputs on prompts with and without the trigger.

No pictures are needed. The model itself draws short trajectories from noise, for prompts with the
trigger, the same prompts with the class word in its place, and generic ones; what it met on the
way is what its layers are measured on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .plan import quantizable

ROLES = {"trigger": 0.5, "class": 0.25, "generic": 0.25}
"""How much each kind of prompt counts. A kind without prompts leaves its share to the others."""

BLOCK = 1024
"""Columns whose inputs are correlated with each other: bounds memory to `4 * BLOCK` bytes a column.
Half as many leave 2 to 3 % more error (docs/fidelity.md)."""

TOKENS = 512
"""Inputs of a layer that are taken from one call of the model, drawn evenly: more would only cost
time."""

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x (batch, ...), sigma (batch,), context (batch, tokens, width)) -> predicted noise like x.

x is the noisy picture, not scaled for the network: clean + sigma * noise, as k-diffusion has it."""

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True)
class Probe:
    """Some fixed inputs of a model.

    role: a key of ROLES
    run: calls the model on them and returns the predicted noise (batch, ...)
    calls: how often `run` calls the model
    """

    role: str
    run: Callable[[], Tensor]
    calls: int = 1


def make_probes(
    predict: Predict,
    contexts: Mapping[str, Sequence[Tensor]],
    shape: Sequence[int],
    sigmas: Sequence[float],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Probe]:
    """A probe per context: the noisy pictures that Euler's method meets on the way from `sigmas`.

    contexts: by role, embeddings of prompts, each (prompts, tokens, width)
    shape: of one latent, without the batch
    sigmas: falling noise levels above 0; one step each

    Nothing is drawn before a probe runs. The prompts of a role share their noise with the other
    roles' prompts of the same number, so that trigger and class word differ by the word alone.
    """
    probes = []
    for role, given in contexts.items():
        number = seed
        for context in given:
            noise = [
                torch.randn(1, *shape, generator=torch.Generator().manual_seed(number + n))
                for n in range(len(context))
            ]
            number += len(context)
            start = torch.cat(noise).to(device, dtype) * sigmas[0]
            probes.append(Probe(role, _walk(predict, start, sigmas, context), len(sigmas)))
    return probes


def _walk(
    predict: Predict, start: Tensor, sigmas: Sequence[float], context: Tensor
) -> Callable[[], Tensor]:
    """Predictions (levels * batch, ...) on the way from `start`; where it led is remembered."""
    met = [start]

    @torch.no_grad()
    def run() -> Tensor:
        found = []
        for level, (now, then) in enumerate(itertools.pairwise([*sigmas, 0.0])):
            x = met[level]
            found.append(predict(x, x.new_full((len(x),), now), context))
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
    """
    moments: dict[str, Tensor] = {}
    count = 0.0

    def hear(name: str, layer: nn.Linear | nn.Conv2d) -> Callable:
        def hook(_: nn.Module, given: tuple, __: object) -> None:
            x = inputs(layer, given[0])
            x = x[:: math.ceil(len(x) / TOKENS)].float()
            x = x * math.sqrt(count / len(x))
            # Sums of products in 16 bit would not be positive definite.
            with torch.autocast(x.device.type, enabled=False):
                _add_moments(moments, name, x, correlations, keep_on)

        return hook

    hooks = [layer.register_forward_hook(hear(n, layer)) for n, layer in _heard(model, names)]
    calls, done = sum(probe.calls for probe in probes), itertools.count(1)
    if progress is not None:
        hooks.append(model.register_forward_hook(lambda *_: progress(next(done), calls)))
    try:
        for probe, weight in zip(probes, role_weights([probe.role for probe in probes], shares)):
            count = weight / probe.calls
            with torch.no_grad():
                probe.run()
    finally:
        for hook in hooks:
            hook.remove()
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


def role_weights(roles: Sequence[str], shares: Mapping[str, float] = ROLES) -> list[float]:
    """What each probe counts: its role's share, split among the role's probes; they sum to 1."""
    present = {role: shares[role] for role in roles}
    total = sum(present.values()) or 1.0
    return [shares[role] / total / roles.count(role) for role in roles]


def inputs(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """The vectors that the rows of a layer's weight are multiplied with: (number, columns)."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)
    if isinstance(layer.padding, str):
        raise ValueError("a convolution padded by name has no fixed padding; use numbers")
    patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return patches.transpose(1, 2).flatten(0, 1)
