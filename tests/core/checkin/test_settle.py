"""What may ask something of the model or be a part of the picture is settled beside the library."""

from datetime import datetime, timezone

import pytest

from personalq_core.checkin.checkin import CheckIn

from .library import BEARS, OTHERS, card

NOW = datetime(2025, 11, 20, tzinfo=timezone.utc)
DATES = ("2021-01-01T00:00:00Z", "2024-01-01T00:00:00Z")


def two(title, *descriptions):
    """An old and a new one of a thing."""
    return tuple(
        card(f"{title}_{n}", title, f"qx{n} {title.split()[-1].lower()}", text, created_at=date)
        for n, (text, date) in enumerate(zip(descriptions, DATES, strict=True))
    )


KITCHENS = two("Kitchen", "Our kitchen before the remodel.", "Our kitchen after the remodel.")
HOUSES = two("Beach house", "Our beach house, white.", "Our beach house, white.")
CARS = two("Red car", "My red car.", "My red car.")
LIBRARY = (*BEARS, *OTHERS, *KITCHENS, *HOUSES, *CARS)
ENGINE = CheckIn()


def decide(request, cards=LIBRARY, **options):
    return ENGINE.decide(request, cards, now=NOW, **options)


@pytest.mark.parametrize(
    "request_",
    ["mein Bär vor dem Schloss", "my bear standing before a castle", "my bear after the rain",
     "mon ours avant la pluie", "mi oso después de la lluvia", "城堡之前的熊"],
)  # fmt: skip
def test_a_place_or_an_event_of_the_picture_picks_no_version(request_):
    decision = decide(request_)
    assert decision.status == "ask"
    assert len(decision.options) == 4


@pytest.mark.parametrize(
    ("request_", "prompt"),
    [("our beach house after the rain", "qx1 house after the rain"),
     ("our beach house before a castle", "qx1 house before a castle"),
     ("our kitchen before a castle", "qx1 kitchen before a castle"),
     ("our beach house before it was sold", "qx0 house before it was sold"),
     ("our beach house after the repair", "qx1 house after the repair")],
)  # fmt: skip
def test_what_no_card_bears_out_stays_in_the_prompt(request_, prompt):
    assert decide(request_).prompt == prompt


@pytest.mark.parametrize(
    ("request_", "prompt"),
    [("our kitchen before the remodel, at night", "qx0 kitchen, at night"),
     ("kichen after remodle", "qx1 kitchen"),
     ("our kitchen before we rebuilt it", "qx0 kitchen"),
     ("our kitchen since the renovation in the evening", "qx1 kitchen in the evening"),
     ("die Küche vor dem Umbau", "qx0 kitchen"), ("la cocina antes de la reforma", "qx0 kitchen"),
     ("la cuisine après la rénovation", "qx1 kitchen"), ("装修之前的厨房", "qx0 kitchen"),
     ("改装の後のキッチン", "qx1 kitchen"),
     ('our kitchen before the remodel "SALE" sign', 'qx0 kitchen "SALE" sign')],
)  # fmt: skip
def test_what_a_near_card_tells_of_picks_the_version_and_leaves_the_prompt(request_, prompt):
    decision = decide(request_)
    assert decision.status == "chosen"
    assert decision.prompt == prompt


def test_an_answer_tells_it_too():
    colours = two("Van", "The van before the repaint, blue.", "The van after the repaint, green.")
    for answer, number in (("before we painted it", 0), ("after the repaint", 1)):
        assert decide("my van at sea", colours, answer=answer).choice.card == colours[number]


def test_an_engine_is_no_version():
    decision = decide("my red car with V8 engine")
    assert decision.prompt == "qx1 car with V8 engine"
    assert decide("the red car with a V8, at night").prompt == "qx1 car with a V8, at night"


@pytest.mark.parametrize("request_", ["bear v2 toy", "bear v2 on a hill", "V2 of my bear"])
def test_a_version_that_a_near_card_has_or_that_nothing_follows_is_one(request_):
    decision = decide(request_)
    assert decision.choice.card.version == "v2"
    assert "2 " not in decision.prompt.replace("tdybr2", "")


@pytest.mark.parametrize(
    "request_",
    ["Barnaby as an older woman", "Barnaby with an older man", "Barnaby in front of an old house",
     "Barnaby holding the latest iPhone", "Barnaby swimming against the current",
     "Barnaby in a room with no windows", "Barnaby without makeup", "Barnaby is not amused",
     "Barnaby eating a cake that grandma made", "Barnaby as a fashion model by the pool",
     "Barnaby in march", "Barnaby at 0.8", "Barnaby looking older", "Barnaby but much older"],
)  # fmt: skip
def test_what_is_said_of_the_picture_picks_nothing_and_stays(request_):
    decision = decide(request_)
    assert decision.status == "ask" and len(decision.options) == 4
    best = ENGINE.best_match(decision, LIBRARY, now=NOW)
    assert best.prompt == f"{best.choice.card.triggers[0]} {request_.removeprefix('Barnaby ')}"


@pytest.mark.parametrize(
    ("request_", "version"),
    [("my older bear at sea", "v1"), ("the newest picture of Barnaby", "v4"),
     ("Barnaby, the oldest one, at sea", "v1"), ("a newer version of my bear", "v4"),
     ("Barnaby oldest", "v1"),
     ("Barnaby without the hat, the oldest", "v1"), ("my bear from june 2024", "v2"),
     ("the bear without the blue scarf, newest", "v3")],
)  # fmt: skip
def test_what_is_said_of_the_model_picks_it(request_, version):
    assert decide(request_, ask="rarely").choice.card.version == version


def test_a_decimal_is_a_version_where_there_is_one():
    early = card("fox_early.safetensors", "Fox", "fxq0", "Our fox.", version="0.8")
    late = card("fox_late.safetensors", "Fox", "fxq1", "Our fox.", version="v2")
    decision = decide("our fox 0.8 at sea", (*BEARS, early, late))
    assert (decision.choice.card, decision.prompt) == (early, "fxq0 at sea")


def test_epochs_are_asked_for_by_number():
    epochs = [
        card(f"milo-{n:06}.safetensors", "Milo dog", "m1lo", "My dog.", version=f"epoch {n}")
        for n in (2, 4, 6)
    ]
    for request_ in ("my dog milo, epoch 4", "my dog milo, 4 epochs"):
        decision = decide(request_, (*BEARS, *epochs))
        assert (decision.choice.card, decision.prompt) == (epochs[1], "m1lo")
    assert decide("my dog milo, 20 steps", (*BEARS, *epochs)).prompt != "m1lo"
