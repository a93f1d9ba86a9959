"""What TAQ Quantize fits to, and finds again: prompts, sizes, targets."""

import copy
import importlib
import json
import re
import types

import pytest
import torch

from .models import random_source


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


def test_all_triggers_are_listened_to(host, nodes, source):
    """The first prompts are for all at once: a plan that tries few takes those."""
    probing = importlib.import_module("personalq_pack.nodes.host.probing")
    heard = []

    class Clip:
        def tokenize(self, text):
            heard.append(text)
            return text

        def encode_from_tokens_scheduled(self, tokens):
            return [[torch.randn(1, 77, 768), {"pooled_output": torch.zeros(1, 768)}]]

    probes = probing.probes(source, Clip(), "brnby bear; nkws style", "bear", None)
    assert {probe.role: probe.prompts for probe in probes} == dict.fromkeys(
        ("trigger", "class", "generic"), 3
    )
    assert heard[:3] == [
        "a photo of nkws style brnby bear on the beach",
        "a painting of brnby bear",
        "nkws style sitting in the snow",
    ]
    heard.clear()
    probing.probes(source, Clip(), "a; b", "", None, probing.MIDDLE, 1)
    assert heard[0] == "a photo of b a on the beach" and len(heard) == 2
    heard.clear()
    (most, *_) = probing.probes(source, Clip(), "a; b; c; d; e", "", None)
    assert most.prompts == 6 and most.run().shape[0] == 6 * len(probing.LEVELS)
    wish = nodes.Wish("4-bit", "brnby bear; nkws style", clip=Clip())
    assert 'with the triggers "brnby bear" and "nkws style"' in wish.how


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
