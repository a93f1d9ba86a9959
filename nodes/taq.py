"""TAQ in the graph: the same model in half or a quarter of the memory."""

from __future__ import annotations

import json
import math
import os
from typing import Any

from comfy_api.latest import io

from ..personalq_core.taq import compute
from ..personalq_core.taq.compare import psnr_db, side_by_side, ssim
from ..personalq_core.taq.report import describe
from .host import sampling, taq_file
from .host.marking import marked
from .host.model import notes_of
from .host.preset import (
    FORMER,
    PRESETS,
    PROTECT,
    VARIANTS,
    Protect,
    Wish,
    plainly_rounded,
    quantized_by,
)
from .search import found_as

CATEGORY = "PersonalQ"
COMPUTE = {
    "bfloat16": "bfloat16, measured to be faster than float32 here",
    "int8": "8-bit integers, measured to be faster than float32 here",
    "plain": "in the type that ComfyUI computes in",
}
PRESET_TIP = (
    "8-bit: half the memory, safest. mixed 6-bit: more bits where the concept needs them. "
    "4-bit: less than a third, smallest. paper W8A8: the paper's own method, to compare; slower."
)
TRIGGER_TIP = (
    "The words your concept listens to, from the Check-in Selector; of several, with ; between."
)
CLIP_TIP = (
    "Connect it for 4-bit and mixed 6-bit: scales and bits are then fitted to what the model does "
    "on prompts with the trigger, once for each LoRA and trigger that comes in. Without it 4-bit "
    "is no nearer to the full model than plain rounding."
)
VARIANT_TIP = (
    "For paper W8A8 only. Bits of weights (W) and of what goes into each product (A); attention "
    "rounded in even steps (linear) or to powers of two (log2)."
)
PROTECT_TIP = (
    "For paper W8A8 only: which words stay exact. random: as many other words, the control that "
    "the trigger has to beat."
)
TARGET_TIP = (
    "Size the diffusion model may have, in MB (1,000,000 bytes): bits are spent where they matter. "
    "LoRAs kept beside it come on top. 0: as the preset says."
)
LORA_TIP = (
    "LoRAs that come with the model. beside: kept at 16 bits next to the packed base, so that "
    "another LoRA takes no time. merged: added before packing; a little faster a step, but each "
    "LoRA packs anew."
)
CLASS_TIP = "The plain word for the concept, such as bear; tells the trigger's own effect apart."


class PersonalQTAQQuantize(io.ComfyNode):
    """MODEL -> a smaller MODEL; the one that came in is not touched."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PersonalQTAQQuantize",
            display_name="TAQ Quantize",
            **found_as("quantize model", "int8", "int4", "less VRAM", "compress"),
            category=CATEGORY,
            description="Stores a model's weights in 8 to 4 bits, convolutions included. "
            "LoRAs work before and after it.",
            inputs=[
                io.Model.Input("model"),
                io.String.Input("trigger", default="", optional=True, tooltip=TRIGGER_TIP),
                io.Combo.Input(
                    "format",
                    display_name="preset",
                    options=list(PRESETS),
                    default="8-bit",
                    optional=True,
                    tooltip=PRESET_TIP,
                ),
                *_fitting_inputs(),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip="The picture size to fit to, where CLIP is connected.",
                ),
                *_paper_inputs(),
            ],
            outputs=[
                io.Model.Output("quantized", display_name="model"),
                io.String.Output("report", display_name="report"),
                io.String.Output("report_json", display_name="report (JSON)"),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, format: str = "8-bit") -> bool | str:
        """Also takes the preset names of older workflows."""
        if format in PRESETS or format in FORMER:
            return True
        return f"{format!r} is no preset. Choose one of: {', '.join(PRESETS)}."

    @classmethod
    def execute(
        cls,
        model: Any,
        trigger: str = "",
        format: str = "8-bit",
        target_mb: int = 0,
        lora: str = "beside",
        class_word: str = "",
        clip: Any = None,
        latent_image: Any = None,
        paper_variant: str = next(iter(VARIANTS)),
        protect: Protect = PROTECT[0],
    ) -> io.NodeOutput:
        given = (trigger, class_word, target_mb, lora, clip, latent_image, paper_variant, protect)
        wish = Wish(format, *given)
        quantized, _ = quantized_by(model, wish)
        data, text = _report(quantized)
        return io.NodeOutput(quantized, text, json.dumps(data), ui=_shown(data))


class PersonalQMarkTrigger(io.ComfyNode):
    """CLIP Text Encode that remembers where the trigger stands."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PersonalQMarkTrigger",
            display_name="Mark Trigger",
            **found_as("CLIP text encode", "trigger mask", "protect trigger"),
            category=CATEGORY,
            description="Encodes a prompt like CLIP Text Encode and marks the trigger's words in "
            "it, for the paper preset of TAQ Quantize.",
            inputs=[
                io.Clip.Input("clip"),
                io.String.Input(
                    "text", multiline=True, dynamic_prompts=True, tooltip="The prompt."
                ),
                io.String.Input("trigger", default="", tooltip=TRIGGER_TIP),
                io.Conditioning.Input(
                    "conditioning",
                    optional=True,
                    tooltip="The same prompt as another node encoded it: marked instead of "
                    "encoding it here.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("marked", display_name="conditioning"),
                io.String.Output("found", display_name="report"),
            ],
        )

    @classmethod
    def execute(
        cls, clip: Any, text: str, trigger: str, conditioning: Any = None
    ) -> io.NodeOutput:
        made, tokens = marked(clip, text, trigger, conditioning)
        if tokens:
            found = f'"{trigger.strip()}" is {tokens} token(s) of the prompt; they are marked.'
        elif trigger.strip():
            found = f'"{trigger.strip()}" does not stand in the prompt: nothing is marked.'
        else:
            found = "No trigger is given: nothing is marked."
        return io.NodeOutput(made, found, ui={"text": [found]})


