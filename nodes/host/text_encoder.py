"""An LLM text encoder that is loaded in the graph anyway, as Check-in's reader.

Newer models read their prompts with a language model (Qwen, Gemma). Where the host can let it write
(`clip.generate`), it answers yes or no here and needs no memory of its own.
"""

from __future__ import annotations

from typing import Any

from ...personalq_core.models.llm import LlmError, believed

_MAX_TOKENS = 4
_STOP = "InterruptProcessingException"
"""ComfyUI's own, when the user stops the run; by name, to need no ComfyUI here."""


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

    in_turn = True
    """In the node's own thread: no other may load models or run one beside ComfyUI's executor."""

    def __init__(self, clip: Any) -> None:
        self._clip = clip

    def yes(self, instruction: str, text: str, seconds: float) -> float:
        """Nothing stops it while it writes, so `seconds` is for whoever asks to keep."""
        try:
            tokens = self._clip.tokenize(
                f"{instruction}\n\n{text}", skip_template=False, min_length=1, thinking=False
            )
            written = self._clip.generate(tokens, do_sample=False, max_length=_MAX_TOKENS)
            said = self._clip.decode(written, skip_special_tokens=True)
        except Exception as error:  # each encoder fails in its own way
            if type(error).__name__ == _STOP:
                raise
            raise LlmError(f"the text encoder cannot answer ({error})") from error
        return believed(said)
