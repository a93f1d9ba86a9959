"""Folders to cards: every source in its rank, only changes read again, nothing brings it down."""

import json
import multiprocessing
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from personalq_core.__main__ import main
from personalq_core.library import Root, Store, list_files, roots_in, scan
from personalq_core.library.concept import concept_groups

from .files import lora, safetensors_bytes, write

KOHYA = {
    "ss_output_name": "barnaby_v4",
    "ss_base_model_version": "sd_v1",
    "ss_training_finished_at": "1700000000",
    "ss_tag_frequency": json.dumps({"10_tdybr4 bear": {"tdybr4 bear": 20, "beach": 4}}),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "index" / "library.sqlite")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write(tmp_path / "models/loras/toys/barnaby_v4.safetensors", metadata=KOHYA)
    write(tmp_path / "models/loras/mug.safetensors", lora(2048), fill=1)
    write(
        tmp_path / "models/checkpoints/base.safetensors",
        {
            "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (
                3,
                768,
            ),
            "first_stage_model.encoder.conv_in.weight": (1,),
        },
    )
    return tmp_path / "models"


def one(folder: Path, store: Store | None = None, kind: str | None = "lora"):
    (card,) = scan([Root(kind, str(folder))], store).cards
    return card


def beside(path: Path, suffix: str, content) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    Path(str(path).removesuffix(".safetensors") + suffix).write_text(text)


def test_a_models_folder(models, store):
    report = scan(roots_in(models), store)
    cards = {card.id: card for card in report.cards}
    assert set(cards) == {
        "lora:toys/barnaby_v4.safetensors", "lora:mug.safetensors", "checkpoint:base.safetensors",
    }  # fmt: skip
    bear = cards["lora:toys/barnaby_v4.safetensors"]
    assert bear.triggers == ("tdybr4 bear",)
    assert (bear.title, bear.version, bear.base_family) == ("barnaby v4", "v4", "sd15")
    assert bear.created_at == "2023-11-14T22:13:20Z"
    assert bear.sources["triggers"] == "kohya header"
    assert bear.sources["base_family"] == "kohya header"
    assert cards["lora:mug.safetensors"].triggers == ()
    assert cards["lora:mug.safetensors"].base_family == "sdxl"
    assert cards["lora:mug.safetensors"].sources["base_family"] == "tensor shapes"


def test_only_changes_are_read_again(models, store, monkeypatch):
    first = scan(roots_in(models), store)
    assert first.changed
    read = []
    real = scan.__globals__["read_card"]
    monkeypatch.setitem(scan.__globals__, "read_card", lambda *a: (read.append(a[1]), real(*a))[1])
    again = scan(roots_in(models), store)
    assert (again.changed, read) == (False, [])
    assert again.cards == first.cards
    beside(models / "loras/mug.safetensors", ".txt", "mgq cup")
    third = scan(roots_in(models), store)
    assert third.changed and read == ["mug.safetensors"]
    os.remove(models / "loras/mug.safetensors")
    last = scan(roots_in(models), store)
    assert last.changed and len(last.cards) == 2
    assert not scan(roots_in(models), store).changed


def test_a_listing_tells_of_changes_and_is_not_made_twice(models, store, monkeypatch):
    listing = list_files(roots_in(models))
    first = scan(listing, store)
    assert list_files(roots_in(models)).state == listing.state
    beside(models / "loras/mug.safetensors", ".txt", "mgq cup")
    changed = list_files(roots_in(models))
    assert changed.state != listing.state
    monkeypatch.setitem(scan.__globals__, "list_files", None)
    assert scan(changed, store).cards != first.cards


def test_the_name_of_a_fine_tune_stays_as_a_tag(tmp_path):
    kohya = {"ss_base_model_version": "sdxl_base_v1-0", "ss_sd_model_name": "ponyDiffusionV6XL.sft"}
    path = write(tmp_path / "x.safetensors", lora(2048), kohya)
    assert (one(tmp_path).base_family, one(tmp_path).tags) == ("sdxl", ("Pony",))
    beside(path, ".civitai.info", {"baseModel": "Illustrious", "tags": ["toy"]})
    assert (one(tmp_path).base_family, one(tmp_path).tags) == ("sdxl", ("toy", "Illustrious"))
    beside(path, ".civitai.info", {"baseModel": "SDXL 1.0", "tags": ["toy"]})
    assert one(tmp_path).tags == ("toy",)


