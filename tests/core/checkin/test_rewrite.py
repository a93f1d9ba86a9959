"""Rewriting: what is replaced, what stays, and that it can be taken back."""

import re
from datetime import datetime, timezone

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from personalq_core.checkin.intent import understand
from personalq_core.checkin.rewrite import rewrite, undo
from personalq_core.language.words import spelling

from .library import BEARS, LIBRARY, OTHERS, card

NOW = datetime(2025, 11, 20, tzinfo=timezone.utc)
BEAR = BEARS[3]


def rewritten(request, *cards):
    return rewrite(understand(request, NOW), cards or (BEAR,))[0]


@pytest.mark.parametrize(
    ("request_", "prompt"),
    [
        ("my newest bear on the beach", "tdybr4 bear on the beach"),
        ("a photo of my newest bear, best quality", "a photo of tdybr4 bear, best quality"),
        ("(my bear:1.2) on the beach BREAK night", "(tdybr4 bear:1.2) on the beach BREAK night"),
        ("bear v4, <lora:x:0.5> embedding:bear __bear__", "tdybr4 bear, <lora:x:0.5> "
         "embedding:bear __bear__"),
        ("my bear, not the red one, at sea", "tdybr4 bear, at sea"),
        ("tdybr4 bear on the beach", "tdybr4 bear on the beach"),
        ("my cat/bear at sea", "my cat/tdybr4 bear at sea"),
        ("the second newest bear at sea", "tdybr4 bear at sea"),
        ("my bear, the one before the last one, at sea", "tdybr4 bear, at sea"),
        ("not the newest bear, the one just before it. at sea", "tdybr4 bear. at sea"),
        ("bear, the one i made before 2025, at sea", "tdybr4 bear, at sea"),
        ("my bear, the retrain of 8 March, at sea", "tdybr4 bear, at sea"),
        ("my bear (the flux one) at sea", "tdybr4 bear at sea"),
        ("pls use my bear v4 at sea", "tdybr4 bear at sea"),
        ("my bear at sea, last version we have", "tdybr4 bear at sea"),
        ("tdybr4 bear v4 on the beach", "tdybr4 bear on the beach"),
        ("the newest version of my tdybr4 bear, not the red one", "my tdybr4 bear"),
        ("bear, the first of the v2s, at sea", "tdybr4 bear, at sea"),
        ("l'ours sur la plage", "tdybr4 bear sur la plage"),
        ("old bear BREAK not newest", "tdybr4 bear BREAK"),
        ("my bear, __place__ not the red one", "tdybr4 bear, __place__"),
        ("a teddy with his blue scarf at sea", "tdybr4 bear with his blue scarf at sea"),
        ("ein Teddy mit blue scarf", "tdybr4 bear mit blue scarf"),
        ("a photo of a teddy with a blue scarf", "a photo of tdybr4 bear with a blue scarf"),
        ("tdybr4 newest bear and my bear", "tdybr4 bear and my bear"),
        ("the newest of my bears at sea", "tdybr4 bear at sea"),
        ("a photo of v4 of my bear", "a photo of tdybr4 bear"),
        ("my bear v4 of the north", "tdybr4 bear of the north"),
        ("my bear, newest, at sea", "tdybr4 bear, at sea"),
        ("my bear at sea, the newest", "tdybr4 bear at sea"),
        ("最新的bear在海滩上", "tdybr4 bear 在海滩上"),
        ("a scarf shop with my bear", "a scarf shop with tdybr4 bear"),
        ('my bear, a "no entry" sign behind it', 'tdybr4 bear, a "no entry" sign behind it'),
        ("my bear with “Happy 2024” on it", "tdybr4 bear with “Happy 2024” on it"),
        ('a 6" tall bear, newest', 'a 6" tall tdybr4 bear'),
        ("my bear (v4) at sea", "tdybr4 bear at sea"),
        ("my bear (the newest!) at sea", "tdybr4 bear at sea"),
        ("my bear - version 4 - in a bathtub", "tdybr4 bear in a bathtub"),
        ("my newest version of the bear at sea", "tdybr4 bear at sea"),
        ("the bear v4 one at sea", "tdybr4 bear at sea"),
        ("a photo of the newest one of my bears", "a photo of tdybr4 bear"),
        ("the newest bear i have, at sea", "tdybr4 bear, at sea"),
        ("my bear, from the latest training, at sea", "tdybr4 bear, at sea"),
        ("can you draw my newest bear at sea?", "tdybr4 bear at sea?"),
        ("i want to see my newest bear at sea, thanks!", "tdybr4 bear at sea!"),
        ("make me a picture of my newest bear", "a picture of tdybr4 bear"),
        ("my bear's hat on a chair", "tdybr4 bear's hat on a chair"),
        ("my bear v4's hat", "tdybr4 bear's hat"),
        ("my teddy-bear at sea", "tdybr4 bear at sea"),
        ("my newest bear as a modern version of a king",
         "tdybr4 bear as a modern version of a king"),
        ("mon ours le plus récent sur la plage", "tdybr4 bear sur la plage"),
        ("die neueste Version meines Bären am Strand", "tdybr4 bear am Strand"),
        ("la versión más nueva de mi oso en la playa", "tdybr4 bear en la playa"),
        ("我最新的熊在海滩上", "tdybr4 bear 在海滩上"),
        ("私の最新の熊が浜辺に", "tdybr4 bear が浜辺に"),
        ("私の熊の最新版、浜辺で", "tdybr4 bear、浜辺で"),
    ],
)  # fmt: skip
def test_rewrites(request_, prompt):
    assert rewritten(request_) == prompt


