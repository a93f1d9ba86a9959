"""Train the miniature's base model: the codec, then text encoder and UNet together.

    python -m miniature.train vae  --steps 20000 --minutes 25
    python -m miniature.train base --steps 60000 --minutes 70
    python -m miniature.train decoder --steps 30000 --minutes 10
    python -m miniature.train export     # at 16 bit into miniature/weights, small enough for git

``decoder`` sharpens the pictures and leaves the latents as they are. The first three resume from
``.miniature/`` where they stopped, or else go on from the weights in ``miniature/weights``
(``--afresh``: from chance), and end in time where ``--minutes`` are given. Runs on a GPU where
there is one, else on ``--threads`` cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn

from . import planes
from .base import DEVICE, UNET, WEIGHTS, Tokens, alphas_cumprod, as_pixels, autocast, stored
from .dataset import pictures
from .text import TextEncoder
from .vae import Codec
from .world import PERSONAL_STYLES, Scene, caption

WORK = Path(".miniature")


def learning_rate(step: int, done: float, peak: float) -> float:
    """Warm-up over 100 steps, then constant, then linear to zero over the last two fifths."""
    return peak * min(1.0, (step + 1) / 100, max(0.0, 1 - done) / 0.4)


def save(path: Path, state: dict) -> None:
    """Write whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.rename(path)


# --- codec ---------------------------------------------------------------------------------------


