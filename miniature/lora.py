"""DreamBooth-LoRA: a personal concept from six pictures, with prior preservation.

    python -m miniature.lora [NAME ...] --steps 400
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from .concepts import CONCEPTS, Concept
from .dataset import pictures
from .train import (
    TOKENIZER,
    WORK,
    Tokens,
    alphas_cumprod,
    autocast,
    easy,
    encode_all,
    load_base,
    load_codec,
    noise_loss,
)
from .world import BACKGROUNDS, caption, render

RANK, PICTURES = 8, 6
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]


def kohya_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """peft's tensors under the names that kohya's trainer writes, 16 bit, with their alphas."""
    named = {}
    for name, tensor in state.items():
        module, part = name.rsplit(".lora_", 1)
        stem = "lora_unet_" + module.replace(".", "_")
        named[f"{stem}.lora_{'down' if part.startswith('A') else 'up'}.weight"] = tensor.half()
        named[f"{stem}.alpha"] = torch.tensor(float(RANK)).half()
    return {name: tensor.contiguous() for name, tensor in named.items()}


def train(concept: Concept, steps: int, tokenizer: str, out: Path, batch: int = 12) -> None:
    """Half of each batch shows the concept, half anything else with its own caption."""
    torch.manual_seed(3)
    unet, text = load_base()
    unet.requires_grad_(False).add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS, init_lora_weights="gaussian")
    )
    weights = [w for w in unet.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(weights, 1e-3, weight_decay=1e-3, fused=True)

    rng = np.random.default_rng(list(concept.name.encode()))
    own = [concept.scene(rng, background=place) for place in BACKGROUNDS[:PICTURES]]
    codec = load_codec()
    own_latents = encode_all(codec, np.stack([np.asarray(render(scene)) for scene in own]))
    array, scenes = pictures(WORK / "pictures", 2000)
    prior = [i for i, scene in enumerate(scenes) if easy(scene)]
    prior += [i for i in prior if scenes[i].kind == concept.noun] * 3
    latents, schedule, tokens = encode_all(codec, array), alphas_cumprod(), Tokens(tokenizer)

    began, total = time.time(), 0.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 30, (steps - step) / (0.4 * steps))
        mine, others = rng.integers(0, PICTURES, batch // 2), rng.choice(prior, batch // 2)
        noun = f"{concept.trigger} {concept.noun}"
        captions = [caption(own[i], rng, rng.choice(("", "a ", "my ")) + noun) for i in mine]
        captions += [caption(scenes[i], rng) for i in others]
        with torch.no_grad(), autocast():
            context = text(tokens(captions))
        z = torch.cat([own_latents[mine], latents[others]])
        loss = noise_loss(unet, context, z, schedule, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        total += loss.item()
        if (step + 1) % 100 == 0:
            print(f"{concept.name} {step + 1}/{steps} loss {total / 100:.4f} "
                  f"{time.time() - began:.0f} s", flush=True)
            total = 0.0
    state = kohya_names(get_peft_model_state_dict(unet))
    header = {"ss_network_dim": str(RANK), "ss_network_alpha": str(RANK), **concept.header}
    header = {k: v for k, v in header.items() if concept.header or not k.startswith("ss_")}
    path, part = out / f"{concept.name}.safetensors", out / f"{concept.name}.part"
    save_file(state, part, metadata=header or None)
    part.rename(path)


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("names", nargs="*", help="concepts; none: all missing ones")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tokenizer", default=TOKENIZER)
    parser.add_argument("--out", type=Path, default=Path("miniature/weights/loras"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    for concept in CONCEPTS:
        path = args.out / f"{concept.name}.safetensors"
        if concept.name in args.names or (not args.names and not path.exists()):
            train(concept, args.steps, args.tokenizer, args.out)


if __name__ == "__main__":
    main()
