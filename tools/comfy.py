"""Start a real ComfyUI with this checkout as its custom node, and talk to it over HTTP.

    with Server(base=Path("/tmp/somewhere")) as server:      # base/models/... holds the models
        run = server.run(api_graph)
        picture = server.image(run.images()[0])

`COMFYUI_PATH` names another ComfyUI than `.comfyui/ComfyUI`; `COMFYUI_PYTHON` the interpreter that
has its requirements, where that is not the one running this file.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMFYUI = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui" / "ComfyUI")
PYTHON = os.environ.get("COMFYUI_PYTHON") or sys.executable
NEWEST_FRONTEND = ROOT / ".comfyui" / "newest-frontend" / "comfyui_frontend_package" / "static"
MODEL_FOLDERS = ("checkpoints", "loras", "diffusion_models", "embeddings", "vae", "text_encoders")

Graph = dict[str, dict[str, Any]]
"""A graph in ComfyUI's API form: node id -> {"class_type": ..., "inputs": {...}}."""


class ServerError(RuntimeError):
    """ComfyUI did not start, died, or did not answer in time; the message ends with its log."""


class Rejected(RuntimeError):
    """ComfyUI refused a graph before running it. `answer` is its whole JSON reply."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        details = [
            f"{error['message']}: {error['details']}".strip(": ")
            for node in (answer.get("node_errors") or {}).values()
            for error in node["errors"]
        ]
        message = answer.get("error", {}).get("message", "refused")
        super().__init__("; ".join([message, *details]))


@dataclass(frozen=True)
class Run:
    """What ComfyUI's history says of one finished graph."""

    prompt_id: str
    history: dict[str, Any]

    @property
    def ok(self) -> bool:
        return self.history["status"]["status_str"] == "success"

    @property
    def error(self) -> str:
        """The failing node's message, "" where all went well."""
        for failure in self._messages("execution_error"):
            return failure["exception_message"].strip()
        return ""

    @property
    def cached(self) -> set[str]:
        """Ids of the nodes whose result came from ComfyUI's cache."""
        return {node for event in self._messages("execution_cached") for node in event["nodes"]}

    @property
    def seconds(self) -> float:
        """Time from the start of the run to its end."""
        ends = ("execution_success", "execution_error", "execution_interrupted")
        start = next(self._messages("execution_start"))["timestamp"]
        end = next(event["timestamp"] for name in ends for event in self._messages(name))
        return (end - start) / 1000

    def ui(self, key: str) -> list[Any]:
        """All `ui` values that the nodes of this run sent under `key`."""
        return [value for out in self.history["outputs"].values() for value in out.get(key, [])]

    def images(self) -> list[dict[str, str]]:
        """Saved and previewed pictures, as {"filename", "subfolder", "type"}."""
        return self.ui("images")

    def _messages(self, kind: str) -> Iterator[dict[str, Any]]:
        messages = self.history["status"]["messages"]
        return (event for name, event in messages if name == kind)


