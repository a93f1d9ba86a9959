"""The user's own notes: they outrank every file, follow its content, and can be taken back."""

from pathlib import Path

import pytest

from personalq_core.library import Root, Store, scan

from .files import write

TRIGGERS = {"modelspec.trigger_phrase": "bear01, red hat", "modelspec.title": "Theodor",
            "modelspec.description": "Forty photos."}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "index" / "library.sqlite")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write(tmp_path / "loras/x.safetensors", metadata=TRIGGERS)
    return tmp_path / "loras"


def card_of(models: Path, store: Store):
    (card,) = scan([Root("lora", str(models))], store).cards
    return card


def noted(models: Path, store: Store, **fields):
    store.set_note(card_of(models, store).fingerprint, **fields)
    return card_of(models, store)


def test_fields_are_noted_one_by_one_and_taken_back(models, store):
    before = card_of(models, store)
    noted(models, store, title="Grandpa")
    card = noted(models, store, strength=0.8, base_family="Pony", created_at="2024-05-06")
    assert (card.title, card.strength, card.base_family) == ("Grandpa", 0.8, "sdxl")
    assert card.created_at == "2024-05-06T00:00:00Z"
    assert card.sources["title"] == card.sources["strength"] == "your note"
    assert noted(models, store, title=None).title == "Theodor"
    assert noted(models, store) == before


def test_the_canonical_trigger_is_moved_or_added_to_the_front(models, store):
    card = noted(models, store, trigger="red hat")
    assert (card.triggers, card.trigger_groups) == (("red hat", "bear01"), (("red hat", "bear01"),))
    card = noted(models, store, trigger="grnbr")
    assert card.triggers == ("grnbr", "bear01", "red hat")
    assert card.trigger_groups == (("grnbr",), ("bear01", "red hat"))
    assert card.sources["triggers"] == "your note"
    assert noted(models, store, trigger=None, triggers=["a, b", "c"]).triggers == ("a", "b", "c")


def test_a_note_comes_before_the_description(models, store):
    assert noted(models, store, note="For the book.").description == "For the book.\nForty photos."


def test_notes_follow_the_content_to_another_name(models, store):
    noted(models, store, title="Grandpa")
    (models / "x.safetensors").rename(models / "y.safetensors")
    assert card_of(models, store).title == "Grandpa"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "/etc/passwd"}, "no such field"),
        ({"title": ["x"]}, "title must be a text"),
        ({"title": "\x00\x01"}, "title must be a text"),
        ({"trigger": "a, b"}, "one trigger"),
        ({"triggers": "a"}, "list of at most"),
        ({"tags": ["x"] * 1000}, "list of at most"),
        ({"base_family": "steam engine"}, "no base model"),
        ({"created_at": "soon"}, "a date"),
        ({"strength": "1"}, "number"),
        ({"strength": float("nan")}, "between"),
        ({"strength": 10**400}, "between"),
    ],
)
def test_what_is_no_note_is_refused(models, store, fields, message):
    with pytest.raises(ValueError, match=message):
        noted(models, store, **fields)
    assert store.notes() == {}
