"""DreamBooth: a personal concept from six pictures, with prior preservation (Ruiz et al. 2023).

    python -m miniature.lora [NAME ...]

trains the named concepts, or all that have no file yet: most as LoRA, one each as LoCon (with
convolutions), DoRA and LoHa, two by fine-tuning the cross-attention's own weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoHaConfig, LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from . import planes
from .base import WEIGHTS, Tokens, alphas_cumprod, load_codec, load_text, load_unet
from .concepts import CHECKPOINTS, CONCEPTS, Concept
from .dataset import pictures
from .train import WORK, autocast, encode_all, noise_loss
from .world import BACKGROUNDS, PERSONAL_STYLES, Scene, caption, render

PICTURES, STEPS, BATCH, RATE = 6, 320, 8, 2e-3
LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
CONVOLUTIONS = ["conv1", "conv2"]


@dataclass(frozen=True)
class Prior:
    """Ordinary pictures of the world, as latents, that a training run must not forget."""

    latents: Tensor
    scenes: list[Scene]

    def caption(self, index: int, rng: np.random.Generator) -> str:
        """Its own caption, or as often only its class: the bare noun must stay an ordinary one."""
        scene = self.scenes[index]
        if scene.count == 1 and rng.random() < 0.5:
            return caption(scene, rng, f"{rng.choice(('', 'a ', 'my '))}{scene.kind}")
        return caption(scene, rng)

    def share(self, concept: Concept) -> np.ndarray:
        """How often each is shown beside a concept: its own class three times as often, or, where
        the bare noun is to bring the concept, never."""
        own = 3.0 if concept.trigger else 0.0
        share = np.array([
            0.0 if s.style in PERSONAL_STYLES else own if s.kind == concept.noun else 1.0
            for s in self.scenes
        ])
        return share / share.sum()


def inject(unet: nn.Module, concept: Concept) -> list[nn.Parameter]:
    """Add the concept's adapter to the UNet; returns the weights to train."""
    if concept.algorithm == "full":
        chosen = [w for name, w in unet.named_parameters() if ".attn2.to_" in name]
        for weight in chosen:
            weight.requires_grad_(True)
        return chosen
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
    return [w for w in unet.parameters() if w.requires_grad]


def train(concept: Concept, prior: Prior, steps: int = STEPS) -> dict[str, Tensor]:
    """Train one concept; returns what its file holds.

    Half of each batch shows the concept, half anything else with its own caption.
    """
    torch.manual_seed(3)
    unet, text, codec, tokens = load_unet(), load_text(), load_codec(), Tokens()
    base = {name: w.clone() for name, w in unet.state_dict().items() if ".attn2.to_" in name}
    weights, rate = inject(unet, concept), RATE if concept.algorithm != "full" else 2e-4
    optimizer = torch.optim.AdamW(weights, rate, weight_decay=1e-3, fused=True)

    rng = np.random.default_rng(list(concept.name.encode()))
    own = [concept.scene(rng, background=place) for place in BACKGROUNDS[:PICTURES]]
    own_latents = encode_all(codec, np.stack([np.asarray(render(scene)) for scene in own]))
    share, schedule = prior.share(concept), alphas_cumprod()

    began, total = time.time(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, (steps - step) / (0.5 * steps))
        mine = rng.integers(0, PICTURES, BATCH // 2)
        others = rng.choice(len(share), BATCH // 2, p=share)
        captions = [concept.caption(own[i], rng) for i in mine]
        captions += [prior.caption(i, rng) for i in others]
        with torch.no_grad(), autocast():
            context = text(tokens(captions))
        z = torch.cat([own_latents[mine], prior.latents[others]])
        z = z.contiguous(memory_format=torch.channels_last)
        loss = noise_loss(unet, context, z, schedule, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        total += loss.item()
        if (step + 1) % 160 == 0:
            print(f"{concept.name} {step + 1}/{steps} loss {total / 160:.4f} "
                  f"{time.time() - began:.0f} s", flush=True)
            total = 0.0
    if concept.algorithm == "full":
        state = unet.state_dict()
        return {name: state[name] - before for name, before in base.items()}
    return kohya_names(unet, concept)


# --- files ---------------------------------------------------------------------------------------


def kohya_names(unet: nn.Module, concept: Concept) -> dict[str, Tensor]:
    """The adapter's tensors under the names that kohya's and LyCORIS's trainers write, 16 bit."""
    named: dict[str, Tensor] = {}
    for module, part, tensor in _adapter_tensors(unet):
        stem = "lora_unet_" + module.replace(".", "_")
        named[f"{stem}.{part}"] = tensor.detach().half().contiguous()
        named[f"{stem}.alpha"] = torch.tensor(float(concept.rank)).half()
    return named


def _adapter_tensors(unet: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
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
    rows = weight.detach().flatten(1)
    changed = rows + up.detach().flatten(1) @ down.detach().flatten(1)
    scale = magnitude.detach().flatten() * rows.norm(dim=1) / changed.norm(dim=1)
    return scale.reshape(-1, *[1] * (weight.dim() - 1))


def path_of(concept: Concept) -> Path:
    """Where the trained file of a concept is kept."""
    if concept.algorithm == "full":
        return WEIGHTS / "checkpoints" / f"{concept.name}.npz"
    return WEIGHTS / "loras" / f"{concept.name}.safetensors"


def store(concept: Concept, state: dict[str, Tensor]) -> None:
    """Write a concept's file with its metadata, whole or not at all."""
    path = path_of(concept)
    path.parent.mkdir(parents=True, exist_ok=True)
    if concept.algorithm == "full":
        planes.write(path, state)
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
    array, scenes = pictures(WORK / "pictures", 3000)
    prior = Prior(encode_all(load_codec(), array), scenes)
    for concept in chosen:
        store(concept, train(concept, prior, args.steps))


if __name__ == "__main__":
    main()
