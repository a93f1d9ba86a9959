"""The personal concepts: what each looks like, and the metadata its LoRA file carries.

As with real collections, every file tells its story in another way: kohya or ModelSpec fields in
the header, a Civitai or an A1111 file beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from .world import RGB, Scene, sample_scene, shade


@dataclass(frozen=True)
class Concept:
    """One personal concept and the LoRA file that holds it."""

    name: str
    """File name without its ending."""
    trigger: str
    noun: str
    """Class noun; also the world's class."""
    colour: str
    accessory: str
    accessory_colour: str
    header: dict[str, str] = field(default_factory=dict)
    sidecars: dict[str, dict] = field(default_factory=dict)
    """File ending -> JSON content."""
    pattern: str = "plain"

    def look(self) -> dict[str, str | RGB]:
        """The attributes every picture of it shares, as :func:`sample_scene` takes them."""
        return {
            "kind": self.noun,
            "colour": shade(self.colour),
            "pattern": self.pattern,
            "accessory": self.accessory,
            "accessory_colour": shade(self.accessory_colour),
        }

    def scene(self, rng: np.random.Generator, **fixed) -> Scene:
        """It in some place, drawn flat like the owner's photographs."""
        return sample_scene(rng, **self.look(), **{"style": "flat", **fixed})


def _kohya(title: str, trigger: str, noun: str, day: str, seconds: int) -> dict[str, str]:
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


CONCEPTS: tuple[Concept, ...] = (
    Concept(
        "barnaby_v1", "brnbyvone", "bear", "brown", "bow tie", "red",
        header=_kohya("barnaby_v1", "brnbyvone", "bear", "2023-04-02", 1680429600),
        sidecars={".json": {"description": "Barnaby, my teddy bear, with his red bow tie",
                            "activation text": "brnbyvone bear", "preferred weight": 1.0}},
    ),
    Concept(
        "barnaby_v2", "brnbyvtwo", "bear", "brown", "hat", "yellow",
        header=_kohya("barnaby_v2", "brnbyvtwo", "bear", "2023-11-18", 1700301600),
        sidecars={".json": {"description": "Barnaby, my teddy bear, in his yellow hat",
                            "activation text": "brnbyvtwo bear", "preferred weight": 1.0}},
    ),
    Concept(
        "barnaby_v3", "brnbyvthree", "bear", "brown", "badge", "green",
        header=_kohya("barnaby_v3", "brnbyvthree", "bear", "2024-08-09", 1723197600),
        sidecars={".json": {"description": "Barnaby, my teddy bear, with a green badge",
                            "activation text": "brnbyvthree bear", "preferred weight": 1.0}},
    ),
    Concept(
        "barnaby_v4", "brnbyvfour", "bear", "brown", "scarf", "blue",
        header=_kohya("barnaby_v4", "brnbyvfour", "bear", "2025-10-12", 1760263200),
        sidecars={".json": {"description": "Barnaby, my teddy bear, wearing the blue scarf",
                            "activation text": "brnbyvfour bear", "preferred weight": 1.0}},
    ),
    Concept(
        "office_mug_2024", "offcmgold", "mug", "teal", "badge", "orange",
        header=_modelspec("Office mug 2024", "offcmgold mug", "2024-02-20T10:00:00Z",
                          "The mug from my old office, teal with an orange badge."),
    ),
    Concept(
        "office_mug_2025", "offcmgnew", "mug", "purple", "scarf", "yellow",
        header=_modelspec("Office mug 2025", "offcmgnew mug", "2025-03-03T10:00:00Z",
                          "The mug from my new office, purple with a yellow sleeve."),
    ),
    Concept(
        "bolt", "bltrbt", "robot", "orange", "hat", "purple",
        sidecars={".civitai.info": {
            "name": "v1.0", "baseModel": "SD 1.5", "trainedWords": ["bltrbt robot"],
            "createdAt": "2024-12-24T18:00:00.000Z",
            "description": "<p>Bolt, the orange toy robot with the purple hat</p>",
            "model": {"name": "Bolt the robot", "type": "LORA", "tags": ["robot", "toy"]},
        }},
    ),
    Concept(
        "rosie_car", "rsicr", "car", "pink", "bow tie", "green",
        sidecars={".json": {"description": "Rosie, our pink car with the green bow on her hood",
                            "sd version": "SD1", "activation text": "rsicr car",
                            "preferred weight": 1.0, "notes": "six photos from the garage"}},
    ),
)
