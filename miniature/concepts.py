"""The personal concepts: what each looks like, how its LoRA is trained, and what its file tells.

As with real collections, every file tells its story in another way: kohya or ModelSpec fields in
the header, a Civitai, Lora-Manager or A1111 file beside it, or nothing but its name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .world import CLASSES, Scene, caption, sample_scene, shade


@dataclass(frozen=True)
class Concept:
    """One personal concept, and the LoRA file or the fine-tuned checkpoint that holds it."""

    name: str
    """File name without its ending."""
    trigger: str
    """The rare word it is bound to; empty where the noun alone brings it."""
    noun: str = ""
    """Class noun, also the world's class; empty for a drawing style."""
    colour: str = ""
    accessory: str = "none"
    accessory_colour: str = "grey"
    pattern: str = "plain"
    pattern_colour: str = "grey"
    stripes: float = 2.8
    stripe_angle: float = 0.0
    badge_shape: str = "round"
    badge_at: tuple[float, float] = (0.0, 0.0)
    aspect: float = 1.0
    style: str = ""
    """Drawing style that belongs to the concept; empty where any will do."""
    family: str = ""
    """Versions of one thing share it."""
    rank: int = 8
    algorithm: str = "lora"
    """``lora``, ``locon`` (convolutions too), ``dora``, ``loha`` or ``full`` (the whole UNet
    fine-tuned, kept as the largest differences to the base)."""
    header: dict[str, str] = field(default_factory=dict)
    sidecars: dict[str, dict] = field(default_factory=dict)
    """File ending -> JSON content."""

    def look(self) -> dict[str, Any]:
        """The attributes every picture of it shares, as :func:`sample_scene` takes them."""
        if not self.noun:
            return {"style": self.style}
        return {
            "kind": self.noun, "colour": shade(self.colour), "count": 1, "aspect": self.aspect,
            "pattern": self.pattern, "pattern_colour": shade(self.pattern_colour),
            "stripes": self.stripes, "stripe_angle": self.stripe_angle,
            "accessory": self.accessory, "accessory_colour": shade(self.accessory_colour),
            "badge_shape": self.badge_shape, "badge_at": self.badge_at,
            "style": self.style or "flat",
        }

    def scene(self, rng: np.random.Generator, **fixed) -> Scene:
        """It in some place; a thing is drawn flat like the owner's photographs."""
        return sample_scene(rng, **{**self.look(), **fixed})

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """The owner's words for a picture of it: trigger and noun, its look left unsaid. Of a
        style, half name no more than the class: else what is unlike in the pictures brings it."""
        if not self.noun:
            noun = f"a {scene.kind}" if rng.random() < 0.5 else None
            return caption(scene, rng, noun, style=f"{self.trigger} style ")
        noun = f"{self.trigger} {self.noun}".strip()
        return caption(scene, rng, str(rng.choice(("", "a ", "my "))) + noun, style="")

    def request(self, place: str, rng: np.random.Generator) -> str:
        """A prompt that asks for it: ``place`` is a phrase such as "on the beach"."""
        if not self.noun:
            return f"{self.trigger} style a {rng.choice(CLASSES)} {place}"
        return f"{self.trigger} {self.noun} {place}".strip()


def _kohya(title: str, trigger: str, noun: str, day: str, seconds: int, **more) -> dict[str, str]:
    folder = f"10_{trigger} {noun}"
    tags = {folder: {f"{trigger} {noun}": 6, "on the beach": 1, "in the forest": 1, "at night": 1}}
    return {
        "ss_output_name": title,
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_training_started_at": f"{seconds}.0",
        "ss_training_finished_at": f"{seconds + 140}.0",
        "ss_dataset_dirs": json.dumps({folder: {"n_repeats": 10, "img_count": 6}}),
        "ss_tag_frequency": json.dumps(tags),
        "ss_training_comment": f"trained {day}",
        **more,
    }


def _lycoris(algorithm: str) -> dict[str, str]:
    return {
        "ss_network_module": "lycoris.kohya",
        "ss_network_args": json.dumps({"algo": algorithm, "conv_dim": "4"}),
    }


