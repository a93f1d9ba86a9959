"""TAQ Quantize inside ComfyUI's own classes: patching, off-loading and counting are the host's."""

import copy
import dataclasses
import gc
import importlib
import io
import json
import re
import types
import urllib.request
import weakref

import pytest
import torch
from PIL import Image

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
}


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


def random_source(host, **changed):
    supported = importlib.import_module("comfy.supported_models")
    base = importlib.import_module("comfy.model_base")
    patcher = importlib.import_module("comfy.model_patcher")
    torch.manual_seed(0)
    config = supported.SD15(UNET | changed)
    config.unet_config |= {"dtype": torch.float32, "num_heads": 8, "num_head_channels": -1}
    model = base.BaseModel(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
            parameter.data *= 0.4
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)
    return patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def test_search_words_are_given_where_they_are_known(host, monkeypatch):
    search = importlib.import_module("personalq_pack.nodes.search")
    known = {field.name for field in dataclasses.fields(search.io.Schema)}
    assert bool(search.found_as("word")) == ("search_aliases" in known)
    newer = dataclasses.make_dataclass("Schema", ["node_id", "search_aliases"])
    monkeypatch.setattr(search.io, "Schema", newer)
    assert search.found_as("LoRA loader", "int8") == {"search_aliases": ["LoRA loader", "int8"]}


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


def load(patcher):
    importlib.import_module("comfy.model_management").load_models_gpu([patcher])


def predict(patcher, loaded=False):
    if not loaded:
        load(patcher)
    generator = torch.Generator().manual_seed(2)
    noise, context = (
        torch.randn(2, 4, 8, 8, generator=generator),
        torch.randn(2, 77, 768, generator=generator),
    )
    with torch.no_grad():
        return patcher.model.apply_model(noise, torch.tensor([5.0, 5.0]), c_crossattn=context)


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("fmt, share, limit", [("int8", 0.52, 0.04), ("int4", 0.30, 0.3)])
def test_bytes_fall_and_the_source_stays_bit_identical(host, source, fmt, share, limit):
    before = {key: tensor.clone() for key, tensor in source.model.state_dict().items()}
    bytes_16 = 2 * sum(p.numel() for p in source.model.diffusion_model.parameters())
    plain = predict(source)
    small, _ = host.quantized_model(source, fmt)
    tensors = small.model.diffusion_model.state_dict().values()
    assert sum(t.numel() * t.element_size() for t in tensors) <= share * bytes_16
    assert small.model_size() <= share * bytes_16
    assert distance(predict(small), plain) < limit
    assert torch.equal(predict(source), plain)
    assert all(torch.equal(tensor, before[k]) for k, tensor in source.model.state_dict().items())


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


