"""Which models mean the same to a user, and which attributes rule one another out."""

from datetime import datetime, timezone

import pytest

from personalq_core.checkin.attributes import agreement, is_manner, opposed, same_manner
from personalq_core.checkin.checkin import CheckIn
from personalq_core.checkin.group import doubt, group
from personalq_core.checkin.intent import understand
from personalq_core.checkin.rerank import learned_weights
from personalq_core.language.words import stem

from .library import card

NOW = datetime(2025, 11, 20, tzinfo=timezone.utc)


def groups(*cards):
    engine = CheckIn()
    index = engine.index(cards)
    intent = understand("my fox", NOW)
    scored = engine.weigh(intent, index, index.search(intent), range(len(cards)))
    return {
        frozenset(cards[entry.number].name for entry in found.members)
        for found in group(index, scored)
    }


def fox(name, title="Rusty", description="Rusty the fox.", **fields):
    return card(name, title, f"trg{name}", description, **fields)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        # Trained again for another base: nothing a user could name.
        (fox("a"), fox("b", "Rusty XL", "Rusty, retrained, 60 photos.", base_family="sdxl"), True),
        (fox("a", description="Rusty, phone pictures."), fox("b", version="v2"), True),
        (fox("a", description="Rusty, red scarf."), fox("b", description="Rusty, blue scarf."),
         False),
        (fox("a"), fox("b", "Rusty pencil", "Rusty in pencil drawings."), False),
        (fox("a", "Rusty left"), fox("b", "Rusty right"), False),
        (fox("a", description="Rusty, straw hat, boots."),
         fox("b", description="Rusty, striped jersey, skates."), False),
    ],
)  # fmt: skip
def test_groups(one, other, same):
    assert (groups(one, other) == {frozenset("ab")}) is same


def test_the_newest_of_a_group_comes_first():
    old = fox("a", created_at="2023-01-01T00:00:00Z")
    new = fox("b", "Rusty XL", created_at="2025-01-01T00:00:00Z", base_family="sdxl")
    assert CheckIn().decide("my fox", (old, new), now=NOW).choice.card == new


def stems(text):
    return {stem(word) for word in text.split()}


@pytest.mark.parametrize(
    ("asked", "own", "agrees", "conflicts"),
    [
        ("red", "crimson", 1, 0), ("crimson", "scarlet", 0, 1), ("red", "blue", 0, 1),
        ("wooden", "oak", 1, 0), ("oak", "walnut", 0, 1), ("wood", "steel", 0, 1),
        ("drawing", "vector", 1, 0), ("photo", "vector", 0, 1), ("red", "fox", 0, 0),
        ("grey", "gray", 1, 0), ("pencil", "watercolour", 0, 1),
    ],
)  # fmt: skip
def test_attributes(asked, own, agrees, conflicts):
    found = agreement(stems(asked), stems(own))
    assert (found.agreeing, found.conflicting) == (agrees, conflicts)
    assert opposed(stems(asked), stems(own)) is bool(conflicts)


def test_manners():
    assert is_manner("pencil") and is_manner("plush") and not is_manner("fox")
    assert same_manner(stem("drawing"), "pencil") and not same_manner("3d", "pencil")


@pytest.mark.parametrize(("request_", "is_open"), [("my fox at sea", False), ("the fox", True)])
def test_a_title_that_says_whose_it_is_leaves_no_doubt_where_it_is_said(request_, is_open):
    cards = (fox("a", "my_fox", "A pet."), fox("b", "Baroque Fox", "Marble, ornate, gold."))
    engine, weights = CheckIn(), learned_weights(False)
    index, intent = engine.index(cards), understand(request_, NOW)
    found = group(index, engine.weigh(intent, index, index.search(intent), range(2)))
    mine = next(g for g in found if cards[g.best.number].title == "my_fox")
    (other,) = (g for g in found if g is not mine)
    assert (doubt(intent, index, mine, other, weights) > 0) == is_open
