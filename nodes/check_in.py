"""Check-in in the graph: choose the model a request means, and load it.

Nothing here waits for a person: an open question blocks the outputs and travels as a ui event; the
answer comes back as the `selection` widget of the next run.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

from comfy_api.latest import io

from ..personalq_core.checkin.checkin import ASK_ABOVE, CheckIn
from ..personalq_core.checkin.decision import NONE, Candidate, Decision, parse_selection
from ..personalq_core.checkin.llm import LlmCheckIn
from ..personalq_core.library.card import ModelCard
from ..personalq_core.models.llm import DEFAULT_SECONDS, LlmSettings
from .host import folders
from .host.text_encoder import TextEncoderLlm, can_write
from .library import LIBRARY
from .search import found_as

CATEGORY = "PersonalQ"
DECISION = io.Custom("PERSONALQ_DECISION")
WHEN_UNSURE = ["ask", "best match", "error"]
CANNOT_WRITE = (
    "The connected CLIP is no language model that this ComfyUI can let write; the choice is made "
    "without it."
)
ANSWER = "answer:"
"""Begins a `selection` that is an answer in the user's own words, not a model's name."""


class _AnyComboType(str):
    """A type that also plugs into stock loaders' lists of file names, whose type is the list."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


MODEL_NAME = io.Custom(_AnyComboType("COMBO"))


