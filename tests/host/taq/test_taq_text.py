"""Text K and V once per prompt, whatever ComfyUI does with prompts."""

import importlib

import pytest
import torch

from .models import conditioning, distance, draw, load, predict


def test_off_loaded_text_layers_remember_with_a_lora_too(host, source, lora, monkeypatch):
    small, _ = host.quantized_model(source, "int8")
    after = small.clone()
    after.add_patches(lora, 1.0)
    after.patch_model(lowvram_model_memory=1)
    first = predict(after, loaded=True)
    linear = host.LAYER_TYPES[torch.nn.Linear]
    product, computed = linear._product, []

    def counted(self, x):
        computed.append(self)
        return product(self, x)

    monkeypatch.setattr(linear, "_product", counted)
    assert torch.equal(predict(after, loaded=True), first)
    assert computed and not any(layer.text for layer in computed)
    after.detach()
    assert distance(predict(small), first) > 0.005


def test_text_is_computed_once_for_all_steps(host, source, lora, monkeypatch):
    small, _ = host.quantized_model(source, "int8")
    computed = []
    product = host.LAYER_TYPES[torch.nn.Linear]._product

    def counted(self, x):
        computed.append(self)
        return product(self, x)

    monkeypatch.setattr(host.LAYER_TYPES[torch.nn.Linear], "_product", counted)
    first = predict(small)
    texts = [layer for layer in computed if layer.text is not None]
    assert len(texts) == len(set(texts)) == 2 * 4  # four blocks with attention
    computed.clear()
    assert torch.equal(predict(small), first)
    assert computed and not any(layer.text for layer in computed)
    # A LoRA on the text layers is another model; without it the first one is back.
    after = small.clone()
    after.add_patches(lora, 1.0)
    assert not torch.equal(predict(after), first)
    assert torch.equal(predict(small), first)
    small.detach()
    assert not any(layer.texts for _, layer in host.packed_layers(small.model))


def control(host):
    """A ControlNet's place, its answer a constant."""

    class Control(importlib.import_module("comfy.controlnet").ControlBase):
        def get_control(self, x, *_):
            return {"middle": [torch.full((len(x), 320, 8, 8), 0.5)], "output": [], "input": []}

        def copy(self):
            copied = Control()
            self.copy_to(copied)
            return copied

    return Control()


def ip_adapter(n, key, value, extra):
    """What IP-Adapters do: tokens of a picture beside those of the text."""
    seen = torch.full((len(key), 4, 768), 0.3)
    return n, torch.cat([key, seen], 1), torch.cat([value, 2 * seen], 1)


def hooked(small, lora):
    """A prompt with a LoRA of its own, as Create Hook LoRA makes it."""
    hooks = importlib.import_module("comfy.hooks")
    group, hook = hooks.HookGroup(), hooks.WeightHook()
    hook.hook_ref, hook.need_weight_init, hook.weights = hooks._HookRef(), False, lora
    group.add(hook)
    small.add_hook_patches(hook, lora, 1.0)
    return {"hooks": group}


SCENES = {
    "as usual": lambda small, lora, host: (conditioning(1), conditioning(2)),
    "longer prompt": lambda small, lora, host: (conditioning(1, 154), conditioning(2)),
    "regions": lambda small, lora, host: (
        conditioning(1, area=(8, 4, 0, 0)) + conditioning(3, area=(8, 4, 0, 4)), conditioning(2)
    ),
    "ControlNet": lambda small, lora, host: (
        conditioning(1, control=control(host), control_apply_to_uncond=True), conditioning(2)
    ),
    "hooks": lambda small, lora, host: (conditioning(1, **hooked(small, lora)), conditioning(2)),
    "IP-Adapter": lambda small, lora, host: (
        small.set_model_attn2_patch(ip_adapter), (conditioning(1), conditioning(2))
    )[1],
    "attention replaced": lambda small, lora, host: (
        [
            small.set_model_attn2_replace(lambda q, k, v, extra: q + v.mean(1, True), *place)
            for place in (("input", 1), ("output", 1))
        ],
        (conditioning(1), conditioning(2)),
    )[1],
}  # fmt: skip


@pytest.mark.parametrize("scene", ["CFG 1", *SCENES])
def test_remembered_text_changes_no_picture(host, source, lora, monkeypatch, scene):
    cfg = 1.0 if scene == "CFG 1" else 5.0
    small, _ = host.quantized_model(source, "int8")
    prompts = SCENES.get(scene, SCENES["as usual"])(small, lora, host)
    computed = []
    linear = host.LAYER_TYPES[torch.nn.Linear]
    product = linear._product

    def counted(self, x):
        computed.append(self)
        return product(self, x)

    monkeypatch.setattr(linear, "_product", counted)
    remembered = draw(small, *prompts, cfg)
    once = sum(layer.text is not None for layer in computed)
    cache = importlib.import_module("personalq_pack.personalq_core.taq.text_cache").TextCache
    monkeypatch.setattr(cache, "product", lambda self, layer, x, run: run(x))
    computed.clear()
    assert torch.equal(draw(small, *prompts, cfg), remembered)
    always = sum(layer.text is not None for layer in computed)
    # A hooked LoRA comes and goes within a step, an IP-Adapter hands on what is not the text.
    factor = {"hooks": 1, "IP-Adapter": 1}.get(scene, 2)
    assert always >= factor * once > 0


def test_weights_of_the_text_are_kept_outside(host, source, tmp_path, monkeypatch):
    monkeypatch.setattr(host.folders.folder_paths, "get_temp_directory", lambda: str(tmp_path))
    small, plan = host.quantized_model(source, "int4")
    texts = [name for name, layer in plan.layers.items() if layer.format == "float16"]
    assert len(texts) == 8 and all(".attn2." in name for name in texts)
    load(small)
    assert small.loaded_size() == small.model_size()
    held = sum(layer.weight_scale.nbytes + layer.weight.nbytes
               for name, layer in host.packed_layers(small.model) if name not in texts)  # fmt: skip
    others = small.model_size() - held
    assert others < 1_000_000  # norms, biases, first and last layers: nothing of the text
    for name, layer in host.packed_layers(small.model):
        if name in texts:
            weight = source.model.get_submodule(name).weight
            assert distance(layer.dense(), weight) < 1e-3
