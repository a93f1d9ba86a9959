"""TAQ Quantize inside ComfyUI's own classes: bytes, copies, what is refused."""

import gc
import importlib
import json
import weakref

import pytest
import torch

from .models import distance, load, patches_of, predict, random_source


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


@pytest.fixture
def files(host, tmp_path, monkeypatch):
    """nodes/host/taq_file.py, its output folder a fresh one."""
    module = importlib.import_module("personalq_pack.nodes.host.taq_file")
    monkeypatch.setattr(module.folder_paths, "get_output_directory", lambda: str(tmp_path))
    return module


def test_a_saved_models_latent_is_the_one_it_had(host, source, files, tmp_path):
    """ComfyUI sees it from the checkpoint, which is not there any more: of Playground 2.5, say."""
    formats = importlib.import_module("comfy.latent_formats")
    source.model.latent_format = formats.SDXL_Playground_2_5()
    path = tmp_path / files.save_model(host.quantized_model(source, "int8")[0], "x/y")[0]

    def kind(of):
        held = files.file.load(path)
        held.host.pop("latent_format", None)
        files.file.save(path, files.file.TaqFile(**vars(held) | {"host": held.host | of}))
        return type(files.load_model(str(path))[0].model.latent_format)

    assert type(files.load_model(str(path))[0].model.latent_format) is formats.SDXL_Playground_2_5
    assert kind({}) is formats.SD15
    for name in ("torch", "NoFormat", 5):
        with pytest.raises(host.TaqError, match=f"no latent format {name}.* Update ComfyUI"):
            kind({"latent_format": name})
    for settings in ({"beta_schedule": "steep"}, {"timesteps": "many"}, {"timesteps": -1}, 5):
        with pytest.raises(host.TaqError, match="Update ComfyUI"):
            kind({"sampling_settings": settings})


def test_what_no_weight_says_is_not_saved_without_a_word(host, tiny, files):
    extension = importlib.import_module("comfy.patcher_extension")
    base = importlib.import_module("comfy.model_base")
    small, _ = host.quantized_model(tiny, "int8")
    bypassed, resampled = small.clone(), small.clone()
    nothing = extension.PatcherInjection(inject=lambda _: None, eject=lambda _: None)
    bypassed.set_injections("bypass_lora", [nothing])
    with pytest.raises(host.TaqError, match="ordinary LoRA loader"):
        files.save_model(bypassed, "x/y")
    other = base.model_sampling(tiny.model.model_config, base.ModelType.V_PREDICTION)
    resampled.add_object_patch("model_sampling", other)
    with pytest.raises(host.TaqError, match=r"model_sampling.* after Load TAQ Model"):
        files.save_model(resampled, "x/y")


def test_a_file_that_is_written_anew_does_not_reach_the_text_of_the_model_from_it(
    host, source, files, tmp_path
):
    small, _ = host.quantized_model(source, "int8")
    path = tmp_path / files.save_model(small, "x/y")[0]
    back, _ = files.load_model(str(path))
    with open(path, "r+b") as written:
        written.write(bytes(path.stat().st_size))
    for name, layer in host.packed_layers(back.model):
        if layer.host is not None:
            was = small.model.get_submodule(name)
            assert torch.equal(layer.packed.codes, was.packed.codes)


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
    said = {"format": "float8_e4m3fn", "params": {}}
    kinds = ops.mixed_precision_ops({"deep": said})
    if not convolutions:
        tiny.model.diffusion_model = torch.nn.Module()
    tiny.model.diffusion_model.deep = kinds.Linear(128, 128, dtype=torch.bfloat16)
    stored = {
        "deep.weight": torch.randn(128, 128).to(torch.float8_e4m3fn),
        "deep.weight_scale": torch.tensor(1.0),
        "deep.bias": torch.zeros(128),
        # Where newer versions look for what older ones are told beforehand.
        "deep.comfy_quant": torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8),
    }
    tiny.model.diffusion_model.load_state_dict(stored, strict=False)
    with pytest.raises(host.TaqError, match=r"\(deep.weight is stored as QuantizedTensor\)"):
        host.quantized_model(tiny, "int8")


def test_copies_of_the_source_on_other_gpus_do_not_come_along(host, tiny):
    tiny.set_additional_models("multigpu", [tiny.clone()])
    small, _ = host.quantized_model(tiny, "int8")
    assert small.get_additional_models_with_key("multigpu") == []
    assert tiny.get_additional_models_with_key("multigpu")


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


def test_what_is_not_packed_takes_the_type_that_the_model_computes_in(host, tiny):
    # Newer versions of ComfyUI leave a parameter in its file's type and note the model's beside it.
    block = tiny.model.diffusion_model.out[0]
    block.weight_comfy_model_dtype = torch.float16
    small, _ = host.quantized_model(tiny, "int8")
    made = small.model.diffusion_model.out[0]
    assert made.weight.dtype == torch.float16
    assert made.bias.dtype == block.weight.dtype == torch.float32


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


def test_plain_rounding_takes_the_same_bytes_and_loses_more(host, nodes, source):
    wanted = predict(source)
    ours, plan = nodes.quantized_by(source, nodes.Wish("4-bit"))
    plain = nodes.plainly_rounded(source, plan)
    assert plain.model_size() == ours.model_size()
    assert distance(predict(ours), wanted) < distance(predict(plain), wanted)
    assert nodes.quantized_by(source, nodes.Wish("4-bit"))[0].model is ours.model
