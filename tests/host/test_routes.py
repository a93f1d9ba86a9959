"""The pack's own HTTP routes, asked as a page and as a stranger would ask them."""

import asyncio
import importlib
import io
import json
import sys
import threading
import time
import types
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from tests.core.library.files import lora, write
from tools.comfy import ROOT

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
def library(comfy, models: Path) -> Path:
    """Three LoRAs: one with a picture, one whose text and picture are hostile."""
    loras = models / "loras"
    write(
        loras / "barnaby_v1.safetensors",
        metadata={
            "modelspec.title": "Barnaby v1",
            "modelspec.trigger_phrase": "brnbyvone bear",
            "modelspec.date": "2025-01-01T00:00:00",
        },
        fill=1,
    )
    Image.new("RGBA", (900, 600), (200, 30, 30, 128)).save(loras / "barnaby_v1.preview.png")
    write(
        loras / "sub" / "barnaby_v2.safetensors",
        metadata={"modelspec.title": "Barnaby v2", "modelspec.date": "2025-02-01T00:00:00"},
        fill=2,
    )
    write(
        loras / "evil.safetensors",
        metadata={"modelspec.title": HOSTILE, "modelspec.description": HOSTILE},
        fill=3,
    )
    (loras / "evil.png").write_text("<svg onload=alert(1)>")
    ask(comfy, "rescan", {})
    return loras


def ask(comfy, path, body=None, headers=None, **query):
    """(status, headers, content) of one request to /personalq/PATH; a body is posted as JSON."""
    url = f"{comfy.url}/personalq/{path}?{urllib.parse.urlencode(query)}"
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    headers = {**({} if data is None else {"Content-Type": "application/json"}), **(headers or {})}
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def cards(comfy, **query):
    status, _, content = ask(comfy, "cards", **query)
    assert status == 200, content
    return json.loads(content)


def test_cards_newest_first_in_pages(comfy, library):
    page = cards(comfy, limit=2, offset=1)
    assert page["total"] == 3 and page["kinds"] == {"lora": 3}
    everything = [card["title"] for card in cards(comfy)["cards"]]
    assert everything.index("Barnaby v2") < everything.index("Barnaby v1")
    assert [card["title"] for card in page["cards"]] == everything[1:]


def test_search_while_typing_and_filters(comfy, library):
    assert {c["title"] for c in cards(comfy, q="barn")["cards"]} == {"Barnaby v1", "Barnaby v2"}
    assert cards(comfy, q="brnbyvone")["cards"][0]["title"] == "Barnaby v1"
    assert cards(comfy, kind="checkpoint")["total"] == 0
    assert cards(comfy, base="sd15")["total"] == 3


def test_search_orders_as_check_in_does(comfy, library):
    wait_until_learned(comfy)

    def titles(query: str) -> list[str]:
        return [card["title"] for card in cards(comfy, q=query)["cards"]]

    assert titles("my newest barnaby")[:2] == ["Barnaby v2", "Barnaby v1"]
    assert titles("my oldest barnaby")[:2] == ["Barnaby v1", "Barnaby v2"]
    assert titles("barnaby v1")[0] == "Barnaby v1"
    assert "Barnaby v1" not in titles("barnaby not brnbyvone")
    assert len(titles("newest")) == 3
    assert titles("barnaby for sdxl") == []
    assert titles("qqqqq") == []


def wait_until_learned(comfy) -> None:
    for _ in range(300):
        if cards(comfy, limit=1)["by_meaning"]:
            return
        time.sleep(0.1)
    raise TimeoutError("the library was not embedded")


def test_no_answer_holds_a_path_of_the_disk(comfy, library):
    card = cards(comfy)["cards"][0]
    whole = json.dumps(cards(comfy)) + ask(comfy, "card", id=card["id"])[2].decode()
    assert str(library) not in whole


def test_a_card_says_where_its_facts_come_from(comfy, library):
    card = json.loads(ask(comfy, "card", id="lora:barnaby_v1.safetensors")[2])
    assert card["triggers"] == ["brnbyvone bear"]
    assert "header" in card["sources"]["title"].lower()