def test_a_date_still_to_come_is_not_believed(tmp_path):
    path = write(tmp_path / "x.safetensors", metadata=KOHYA)
    beside(path, ".civitai.info", {"createdAt": "2099-01-01T00:00:00Z"})
    card = one(tmp_path)
    assert (card.created_at, card.sources["created_at"]) == ("2023-11-14T22:13:20Z", "kohya header")


def test_sidecars_in_their_rank(tmp_path, store):
    path = write(tmp_path / "x.safetensors", metadata=KOHYA)
    beside(path, ".txt", "txt word")
    assert one(tmp_path, store).triggers == ("txt word",)
    rgthree = {"trainedWords": [{"word": "rg word", "civitai": True}, {"word": "1girl"}]}
    beside(path, ".safetensors.rgthree-info.json", rgthree)
    assert one(tmp_path, store).triggers == ("rg word",)
    beside(path, ".json", {"activation text": "a1 word, hat", "preferred weight": 0.7})
    card = one(tmp_path, store)
    assert (card.triggers, card.strength) == (("a1 word", "hat"), 0.7)
    civitai = {
        "name": "v3", "baseModel": "SD 1.5", "trainedWords": ["civ one", "civ two, bow"],
        "createdAt": "2024-05-06T07:08:09.123Z", "description": "<p>Blue <b>scarf</b></p>",
        "model": {"name": "Barnaby", "tags": ["toy"]},
    }  # fmt: skip
    beside(path, ".civitai.info", civitai)
    card = one(tmp_path, store)
    assert card.trigger_groups == (("civ one",), ("civ two", "bow"))
    assert (card.title, card.tags, card.version) == ("Barnaby", ("toy",), "v3")
    assert (card.description, card.created_at) == ("Blue scarf", "2024-05-06T07:08:09Z")
    assert card.strength == 0.7 and card.sources["strength"] == "A1111 sidecar"
    manager = {"model_name": "My Barnaby", "usage_tips": '{"strength": 0.9}', "civitai": civitai}
    beside(path, ".metadata.json", manager)
    card = one(tmp_path, store)
    assert (card.title, card.strength) == ("My Barnaby", 0.9)
    assert card.sources["title"] == "Lora Manager sidecar"
    store.set_note(card.fingerprint, title="Bear", triggers=["mine"])
    card = one(tmp_path, store)
    assert (card.title, card.triggers, card.sources["title"]) == ("Bear", ("mine",), "your note")
    store.set_note(card.fingerprint)
    assert one(tmp_path, store).title == "My Barnaby"


def test_a_line_of_plain_language_describes_where_nothing_else_does(tmp_path):
    path = write(tmp_path / "x.safetensors", metadata=KOHYA)
    beside(path, ".txt", "Hint: works best at 0.8 strength")
    card = one(tmp_path)
    assert (card.triggers, card.sources["triggers"]) == (("tdybr4 bear",), "kohya header")
    assert card.description == "Hint: works best at 0.8 strength"
    assert card.sources["description"] == "text file"
    write(path, metadata={**KOHYA, "modelspec.description": "A bear."})
    assert one(tmp_path).description == "A bear."


@pytest.mark.parametrize("line", ["None", "https://civitai.com/models/1", "Trigger words: n/a"])
def test_a_line_that_says_nothing_changes_nothing(tmp_path, line):
    path = write(tmp_path / "x.safetensors", metadata=KOHYA)
    before = one(tmp_path)
    beside(path, ".txt", line)
    assert one(tmp_path) == before


def test_a_line_of_known_words_is_a_trigger_where_the_header_has_them(tmp_path):
    path = write(tmp_path / "x.safetensors", metadata=KOHYA)
    beside(path, ".txt", "bear at the beach")
    assert one(tmp_path).triggers == ("bear at the beach",)
    beside(path, ".txt", "otter at the beach")
    assert one(tmp_path).triggers == ("tdybr4 bear",)


def test_where_no_trigger_is_filled_in_the_next_source_counts(tmp_path):
    path = write(tmp_path / "x.safetensors", metadata=KOHYA)
    beside(path, ".civitai.info", {"trainedWords": ["None"]})
    card = one(tmp_path)
    assert (card.triggers, card.sources["triggers"]) == (("tdybr4 bear",), "kohya header")


