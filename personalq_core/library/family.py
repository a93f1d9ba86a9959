"""What kind of model a file is, and for which base family, from names and shapes of its tensors.

Tensor names are read in all the spellings trainers use: `lora_unet_` with underscores (kohya,
OneTrainer), dotted (diffusers, PEFT, AI-Toolkit, XLabs), with or without a prefix. All rules
therefore search in the names as they are, with `[._]` where spellings differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """What the tensors say."""

    kind: str
    """"lora", "checkpoint", "diffusion_model", "embedding", "vae", "controlnet", "text_encoder",
    "clip_vision" or "unknown"."""
    family: str | None
    """"sd15", "sd20", "sdxl", "sd3", "flux"...; None where the tensors do not tell."""


def identify(shapes: Mapping[str, Shape]) -> Identity:
    """Kind and base family from a header's tensor names and shapes."""
    # The rules search in all names at once, one a line: no name may be two.
    shapes = {name.replace("\n", " "): shape for name, shape in shapes.items()}
    names = "\n".join(shapes)
    kind = _kind(names, shapes)
    if kind == "embedding":
        return Identity(kind, _embedding_family(shapes))
    if kind in ("lora", "checkpoint", "diffusion_model", "controlnet"):
        return Identity(kind, _family(names, shapes))
    return Identity(kind, None)


# --- kind -----------------------------------------------------------------------------------

_LORA = re.compile(
    r"lora_(?:down|up|mid|[AB])\b|lora_linear_layer\.(?:down|up)|[._]lora\d?\.(?:down|up)\b"
    r"|\.hada_[wt]|\.lokr_[wt]|\.oft_(?:blocks|diag)|\.on_input|\.dora_scale|\.diff(?:_b)?$"
    r"|^(?:unet|text_encoder):\d+:(?:up|down)$|\.(?:a1|b1)\.weight$",
    re.M,
)
_EMBEDDING = re.compile(r"emb_params|string_to_param\.\S+|clip_[lgh]|t5xxl|<[^<>\n]*>")
_CONTROLNET = re.compile(
    r"^(?:control_model\.|controlnet_|lora_controlnet)|input_hint_block|zero_convs\.\d", re.M
)
_DIFFUSION = re.compile(r"^(?:model\.diffusion_model|model\.model)\.", re.M)
_COMPANION = re.compile(
    r"^(?:first_stage_model|vae|cond_stage_model|conditioner|text_encoders?)\.", re.M
)
_CLIP_VISION = re.compile(r"^(?:vision_model\.|visual\.|vision_encoder\.)", re.M)
_TEXT_ENCODER = re.compile(
    r"^(?:transformer\.)?(?:text_model\.(?:encoder|embeddings)\.|encoder\.block\.\d+\.layer\.\d"
    r"|(?:model\.)?layers\.\d+\.self_attn\.|(?:model\.)?resblocks\.|(?:enc\.|dec\.)?blk\.\d+\.)",
    re.M,
)
_VAE = re.compile(
    r"^(?:first_stage_model\.|vae\.)?(?:taesd_)?(?:encoder|decoder)\.(?:conv|down|up|mid|\d)", re.M
)


def _kind(names: str, shapes: Mapping[str, Shape]) -> str:
    if _CONTROLNET.search(names):
        return "controlnet"
    if _LORA.search(names):
        return "lora"
    if _is_embedding(shapes):
        return "embedding"
    if _DIFFUSION.search(names):
        return "checkpoint" if _COMPANION.search(names) else "diffusion_model"
    # Before the bare diffusion models, whose block names occur inside these too.
    for kind, pattern in (
        ("clip_vision", _CLIP_VISION),
        ("text_encoder", _TEXT_ENCODER),
        ("vae", _VAE),
    ):
        if pattern.search(names):
            return kind
    return "diffusion_model" if _family(names, shapes) else "unknown"


def _is_embedding(shapes: Mapping[str, Shape]) -> bool:
    if len(shapes) > 8 or any(len(shape) not in (1, 2) for shape in shapes.values()):
        return False
    if all(_EMBEDDING.fullmatch(name) for name in shapes):
        return True
    # Textual inversions are also saved under the trigger itself: one table of token vectors.
    (shape, *others) = shapes.values()
    return not others and shape[-1] in _TOKEN_WIDTH and (len(shape) == 1 or shape[0] <= 256)


_TOKEN_WIDTH = {768: "sd15", 1024: "sd20", 1280: "sdxl"}


def _embedding_family(shapes: Mapping[str, Shape]) -> str | None:
    if "clip_g" in shapes:
        return "sd3" if "t5xxl" in shapes else "sdxl"
    return _TOKEN_WIDTH.get(next(iter(shapes.values()))[-1])