def patches_of(host, source, kind, seed=1):
    """Patches of one LoRA family on every attention, feed-forward and residual layer."""
    adapters = importlib.import_module("comfy.weight_adapter")
    random = torch.Generator().manual_seed(seed)

    def draw(*shape, size=0.05):
        return size * torch.randn(*shape, generator=random)

    patches = {}
    for name, layer in host.quantizable(source.model.diffusion_model):
        if not any(part in name for part in ("attn", "ff", "in_layers")):
            continue
        rows, columns, rest = layer.weight.shape[0], layer.weight.shape[1], layer.weight.shape[2:]
        up, down = draw(rows, 4, *[1] * len(rest)), draw(4, columns, *rest)
        if kind == "LoRA":
            patch = adapters.LoRAAdapter(set(), (up, down, 2.0, None, None, None))
        elif kind == "Tucker LoCon":
            middle = draw(4, 4, *rest, size=1) if rest else None
            down = draw(4, columns, *[1] * len(rest))
            patch = adapters.LoRAAdapter(set(), (up, down, None, middle, None, None))
        elif kind == "DoRA":
            norms = layer.weight.flatten(1).norm(dim=1).view(-1, *[1] * (layer.weight.dim() - 1))
            patch = adapters.LoRAAdapter(set(), (up, down, 4.0, None, 1.05 * norms, None))
        elif kind == "LoHa":
            flat = layer.weight[0].numel()
            a, b, c, d = draw(rows, 2), draw(2, flat), draw(rows, 2, size=1), draw(2, flat, size=1)
            patch = adapters.LoHaAdapter(set(), (a, b, 2.0, c, d, None, None, None))
        else:
            small = draw(rows // 8, columns // 8, *rest)
            weights = (draw(8, 8, size=1), small, None, None, None, None, None, None, None)
            patch = adapters.LoKrAdapter(set(), weights)
        patches[f"diffusion_model.{name}.weight"] = patch
    return patches


FAMILIES = ["LoRA", "Tucker LoCon", "DoRA", "LoHa", "LoKr"]


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


def test_an_object_put_onto_one_model_is_not_on_the_next(host, tiny):
    base = importlib.import_module("comfy.model_base")
    other = base.model_sampling(tiny.model.model_config, base.ModelType.V_PREDICTION)
    changed = tiny.clone()
    changed.add_object_patch("model_sampling", other)
    first, _ = host.quantized_model(changed, "int8")
    load(first)
    assert first.model.model_sampling is other
    second, _ = host.quantized_model(tiny, "int8")
    load(second)
    assert second.model.model_sampling is not other


def test_a_base_is_not_kept_alive_by_what_was_put_onto_its_model(host):
    base = random_source(host, model_channels=128)
    base.set_model_unet_function_wrapper(lambda *_, itself=base: None)
    quantized, _ = host.quantized_model(base, "int8")
    gone = weakref.ref(base.model)
    del base, quantized
    gc.collect()
    assert gone() is None


def test_a_compiled_source_gives_a_compiled_packed_model(host, tiny):
    """Torch Compile before the node: its wrapper would run the source instead."""
    compiling = importlib.import_module("comfy_api.torch_helpers")
    extension = importlib.import_module("comfy.patcher_extension")
    compiled = tiny.clone()
    compiling.set_torch_compile_wrapper(compiled, "eager")
    quantized, _ = host.quantized_model(compiled, "int8")
    load(quantized)
    tiny.model.diffusion_model.register_forward_pre_hook(lambda *_: pytest.fail("the source ran"))
    options = {"wrappers": quantized.wrappers}
    assert len(extension.get_all_wrappers("apply_model", options)) == 1
    with torch.no_grad():
        given = torch.randn(1, 4, 8, 8), torch.tensor([5.0])
        text = torch.randn(1, 77, 768)
        out = quantized.model.apply_model(*given, c_crossattn=text, transformer_options=options)
        plain = quantized.model.apply_model(*given, c_crossattn=text)
    assert distance(out, plain) < 1e-4
    replaced = tiny.clone()
    replaced.add_object_patch("diffusion_model", tiny.model.diffusion_model)
    with pytest.raises(host.TaqError, match="Connect that node after TAQ Quantize"):
        host.quantized_model(replaced, "int8")


def test_a_lora_for_another_base_is_skipped_as_comfyui_skips_it(host, tiny, caplog):
    adapter = importlib.import_module("comfy.weight_adapter.lora").LoRAAdapter
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    foreign = {key: adapter(set(), (torch.randn(128, 4), torch.randn(4, 1024), 4.0, *[None] * 3))}
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


@pytest.mark.parametrize("lora", ["merged", "beside"])
def test_a_saved_model_needs_no_original(host, source, tmp_path, monkeypatch, lora):
    files = importlib.import_module("personalq_pack.nodes.host.taq_file")
    monkeypatch.setattr(files.folder_paths, "get_output_directory", lambda: str(tmp_path))
    source.add_patches(patches_of(host, source, "LoRA"), 0.8)
    small, _ = host.quantized_model(source, "int8", lora=lora, trigger="<bear>")
    if lora == "beside":
        small.add_patches(patches_of(host, source, "LoKr", 3), 1.0)
    wanted = predict(small)
    names = [files.save_model(small, "diffusion_models/bear")[0] for _ in range(2)]
    assert names[0] != names[1]
    assert torch.equal(predict(small), wanted)
    sources = host.notes_of(small).sources
    assert set(sources) == {"base", "loras"}
    back, notes = files.load_model(str(tmp_path / names[0]))
    assert (notes.trigger, notes.sources) == ("<bear>", sources)
    assert torch.equal(predict(back), wanted)
    assert type(back.model) is type(source.model)
    # Loaded, it takes further LoRAs and is saved again like the first.
    back.add_patches(patches_of(host, source, "LoRA", 4), 1.0)
    assert not torch.equal(predict(back), wanted)
    again, _ = files.load_model(str(tmp_path / files.save_model(back, "diffusion_models/x")[0]))
    assert torch.equal(predict(again), predict(back))
    plain = host.notes_of(source)
    assert plain is None
    with pytest.raises(host.TaqError, match="not quantized by TAQ"):
        files.save_model(source, "diffusion_models/bear")


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_lora_family_works_on_off_loaded_layers(host, source, kind, monkeypatch):
    """Newer versions of ComfyUI let its function on the weight take no codes: it is not called."""
    patcher = importlib.import_module("comfy.model_patcher")
    refuse = lambda *_: pytest.fail("it may not know of codes")  # noqa: E731
    monkeypatch.setattr(patcher.LowVramPatch, "__call__", refuse)
    small, _ = host.quantized_model(source, "int4")
    after = small.clone()
    after.add_patches(patches_of(host, source, kind), 0.7)
    wanted = predict(after)
    after.detach()
    after.patch_model(lowvram_model_memory=1)
    assert distance(predict(after, loaded=True), wanted) < 0.02
    after.detach()


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


def test_partly_loaded_models_compute_the_same(host, source, lora):
    small, _ = host.quantized_model(source, "int8")
    after = small.clone()
    after.add_patches(lora, 1.0)
    wanted = predict(after)
    after.detach()
    after.patch_model(lowvram_model_memory=2_000_000)
    assert after.model.model_lowvram
    assert distance(predict(after, loaded=True), wanted) < 0.02
    after.detach()


def test_integer_products_take_loras_and_partial_loading(host, source, lora):
    layers = importlib.import_module("personalq_pack.personalq_core.taq.layers")
    for fmt in ("int8", "int4"):
        small, _ = host.quantized_model(source, fmt)
        after = small.clone()
        after.add_patches(lora, 1.0)
        exact = predict(after)
        layers.set_activations(after.model, "8-bit")
        rounded = predict(after)
        assert 0 < distance(rounded, exact) < 0.1
        after.detach()
        after.patch_model(lowvram_model_memory=2_000_000)
        assert distance(predict(after, loaded=True), rounded) < 0.02
        after.detach()


def test_a_second_run_does_not_quantize_again(host, source, lora):
    first, _ = host.quantized_model(source, "int8")
    again, _ = host.quantized_model(source.clone(), "int8")
    assert again.model is first.model and again.clone_has_same_weights(first)
    assert host.quantized_model(source, "int4")[0].model is not first.model


def test_quantized_sources_are_refused_in_words(host, source):
    small, _ = host.quantized_model(source, "int8")
    with pytest.raises(host.TaqError, match="already quantized by TAQ"):
        host.quantized_model(small, "int8")
    source.model.diffusion_model.to(torch.float8_e4m3fn)
    with pytest.raises(host.TaqError, match="16-bit file"):
        host.quantized_model(source, "int8")


@pytest.mark.parametrize("convolutions", [True, False])
def test_a_model_of_quantized_layers_of_comfyuis_own_is_refused_in_words(host, tiny, convolutions):
    """Its layers are not nn.Linear: they would stay, at twice their size, and nothing be said."""
    ops = importlib.import_module("comfy.ops")
    if not hasattr(ops, "mixed_precision_ops"):
        pytest.skip("this ComfyUI has none")
    kinds = ops.mixed_precision_ops({"deep": {"format": "float8_e4m3fn", "params": {}}})
    if not convolutions:
        tiny.model.diffusion_model = torch.nn.Module()
    tiny.model.diffusion_model.deep = kinds.Linear(128, 128, dtype=torch.bfloat16)
    stored = {
        "deep.weight": torch.randn(128, 128).to(torch.float8_e4m3fn),
        "deep.weight_scale": torch.tensor(1.0),
        "deep.bias": torch.zeros(128),
    }
    tiny.model.diffusion_model.load_state_dict(stored, strict=False)
    with pytest.raises(host.TaqError, match=r"\(deep.weight is stored as QuantizedTensor\)"):
        host.quantized_model(tiny, "int8")


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


def test_copies_of_the_source_on_other_gpus_do_not_come_along(host, tiny):
    tiny.set_additional_models("multigpu", [tiny.clone()])
    small, _ = host.quantized_model(tiny, "int8")
    assert small.get_additional_models_with_key("multigpu") == []
    assert tiny.get_additional_models_with_key("multigpu")


def test_a_loader_that_knows_of_no_other_loading_is_told_so(host, tiny):
    def clone(**_):
        raise TypeError("load() got an unexpected keyword argument 'disable_dynamic'")

    tiny.is_dynamic, tiny.clone = lambda: True, clone
    with pytest.raises(host.TaqError, match="disable-dynamic-vram"):
        host.with_weights_at_hand(tiny)


def test_weight_hooks_come_and_go(host, source, lora):
    hooks = importlib.import_module("comfy.hooks")
    small, _ = host.quantized_model(source, "int8")
    alone = predict(small)
    wanted = small.clone()
    wanted.add_patches(lora, 1.0)
    wanted = predict(wanted)
    group = hooks.HookGroup()
    hook = hooks.WeightHook()
    hook.hook_ref = hooks._HookRef()
    hook.need_weight_init = False
    group.add(hook)
    hooked = small.clone()
    hooked.add_hook_patches(hook, lora, 1.0)
    load(hooked)
    for _ in range(2):
        hooked.patch_hooks(group)
        assert distance(predict(hooked, loaded=True), wanted) < 1e-3
        hooked.patch_hooks(None)
        assert torch.equal(predict(hooked, loaded=True), alone)


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


# -- text once per prompt, through ComfyUI's own sampler


def draw(patcher, positive, negative, cfg=5.0):
    """Two Euler steps of an 8 x 8 latent."""
    sample = importlib.import_module("comfy.sample").sample
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return sample(
        patcher, noise, 2, cfg, "euler", "normal", positive, negative, torch.zeros(1, 4, 8, 8),
        disable_pbar=True, seed=3,
    )  # fmt: skip


def conditioning(seed, tokens=77, **more):
    text = torch.randn(1, tokens, 768, generator=torch.Generator().manual_seed(seed))
    return [[text, dict(more)]]


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


# -- the paper's own TAQ


class Clip:
    """ComfyUI's CLIP-L tokenizer, and embeddings that are only as long as they must be."""

    def __init__(self):
        tokenizer = importlib.import_module("comfy.sd1_clip").SD1Tokenizer()
        self.tokenize = tokenizer.tokenize_with_weights

    def encode_from_tokens_scheduled(self, tokens):
        return conditioning(len(str(tokens)), 77 * len(tokens["l"]))


TRIGGER = "brnby bear"
FILLER = "a very long prompt about forests, rivers and mountains in the soft morning light, "


def words_marked(marking, text, trigger):
    """The tokens that are marked in a text, in words."""
    tokenizer = importlib.import_module("comfy.sd1_clip").SD1Tokenizer()
    made, count = marking.marked(Clip(), text, trigger)
    of = made[0][1][marking.KEY]
    tokens = [token for chunk in tokenizer.tokenize_with_weights(text)["l"] for token in chunk]
    assert len(of) == len(tokens) == made[0][0].shape[1]
    assert count == of.count(2)
    found = [pair for pair, role in zip(tokens, of) if role == 2]
    return "".join(word for _, word in tokenizer.untokenize(found)).replace("</w>", " ").strip()


@pytest.fixture
def marking(host):
    return importlib.import_module("personalq_pack.nodes.host.marking")


def test_the_trigger_is_found_however_it_is_written(marking):
    def found(text, trigger=TRIGGER):
        return words_marked(marking, text, trigger)

    assert found("a photo of brnby bear on the beach") == TRIGGER
    assert found("Brnby   Bear, (brnby bear:1.2) twice") == f"{TRIGGER} {TRIGGER}"
    assert found("a (brnby:0.8) bear") == TRIGGER
    assert found("brnby bear", "  brnby bear ") == TRIGGER
    assert found("in words of anna \\(frozen\\), smiling", "anna (frozen)") == "anna ( frozen"
    assert found("a photo of <bear-v4>, smiling", "<bear-v4>") == "bear - v 4"
    assert found("a bear") == found("a photo", "") == ""
    assert found("style of qx, 1girl", "1girl, qx") == "qx 1 girl"
    # Over the border between two chunks of 75 words, and behind it.
    for length in range(66, 80):
        text = "tree " * length + TRIGGER + " and a hat"
        assert found(text) == TRIGGER
    assert found(FILLER * 8 + TRIGGER) == TRIGGER


def test_exact_rows_follow_each_prompt_through_comfyuis_batches(host, nodes, marking, source):
    """Cond and uncond come in one batch, in reversed order, the shorter one repeated."""
    clip = Clip()
    long = nodes.PersonalQMarkTrigger.execute(clip, FILLER * 5 + TRIGGER, TRIGGER).args[0]
    short, report = nodes.PersonalQMarkTrigger.execute(clip, f"a {TRIGGER}", TRIGGER).args
    assert "4 token" in report
    assert long[0][0].shape[1] == 154
    plain = conditioning(9)
    wish = nodes.Wish("paper W8A8", TRIGGER, protect="trigger and start")
    small, _ = nodes.quantized_by(source, wish)
    seen = []
    rows = next(m.rows for m in small.model.modules() if hasattr(m, "exact_k"))
    small.model.diffusion_model.register_forward_hook(
        lambda _, args, given, out: seen.append(
            (given["transformer_options"]["cond_or_uncond"], rows.mask.clone())
        ),
        with_kwargs=True,
    )

    def ends(mask):
        return [place for place, exact in enumerate(mask.tolist()) if exact]

    draw(small, long, short)
    batches = {tuple(order): mask for order, mask in seen}
    assert set(batches) == {(1, 0)}
    uncond, cond = (ends(row) for row in batches[1, 0])
    assert uncond == [0, 2, 3, 4, 5, 77, 79, 80, 81, 82]  # repeated
    assert cond[:2] == [0, 77] and len(cond) == 6
    seen.clear()
    joined = [[torch.cat([short[0][0], plain[0][0]], 1), short[0][1]]]  # Conditioning (Concat)
    draw(small, joined + long, plain, cfg=1.0)
    assert all(len(order) == len(mask) for order, mask in seen)
    found = [ends(row) for _, mask in seen for row in mask]
    assert [0, 2, 3, 4, 5] in found and cond in found
    seen.clear()
    draw(small, plain, plain)
    assert all(ends(row) == [0] for _, mask in seen for row in mask)  # nobody marked a trigger
    second = small.clone()
    assert torch.equal(draw(second, long, short), draw(small, long, short))


@pytest.mark.parametrize("variant", ["W8A8 linear", "W8A4 log2", "W4A8 log2", "W8A4 linear"])
def test_the_papers_controls_are_ordered(nodes, marking, source, variant):
    clip = Clip()
    prompt = marking.marked(clip, f"a photo of {TRIGGER}", TRIGGER)[0]
    exact = draw(source, prompt, conditioning(9))
    lost = {}
    for protect in ("none", "trigger", "random", "all"):
        wish = nodes.Wish("paper W8A8", TRIGGER, variant=variant, protect=protect)
        small, plan = nodes.quantized_by(source, wish)
        lost[protect] = distance(draw(small, prompt, conditioning(9)), exact)
        weights = {layer.format for layer in plan.layers.values()}
        assert f"int{variant[1]}" in weights and "float16" not in weights
    assert len(set(lost.values())) == 4  # each protects other rows
    assert all(0 < value < 2 for value in lost.values())


def test_the_paper_presets_say_what_they_cannot_do(nodes, source, tmp_path):
    node = nodes.PersonalQTAQQuantize
    made, text, _ = node.execute(source, "", "paper W8A8", paper_variant="W4A8 log2").args
    assert "W4A8 log2" in text and "simulation" in text
    with pytest.raises(ValueError, match="cannot be saved"):
        nodes.PersonalQSaveTAQModel.execute(made, "diffusion_models/paper")


# -- and everything else that users do with a MODEL


def test_ten_rounds_give_the_same_bits_and_leave_nothing(host, tiny):
    management = importlib.import_module("comfy.model_management")
    before = {key: tensor.clone() for key, tensor in tiny.model.state_dict().items()}
    first = None
    for _ in range(10):
        small, _ = host.quantized_model(tiny, "int4")
        predict(small)
        codes = {name: layer.packed for name, layer in host.packed_layers(small.model)}
        if first is None:
            first = codes
        assert all(torch.equal(codes[n].codes, first[n].codes) for n in first)
        assert all(torch.equal(codes[n].scale, first[n].scale) for n in first)
        gone = weakref.ref(small.model), weakref.ref(next(iter(codes.values())).codes)
        del small
        host._quantized.clear()
        management.unload_all_models()
        if codes is not first:
            del codes
            gc.collect()
            assert gone[0]() is None and gone[1]() is None
        else:
            del codes
    assert all(torch.equal(t, before[key]) for key, t in tiny.model.state_dict().items())


def dynamic(source):
    """A stand-in for the patcher that newer versions of ComfyUI use on GPUs: it fetches weights
    while the model runs, and is cloned to a plain one from its file."""
    patcher = importlib.import_module("comfy.model_patcher").ModelPatcher

    class Dynamic(patcher):
        files_read = 0
        can_be_read = True

        def is_dynamic(self):
            return True

        def clone(self, disable_dynamic=False, model_override=None):
            plain = patcher.clone(self)
            if not disable_dynamic:
                return plain
            if model_override is None:
                if not Dynamic.can_be_read:
                    raise RuntimeError("cached_patcher_init is not initialized.")
                Dynamic.files_read += 1
                model_override = copy.deepcopy(self.model), ({}, {}, {}, set())
            plain.__class__ = patcher
            plain.model, (plain.backup, _, plain.object_patches_backup, _) = model_override
            return plain

        def patch_weight_to_device(self, *_, **__):
            raise AssertionError("its weights are not there")

    source.__class__ = Dynamic
    return source


def test_a_model_that_is_loaded_dynamically_is_read_once_and_becomes_a_plain_one(
    host, tiny, monkeypatch
):
    preset = importlib.import_module("personalq_pack.nodes.host.preset")
    asked = []

    def sensitivity(model, *_, **__):  # without the minute it takes
        asked.append(model)
        plan = host.make_plan(model, "int4").layers
        layers = {name for name, layer in plan.items() if layer.format != "16"}
        return {name: {"int4": 1e-3 * len(name), "int8": 1e-5} for name in layers}

    monkeypatch.setattr(preset, "sensitivity", sensitivity)
    wanted, _ = preset.quantized_by(tiny, preset.Wish("mixed 6-bit"))
    wanted = draw(wanted, conditioning(1), conditioning(2))
    source = dynamic(random_source(host, model_channels=128))
    first, _ = preset.quantized_by(source, preset.Wish("mixed 6-bit"))
    again, _ = preset.quantized_by(source.clone(), preset.Wish("mixed 6-bit"))
    assert type(source).files_read == 1
    assert len(asked) == 2
    assert asked[1] is not source.model.diffusion_model
    for patcher in (first, again, again.clone()):
        assert not getattr(patcher, "is_dynamic", bool)()
        assert patcher.model is first.model is not source.model
        assert torch.equal(draw(patcher, conditioning(1), conditioning(2)), wanted)
    type(source).can_be_read = False
    with pytest.raises(host.TaqError, match="disable-dynamic-vram"):
        preset.quantized_by(source, preset.Wish("8-bit"))


def test_what_is_not_packed_takes_the_type_that_the_model_computes_in(host, tiny):
    # Newer versions of ComfyUI leave a parameter in its file's type and note the model's beside it.
    block = tiny.model.diffusion_model.out[0]
    block.weight_comfy_model_dtype = torch.float16
    small, _ = host.quantized_model(tiny, "int8")
    made = small.model.diffusion_model.out[0]
    assert made.weight.dtype == torch.float16
    assert made.bias.dtype == block.weight.dtype == torch.float32


def test_a_compiled_model_computes_the_same(host, tiny):
    compiling = importlib.import_module("comfy_api.torch_helpers.torch_compile")
    small, _ = host.quantized_model(tiny, "int8")
    wanted = draw(small, conditioning(1), conditioning(2))
    compiled = small.clone()
    # The same tracing as for any backend, without the minutes of generating code.
    compiling.set_torch_compile_wrapper(compiled, backend="eager")
    assert distance(draw(compiled, conditioning(1), conditioning(2)), wanted) < 1e-3
    assert torch.equal(draw(small, conditioning(1), conditioning(2)), wanted)


def test_flux_like_models_get_all_but_what_needs_cross_attention(host, nodes):
    supported = importlib.import_module("comfy.supported_models")
    patcher = importlib.import_module("comfy.model_patcher")
    params = importlib.import_module("comfy.ldm.flux.model").FluxParams
    newer = {"txt_ids_dims": []} if "txt_ids_dims" in params.__annotations__ else {}
    config = supported.Flux(newer | {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 96,
        "context_in_dim": 128, "hidden_size": 256, "mlp_ratio": 4.0, "num_heads": 2, "depth": 1,
        "depth_single_blocks": 1, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2,
        "qkv_bias": True, "guidance_embed": False,
    })  # fmt: skip
    config.unet_config["dtype"] = torch.float32
    torch.manual_seed(0)
    model = config.get_model({})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    flux = patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    given = {"c_crossattn": torch.randn(1, 12, 128), "y": torch.randn(1, 96)}
    x = torch.randn(1, 16, 8, 8)

    def output(patcher):
        load(patcher)
        with torch.no_grad():
            return patcher.model.apply_model(x, torch.tensor([0.5]), **given)

    wanted = output(flux)
    small, text, data = nodes.PersonalQTAQQuantize.execute(flux, "<bear>", "8-bit").args
    assert distance(output(small), wanted) < 0.05
    assert json.loads(data)["after_bytes"] < 0.55 * json.loads(data)["before_bytes"]
    assert "no cross-attention" in text
    with pytest.raises(host.TaqError, match="no cross-attention"):
        nodes.PersonalQTAQQuantize.execute(flux, "<bear>", "paper W8A8")


@pytest.fixture
def nodes(host):
    return importlib.import_module("personalq_pack.nodes.taq")


def test_what_was_fitted_otherwise_is_fitted_anew(host, nodes, tiny, monkeypatch):
    """CLIP, picture size and words are part of what a finished model is found by."""
    preset = importlib.import_module("personalq_pack.nodes.host.preset")
    keys = []

    def found(*_, key, **__):
        keys.append(key)
        return None, None

    monkeypatch.setattr(preset, "quantized_model", found)

    def text_encoder():
        return types.SimpleNamespace(
            patcher=types.SimpleNamespace(patches_uuid=object()), layer_idx=None
        )

    clip, size = text_encoder(), {"samples": torch.zeros(1, 4, 64, 64)}
    wishes = [
        preset.Wish("4-bit"),
        preset.Wish("4-bit", clip=clip),
        preset.Wish("4-bit", clip=text_encoder()),
        preset.Wish("4-bit", clip=clip, latent=size),
        preset.Wish("4-bit", "brnby", clip=clip, latent=size),
        preset.Wish("mixed 6-bit"),
        preset.Wish("mixed 6-bit", latent=size),
    ]
    for wish in wishes:
        preset.quantized_by(tiny, wish)
    assert len(set(keys)) == len(wishes)
    # Other levels of noise: the model hears other things.
    other = tiny.clone()
    other.add_object_patch("model_sampling", copy.deepcopy(tiny.model.model_sampling))
    preset.quantized_by(other, wishes[1])
    preset.quantized_by(other.clone(), wishes[1])
    assert keys[-1] == keys[-2] not in keys[:-2]
    # Nothing is fitted here, so words and CLIP change nothing.
    for wish in (preset.Wish(), preset.Wish(trigger="brnby", clip=clip)):
        preset.quantized_by(tiny, wish)
    preset.quantized_by(tiny, preset.Wish("4-bit", "brnby", "bear"))
    assert keys[-3] == keys[-2] and keys[-1] == keys[0]


def test_a_target_is_met_in_32_bits_too(host, nodes, tiny):
    """What is not packed counts as it is loaded, 4 bytes a weight here."""
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    for target in (6, 8):
        quantized = nodes.PersonalQTAQQuantize.execute(tiny, target_mb=target, latent_image=latent)
        bytes_ = json.loads(quantized.args[2])["after_bytes"]
        assert 0.8 * target * 1e6 < bytes_ <= target * 1e6
    # A preset's own share is only of what it packs.
    nodes.PersonalQTAQQuantize.execute(tiny, "mixed 6-bit", latent_image=latent)


def test_a_target_too_small_names_one_that_is_met(host, nodes, tiny):
    def quantized(target):
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        return nodes.PersonalQTAQQuantize.execute(tiny, target_mb=target, latent_image=latent)

    with pytest.raises(host.TaqError, match="target_mb 1 is too small") as refused:
        quantized(1)
    least = int(re.search(r"at least (\d+) MB", str(refused.value)).group(1))
    data = json.loads(quantized(least).args[2])
    assert 0.6 * least < data["after_bytes"] / 1e6 <= least


def test_an_inpainting_model_is_probed_with_all_it_reads(host):
    probing = importlib.import_module("personalq_pack.nodes.host.probing")
    inpainting = random_source(host, model_channels=128, in_channels=9)
    inpainting.model.set_inpaint()
    probes = probing.probes(inpainting, None, "", "", None)
    assert probes and all(torch.isfinite(probe.run()).all() for probe in probes)
    one_channel = {"samples": torch.zeros(1, 1, 16, 24)}
    (probe,) = probing.probes(inpainting, None, "", "", one_channel, probing.MIDDLE, 2)
    assert probe.run().shape == (2, 4, 16, 24)


def test_prompts_run_together_where_a_sampler_would(host, source):
    probing = importlib.import_module("personalq_pack.nodes.host.probing")
    texts = [torch.randn(1, tokens, 768) for tokens in (77, 10, 77, 154)]
    prompts = [[[text, {"pooled_output": torch.zeros(1, 768)}]] for text in texts]
    batches = probing._batches(source.model, prompts, (4, 8, 8), torch.device("cpu"))
    (numbers, together), (lone, alone) = batches
    assert (numbers, lone) == ([0, 2, 3], [1])
    assert torch.equal(alone["c_crossattn"], texts[1])
    repeated = [texts[0].repeat(1, 2, 1), texts[2].repeat(1, 2, 1), texts[3]]
    assert torch.equal(together["c_crossattn"], torch.cat(repeated))


def test_prompts_that_carry_other_things_do_not_run_together(host, source, monkeypatch):
    """As some models' have an attention mask, and some of their prompts none."""
    probing = importlib.import_module("personalq_pack.nodes.host.probing")
    conds = importlib.import_module("comfy.conds")

    def extra_conds(cross_attn, masked, **_):
        mask = {"attention_mask": conds.CONDRegular(torch.ones(1, 77))} if masked else {}
        return {"c_crossattn": conds.CONDCrossAttn(cross_attn)} | mask

    monkeypatch.setattr(source.model, "extra_conds", extra_conds)
    prompts = [
        [[torch.randn(1, 77, 768), {"pooled_output": None, "masked": masked}]]
        for masked in (False, True, False)
    ]
    for order in (prompts, prompts[1:] + prompts[:1]):
        found = probing._batches(source.model, order, (4, 8, 8), torch.device("cpu"))
        assert sorted(len(numbers) for numbers, _ in found) == [1, 2]
        assert [len(given) for numbers, given in found if len(numbers) == 1] == [2]


def test_what_belongs_to_another_kind_of_model_is_refused_in_words(host, source):
    probing = importlib.import_module("personalq_pack.nodes.host.probing")
    with pytest.raises(host.TaqError, match="latent_image has 16 channels"):
        probing.probes(source, None, "", "", {"samples": torch.ones(1, 16, 8, 8)})

    class Clip:
        def tokenize(self, text):
            return text

        def encode_from_tokens_scheduled(self, tokens):
            return [[torch.randn(1, 77, 1024), {}]]

    with pytest.raises(host.TaqError, match="Connect the CLIP of the same checkpoint"):
        probing.probes(source, Clip(), "brnby", "bear", None)


def test_an_empty_latent_is_sized_as_ksampler_sizes_it(host, source, monkeypatch):
    """Newer versions of ComfyUI also change how many pixels stand for one of it."""
    sampling = importlib.import_module("personalq_pack.nodes.host.sampling")
    latent = {"samples": torch.zeros(1, 4, 8, 8), "downscale_ratio_spacial": 8}
    assert sampling.fitting_latent(source, latent).shape == (1, 4, 8, 8)
    given = []

    def newer(model, samples, downscale_ratio_spacial=None, downscale_ratio_temporal=None):
        given.append((downscale_ratio_spacial, downscale_ratio_temporal))
        return samples

    monkeypatch.setattr(sampling.comfy.sample, "fix_empty_latent_channels", newer)
    sampling.fitting_latent(source, latent)
    assert given == [(8, None)]


@pytest.mark.parametrize("former, preset", [("int8", "8-bit"), ("int4", "4-bit")])
def test_presets_of_older_workflows_still_load(nodes, source, former, preset):
    node = nodes.PersonalQTAQQuantize
    assert node.validate_inputs(former) is True
    assert "no preset" in node.validate_inputs("int3")
    old = node.execute(source, "", former).args
    new = node.execute(source, "", preset).args
    assert new[0].model is old[0].model
    assert json.loads(old[2])["after_bytes"] == json.loads(new[2])["after_bytes"]
    assert "at 16 bits" in old[1]


def test_plain_rounding_takes_the_same_bytes_and_loses_more(host, nodes, source):
    wanted = predict(source)
    ours, plan = nodes.quantized_by(source, nodes.Wish("4-bit"))
    plain = nodes.plainly_rounded(source, plan)
    assert plain.model_size() == ours.model_size()
    assert distance(predict(ours), wanted) < distance(predict(plain), wanted)
    assert nodes.quantized_by(source, nodes.Wish("4-bit"))[0].model is ours.model


def test_the_nodes_are_served_with_their_widgets_in_the_workflows_order(comfy):
    with urllib.request.urlopen(f"http://127.0.0.1:{comfy.port}/object_info") as answer:
        served = json.load(answer)
    node = served["PersonalQTAQQuantize"]
    assert node["input_order"]["optional"][:2] == ["trigger", "format"]
    assert node["output_name"][:2] == ["model", "report"]
    for name in ("PersonalQSaveTAQModel", "PersonalQLoadTAQModel", "PersonalQTAQCompare"):
        assert all(served[name]["output_name"])


def miniature_graph(**nodes):
    """The miniature's base and a prompt, and further nodes: (class, inputs)."""
    graph = {
        "base": ("CheckpointLoaderSimple", {"ckpt_name": "miniature.safetensors"}),
        "yes": ("CLIPTextEncode", {"clip": ["base", 1], "text": "a bear on the beach"}),
        "no": ("CLIPTextEncode", {"clip": ["base", 1], "text": ""}),
        "size": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
        **nodes,
    }
    return {name: {"class_type": kind, "inputs": given} for name, (kind, given) in graph.items()}


DRAWING = {
    "positive": ["yes", 0], "negative": ["no", 0], "latent_image": ["size", 0], "seed": 1,
    "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal",
}  # fmt: skip


def test_compare_draws_three_pictures_with_bytes_and_nearness(comfy, miniature):
    inputs = DRAWING | {"model": ["base", 0], "vae": ["base", 2], "format": "4-bit"}
    run = comfy.run(miniature_graph(compare=("PersonalQTAQCompare", inputs)))
    assert run.ok, run.error
    full, plain, ours = run.ui("personalq_taq_compare")[0]["rows"]
    assert [row["system"] for row in (full, plain, ours)] == [
        "full precision", "plain rounding", "TAQ",
    ]  # fmt: skip
    assert plain["bytes"] == ours["bytes"] < 0.3 * full["bytes"]
    assert all(0 < row["ssim"] <= 1 and row["psnr_db"] > 0 for row in (plain, ours))
    assert len(run.images()) == 1


def test_a_model_saved_by_the_server_draws_the_same_picture(comfy, miniature):
    def drawn(model, **nodes):
        graph = miniature_graph(
            **nodes,
            sample=("KSampler", DRAWING | {"model": model, "denoise": 1.0}),
            decode=("VAEDecode", {"samples": ["sample", 0], "vae": ["base", 2]}),
            show=("PreviewImage", {"images": ["decode", 0]}),
        )
        run = comfy.run(graph)
        assert run.ok, run.error
        return run, Image.open(io.BytesIO(comfy.image(run.images()[0]))).tobytes()

    taq = ("PersonalQTAQQuantize", {"model": ["base", 0], "trigger": "<bear>", "format": "int8"})
    saving = {"model": ["taq", 0], "filename_prefix": "diffusion_models/small"}
    run, wanted = drawn(["taq", 0], taq=taq, save=("PersonalQSaveTAQModel", saving))
    name = run.ui("text")[0].split(":")[0]
    loaded = ("PersonalQLoadTAQModel", {"file_name": name.removeprefix("diffusion_models/")})
    assert drawn(["load", 0], load=loaded)[1] == wanted
    file = comfy.output / name
    file.write_bytes(file.read_bytes()[:-100])
    run = comfy.run(miniature_graph(load=loaded, text=("PreviewAny", {"source": ["load", 1]})))
    assert not run.ok
    assert "damaged" in run.error
    file.unlink()
