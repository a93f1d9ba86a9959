"""Triggers, versions, dates: found where they are, none where there are none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalq_core.library.triggers import (
    canonical_first,
    loose_trigger,
    stated_triggers,
    trained_triggers,
    trigger_groups,
)
from personalq_core.library.version import date_in, epoch_in, utc, version_in, version_key


def kohya(tags: dict, folder: str = "10_img", images: int | None = None) -> dict[str, str]:
    meta = {"ss_tag_frequency": json.dumps({folder: tags})}
    return {**meta, **uncaptioned(folder, images=images)} if images else meta


def uncaptioned(*folders: str, images: int = 5) -> dict[str, str]:
    sizes = {folder: {"n_repeats": 10, "img_count": images} for folder in folders}
    return {"ss_dataset_dirs": json.dumps(sizes)}


def subsets(*entries: dict) -> dict[str, str]:
    return {"ss_datasets": json.dumps([{"subsets": entries}])}


@pytest.mark.parametrize(
    ("phrases", "groups"),
    [
        (["b4rn bear, red tie"], (("b4rn bear", "red tie"),)),
        (["FSW", "wearing FSW", "fsw"], (("FSW",), ("wearing FSW",))),
        (
            ["maple-default, hat", "maple-school, hat"],
            (("maple-default", "hat"), ("maple-school",)),
        ),
        (["<lora:waterVFX:0.8>"], ()),
        (["(pixarstyle:1.25)"], (("pixarstyle",),)),
        ([r"fighter \(dq3\), twintails"], ((r"fighter \(dq3\)", "twintails"),)),
        (["", " , ", "."], ()),
        # addresses, and what is filled in where there is no trigger
        (["https://civitai.com/models/12345", "civitai.com/models/1, b4rn"], (("b4rn",),)),
        (["None", "n/a", "-", "no trigger words needed", "None."], ()),
        (["no humans", "nonesuch"], (("no humans",), ("nonesuch",))),
    ],
)
def test_groups(phrases, groups):
    assert trigger_groups(phrases) == groups


@given(st.lists(st.text(max_size=60), max_size=8))
def test_groups_of_any_text_are_clean(phrases):
    words = [word for group in trigger_groups(phrases) for word in group]
    assert all(word and "," not in word and "\n" not in word for word in words)
    assert len({word.lower() for word in words}) == len(words)


@pytest.mark.parametrize(
    ("metadata", "name", "triggers"),
    [
        # the most frequent invented tag that nearly all captions hold
        (kohya({"1girl": 20, "b4rny": 20, "beach": 3}, images=20), "", ("b4rny",)),
        (kohya({"1girl": 20, "solo": 20, "beach": 3}, images=20), "", ()),
        (kohya({"b4rny": 6, "1girl": 20}, images=20), "", ()),
        # a plain word counts where the file bears it
        (kohya({"barnaby": 20, "bear": 20}, images=20), "barnaby_v4", ("barnaby",)),
        # whole captions: the word they share
        (kohya({"photo of clvr on a beach": 1, "clvr, in a car": 1}), "", ("clvr",)),
        # AI-Toolkit writes its trigger word so
        (kohya({"tdybr4": 1}, "1_tdybr4"), "", ("tdybr4",)),
        # folder names teach where there are no captions
        (uncaptioned("10_sks dog"), "", ("sks dog",)),
        (uncaptioned("10_zara woman"), "", ("zara woman",)),
        (uncaptioned("5_a photo of xiaobai"), "", ("a photo of xiaobai",)),
        (uncaptioned("10_dog"), "", ()),
        (uncaptioned("10_img", "2_1024", "3_512x512", "4_dataset", "5_1girl", "6_the dog"), "", ()),
        (
            uncaptioned("10_anna woman", "10_ohwx man", "10_zoe girl"), "",
            ("anna woman", "ohwx man", "zoe girl"),
        ),
        (uncaptioned("10_zara woman", "10_zara woman (2)"), "", ("zara woman",)),
        (uncaptioned("meta_cap.json"), "", ()),  # a fine-tuning: its captions lie in that file
        (subsets({"class_tokens": "ohwx man"}), "", ("ohwx man",)),
        (
            subsets(
                {"image_dir": "img", "class_tokens": "anna"},
                {"image_dir": "img", "class_tokens": "zoe"},
            ),
            "", ("anna", "zoe"),
        ),
        # pictures for regularization teach nothing
        (
            uncaptioned("10_zara woman", "1_young woman")
            | subsets(
                {"image_dir": "10_zara woman", "class_tokens": "zara woman", "is_reg": False},
                {"image_dir": "1_young woman", "class_tokens": "young woman", "is_reg": True},
            ),
            "", ("zara woman",),
        ),
        (
            kohya({"young woman": 90}, "1_young woman")
            | {"ss_reg_dataset_dirs": json.dumps({"1_young woman": {"img_count": 90}})},
            "", (),
        ),
        # with captions a folder's text counts where they hold it
        (kohya({"zara": 19, "beach": 20}, "10_zara woman", 20), "", ("zara woman",)),
        (kohya({"zara on a beach": 9, "zara, asleep": 10}, "10_zara", 20), "", ("zara",)),
        (kohya({"zara": 17, "beach": 20}, "10_zara woman", 20), "", ()),
        (kohya({"bazaar": 20, "beach": 20}, "10_zaa", 20), "", ()),
        (kohya({"sks": 2, "beach": 20}, "10_sks dog", 20), "", ()),
        (kohya({"kaori_oc": 40, "1girl": 40}, "5_kaori", 40), "", ("kaori_oc",)),
        (kohya({"kaori oc": 40, "1girl": 40}, "5_kaori_oc", 40), "", ("kaori oc",)),
        # each folder is judged by itself
        (
            uncaptioned("5_kaori", "5_pochi")
            | {"ss_tag_frequency": json.dumps({"5_kaori": {"kaori_oc": 5}, "2_img": {"b4rny": 5}})},
            "", ("kaori_oc", "pochi", "b4rny"),
        ),
        # hostile or broken
        ({"ss_tag_frequency": "{"}, "", ()),
        ({"ss_tag_frequency": "[1]", "ss_datasets": "{}", "ss_dataset_dirs": "7"}, "", ()),
        (kohya({"b4rny": -1, "c4t": "many", "d0g": 1e9}), "", ()),
    ],
)  # fmt: skip
def test_trained(metadata, name, triggers):
    assert trained_triggers(metadata, name) == triggers


@pytest.mark.parametrize(
    ("phrases", "names", "triggers"),
    [
        (["score_9, score_8_up, mskn1ght"], ["Knight"], ("mskn1ght", "score_9", "score_8_up")),
        (["score_9", "score_8_up", "mskn1ght"], [""], ("mskn1ght", "score_9", "score_8_up")),
        (["masterpiece, best quality, inkmood"], [""], ("inkmood", "masterpiece", "best quality")),
        (["1girl, violin_girl"], ["Violin girl v2"], ("violin_girl", "1girl")),
        # the name tells more than what is rare, unless a word is but a part of it
        (["1girl, twintails, straw hat"], ["strawhat_v1"], ("straw hat", "1girl", "twintails")),
        (["1girl, girl, v10l1n"], ["Violin girl"], ("v10l1n", "1girl", "girl")),
        (["solo, watercolor"], ["wcs"], ("watercolor", "solo")),
        (["solo, 1girl"], ["One girl"], ("solo", "1girl")),
        # who begins with a trigger is taken at their word
        (["b4rn bear, masterpiece, v10l1n"], ["Violin"], ("b4rn bear", "masterpiece", "v10l1n")),
        (["red hat, v10l1n"], ["Violin"], ("red hat", "v10l1n")),
        ([], ["Violin"], ()),
    ],
)
def test_a_tag_of_all_prompts_is_not_the_canonical_trigger(phrases, names, triggers):
    groups = canonical_first(trigger_groups(phrases), names)
    assert tuple(word for group in groups for word in group) == triggers


@pytest.mark.parametrize(
    ("line", "trigger"),
    [
        ("strwht, straw hat", "strwht, straw hat"),
        ("Trigger words: strwht, straw hat", "strwht, straw hat"),
        ("trigger:strwht", "strwht"),
        ("Activation text: watercolor style", "watercolor style"),
        ("Auslöser: strwht", "strwht"),
        ("\u89e6\u53d1\u8bcd\uff1a\u6c34\u5f69", "\u6c34\u5f69"),
        ("Hats: strwht", "Hats: strwht"),  # that is the name
        ("kaori:oc", "kaori:oc"),
        ("embedding:strwht", "embedding:strwht"),
        # known words call it where its name or captions have them
        ("summer hat", "summer hat"),
        ("brim, 1girl", "brim, 1girl"),
        ("straw brim", None),
        ("works best at 0.8 strength", None),
        ("Note: I recommend weights between 0.6 and 0.9", None),
        ("trained on SDXL, requires no other loras", None),
        ("masterpiece, best quality, 1girl", None),
    ],
)  # fmt: skip
def test_a_loose_line(line, trigger):
    assert loose_trigger(line, ["Hats v2"], ["Brim"]) == trigger


@given(st.text(max_size=130), st.lists(st.text(max_size=20), max_size=3))
def test_any_loose_line_holds_its_trigger(line, names):
    trigger = loose_trigger(line, names, ())
    assert trigger is None or line.endswith(trigger)


def test_stated():
    assert stated_triggers({"modelspec.trigger_phrase": "b4rn bear"}) == ("b4rn bear",)
    assert stated_triggers({"<s1>": "<embed>", "<s2>": "<embed>"}) == ("<s1> <s2>",)
    assert stated_triggers({}) == ()


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("bear_v2", "v2"), ("Bear V2.1 final", "v2.1"), ("sithoutfitV1", "v1"), ("x v.1.0", "v1.0"),
        ("linen_dress_v0.3a", "v0.3a"), ("c01n-000010", "epoch 10"),
        ("techpunkmask_v0.5-000002", "v0.5 epoch 2"), ("bear_000001500", "step 1500"),
        ("stable-diffusion-v1.5-lora", None), ("artdecoai10", None), ("five2", None), ("", None),
    ],
)  # fmt: skip
def test_version_in_names(name, version):
    assert version_in(name) == version


def test_versions_compare_as_numbers():
    names = ["v0.5 epoch 2", "v1", "v1.1", "v2", "V2.9", "v2.10", "3.0"]
    keys = [version_key(name) for name in names]
    assert keys == sorted(keys)
    assert version_key("proto") is None and version_key(None) is None
    assert epoch_in("bear-2024") is None


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2023-11-08T08:11:58.741Z", "2023-11-08T08:11:58Z"),
        ("2023-11-08", "2023-11-08T00:00:00Z"),
        ("2023-11-08T10:00:00+02:00", "2023-11-08T08:00:00Z"),
        ("1700000000.5", "2023-11-14T22:13:20Z"),
        (1700000000000, "2023-11-14T22:13:20Z"),
        ("0", None), ("soon", None), (None, None), ("nan", None), ("1e400", None), ([], None),
    ],
)  # fmt: skip
def test_moments(value, moment):
    assert utc(value) == moment


@given(st.text(max_size=40) | st.floats() | st.integers())
def test_any_moment_is_one_or_none(value):
    moment = utc(value)
    assert moment is None or utc(moment) == moment


def test_dates_in_names():
    assert date_in("tost-2024-09-20-07-35-44-wallpap3r5") == "2024-09-20T00:00:00Z"
    assert date_in("bear_20240920_v2") == "2024-09-20T00:00:00Z"
    assert date_in("bear_20241399") is None and date_in("blt_2025") is None
