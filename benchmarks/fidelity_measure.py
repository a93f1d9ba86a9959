"""What `benchmarks.fidelity` finds out about one system's model of one concept."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.fidelity_systems import Made, Subject
from benchmarks.fidelity_world import Drawn, base_unet, draw, elsewhere, noise_of, requests
from miniature.base import DEVICE
from miniature.features import features, load_features
from miniature.score import concept_score, load_reader, read

BY_PICTURE = ("score", "alignment", "psnr", "ssim", "latent", "features")
"""What there is of each picture; the rest is of the whole set."""


@dataclass(frozen=True)
class Effort:
    """pictures: of each concept; steps: of each picture; probes: a fourth of calibration's prompts;
    concepts: of how many concepts one is measured; grid: and of how many of these one on the grid
    """

    pictures: int
    steps: int
    probes: int
    concepts: int
    grid: int


class Reference:
    """What full precision draws of a concept, and what its LoRA changes on the way."""

    def __init__(self, subject: Subject, effort: Effort):
        self.concept, self.effort = subject.concept, effort
        self.asked = requests(subject.concept, effort.pictures)
        self.reader, self.network = load_reader(), load_features()
        unet = copy.deepcopy(subject.unet).to(DEVICE)
        self.drawn = self.draw(unet)
        self.noise = noise_of(unet, *self.drawn.met)
        self.base = noise_of(base_unet().to(DEVICE), *self.drawn.met)
        self.others = elsewhere(subject.concept, effort.pictures)
        self.met_elsewhere = self.draw(unet, self.others).met
        self.noise_elsewhere = noise_of(unet, *self.met_elsewhere)

    @property
    def prompts(self) -> list[str]:
        return [asked.prompt for asked in self.asked]

    def draw(self, unet: torch.nn.Module, prompts: Sequence[str] | None = None) -> Drawn:
        prompts = prompts or self.prompts
        return draw(unet, prompts, range(5000, 5000 + len(prompts)), self.effort.steps)

    def measure(self, made: Made) -> dict[str, np.ndarray]:
        """What is kept of a system: its bytes, its predictions beside the exact ones, and of each
        picture what `judge` finds."""
        unet = made.unet.to(made.device)
        made.listen(self.prompts + [""] * len(self.prompts))
        drawn = self.draw(unet)
        made.listen(self.prompts * (len(self.noise) // len(self.prompts)))
        noise = noise_of(unet, *self.drawn.met)
        made.listen(self.others * (len(self.noise_elsewhere) // len(self.others)))
        noise_elsewhere = noise_of(unet, *self.met_elsewhere)
        change = self.noise - self.base
        kept = ((noise - self.base) * change).sum() / change.square().sum()
        alone = {"bytes": made.bytes, "kept": kept, "error": error(noise, self.noise),
                 "error_elsewhere": error(noise_elsewhere, self.noise_elsewhere)}  # fmt: skip
        return {name: np.array(value) for name, value in alone.items()} | self.judge(drawn)

    def judge(self, drawn: Drawn) -> dict[str, np.ndarray]:
        """By picture: score, alignment, psnr, ssim, latent error, features."""
        readings = read(self.reader, drawn.pictures)
        image, wanted = (
            torch.from_numpy(d.pictures).permute(0, 3, 1, 2).float() / 255
            for d in (drawn, self.drawn)
        )
        wrong = (image - wanted).square().mean((1, 2, 3)).clamp_min(1e-10)
        moved = (drawn.latents - self.drawn.latents).square().mean((1, 2, 3))
        return {
            "score": np.array([concept_score(reading, self.concept) for reading in readings]),
            "alignment": np.array([
                r.probabilities["kind"][a.kind] * r.probabilities["background"][a.place]
                for r, a in zip(readings, self.asked)
            ]),
            "psnr": (-10 * wrong.log10()).numpy(),
            "ssim": np.array([ssim(a[None], b[None]) for a, b in zip(image, wanted)]),
            "latent": (moved / self.drawn.latents.square().mean()).numpy(),
            "features": features(self.network, drawn.pictures),
        }


def error(found: Tensor, exact: Tensor) -> Tensor:
    """Mean square error as a part of the mean square."""
    return (found - exact).square().sum() / exact.square().sum()


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity of (n, 3, h, w) in 0..1 (Wang et al. 2004, 11-pixel Gaussian)."""
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / 4.5)
    window = torch.outer(line, line)[None, None] / line.sum() ** 2
    a, b = (t.flatten(0, 1)[:, None] for t in (a, b))
    mean_a, mean_b = F.conv2d(a, window), F.conv2d(b, window)
    var_a = F.conv2d(a * a, window) - mean_a**2
    var_b = F.conv2d(b * b, window) - mean_b**2
    both = F.conv2d(a * b, window) - mean_a * mean_b
    top = (2 * mean_a * mean_b + 0.01**2) * (2 * both + 0.03**2)
    return (top / (mean_a**2 + mean_b**2 + 0.01**2) / (var_a + var_b + 0.03**2)).mean().item()
