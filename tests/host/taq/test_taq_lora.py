"""LoRAs before and behind TAQ Quantize, in the patcher's own words."""

import importlib

import pytest
import torch

from .models import (
    FAMILIES,
    conditioning,
    distance,
    draw,
    hooks_of,
    load,
    patches_of,
    predict,
)


def test_lora_before_and_after_agree_and_removing_it_restores(host, source, lora):
    plain = predict(source)
    with_lora = source.clone()
    with_lora.add_patches(lora, 1.0)
    wanted = predict(with_lora)
    small, _ = host.quantized_model(source, "int8")
    alone = predict(small)
    after = small.clone()
    after.add_patches(lora, 1.0)
    after_picture = predict(after)
    before, _ = host.quantized_model(with_lora, "int8")
    effect = wanted - plain
    assert distance(after_picture - alone, effect) < 0.25
    assert distance(predict(before), wanted) < 0.04
    assert torch.equal(predict(small), alone)
    assert torch.equal(predict(after), after_picture)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_lora_family_does_to_packed_weights_what_it_does_to_plain_ones(host, source, kind):
    patches = patches_of(host, source, kind)
    after, _ = host.quantized_model(source, "int8")
    after.add_patches(patches, 0.7)
    calculate = importlib.import_module("comfy.lora").calculate_weight
    load(after)
    for key, layer in host.packed_layers(after.model):
        if f"{key}.weight" not in patches:
            assert not layer.branches
            continue
        base = layer.dense()
        wanted = calculate(after.patches[f"{key}.weight"], base.clone(), key) - base
        branch = layer.branches["lora"]
        change = (
            branch.up.float() if branch.down is None else branch.up.float() @ branch.down.float()
        )
        assert distance(change.view(base.shape), wanted) < 2e-3
    after.detach()
    assert not any(layer.branches for _, layer in host.packed_layers(after.model))


def test_swapping_a_lora_beside_the_codes_equals_a_fresh_quantization(host, source, monkeypatch):
    with_lora = {}
    for seed in (1, 2):
        with_lora[seed] = source.clone()
        with_lora[seed].add_patches(patches_of(host, source, "LoRA", seed), 0.8)
    fresh = predict(host.quantized_model(with_lora[2], "int8", lora="beside")[0])
    host._quantized.clear()
    first, _ = host.quantized_model(with_lora[1], "int8", lora="beside")
    one = predict(first)

    def unpacked(*_):
        raise AssertionError("a plain LoRA must not cost a dequantized weight")

    monkeypatch.setattr(host.QuantizedLayer, "dense", unpacked)
    second, _ = host.quantized_model(with_lora[2], "int8", lora="beside")
    assert second.model is first.model
    assert torch.equal(predict(second), fresh)
    assert torch.equal(predict(first), one)
    merged, _ = host.quantized_model(with_lora[1], "int8")
    assert distance(one, predict(merged)) < 0.04


def test_another_lora_before_the_node_leaves_nothing_of_the_one_before(host, source, lora):
    """Whatever was changed on the shared model, packed or kept, goes when another MODEL comes."""

    def quantized(patches, strength=1.0):
        given = source.clone()
        given.add_patches(patches, strength)
        return host.quantized_model(given, "int8", lora="beside")[0]

    adapter = importlib.import_module("comfy.weight_adapter.lora").LoRAAdapter
    attention = {key: patch for key, patch in lora.items() if "attn" in key}
    others = {key: patch for key, patch in lora.items() if "attn" not in key}
    kept = "diffusion_model.input_blocks.0.0.weight"
    first = source.model.diffusion_model.input_blocks[0][0].weight
    up, down = torch.randn(len(first), 4), torch.randn(4, first[0].numel())
    others[kept] = adapter(set(), (0.01 * up, 0.01 * down, 4.0, None, None, None))
    plain, alone = predict(quantized({})), predict(quantized(others))
    unpatched = first.clone()
    assert distance(predict(quantized(attention)), plain) > 0.01
    for strength in (1.0, 0.5, 1.0):
        assert torch.equal(predict(quantized(others, strength)), alone) == (strength == 1.0)
    bare = quantized({})
    assert torch.equal(predict(bare), plain)
    assert torch.equal(bare.model.diffusion_model.input_blocks[0][0].weight, unpatched)


@pytest.mark.parametrize("down", [(4, 1024), (8, 768)], ids=["another base", "another rank"])
def test_a_lora_that_does_not_fit_is_skipped_as_comfyui_skips_it(host, tiny, caplog, down):
    adapter = importlib.import_module("comfy.weight_adapter.lora").LoRAAdapter
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    factors = torch.randn(128, 4), torch.randn(down)
    foreign = {key: adapter(set(), (*factors, 4.0, None, None, None))}
    quantized, _ = host.quantized_model(tiny, "int8")
    plain = predict(quantized)
    after = quantized.clone()
    after.add_patches(foreign)
    assert torch.equal(predict(after), plain)
    before = tiny.clone()
    before.add_patches(foreign)
    packed, _ = host.quantized_model(before, "int8", lora="beside")
    assert distance(predict(packed), plain) < 1e-6
    assert "ERROR" in caplog.text