class PersonalQSaveTAQModel(io.ComfyNode):
    """A quantized MODEL -> one file that loads without the original."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PersonalQSaveTAQModel",
            display_name="Save TAQ Model",
            **found_as("save quantized", "export quantized"),
            category=CATEGORY,
            description="Saves a model quantized by TAQ, its LoRAs included, as one file.",
            inputs=[
                io.Model.Input("model"),
                io.String.Input(
                    "filename_prefix",
                    default="diffusion_models/taq",
                    tooltip="Below the output folder; Load TAQ Model looks in diffusion_models/.",
                ),
            ],
            outputs=[io.String.Output("saved_name", display_name="file name")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, filename_prefix: str) -> io.NodeOutput:
        name, size = taq_file.save_model(model, filename_prefix)
        return io.NodeOutput(name, ui={"text": [f"{name}: {size / 1e6:,.1f} MB"]})


class PersonalQLoadTAQModel(io.ComfyNode):
    """A file of Save TAQ Model -> its MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PersonalQLoadTAQModel",
            display_name="Load TAQ Model",
            **found_as("load quantized", "quantized checkpoint"),
            category=CATEGORY,
            description="Loads a model saved by Save TAQ Model, in the time of reading the file.",
            inputs=[io.Combo.Input("file_name", options=taq_file.saved_names())],
            outputs=[
                io.Model.Output("model", display_name="model"),
                io.String.Output("trigger", display_name="trigger"),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file_name: str) -> tuple[int, int]:
        """Runs again where the file is another."""
        stat = os.stat(taq_file.saved_path(file_name))
        return stat.st_size, stat.st_mtime_ns

    @classmethod
    def execute(cls, file_name: str) -> io.NodeOutput:
        model, notes = taq_file.load_model(taq_file.saved_path(file_name))
        data, text = _report(model)
        return io.NodeOutput(model, notes.trigger, text, ui=_shown(data))


