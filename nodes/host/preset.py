"""The presets of TAQ Quantize: a name people understand -> a quantized MODEL."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn

from ...personalq_core.taq import KEPT, TaqError, TaqPlan, make_plan
from ...personalq_core.taq.bits import TargetTooSmall, fit_plan, sensitivity
from ...personalq_core.taq.calibrate import NotFinite, Probe, importance, moments_bytes
from ...personalq_core.taq.compare import round_to_nearest
from ...personalq_core.taq.formats import FORMATS, FloatFormat, Packed
from ...personalq_core.taq.literal import PROTECT, Protect
from ...personalq_core.taq.text_cache import full_precision_text, text_names
from ...personalq_core.taq.triggers import triggers_in
from . import folders
from .marking import Paper
from .model import quantized_model, with_weights_at_hand
from .probing import MIDDLE, probes

PRESETS = {"8-bit": "int8", "mixed 6-bit": "int4", "4-bit": "int4", "paper W8A8": "int8"}
"""Preset -> the format most of its layers get."""
PAPER = "paper W8A8"
VARIANTS = {
    f"W{weights}A{activations} {attention}": (f"int{weights}", activations, attention)
    for weights, activations in ((8, 8), (8, 4), (4, 8))
    for attention in ("linear", "log2")
}
"""Variants of the paper's preset -> format of weights, bits of activations, rounding of attention.
"""
FORMER = {"int8": "8-bit", "int4": "4-bit"}
"""What the presets were called in workflows of version 0.1."""
MIXED_SHARE = 6 / 16


@dataclass(frozen=True)
class Wish:
    """What a user asks of TAQ Quantize; the node's inputs say what each is."""

    preset: str = "8-bit"
    trigger: str = ""
    class_word: str = ""
    target_mb: int = 0
    lora: str = "beside"
    clip: Any = None
    latent: dict[str, Any] | None = None
    variant: str = next(iter(VARIANTS))
    protect: Protect = PROTECT[0]

    @property
    def name(self) -> str:
        return FORMER.get(self.preset, self.preset)

    @property
    def paper(self) -> Paper | None:
        """The paper's setting where that is wished."""
        return Paper(*VARIANTS[self.variant], self.protect) if self.name == PAPER else None

    @property
    def mixed(self) -> bool:
        """Whether layers get different formats, by what they do to the picture."""
        return self.paper is None and (self.target_mb > 0 or self.name == "mixed 6-bit")

    @property
    def fits(self) -> bool:
        """Whether there is something to fit to prompts. A row of 8-bit codes has nothing to gain:
        see docs/fidelity.md."""
        coarse = FORMATS[PRESETS[self.name]].group is not None
        return self.paper is None and (coarse or self.mixed)

    @property
    def calibrated(self) -> bool:
        return self.fits and self.clip is not None

    @property
    def learnt_from(self) -> tuple:
        """What changes the fitted scales and bits, beside the model."""
        size = None if self.latent is None else tuple(self.latent["samples"].shape[1:])
        if not self.calibrated:
            return (size,) if self.mixed else ()
        text_encoder = self.clip.patcher.patches_uuid, self.clip.layer_idx
        return size, self.trigger, self.class_word, text_encoder

    @property
    def how(self) -> str:
        """What the trigger changes, in a sentence."""
        triggers = [f'"{trigger}"' for trigger in triggers_in(self.trigger)]
        if self.paper:
            return (
                f"As in the paper, {self.variant}. Exact rows and columns of the cross-attention: "
                f"{self.protect}, where Mark Trigger encoded the prompt. Inputs are rounded by "
                "simulation: this shows the pictures, not the speed."
            )
        if self.calibrated:
            ends = "s"[: len(triggers) > 1]
            heard = f" with the trigger{ends} {' and '.join(triggers)}" if triggers else (
                " without a trigger"
            )
            return f"Scales{' and bits' * self.mixed} are fitted to prompts{heard}."
        if self.fits:
            return "Connect CLIP to fit this to prompts: 4 bits lose far less so."
        return "At 8 bits nothing has to be fitted to the trigger." if triggers else ""