def test_what_cannot_stay_beside_is_merged(host, source):
    changed = source.clone()
    changed.add_patches(patches_of(host, source, "DoRA"), 1.0)
    wanted = predict(changed)
    small, _ = host.quantized_model(changed, "int8", lora="beside")
    assert not small.patches
    assert distance(predict(small), wanted) < 0.04


def test_a_lora_in_bypass_mode_goes_behind_the_node(host, tiny):
    """Before it, it would change the source's layers and never the packed ones."""
    injection = importlib.import_module("comfy.patcher_extension").PatcherInjection
    halved = []

    def halve(patcher):
        layer = patcher.model.diffusion_model.get_submodule("out.2")
        whole, layer.forward = layer.forward, lambda x: 0.5 * whole(x)
        halved.append((layer, whole))

    def undo(_):
        layer, whole = halved.pop()
        layer.forward = whole

    bypass = [injection(inject=halve, eject=undo)]
    before = tiny.clone()
    before.set_injections("bypass_lora", bypass)
    with pytest.raises(host.TaqError, match="Connect it after TAQ Quantize"):
        host.quantized_model(before, "int8")
    small, _ = host.quantized_model(tiny, "int8")
    alone, behind = predict(small), small.clone()
    behind.set_injections("bypass_lora", bypass)
    assert distance(predict(behind), alone) > 0.01
    assert torch.equal(predict(small), alone) and not halved


def test_weight_hooks_come_and_go(host, source, lora):
    small, _ = host.quantized_model(source, "int8")
    alone = predict(small)
    wanted = small.clone()
    wanted.add_patches(lora, 1.0)
    wanted = predict(wanted)
    hooked = small.clone()
    group = hooks_of(hooked, lora)
    load(hooked)
    for _ in range(2):
        hooked.patch_hooks(group)
        assert distance(predict(hooked, loaded=True), wanted) < 1e-3
        hooked.patch_hooks(None)
        assert torch.equal(predict(hooked, loaded=True), alone)


def test_two_prompts_with_hooks_of_their_own_draw_with_the_nodes_output_itself(host, tiny):
    """ComfyUI would keep hooked weights in a cache and copy them over the codes."""

    def drawn(patcher):
        patches = [patches_of(host, tiny, "LoHa", seed) for seed in (1, 2)]
        groups = [hooks_of(patcher, each) for each in patches]
        return draw(patcher, conditioning(1, hooks=groups[0]), conditioning(2, hooks=groups[1]))

    small, _ = host.quantized_model(tiny, "int8")
    alone = draw(small, conditioning(1), conditioning(2))
    wanted = drawn(tiny.clone())
    assert distance(drawn(small), wanted) < 0.05 < distance(alone, wanted)
    assert torch.equal(draw(small, conditioning(1), conditioning(2)), alone)


def test_a_saved_lora_takes_part_in_merging(host, source, tmp_path, monkeypatch):
    """It belongs to the model then: another model gets it, and another takes its place."""
    files = importlib.import_module("personalq_pack.nodes.host.taq_file")
    merging = importlib.import_module("comfy_extras.nodes_model_merging").ModelMergeSimple()
    monkeypatch.setattr(files.folder_paths, "get_output_directory", lambda: str(tmp_path))
    small, _ = host.quantized_model(source, "int8")
    small.add_patches(patches_of(host, source, "LoRA"), 1.0)
    name, _ = files.save_model(small, "diffusion_models/worn")
    worn, _ = files.load_model(str(tmp_path / name))
    for one, other in ((source, worn), (worn, source)):
        wanted = predict(other)
        (merged,) = merging.merge(one, other, 0.0)
        assert distance(predict(one), wanted) > 0.1
        assert distance(predict(merged), wanted) < 1e-3
        merged.detach()
        merged.patch_model(lowvram_model_memory=1)
        assert distance(predict(merged, loaded=True), wanted) < 1e-3
        merged.detach()


def test_what_wraps_a_weight_gets_it_with_its_loras(host, tiny):
    patches = patches_of(host, tiny, "LoRA")

    def wrapped(patcher):
        patcher = patcher.clone()
        patcher.add_patches(patches, 1.0)
        for key in patches:
            patcher.add_weight_wrapper(key, lambda weight: 0.5 * weight)
        patcher.patch_model(lowvram_model_memory=1)
        out = predict(patcher, loaded=True)
        patcher.detach()
        return out

    small, _ = host.quantized_model(tiny, "int8")
    assert distance(wrapped(small), wrapped(tiny)) < 0.05