# --- family ---------------------------------------------------------------------------------

_UNET = re.compile(
    r"(?:^|[._])(?:down|up|input|output)_blocks[._]\d|(?:mid|middle)_block[._]", re.M
)
_CASCADE = re.compile(
    r"clip_txt_mapper|effnet_mapper|(?:down|up)_blocks[._]\d+[._]\d+[._]kv_mapper"
)
_BFL = re.compile(
    r"(?:double|single)_blocks[._]\d+[._](?:(?:img|txt)_(?:attn|mlp|mod)|linear[12]|modulation"
    r"|processor)"
)

# Names that only one architecture has; the first that occurs decides.
_BY_NAME = [
    (re.compile(pattern, re.M), family)
    for pattern, family in (
        (r"txtfusion[._]|blocks[._]\d+[._]attn[._]wq\b", "krea2"),
        (r"(?:double|single)_stream_blocks[._]\d", "hidream"),
        (r"joint_transformer_blocks[._]\d|double_layers[._]\d+[._](?:attn|mlp)", "auraflow"),
        (r"joint_blocks[._]\d", "sd3"),
        (r"(?:text|visual)_transformer_blocks[._]\d", "kandinsky5"),
        (r"ff[._]conv_inverted|conv_inverted[._]", "sana"),
        (r"blocks[._]\d+[._](?:self|cross)_attn[._](?:[qkvo]|k_img|v_img)\.|blocks[._]\d+[._]ffn[._][02]\.",
         "wan"),
        (r"blocks[._]\d+[._](?:(?:self|cross)_attn[._][qkv]_proj|adaln_modulation_)|llm_adapter[._]",
         "anima"),
        (r"transformer_blocks[._]\d+[._](?:img|txt)_(?:mlp|mod)[._]", "qwen-image"),
        (r"transformer_blocks[._]\d+[._]attn1[._]add_k_proj", "mochi"),
    )
]  # fmt: skip


def _family(names: str, shapes: Mapping[str, Shape]) -> str | None:
    """The first rule whose names occur decides; widths settle what names leave open."""
    if _UNET.search(names):  # first, being by far the commonest
        return "cascade" if _CASCADE.search(names) else _unet_family(names, shapes)
    if _BFL.search(names):
        return _bfl_family(names, shapes)
    for pattern, family in _BY_NAME:
        if pattern.search(names):
            return family
    if "single_transformer_blocks" in names:
        return _flux_diffusers_family(names)
    if "transformer_blocks" in names:
        return _transformer_family(names, shapes)
    if re.search(r"(?:^|[._])layers[._]\d+[._](?:attention|feed_forward|adaLN_mod)", names, re.M):
        width = _width(shapes, names, r"attention[._](?:qkv|to_q|out|to_out)|feed_forward[._]w1")
        return {3840: "z-image", 2304: "lumina2"}.get(width or 0)
    if re.search(r"blocks[._]\d+[._]attn[12][._]to_q", names):
        width = _width(shapes, names, r"attn1[._]to_q")
        return {1408: "hunyuan-dit", 1536: "wan", 3072: "wan", 5120: "wan"}.get(width or 0)
    return _legacy_family(names, shapes)


def _bfl_family(names: str, shapes: Mapping[str, Shape]) -> str | None:
    """Flux in its authors' names, and the models built after it."""
    if "distilled_guidance_layer" in names:
        return "chroma"
    # HunyuanVideo has one double block and two single blocks more than Flux.
    if (
        re.search(r"img_mlp[._]fc1|img_mod[._]linear|individual_token_refiner", names)
        or _last_index(names, "double_blocks") > 18
    ):
        return "hunyuan-video"
    if "double_stream_modulation" in names or _last_index(names, "single_blocks") > 37:
        return "flux2"
    width = _width(shapes, names, r"img_attn[._](?:qkv|proj)|linear1|qkv_lora1")
    hidden = _width(shapes, names, r"img_mlp[._]2")
    if width not in (None, 3072) or hidden == 9216:
        return "flux2"
    return "flux"


def _flux_diffusers_family(names: str) -> str | None:
    if re.search(r"to_qkv_mlp_proj|double_stream_modulation", names):
        return "flux2"
    if "token_refiner" in names or _last_index(names, "single_transformer_blocks") > 37:
        return "hunyuan-video"
    return "flux"


