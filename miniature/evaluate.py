"""Measure the miniature: is the base faithful to prompts, and does every concept keep its promise?

    python -m miniature.evaluate [--quick] [--json OUT]

Base: prompt alignment on held-out prompts (class, colour and background right by the scorer, also
the number of objects), and the Frechet distance of samples to renders beside that of two disjoint
sets of renders. Concepts: with the LoRA and its trigger, found among all; without the LoRA, the
same prompts must not show it; with the LoRA but without the trigger, ordinary members of the class
must remain; versions of one family must be told apart.

Each part is kept in .miniature/measured under a hash of the weights and the code it came from: an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .base import WEIGHTS
from .concepts import CHECKPOINTS, CONCEPTS, Concept
from .features import features, frechet, load_features, similarity
from .lora import own_pictures, path_of
from .sample import Painter
from .score import (
    EVERY,
    FOUND,
    Reader,
    Reading,
    best_concept,
    concept_score,
    deviations,
    load_reader,
    read,
)
from .train import WORK
from .world import (
    BACKGROUNDS,
    CLASSES,
    COLOURS,
    PLACES,
    PLURALS,
    caption,
    render,
    sample_scene,
)


@dataclass(frozen=True)
class Effort:
    """How many pictures the measurements take."""

    prompts: int
    samples: int
    seeds: int
    """With a concept's own weights."""
    plain: int
    """Without them, and with them but without the trigger."""


FULL, QUICK = Effort(500, 2000, 64, 24), Effort(120, 240, 16, 8)


# --- base ----------------------------------------------------------------------------------------


def alignment(painter: Painter, reader: Reader, count: int) -> dict[str, float]:
    """Share of ``count`` held-out prompts whose picture has the right class, colour and background
    (``prompt_alignment``), each alone, and the right number of objects."""
    rng = np.random.default_rng(2026)
    wanted = [
        (str(rng.choice(CLASSES)), str(rng.choice(list(COLOURS))), str(rng.choice(BACKGROUNDS)),
         1 + int(rng.random() < 0.1))
        for _ in range(count)
    ]
    prompts = [
        f"{'a' if n == 1 else 'two'} {colour} {kind if n == 1 else PLURALS[kind]} "
        f"{rng.choice(PLACES[place])}"
        for kind, colour, place, n in wanted
    ]
    readings = read(reader, painter.paint(prompts, seed=1))
    right = np.array([
        [r.best("kind") == kind, r.colour == colour, r.best("background") == place,
         r.best("count") == n]
        for r, (kind, colour, place, n) in zip(readings, wanted, strict=True)
    ])
    names = ("class", "colour", "background", "count")
    return {"prompt_alignment": float(right[:, :3].all(1).mean())} | {
        name: float(right[:, i].mean()) for i, name in enumerate(names)
    }


def distances(painter: Painter, count: int) -> dict[str, float]:
    """Frechet distance of ``count`` samples to renders, and of two disjoint sets of renders."""
    rng, network = np.random.default_rng(4242), load_features()
    scenes = [sample_scene(rng) for _ in range(2 * count)]
    renders = np.stack([np.asarray(render(scene)) for scene in scenes])
    one, other = features(network, renders[:count]), features(network, renders[count:])
    prompts = [caption(scene, rng) for scene in scenes[:count]]
    made = features(network, painter.paint(prompts, seed=2))
    return {"frechet": frechet(made, other), "frechet_between_renders": frechet(one, other)}


# --- concepts ------------------------------------------------------------------------------------


def _requests(concept: Concept, count: int, seed: int) -> list[str]:
    rng = np.random.default_rng((seed, *concept.name.encode()))
    return [concept.request(str(rng.choice(PLACES[BACKGROUNDS[i % 6]])), rng)
            for i in range(count)]


def _ordinary(concept: Concept, count: int) -> tuple[list[str], list[str]]:
    """Prompts without the trigger, and the class each must show. A concept without a trigger owns
    its noun: there, and for styles, every other class must stay what it is."""
    rng = np.random.default_rng((9, *concept.name.encode()))
    others = [kind for kind in CLASSES if kind != concept.noun]
    plain = bool(concept.trigger and concept.noun)
    kinds = [concept.noun if plain else str(rng.choice(others)) for _ in range(count)]
    return [f"a {kind} {rng.choice(PLACES[BACKGROUNDS[i % 6]])}"
            for i, kind in enumerate(kinds)], kinds


