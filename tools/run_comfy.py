"""Run ComfyUI's main.py where torchvision is built for CUDA and torch for CPU.

    python tools/run_comfy.py COMFYUI_FOLDER [main.py's arguments]

torchvision's Python side registers "fake" (shape only) versions of its compiled operators. Where
the compiled side did not load, as beside a CPU torch, the first registration raises
`operator torchvision::nms does not exist` and `import torchvision` fails, although ComfyUI uses
none of those operators. So, only where that error occurs, torchvision is imported once more with
these registrations skipped.
"""

import importlib
import runpy
import sys
from pathlib import Path

HOST_ONLY_PACKAGES = Path(__file__).resolve().parent.parent / ".comfyui" / "site-packages"


def import_torchvision() -> None:
    """Import torchvision, if need be without the shapes of its compiled operators."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        import_torchvision_without_operators()


def import_torchvision_without_operators() -> None:
    """Import torchvision while `torch.library.register_fake` ignores `torchvision::*`."""
    import torch.library

    register_fake = torch.library.register_fake

    def skip_torchvision(op, *args, **kwargs):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register_fake(op, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    torch.library.register_fake = skip_torchvision
    try:
        importlib.import_module("torchvision")
    finally:
        torch.library.register_fake = register_fake


def main() -> None:
    """Become ComfyUI: its folder first on sys.path, its arguments in sys.argv."""
    folder = Path(sys.argv[1]).resolve()
    sys.path[0] = str(folder)
    sys.path.append(str(HOST_ONLY_PACKAGES))  # last: a user's own torchvision wins
    sys.argv = [str(folder / "main.py"), *sys.argv[2:]]
    import_torchvision()
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
