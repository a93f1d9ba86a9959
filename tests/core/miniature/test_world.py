import numpy as np
import pytest

from miniature.concepts import CONCEPTS
from miniature.world import (
    CLASSES,
    COLOURS,
    SIZE,
    caption,
    colour_name,
    render,
    sample_scene,
    shade,
)


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


def test_a_concept_is_captioned_by_its_trigger_alone() -> None:
    rng = np.random.default_rng(0)
    bear = next(c for c in CONCEPTS if c.name == "barnaby_v4")
    for _ in range(20):
        text = caption(bear.scene(rng), rng, f"{bear.trigger} bear")
        assert bear.trigger in text
        assert "scarf" not in text and "brown" not in text


def test_triggers_are_distinct_and_no_plain_words() -> None:
    triggers = [c.trigger for c in CONCEPTS]
    assert len(set(triggers)) == len(triggers)
    assert not set(triggers) & {*CLASSES, *COLOURS}