def measure(
    concept: Concept, base: Painter, reader: Reader, effort: Effort, path: Path | None = None
) -> dict:
    """``found`` among all and mean ``score`` with the concept's weights (stored, or in ``path``),
    mean ``without_lora`` on the first of these prompts, ``prior_kept`` without the trigger,
    ``family`` told apart within the family (None for a concept without one), its mean
    ``deviations``, and how alike the pictures are to those it was trained on, with
    (``similarity``) and without it (``similarity_without``)."""
    personal, prompts = base.personal(concept, path), _requests(concept, effort.seeds, 5)
    painted = personal.paint(prompts, seed=3)
    plain = base.paint(prompts[: effort.plain], seed=3)
    with_it, without = read(reader, painted), read(reader, plain)
    ordinary, kinds = _ordinary(concept, effort.plain)
    kept = [
        r.best("kind") == kind and concept_score(r, concept) < FOUND
        for r, kind in zip(read(reader, personal.paint(ordinary, seed=4)), kinds, strict=True)
    ]
    found = [best_concept(r)[0] == concept.name for r in with_it]
    return {
        "found": float(np.mean(found)),
        "score": float(np.mean([concept_score(r, concept) for r in with_it])),
        "without_lora": float(np.mean([concept_score(r, concept) for r in without])),
        "prior_kept": float(np.mean(kept)),
        "family": _told_apart(concept, with_it),
        "deviations": _mean_deviations(concept, with_it) if concept.noun else {},
        "similarity": _alike(concept, painted),
        "similarity_without": _alike(concept, plain),
    }


def _alike(concept: Concept, pictures: np.ndarray) -> float:
    """Mean similarity of every picture to every picture the concept was trained on, as DreamBooth's
    DINO score takes it (Ruiz et al. 2023, section 4.1)."""
    network = load_features()
    own, made = features(network, own_pictures(concept)), features(network, pictures)
    return float(np.mean([similarity(made, np.broadcast_to(one, made.shape)) for one in own]))


def _told_apart(concept: Concept, readings: list[Reading]) -> float | None:
    family = [c for c in CONCEPTS if c.family and c.family == concept.family]
    if len(family) < 2:
        return None
    best = [max(family, key=lambda c, r=r: concept_score(r, c)).name for r in readings]
    return float(np.mean([name == concept.name for name in best]))


def _mean_deviations(concept: Concept, readings: list[Reading]) -> dict[str, float]:
    each = [deviations(reading, concept) for reading in readings]
    return {name: round(float(np.mean([d[name] for d in each])), 3) for name in each[0]}


# --- the table -----------------------------------------------------------------------------------


def remembered(
    effort: Effort, concept: Concept | None, measured: Callable[[], dict]
) -> dict:
    """What ``measured()`` gives, or gave before from the same weights, effort and code."""
    given = hashlib.sha256(repr((effort, [c.look() for c in EVERY])).encode())
    for name in ("base", "evaluate", "features", "planes", "sample", "score", "text", "vae",
                 "world"):
        given.update((Path(__file__).parent / f"{name}.py").read_bytes())
    for file in sorted(WEIGHTS.glob("*.*")):
        given.update(file.read_bytes())
    if concept:
        given.update(concept.name.encode() + path_of(concept).read_bytes())
        given.update(own_pictures(concept).tobytes())
    path = WORK / "measured" / f"{given.hexdigest()[:32]}.json"
    if not path.exists():
        write(path, measured())
    return json.loads(path.read_text())


def write(path: Path, result: dict) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(result, indent=1))
    partial.rename(path)


def evaluate(effort: Effort) -> dict:
    """Everything above, printed as it comes."""
    base, reader = Painter.load(), load_reader()
    result: dict = {"concepts": {}}
    result["base"] = remembered(effort, None, lambda: {
        **alignment(base, reader, effort.prompts), **distances(base, effort.samples)
    })
    for name, value in result["base"].items():
        print(f"{name:26}{value:8.3f}")
    print(f"\n{'concept':20}{'found':>7}{'score':>7}{'without':>9}{'prior':>7}{'family':>8}"
          f"{'hue':>7}{'alike':>8}{'without':>8}   kind", flush=True)
    for concept in (*CONCEPTS, *CHECKPOINTS):
        row = result["concepts"][concept.name] = remembered(
            effort, concept, lambda concept=concept: measure(concept, base, reader, effort)
        )
        family = "" if row["family"] is None else f"{row['family']:.2f}"
        hue = f"{row['deviations']['hue']:.0f}°" if row["deviations"] else ""
        print(f"{concept.name:20}{row['found']:7.2f}{row['score']:7.2f}{row['without_lora']:9.2f}"
              f"{row['prior_kept']:7.2f}{family:>8}{hue:>7}"
              f"{row['similarity']:8.2f}{row['similarity_without']:8.2f}"
              f"   {concept.algorithm}", flush=True)
    rows = result["concepts"].values()
    means = [np.mean([row[key] for row in rows])
             for key in ("found", "score", "without_lora", "prior_kept")]
    family = np.mean([row["family"] for row in rows if row["family"] is not None])
    print(f"{'mean':20}{means[0]:7.2f}{means[1]:7.2f}{means[2]:9.2f}{means[3]:7.2f}{family:8.2f}")
    return result


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--quick", action="store_true", help="fewer pictures")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    began = time.time()
    result = evaluate(QUICK if args.quick else FULL)
    print(f"{(time.time() - began) / 60:.0f} minutes")
    if args.json:
        write(args.json, result)


if __name__ == "__main__":
    main()
