"""What the tests of TAQ inside ComfyUI's own classes share."""

import importlib

import pytest
import torch

from .models import random_source


@pytest.fixture(scope="module")
def host(pack):
    """nodes/host/model.py."""
    # Which way is fastest depends on the processor; these tests are of what all have in common.
    compute = pack("personalq_core.taq.compute")
    compute.measured = lambda: {"plain": 1.0, "bfloat16": 1.0, "int8": 1.0}
    return pack("nodes.host.model")


@pytest.fixture
def source(host):
    """A MODEL of SD1.5's class in the small shape, random weights of a trained model's size."""
    return random_source(host)


@pytest.fixture
def tiny(host):
    """The same with 128 channels, for what needs many rounds."""
    return random_source(host, model_channels=128)


@pytest.fixture
def lora(host, source):
    """Patches of rank 4 on attention, feed-forward and convolutions, 5 % of each weight's size."""
    adapter = importlib.import_module("comfy.weight_adapter.lora").LoRAAdapter
    generator = torch.Generator().manual_seed(1)
    patches = {}
    for name, layer in host.quantizable(source.model.diffusion_model):
        if any(part in name for part in ("attn", "ff", "in_layers")):
            weight = layer.weight
            up = torch.randn(weight.shape[0], 4, generator=generator)
            down = torch.randn(4, weight[0].numel(), generator=generator)
            up *= 0.05 * weight.norm() / (up @ down).norm()
            patches[f"diffusion_model.{name}.weight"] = adapter(
                set(), (up, down, 4.0, None, None, None)
            )
    return patches


@pytest.fixture
def marking(host):
    return importlib.import_module("personalq_pack.nodes.host.marking")


@pytest.fixture
def nodes(host):
    return importlib.import_module("personalq_pack.nodes.taq")
