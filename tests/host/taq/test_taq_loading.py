"""Off-loading, dynamic loading and torch.compile around packed layers; who may not read them."""

import importlib

import pytest
import torch

from .models import (
    FAMILIES,
    conditioning,
    distance,
    draw,
    dynamic,
    hooks_of,
    load,
    patches_of,
    predict,
    random_source,
)


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


def test_a_patch_of_an_off_loaded_bias_is_the_same_in_each_step(host, tiny):
    small, _ = host.quantized_model(tiny, "int8")
    alone = predict(small)
    after = small.clone()
    bias = "diffusion_model.time_embed.0.bias"
    after.add_patches({bias: ("diff", (0.5 * torch.randn(512),))})
    wanted = predict(after)
    assert distance(wanted, alone) > 0.01
    after.detach()
    after.patch_model(lowvram_model_memory=1)
    assert all(distance(predict(after, loaded=True), wanted) < 1e-4 for _ in range(3))
    after.detach()
    assert torch.equal(predict(small), alone)


@pytest.mark.parametrize("kind", ["LoRA", "LoKr"])
def test_comfyui_knows_what_branches_weigh(host, tiny, kind):
    size_of = importlib.import_module("comfy.model_management").module_size
    here = torch.device("cpu")
    small, _ = host.quantized_model(tiny, "int8")
    bare = small.model_size()
    after = small.clone()
    after.add_patches(patches_of(host, tiny, kind), 1.0)

    def loaded_layers():
        modules = after.model.modules()
        return sum(size_of(m) for m in modules if getattr(m, "comfy_patched_weights", False))

    after.patch_model(here, lowvram_model_memory=0)
    whole = size_of(after.model)
    assert after.loaded_size() == after.model_size() == whole > bare
    buffers = whole - loaded_layers()  # ComfyUI counts them, but cannot off-load them
    group = hooks_of(after, patches_of(host, tiny, kind, 2))
    after.patch_hooks(group)
    freed = after.partially_unload(here, whole // 2)
    assert whole // 2 <= freed < whole
    assert after.loaded_size() == whole - freed == loaded_layers() + buffers
    after.patch_hooks(group)
    after.partially_load(here, 10**9)
    assert after.loaded_size() == after.model_size() == size_of(after.model)
    after.partially_unload(here, 10**9)
    assert after.loaded_size() == buffers
    after.detach()
    assert after.loaded_size() == 0
    for budget in (bare * 11 // 10, 10**9):  # not for all layers, and for all
        after.patch_hooks(group)
        after.patch_model(here, lowvram_model_memory=budget)
        assert after.loaded_size() == loaded_layers()
        after.detach()


def test_a_model_that_is_partly_unloaded_keeps_neither_texts_nor_workspace(host, tiny):
    small, _ = host.quantized_model(tiny, "int8")
    wanted = predict(small)
    layers = [layer for _, layer in host.packed_layers(small.model)]
    assert any(layer.texts for layer in layers)
    layers[0].workspace._lane = object()  # only a GPU fills it
    small.partially_unload(torch.device("cpu"), 1)
    assert not any(layer.texts for layer in layers)
    assert layers[0].workspace._lane is None
    assert distance(predict(small), wanted) < 1e-3


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


def test_a_loader_that_knows_of_no_other_loading_is_told_so(host, tiny):
    def clone(**_):
        raise TypeError("load() got an unexpected keyword argument 'disable_dynamic'")

    tiny.is_dynamic, tiny.clone = lambda: True, clone
    with pytest.raises(host.TaqError, match="disable-dynamic-vram"):
        host.with_weights_at_hand(tiny)


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


def test_a_compiled_model_computes_the_same(host, tiny):
    compiling = importlib.import_module("comfy_api.torch_helpers.torch_compile")
    small, _ = host.quantized_model(tiny, "int8")
    wanted = draw(small, conditioning(1), conditioning(2))
    compiled = small.clone()
    # The same tracing as for any backend, without the minutes of generating code.
    compiling.set_torch_compile_wrapper(compiled, backend="eager")
    assert distance(draw(compiled, conditioning(1), conditioning(2)), wanted) < 1e-3
    assert torch.equal(draw(small, conditioning(1), conditioning(2)), wanted)


@pytest.mark.parametrize("method", ["forward", "_conv_forward"])
def test_a_layer_with_a_method_of_its_own_is_refused_in_words(host, tiny, method):
    """As nodes for seamless textures change them: packing makes layers anew."""
    layer = tiny.model.diffusion_model.get_submodule("out.2")
    whole = getattr(layer, method)
    setattr(layer, method, lambda *given: 0.5 * whole(*given))
    with pytest.raises(host.TaqError, match=rf"out.2.{method}, .* Connect that node after TAQ"):
        host.quantized_model(tiny, "int8")
    setattr(layer, method, whole)  # as nodes take it back
    assert host.quantized_model(tiny, "int8")


def test_what_a_loaded_clone_did_to_a_layer_is_not_the_sources(host, tiny):
    injection = importlib.import_module("comfy.patcher_extension").PatcherInjection
    layer = tiny.model.diffusion_model.get_submodule("out.2")
    whole = layer.forward

    def nothing(x):
        return 0 * whole(x)

    patched, injected = tiny.clone(), tiny.clone()
    patched.add_object_patch("diffusion_model.out.2.forward", nothing)
    put, take = (lambda _, f=f: setattr(layer, "forward", f) for f in (nothing, whole))
    injected.set_injections("another", [injection(inject=put, eject=take)])
    wanted = predict(tiny)
    for clone in (patched, injected):
        load(clone)
        assert layer.forward is nothing
        host._quantized.clear()
        small, _ = host.quantized_model(tiny, "int8")
        assert layer.forward is nothing
        assert distance(predict(small), wanted) < 0.05


def test_comfyuis_own_nodes_do_not_save_codes_as_weights(host, tiny, tmp_path):
    save = importlib.import_module("comfy.sd").save_checkpoint
    small, _ = host.quantized_model(tiny, "int8")
    for number, patcher in enumerate((small, small.clone())):
        path = tmp_path / f"{number}.safetensors"
        with pytest.raises(host.TaqError, match="Use Save TAQ Model"):
            save(str(path), patcher)
        assert not path.exists()
    save(str(path), tiny)
    assert path.exists()


def test_a_control_lora_is_told_that_it_cannot_copy_codes(host, tiny):
    control = importlib.import_module("comfy.controlnet")
    ours, other = control.ControlLora({}), control.ControlBase()
    other.set_previous_controlnet(ours)
    small, _ = host.quantized_model(tiny, "int8")
    for patcher, given in ((small, ours), (small.clone(), other)):
        with pytest.raises(host.TaqError, match="Use a ControlNet that brings its own"):
            draw(patcher, conditioning(1), conditioning(2, control=given))
