"""Concept-aware bits: each layer gets as many as the concept's picture needs of it.

A layer's sensitivity is how far the predicted noise moves when that layer alone is stored in few
bits, on prompts with the trigger, with the class word, and generic ones. A knapsack then spends a
number of bytes where they move it least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .calibrate import ROLES, Probe, Progress
from .plan import TaqPlan

CHOICES = ("int4", "int8")
"""Formats the knapsack chooses among, beside leaving a layer at 16 bit."""

Sensitivity = dict[str, dict[str, float]]
"""By layer, by format: mean squared change of the prediction, relative to its mean square."""


def sensitivity(
    model: nn.Module,
    probes: Sequence[Probe],
    moments: Mapping[str, Tensor] | None = None,
    *,
    choices: Sequence[str] = CHOICES,
    shares: Mapping[str, float] = ROLES,
    progress: Progress | None = None,
) -> Sensitivity:
    """How much each format of each layer changes what the model predicts.

    moments: of `calibrate.importance`. The lowest format is measured, one run of all probes a
    layer; the others follow from how much smaller their error of the layer's output is.
    """
    raise NotImplementedError


def fit_plan(
    model: nn.Module,
    found: Sensitivity,
    *,
    target_bytes: int | None = None,
    target_error: float | None = None,
) -> TaqPlan:
    """The plan of least error whose packed model takes at most `target_bytes`.

    target_error: instead, the smallest plan whose summed sensitivity is at most this.
    target_bytes counts the whole state dict, kept layers at 16 bit.
    Raises ValueError where no plan is so small; the message names the smallest size.
    """
    raise NotImplementedError