def test_a_trigger_without_a_class_noun_keeps_the_noun():
    bear = card("b.safetensors", "Barnaby", "tdybr4", "Barnaby the bear.")
    assert rewritten("my newest bear on the beach", bear) == "tdybr4 bear on the beach"


def test_what_a_card_says_in_passing_is_not_replaced():
    bear = card("b.safetensors", "Barnaby", "tdybr4", "Barnaby the bear, sitting. His hat.")
    assert rewritten("my newest bear sitting on a bench", bear) == "tdybr4 bear sitting on a bench"
    assert rewritten("Barnaby's hat", bear) == "tdybr4's hat"
    style = card("p.safetensors", "Blueprint style", "blpr style", "A drawing.", tags=("style",))
    assert rewritten("a blueprint style drawing of my bear", bear, style) == (
        "blpr style drawing of tdybr4 bear"
    )


def test_a_plural_owner_leaves_with_what_is_owned():
    house = card("h.safetensors", "Grandparents house", "grhs house")
    assert rewritten("my grandparents' house at night", house) == "grhs house at night"


def test_a_style_is_named_in_its_own_place():
    ink = next(card for card in OTHERS if card.name == "ink.safetensors")
    assert rewritten("my newest bear at sea, ink wash style", BEAR, ink) == (
        "tdybr4 bear at sea, nkws style"
    )


def test_a_name_with_a_small_word_in_it_is_one_name():
    style = card("n.safetensors", "Ni no Kuni style", "nnk style", tags=("style",))
    request = "my newest bear in Ni no Kuni style"
    assert rewritten(request, BEAR, style) == "tdybr4 bear in nnk style"


def test_for_a_card_that_is_not_named_no_word_gives_way():
    intent = understand("my cat, in the snow", NOW)
    assert rewrite(intent, [BEAR], is_named=False)[0] == "tdybr4 bear, my cat, in the snow"


TEXTS = st.lists(
    st.sampled_from(
        [
            "my",
            "the",
            "newest",
            "old",
            "bear",
            "Barnaby",
            "v4",
            "blue",
            "scarf",
            "mug",
            "on",
            "beach",
            ",",
            ".",
            "(",
            ")",
            ":1.2",
            "BREAK",
            "not",
            "no",
            "<lora:bear:1>",
            "__bear__",
            "{a|bear}",
            "embedding:bear",
            '"no bear"',
            "tdybr4",
            "f\u00fcr",
            "SDXL",
            "\u718a",
            "latest",
            "3D",
            "please",
            "can you draw",
            "make me",
            "thanks",
            "one",
            "of",
            "version",
            "i have",
            "training",
            "-",
            "bear's",
            "sitting",
        ]
    ),
    min_size=1,
    max_size=14,
).map(" ".join) | st.text(min_size=1, max_size=60)