class PersonalQTAQCompare(io.ComfyNode):
    """The same seed from the model as it is, rounded plainly, and quantized by TAQ."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PersonalQTAQCompare",
            display_name="TAQ Compare",
            **found_as("compare quantization", "PSNR", "side by side"),
            category=CATEGORY,
            description="Draws one seed three times: full precision, plain rounding, TAQ. "
            "Bytes, and nearness to full precision, stand under each.",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Latent.Input("latent_image"),
                io.Vae.Input("vae"),
                io.Combo.Input(
                    "format", display_name="preset", options=list(PRESETS), tooltip=PRESET_TIP
                ),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
                io.Int.Input("steps", default=20, min=1, max=10_000),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1),
                io.Combo.Input("sampler_name", options=list(sampling.SAMPLERS), default="euler"),
                io.Combo.Input("scheduler", options=list(sampling.SCHEDULERS), default="normal"),
                io.String.Input("trigger", default="", optional=True, tooltip=TRIGGER_TIP),
                *_fitting_inputs(),
                *_paper_inputs(),
            ],
            outputs=[
                io.Image.Output("picture", display_name="image"),
                io.String.Output("report", display_name="report"),
                io.String.Output("report_json", display_name="report (JSON)"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        vae: Any,
        format: str,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        trigger: str = "",
        target_mb: int = 0,
        lora: str = "beside",
        class_word: str = "",
        clip: Any = None,
        paper_variant: str = next(iter(VARIANTS)),
        protect: Protect = PROTECT[0],
    ) -> io.NodeOutput:
        settings = {
            "seed": seed,
            "steps": steps,
            "cfg": cfg,
            "sampler": sampler_name,
            "scheduler": scheduler,
        }

        def draw(which: Any) -> Any:
            return sampling.draw(which, vae, positive, negative, latent_image, **settings)

        full = draw(model)
        given = (trigger, class_word, target_mb, lora, clip, latent_image, paper_variant, protect)
        wish = Wish(format, *given)
        ours, plan = quantized_by(model, wish)
        data, _ = _report(ours)
        rows = [{"system": "full precision", "bytes": data["before_bytes"]}]
        pictures = [full]
        for name, quantized in (("plain rounding", plainly_rounded(model, plan)), ("TAQ", ours)):
            pictures.append(draw(quantized))
            rows.append(
                {
                    "system": name,
                    "bytes": _report(quantized)[0]["after_bytes"],
                    "psnr_db": _in_json(min(psnr_db(pictures[-1], full), 99.0), 2),
                    "ssim": _in_json(ssim(pictures[-1], full), 4),
                }
            )
        captions = [_caption(row) for row in rows]
        sheet = side_by_side([picture.nan_to_num() for picture in pictures], captions)
        text = "\n".join(", ".join(caption) for caption in captions)
        shown = sampling.preview(sheet, cls) | {"personalq_taq_compare": [{"rows": rows}]}
        return io.NodeOutput(sheet, text, json.dumps({"rows": rows} | settings), ui=shown)


def _fitting_inputs() -> list[Any]:
    return [
        io.Int.Input(
            "target_mb", default=0, min=0, max=1_000_000, optional=True, tooltip=TARGET_TIP
        ),
        io.Combo.Input(
            "lora",
            options=["beside", "merged"],
            default="beside",
            optional=True,
            tooltip=LORA_TIP,
        ),
        io.String.Input("class_word", default="", optional=True, tooltip=CLASS_TIP),
        io.Clip.Input("clip", optional=True, tooltip=CLIP_TIP),
    ]


def _paper_inputs() -> list[Any]:
    return [
        io.Combo.Input(
            "paper_variant",
            options=list(VARIANTS),
            default=next(iter(VARIANTS)),
            optional=True,
            tooltip=VARIANT_TIP,
        ),
        io.Combo.Input(
            "protect",
            options=list(PROTECT),
            default=PROTECT[0],
            optional=True,
            tooltip=PROTECT_TIP,
        ),
    ]


def _in_json(number: float, digits: int) -> float | None:
    """Rounded; None where it is not finite, for which JSON has no word."""
    return round(number, digits) if math.isfinite(number) else None


def _caption(row: dict[str, Any]) -> list[str]:
    lines = [row["system"], f"{row['bytes'] / 1e6:,.1f} MB"]
    if "psnr_db" not in row:
        return lines
    if None in (row["psnr_db"], row["ssim"]):
        lines.append("not finite: nothing to compare")
    else:
        lines.append(f"PSNR {row['psnr_db']:.1f} dB, SSIM {row['ssim']:.3f}")
    return lines


def _shown(data: dict[str, Any]) -> dict[str, Any]:
    """For the node's panel: the report without its layer by layer plan."""
    return {"personalq_taq": [{key: value for key, value in data.items() if key != "plan"}]}


def _report(quantized: Any) -> tuple[dict[str, Any], str]:
    notes, model = notes_of(quantized), quantized.model.diffusion_model
    assert notes is not None, "TAQ made it"
    data, text = describe(model, notes.plan, notes.source_bytes, notes.trigger, notes.how)
    data["compute"] = compute.chosen(quantized.load_device)
    data["plan"] = notes.plan.to_json()
    return data, f"{text}\nProducts on this device: {COMPUTE[data['compute']]}."


NODES = [
    PersonalQTAQQuantize,
    PersonalQMarkTrigger,
    PersonalQSaveTAQModel,
    PersonalQLoadTAQModel,
    PersonalQTAQCompare,
]
