"""Of fifty versions of one thing, the one that a request picks out is always weighed."""

from datetime import datetime, timezone

import numpy as np
import pytest

from personalq_core.checkin.intent import understand
from personalq_core.checkin.rerank import version_numbers
from personalq_core.checkin.retrieve import Index, Retrieved
from personalq_core.checkin.shortlist import TOP_K, shortlist

from .library import card

NOW = datetime(2025, 11, 20, tzinfo=timezone.utc)
CARDS = [
    card(f"bear_{n}.safetensors", f"Bear v{n}", f"br{n}", version=f"v{n}",
         created_at=f"{2021 + (n - 1) // 12}-{(n - 1) % 12 + 1:02d}-05T00:00:00Z")
    for n in range(1, 51)
] + [card("mug.safetensors", "Mug", version="v41", created_at="2025-11-01T00:00:00Z")]  # fmt: skip
INDEX = Index(CARDS, None, None)


def found(request: str, allowed=range(51)) -> list[int]:
    scores = np.array([0.8 - n * 1e-4 for n in range(50)] + [0.1], np.float32)
    retrieved = Retrieved(scores, scores, None, scores)
    return shortlist(understand(request, NOW), INDEX, retrieved, allowed)


@pytest.mark.parametrize(
    ("request_", "number"),
    [("bear v38", 38), ("bear v41", 41), ("my bear from March 2024", 39)],
)
def test_the_version_or_time_asked_for_is_weighed(request_, number):
    assert number - 1 not in found("my bear")
    numbers = found(request_)
    assert number - 1 in numbers
    assert numbers[0] == 0
    assert 50 not in numbers, "another thing of that version is not near"
    assert len(numbers) == len(set(numbers)) <= TOP_K + 2 * 8


@pytest.mark.parametrize("request_", ["my newest bear", "my bear"])
def test_the_newest_is_weighed_unless_the_oldest_is_asked_for(request_):
    assert 49 in found(request_)
    assert 49 not in found("my oldest bear")


@pytest.mark.parametrize("request_", ["br37 on a hill", "(BR37:1.2), at night", "a hat, <br37>."])
def test_a_trigger_in_the_request_calls_its_card(request_):
    assert 36 in found(request_)
    assert 36 not in found(request_.replace("37", "370").replace("BR", "br"))


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("v2.0", (2,)), ("SD1.5 v2", (2,)), ("v2 epoch 4", (2,)), ("epoch 8", (8,)), ("2023", (2023,)),
     ("1.10", (1, 10)), ("build 3", (3,)), ("proto", None), (None, None)],
)  # fmt: skip
def test_the_numbers_of_a_version(version, numbers):
    assert version_numbers(version) == numbers


def test_only_allowed_cards_are_weighed():
    assert found("bear v41", range(10)) == list(range(10))
    assert found("bear v41", []) == []


def test_oldest_first():
    scores = np.linspace(0.7, 0.8, 51, dtype=np.float32)
    retrieved = Retrieved(scores, scores, None, scores)
    assert 0 in shortlist(understand("my oldest bear", NOW), INDEX, retrieved, range(50))
