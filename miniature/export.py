"""Store the trained weights at 16 bit under ``miniature/weights``, small enough for git.

    python -m miniature.export
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from .train import load_base, load_codec

WEIGHTS = Path(__file__).parent / "weights"


def _store(name: str, state: dict[str, Tensor]) -> None:
    path, part = WEIGHTS / f"{name}.safetensors", WEIGHTS / f"{name}.part"
    save_file({key: tensor.half().contiguous() for key, tensor in state.items()}, part)
    part.rename(path)


def main() -> None:
    WEIGHTS.mkdir(exist_ok=True)
    unet, text = load_base()
    _store("unet", unet.state_dict())
    _store("text", text.state_dict())
    _store("vae", load_codec().net.state_dict())


if __name__ == "__main__":
    main()