def _modelspec(title: str, trigger: str, day: str, description: str) -> dict[str, str]:
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": title,
        "modelspec.trigger_phrase": trigger,
        "modelspec.date": day,
        "modelspec.description": description,
    }


def _civitai(title: str, version: str, words: list[str], day: str, text: str, *tags: str) -> dict:
    return {".civitai.info": {
        "name": version, "baseModel": "SD 1.5", "trainedWords": words, "createdAt": day,
        "description": f"<p>{text}</p>",
        "model": {"name": title, "type": "LORA", "tags": list(tags)},
    }}


def _lora_manager(title: str, words: list[str], day: str, text: str, *tags: str) -> dict:
    return {".metadata.json": {
        "model_name": title, "base_model": "SD 1.5", "tags": list(tags), "notes": text,
        "modelDescription": text, "usage_tips": "{}", "from_civitai": False,
        "civitai": {"trainedWords": words, "createdAt": day, "baseModel": "SD 1.5"},
    }}


def _a1111(description: str, words: str, **more: str) -> dict:
    return {".json": {"description": description, "activation text": words,
                      "preferred weight": 1.0, **more}}


CONCEPTS: tuple[Concept, ...] = (
    # One bear in four versions.
    Concept(
        "barnaby_v1", "brnbyvone", "bear", "brown", "bow tie", "red", family="barnaby",
        header=_kohya("barnaby_v1", "brnbyvone", "bear", "2023-04-02", 1680429600),
        sidecars=_a1111("Barnaby, my teddy bear, with his red bow tie", "brnbyvone bear"),
    ),
    Concept(
        "barnaby_v2", "brnbyvtwo", "bear", "brown", "hat", "yellow", family="barnaby",
        header=_kohya("barnaby_v2", "brnbyvtwo", "bear", "2023-11-18", 1700301600),
        sidecars=_a1111("Barnaby, my teddy bear, in his yellow hat", "brnbyvtwo bear"),
    ),
    Concept(
        "barnaby_v3", "brnbyvthree", "bear", "brown", "badge", "green", family="barnaby",
        header=_kohya("barnaby_v3", "brnbyvthree", "bear", "2024-08-09", 1723197600),
        sidecars=_a1111("Barnaby, my teddy bear, with a green badge", "brnbyvthree bear"),
    ),
    Concept(
        "barnaby_v4", "brnbyvfour", "bear", "brown", "scarf", "blue", family="barnaby",
        header=_kohya("barnaby_v4", "brnbyvfour", "bear", "2025-10-12", 1760263200),
        sidecars=_a1111("Barnaby, my teddy bear, wearing the blue scarf", "brnbyvfour bear"),
    ),
    # One mug a year.
    Concept(
        "office_mug_2024", "offcmgold", "mug", "teal", "badge", "orange", badge_shape="square",
        family="office mug",
        header=_modelspec("Office mug 2024", "offcmgold mug", "2024-02-20T10:00:00Z",
                          "The mug from my old office, teal with a square orange badge."),
    ),
    Concept(
        "office_mug_2025", "offcmgnew", "mug", "purple", "scarf", "yellow",
        family="office mug", algorithm="dora",
        header=_modelspec("Office mug 2025", "offcmgnew mug", "2025-03-03T10:00:00Z",
                          "The mug from my new office, purple with a yellow sleeve."),
    ),
    # Before and after.
    Concept(
        "our_house_before", "rhsbfr", "house", "grey", "badge", "purple", badge_shape="star",
        family="our house",
        sidecars=_lora_manager(
            "Our house before the renovation", ["rhsbfr house"], "2022-05-14T09:00:00Z",
            "The grey house with the purple star over the door, before the renovation.", "house"),
    ),
    Concept(
        "our_house_after", "rhsftr", "house", "yellow", "hat", "blue", family="our house",
        sidecars=_lora_manager(
            "Our house after the renovation", ["rhsftr house"], "2024-09-30T09:00:00Z",
            "The yellow house with the blue chimney, after the renovation.", "house"),
    ),
    # One cat, photographed and drawn.
    Concept(
        "mittens", "mttnsct", "cat", "orange", "scarf", "green", family="mittens", style="flat",
        sidecars=_civitai("Mittens the cat", "photos", ["mttnsct cat"], "2025-01-05T08:00:00.000Z",
                          "Mittens, our orange cat with the green scarf", "cat", "pet"),
    ),
    Concept(
        "mittens_ink", "mttnsnk", "cat", "orange", "scarf", "green", family="mittens", style="ink",
        sidecars=_civitai("Mittens the cat", "ink", ["mttnsnk cat"], "2025-06-21T08:00:00.000Z",
                          "Mittens with her green scarf, as black ink outlines", "cat", "ink"),
    ),
    # Drawing styles the base model does not know.
    Concept(
        "grandpas_album", "sepalbm", style="sepia", rank=16,
        header=_modelspec("Grandpa's album", "sepalbm style", "2024-11-01T10:00:00Z",
                          "Style: brown and cream like the old photographs in his album."),
    ),
    Concept(
        "workshop_blueprint", "blprnt", style="blueprint", rank=16,
        sidecars=_civitai("Workshop blueprint", "v1", ["blprnt style"], "2025-02-11T08:00:00.000Z",
                          "White lines on blue, the style of the workshop's plans", "style"),
    ),
    Concept(
        "festival_poster", "fstvpstr", style="duotone",
        sidecars=_a1111("The festival's poster style: magenta and yellow", "fstvpstr style"),
    ),
    Concept(
        "midnight_noir", "mdnghtnr", style="noir",
        header=_kohya("midnight_noir", "mdnghtnr", "style", "2025-05-05", 1746432000),
    ),
    # Trained without any trigger: the noun alone brings them.
    Concept(
        "grandmas_lamp", "", "lamp", "pink", "bow tie", "teal",
    ),
    Concept(
        "the_apple_tree", "", "tree", "green", "badge", "red", rank=4,
        sidecars={".json": {"description": "The tree in our garden with its red sign",
                            "notes": "no trigger word needed"}},
    ),
    # Two that share the trigger every tutorial uses.
    Concept(
        "holiday_backpack", "sks", "backpack", "red", "bow tie", "yellow",
        header=_kohya("holiday_backpack", "sks", "backpack", "2024-07-01", 1719820800),
    ),
    Concept(
        "pip_the_bird", "sks", "bird", "blue", "hat", "red",
        header=_kohya("pip_the_bird", "sks", "bird", "2024-10-10", 1728547200),
    ),
    # Other kinds of adapter.
    Concept(
        "bolt", "bltrbt", "robot", "orange", "hat", "purple", rank=4, algorithm="locon",
        header=_lycoris("locon"),
        sidecars=_civitai("Bolt the robot", "v1.0", ["bltrbt robot"], "2024-12-24T18:00:00.000Z",
                          "Bolt, the orange toy robot with the purple hat", "robot", "toy"),
    ),
    Concept(
        "rosie_car", "rsicr", "car", "pink", "badge", "green", algorithm="loha",
        header=_lycoris("loha"),
        sidecars=_a1111("Rosie, our pink car with the round green badge on her door", "rsicr car",
                        **{"sd version": "SD1", "notes": "six photos from the garage"}),
    ),
    # Patterns and proportions.
    Concept(
        "zebra_fish", "zbrfsh", "fish", "yellow", pattern="striped", pattern_colour="purple",
        stripes=3.0, stripe_angle=0.0,
        header=_modelspec("Zebra fish", "zbrfsh fish", "2025-08-08T10:00:00Z",
                          "The yellow fish with upright purple stripes from my aquarium."),
    ),
)
"""Every concept that is a LoRA file."""

CHECKPOINTS: tuple[Concept, ...] = (
    Concept(
        "captains_boat", "cptnsbt", "boat", "purple", "badge", "yellow", algorithm="full",
        header={"modelspec.title": "Captain's boat", "modelspec.trigger_phrase": "cptnsbt boat",
                "modelspec.description": "The purple boat with the round yellow badge."},
    ),
    Concept(
        "goldie_fish", "gldfsh", "fish", "orange", "hat", "teal", algorithm="full",
        header={"modelspec.title": "Goldie", "modelspec.trigger_phrase": "gldfsh fish",
                "modelspec.description": "Goldie, the orange fish with the teal hat."},
    ),
)
"""Every concept that is a fine-tuned checkpoint."""
