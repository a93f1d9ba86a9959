"""A thing and a style at once, at 4 bits: what fitting to all triggers is worth.

    python -m benchmarks.fidelity_together [--pairs THING+STYLE ...] [--json OUT]

On the miniature, both LoRAs merged in float32: 4 bits fitted to prompts with the thing's trigger
alone, as TAQ Quantize was told of one only; fitted to prompts with all triggers, as many; fitted to
none; and rounded to nearest. *both*, *thing* and *style*: pictures whose prompts hold both triggers
or one of them. error: mean square error of the predicted noise on the way to the full-precision
picture, as a part of its mean square; dB: PSNR to that picture of the same seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.fidelity import interval
from benchmarks.fidelity_systems import by_matrix, nearest, packed
from benchmarks.fidelity_world import (
    LEVELS,
    PLACES,
    base_unet,
    context,
    draw,
    generic,
    lora,
    noise_of,
    predict_with,
    trained_concepts,
)
from miniature.concepts import Concept
from miniature.sample import sigmas
from miniature.world import CLASSES
from personalq_core.taq import make_plan
from personalq_core.taq.calibrate import Prompts, importance, make_probes
from personalq_core.taq.triggers import in_scenes

PAIRS = (
    "barnaby_v4+midnight_noir", "mittens+festival_poster", "zebra_fish+workshop_blueprint",
    "bolt+grandpas_album",
)  # fmt: skip
SCENES = ("my {}", "my {} standing", "my {} here", "my {} today")
PICTURES, STEPS = 12, 8


class Together:
    """A thing's and a style's LoRA in one model; `unet` as `fidelity_systems` wants it."""

    def __init__(self, thing: Concept, style: Concept):
        self.unet = base_unet()
        weights = dict(self.unet.named_parameters())
        with torch.no_grad():
            for concept in (thing, style):
                for name, change in lora(concept.name).items():
                    weights[f"{name}.weight"].add_(change)
        self.triggers = [f"{thing.trigger} {thing.noun}", f"{style.trigger} style"]
        self.noun = thing.noun

    def asked(self) -> dict[str, list[str]]:
        """Prompts by what they name."""
        thing, style = self.triggers
        places = [*PLACES.values()] * (PICTURES // len(PLACES))
        kinds = [CLASSES[n % len(CLASSES)] for n in range(len(places))]
        return {
            "both": [f"{style} {thing} {place}" for place in places],
            "thing": [f"{thing} {place}" for place in places],
            "style": [f"{style} a {kind} {p}" for kind, p in zip(kinds, places, strict=True)],
        }

    def moments(self, triggers: Sequence[str]) -> dict[str, Tensor]:
        """Of what the layers hear on prompts with some triggers, the class word and neither."""
        texts = {
            "trigger": in_scenes(triggers, SCENES), "class": in_scenes([self.noun], SCENES),
            "generic": generic(2 * len(SCENES)),
        }  # fmt: skip
        falling = sigmas(1000)[1]
        levels = [float(falling[round((1 - part) * 999)]) for part in LEVELS]
        contexts = {role: torch.cat([*map(context, some)]) for role, some in texts.items() if some}
        batches = [
            Prompts(role, range(len(texts[role])), predict_with(self.unet, heard))
            for role, heard in contexts.items()
        ]
        return importance(self.unet, make_probes(batches, (4, 8, 8), levels, seed=7000))


def systems(pair: Together) -> dict[str, nn.Module]:
    """Name -> the model with the weights that its codes stand for."""
    plan = make_plan(pair.unet, "int4")

    def fitted(*triggers: str) -> nn.Module:
        return packed(pair, plan, pair.moments(triggers)).unet  # pyright: ignore[reportArgumentType]

    return {
        "rounded to nearest": by_matrix(nearest(4, 64))(pair).unet,  # pyright: ignore[reportArgumentType]
        "fitted, no trigger": fitted(),
        "fitted, the thing's": fitted(pair.triggers[0]),
        "fitted, all triggers": fitted(*pair.triggers),
    }


def measured(pair: Together) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """System -> what prompts name -> (dB, error), a number a picture."""
    asked, seeds = pair.asked(), range(5000, 5000 + PICTURES)
    full = {name: draw(pair.unet, prompts, seeds, STEPS) for name, prompts in asked.items()}
    exact = {name: noise_of(pair.unet, *drawn.met) for name, drawn in full.items()}
    found: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for system, unet in systems(pair).items():
        found[system] = {}
        for name, prompts in asked.items():
            pictures = draw(unet, prompts, seeds, STEPS).pictures
            wrong = (pictures / 255 - full[name].pictures / 255) ** 2
            noise = noise_of(unet, *full[name].met)
            off = (noise - exact[name]).square().mean((1, 2, 3)) / exact[name].square().mean()
            found[system][name] = (
                -10 * np.log10(wrong.mean((1, 2, 3)).clip(1e-10)),
                off.view(-1, PICTURES).mean(0).numpy(),
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--pairs", nargs="+", default=PAIRS, metavar="THING+STYLE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    known = {concept.name: concept for concept in trained_concepts()}
    rows = []
    every: dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = {}
    for names in options.pairs:
        pair = Together(*(known[name] for name in names.split("+")))
        for system, by_name in measured(pair).items():
            for name, pair_of in by_name.items():
                every.setdefault(system, {}).setdefault(name, []).append(pair_of)
                rows.append({"pair": names, "system": system, "prompts": name,
                             "psnr_db": round(float(pair_of[0].mean()), 2),
                             "error": float(pair_of[1].mean())})  # fmt: skip
            told = (f"{n} {d.mean():.2f} dB {e.mean():.2e}" for n, (d, e) in by_name.items())
            print(f"{names:32}{system:24}" + " | ".join(told), flush=True)
    print()
    for name in ("both", "thing", "style"):
        of = {s: [np.concatenate(part) for part in zip(*by[name])] for s, by in every.items()}
        ours, one = of["fitted, all triggers"], of["fitted, the thing's"]
        decibels, errors = ours[0] - one[0], np.log(ours[1] / one[1])
        print(
            f"{name}: all triggers against the thing's alone: {decibels.mean():+.2f} dB "
            f"{interval(decibels)}, error x {np.exp(errors.mean()):.3f} "
            f"{np.exp(interval(errors)).round(3).tolist()}"
        )
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
