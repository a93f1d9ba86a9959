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
