"""Triggers, versions, dates: found where they are, none where there are none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalq_core.library.triggers import (
    stated_triggers,
    trained_triggers,
    trigger_groups,
)
from personalq_core.library.version import date_in, epoch_in, utc, version_in, version_key


def kohya(tags: dict, folder: str = "10_img", images: int | None = None) -> dict[str, str]:
    meta = {"ss_tag_frequency": json.dumps({folder: tags})}
    if images:
        meta["ss_dataset_dirs"] = json.dumps({folder: {"n_repeats": 10, "img_count": images}})
    return meta


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
        ({"ss_dataset_dirs": json.dumps({"10_sks dog": {"img_count": 5}})}, "", ("sks dog",)),
        ({"ss_dataset_dirs": json.dumps({"10_dog": {"img_count": 5}})}, "", ()),
        (
            {"ss_datasets": json.dumps([{"subsets": [{"class_tokens": "ohwx man"}]}])},
            "", ("ohwx man",),
        ),
        # hostile or broken
        ({"ss_tag_frequency": "{"}, "", ()),
        ({"ss_tag_frequency": "[1]", "ss_datasets": "{}", "ss_dataset_dirs": "7"}, "", ()),
        (kohya({"b4rny": -1, "c4t": "many", "d0g": 1e9}), "", ()),
    ],
)  # fmt: skip
def test_trained(metadata, name, triggers):
    assert trained_triggers(metadata, name) == triggers


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
