"""List what is stored under ``miniature/weights``: bytes and SHA-256 of every file.

    python -m miniature.manifest            writes miniature/manifest.json
    python -m miniature.manifest --check    compares, and fails where a file differs
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from .base import WEIGHTS

MANIFEST = Path(__file__).parent / "manifest.json"


def listing() -> dict[str, dict[str, Any]]:
    """File name -> its bytes and hash, for every file under ``weights``."""
    return {
        path.relative_to(WEIGHTS).as_posix(): {
            "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()
        }
        for path in sorted(WEIGHTS.rglob("*")) if path.is_file() and path.suffix != ".part"
    }


def differences() -> list[str]:
    """Files that are not as the manifest says, by name."""
    said, found = json.loads(MANIFEST.read_text()), listing()
    return sorted(name for name in said.keys() | found.keys() if said.get(name) != found.get(name))


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if wrong := differences():
            sys.exit("Not as in manifest.json: " + ", ".join(wrong))
        return
    files = listing()
    MANIFEST.write_text(json.dumps(files, indent=1) + "\n")
    total = sum(entry["bytes"] for entry in files.values())
    print(f"{len(files)} files, {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
