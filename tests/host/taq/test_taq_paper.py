"""The paper's literal TAQ: marked triggers through ComfyUI's batches."""

import importlib

import pytest
import torch

from .models import conditioning, distance, draw


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
    assert found("qx bear in nkws style", "qx; nkws style") == "qx nkws style"
    assert found("qx bear, tall", "tall, qx; elsewhere") == "qx tall"
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