@settings(deadline=None)
@given(TEXTS, st.lists(st.sampled_from(LIBRARY), min_size=1, max_size=3, unique_by=lambda c: c.id))
def test_every_rewrite_can_be_taken_back(request_, cards):
    prompt, edits = rewrite(understand(request_, NOW), cards)
    assert undo(prompt, edits) == request_


@settings(deadline=None)
@given(TEXTS)
def test_the_trigger_stands_once_and_rewriting_again_adds_none(request_):
    prompt = rewritten(request_)
    again = rewritten(prompt) if prompt.strip() else prompt
    assert again.count(BEAR.triggers[0]) == max(1, request_.count(BEAR.triggers[0]))


@settings(deadline=None)
@given(TEXTS)
def test_protected_syntax_stays(request_):
    prompt = rewritten(request_)
    for part in ('"no bear"', "<lora:bear:1>", "__bear__", "{a|bear}", "embedding:bear", "BREAK"):
        assert prompt.count(part) == request_.count(part)


_PROTECTED = re.compile(r"__[^\s_][^\s]*?__|\{[^{}]*\}|<[^<>]*>")


def apart(text):
    """Each wildcard or tag, and whether something keeps it apart from what is beside it."""
    return [
        (
            found.group(),
            text[: found.start()][-1:] in ("", " ", "\n", "(", ","),
            text[found.end() :][:1] in ("", " ", "\n", ",", ".", ")", ":"),
        )
        for found in _PROTECTED.finditer(text)
    ]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["my", "newest", "bear", "v4", ",", "BREAK", "not", "no", "<lora:bear:1>",
                 "__bear__", "{a|bear}", "lora", "SDXL", "from last spring", "trained by Ida"]
            ),
            st.sampled_from([" ", " ", "  ", "", "\n"]),
        ),
        min_size=1,
    ).map(lambda parts: "".join(word + gap for word, gap in parts)),
    st.sampled_from([(BEAR,), (OTHERS[3],), (BEAR, OTHERS[2])]),
)  # fmt: skip
def test_what_keeps_a_wildcard_apart_stays_however_often_it_is_rewritten(request_, cards):
    assume(request_.strip())
    once = rewritten(request_, *cards)
    again = rewritten(once, *cards) if once.strip() else once
    for before, after in ((request_, once), (once, again)):
        for (name, left, right), (same, *kept) in zip(apart(before), apart(after), strict=True):
            assert name == same
            assert kept[0] >= left and kept[1] >= right


def test_the_words_of_one_trigger_are_not_taken_for_another_model():
    assert rewritten("tdybr4 bear at sea", BEAR, OTHERS[2]) == "nkws style, tdybr4 bear at sea"


@settings(deadline=None)
@given(TEXTS)
def test_without_trigger_only_selection_words_leave(request_):
    intent = understand(request_, NOW)
    prompt, edits = rewrite(intent, [OTHERS[3]])
    assert all(edit.text == "" for edit in edits)
    assert len(prompt) == len(request_) - sum(len(edit.old) for edit in edits)


@settings(deadline=None)
@given(TEXTS, st.lists(st.sampled_from(LIBRARY), min_size=1, max_size=3, unique_by=lambda c: c.id))
def test_nothing_is_lost_outside_the_replaced_words(request_, cards):
    prompt, edits = rewrite(understand(request_, NOW), cards)
    origins = list(range(len(request_)))  # where each character of the prompt comes from
    for edit in edits:
        end = edit.start + len(edit.old)
        assert [request_[i] for i in origins[edit.start : end]] == list(edit.old)
        origins[edit.start : end] = [None] * len(edit.text)
    kept = [(place, origin) for place, origin in enumerate(origins) if origin is not None]
    assert all(prompt[place] == request_[origin] for place, origin in kept)
    assert [origin for _, origin in kept] == sorted(origin for _, origin in kept)