def _transformer_family(names: str, shapes: Mapping[str, Shape]) -> str | None:
    """Diffusion transformers in diffusers' names: their width tells them apart."""
    if re.search(r"transformer_blocks[._]\d+[._]attn2[._]", names):
        width = _width(shapes, names, r"attn1[._]to_q")
        return {1152: "pixart", 2048: "ltxv", 4096: "ltxv"}.get(width or 0)
    if re.search(r"transformer_blocks[._]\d+[._]attn1[._]", names):
        width = _width(shapes, names, r"attn1[._]to_q")
        return {1920: "cogvideox", 3072: "cogvideox"}.get(width or 0)
    width = _width(shapes, names, r"attn[._](?:to|add)_[qkv]")
    if width == 3072:
        return "flux" if "ff_context" in names else "qwen-image"
    return "sd3" if width in (1536, 2432) else None


def _unet_family(names: str, shapes: Mapping[str, Shape]) -> str | None:
    """Stable Diffusion 1, 2 and XL differ in the width of the text their cross-attention reads."""
    if re.search(r"time_stack|temporal_transformer_blocks", names):
        return "svd"
    context = _width(shapes, names, r"attn2[._](?:processor[._])?to_[kv]")
    if context:
        return {768: "sd15", 1024: "sd20", 2048: "sdxl", 1280: "sdxl-refiner"}.get(context)
    # No cross-attention trained: SDXL stacks its transformers and has none at the top level.
    if re.search(r"transformer_blocks[._][2-9]|lora_te2_|text_encoder_2|conditioner\.", names):
        return "sdxl"
    if re.search(r"input_blocks[._][12][._]1|down_blocks[._]0[._]attentions", names):
        return "sd20" if _text_width(names, shapes) == 1024 else "sd15"
    return None


def _legacy_family(names: str, shapes: Mapping[str, Shape]) -> str | None:
    """Text-encoder-only LoRAs, and cloneofsimo's numbered tensors."""
    if re.search(r"^unet:\d+:", names, re.M):
        widths = {_in_width(name, shape) for name, shape in shapes.items() if ":down" in name}
        wide = {768: "sd15", 1024: "sd20", 2048: "sdxl"}
        return next((wide[width] for width in wide if width in widths), None)
    if "lora_te1_" in names and "lora_te2_" in names:
        return "sdxl"
    if re.search(r"^(?:lora_te_|text_encoder[._])", names, re.M):
        return {768: "sd15", 1024: "sd20"}.get(_text_width(names, shapes) or 0)
    return None


def _text_width(names: str, shapes: Mapping[str, Shape]) -> int | None:
    return _width(shapes, names, r"self_attn[._][qkv]_proj")


def _last_index(names: str, block: str) -> int:
    """Highest number of a kind of block, -1 where there is none."""
    found = set(re.findall(rf"{block}[._](\d{{1,4}})(?!\d)", names))
    return max(map(int, found), default=-1)


# --- widths ---------------------------------------------------------------------------------


def _width(shapes: Mapping[str, Shape], names: str, module: str) -> int | None:
    """Number of inputs of the first module whose name matches `module`; None where unknown."""
    for found in re.finditer(rf"^.*(?:{module})(?:[._].*)?$", names, re.M):
        name = found.group()
        width = _lokr_width(name, shapes) if ".lokr_" in name else _in_width(name, shapes[name])
        if width:
            return width
    return None


_NOT_INPUT_SIDE = re.compile(
    r"lora_up|lora_B\b|[._:]up\b|lora_mid|hada_w[12]_a|hada_t|lora_magnitude"
    r"|\.oft_|\.dora_scale|\.(?:a1|a2|b1)\.weight|on_input"
)


def _in_width(name: str, shape: Shape) -> int | None:
    """Inputs of a Linear or Conv2d (out, in, ...), read from one tensor of it or of its LoRA.

    Of a low-rank pair only the part next to the input knows: down / A (rank, in),
    LoHa's `hada_w1_b` (rank, in).
    """
    return None if len(shape) < 2 or _NOT_INPUT_SIDE.search(name) else shape[1]


def _lokr_width(name: str, shapes: Mapping[str, Shape]) -> int | None:
    """LoKr: W = kron(w1, w2), so the inputs multiply; each factor may itself be low-rank."""
    stem = name[: name.index(".lokr_")]
    product = 1
    for factor in ("w1", "w2"):
        shape = shapes.get(f"{stem}.lokr_{factor}") or shapes.get(f"{stem}.lokr_{factor}_b")
        if not shape or len(shape) < 2:
            return None
        product *= shape[1]
    return product


# --- names people and tools give to families --------------------------------------------------

