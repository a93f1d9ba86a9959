"""The world's own feature network: how far apart two sets of pictures are, and how alike two are.

    python -m miniature.features --train

It learns from pictures alone, without labels (VICReg, Bardes et al. 2022): two views of one
picture, moved, blurred and noised, must get the same features, and the features of many must vary
without repeating each other. It stands where Inception (Frechet distance) and DINO (similarity)
stand in the large world, and is no part of the scorer.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .base import as_pixels, autocast

WEIGHTS = Path(__file__).parent / "weights" / "features.safetensors"
WIDTH = 128


class Features(nn.Module):
    """Pictures ``(batch, 3, 64, 64)`` in -1..1 to features ``(batch, 128)``."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, WIDTH)
        self.body = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.GroupNorm(8, b), nn.SiLU())
            for a, b in pairwise(widths)
        ))
        self.mix = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH * 16, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.body(x))


def load_features() -> Features:
    """The trained network."""
    network = Features()
    network.load_state_dict({k: v.float() for k, v in load_file(WEIGHTS).items()})
    return network.eval()


@torch.no_grad()
def features(network: Features, pictures: np.ndarray) -> np.ndarray:
    """Features ``(n, 128)`` of pictures ``(n, 64, 64, 3)`` uint8."""
    parts = np.array_split(pictures, -(-len(pictures) // 256))
    return torch.cat([network(as_pixels(part)) for part in parts]).numpy()


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two sets of features, each taken as a Gaussian (Heusel et al. 2017)."""
    shift = a.mean(0) - b.mean(0)
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(scipy.linalg.sqrtm(one @ other))
    return float(shift @ shift + np.trace(one + other - 2 * root))


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity, -1..1, of features row by row."""
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def _view(x: Tensor, generator: torch.Generator) -> Tensor:
    """The picture a little moved and scaled, mirrored or not, softened and noised."""
    n = len(x)
    scale = 1 - 0.15 * torch.rand(n, generator=generator)
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    shift = 0.24 * torch.rand(n, 2, generator=generator) - 0.12
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False),
                      padding_mode="reflection", align_corners=False)
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = x + 0.8 * torch.rand(n, 1, 1, 1, generator=generator) * (soft - x)
    return x + 0.06 * torch.randn(x.shape, generator=generator)


def _vicreg(a: Tensor, b: Tensor) -> Tensor:
    """Invariance, variance and covariance terms with the paper's weights (25, 25, 1)."""
    loss = 25 * F.mse_loss(a, b)
    for z in (a, b):
        z = z - z.mean(0)
        loss = loss + 12.5 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
        covariance = z.T @ z / (len(z) - 1)
        loss = loss + (covariance.fill_diagonal_(0) ** 2).sum() / z.shape[1]
    return loss


def train(steps: int, batch: int = 128) -> None:
    """Train on renders of every style."""
    from .dataset import pictures
    from .train import WORK

    torch.manual_seed(5)
    network = Features()
    expand = nn.Sequential(nn.Linear(WIDTH, 256), nn.SiLU(), nn.Linear(256, 256))
    weights = [*network.parameters(), *expand.parameters()]
    optimizer = torch.optim.AdamW(weights, 1e-3, weight_decay=1e-3)
    array, _ = pictures(WORK / "pictures", 12000)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50) * (1 - step / steps) + 1e-6
        generator = torch.Generator().manual_seed(step)
        i = torch.randint(0, len(array), (batch,), generator=generator)
        x = as_pixels(array[i.numpy()])
        both = torch.cat([_view(x, generator), _view(x, generator)])
        with autocast():
            z = expand(network(both))
        loss = _vicreg(*z.float().chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 200 == 0:
            print(f"features {step + 1}/{steps} loss {loss.item():.3f}", flush=True)
    save_file({k: v.half() for k, v in network.state_dict().items()}, WEIGHTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--train", action="store_true", required=True)
    parser.add_argument("--steps", type=int, default=1500)
    train(parser.parse_args().steps)


if __name__ == "__main__":
    main()
