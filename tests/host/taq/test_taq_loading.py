"""Off-loading, dynamic loading and torch.compile around packed layers."""

import importlib

import pytest
import torch

from .models import (
    FAMILIES,
    conditioning,
    distance,
    draw,
    dynamic,
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
