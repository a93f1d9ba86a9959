"""A real ComfyUI for the tests: one server for the whole session, models to the test's wish."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.comfy import COMFYUI, MODEL_FOLDERS, Server


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
    for folder in MODEL_FOLDERS:
        shutil.rmtree(comfy.models / folder)
        (comfy.models / folder).mkdir()


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


def skip_without_comfyui() -> None:
    if not (COMFYUI / "main.py").is_file():
        pytest.skip(f"no ComfyUI in {COMFYUI}: run `make setup`")
