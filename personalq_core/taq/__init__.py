"""TAQ: trigger-aware quantization. A model and its trigger become a smaller model."""

from .formats import FORMATS, Format
from .plan import KEPT, LayerPlan, TaqPlan, make_plan
from .quantize import TaqError, quantize, size_bytes

__all__ = [
    "FORMATS",
    "KEPT",
    "Format",
    "LayerPlan",
    "TaqError",
    "TaqPlan",
    "make_plan",
    "quantize",
    "size_bytes",
]