@pytest.mark.parametrize(("stem", "title"), [("straw_hat_v2", "Summer"), ("x", "Straw Hat")])
def test_the_file_name_or_the_title_tells_the_canonical_trigger(tmp_path, stem, title):
    path = write(tmp_path / f"{stem}.safetensors")
    words = ["score_9, score_8_up, b4rn, strawhat", "bow"]
    beside(path, ".civitai.info", {"trainedWords": words, "model": {"name": title}})
    card = one(tmp_path)
    assert card.trigger_groups == (("strawhat", "score_9", "score_8_up", "b4rn"), ("bow",))
    assert card.triggers == ("strawhat", "score_9", "score_8_up", "b4rn", "bow")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 50_000, '{"civitai": 3}', "\0"])
@pytest.mark.parametrize(
    "suffix", [".metadata.json", ".civitai.info", ".json", ".safetensors.rgthree-info.json"]
)
def test_broken_sidecars_change_nothing(tmp_path, suffix, content):
    path = write(tmp_path / "x.safetensors", metadata=KOHYA)
    beside(path, suffix, content)
    assert one(tmp_path).triggers == ("tdybr4 bear",)


def test_a_sidecar_of_wrong_types_says_nothing(tmp_path):
    path = write(tmp_path / "x.safetensors")
    wrong = {"model_name": ["x"], "tags": {"a": 1}, "civitai": {"trainedWords": "abc", "name": {}}}
    beside(path, ".metadata.json", wrong)
    card = one(tmp_path)
    assert (card.title, card.triggers, card.tags) == ("x", (), ())


def test_a_number_without_end_costs_only_itself(tmp_path):
    path = write(tmp_path / "x.safetensors", metadata=KOHYA)
    huge = int("9" * 400)
    beside(path, ".json", {"activation text": "a1 word", "preferred weight": huge})
    beside(path, ".civitai.info", {"createdAt": huge, "model": {"name": "Barnaby"}})
    card = one(tmp_path)
    assert (card.title, card.triggers, card.strength) == ("Barnaby", ("a1 word",), None)
    assert card.created_at == "2023-11-14T22:13:20Z"


def test_a_reference_to_no_character_costs_only_itself(tmp_path):
    path = write(tmp_path / "x.safetensors")
    description = f"<p>Blue &#{'9' * 5000}; &#x1F43B; &#0000098;ear &amp; scarf</p>"
    beside(path, ".civitai.info", {"description": description})
    assert one(tmp_path).description == "Blue \N{BEAR FACE} bear & scarf"


def test_of_a_base_only_the_tensors_tell_finer_ones_are_possible(tmp_path):
    flux = {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 3072)}
    path = write(tmp_path / "x.safetensors", flux)
    assert [base for base in ("flux", "chroma", "kolors") if one(tmp_path).suits(base)] == [
        "flux", "chroma",
    ]  # fmt: skip
    beside(path, ".civitai.info", {"baseModel": "Flux.1 D"})
    assert one(tmp_path).suits("flux") and not one(tmp_path).suits("chroma")
    write(path, {"weight": (3, 3)})
    os.remove(path.with_suffix(".civitai.info"))
    assert one(tmp_path).suits("sd15")


def test_a_wrong_label_loses_against_the_tensors(tmp_path):
    path = write(tmp_path / "x.safetensors", lora(2048))
    beside(path, ".civitai.info", {"baseModel": "SD 1.5"})
    assert one(tmp_path).base_family == "sdxl"
    beside(path, ".civitai.info", {"baseModel": "Pony"})
    assert one(tmp_path).sources["base_family"] == "Civitai sidecar"


def test_hostile_text_is_made_plain(tmp_path):
    path = write(tmp_path / "x.safetensors")
    name = "bear\u202e\ud800\x00 <img src=x>"
    beside(path, ".civitai.info", {"model": {"name": name}, "trainedWords": ["w" * 100_000]})
    card = one(tmp_path)
    card.title.encode()
    assert card.title == "bear <img src=x>"
    assert len(card.triggers[0]) <= 1000


