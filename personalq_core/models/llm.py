"""A language model that is asked one thing: how likely is "yes"?

Which one is said on the server only, by environment variables or a file named in one, never by a
node, a page or a workflow:

    PERSONALQ_LLM_URL      an OpenAI-compatible endpoint, e.g. http://127.0.0.1:11434/v1 (Ollama)
    PERSONALQ_LLM_MODEL    its name for the model
    PERSONALQ_LLM_KEY      its key, where it wants one
    PERSONALQ_LLM_GGUF     instead of a URL: a GGUF file, run in here (pip install xllamacpp)
    PERSONALQ_LLM_SECONDS  the longest a decision waits for it; 8 where nothing is said
    PERSONALQ_LLM_FILE     a JSON file with url, model, key, gguf, seconds, instead of them

Yes or no, read from the probabilities of the first token: models below some 1.5 B parameters that
are asked to pick a letter or to write JSON do no better than chance.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

FILE_VARIABLE = "PERSONALQ_LLM_FILE"
DEFAULT_SECONDS = 8.0
_FIELDS = ("url", "model", "key", "gguf", "seconds")
_MAX_ANSWER_BYTES = 1_000_000
_TOP = 20
_WITHOUT_LOGPROBS = 0.9
"""How much a plain "yes" is believed where a server tells no probabilities."""
_LOADING = threading.Lock()


class LlmError(RuntimeError):
    """No answer that can be used; the message says why, without the key."""


class YesNo(Protocol):
    """A language model.

    One whose `in_turn` is true is asked in the caller's own thread, one question after another.
    """

    def yes(self, instruction: str, text: str, seconds: float) -> float:
        """Probability of "yes", 0 to 1. Raises LlmError; stops waiting after `seconds`."""
        ...


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server. It follows no redirect: the key goes where the user sent it."""

    url: str
    model: str = ""
    key: str = field(default="", repr=False)

    def yes(self, instruction: str, text: str, seconds: float) -> float:
        answer = self._post(
            {
                "model": self.model,
                "messages": [
                    {"role": "system", "content": instruction},
                    {"role": "user", "content": text},
                ],
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": True,
                "top_logprobs": _TOP,
            },
            seconds,
        )
        return _probability(answer)

    def _post(self, body: Mapping[str, Any], seconds: float) -> Any:
        parts = urlsplit(self.url)
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=seconds, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=seconds)
        try:
            path = f"{parts.path.rstrip('/')}/chat/completions"
            connection.request("POST", path, json.dumps(body).encode(), headers)
            response = connection.getresponse()
            raw = response.read(_MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise LlmError(f"{host} gave no answer ({error or type(error).__name__})") from error
        finally:
            connection.close()
        if response.status != 200:
            raise LlmError(f"{host} answered with status {response.status}")
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise LlmError(f"{host} answered with something that is no JSON") from error


@dataclass(frozen=True)
class LocalGguf:
    """A GGUF file run in this process by llama.cpp (package xllamacpp), loaded at the first use."""

    path: str

    def yes(self, instruction: str, text: str, seconds: float) -> float:
        with _LOADING:  # questions come on several threads
            endpoint = self.endpoint
        return endpoint.yes(instruction, text, seconds)

    @cached_property
    def endpoint(self) -> Endpoint:
        """The server inside this process."""
        try:
            import xllamacpp  # pyright: ignore[reportMissingImports]: the user's choice
        except ImportError as error:
            raise LlmError("a GGUF file needs `pip install xllamacpp`") from error
        settings = xllamacpp.CommonParams()
        settings.model.path = self.path
        settings.n_ctx, settings.n_parallel, settings.port = 4096, 1, 0
        try:
            server = xllamacpp.Server(settings)
        except Exception as error:  # llama.cpp raises its own kinds
            raise LlmError(f"{Path(self.path).name} cannot be loaded ({error})") from error
        object.__setattr__(self, "_server", server)  # it stops when it is forgotten
        return Endpoint(f"{server.listening_address}/v1")


@dataclass(frozen=True)
class LlmSettings:
    """What was configured."""

    llm: YesNo
    seconds: float


def load_llm(environment: Mapping[str, str] = os.environ) -> LlmSettings | None:
    """The configured language model; None where none is, which is the default.

    Nothing is connected or loaded yet.

    Raises:
        ValueError: a setting that cannot be used, with the remedy.
    """
    said = _from_file(environment[FILE_VARIABLE]) if environment.get(FILE_VARIABLE) else {}
    for name in _FIELDS:
        value = said.get(name) or environment.get(f"PERSONALQ_LLM_{name.upper()}", "")
        said[name] = value.strip()  # a key's file ends with a line end that no header may hold
    try:
        seconds = float(said["seconds"] or DEFAULT_SECONDS)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds <= 600:
        raise ValueError("PERSONALQ_LLM_SECONDS must be a number above 0 and up to 600.")
    if said["gguf"]:
        if not Path(said["gguf"]).is_file():
            raise ValueError(f"PERSONALQ_LLM_GGUF names {said['gguf']}, where there is no file.")
        return LlmSettings(LocalGguf(said["gguf"]), seconds)
    if not said["url"]:
        return None
    if not _is_address(said["url"]):
        raise ValueError(
            "PERSONALQ_LLM_URL must look like http://127.0.0.1:11434/v1, with a port up to 65535."
        )
    if not (said["key"].isascii() and said["key"].isprintable()):
        raise ValueError(
            "PERSONALQ_LLM_KEY holds a line end or a letter that is not ASCII, as no key does. "
            "Copy the key anew."
        )
    return LlmSettings(Endpoint(said["url"], said["model"], said["key"]), seconds)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, or no such port
        return False


def _from_file(path: str) -> dict[str, Any]:
    try:
        tree = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{FILE_VARIABLE} names {path}, which cannot be read: {error}") from error
    if not isinstance(tree, dict) or tree.keys() - set(_FIELDS):
        raise ValueError(f"{path} must hold a JSON object with some of {', '.join(_FIELDS)}.")
    return {name: str(value) for name, value in tree.items()}


def believed(said: str) -> float:
    """Probability of yes after a plain answer. Raises LlmError where it is neither yes nor no."""
    word = re.match(r"\W*(yes|no)\b", said, re.I)
    if not word:
        raise LlmError("it answered neither yes nor no")
    return _WITHOUT_LOGPROBS if word[1].lower() == "yes" else 1 - _WITHOUT_LOGPROBS


def _probability(answer: Any) -> float:
    """P(yes) / (P(yes) + P(no)) of the first token, in any spelling of the two words."""
    try:
        choice = answer["choices"][0]
        listed = (choice.get("logprobs") or {}).get("content")
        if not listed:
            return believed(str(choice["message"]["content"]))
        tokens = [(str(t["token"]), float(t["logprob"])) for t in listed[0]["top_logprobs"]]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise LlmError("the answer has not the form of a chat completion") from error
    mass = {"yes": 0.0, "no": 0.0}
    for token, logprob in tokens:
        word = token.strip().strip(".,!\"'*").lower()
        if word in mass and logprob <= 0:
            mass[word] += math.exp(logprob)
    total = mass["yes"] + mass["no"]
    if not total:
        raise LlmError("it answered neither yes nor no")
    return mass["yes"] / total
