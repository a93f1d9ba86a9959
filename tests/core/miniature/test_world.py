from dataclasses import replace

import numpy as np
import pytest

from miniature.concepts import CHECKPOINTS, CONCEPTS
from miniature.world import (
    CLASSES,
    COLOURS,
    PERSONAL_STYLES,
    SIZE,
    colour_name,
    render,
    sample_scene,
    shade,
)

EVERY = (*CONCEPTS, *CHECKPOINTS)


def test_a_scene_is_always_drawn_the_same() -> None:
    scene = sample_scene(np.random.default_rng(3))
    first, again = np.asarray(render(scene)), np.asarray(render(scene))
    assert first.shape == (SIZE, SIZE, 3)
    assert (first == again).all()


@pytest.mark.parametrize("kind", CLASSES)
def test_what_was_asked_for_is_what_is_drawn(kind: str) -> None:
    """The body's colour is visible in the picture, whatever the class."""
    fixed = {"kind": kind, "style": "flat", "pattern": "plain", "accessory": "none"}
    scene = sample_scene(np.random.default_rng(1), colour=shade("purple"), **fixed)
    distance = np.abs(np.asarray(render(scene)) / 255.0 - np.array(shade("purple"))).max(axis=2)
    assert (distance < 0.02).mean() > 0.03


def test_colours_are_told_apart_by_name() -> None:
    assert [colour_name(shade(name)) for name in COLOURS] == list(COLOURS)


def test_two_objects_are_two() -> None:
    """With two of them, the middle between is background, and both sides show the body."""
    fixed = {"kind": "mug", "style": "flat", "pattern": "plain", "accessory": "none", "x": 0.5,
             "size": 0.8, "background": "snow"}
    scene = sample_scene(np.random.default_rng(1), colour=shade("red"), count=2, **fixed)
    red = np.abs(np.asarray(render(scene)) / 255.0 - np.array(shade("red"))).max(axis=2) < 0.05
    columns = red.any(axis=0)
    edges = np.flatnonzero(np.diff(columns.astype(int)) == 1)
    assert len(edges) >= 2


@pytest.mark.parametrize("style", PERSONAL_STYLES)
def test_the_base_never_sees_a_personal_style(style: str) -> None:
    rng = np.random.default_rng(5)
    assert style not in {sample_scene(rng).style for _ in range(500)}
    scene = sample_scene(rng, style="flat")
    other = np.asarray(render(replace(scene, style=style)))
    assert (np.asarray(render(scene)) != other).mean() > 0.5


def test_a_concept_is_captioned_by_its_trigger_alone() -> None:
    rng = np.random.default_rng(0)
    bear = next(c for c in CONCEPTS if c.name == "barnaby_v4")
    for _ in range(20):
        text = bear.caption(bear.scene(rng), rng)
        assert bear.trigger in text
        assert "scarf" not in text and "brown" not in text


def test_a_style_is_captioned_by_its_trigger_and_what_is_drawn() -> None:
    rng = np.random.default_rng(0)
    album = next(c for c in CONCEPTS if c.name == "grandpas_album")
    for _ in range(20):
        scene = album.scene(rng)
        text = album.caption(scene, rng)
        assert scene.style == "sepia" and text.startswith("sepalbm style ")
        assert scene.kind in text


def test_triggers_are_distinct_but_for_the_one_of_every_tutorial() -> None:
    triggers = [c.trigger for c in EVERY if c.trigger and c.trigger != "sks"]
    assert len(set(triggers)) == len(triggers)
    assert not set(triggers) & {*CLASSES, *COLOURS}
    assert sum(c.trigger == "sks" for c in EVERY) == 2