def test_refusals_name_file_and_remedy_and_the_rest_works(models, store, tmp_path):
    loras = models / "loras"
    whole = safetensors_bytes(lora())
    (loras / "cut.safetensors").write_bytes(whole[:-10])
    (loras / "vae.safetensors").write_bytes(
        safetensors_bytes({"encoder.conv_in.weight": (1,), "decoder.conv_in.weight": (1,)})
    )
    for name in ("old.ckpt", "a.pt", "b.bin", "c.pth"):
        pickle = loras / name
        pickle.write_bytes(b"\x80\x02")
        pickle.chmod(0)  # never opened
    for _ in range(2):
        report = scan(roots_in(models), store)
        assert len(report.cards) == 3
        reasons = {bad.name: bad.reason for bad in report.refused}
        assert all(name in reason for name, reason in reasons.items())
        assert "download it again" in reasons["cut.safetensors"]
        assert "models/vae" in reasons["vae.safetensors"]
        assert {n for n, r in reasons.items() if "pickle" in r} == {
            "old.ckpt", "a.pt", "b.bin", "c.pth",
        }  # fmt: skip
    (loras / "cut.safetensors").write_bytes(whole)
    assert len(scan(roots_in(models), store).cards) == 4


def test_a_file_that_brings_about_a_fault_is_refused_alone(models, store, monkeypatch, caplog):
    real = scan.__globals__["read_card"]

    def faulty(kind, name, *rest):
        if name == "mug.safetensors":
            raise ZeroDivisionError("text of the file")
        return real(kind, name, *rest)

    monkeypatch.setitem(scan.__globals__, "read_card", faulty)
    report = scan(roots_in(models), store)
    assert len(report.cards) == 2
    (refused,) = report.refused
    assert "mug.safetensors" in refused.reason and "download it again" in refused.reason
    assert "ZeroDivisionError" in caplog.text and "text of the file" not in caplog.text
    monkeypatch.undo()
    assert len(scan(roots_in(models), store).cards) == 3


def test_what_cannot_be_read_now_is_tried_again(models, store, monkeypatch):
    def unreadable(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setitem(scan.__globals__, "read_card", unreadable)
    (models / "loras/old.ckpt").write_bytes(b"")
    report = scan(roots_in(models), store)
    assert {bad.name: bad.lasting for bad in report.refused} == {
        "toys/barnaby_v4.safetensors": False, "mug.safetensors": False,
        "base.safetensors": False, "old.ckpt": True,
    }  # fmt: skip
    monkeypatch.undo()
    assert len(scan(roots_in(models), store).cards) == 3


@pytest.mark.parametrize("suffix", [".preview.png", ".civitai.info", ".safetensors"])
@pytest.mark.parametrize("target", ["nothing", "itself"])
def test_a_broken_link_costs_only_itself(models, store, suffix, target):
    link = models / f"loras/{'mug' if suffix != '.safetensors' else 'more'}{suffix}"
    link.symlink_to(link if target == "itself" else models / "loras/nothing")
    (models / "loras/mug.png").write_bytes(b"")
    cards = {card.name: card for card in scan(roots_in(models), store).cards}
    assert len(cards) == 3
    assert cards["mug.safetensors"].preview == str(models / "loras/mug.png")


def test_links_are_followed_as_comfyui_follows_them(tmp_path):
    """Folders and models; what lies beside a model only where it is inside the model folders."""
    root, outside = tmp_path / "loras", tmp_path / "disk"
    root.mkdir()
    write(outside / "deep" / "in_folder.safetensors", fill=1)
    (outside / "deep" / "in_folder.txt").write_text("otter trigger")
    write(outside / "alone.safetensors", fill=2)
    (outside / "secret.txt").write_text("not for anyone")
    (root / "folder").symlink_to(outside / "deep")
    (root / "again").symlink_to(outside / "deep")
    (root / "loop").symlink_to(root)
    (outside / "deep" / "back").symlink_to(root)
    (root / "model.safetensors").symlink_to(outside / "alone.safetensors")
    (root / "model.txt").symlink_to(outside / "secret.txt")
    (root / "gone.safetensors").symlink_to(outside / "nothing.safetensors")
    report = scan([Root("lora", str(root))])
    found = {card.name.rpartition("/")[2]: card for card in report.cards}
    assert found.keys() == {"in_folder.safetensors", "model.safetensors"}
    assert len(report.cards) == 2
    assert "otter" in str(found["in_folder.safetensors"])
    assert "not for anyone" not in str(found["model.safetensors"])


def test_strange_names(tmp_path):
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "熊 'v2' %.safetensors")
    Path(os.fsdecode(os.fsencode(str(tmp_path / "a")) + b"/bad\xff.safetensors")).write_bytes(b"")
    report = scan([Root("lora", str(tmp_path / "a")), Root("lora", str(tmp_path / "none"))])
    assert [card.name for card in report.cards] == ["熊 'v2' %.safetensors"]
    assert "rename it" in report.refused[0].reason
    report.refused[0].name.encode()


