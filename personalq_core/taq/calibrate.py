"""What a model's layers hear: statistics of their inputs on prompts with and without the trigger.

No pictures are needed. The model itself draws short trajectories from noise, for prompts with the
trigger, the same prompts with the class word in its place, and generic ones; what it met on the
way is what its layers are measured on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .plan import quantizable

ROLES = {"trigger": 0.5, "class": 0.25, "generic": 0.25}
"""How much each kind of prompt counts. A kind without prompts leaves its share to the others."""

BLOCK = 1024
"""Columns whose inputs are correlated with each other: bounds memory to `4 * BLOCK` bytes a column.
"""

TOKENS = 640
"""Inputs of a layer that are taken from one probe, drawn evenly: more would only cost time."""

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x (batch, ...), sigma (batch,), context (batch, tokens, width)) -> predicted noise like x.

x is the noisy picture, not scaled for the network: clean + sigma * noise, as k-diffusion has it."""

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


@dataclass(frozen=True)
class Probe:
    """One fixed input of a model.

    role: a key of ROLES
    run: calls the model on it and returns the predicted noise (batch, ...)
    """

    role: str
    run: Callable[[], Tensor]


def make_probes(
    predict: Predict,
    contexts: Mapping[str, Sequence[Tensor]],
    shape: Sequence[int],
    sigmas: Sequence[float],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> list[Probe]:
    """A probe per prompt: the noisy pictures that Euler's method meets on the way from `sigmas`.

    contexts: by role, the prompts' embeddings, each (1, tokens, width)
    shape: of one latent, without the batch
    sigmas: falling noise levels above 0; one step each

    The prompts of a role share their noise with the other roles' prompts of the same number, so
    that trigger and class word differ by the word alone.
    """
    jobs = [(role, n, c) for role, given in contexts.items() for n, c in enumerate(given)]
    probes = []
    for done, (role, number, context) in enumerate(jobs):
        generator = torch.Generator().manual_seed(seed + number)
        x = torch.randn(1, *shape, generator=generator).to(device, dtype) * sigmas[0]
        xs = []
        with torch.no_grad():
            for now, then in zip(sigmas, [*sigmas[1:], 0.0]):
                xs.append(x)
                x = x + predict(x, x.new_full((1,), now), context) * (then - now)
        met, levels = torch.cat(xs), torch.tensor(list(sigmas), device=device, dtype=dtype)
        repeated = context.expand(len(met), *context.shape[1:])
        probes.append(Probe(role, _call(predict, met, levels, repeated)))
        if progress is not None:
            progress(done + 1, len(jobs))
    return probes


def _call(predict: Predict, *inputs: Tensor) -> Callable[[], Tensor]:
    return lambda: predict(*inputs)


def importance(
    model: nn.Module,
    probes: Sequence[Probe],
    *,
    shares: Mapping[str, float] = ROLES,
    correlations: bool = True,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Second moments of each layer's inputs over the probes; for `quantize` and `bits`.

    shares: how much each role counts; those of absent roles are shared out.
    correlations: (blocks, width, width), columns side by side in blocks of at most BLOCK, whose
        products steer rounding (GPTQ's Hessian); else mean squares alone, (columns,).

    Grouped convolutions are left out: their columns meet different inputs in each group.
    """
    moments: dict[str, Tensor] = {}
    counts = iter(role_weights([probe.role for probe in probes], shares))
    count = 0.0

    def hear(name: str, layer: nn.Module) -> Callable:
        def hook(_: nn.Module, given: tuple, __: object) -> None:
            x = inputs(layer, given[0])
            x = x[:: math.ceil(len(x) / TOKENS)].float()
            # Sums of products in 16 bit would not be positive definite.
            with torch.autocast(x.device.type, enabled=False):
                moment = _correlations(x) if correlations else x.square().mean(0)
            moment = moment.mul_(count).cpu()
            moments[name] = moments[name].add_(moment) if name in moments else moment

        return hook

    hooks = [
        layer.register_forward_hook(hear(name, layer))
        for name, layer in quantizable(model)
        if getattr(layer, "groups", 1) == 1
    ]
    try:
        for done, probe in enumerate(probes):
            count = next(counts)
            with torch.no_grad():
                probe.run()
            if progress is not None:
                progress(done + 1, len(probes))
    finally:
        for hook in hooks:
            hook.remove()
    return moments


def role_weights(roles: Sequence[str], shares: Mapping[str, float] = ROLES) -> list[float]:
    """What each probe counts: its role's share, split among the role's probes; they sum to 1."""
    present = {role: shares[role] for role in roles}
    total = sum(present.values()) or 1.0
    return [shares[role] / total / roles.count(role) for role in roles]


def inputs(layer: nn.Module, x: Tensor) -> Tensor:
    """The vectors that the rows of a layer's weight are multiplied with: (number, columns)."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)
    if isinstance(layer.padding, str):
        raise ValueError("a convolution padded by name has no fixed padding; use numbers")
    patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return patches.transpose(1, 2).flatten(0, 1)


def _correlations(x: Tensor) -> Tensor:
    """Mean products x x^T within blocks of columns: (blocks, width, width), zeros where padded."""
    columns = x.shape[1]
    blocks = math.ceil(columns / BLOCK)
    width = math.ceil(columns / blocks / 64) * 64
    x = F.pad(x, (0, blocks * width - columns)).view(len(x), blocks, width).transpose(0, 1)
    return x.transpose(1, 2) @ x / x.shape[1]
