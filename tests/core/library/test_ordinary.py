"""Ordinary words: known ones are, whatever their form; names and coined words are not."""

import pytest

from personalq_core.library.ordinary import is_general_tag, is_ordinary


@pytest.mark.parametrize(
    "text",
    ["works best at 0.8 strength", "requires SDXL, v2", "I recommend it", "don't use loras"],
)
def test_known_words(text):
    assert is_ordinary(text)


@pytest.mark.parametrize("text", ["zara woman", "xiaobai", "tok", "mskn1ght", "inkmood"])
def test_names_and_coined_words(text):
    assert not is_ordinary(text)


@pytest.mark.parametrize(
    ("tag", "is_general"),
    [
        ("score_8_up", True), ("score 9", True), ("Best Quality", True), ("2girls", True),
        ("rating_safe", True), ("source_anime", True), ("ultra-detailed", True), ("8k", True),
        ("violin_girl", False), ("realistic", False), ("solo leveling", False), ("sks", False),
    ],
)  # fmt: skip
def test_general_tags(tag, is_general):
    assert is_general_tag(tag) == is_general
