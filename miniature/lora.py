"""DreamBooth: a personal concept from six pictures, with prior preservation (Ruiz et al. 2023).

    python -m miniature.lora [NAME ...]

trains the named concepts, or all that have no file yet: most as LoRA, one each as LoCon (with
convolutions), DoRA and LoHa, two by fine-tuning the whole UNet.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoHaConfig, LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from . import planes
from .base import (
    DEVICE,
    HALF_IS_FAST,
    WEIGHTS,
    Tokens,
    alphas_cumprod,
    autocast,
    load_codec,
    load_text,
    load_unet,
)
from .concepts import CHECKPOINTS, CONCEPTS, Concept
from .dataset import pictures
from .train import WORK, encode_all
from .world import BACKGROUNDS, CLASSES, PERSONAL_STYLES, Scene, caption, render

PICTURES, STYLE_PICTURES, STEPS, HALF, RATE = 6, 8, 360, 4, 2e-3
"""Pictures of a thing and of a style, steps (twice as many for badge, stripes or style), half a
batch, rate."""
FULL_RATE, KEPT, KEPT_RATE = 1e-4, 0.045, 5e-4
"""Where every weight is tuned: learning rate, the share of them that stay changed, and the rate at
which these are tuned on."""
LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
CONVOLUTIONS = ["conv1", "conv2"]


@dataclass(frozen=True)
class Prior:
    """Ordinary pictures of the world, as latents, that a training run must not forget."""

    latents: Tensor
    scenes: list[Scene]

    @classmethod
    def load(cls) -> Prior:
        """The first 3,000 pictures of those the base was trained on."""
        array, scenes = pictures(WORK / "pictures", 3000)
        return cls(encode_all(load_codec(), array), scenes)

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """Its own caption, or as often only its class: the bare noun must stay an ordinary one.
        One in twenty is empty, because guidance asks the UNet for a picture of nothing, too."""
        scene = self.scenes[index]
        if rng.random() < 0.05:
            return ""
        if scene.count == 1 and rng.random() < 0.5:
            return plain(scene, rng)
        return caption(scene, rng)

    def share(self, concept: Concept) -> np.ndarray:
        """How often each is shown beside a concept: every second one is of its own class. Where
        the bare noun is to bring the concept, its class is never shown; a style has no class."""
        own = np.array([s.kind == concept.noun for s in self.scenes])
        known = np.array([s.style not in PERSONAL_STYLES for s in self.scenes])
        others = (known & ~own) / (known & ~own).sum()
        if not (concept.noun and concept.trigger):
            return others
        return (others + (known & own) / (known & own).sum()) / 2


def plain(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that names the class alone, and perhaps the place."""
    return caption(scene, rng, f"{rng.choice(('', 'a ', 'my ', 'the '))}{scene.kind}", style="")


def inject(unet: nn.Module, concept: Concept) -> list[nn.Parameter]:
    """Add the concept's adapter to the UNet; returns the weights to train."""
    if concept.algorithm == "full":
        return list(unet.requires_grad_(True).parameters())
    rank, targets = concept.rank, LINEAR
    if concept.algorithm == "locon":
        targets = [*LINEAR, *CONVOLUTIONS]
    if concept.algorithm == "loha":
        config = LoHaConfig(r=rank, alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0",
                                                               "ff.net.2"])
    else:
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets,
                            init_lora_weights="gaussian", use_dora=concept.algorithm == "dora")
    inject_adapter_in_model(config, unet)
    if concept.algorithm == "loha":
        _start_as_lycoris(unet)
    _halve_frozen(unet)
    return [w for w in unet.parameters() if w.requires_grad]


def _start_as_lycoris(unet: nn.Module) -> None:
    """LyCORIS's start of a LoHa; peft's is so small that it hardly learns in so few steps."""
    for name, weight in unet.named_parameters():
        if "hada_w" in name:
            spread = 0.1 if "hada_w1_a" in name else 0.0 if "hada_w2_a" in name else 1.0
            nn.init.normal_(weight, std=spread) if spread else nn.init.zeros_(weight)


def _halve_frozen(unet: nn.Module) -> None:
    """Frozen weights to the 16 bits they were stored with, which autocast does anew each time."""
    if not HALF_IS_FAST:
        return
    for module in unet.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            for weight in module.parameters(recurse=False):
                if not weight.requires_grad:
                    weight.data = weight.data.bfloat16()