def test_previews_are_drawn_anew_and_revalidated(comfy, library):
    status, headers, content = ask(comfy, "preview", id="lora:barnaby_v1.safetensors")
    assert (status, headers["Content-Type"]) == (200, "image/webp")
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "WEBP" and max(picture.size) <= 320
    again = ask(comfy, "preview", id="lora:barnaby_v1.safetensors",
                headers={"If-None-Match": headers["ETag"]})  # fmt: skip
    assert again[0] == 304 and not again[2]
    Image.new("RGB", (10, 10)).save(library / "barnaby_v1.preview.png")
    changed = ask(comfy, "preview", id="lora:barnaby_v1.safetensors",
                  headers={"If-None-Match": headers["ETag"]})  # fmt: skip
    assert changed[0] == 200


@pytest.mark.parametrize(
    ("held", "status"), [("PNG", 200), ("JPEG", 200), ("WEBP", 200), ("BMP", 204), ("TIFF", 204)]
)
def test_previews_are_read_as_the_usual_formats_only(comfy, library, held, status):
    with (library / "evil.png").open("wb") as file:
        Image.new("RGB", (10, 10)).save(file, held)
    assert ask(comfy, "preview", id="lora:evil.safetensors")[0] == status


@pytest.mark.parametrize(
    ("card", "status"),
    [
        ("lora:evil.safetensors", 204),  # its .png is an SVG with a script
        ("lora:sub/barnaby_v2.safetensors", 204),
        ("lora:../../../etc/passwd", 404),
        ("/etc/passwd", 404),
        ("", 404),
        ("x" * 5000, 404),
    ],
)
def test_previews_only_of_known_cards(comfy, library, card, status):
    answer = ask(comfy, "preview", id=card)
    assert (answer[0], b"<svg" in answer[2]) == (status, False)