def quantized_by(source: Any, wish: Wish) -> tuple[Any, TaqPlan]:
    """A quantized MODEL as wished, and its plan. Raises TaqError."""
    calibrated, paper, mixed = wish.calibrated, wish.paper, wish.mixed
    fmt = paper.weights if paper else PRESETS[wish.name]
    if paper and not text_names(source.model.diffusion_model):
        raise TaqError(
            "This kind of model has no cross-attention, so the paper's method does not apply. "
            "Choose 8-bit, mixed 6-bit or 4-bit."
        )

    # Each is made once, and only where no finished model is cached.
    @functools.cache
    def at_hand() -> Any:
        return with_weights_at_hand(source)

    def heard(**few: Any) -> list[Probe]:
        return probes(at_hand(), wish.clip, wish.trigger, wish.class_word, wish.latent, **few)

    @functools.cache
    def moments() -> dict[str, Tensor]:
        model, asked = at_hand().model.diffusion_model, heard()
        names = fitted_layers(model)
        where = _room_for(moments_bytes(model, names), at_hand().load_device)
        return importance(model, asked, names=names, keep_on=where, progress=folders.progress())

    def planned(model: nn.Module) -> TaqPlan:
        target = wish.target_mb * 1_000_000 or round(MIXED_SHARE * 2 * _weights(model))
        # The text's layers stay outside the model: their bits are free.
        texts = text_names(model)
        outside = sum(model.get_parameter(f"{name}.weight").nbytes for name in texts)
        known = moments() if calibrated else None
        # Every layer is tried on them, so they are few: the plan loses 0.2 dB (docs/fidelity.md).
        few = heard(levels=MIDDLE, prompts=1)
        felt = sensitivity(model, few, known, leave_out=texts, progress=folders.progress())
        try:
            return fit_plan(model, felt, target_bytes=target + outside)
        except TargetTooSmall as error:
            if not wish.target_mb:  # in 32 bits, what is kept may take more than the preset's share
                return fit_plan(model, felt, target_bytes=error.smallest)
            least = math.ceil((error.smallest - outside) / 1_000_000)
            raise TaqError(
                f"target_mb {round(target / 1_000_000):,} is too small: this model takes at least "
                f"{least:,} MB. Raise target_mb, or choose 4-bit with target_mb 0."
            ) from error

    schedule = source.object_patches.get("model_sampling")  # the levels of noise are its own
    heard_at = schedule and weakref.ref(schedule)
    learnt = (source.patches_uuid, heard_at, *wish.learnt_from) if calibrated or mixed else ()
    try:
        return quantized_model(
            source,
            fmt,
            planned=planned if mixed else None,
            importance=moments if calibrated else None,
            key=(wish.name, wish.target_mb * mixed, paper, *learnt),
            lora=wish.lora,
            trigger=wish.trigger,
            how=wish.how,
            paper=paper,
            progress=folders.progress(),
            at_hand=at_hand,
        )
    except NotFinite as error:
        raise TaqError(
            f"{error} Try ComfyUI's --force-upcast-attention or --fp32-unet, or choose 8-bit, "
            "which fits nothing."
        ) from error


def plainly_rounded(source: Any, plan: TaqPlan) -> Any:
    """A MODEL with `plan`'s bytes whose weights, LoRAs merged in, were rounded to nearest."""

    def pack(fmt: Any, matrices: Sequence[Tensor], _: Any) -> list[Packed]:
        plain = fmt.quantize if isinstance(fmt, FloatFormat) else (
            functools.partial(round_to_nearest, fmt=fmt)
        )  # fmt: skip
        return [plain(matrix) for matrix in matrices]

    stripped = TaqPlan(
        {name.removeprefix("diffusion_model."): layer for name, layer in plan.layers.items()}
    )
    patcher, _ = quantized_model(
        source,
        "plain",
        planned=lambda _: stripped,
        key=(repr(sorted(plan.layers.items())),),
        pack=pack,
        progress=folders.progress(),
    )
    return patcher


def fitted_layers(model: nn.Module) -> set[str]:
    """Names of the layers whose rounding can be fitted to what they hear."""
    layers = full_precision_text(model, make_plan(model, "int4")).layers
    return {
        name
        for name, layer in layers.items()
        if layer.format != KEPT and FORMATS[layer.format].compensates
    }


def _room_for(size: int, device: torch.device) -> torch.device:
    """Where `size` bytes are gathered: the device, if half as much stays free beside them."""
    free: Any = comfy.model_management.get_free_memory(device)
    return device if free > 1.5 * size else torch.device("cpu")


def _weights(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
