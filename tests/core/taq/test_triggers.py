"""Several triggers in one text field."""

from personalq_core.taq.triggers import in_scenes, triggers_in

SCENES = ("a photo of {} on the beach", "a painting of {}", "{} in the snow")


def test_triggers_may_hold_commas_but_no_semicolons():
    assert triggers_in(" tdybr4 bear, blue scarf ;nkws style;; ") == [
        "tdybr4 bear, blue scarf", "nkws style",
    ]  # fmt: skip
    assert triggers_in("a\nb") == ["a", "b"]
    assert triggers_in(" ; ") == []


def test_each_trigger_is_asked_for_alone_and_with_the_others():
    assert in_scenes(["brnby"], SCENES) == [scene.format("brnby") for scene in SCENES]
    assert in_scenes(["brnby", "nkws style"], SCENES) == [
        "a photo of nkws style brnby on the beach", "a painting of brnby", "nkws style in the snow",
    ]  # fmt: skip
    five = in_scenes([*"abcde"], SCENES)
    assert len(five) == 6 and "e d c b a" in five[0] and five[4] == "a painting of d"
    assert in_scenes([], SCENES) == []
