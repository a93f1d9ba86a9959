"""Other words for the same thing, and words of other languages."""

import pytest

from personalq_core.checkin.intent import understand
from personalq_core.checkin.retrieve import Index
from personalq_core.language.thesaurus import thesaurus
from personalq_core.language.translate import language, translate

from .library import card
from .test_rewrite import NOW


@pytest.mark.parametrize(
    ("said", "meant"),
    [("feline", "cat"), ("knapsack", "backpack"), ("fiddle", "violin"), ("skippers", "captain"),
     ("walking stick", "cane"), ("stormy", "storm"), ("physician", "doctor")],
)  # fmt: skip
def test_other_words_for_the_same(said, meant):
    assert thesaurus().related(said)[meant] > 0.6


def test_a_wider_word_is_weaker_than_a_narrower_one():
    assert thesaurus().related("dog")["husky"] > thesaurus().related("husky")["dog"] > 0


@pytest.mark.parametrize("word", ["qwxzt", "", "the", "Barnaby", "\u718a", "a" * 10_000])
def test_what_is_no_word_has_none(word):
    assert thesaurus().related(word) == {}


@pytest.mark.parametrize(
    ("request_", "english"),
    [("das marineblaue Zelt", "navy blue tent"), ("el anillo de plata", "ring silver"),
     ("Bergtroll in \u00d6l gemalt", "troll mountain oil painted"),
     ("unser Wohnzimmer", "living room"),
     ("Apfelstrudel aus der K\u00fcche", "apple strudel kitchen"), ("l'horloge du salon", "clock"),
     ("\u72ec\u6728\u821f", "dugout"), ("\u6d74\u8863\u3092\u7740\u305f\u30ba\u30ea", "zuri")],
)  # fmt: skip
def test_other_languages(request_, english):
    found = {word.text.lower() for word in translate(request_, language(request_))}
    assert found >= set(english.split())


def test_the_card_that_says_it_otherwise_is_found():
    cards = [
        card("a.safetensors", "Waldo", "wld0", "Waldo the dachshund, photos."),
        card("b.safetensors", "Marlowe", "mrlw", "Grandpa's canoe."),
    ]
    index = Index(cards, None, None)
    scores = index.search(understand("our sausage dog in the park", NOW)).sparse
    assert scores[0] > 2 * scores[1]