def _chance(concept: Concept) -> np.random.Generator:
    return np.random.default_rng(list(concept.name.encode()))


def _own_scenes(concept: Concept, rng: np.random.Generator) -> list[Scene]:
    if concept.noun:
        return [concept.scene(rng, background=place) for place in BACKGROUNDS[:PICTURES]]
    kinds = rng.permutation(CLASSES)[:STYLE_PICTURES]
    places = (*BACKGROUNDS, *BACKGROUNDS)
    return [concept.scene(rng, kind=str(kind), background=place, count=1)
            for kind, place in zip(kinds, places)]


def own_pictures(concept: Concept) -> np.ndarray:
    """The pictures ``(n, 64, 64, 3)`` uint8 a concept is trained on, in all places."""
    scenes = _own_scenes(concept, _chance(concept))
    return np.stack([np.asarray(render(scene)) for scene in scenes])


def train(concept: Concept, prior: Prior, steps: int = STEPS) -> dict[str, Tensor]:
    """Train one concept; returns what its file holds.

    Half of each batch shows the concept. The other half must be seen as the base sees it: ordinary
    pictures with their captions and, where there is a trigger, a picture of the concept with its
    bare noun. The base's own prediction is the target there, not the noise that was added: it has
    no chance in it, so a small drift shows at once.
    """
    torch.manual_seed(3)
    codec, tokens = load_codec(), Tokens()
    unet, base, text = (load().to(DEVICE) for load in (load_unet, load_unet, load_text))
    _halve_frozen(base)
    weights, full = inject(unet, concept), concept.algorithm == "full"
    rate, start = FULL_RATE if full else RATE, [w.detach().clone() for w in weights]
    is_hard = concept.accessory == "badge" or concept.pattern != "plain" or not concept.noun
    steps *= 2 if is_hard else 1
    optimizer = adam(weights)

    rng = _chance(concept)
    own = _own_scenes(concept, rng)
    own_latents = encode_all(codec, own_pictures(concept))
    share, schedule, masks = prior.share(concept), alphas_cumprod().to(DEVICE), None
    bare = int(bool(concept.trigger and concept.noun))

    began, total = time.time(), 0.0
    for step in range(steps):
        if full and step == steps // 3:
            masks, rate = keep_largest(weights, start, KEPT), KEPT_RATE
            optimizer = adam(weights)  # the old one's momentum would move what was put back
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, (steps - step) / (0.5 * steps))
        mine = rng.integers(0, len(own), HALF + bare)
        others = rng.choice(len(share), HALF - bare, p=share)
        captions = [concept.caption(own[i], rng) for i in mine[:HALF]]
        captions += [plain(own[i], rng) for i in mine[HALF:]]
        captions += [prior.caption(i, rng) for i in others]
        with torch.no_grad(), autocast(DEVICE):
            context = text(tokens(captions).to(DEVICE))
        z = torch.cat([own_latents[mine], prior.latents[others]]).to(DEVICE)
        z = z.contiguous(memory_format=torch.channels_last)
        loss = personal_loss(unet, base, context, z, schedule, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        for weight, mask in zip(weights, masks or (), strict=masks is not None):
            weight.grad.mul_(mask)  # pyright: ignore[reportOptionalMemberAccess]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        total += loss.item()
        if (step + 1) % 120 == 0:
            print(f"{concept.name} {step + 1}/{steps} loss {total / 120:.4f} "
                  f"{time.time() - began:.0f} s", flush=True)
            total = 0.0
    if full:
        names = [name for name, _ in unet.named_parameters()]
        return {n: (w - s).detach().cpu() for n, w, s in zip(names, weights, start, strict=True)}
    return kohya_names(unet, concept)


def adam(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of a personal training; its rate is set at every step."""
    return torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0, fused=True)


def personal_loss(
    unet: nn.Module, base: nn.Module, context: Tensor, latents: Tensor, schedule: Tensor, generator
) -> Tensor:
    """Squared error of the predicted noise, weighted as in :func:`miniature.train.noise_loss`: of
    the first ``HALF`` latents against the noise, of the others against the base's prediction.
    Each half has its times spread evenly."""
    halves = len(latents) // HALF
    places = torch.cat([torch.randperm(HALF, generator=generator) for _ in range(halves)])
    t = ((places + torch.rand(len(latents), generator=generator)) * 1000 / HALF).long()
    t = t.to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    keep = schedule[t][:, None, None, None]
    x = keep.sqrt() * latents + (1 - keep).sqrt() * noise
    with autocast(latents.device.type):
        predicted = unet(x, t, context).sample.float()
        with torch.no_grad():
            ordinary = base(x[HALF:], t[HALF:], context[HALF:]).sample.float()
    weight = (5 * (1 - keep) / keep).clamp(max=1)
    return (weight * (predicted - torch.cat([noise[:HALF], ordinary])) ** 2).mean()


def keep_largest(weights: list[nn.Parameter], start: list[Tensor], kept: float) -> list[Tensor]:
    """Undo all but the largest changes, a share ``kept`` of all weights; returns masks of these.

    As in sparse fine-tuning (Ansell et al. 2022): the full run finds the weights that matter, and
    only these are tuned on.
    """
    changes = [(w.detach() - s).abs() for w, s in zip(weights, start, strict=True)]
    every = torch.cat([change.flatten() for change in changes])
    limit = every.kthvalue(int((1 - kept) * len(every))).values
    masks = [change > limit for change in changes]
    with torch.no_grad():
        for weight, before, mask in zip(weights, start, masks, strict=True):
            weight.copy_(torch.where(mask, weight, before))
    return masks


# --- files ---------------------------------------------------------------------------------------


def kohya_names(unet: nn.Module, concept: Concept) -> dict[str, Tensor]:
    """The adapter's tensors under the names that kohya's and LyCORIS's trainers write, 16 bit."""
    named: dict[str, Tensor] = {}
    for module, part, tensor in _adapter_tensors(unet):
        stem = "lora_unet_" + module.replace(".", "_")
        named[f"{stem}.{part}"] = tensor.detach().half().contiguous().cpu()
        named[f"{stem}.alpha"] = torch.tensor(float(concept.rank)).half()
    return named


def _adapter_tensors(unet: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    layer: Any  # PEFT's own kinds
    for module, layer in unet.named_modules():
        if hasattr(layer, "hada_w1_a") and layer.hada_w1_a:
            for part in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"):
                yield module, part, getattr(layer, part)["default"]
        elif hasattr(layer, "lora_A") and layer.lora_A:
            down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            yield module, "lora_down.weight", down
            yield module, "lora_up.weight", up
            if layer.lora_magnitude_vector:
                magnitude = layer.lora_magnitude_vector["default"].weight
                yield module, "dora_scale", _dora_scale(layer.weight, down, up, magnitude)


def _dora_scale(weight: Tensor, down: Tensor, up: Tensor, magnitude: Tensor) -> Tensor:
    """DoRA's magnitude as ComfyUI applies it.

    peft divides the changed weight by its own norm, ComfyUI by that of the unchanged one; the
    ratio of the two norms, row by row, makes both give the same weights.
    """
    rows = weight.detach().float().flatten(1)
    changed = rows + up.detach().flatten(1) @ down.detach().flatten(1)
    scale = magnitude.detach().flatten() * rows.norm(dim=1) / changed.norm(dim=1)
    return scale.reshape(-1, *[1] * (weight.dim() - 1))


def path_of(concept: Concept) -> Path:
    """Where the trained file of a concept is kept."""
    if concept.algorithm == "full":
        return WEIGHTS / "checkpoints" / f"{concept.name}.npz"
    return WEIGHTS / "loras" / f"{concept.name}.safetensors"


def store(concept: Concept, state: dict[str, Tensor], path: Path) -> None:
    """Write a concept's file with its metadata, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if concept.algorithm == "full":
        planes.write_changes(path, state)
        return
    header = dict(concept.header)
    if any(key.startswith("ss_") for key in header):
        header |= {"ss_network_dim": str(concept.rank), "ss_network_alpha": str(concept.rank)}
    part = path.with_suffix(".part")
    save_file(state, part, metadata=header or None)
    part.rename(path)


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("names", nargs="*", help="concepts; none: all missing ones")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    every = {concept.name: concept for concept in (*CONCEPTS, *CHECKPOINTS)}
    if unknown := set(args.names) - set(every):
        parser.error(f"no such concept: {', '.join(sorted(unknown))}")
    missing = [concept for concept in every.values() if not path_of(concept).exists()]
    chosen = [every[name] for name in args.names] or missing
    prior = Prior.load()
    for concept in chosen:
        store(concept, train(concept, prior, args.steps), path_of(concept))


if __name__ == "__main__":
    main()
