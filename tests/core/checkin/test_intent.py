"""What a request asks about the model."""

import time
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalq_core.checkin.intent import understand

NOW = datetime(2025, 11, 20, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("request_", "version"),
    [("fox v2", "2"), ("second version of the fox", "2"), ("fox version 1.5 in snow", "1.5"),
     ("第二版的狐狸", "2"), ("fox 2 times", None), ("fox v2 running", "2"), ("fox v2s", "2"),
     ("V8 engine", None), ("a V8, at night", None), ("V8 engine, fox v2 at sea", "2")],
)  # fmt: skip
def test_version(request_, version):
    assert understand(request_, NOW).version == version


@pytest.mark.parametrize(
    ("request_", "order"),
    [("newest fox", "newest"), ("the fox before it moved, asleep", "oldest"),
     ("der neueste Fuchs", "newest"), ("el zorro más antiguo", "oldest"), ("最新的狐狸", "newest"),
     ("a fox", None), ("an actual photo", None), ("el zorro actual", "newest"),
     ("original painting of a fox", None), ("the original fox", "oldest"),
     ("le renard actuel", "newest"), ("a fox before a castle", None),
     ("der Fuchs vor dem Schloss", None), ("a fox after the rain", None)],
)  # fmt: skip
def test_order(request_, order):
    assert understand(request_, NOW).order == order


@pytest.mark.parametrize(
    ("request_", "excluded"),
    [("fox, not as a drawing", [{"draw"}]),
     ("fox without the red scarf on a hill", [{"red", "scarf"}]),
     ("fox, not the one with the red scarf, photo", [{"red", "scarf"}]),
     ("fox, neither felt nor clay", [{"felt"}, {"clay"}]),
     ("fox without hat or scarf", [{"hat"}, {"scarf"}]),
     ("el zorro sin bufanda", [{"scarf"}]), ("der Fuchs ohne Schal", [{"scarf"}]),
     ("le renard sans chapeau", [{"hat"}]), ("没有围巾的狐狸", [{"scarf"}]), ("a fox", []),
     ("fox in Sin City at night", []), ("fox in Ni no Kuni style", []),
     ("salvo of fireworks above our house", []), ("a sign in sans serif letters", []),
     ('a fox and a "no entry" sign', []), ("a “no entry” sign", []), ("fox no hat", [{"hat"}])],
)  # fmt: skip
def test_exclusions(request_, excluded):
    assert [set(one.stems) for one in understand(request_, NOW).excluded] == excluded


@pytest.mark.parametrize(
    ("request_", "concept"),
    [("brass lamp, studio shot, black background", "brass lamp"),
     ("the black lamp on a white table", "black lamp"),
     ("my newest fox model, asleep", "fox asleep"), ("latest fox lora at sea", "fox"),
     ("photo of a fox, not red", "fox")],
)  # fmt: skip
def test_what_is_asked_for_and_what_is_around_it(request_, concept):
    assert understand(request_, NOW).concept == concept


@pytest.mark.parametrize(
    ("request_", "named"),
    [("captain fox drinking tea", "captain fox"), ("carved wading bird", "carved bird"),
     ("only my charcoal look, a boxer", "charcoal"), ("shop sign lora: OPEN", "shop sign"),
     ("ink style of a wolf", "ink"), ("the fox thing from last month", "fox")],
)  # fmt: skip
def test_which_words_name_the_thing(request_, named):
    intent = understand(request_, NOW)
    words = [w.text for w, at in zip(intent.words, intent.naming, strict=True) if at]
    assert " ".join(words) == named


@pytest.mark.parametrize(
    ("request_", "author"),
    [("the fox that Lena trained, asleep", "Lena"), ("Lena's red fox lora in snow", "Lena"),
     ("fox lora by lena_k at sea", "lena_k"), ("the fox I trained", None),
     ("a painting by the sea", None), ("Lena's portrait", None)],
)  # fmt: skip
def test_author(request_, author):
    assert understand(request_, NOW).author == author


@pytest.mark.parametrize(
    ("request_", "base"),
    [("fox for SDXL", "sdxl"), ("fox on flux", "flux"), ("fox, sd 1.5 loaded", "sd15"),
     ("fox in a flux of light", None), ("fox with flux, at sea", "flux"),
     ("fox for pony in the snow", "sdxl"), ("fox on a pony model", "sdxl"),
     ("fox, chroma workflow", "chroma"), ("fox, flux lora", "flux"), ("fox on flux.1 dev", "flux"),
     ("fox with a pony", None), ("fox riding on a pony", None), ("fox with pony tail hair", None),
     ("fox with chroma key background", None), ("fox with a flux capacitor", None),
     ("fox with illustrious crown", None)],
)  # fmt: skip
def test_base_family(request_, base):
    assert understand(request_, NOW).base == base


@pytest.mark.parametrize(
    "text",
    ["in ", "in the ", "__a__ not red ", "not red, ", "before a ", "最新的熊", "meine frau ",
     "a. B "],
)  # fmt: skip
def test_a_long_request_takes_no_longer_a_word(text):
    request = "my bear " + text * (15_000 // len(text))
    start = time.process_time()
    understand(request, NOW)
    understand(text * 120, NOW)
    assert time.process_time() - start < 4


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_understood(request_):
    intent = understand(request_, NOW)
    assert all(0 <= start < end <= len(request_) for start, end in intent.selecting)
