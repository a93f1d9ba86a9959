"""The same checkpoint, LoRA and noise give the same picture in ComfyUI and in diffusers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniature.concepts import CONCEPTS
from miniature.sample import GUIDANCE, STEPS, Painter, sample
from tools.comfy import Graph, Server

SEED = 11
ONE_OF_EACH_KIND = ("barnaby_v4", "bolt", "office_mug_2025", "rosie_car")  # LoRA, LoCon, DoRA, LoHa


def graph(lora: str, prompt: str) -> Graph:
    """Stock nodes only."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple",
              "inputs": {"ckpt_name": "miniature.safetensors"}},
        "2": {"class_type": "LoraLoader",
              "inputs": {"model": ["1", 0], "clip": ["1", 1], "lora_name": f"{lora}.safetensors",
                         "strength_model": 1.0, "strength_clip": 1.0}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": prompt}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 1], "text": ""}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64,
                                                           "batch_size": 1}},
        "6": {"class_type": "KSampler",
              "inputs": {"model": ["2", 0], "positive": ["3", 0], "negative": ["4", 0],
                         "latent_image": ["5", 0], "seed": SEED, "steps": STEPS, "cfg": GUIDANCE,
                         "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["1", 2]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0],
                                                    "filename_prefix": "miniature"}},
    }


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_comfyui_and_diffusers_agree(comfy: Server, miniature: Path, name: str) -> None:
    concept = next(c for c in CONCEPTS if c.name == name)
    prompt = f"{concept.trigger} {concept.noun} on the beach"
    run = comfy.run(graph(name, prompt))
    assert run.ok, run.error
    image = next(iter(run.images()))
    seen = np.asarray(Image.open(comfy.output / image["subfolder"] / image["filename"]))

    own = Painter.load().personal(concept)
    expected = sample(own.unet, own.text, own.codec, own.tokens, [prompt], SEED, exact=True)[0]
    error = np.mean((seen.astype(float) - expected) ** 2)
    assert 10 * np.log10(255**2 / max(error, 1e-9)) >= 40
