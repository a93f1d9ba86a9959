"""What tests share that run ComfyUI's own classes in their process."""

import importlib
import sys
import types

import pytest

from tools.comfy import COMFYUI, ROOT
from tools.run_comfy import HOST_ONLY_PACKAGES, import_torchvision


@pytest.fixture(scope="session")
def pack():
    """Gives a module of the pack by its name, loaded as ComfyUI loads it: as part of the pack."""
    if not (COMFYUI / "main.py").is_file():
        pytest.skip(f"no ComfyUI in {COMFYUI}: run `make setup`")
    sys.path += [str(COMFYUI), str(HOST_ONLY_PACKAGES)]
    import_torchvision()
    importlib.import_module("comfy.cli_args").args.cpu = True
    package = types.ModuleType("personalq_pack")
    package.__path__ = [str(ROOT)]
    sys.modules["personalq_pack"] = package
    return lambda name: importlib.import_module(f"personalq_pack.{name}")
