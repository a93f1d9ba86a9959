"""A real ComfyUI for the tests: one server for the whole session, models to the test's wish."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.comfy import COMFYUI, MODEL_FOLDERS, ROOT, Server


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running ComfyUI with this checkout as its custom node and no models at all."""
    skip_without_comfyui()
    with Server(tmp_path_factory.mktemp("comfy")) as server:
        yield server


@pytest.fixture
def models(comfy: Server) -> Iterator[Path]:
    """The server's models folder (`checkpoints/`, `loras/`, ...), empty before and after a test."""
    yield comfy.models
    empty(comfy.models)


@pytest.fixture
def start_comfy(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start further servers, for the few tests that need one of their own."""
    skip_without_comfyui()
    servers: list[Server] = []

    def start(**options) -> Server:
        server = Server(options.pop("base", tmp_path / f"comfy{len(servers)}"), **options)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def assembled() -> Path:
    """A models folder with the miniature checkpoint and its LoRAs; only to be read."""
    from miniature.assemble import assemble

    folder = ROOT / ".run" / "miniature"
    assemble(folder)
    return folder


@pytest.fixture
def miniature(models: Path, assembled: Path) -> Path:
    """The server's models folder with the miniature in it."""
    fill(models, assembled)
    return models


def fill(models: Path, assembled: Path) -> None:
    """Put the miniature into a models folder: the large checkpoint as a link."""
    for checkpoint in (assembled / "checkpoints").iterdir():
        (models / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    shutil.copytree(assembled / "loras", models / "loras", dirs_exist_ok=True)


def empty(models: Path) -> None:
    """Leave only empty folders."""
    for folder in MODEL_FOLDERS:
        shutil.rmtree(models / folder)
        (models / folder).mkdir()


def skip_without_comfyui() -> None:
    if not (COMFYUI / "main.py").is_file():
        pytest.skip(f"no ComfyUI in {COMFYUI}: run `make setup`")
