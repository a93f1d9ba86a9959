"""Train the miniature's base model: the codec, then text encoder and UNet together.

    python -m miniature.train vae  --steps 20000 --minutes 12
    python -m miniature.train base --steps 60000 --minutes 70

Both resume from ``.miniature/`` where they stopped, or else go on from the weights in
``miniature/weights`` (``--afresh``: from chance), and end in time where ``--minutes`` are given.
Runs on a GPU where there is one, else on ``--threads`` cores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor

from .dataset import pictures
from .text import LENGTH, TextEncoder
from .vae import Codec
from .world import PERSONAL_STYLES, Scene, caption

WORK = Path(".miniature")
WEIGHTS = Path(__file__).parent / "weights"
TOKENIZER = ".comfyui/ComfyUI/comfy/sd1_tokenizer"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
UNET = {
    "sample_size": 8,
    "block_out_channels": (320,),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D",),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("CrossAttnUpBlock2D",),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
"""SD1.5's UNet with one level, one residual block, no attention in the middle: 21 M parameters."""


def alphas_cumprod() -> Tensor:
    """SD1.5's noise schedule: ``scaled_linear`` betas from .00085 to .012 over 1000 steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.cumprod(1 - betas, 0)


def learning_rate(step: int, done: float, peak: float) -> float:
    """Warm-up over 100 steps, then constant, then linear to zero over the last quarter."""
    return peak * min(1.0, (step + 1) / 100, max(0.0, 1 - done) / 0.25)


def autocast():
    """bfloat16 products, 32-bit weights."""
    return torch.autocast(DEVICE, torch.bfloat16)


def save(path: Path, state: dict) -> None:
    """Write whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.rename(path)


