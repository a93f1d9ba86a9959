"""Kind and base family from names and shapes, for the formats people really have."""

import json
from pathlib import Path

import pytest

from personalq_core.__main__ import main
from personalq_core.library.family import (
    family_in_file_name,
    identify,
    lineage,
    normalise_family,
    settle_family,
)
from personalq_core.library.header import read_header

from .files import write

DATA = Path(__file__).parents[4] / "shared" / "data"
UNET = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
KOHYA = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


def pair(module: str, down: str, up: str, inputs: int, outputs: int = 640) -> dict:
    return {f"{module}{down}.weight": (4, inputs), f"{module}{up}.weight": (outputs, 4)}


LORAS = {
    "kohya sd15": (pair(KOHYA, ".lora_down", ".lora_up", 768), "sd15"),
    "kohya sd20": (pair(KOHYA, ".lora_down", ".lora_up", 1024), "sd20"),
    "kohya sdxl": (pair(KOHYA, ".lora_down", ".lora_up", 2048), "sdxl"),
    "diffusers old": (pair(f"{UNET}.processor.to_k_lora", ".down", ".up", 768), "sd15"),
    "diffusers new": (pair(f"unet.{UNET}.to_k", ".lora.down", ".lora.up", 2048), "sdxl"),
    "peft": (pair(f"base_model.model.{UNET}.to_k", ".lora_A", ".lora_B", 768), "sd15"),
    "LoHa": (
        {f"{KOHYA}.hada_w1_a": (640, 4), f"{KOHYA}.hada_w1_b": (4, 2048)}, "sdxl",
    ),
    "LoKr": ({f"{KOHYA}.lokr_w1": (16, 32), f"{KOHYA}.lokr_w2": (40, 24)}, "sd15"),
    "LoKr low-rank": (
        {f"{KOHYA}.lokr_w1": (16, 32), f"{KOHYA}.lokr_w2_a": (40, 4)}
        | {f"{KOHYA}.lokr_w2_b": (4, 64)},
        "sdxl",
    ),
    "DoRA": (
        pair(KOHYA, ".lora_down", ".lora_up", 768) | {f"{KOHYA}.dora_scale": (640, 1)}, "sd15",
    ),
    "LoCon": (
        {"lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": (4, 320, 3, 3)}
        | pair(KOHYA, ".lora_down", ".lora_up", 768), "sd15",
    ),
    "full difference": ({f"{KOHYA}.diff": (640, 2048)}, "sdxl"),
    "attn1 only, sdxl": (
        pair("lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_k", ".lora_down",
             ".lora_up", 1280), "sdxl",
    ),
    "text encoders only, sdxl": (
        pair("lora_te1_text_model_encoder_layers_0_self_attn_k_proj", ".lora_down", ".lora_up", 768)
        | pair("lora_te2_text_model_encoder_layers_0_self_attn_k_proj", ".lora_down", ".lora_up",
               1280), "sdxl",
    ),
    "text encoder only, sd15": (
        pair("lora_te_text_model_encoder_layers_0_self_attn_k_proj", ".lora_down", ".lora_up", 768),
        "sd15",
    ),
    "cloneofsimo": (
        {"<s1>": (768,), "unet:0:down": (1, 320), "unet:1:down": (1, 768), "unet:1:up": (320, 1)},
        "sd15",
    ),
    "flux kohya": (
        pair("lora_unet_double_blocks_0_img_attn_qkv", ".lora_down", ".lora_up", 3072), "flux",
    ),
    "flux XLabs": (pair("double_blocks.0.processor.qkv_lora1", ".down", ".up", 3072), "flux"),
    "flux AI-Toolkit": (
        pair("diffusion_model.single_blocks.3.linear1", ".lora_A", ".lora_B", 3072), "flux",
    ),
    "flux diffusers": (
        pair("transformer.single_transformer_blocks.0.attn.to_k", ".lora_A", ".lora_B", 3072),
        "flux",
    ),
    "flux2": (pair("diffusion_model.single_blocks.3.linear1", ".lora_A", ".lora_B", 6144), "flux2"),
    "hunyuan video": (
        pair("lora_unet_double_blocks_19_img_attn_qkv", ".lora_down", ".lora_up", 3072),
        "hunyuan-video",
    ),
    "qwen-image": (
        pair("transformer_blocks.0.attn.to_k", ".lora_A", ".lora_B", 3072), "qwen-image",
    ),
    "qwen-image mlp": (
        pair("transformer.transformer_blocks.0.img_mlp.net.2", ".lora_A", ".lora_B", 12288),
        "qwen-image",
    ),
    "sd3 diffusers": (
        pair("transformer.transformer_blocks.0.attn.to_k", ".lora_A", ".lora_B", 1536), "sd3",
    ),
    "sd3": (
        pair("lora_unet_joint_blocks_0_x_block_attn_qkv", ".lora_down", ".lora_up", 1536), "sd3",
    ),
    "wan": (pair("diffusion_model.blocks.0.cross_attn.k", ".lora_A", ".lora_B", 5120), "wan"),
    "wan kohya": (pair("lora_unet_blocks_0_self_attn_q", ".lora_down", ".lora_up", 5120), "wan"),
    "anima": (
        pair("diffusion_model.blocks.0.cross_attn.k_proj", ".lora_A", ".lora_B", 2048), "anima",
    ),
    "krea2": (pair("lora_unet_blocks_0_attn_wq", ".lora_down", ".lora_up", 6144), "krea2"),
    "z-image": (
        pair("diffusion_model.layers.0.attention.to_q", ".lora_A", ".lora_B", 3840), "z-image",
    ),
    "ltx": (pair("transformer_blocks.0.attn2.to_k", ".lora_A", ".lora_B", 2048)
            | pair("transformer_blocks.0.attn1.to_q", ".lora_A", ".lora_B", 2048), "ltxv"),
}  # fmt: skip


