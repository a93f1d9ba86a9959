"""Concept-aware bits: each layer gets as many as the concept's picture needs of it.

A layer's sensitivity is how far the predicted noise moves when that layer alone is stored in few
bits, on prompts with the trigger, with the class word, and generic ones. A knapsack then spends a
number of bytes where they move it least.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping, Sequence

import torch
from torch import Tensor, nn

from .calibrate import ROLES, Probe, Progress, probe_weights
from .formats import FORMATS
from .plan import KEPT, LayerPlan, TaqPlan, make_plan, quantizable
from .quantize import batches, packed_together
from .repair import TINY, repair
from .repair import size_bytes as repair_bytes

CHOICES = ("int4", "int8")
"""What the knapsack chooses among, lowest first, beside leaving a layer at 16 bit. `int4+8` is int4
with a low-rank repair of rank 8."""

Sensitivity = dict[str, dict[str, float]]
"""By layer, by choice: mean squared change of the prediction, relative to its mean square."""


def sensitivity(
    model: nn.Module,
    probes: Sequence[Probe],
    moments: Mapping[str, Tensor] | None = None,
    *,
    leave_out: Container[str] = (),
    choices: Sequence[str] = CHOICES,
    shares: Mapping[str, float] = ROLES,
    progress: Progress | None = None,
) -> Sensitivity:
    """How much each choice for each layer changes what the model predicts.

    leave_out: names of layers that are not asked about
    moments: of `calibrate.importance`. The first choice is measured, one run of all probes a
    layer; the others follow from how much smaller their error of the layer's output is.
    The weights are as they were when it ends, also where it ends early.
    """
    moments = moments or {}
    plan = make_plan(model, choices[0].partition("+")[0]).layers
    tried = {n: p for n, p in plan.items() if p.format != KEPT and n not in leave_out}
    counts = probe_weights(probes, shares)

    def weight_of(name: str) -> Tensor:
        # A host may keep some layers elsewhere, and bring them as they are needed.
        return model.get_parameter(f"{name}.weight").to(exact[0].device, torch.float32)

    with torch.no_grad():
        exact = [probe.run() for probe in probes]
        found: Sensitivity = {}
        for names, matrices in batches(model, tried, moments, weight_of):
            hurts = [moments.get(name) for name in names]
            rounded = zip(*(_rounded(choice, matrices, hurts) for choice in choices))
            for name, matrix, hurt, backs in zip(names, matrices, hurts, rounded):
                lost = [_heard(matrix - back, hurt) for back in backs]
                weight = model.get_parameter(f"{name}.weight")
                moved = _moved(weight, backs[0], probes, counts, exact)
                found[name] = {c: moved * e / max(lost[0], TINY) for c, e in zip(choices, lost)}
                if progress is not None:
                    progress(len(found), len(tried))
    return found


def _rounded(
    choice: str, matrices: Sequence[Tensor], moments: Sequence[Tensor | None]
) -> list[Tensor]:
    """What weights of one shape are after a choice."""
    name, _, rank = choice.partition("+")
    fmt, columns = FORMATS[name], matrices[0].shape[1]
    packed = packed_together(fmt, matrices, moments)
    backs = [fmt.dequantize(part, columns, torch.float32) for part in packed]
    if rank:
        for matrix, back, hurt in zip(matrices, backs, moments):
            repair(matrix - back, int(rank), hurt).add_to(back)
    return backs


def _heard(lost: Tensor, moments: Tensor | None) -> float:
    """Mean squared error of the layer's output, up to a factor that is the layer's own."""
    if moments is None:
        return lost.square().sum().item()
    if moments.ndim == 1:
        return (lost.square() * moments.to(lost)).sum().item()
    blocks, width, _ = moments.shape
    lost = torch.nn.functional.pad(lost, (0, blocks * width - lost.shape[1]))
    lost = lost.view(-1, blocks, width).transpose(0, 1)
    return ((lost @ moments.to(lost)) * lost).sum().item()


def _moved(
    weight: nn.Parameter,
    rounded: Tensor,
    probes: Sequence[Probe],
    counts: Sequence[float],
    exact: Sequence[Tensor],
) -> float:
    kept = weight.data
    weight.data = rounded.view_as(kept).to(kept)
    try:
        return sum(
            count * _mean_square(probe.run() - out) / max(_mean_square(out), TINY)
            for probe, count, out in zip(probes, counts, exact)
        )
    finally:
        weight.data = kept


def _mean_square(x: Tensor) -> float:
    return x.float().square().mean().item()


class TargetTooSmall(ValueError):
    """No plan of a model is as small as wished; `smallest` is in bytes."""

    def __init__(self, smallest: int, wished: int):
        super().__init__(f"the smallest plan takes {smallest:,} bytes, more than {wished:,}")
        self.smallest = smallest


def fit_plan(
    model: nn.Module,
    found: Sensitivity,
    *,
    target_bytes: int | None = None,
    target_error: float | None = None,
) -> TaqPlan:
    """The plan of least error whose packed model takes at most `target_bytes`.

    target_error: instead, the smallest plan whose summed sensitivity is at most this.
    target_bytes counts the whole state dict, what is kept in the type it has now.
    Raises TargetTooSmall where no plan is so small.

    Starts from the fewest bits and buys, step by step, what removes most error a byte: optimal up
    to the last step, because each layer's steps are first thinned to a falling return.
    """
    layers = dict(quantizable(model))
    lowest = make_plan(model, min(FORMATS, key=lambda name: FORMATS[name].size_bytes(64, 64)))
    steps = {
        name: _steps(layers[name], changes, lowest.layers[name].format)
        for name, changes in found.items()
        if lowest.layers[name].format != KEPT
    }
    total = sum(t.nbytes for t in model.state_dict().values())
    total += sum(ladder[0][0] - layers[n].weight.nbytes for n, ladder in steps.items())
    if target_bytes is not None and total > target_bytes:
        raise TargetTooSmall(total, target_bytes)
    error = sum(ladder[0][1] for ladder in steps.values())
    place = dict.fromkeys(steps, 0)
    offers = sorted(
        ((low[1] - high[1]) / (high[0] - low[0]), name, at, low, high)
        for name, ladder in steps.items()
        for at, (low, high) in enumerate(itertools.pairwise(ladder))
    )
    for _, name, at, low, high in reversed(offers):
        if target_error is not None and error <= target_error:
            break
        if target_bytes is not None and total + high[0] - low[0] > target_bytes:
            continue
        if place[name] == at:
            place[name], total, error = at + 1, total + high[0] - low[0], error + high[1] - low[1]
    planned = dict(make_plan(model, "int8").layers)
    planned |= {name: _layer_plan(steps[name][at]) for name, at in place.items()}
    return TaqPlan(planned)


def _layer_plan(step: tuple[int, float, str]) -> LayerPlan:
    _, error, choice = step
    name, _, rank = choice.partition("+")
    if choice == KEPT:
        return LayerPlan(KEPT, "bytes were left for it")
    return LayerPlan(name, f"moves the prediction by {error**0.5:.2%}", int(rank or 0))


def _steps(
    layer: nn.Linear | nn.Conv2d, changes: Mapping[str, float], lowest: str
) -> list[tuple[int, float, str]]:
    """(bytes, error, choice) of a layer, growing, each step's gain a byte below the one before."""
    rows, columns = layer.weight.shape[0], layer.weight[0].numel()
    sizes = {KEPT: layer.weight.nbytes}
    for choice in changes:
        name, _, rank = choice.partition("+")
        if FORMATS[name].bits >= FORMATS[lowest].bits:
            repaired = repair_bytes(rows, columns, int(rank or 0))
            sizes[choice] = FORMATS[name].size_bytes(rows, columns) + repaired
    options = sorted((size, changes.get(choice, 0.0), choice) for choice, size in sizes.items())
    hull: list[tuple[int, float, str]] = []
    for option in options:
        while hull and option[1] <= hull[-1][1] and (
            option[0] == hull[-1][0]
            or (len(hull) > 1 and _gain(hull[-2], option) >= _gain(hull[-2], hull[-1]))
        ):
            hull.pop()
        if not hull or option[1] < hull[-1][1]:
            hull.append(option)
    return hull


def _gain(low: tuple[int, float, str], high: tuple[int, float, str]) -> float:
    return (low[1] - high[1]) / (high[0] - low[0])