def test_a_note_outranks_the_file_and_can_be_forgotten(comfy, library):
    card = "lora:barnaby_v1.safetensors"
    note = {"title": f"My bear {HOSTILE}", "trigger": "mine", "note": "from the attic"}
    status, _, content = ask(comfy, "note", {"id": card, "note": note})
    noted = json.loads(content)
    assert status == 200, content
    assert (noted["title"], noted["trigger"]) == (note["title"], "mine")
    assert noted["sources"]["title"] == "your note"
    assert noted["note"] == note and noted["description"].startswith("from the attic")
    assert cards(comfy, q="my bear")["cards"][0]["id"] == card

    ask(comfy, "note", {"id": card, "note": {"title": None}})
    kept = json.loads(ask(comfy, "card", id=card)[2])
    assert (kept["title"], kept["trigger"]) == ("Barnaby v1", "mine")
    ask(comfy, "note", {"id": card, "note": {"trigger": None, "note": ""}})
    assert not [p for p in library.rglob("*") if p.suffix in (".json", ".info", ".txt")]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"id": "lora:barnaby_v1.safetensors", "note": {"path": "/etc"}}, {}, 400),
        ({"id": "lora:barnaby_v1.safetensors", "note": {"title": 7}}, {}, 400),
        ({"id": "lora:barnaby_v1.safetensors", "note": {"trigger": "a, b"}}, {}, 400),
        ({"id": "lora:barnaby_v1.safetensors", "note": []}, {}, 400),
        ({"id": ["x"], "note": {}}, {}, 404),
        ([1], {}, 400),
        (b"{", {}, 400),
        (b"[" * 60_000, {}, 400),
        (b" " * 100_000, {}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 400),
        ({}, {"Origin": "https://elsewhere.example"}, 403),
        ({}, {"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_bad_and_foreign_notes_are_refused(comfy, library, body, headers, status):
    assert ask(comfy, "note", body, headers)[0] == status
    assert json.loads(ask(comfy, "card", id="lora:barnaby_v1.safetensors")[2])["title"] == (
        "Barnaby v1"
    )


@pytest.mark.parametrize("offset", ["-1", "x", "1e3", "٣"])
def test_bad_numbers_are_refused(comfy, library, offset):
    assert ask(comfy, "cards", offset=offset)[0] == 400


def test_status_names_folders_and_size(comfy, library):
    status = json.loads(ask(comfy, "status")[2])
    assert status["cards"] == 3 and status["scan"] is None
    assert {"kind": "lora", "path": str(library)} in status["folders"]


# --- the same in this process, with folders of our own in place of ComfyUI's ---


@pytest.fixture
def routes(tmp_path, monkeypatch):
    """nodes/routes.py over the LoRAs of `tmp_path / "loras"`."""
    (tmp_path / "loras").mkdir()
    folders = types.ModuleType("folders")
    folders.model_folders = lambda: [("lora", str(tmp_path / "loras"))]
    folders.private_folder = lambda: tmp_path
    web_server = types.ModuleType("web_server")
    web_server.routes = web.RouteTableDef
    pack = types.ModuleType("personalq_routes")
    pack.__path__ = [str(ROOT)]
    host = types.ModuleType("host")
    host.folders, host.web_server = folders, web_server
    monkeypatch.setitem(sys.modules, "personalq_routes", pack)
    monkeypatch.setitem(sys.modules, "personalq_routes.nodes.host", host)
    module = importlib.import_module("personalq_routes.nodes.routes")
    checkin = importlib.import_module("personalq_routes.personalq_core.checkin.checkin")
    module.LIBRARY.engine = checkin.CheckIn  # words alone: no model is loaded
    before = set(threading.enumerate())
    yield module
    for learning in set(threading.enumerate()) - before:
        learning.join(timeout=60)
    for name in [name for name in sys.modules if name.startswith("personalq_routes.")]:
        del sys.modules[name]


@pytest.fixture
def unreadable(routes, tmp_path, monkeypatch):
    """A LoRA, and a second one that the disk does not give at first."""
    write(tmp_path / "loras" / "bear.safetensors")
    write(tmp_path / "loras" / "mug.safetensors", lora(2048), fill=1)
    scanning = sys.modules["personalq_routes.personalq_core.library.scan"]
    read_card = scanning.read_card

    def fail(kind, name, *rest):
        if name == "mug.safetensors":
            raise OSError(5, "Input/output error")
        return read_card(kind, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(scanning, "read_card", fail)
        yield patch


def test_what_could_not_be_read_is_read_by_the_next_rescan(routes, unreadable):
    library, shelf = routes.LIBRARY, routes.shelf
    assert shelf.refresh()
    assert [card.name for card in library.cards] == ["bear.safetensors"]
    assert "mug.safetensors cannot be read" in library.notices[0]
    before = library.state()
    assert not shelf.refresh() and library.state() == before

    unreadable.undo()
    assert shelf.refresh()
    assert {card.name for card in library.cards} == {"bear.safetensors", "mug.safetensors"}
    assert library.notices == () and library.state() != before
    assert not shelf.refresh()


def test_a_base_that_only_tensors_tell_is_shown_for_a_finer_one(routes, tmp_path):
    flux = {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 3072)}
    write(tmp_path / "loras" / "bear one.safetensors", flux)
    write(tmp_path / "loras" / "bear two.safetensors", flux, {"ss_base_model_version": "flux1"})

    def titles(query: str) -> set[str]:
        return {card["title"] for card in routes.shelf.page(query, "", "", 0, 10)["cards"]}

    assert titles("bear for chroma") == {"bear one"}
    assert titles("bear for flux") == {"bear one", "bear two"}
    assert titles("bear for sdxl") == set()


def test_no_handler_reads_folders_or_builds_views_on_the_event_loop(routes, tmp_path, monkeypatch):
    write(tmp_path / "loras" / "bear.safetensors")
    places = []
    for owner, name in (
        (routes.folders, "model_folders"), (routes.shelf, "_current"), (routes, "preview_stamp"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, _noting_its_thread(getattr(owner, name), places))

    async def visit() -> list[int]:
        app = web.Application()
        app.add_routes(routes.routes)
        card = {"id": "lora:bear.safetensors"}
        async with TestClient(TestServer(app)) as client:
            answers = [
                await client.get("/personalq/status"),
                await client.post("/personalq/rescan", json={}),
                await client.get("/personalq/cards"),
                await client.get("/personalq/card", params=card),
                await client.get("/personalq/preview", params=card),
                await client.post("/personalq/note", json={**card, "note": {"title": "Bear"}}),
            ]
            return [answer.status for answer in answers], threading.current_thread()

    # A browser driven by the tests before has an event loop in this thread.
    with ThreadPoolExecutor() as threads:
        statuses, loop = threads.submit(asyncio.run, visit()).result()
    assert statuses == [200, 200, 200, 200, 204, 200]
    assert places and loop not in places


def _noting_its_thread(call, places):
    def noting(*arguments):
        places.append(threading.current_thread())
        return call(*arguments)

    return noting