_NAMES = [
    (re.compile(pattern), family)
    for pattern, family in (
        (r"refiner", "sdxl-refiner"),
        (r"hunyuan ?video|^hyvid$", "hunyuan-video"),
        (r"hunyuan", "hunyuan-dit"),
        (r"animate ?diff|motion", "animatediff"),
        (r"pony ?v?7|aura ?flow|^aura$", "auraflow"),
        (r"sdxl|stable diffusion xl|\bxl\b|\bsd ?xl", "sdxl"),
        (r"ssd ?1b|segmind vega|koala|pony|illustrious|\bil\b|noob ?ai|noobxl|animagine", "sdxl"),
        (r"(?:\bsd|stable diffusion) ?v?3", "sd3"),
        (r"krea ?2", "krea2"),
        (r"flux ?(?:v|1)? ?2|flux2|klein", "flux2"),
        (r"chroma", "chroma"),
        (r"flux", "flux"),
        (r"(?:\bsd|stable diffusion) ?v?1|\bsd15", "sd15"),
        (r"(?:\bsd|stable diffusion) ?v?2|\bsd2\d", "sd20"),
        (r"qwen", "qwen-image"),
        (r"\bwan\b|\bwan ?(?:video|\d)", "wan"),
        (r"z ?image", "z-image"),
        (r"\banima\b", "anima"),
        (r"\bcosmos", "cosmos"),
        (r"kolors", "kolors"),
        (r"cascade", "cascade"),
        (r"\bsvd\b|video diffusion", "svd"),
        (r"\bltx", "ltxv"),
        (r"lumina", "lumina2"),
        (r"pix ?art", "pixart"),
        (r"cog ?video", "cogvideox"),
        (r"hi ?dream", "hidream"),
        (r"mochi", "mochi"),
        (r"\bsana\b", "sana"),
        (r"kandinsky", "kandinsky5"),
    )
]  # fmt: skip

FROM_TENSORS = "tensor shapes"
"""Where a card's base family comes from that nothing states; see `ModelCard.sources`."""

FINER = {"chroma": "flux", "cosmos": "anima", "kolors": "sdxl"}
"""Families that share another one's tensor names and shapes: here a stated name knows better."""


def normalise_family(name: str | None) -> str | None:
    """Family of a name such as "SDXL 1.0", "Pony", "Flux.1 D", "sd_v1", "stable-diffusion-xl".

    Pony, Illustrious and NoobAI are fine-tunes of SDXL and load with it: "sdxl". None if unknown.
    """
    if not name:
        return None
    plain = re.sub(r"[\s._/-]+", " ", name[:200].lower()).strip()
    return next((family for pattern, family in _NAMES if pattern.search(plain)), None)


_LINEAGES = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"pony(?!tail)", "Pony"), (r"illustrious|\bil\b", "Illustrious"),
        (r"noob ?ai|noob ?xl", "NoobAI"), (r"animagine", "Animagine"),
        (r"\bturbo\b", "Turbo"), (r"\blightning\b", "Lightning"),
        (r"\bhyper\b", "Hyper"), (r"\blcm\b", "LCM"), (r"\bschnell\b", "Schnell"),
        (r"\bkontext\b", "Kontext"), (r"\bkrea\b", "Krea"), (r"\bklein\b", "Klein"),
    )
]  # fmt: skip


def lineage(name: str) -> str | None:
    """What people call a base beyond its family: "ponyDiffusionV6XL" -> "Pony"; None if nothing.

    Such a base loads what its family does, but its own LoRAs suit it best.
    """
    plain = re.sub(r"[\s._/-]+", " ", name[:200].lower())
    return next((word for pattern, word in _LINEAGES if pattern.search(plain)), None)


_IN_FILE_NAME = re.compile(
    r"(?:sdxl|sd ?1 ?5|sd15|sd ?2 ?1|sd21|sd3 ?5?|pony|illustrious|noobai|flux ?[12]? ?(?:d|dev|s)?"
    r"|qwen|wan ?2 ?[12]|xl)"
)


def family_in_file_name(stem: str) -> str | None:
    """Family named by a whole word of a file name ("bear_v2_SDXL"): a hint, no more."""
    words = re.sub(r"[\s._-]+", " ", stem.lower()).strip()
    for size in (3, 2, 1):
        parts = words.split(" ")
        for start in range(len(parts) - size + 1):
            word = " ".join(parts[start : start + size])
            if _IN_FILE_NAME.fullmatch(word):
                return normalise_family(word)
    return None


def settle_family(stated: str | None, from_tensors: str | None) -> str | None:
    """Tensors cannot be mislabelled, so they win over a stated family unless that one is finer."""
    if stated and (from_tensors is None or FINER.get(stated) == from_tensors):
        return stated
    return from_tensors