def as_pixels(array: np.ndarray) -> Tensor:
    """uint8 pictures ``(n, h, w, 3)`` to ``(n, 3, h, w)`` in -1..1."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def stored(name: str) -> dict[str, Tensor]:
    """The committed weights of ``unet``, ``text`` or ``vae``, as 32-bit numbers."""
    return {key: tensor.float() for key, tensor in load_file(WEIGHTS / f"{name}.safetensors").items()}


# --- codec ---------------------------------------------------------------------------------------


def easy(scene: Scene) -> bool:
    """The part of the world that training may begin with (``--easy``)."""
    kinds = ("bear", "cat", "robot", "mug", "house", "car")
    return scene.style == "flat" and scene.pattern == "plain" and scene.kind in kinds


def training_set(count: int, only_easy: bool) -> tuple[np.ndarray, list[Scene]]:
    """Pictures and scenes to train on."""
    array, scenes = pictures(WORK / "pictures", count)
    chosen = [i for i, scene in enumerate(scenes) if easy(scene) or not only_easy]
    return array[chosen], [scenes[i] for i in chosen]


def train_vae(
    steps: int, data: np.ndarray, minutes: float, afresh: bool, batch: int = 12
) -> None:
    """Pixels to latents and back: L1 on pixels and on their differences, with noisy latents."""
    torch.manual_seed(1)
    codec = Codec()
    if not afresh:
        codec.net.load_state_dict(stored("vae"))
    codec = codec.to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(codec.parameters(), betas=(0.9, 0.95), fused=True)
    path, start = WORK / "vae.pt", 0
    if path.exists():
        state = torch.load(path)
        codec.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    began, total = time.time(), 0.0
    for step in range(start, steps):
        done = max(step / steps, (time.time() - began) / 60 / minutes)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min((step + 1) / 50, max(0.01, 1 - done))
        rng = np.random.default_rng((1, step))
        x = as_pixels(data[rng.integers(0, len(data), batch)]).to(DEVICE)
        x = x.contiguous(memory_format=torch.channels_last)
        with autocast():
            latents = codec.encode(x)
            out = codec.decode(latents + 0.05 * torch.randn_like(latents)).float()
        edges = sum(F.l1_loss(out.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
        loss = F.l1_loss(out, x) + edges + 0.02 * codec.spread_loss(latents)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        total += F.l1_loss(out, x).item() / 2
        if (step + 1) % 100 == 0 or done >= 1:
            spent = time.time() - began
            print(f"vae {step + 1}/{steps} L1 {total / 100:.4f} {spent:.0f} s", flush=True)
            total = 0.0
            state = {"model": codec.state_dict(), "optimizer": optimizer.state_dict()}
            save(path, {**state, "step": step + 1})
        if done >= 1:
            break


def load_codec() -> Codec:
    """The trained codec, ready to encode."""
    codec = Codec()
    codec.load_state_dict(torch.load(WORK / "vae.pt", map_location="cpu")["model"])
    return codec.eval().requires_grad_(False)


@torch.no_grad()
def encode_all(codec: Codec, array: np.ndarray) -> Tensor:
    """Latents ``(n, 4, 8, 8)`` of many pictures."""
    codec = codec.to(DEVICE)
    with autocast():
        batches = np.array_split(array, -(-len(array) // 256))
        parts = [codec.encode(as_pixels(part).to(DEVICE)).cpu() for part in batches]
    return torch.cat(parts)


# --- base ----------------------------------------------------------------------------------------


class Tokens:
    """Captions to token ids ``(batch, 77)`` with the stock CLIP tokenizer."""

    def __init__(self, folder: str) -> None:
        from transformers import CLIPTokenizerFast

        self.tokenizer = CLIPTokenizerFast.from_pretrained(folder)

    def __call__(self, captions: list[str]) -> Tensor:
        # ComfyUI pads SD1.5 prompts with the end token.
        out = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        ends = (out.attention_mask.sum(1, keepdim=True) - 1) < torch.arange(LENGTH)[None]
        return out.input_ids.masked_fill(ends, self.tokenizer.eos_token_id)


def noise_loss(unet, context: Tensor, latents: Tensor, schedule: Tensor, generator) -> Tensor:
    """Squared error of the predicted noise at a random time (Ho et al. 2020, eq. 14), weighted by
    ``min(5 / SNR, 1)`` so that nearly clean pictures do not take all the attention (min-SNR, Hang
    et al. 2023)."""
    t = torch.randint(0, 1000, (len(latents),), generator=generator).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    keep = schedule[t][:, None, None, None]
    with autocast():
        predicted = unet(keep.sqrt() * latents + (1 - keep).sqrt() * noise, t, context).sample
    weight = (5 * (1 - keep) / keep).clamp(max=1)
    return (weight * (predicted.float() - noise) ** 2).mean()


_SHARE = {"flat": 1.0, **dict.fromkeys(PERSONAL_STYLES, 0.0)}
"""How often a picture of a drawing style is shown to the base model, relative to the others."""


def train_base(
    steps: int, data: np.ndarray, scenes: list[Scene], tokenizer: str, minutes: float,
    afresh: bool, batch: int = 16,
) -> None:
    """Text encoder and UNet together, on cached latents; one caption in ten is empty."""
    torch.manual_seed(2)
    text, unet = TextEncoder(), UNet2DConditionModel(**UNET)
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
    latents, schedule = encode_all(load_codec(), data), alphas_cumprod().to(DEVICE)
    share = np.array([_SHARE.get(scene.style, 0.7) for scene in scenes])
    share /= share.sum()
    tokens, began, total = Tokens(tokenizer), time.time(), 0.0
    for step in range(start, steps):
        done = max(step / steps, (time.time() - began) / 60 / minutes)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, done, 4e-4)
        rng = np.random.default_rng((2, step))
        chosen = rng.choice(len(scenes), batch, p=share)
        captions = ["" if rng.random() < 0.1 else caption(scenes[i], rng) for i in chosen]
        with autocast():
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
            torch._foreach_lerp_(average, [w.detach() for w in weights], 1 - decay)
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
    smooth = np.convolve(losses, np.ones(20) / 20, "valid")
    axes.plot(steps[len(steps) - len(smooth):], smooth, linewidth=1.8, label="mean of 1,000 steps")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(WORK / "loss.png", dpi=120)


def load_base() -> tuple[UNet2DConditionModel, TextEncoder]:
    """The averaged weights of the base as trained so far."""
    unet, text = UNet2DConditionModel(**UNET), TextEncoder()
    average = torch.load(WORK / "base.pt", map_location="cpu")["average"]
    with torch.no_grad():
        for weight, mean in zip([*unet.parameters(), *text.parameters()], average, strict=True):
            weight.copy_(mean)
    return unet.eval(), text.eval()


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("part", choices=["vae", "base"])
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--pictures", type=int, default=24000)
    parser.add_argument("--easy", action="store_true", help="only six classes, flat and plain")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--afresh", action="store_true", help="not from miniature/weights")
    parser.add_argument("--tokenizer", default=TOKENIZER)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    WORK.mkdir(exist_ok=True)
    data, scenes = training_set(args.pictures, args.easy)
    if args.part == "vae":
        train_vae(args.steps, data, args.minutes, args.afresh)
    else:
        train_base(args.steps, data, scenes, args.tokenizer, args.minutes, args.afresh)


if __name__ == "__main__":
    main()
