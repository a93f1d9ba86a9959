"""An LLM text encoder that is loaded in the graph anyway, as Check-in's reader.

Newer models read their prompts with a language model (Qwen, Gemma). Where the host can let it write
(`clip.generate`), it answers yes or no here and needs no memory of its own.
"""

from __future__ import annotations

import threading
from typing import Any

from ...personalq_core.models.llm import LlmError, believed

_MAX_TOKENS = 4


def can_write(clip: Any) -> bool:
    """Whether a CLIP's text encoder is a language model that the host can let write.

    Every CLIP of newer hosts has `generate`; the network inside it has it only where it can.
    """
    model = getattr(clip, "cond_stage_model", None)
    encoder = getattr(model, getattr(model, "clip", ""), model)
    network = getattr(encoder, "transformer", encoder)
    return all(callable(getattr(part, "generate", None)) for part in (clip, network))


class TextEncoderLlm:
    """A CLIP that answers yes or no. It tells no probabilities, so its word is believed by .9."""

    def __init__(self, clip: Any) -> None:
        self._clip = clip
        self._one_at_a_time = threading.Lock()

    def yes(self, instruction: str, text: str, seconds: float) -> float:
        if not self._one_at_a_time.acquire(timeout=seconds):
            raise LlmError(f"the text encoder took longer than {seconds:g} seconds")
        try:
            tokens = self._clip.tokenize(
                f"{instruction}\n\n{text}", skip_template=False, min_length=1, thinking=False
            )
            written = self._clip.generate(tokens, do_sample=False, max_length=_MAX_TOKENS)
            said = self._clip.decode(written, skip_special_tokens=True)
        except Exception as error:  # each encoder fails in its own way
            raise LlmError(f"the text encoder cannot answer ({error})") from error
        finally:
            self._one_at_a_time.release()
        return believed(said)