class Server:
    """One ComfyUI process: CPU only, no custom node but this checkout.

    Args:
        base: its base directory. `models/`, `input/`, `output/` and `user/` lie there; they are
            made where they are missing.
        frontend: folder of another graph page than the pinned one.
        port: 0 takes any free port.
        arguments: further ones for main.py.
    """

    def __init__(
        self,
        base: Path,
        frontend: Path | None = None,
        port: int = 0,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self.base = Path(base)
        self.models = self.base / "models"
        self.output = self.base / "output"
        self.log_path = self.base / "comfyui.log"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.frontend = frontend
        self._arguments = [*arguments, *(("--front-end-root", str(frontend)) if frontend else ())]
        self._process: subprocess.Popen[bytes] | None = None

    # -- the process

    def start(self, timeout_s: float = 180) -> Server:
        """Start it and return when it answers; raises ServerError where it does not."""
        if not (COMFYUI / "main.py").is_file():
            raise ServerError(f"no ComfyUI in {COMFYUI}: run `make setup` or set COMFYUI_PATH")
        self._make_folders()
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=subprocess.STDOUT, env=host_environment()
            )
        try:
            self._wait_until_up(timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the process; harmless where it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def is_up(self) -> bool:
        """True where the server answers now."""
        try:
            self.get("/system_stats")
        except (OSError, ValueError):
            return False
        return True

    def log(self) -> str:
        """Everything the process has printed."""
        return self.log_path.read_text(errors="replace")

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _command(self) -> list[str]:
        return [
            PYTHON, str(ROOT / "tools" / "run_comfy.py"), str(COMFYUI),
            "--cpu", "--port", str(self.port), "--disable-auto-launch",
            "--base-directory", str(self.base), "--database-url", "sqlite:///:memory:",
            "--disable-all-custom-nodes", "--whitelist-custom-nodes", "personalq",
            *self._arguments,
        ]  # fmt: skip

    def _make_folders(self) -> None:
        for folder in MODEL_FOLDERS:
            (self.models / folder).mkdir(parents=True, exist_ok=True)
        for folder in ("custom_nodes", "input", "output", "user"):
            (self.base / folder).mkdir(exist_ok=True)
        link = self.base / "custom_nodes" / "personalq"
        if not link.exists():
            link.unlink(missing_ok=True)  # it may point to a checkout that has moved
            link.symlink_to(ROOT)

    def _wait_until_up(self, timeout_s: float) -> None:
        assert self._process is not None
        deadline = time.monotonic() + timeout_s
        while not self.is_up():
            if self._process.poll() is not None:
                raise ServerError(f"ComfyUI ended while starting:\n{self.log()[-3000:]}")
            if time.monotonic() > deadline:
                raise ServerError(f"no answer after {timeout_s} s:\n{self.log()[-3000:]}")
            time.sleep(0.2)

    # -- its API

    def get(self, path: str) -> Any:
        """GET `path` as JSON."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any) -> Any:
        """POST `body` as JSON; the answer's JSON, or None where it has none."""
        return self._send(path, json.dumps(body).encode(), "application/json")

    def queue(self, graph: Graph, client_id: str = "") -> str:
        """Queue an API graph and return its prompt id; raises Rejected."""
        body: dict[str, Any] = {"prompt": graph}
        if client_id:
            body["client_id"] = client_id
        try:
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise Rejected(json.load(error)) from None

    def wait(
        self, prompt_id: str, timeout_s: float = 300, on_wait: Callable[[], None] = lambda: None
    ) -> Run:
        """Wait for a queued graph to end, calling `on_wait` often; raises ServerError."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise ServerError(f"ComfyUI ended while running:\n{self.log()[-3000:]}")
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return Run(prompt_id, history[prompt_id])
            on_wait()
            time.sleep(0.05)
        raise ServerError(f"no result after {timeout_s} s:\n{self.log()[-3000:]}")

    def run(self, graph: Graph, timeout_s: float = 300) -> Run:
        """Queue a graph and wait for it."""
        return self.wait(self.queue(graph), timeout_s)

    def image(self, image: dict[str, str]) -> bytes:
        """The file of one entry of `Run.images()`."""
        address = f"{self.url}/view?{urllib.parse.urlencode(image)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.read()

    def upload(self, path: Path) -> str:
        """Put a picture into the input folder; the name LoadImage knows it by."""
        boundary = uuid.uuid4().hex
        head = (
            f"--{boundary}\r\nContent-Disposition: form-data; "
            f'name="image"; filename="{path.name}"\r\n\r\n'
        )
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return self._send("/upload/image", body, kind)["name"]

    def _send(self, path: str, body: bytes, content_type: str) -> Any:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": content_type})
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None


def free_port() -> int:
    """A TCP port that nothing uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def host_environment() -> dict[str, str]:
    """The environment of the host: offline, so that no run depends on a download."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