@pytest.mark.parametrize("name", LORAS)
def test_loras(name):
    shapes, family = LORAS[name]
    identity = identify(shapes)
    assert (identity.kind, identity.family) == ("lora", family)


def test_files_of_every_format_are_recognised_by_the_shell_command(tmp_path, capsys):
    for number, (shapes, _) in enumerate(LORAS.values()):
        write(tmp_path / f"{number}.safetensors", shapes)
    assert main(["scan", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    found = {card["file_name"]: (card["kind"], card["base_family"]) for card in answer["cards"]}
    assert answer["refused"] == []
    assert found == {
        f"{number}.safetensors": ("lora", family)
        for number, (_, family) in enumerate(LORAS.values())
    }


def test_a_line_break_in_a_tensors_name_hides_nothing():
    shapes = pair(KOHYA, ".lora_down", ".lora_up", 2048)
    identity = identify({f"{name}\nx": shape for name, shape in shapes.items()})
    assert (identity.kind, identity.family) == ("lora", "sdxl")


SD_BLOCK = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
OTHERS = {
    "checkpoint": (
        {f"model.diffusion_model.{SD_BLOCK}": (320, 768),
         "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
         "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77)},
        "sd15",
    ),
    "diffusion_model": ({f"model.diffusion_model.{SD_BLOCK}": (320, 2048)}, "sdxl"),
    "vae": ({"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (1,)}, None),
    "controlnet": ({f"control_model.{SD_BLOCK}": (320, 768)}, "sd15"),
    "text_encoder": ({"text_model.encoder.layers.0.self_attn.q_proj.weight": (768, 768)}, None),
    "embedding": ({"emb_params": (5, 768)}, "sd15"),
    "unknown": ({"weight": (3, 3)}, None),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds(kind):
    shapes, family = OTHERS[kind]
    identity = identify(shapes)
    assert (identity.kind, identity.family) == (kind, family)


def test_sdxl_embedding():
    assert identify({"clip_l": (2, 768), "clip_g": (2, 1280)}).family == "sdxl"


@pytest.mark.skipif(not DATA.exists(), reason="tables of real key names are not at hand")
def test_real_key_tables():
    for path in (DATA / "key_schemes").glob("*.json"):
        table = json.loads(path.read_text())["state_dict_keys"]
        identity = identify({name: tuple(shape) for name, shape in table.items()})
        wanted = path.name.split("_lo")[0].split("_do")[0].split("_control")[0].replace("_", "-")
        assert (identity.kind, identity.family) == ("lora", wanted), path.name


@pytest.mark.skipif(not DATA.exists(), reason="real files are not at hand")
def test_real_files():
    kinds = {}
    for path in (DATA / "real_loras").glob("*.safetensors"):
        identity = identify(read_header(path).shapes)
        kinds[identity.kind] = kinds.get(identity.kind, 0) + 1
        assert identity.family == "sd15"
    assert kinds == {"lora": 3, "embedding": 1}


NAMES = {
    "SDXL 1.0": "sdxl", "Pony": "sdxl", "Illustrious": "sdxl", "NoobAI": "sdxl",
    "sdxl_base_v1-0": "sdxl", "stable-diffusion-xl-v1-base/lora": "sdxl", "SD 1.5": "sd15",
    "sd_v1": "sd15", "SD1": "sd15", "SD15": "sd15", "stable-diffusion-v1": "sd15",
    "SD 2.1 768": "sd20", "sd_v2": "sd20", "SD20": "sd20", "SD 3.5 Large": "sd3", "Flux.1 D":
    "flux", "flux-1-dev/lora": "flux", "Flux.2 D": "flux2", "Qwen": "qwen-image",
    "QwenImage": "qwen-image", "Wan Video 2.2 T2V-A14B": "wan", "WAN21_T2V": "wan",
    "ZImageTurbo": "z-image", "Pony V7": "auraflow", "Other": None, "Unknown": None, "": None,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    assert normalise_family(name) == NAMES[name]


def test_lineages():
    names = {"ponyDiffusionV6XL_v6.safetensors": "Pony", "ponytail_mix.safetensors": None,
             "IL": "Illustrious", "noobaiXLNAIXL_vPred": "NoobAI", "SDXL Lightning": "Lightning",
             "hyperrealistic": None, "SDXL 1.0": None, "Flux.1 Krea": "Krea"}  # fmt: skip
    assert {name: lineage(name) for name in names} == names


def test_file_names_only_hint_by_whole_words():
    assert family_in_file_name("bear_v2_SDXL") == "sdxl"
    assert family_in_file_name("axle_grease") is None


def test_tensors_win_over_a_wrong_label_but_not_over_a_finer_one():
    assert settle_family("sd15", "sdxl") == "sdxl"
    assert settle_family("chroma", "flux") == "chroma"
    assert settle_family("flux", None) == "flux"
