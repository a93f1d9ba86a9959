"""The trigger's place in a prompt, from the text encoder to the cross-attention.

A conditioning carries what each of its tokens is. ComfyUI batches conditionings in any order and
repeats the shorter ones: they are told apart by their ids, anew for each call of the model.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor, nn

from ...personalq_core.taq import literal
from ...personalq_core.taq.triggers import triggers_in

KEY = "personalq_token_roles"
"""Of the conditioning's extra entries: the roles of its tokens, see `literal.roles`."""
UNMARKED = (literal.START,)
"""Roles of a conditioning that Mark Trigger has not seen: its first token is the start token."""


def marked(
    clip: Any, text: str, trigger: str, conditioning: Any = None
) -> tuple[list, int]:
    """A CONDITIONING of `text` that knows its trigger, and how many of its tokens the trigger is.

    conditioning: of the same text by another encoder node; without it `clip` encodes the text.
    """
    tokens = clip.tokenize(text)
    of = _roles(clip, tokens, trigger)
    if conditioning is None:
        conditioning = clip.encode_from_tokens_scheduled(tokens)
    made = [[cond, extra | {KEY: tuple(of)}] for cond, extra in conditioning]
    return made, of.count(literal.TRIGGER)


def _roles(clip: Any, tokens: dict[str, list], trigger: str) -> list[int]:
    # Where there are several CLIPs, they cut a text alike; "l" pads with the end token.
    encoder = "l" if "l" in tokens else next(iter(tokens))

    def ids(prompt: str) -> list[list[Any]]:
        return [[token[0] for token in chunk] for chunk in clip.tokenize(prompt)[encoder]]

    end = ids("")[0][1]

    def words(spelling: str) -> list[Any]:
        chunks = ids(spelling)
        kinds = literal.roles(chunks, [], end)
        flat = [token for chunk in chunks for token in chunk]
        return [token for token, kind in zip(flat, kinds) if kind == literal.WORD]

    chunks = [[token[0] for token in chunk] for chunk in tokens[encoder]]

    def spelled(phrases: Sequence[str]) -> list[list[Any]]:
        # Punctuation at its ends may have grown together with the prompt's: "<bear>," is one token
        # less than "<bear> ,".
        bare = [re.sub(r"^\W+|\W+$", "", phrase) for phrase in phrases]
        return [
            words(space + re.sub(r"(?<!\\)([()])", r"\\\1", phrase.strip()))
            for phrase in (*phrases, *bare)
            for space in ("", " ")
        ]

    spellings: list[list[Any]] = []
    for each in triggers_in(trigger):
        whole = spelled([each])
        stands = literal.TRIGGER in literal.roles(chunks, whole, end)
        spellings += whole if stands else spelled(each.split(","))
    return literal.roles(chunks, spellings, end)


@dataclass(frozen=True, slots=True)
class Paper:
    """The paper's setting: bits of weights and activations, how attention is rounded, what stays
    exact."""

    weights: str
    activation_bits: int
    attention: str
    protect: literal.Protect


class MarkedRows(literal.Rows):
    """The exact rows of each call, by the marks of the conditionings in its batch."""

    def __init__(self, protect: literal.Protect):
        super().__init__()
        self.protect: literal.Protect = protect
        self.masks: dict[Any, Tensor] = {}

    def read(self, conds: Sequence[Sequence[dict] | None]) -> None:
        """Take the marks of the conditionings that the sampler now has."""
        texts = [
            cond
            for some in conds
            if some is not None
            for cond in some
            if "c_crossattn" in cond.get("model_conds", {})
        ]
        if all(cond["uuid"] in self.masks for cond in texts):
            return
        self.masks = {cond["uuid"]: self._mask(cond) for cond in texts}
        if "trigger" in self.protect and not any(KEY in cond for cond in texts):
            logging.warning(
                "PersonalQ: no prompt has its trigger marked, so TAQ rounds all words alike. "
                "Encode the prompt with Mark Trigger."
            )

    def _mask(self, cond: dict[str, Any]) -> Tensor:
        """Mask (tokens,) of a conditioning; what other nodes appended to its text is padding."""
        tokens = cond["model_conds"]["c_crossattn"].cond.shape[1]
        of = cond.get(KEY, UNMARKED)[:tokens]
        return literal.exact_rows([*of, *[literal.PADDING] * (tokens - len(of))], self.protect)

    def enter(self, uuids: Sequence[Any], text: Tensor | None) -> None:
        """The model is called with (batch, tokens, width), for each uuid an equal part of it."""
        self.mask = None
        if text is None or not uuids or any(uuid not in self.masks for uuid in uuids):
            return
        batch, tokens = text.shape[:2]
        masks = [self.masks[uuid] for uuid in uuids]
        whole = torch.stack([mask.repeat(tokens // len(mask)) for mask in masks])
        self.mask = whole.repeat_interleave(batch // len(uuids), 0)


def simulate_paper(model: nn.Module, weight_of: Any, paper: Paper) -> None:
    """Let a packed diffusion model run as the paper has it; raises ValueError."""
    rows = MarkedRows(paper.protect)
    literal.simulate(model, weight_of, paper.activation_bits, paper.attention, rows)

    def begin(_: nn.Module, args: tuple, given: dict[str, Any]) -> None:
        options = given.get("transformer_options") or {}
        text = given.get("context", args[2] if len(args) > 2 else None)
        rows.enter(options.get("uuids", ()), text)

    model.register_forward_pre_hook(begin, with_kwargs=True)


def listen(patcher: Any) -> None:
    """Let a MODEL in the paper's setting hear the marks of its conditionings while it samples."""
    rows = next(
        module.rows
        for module in patcher.model.modules()
        if isinstance(module, literal.ProtectedAttention) and isinstance(module.rows, MarkedRows)
    )

    def read_marks(executor: Any, model: Any, conds: Any, *args: Any, **kwargs: Any) -> Any:
        rows.read(conds)
        return executor(model, conds, *args, **kwargs)

    kind = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH
    patcher.remove_wrappers_with_key(kind, KEY)
    patcher.add_wrapper_with_key(kind, KEY, read_marks)

