"""Many pictures of the world, drawn once and kept on disk."""

from __future__ import annotations

import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np

from .world import PERSONAL_STYLES, SIZE, Scene, render, sample_scene

_CHUNK = 1000


def pictures(folder: Path, count: int, seed: int = 0) -> tuple[np.ndarray, list[Scene]]:
    """The first ``count`` pictures of the stream that ``seed`` names, and their scenes.

    Pictures are ``(count, SIZE, SIZE, 3)`` uint8. Chunks already drawn are read from ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder / f"{seed}-{i:04d}.pickle", seed, i) for i in range(-(-count // _CHUNK))]
    missing = [job for job in jobs if not job[0].exists()]
    if missing:
        with multiprocessing.get_context("spawn").Pool() as pool:
            for _ in pool.imap_unordered(_draw, missing):
                pass
    chunks = [pickle.loads(job[0].read_bytes()) for job in jobs]
    scenes = [scene for _, part in chunks for scene in part]
    return np.concatenate([part for part, _ in chunks])[:count], scenes[:count]


def drawn(scenes: list[Scene]) -> np.ndarray:
    """Pictures ``(n, SIZE, SIZE, 3)`` uint8 of the scenes, drawn on all cores."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        return np.stack(pool.map(_pixels, scenes, chunksize=100))


def _pixels(scene: Scene) -> np.ndarray:
    return np.asarray(render(scene))


def _any_style(scene: Scene, rng: np.random.Generator) -> Scene:
    """One scene in seven in a style that only personal LoRAs are shown."""
    if rng.random() < 1 / 7:
        return replace(scene, style=str(rng.choice(PERSONAL_STYLES)))
    return scene


def _draw(job: tuple[Path, int, int]) -> None:
    path, seed, index = job
    rng = np.random.default_rng((seed, index))
    scenes = [_any_style(sample_scene(rng), rng) for _ in range(_CHUNK)]
    array = np.empty((_CHUNK, SIZE, SIZE, 3), np.uint8)
    for i, scene in enumerate(scenes):
        array[i] = _pixels(scene)
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(pickle.dumps((array, scenes)))
    unfinished.rename(path)