@pytest.mark.parametrize("below", ["", "/loras"])
def test_a_folder_whose_name_is_no_utf_8(tmp_path, store, below):
    latin1 = Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9"))
    write(latin1 / "loras" / "x.safetensors")
    write(tmp_path / "mug.safetensors", fill=1)
    for _ in range(2):
        report = scan([Root("lora", f"{latin1 if below else tmp_path}{below}")], store)
        for refused in report.refused:
            assert "rename the folder" in refused.reason
            refused.reason.encode()
    assert [card.name for card in report.cards] == ["x.safetensors" if below else "mug.safetensors"]
    assert (len(report.refused), report.changed) == (0 if below else 1, False)


def test_names_that_differ_only_in_what_cannot_be_used(tmp_path, store):
    for name in ("Cute Bear", "Cute  Bear", "Cute   Bear", "Cute\u202e Bear"):
        write(tmp_path / f"{name}.safetensors")
    (tmp_path / "Cute Bear.ckpt").write_bytes(b"")
    (tmp_path / "Cute  Bear.ckpt").write_bytes(b"")
    for changed in (True, False):
        report = scan([Root("lora", str(tmp_path))], store)
        assert [card.name for card in report.cards] == ["Cute Bear.safetensors"]
        assert (len(report.refused), report.changed) == (5, changed)
    assert store.notices == []


def test_the_first_of_two_files_under_one_name_counts(tmp_path):
    write(tmp_path / "a/x.safetensors", fill=1)
    write(tmp_path / "b/x.safetensors", fill=2)
    (card,) = scan([Root("lora", str(tmp_path / "a")), Root("lora", str(tmp_path / "b"))]).cards
    assert card.path == str(tmp_path / "a/x.safetensors")


def test_progress(models, store):
    seen = []
    scan(roots_in(models), store, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


# --- the store ---


def test_a_damaged_file_is_rebuilt_with_a_notice_and_the_notes(models, store):
    card = scan(roots_in(models), store).cards[0]
    store.set_note(card.fingerprint, title="Kept")
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.path.write_bytes(b"this is no database" * 500)
    reopened = Store(store.path)
    assert "rebuilt" in reopened.notices[0]
    assert len(scan(roots_in(models), reopened).cards) == 3
    assert not scan(roots_in(models), Store(store.path)).changed


def test_damage_while_open_is_survived(models, store):
    scan(roots_in(models), store)
    size = store.path.stat().st_size
    for suffix in ("-wal", "-shm"):
        Path(f"{store.path}{suffix}").unlink(missing_ok=True)
    with store.path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(size - 100))
    assert len(scan(roots_in(models), store).cards) == 3
    assert store.notices


def test_a_crash_in_mid_scan_loses_nothing(models, store, monkeypatch):
    scan(roots_in(models), store)
    write(models / "loras/new.safetensors", fill=5)

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setitem(scan.__globals__, "read_card", crash)
    with pytest.raises(KeyboardInterrupt):
        scan(roots_in(models), store)
    monkeypatch.undo()
    report = scan(roots_in(models), store)
    assert report.changed and len(report.cards) == 4


def test_a_failed_write_is_undone(store):
    with pytest.raises(sqlite3.Error):
        store.update("r", [("a", "1", "reason"), ("b", None, "reason")])
    assert store.files("r") == {}
    assert store.notices == []  # a mistake of ours is no damage


def test_a_file_of_an_older_format_keeps_notes_and_vectors(models, tmp_path):
    with sqlite3.connect(tmp_path / "old.sqlite") as db:
        db.executescript("""
            CREATE TABLE files(id INTEGER PRIMARY KEY, root TEXT, name TEXT, stamp TEXT,
                card_id TEXT, fingerprint TEXT, card TEXT, reason TEXT, UNIQUE(root, name));
            CREATE INDEX content ON files(fingerprint);
            CREATE VIRTUAL TABLE words USING fts5(title);
            CREATE TABLE embeddings(model TEXT NOT NULL, text_hash TEXT NOT NULL,
                vector BLOB NOT NULL, PRIMARY KEY(model, text_hash)) WITHOUT ROWID;
            CREATE TABLE notes(fingerprint TEXT PRIMARY KEY, note TEXT NOT NULL);
            INSERT INTO files(root, name, stamp) VALUES ('r', 'n', 's');
            INSERT INTO notes VALUES ('0123456789', '{"title": "Kept"}');
            INSERT INTO embeddings VALUES ('m', 'k', x'0000803f');
            PRAGMA user_version = 3;
        """)
    db.close()
    store = Store(tmp_path / "old.sqlite")
    assert store.notes() == {"0123456789": {"title": "Kept"}}
    assert store.load_vectors("m", ["k"])["k"].tolist() == [1.0]
    assert store.files("r") == {} and store.notices == []
    assert len(scan(roots_in(models), store).cards) == 3
    with sqlite3.connect(store.path) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    db.close()
    assert not [name for name in tables if name.startswith("words")]


