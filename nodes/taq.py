"""TAQ in the graph: the same model in half or a third of the memory."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..personalq_core.taq import size_bytes
from ..personalq_core.taq.report import describe
from .host import folders
from .host.model import quantized_model


class PersonalQTAQQuantize(io.ComfyNode):
    """MODEL -> a smaller MODEL; the one that came in is not touched."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PersonalQTAQQuantize",
            display_name="TAQ Quantize",
            category="PersonalQ",
            description="Stores a model's weights in 8 or 4 bits, convolutions included. "
            "LoRAs work before and after it.",
            inputs=[
                io.Model.Input("model"),
                io.String.Input(
                    "trigger",
                    default="",
                    optional=True,
                    tooltip="The words your concept listens to, from the Check-in Selector.",
                ),
                io.Combo.Input(
                    "format",
                    options=["int8", "int4"],
                    default="int8",
                    optional=True,
                    tooltip="int8: half the memory, safest. int4: less than a third, smallest.",
                ),
            ],
            outputs=[
                io.Model.Output("quantized", display_name="model"),
                io.String.Output("report", display_name="report"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, trigger: str = "", format: str = "int8") -> io.NodeOutput:
        quantized, plan = quantized_model(model, format, progress=folders.progress())
        loaded_bytes = size_bytes(model.model.diffusion_model)
        data, text = describe(quantized.model.diffusion_model, plan, loaded_bytes, trigger)
        return io.NodeOutput(quantized, text, ui={"personalq_taq": [data]})


NODES = [PersonalQTAQQuantize]
