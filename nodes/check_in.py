"""Check-in in the graph: choose the model a request means, and load it.

Nothing here waits for a person: an open question blocks the outputs and travels as a ui event; the
answer comes back as the `selection` widget of the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TypeVar

from comfy_api.latest import io

from ..personalq_core.checkin.beside import BASES
from ..personalq_core.checkin.checkin import ASK_ABOVE, CheckIn
from ..personalq_core.checkin.decision import NONE, Decision, parse_selection
from ..personalq_core.checkin.llm import LlmCheckIn
from ..personalq_core.library.card import ModelCard
from ..personalq_core.models.llm import DEFAULT_SECONDS, LlmSettings
from ..personalq_core.taq.triggers import BETWEEN
from .host import folders
from .host.text_encoder import TextEncoderLlm, can_write
from .library import LIBRARY
from .search import found_as

CATEGORY = "PersonalQ"
_Loaded = TypeVar("_Loaded")
DECISION = io.Custom("PERSONALQ_DECISION")
WHEN_UNSURE = ["ask", "best match", "error"]
CANNOT_WRITE = (
    "The connected CLIP is no language model that this ComfyUI can let write; the choice is made "
    "without it."
)
CHANGE = 'press "change" in the Check-in Selector'
NO_VAE = (
    "Load Selected has no VAE: none is connected to it, and no checkpoint with one was chosen. "
    "Connect the VAE of your checkpoint loader to its vae input."
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
                    display_name="when unsure",
                    options=WHEN_UNSURE,
                    default="ask",
                    tooltip="Where several models fit: ask stops and shows them, best match takes "
                    "the first, error fails. Where none fits, error fails too; the other two run "
                    "the plain prompt.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Only models for the base of this one are chosen.",
                ),
                # Last: `widgets_values` of saved workflows are read by position.
                io.Combo.Input(
                    "ask",
                    display_name="ask how often",
                    options=list(ASK_ABOVE),
                    default="normally",
                    optional=True,
                    tooltip="How readily it is unsure because another model may be meant as well. "
                    '"when unsure" says what happens then.',
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
                io.String.Output(
                    "trigger",
                    display_name="trigger",
                    tooltip='Of what was chosen, with "; " between several. For TAQ Quantize.',
                ),
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
                # Last: links of saved workflows count the outputs.
                MODEL_NAME.Output(
                    "diffusion_model_name",
                    display_name="diffusion_model_name",
                    tooltip="For a stock diffusion model loader.",
                ),
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
            decision = decide_as_told(engine, request, selection.strip(), cards, now, family)
        else:
            decision = engine.decide(request, cards, now=now, base_family=family, ask=ask)
        if decision.status == "ask" and when_unsure == "best match":
            decision = engine.best_match(decision, cards, now=now, base_family=family)
        # Whoever answered "none of these" was not unsure.
        unsure = decision.status == "ask" or (decision.status == "none" and not selection.strip())
        if unsure and when_unsure == "error":
            raise ValueError(decision.question or decision.reason)
        return _output(decision.with_notice(*notices))


def decide_as_told(
    engine: CheckIn,
    request: str,
    selection: str,
    cards: Sequence[ModelCard],
    now: datetime,
    family: str | None,
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
            'Put the file back, or press "choose again" in the Check-in Selector '
            "(through the API: leave the selection empty)."
        )
    return engine.confirm(request, cards, card, now=now, base_family=family)


def _output(decision: Decision) -> io.NodeOutput:
    outputs = (
        decision,
        decision.prompt,
        BETWEEN.join(c.card.triggers[0] for c in decision.chosen if c.card.triggers),
        _name_output(decision, "lora"),
        _name_output(decision, "checkpoint"),
        decision.strength,
        decision.reason,
        _name_output(decision, "diffusion_model"),
    )
    if decision.status == "ask":
        outputs = tuple(folders.blocked() for _ in outputs)
    return io.NodeOutput(*outputs, ui={"personalq": [decision.to_json()]})


_CALLED = {"lora": "LoRA", "checkpoint": "checkpoint", "diffusion_model": "diffusion model"}


def _name_output(decision: Decision, kind: str) -> object:
    """The first that was chosen of a kind; a stock loader loads only one."""
    card = next((c.card for c in decision.chosen if c.card.kind == kind), None)
    if card is not None:
        return folders.host_name(card.name)
    return folders.blocked(
        f"Check-in chose no {_CALLED[kind]} for this request, so a stock loader has nothing to "
        "load. Connect Load Selected instead: it passes the model on where nothing was chosen."
    )


class LoadSelected(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PersonalQLoadSelected",
            display_name="Load Selected",
            **found_as("LoRA loader", "apply LoRA", "load checkpoint", "load chosen"),
            category=CATEGORY,
            description="Loads the checkpoint or diffusion model that Check-in chose and applies "
            "the LoRAs it chose. Without a choice the inputs pass.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that the chosen LoRAs are applied to. A chosen checkpoint "
                    "or diffusion model takes its place.",
                ),
                io.Clip.Input(
                    "clip",
                    tooltip="The text encoder that goes with the model. That of a chosen "
                    "checkpoint takes its place.",
                ),
                DECISION.Input("decision", tooltip="From the Check-in Selector."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Multiplies the strength that each LoRA's author prefers.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Passes to the VAE output. That of a chosen checkpoint takes its "
                    "place.",
                ),
            ],
            outputs=[
                io.Model.Output("MODEL"),
                io.Clip.Output("CLIP"),
                # Last: links of saved workflows count the outputs.
                io.Vae.Output(
                    "VAE",
                    tooltip="Of the chosen checkpoint, else the connected one. For VAE Decode.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: object,
        clip: object,
        decision: Decision,
        strength: float,
        vae: object | None = None,
    ) -> io.NodeOutput:
        told = []
        cards = [candidate.card for candidate in decision.chosen]
        base = next((card for card in cards if card.kind in BASES), None)
        if base is not None and base.kind == "checkpoint":
            model, clip, vae, how = _from_checkpoint(base, clip, vae)
            told.append(f"{base.title}: {how}")
        elif base is not None:
            model = _from_diffusion_model(base, model)
            told.append(f"{base.title}: diffusion model loaded; CLIP and VAE pass")
        family = folders.base_family(model)
        for card in (card for card in cards if card.kind == "lora"):
            _refuse_another_family(card, family, base)
            path = _path_of(card)
            weight = strength * (1.0 if card.strength is None else card.strength)
            if weight:
                model, clip = folders.apply_lora(model, clip, path, weight)
                told.append(f"{card.title}: strength {weight:g}")
        if vae is None:
            vae = folders.blocked(NO_VAE)
        told = told or ["Nothing to load: the inputs pass as they are."]
        return io.NodeOutput(model, clip, vae, ui={"text": told})


def _from_checkpoint(
    card: ModelCard, clip: object, vae: object | None
) -> tuple[object, object, object | None, str]:
    """MODEL, CLIP and VAE of a checkpoint, and how it was loaded, in words.

    Files of a diffusion model alone are common: the connected CLIP and VAE go on then.
    Raises ValueError where the file is gone or no checkpoint.
    """
    model, own_clip, own_vae = _loaded(card, folders.load_checkpoint)
    lacking = [name for name, own in (("CLIP", own_clip), ("VAE", own_vae)) if own is None]
    how = "checkpoint loaded"
    if lacking:
        how += f" (no {' and no '.join(lacking)} in the file: the input passes)"
    clip = clip if own_clip is None else own_clip
    vae = vae if own_vae is None else own_vae
    return model, clip, vae, how


def _from_diffusion_model(card: ModelCard, connected: object) -> object:
    """MODEL of a file that holds nothing else.

    Raises ValueError where it is a GGUF file, gone, broken, or for another base than the connected
    model, whose CLIP and VAE go on.
    """
    if card.name.lower().endswith(".gguf"):
        raise ValueError(
            f"{card.name} is a GGUF file, which ComfyUI loads through another node: connect "
            f"diffusion_model_name to a GGUF loader, or {CHANGE}."
        )
    wanted, given = card.base_family, folders.base_family(connected)
    if given and not card.suits(given):
        raise ValueError(
            f"{card.name} is a diffusion model for {wanted}, but the connected model, whose CLIP "
            f"and VAE it is to use, is {given}. Connect a {wanted} model with its CLIP and VAE, or "
            f"{CHANGE}."
        )
    return _loaded(card, folders.load_diffusion_model)


def _loaded(card: ModelCard, load: Callable[[str], _Loaded]) -> _Loaded:
    """What ComfyUI makes of a file. Raises ValueError where that is gone or not sound."""
    path = _path_of(card)
    try:
        return load(path)
    except folders.OUT_OF_MEMORY:
        raise  # nothing is wrong with the file, and ComfyUI says what to do
    except Exception as error:
        said = str(error).partition("\n")[0].replace(path, card.name)
        raise ValueError(
            f"{card.name} cannot be loaded as a {_CALLED[card.kind]}: "
            f"{said or type(error).__name__}. Put a sound file in its place, or {CHANGE}."
        ) from error


def _refuse_another_family(card: ModelCard, family: str | None, under: ModelCard | None) -> None:
    """Raises ValueError for a LoRA of another base than the model it would be applied to.

    `under` is the chosen base, None where that model is the connected one.
    """
    if not family or card.suits(family):
        return
    wanted = card.base_family
    if under is None:
        base, remedy = "the connected model", "Connect the model to Check-in, or load"
    else:
        base, remedy = under.name, "Leave it out of the request, or choose"
    raise ValueError(
        f"{card.name} is a LoRA for {wanted}, but {base} is {family}. {remedy} a {wanted} model."
    )


def _path_of(card: ModelCard) -> str:
    """Raises ValueError where the file has gone since Check-in chose it."""
    path = folders.full_path(card.kind, card.name)
    if path is None:
        folder = folders.FOLDERS[card.kind]
        raise ValueError(
            f"{card.name} is no longer in the {folder} folder. Put it back, or {CHANGE}."
        )
    return path


NODES = [CheckInSelector, LoadSelected]