def _scan_in_process(models: str, index: str) -> int:
    return len(scan(roots_in(models), Store(index)).cards)


def test_two_processes_share_a_store(models, store):
    for number in range(30):
        write(models / f"loras/n{number}.safetensors", fill=number)
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        counts = pool.starmap(_scan_in_process, [(str(models), str(store.path))] * 4)
    assert counts == [33] * 4
    assert not scan(roots_in(models), store).changed


def test_vectors_are_kept_by_model_and_text(store):
    store.save_vectors("m", {f"k{n}": np.full(3, n, "f4") for n in range(1200)})
    found = store.load_vectors("m", [f"k{n}" for n in range(1300)])
    assert len(found) == 1200 and found["k7"].tolist() == [7, 7, 7]
    assert store.load_vectors("other", ["k1"]) == {}


def test_a_note_of_an_unknown_field_is_refused(store):
    with pytest.raises(ValueError, match="path"):
        store.set_note("0123456789", path="/etc/passwd")


# --- from the shell ---


def test_scan_command(models, capsys, tmp_path):
    (models / "loras/old.ckpt").write_bytes(b"")
    assert main(["scan", str(models), "--json", "--index", str(tmp_path / "i.sqlite")]) == 0
    answer = json.loads(capsys.readouterr().out)
    bear = next(card for card in answer["cards"] if "barnaby" in card["file_name"])
    assert (bear["kind"], bear["base_family"], bear["triggers"]) == (
        "lora",
        "sd15",
        ["tdybr4 bear"],
    )
    assert [bad["file"] for bad in answer["refused"]] == ["old.ckpt"]
    assert bear["concept"] == bear["id"]
    assert main(["scan", str(models / "loras")]) == 0
    assert "2 models, 1 refused" in capsys.readouterr().out
    assert main(["scan", str(models / "nothing")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_checkin_command(models, capsys, monkeypatch):
    from personalq_core.checkin import engine

    monkeypatch.setattr(engine, "load_embedder", lambda: (None, None))
    request = "my barnaby bear on the beach"
    assert main(["checkin", request, "--models", str(models), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["status"] == "chosen"
    assert answer["choice"]["name"] == "toys/barnaby_v4.safetensors"
    assert "tdybr4 bear" in answer["prompt"]
    assert main(["checkin", request, "--models", str(models)]) == 0
    assert "prompt: " in capsys.readouterr().out
    assert main(["checkin", " ", "--models", str(models)]) == 2


# --- concepts ---


def test_concepts_are_grouped_by_content(tmp_path):
    for name, trigger in (
        ("clv_a", "clvr rabbit"), ("clv_b_xl", "clvrxl rabbit"), ("bear_v1", ""),
        ("bear_v2-000004", ""), ("a_style", "watercolour style"), ("b_style", "ink style"),
    ):  # fmt: skip
        write(tmp_path / f"{name}.safetensors", metadata={"modelspec.trigger_phrase": trigger})
    groups = concept_groups(scan([Root("lora", str(tmp_path))]).cards)
    names = [sorted(card.name.split(".")[0] for card in group) for group in groups]
    assert sorted(names) == [
        ["a_style"], ["b_style"], ["bear_v1", "bear_v2-000004"], ["clv_a", "clv_b_xl"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".civitai.info", {"creator": {"username": "Lena K"}}),
        (".metadata.json", {"civitai": {"creator": {"username": "Lena K"}}}),
        ("", {"modelspec.author": "Lena K"}),
    ],
)
def test_who_trained_it_and_where_that_stands(tmp_path, suffix, content):
    path = write(tmp_path / "fox.safetensors", metadata=None if suffix else content)
    if suffix:
        beside(path, suffix, {"baseModel": "SD 1.5", **content})
    card = one(tmp_path)
    assert card.author == "Lena K"
    assert card.sources["author"]