@settings(deadline=None)
@given(TEXTS, st.lists(st.sampled_from(LIBRARY), min_size=1, max_size=3, unique_by=lambda c: c.id))
def test_from_what_was_rewritten_only_selection_words_leave(request_, cards):
    prompt, _ = rewrite(understand(request_, NOW), cards)
    assume(prompt.strip())
    called = [card for card in cards if card.triggers]
    _, edits = rewrite(understand(prompt, NOW), called)
    assert all(edit.text == "" for edit in edits)


MIKU = card(
    "hatsune_miku_v2.safetensors", "Hatsune Miku", "hatsune miku", tags=("aqua hair", "anime")
)
MAKIMA = card("makima.safetensors", "Makima", "makima (chainsaw man)")


@pytest.mark.parametrize(
    ("request_", "cards", "prompt"),
    [
        ("hatsune_miku, concert", [MIKU], "hatsune miku, concert"),
        ("miku_v2.safetensors on a stage", [MIKU], "hatsune miku on a stage"),
        ("hatsune_miku-000004 on a stage", [MIKU], "hatsune miku on a stage"),
        ("1girl, makima_(chainsaw_man), red hair", [MAKIMA],
         r"1girl, makima \(chainsaw man\), red hair"),
        ("Makima at sea", [MAKIMA], r"makima \(chainsaw man\) at sea"),
        ("my old_bear_doll at sea", [BEAR], "tdybr4 bear at sea"),
        ("a bear-shaped cake", [BEAR], "tdybr4 bear-shaped cake"),
        # Of its tags fewer count than of its name.
        ("miku, aqua hair, anime", [MIKU], "hatsune miku, aqua hair, anime"),
    ],
)  # fmt: skip
def test_a_name_is_replaced_whole_however_it_is_spelled(request_, cards, prompt):
    assert rewritten(request_, *cards) == prompt


@pytest.mark.parametrize(
    "request_", ["makima (chainsaw man) at sea", r"makima \(chainsaw man\), 1girl"]
)
def test_a_trigger_with_brackets_is_there_escaped_or_not(request_):
    assert rewritten(request_, MAKIMA) == request_


def test_brackets_that_weigh_a_trigger_stay():
    weighed = card("rose.safetensors", "Rose", "(rosxy:1.2)")
    assert rewritten("a rose at sea", weighed) == "(rosxy:1.2) at sea"


def test_a_prompt_is_never_left_empty():
    assert rewritten("the newest lora", OTHERS[3]) == "the newest lora"


WORD = st.text(alphabet="aB2:'.é熊", min_size=1, max_size=4)


@given(st.lists(WORD, min_size=1, max_size=3), st.none() | WORD, st.sampled_from([" ", "_", "  "]))
def test_a_name_is_found_in_each_of_its_spellings(names, bracketed, gap):
    name = " ".join(names) + (f" ({bracketed})" if bracketed else "")
    written = gap.join(re.split(r"(?<=\w) ", name))
    for text in (name, written, re.sub(r"([()])", r"\\\1", written)):
        assert spelling(name).fullmatch(text)
        assert spelling(name).search(f"a {text}, b")


@pytest.mark.parametrize(
    ("request_", "prompt"),
    [
        ("people/emma_final2 at sea", "emma at sea"),
        ("emma_final2.safetensors at sea", "emma at sea"),
        ("emma final2 at sea", "emma at sea"),
        ("<lora:emma_final2:1> at sea", "<lora:emma_final2:1> at sea"),
        ("emma in the final battle", "emma in the final battle"),
        ("emma (the one with the hat) at sea", "emma at sea"),
        ("emma (the chosen one) at sea", "emma (the chosen one) at sea"),
    ],
)
def test_a_model_without_a_trigger_is_called_by_the_words_of_its_name(request_, prompt):
    emma = card("people/emma_final2.safetensors", "emma_final2", description="with a hat")
    assert rewritten(request_, emma) == prompt
