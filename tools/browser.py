"""Find a Chromium for the browser tests, or install one.

Run as a command it prints what it found, installed, or could not have; it never fails, because
the other tests run without a browser.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
MISSING = (
    "no Chromium: install one (apt install chromium) or let Playwright do it "
    "(.venv/bin/python -m playwright install --with-deps chromium)"
)


def find() -> str | None:
    """Path of a Chromium that starts on this machine, None where there is none."""
    candidates = [shutil.which(name) for name in NAMES]
    candidates.append(_playwrights_own())
    return next((path for path in candidates if path and _starts(path)), None)


def launch(playwright: Playwright, path: str) -> Browser:
    """Start the Chromium at `path`, without a window."""
    return playwright.chromium.launch(executable_path=path, args=list(FLAGS))


def install() -> None:
    """Try to install one: the system's where apt may be used, else Playwright's own."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        _try("apt-get", "update", "-qq")
        _try("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium")
        if find():
            return
    _try(sys.executable, "-m", "playwright", "install", "chromium")


def _playwrights_own() -> str | None:
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


def _starts(path: str) -> bool:
    # A distribution may ship a stub that only asks to install a snap; it fails here.
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0


def _try(*command: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    )


def main() -> None:
    path = find()
    if not path:
        print("Looking for a Chromium to install for the browser tests ...", flush=True)
        install()
        path = find()
    print(f"Browser tests use {path}" if path else f"Browser tests will be skipped: {MISSING}")


if __name__ == "__main__":
    main()