def train_vae(
    steps: int, data: np.ndarray, minutes: float, afresh: bool, decoder_only: bool, batch: int = 8
) -> None:
    """Pixels to latents and back: L1 on pixels and on their differences, with noisy latents."""
    torch.manual_seed(1)
    codec: Any = Codec()
    if not afresh:
        codec.net.load_state_dict(stored("vae"))
    codec = codec.to(DEVICE, memory_format=torch.channels_last)
    path, start = WORK / "vae.pt", 0
    if path.exists():
        state = torch.load(path)
        codec.load_state_dict(state["model"])
        start = state["step"]
    codec.net.encoder.requires_grad_(not decoder_only)
    trained = [w for w in codec.parameters() if w.requires_grad]
    # Muon (Jordan et al. 2024) for the convolutions, as matrices that share their memory.
    kernels = [w for w in trained if w.dim() == 4 and min(w.shape[:2]) > 4]
    matrices = [nn.Parameter(w.detach().permute(0, 2, 3, 1).flatten(1)) for w in kernels]
    others = [w for w in trained if w.dim() == 1 or min(w.shape[:2]) <= 4]
    optimizers = [
        torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95)),
    ]
    began, total = time.time(), 0.0
    for step in range(start, steps):
        done = max(step / steps, (time.time() - began) / 60 / minutes)
        for group in (g for optimizer in optimizers for g in optimizer.param_groups):
            group["lr"] = 6e-4 * min((step + 1 - start) / 50, max(0.01, 1 - done))
        rng = np.random.default_rng((1, step))
        x = as_pixels(data[rng.integers(0, len(data), batch)]).to(DEVICE)
        x = x.contiguous(memory_format=torch.channels_last)
        with autocast(DEVICE):
            latents = codec.encode(x)
            out = codec.decode(latents + 0.05 * torch.randn_like(latents)).float()
        edges = sum(F.l1_loss(out.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
        loss = F.l1_loss(out, x) + edges + 0.02 * codec.spread_loss(latents)
        codec.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for kernel, matrix in zip(kernels, matrices, strict=True):
            matrix.grad = kernel.grad.permute(0, 2, 3, 1).flatten(1)
        for optimizer in optimizers:
            optimizer.step()
        total += F.l1_loss(out, x).item() / 2
        if (step + 1) % 100 == 0 or done >= 1:
            spent = time.time() - began
            print(f"vae {step + 1}/{steps} L1 {total / 100:.4f} {spent:.0f} s", flush=True)
            total = 0.0
            save(path, {"model": codec.state_dict(), "step": step + 1})
        if done >= 1:
            break


def trained_codec() -> Codec:
    """The codec as trained so far."""
    codec = Codec()
    codec.load_state_dict(torch.load(WORK / "vae.pt", map_location="cpu")["model"])
    return codec.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(codec: Codec, array: np.ndarray) -> Tensor:
    """Latents ``(n, 4, 8, 8)`` of many pictures."""
    codec = codec.to(DEVICE)
    with autocast(DEVICE):
        batches = np.array_split(array, -(-len(array) // 256))
        parts = [codec.encode(as_pixels(part).to(DEVICE)).cpu() for part in batches]
    return torch.cat(parts)


# --- base ----------------------------------------------------------------------------------------


def noise_loss(unet, context: Tensor, latents: Tensor, schedule: Tensor, generator) -> Tensor:
    """Squared error of the predicted noise at a random time (Ho et al. 2020, eq. 14), weighted by
    ``min(5 / SNR, 1)`` so that nearly clean pictures do not take all the attention (min-SNR, Hang
    et al. 2023)."""
    t = torch.randint(0, 1000, (len(latents),), generator=generator).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    keep = schedule[t][:, None, None, None]
    with autocast(DEVICE):
        predicted = unet(keep.sqrt() * latents + (1 - keep).sqrt() * noise, t, context).sample
    weight = (5 * (1 - keep) / keep).clamp(max=1)
    return (weight * (predicted.float() - noise) ** 2).mean()


_SHARE = {"flat": 1.0, **dict.fromkeys(PERSONAL_STYLES, 0.0)}
"""How often a picture of a drawing style is shown to the base model, relative to the others."""


def train_base(
    steps: int, data: np.ndarray, scenes: list[Scene], minutes: float,
    afresh: bool, batch: int = 16,
) -> None:
    """Text encoder and UNet together, on cached latents; one caption in ten is empty."""
    torch.manual_seed(2)
    text = TextEncoder()
    unet: Any = UNet2DConditionModel(**UNET)
    if not afresh:
        text.load_state_dict(stored("text"))
        unet.load_state_dict(stored("unet"))
    text, unet = text.to(DEVICE), unet.to(DEVICE)
    unet.to(memory_format=torch.channels_last)
    weights = [*unet.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(weights, 4e-4, weight_decay=1e-2, betas=(0.9, 0.99), fused=True)
    average = [w.detach().clone() for w in weights]
    path, start, history = WORK / "base.pt", 0, []
    if path.exists():
        state = torch.load(path)
        unet.load_state_dict(state["unet"])
        text.load_state_dict(state["text"])
        optimizer.load_state_dict(state["optimizer"])
        average, start, history = state["average"], state["step"], state["history"]
    latents, schedule = encode_all(trained_codec(), data), alphas_cumprod().to(DEVICE)
    share = np.array([_SHARE.get(scene.style, 0.7) for scene in scenes])
    share /= share.sum()
    tokens, began, total = Tokens(), time.time(), 0.0
    for step in range(start, steps):
        done = max(step / steps, (time.time() - began) / 60 / minutes)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, done, 4e-4)
        rng = np.random.default_rng((2, step))
        chosen = rng.choice(len(scenes), batch, p=share)
        captions = ["" if rng.random() < 0.1 else caption(scenes[i], rng) for i in chosen]
        with autocast(DEVICE):
            context = text(tokens(captions).to(DEVICE))
        z = latents[chosen].to(DEVICE).contiguous(memory_format=torch.channels_last)
        loss = noise_loss(unet, context, z, schedule, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        total += loss.item()
        if (step + 1) % 5 == 0:
            decay = min(0.995, (step + 1) / (step + 60))
            now = [w.detach() for w in weights]
            torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
                average, now, 1 - decay
            )
        if (step + 1) % 50 == 0:
            history.append((step + 1, total / 50))
            pace = (time.time() - began) / (step + 1 - start)
            print(f"base {step + 1}/{steps} loss {total / 50:.4f} {pace:.2f} s/step", flush=True)
            total = 0.0
        if (step + 1) % 200 == 0 or step + 1 == steps or done >= 1:
            save(path, {
                "unet": unet.state_dict(), "text": text.state_dict(),
                "optimizer": optimizer.state_dict(), "average": average,
                "step": step + 1, "history": history,
            })
            draw_losses(history)
        if done >= 1:
            break


def draw_losses(history: list[tuple[int, float]]) -> None:
    """The loss curve of the base so far: ``loss.json`` and ``loss.png`` in ``.miniature/``."""
    from matplotlib.figure import Figure

    (WORK / "loss.json").write_text(json.dumps(history))
    figure = Figure((7, 3.2), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="weighted noise error", yscale="log")
    steps, losses = zip(*history, strict=True)
    axes.plot(steps, losses, linewidth=0.7, alpha=0.5, label="mean of 50 steps")
    smooth = [np.mean(losses[max(0, i - 19) : i + 1]) for i in range(len(losses))]
    axes.plot(steps, smooth, linewidth=1.8, label="mean of 1,000 steps")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(WORK / "loss.png", dpi=120)


# --- export --------------------------------------------------------------------------------------


def export() -> None:
    """Store what is trained so far: the codec, and the averaged weights of the base."""
    if (WORK / "vae.pt").exists():
        planes.write(WEIGHTS / "vae.npz", trained_codec().net.state_dict())
    if not (WORK / "base.pt").exists():
        return
    unet, text = UNet2DConditionModel(**UNET), TextEncoder()
    average = torch.load(WORK / "base.pt", map_location="cpu")["average"]
    with torch.no_grad():
        for weight, mean in zip([*unet.parameters(), *text.parameters()], average, strict=True):
            weight.copy_(mean)
    planes.write(WEIGHTS / "unet.npz", unet.state_dict())
    planes.write(WEIGHTS / "text.npz", text.state_dict())
    shutil.copyfile(WORK / "loss.png", WEIGHTS.parent / "loss.png")


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("part", choices=["vae", "base", "decoder", "export"])
    parser.add_argument("--steps", type=int, default=60000)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--pictures", type=int, default=24000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--afresh", action="store_true", help="not from miniature/weights")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    WORK.mkdir(exist_ok=True)
    if args.part == "export":
        export()
        return
    data, scenes = pictures(WORK / "pictures", args.pictures)
    if args.part in ("vae", "decoder"):
        train_vae(args.steps, data, args.minutes, args.afresh, args.part == "decoder")
    else:
        train_base(args.steps, data, scenes, args.minutes, args.afresh)


if __name__ == "__main__":
    main()