class CheckInSelector(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PersonalQCheckInSelector",
            display_name="Check-in Selector",
            **found_as("choose LoRA", "find LoRA", "trigger words", "my concept"),
            category=CATEGORY,
            description="Chooses the LoRA or checkpoint that a plain request means, and puts its "
            "trigger into the prompt. Asks where several fit.",
            inputs=[
                io.String.Input(
                    "request",
                    multiline=True,
                    tooltip='What to draw, in your words: "my newest bear on the beach".',
                ),
                io.String.Input(
                    "selection",
                    default="",
                    tooltip="Empty: decide by the request. A click on an answer fills it; "
                    '"none" keeps the plain prompt.',
                ),
                io.Combo.Input(
                    "when_unsure",
                    options=WHEN_UNSURE,
                    default="ask",
                    tooltip="Where several models fit: stop and ask, take the best, or fail.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Only models for the base of this one are chosen.",
                ),
                # Last: `widgets_values` of saved workflows are read by position.
                io.Combo.Input(
                    "ask",
                    options=list(ASK_ABOVE),
                    default="normally",
                    optional=True,
                    tooltip="How readily to ask where another model may be meant as well.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Where its text encoder is a language model (Qwen, Gemma), that reads "
                    "the few close candidates.",
                ),
            ],
            outputs=[
                DECISION.Output("decision", display_name="decision", tooltip="For Load Selected."),
                io.String.Output(
                    "prompt",
                    display_name="prompt",
                    tooltip="The request with the trigger in place.",
                ),
                io.String.Output("trigger", display_name="trigger"),
                MODEL_NAME.Output(
                    "lora_name", display_name="lora_name", tooltip="For a stock LoRA loader."
                ),
                MODEL_NAME.Output(
                    "checkpoint_name",
                    display_name="checkpoint_name",
                    tooltip="For a stock checkpoint loader.",
                ),
                io.Float.Output("strength", display_name="strength"),
                io.String.Output("text", display_name="text", tooltip="The decision in words."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls, request: str | None = None, when_unsure: str = "ask", ask: str = "normally"
    ) -> bool | str:
        """Choices too: ComfyUI leaves them to a node that validates anything itself."""
        if request is not None and not request.strip():
            return "The request is empty. Say what the picture shall show."
        for name, value, options in (
            ("when_unsure", when_unsure, WHEN_UNSURE), ("ask", ask, list(ASK_ABOVE)),
        ):  # fmt: skip
            if value not in options:
                return f"{name} cannot be {value!r}. Choose one of: {', '.join(options)}."
        return True

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> str:
        return LIBRARY.state()

    @classmethod
    def execute(
        cls,
        request: str,
        selection: str,
        when_unsure: str,
        model: object | None = None,
        ask: str = "normally",
        clip: object | None = None,
    ) -> io.NodeOutput:
        engine, cards, notices = LIBRARY.read()
        if clip is not None and can_write(clip):
            engine.index(cards)
            engine = LlmCheckIn.beside(engine, LlmSettings(TextEncoderLlm(clip), DEFAULT_SECONDS))
        elif clip is not None:
            notices = (*notices, CANNOT_WRITE)
        family = folders.base_family(model) if model is not None else None
        now = datetime.now(timezone.utc)
        if selection.startswith(ANSWER):
            said = selection.removeprefix(ANSWER)
            decision = engine.decide(
                request, cards, now=now, base_family=family, ask=ask, answer=said
            )
        elif selection.strip():
            decision = decide_as_told(engine, request, selection.strip(), cards, now)
        else:
            decision = engine.decide(request, cards, now=now, base_family=family, ask=ask)
        if decision.status == "ask" and when_unsure == "best match":
            best = decision.candidates[0].card
            decision = engine.confirm(request, cards, best, now=now).with_notice(
                "Several models fit; this is the best match."
            )
        if decision.status != "chosen" and when_unsure == "error" and selection != NONE:
            raise ValueError(decision.question or decision.reason)
        return _output(decision.with_notice(*notices))


def decide_as_told(
    engine: CheckIn, request: str, selection: str, cards: Sequence[ModelCard], now: datetime
) -> Decision:
    """The decision that a saved selection stands for.

    Raises ValueError where its file is neither under its name nor anywhere else.
    """
    if selection == NONE:
        return Decision("none", request, request, "You chose none of the models.")
    kind, name, fingerprint = parse_selection(selection)
    same_content = [c for c in cards if c.kind == kind and c.fingerprint == fingerprint]
    by_name = [card for card in same_content if card.name == name]
    card = next(iter(by_name or same_content), None)
    if card is None:
        folder = folders.FOLDERS.get(kind, kind)
        changed = any(c.kind == kind and c.name == name for c in cards)
        problem = "is another file than the one selected" if changed else "is not there"
        raise ValueError(
            f"The selected {kind} {name} {problem} (folder {folder}). "
            "Put the file back, or clear the selection and choose again."
        )
    return engine.confirm(request, cards, card, now=now)


def _output(decision: Decision) -> io.NodeOutput:
    ui = {"personalq": [decision.to_json()]}
    if decision.status == "ask":
        return io.NodeOutput(*[folders.blocked()] * 7, ui=ui)
    return io.NodeOutput(
        decision,
        decision.prompt,
        decision.trigger,
        _name_output(decision.choice, "lora"),
        _name_output(decision.choice, "checkpoint"),
        decision.strength,
        decision.reason,
        ui=ui,
    )


def _name_output(choice: Candidate | None, kind: str) -> object:
    if choice is not None and choice.card.kind == kind:
        return folders.host_name(choice.card.name)
    return folders.blocked(f"Check-in chose no {kind} for this request.")


class LoadSelected(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PersonalQLoadSelected",
            display_name="Load Selected",
            **found_as("LoRA loader", "apply LoRA", "load chosen"),
            category=CATEGORY,
            description="Applies the LoRAs that Check-in chose. Without a choice the inputs pass.",
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                DECISION.Input("decision"),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Multiplies the strength that each LoRA's author prefers.",
                ),
            ],
            outputs=[io.Model.Output("MODEL"), io.Clip.Output("CLIP")],
        )

    @classmethod
    def execute(
        cls, model: object, clip: object, decision: Decision, strength: float
    ) -> io.NodeOutput:
        family = folders.base_family(model)
        applied = []
        for candidate in decision.chosen:
            card = candidate.card
            if card.kind != "lora":
                continue
            if family and card.base_family and card.base_family != family:
                raise ValueError(
                    f"{card.name} is a LoRA for {card.base_family}, but the connected model is "
                    f"{family}. Connect the model to Check-in, or load a {card.base_family} model."
                )
            path = folders.full_path(card.kind, card.name)
            if path is None:
                raise ValueError(
                    f"{card.name} is no longer in the loras folder. Put it back or choose again."
                )
            weight = strength * (1.0 if card.strength is None else card.strength)
            if weight:
                model, clip = folders.apply_lora(model, clip, path, weight)
                applied.append(f"{card.title}: strength {weight:g}")
        told = applied or ["No LoRA: model and CLIP pass as they are."]
        return io.NodeOutput(model, clip, ui={"text": told})


NODES = [CheckInSelector, LoadSelected]
