"""Fidelity of quantized models on the miniature: every concept, paired seeds, beside the peers.

    python -m benchmarks.fidelity [--quick] [--json OUT] [--png OUT] [--concepts N]

All systems start from the same weights and the same noise, and are drawn by the same products in
float32, with weights that are exactly what their packed form stands for; bytes are those of the
packed form. Finished (system, concept) pairs are kept under .miniature/fidelity by the content of
weights and code, so that a run goes on where it stopped. Peers that are not installed are named as
not run: `pip install --no-deps -r requirements-bench.txt` brings them.

concept_score  how much of the concept the scorer finds in the picture, 0..1
interval       95 % bootstrap interval of the paired difference to full precision
score_moved    how far a picture's score is from that of full precision's picture of the same seed,
               up or down; in the mean score, gains by chance hide losses
frechet        Frechet distance to the world's own drawings of the same concepts
frechet_noise  its standard deviation over bootstrapped pictures
frechet_rise   its rise over full precision, as a part of it, and the 95 % paired interval
delta_retention  how much of what the LoRA changes in the predicted noise is still there
error          mean square error of the predicted noise, as a part of its mean square
error_elsewhere  the same where prompts name the concept's class or other things, not the trigger
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.fidelity_measure import BY_PICTURE, Effort, Reference
from benchmarks.fidelity_systems import SYSTEMS, NotRun, Subject, System
from benchmarks.fidelity_world import base_unet, renders, trained_concepts
from miniature.base import WEIGHTS
from miniature.concepts import Concept
from miniature.features import features, frechet, load_features
from miniature.lora import path_of

CACHE = Path(".miniature/fidelity")
RENDERS = 24
QUICK, FULL = Effort(6, 8, 2, 4, 5), Effort(24, 20, 3, 1, 4)


@functools.cache
def code(ours: bool) -> str:
    """Of the code that pictures and scores depend on, as it was when this run began."""
    root = Path(__file__).parent.parent
    files = [*sorted(root.glob("benchmarks/fidelity_*.py")),
             root / "miniature/features.py", root / "miniature/score.py"]  # fmt: skip
    files += sorted(root.glob("personalq_core/taq/*.py")) if ours else []
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def fingerprint(concept: Concept, effort: Effort, ours: bool) -> str:
    """Of everything that a picture and its scores depend on; ours: made by this package's code."""
    drawn = effort.pictures, effort.steps, effort.probes * ours
    digest = hashlib.sha256(f"{code(ours)} {drawn} {torch.__version__}".encode())
    for file in [*sorted(WEIGHTS.glob("*.*")), path_of(concept)]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def measured(
    systems: list[System], concept: Concept, effort: Effort, missing: dict[str, str], new: bool
) -> dict[str, dict[str, np.ndarray]]:
    """What each system makes of a concept, from the cache where it was made before; `new`: else
    made now."""
    keys = {peer: fingerprint(concept, effort, not peer) for peer in (True, False)}
    found: dict[str, dict[str, np.ndarray]] = {}
    subject = reference = None
    for system in systems:
        key = keys[kind_of(system.name, system.ours) == "peer"]
        path = CACHE / f"{hashlib.sha256(f'{key}{system.name}'.encode()).hexdigest()[:32]}.npz"
        if new and not path.exists() and system.name not in missing:
            if subject is None or reference is None:
                subject = Subject(concept, effort.probes)
                reference = Reference(subject, effort)
            start = time.perf_counter()
            try:
                kept = reference.measure(system.make(subject))
            except NotRun as error:
                missing[system.name] = str(error)
                continue
            CACHE.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")
            np.savez_compressed(part, allow_pickle=False, **kept)
            part.rename(path)
            print(f"{concept.name}: {system.name}, {time.perf_counter() - start:.1f} s", flush=True)
        if path.exists():
            found[system.name] = dict(np.load(path))
    return found


def resampled(differences: np.ndarray, rounds: int = 2000) -> np.ndarray:
    """Bootstrapped means."""
    rng = np.random.default_rng(0)
    return rng.choice(differences, (rounds, len(differences))).mean(1)


def interval(differences: np.ndarray) -> list[float]:
    """95 % bootstrap interval of a mean difference."""
    return np.quantile(resampled(differences), (0.025, 0.975)).round(4).tolist()


def distances(made: np.ndarray, exact: np.ndarray, wanted: np.ndarray) -> dict[str, object]:
    """Frechet distance of features to those of renders, its noise, its rise over full precision."""
    one, base = frechet(made, wanted), frechet(exact, wanted)
    rng, drawn, rises = np.random.default_rng(1), [], []
    for _ in range(40):
        at = rng.integers(len(made), size=len(made))
        drawn.append(frechet(made[at], wanted))
        rises.append(drawn[-1] / frechet(exact[at], wanted) - 1)
    # The spread of a bootstrap is right, its middle is not: doubled pictures shift both distances.
    low, high = np.quantile(rises, (0.025, 0.975)) - np.mean(rises) + one / base - 1
    return {
        "frechet": round(one, 3), "frechet_noise": round(float(np.std(drawn)), 3),
        "frechet_rise": [round(float(v), 4) for v in (one / base - 1, low, high)],
    }  # fmt: skip


def table(found: dict[str, dict], concepts: list[Concept]) -> list[dict]:
    """A row a system; its differences are to full precision on the same concepts."""
    network, reference = load_features(), SYSTEMS[0].name
    wanted = {c.name: features(network, renders(c, RENDERS)) for c in concepts}
    weights = sum(t.numel() for t in base_unet().state_dict().values())
    rows = []
    for system in SYSTEMS:
        of = [c for c in concepts if system.name in found[c.name]]
        if not of:
            continue
        kept = [found[c.name][system.name] for c in of]
        own, base = (
            {key: np.concatenate([part[key] for part in parts]) for key in BY_PICTURE}
            for parts in (kept, [found[c.name][reference] for c in of])
        )
        size = float(np.mean([k["bytes"] for k in kept]))
        rows.append({
            "system": system.name, "ours": system.ours, "ablation": system.ablation,
            "concepts": [c.name for c in of], "bits": round(8 * size / weights, 3),
            "bytes": round(size), "concept_score": round(float(own["score"].mean()), 4),
            "of_full": round(float(own["score"].mean() / base["score"].mean()), 4),
            "interval": interval(own["score"] - base["score"]),
            "score_moved": round(float(moved(own, base).mean()), 4),
            "psnr_db": round(float(own["psnr"].mean()), 2),
            "ssim": round(float(own["ssim"].mean()), 4),
            "latent_error": round(float(own["latent"].mean()), 5),
            **distances(own["features"], base["features"],
                        np.concatenate([wanted[c.name] for c in of])),
            "prompt_alignment": round(float(own["alignment"].mean()), 4),
            "delta_retention": round(float(np.mean([k["kept"] for k in kept])), 4),
            **{key: float(f"{np.mean([k[key] for k in kept]):.3g}")
               for key in ("error", "error_elsewhere")},
            "_by_picture": {c.name: k for c, k in zip(of, kept)},
        })  # fmt: skip
    return rows


def against(rows: list[dict]) -> list[dict]:
    """Our smallest system that drew all concepts beside every peer with at least nine tenths of its
    bits, picture by picture of the concepts that both drew; each entry: mean and 95 % interval of
    ours minus the peer's.
    """
    every = len(rows[0]["concepts"])
    mine = [r for r in rows if r["ours"] and not r["ablation"] and len(r["concepts"]) == every]
    ours = min(mine, key=lambda row: row["bits"], default=None)
    if ours is None:
        return []
    found = []
    for row in rows[1:]:
        mine, theirs = ours["_by_picture"], row["_by_picture"]
        both = [name for name in mine if name in theirs]
        is_peer = kind_of(row["system"], row["ours"]) == "peer"
        if not is_peer or row["bits"] < 0.9 * ours["bits"] or not both:
            continue
        entry = {"ours": ours["system"], "peer": row["system"], "concepts": len(both),
                 "bits": round(row["bits"] / ours["bits"], 3)}  # fmt: skip
        differences = {
            key: [mine[name][key] - theirs[name][key] for name in both]
            for key in ("score", "psnr", "ssim", "latent")
        }
        full = rows[0]["_by_picture"]
        differences["score_moved"] = [
            moved(mine[name], full[name]) - moved(theirs[name], full[name]) for name in both
        ]
        for key, parts in differences.items():
            difference = np.concatenate(parts)
            entry[key] = [round(float(difference.mean()), 4), *interval(difference)]
        found.append(entry)
    return found


def moved(of: dict[str, np.ndarray], full: dict[str, np.ndarray]) -> np.ndarray:
    """By picture: how far its concept score is from that of full precision's picture."""
    return np.abs(of["score"] - full["score"])


def chart(rows: list[dict], path: Path) -> None:
    """Curves of fidelity against bytes: peers, the paper's method and ours."""
    from matplotlib.figure import Figure

    figure = Figure((12, 5.5), layout="constrained")
    kinds = {"ours": ("C3", "o"), "peer": ("C0", "s"), "paper": ("C7", "x")}
    measures = (("psnr_db", "PSNR to the full-precision picture, dB"),
                ("error", "error of the predicted noise (lower is better)"))  # fmt: skip
    for axes, (key, label) in zip(figure.subplots(1, 2), measures):
        axes.set(xlabel="bits a weight, everything counted", ylabel=label)
        axes.grid(alpha=0.3)
        if key == "error":
            axes.set_yscale("log")
        # A row of few concepts is of other pictures: it does not belong to the curve.
        many = len(rows[0]["concepts"]) / 3
        points = [row for row in rows[1:] if not row["ablation"] and len(row["concepts"]) >= many]
        for kind, (colour, marker) in kinds.items():
            of = sorted(
                (row for row in points if kind_of(row["system"], row["ours"]) == kind),
                key=lambda row: row["bits"],
            )
            if not of:
                continue
            xs, ys = [row["bits"] for row in of], [row[key] for row in of]
            axes.scatter(xs, ys, color=colour, marker=marker, label=kind, zorder=3)
            if kind == "ours":
                axes.plot(xs, ys, color=colour)
        left, right = axes.get_xlim()
        axes.set_xlim(left - 0.6, right + 0.7)  # room for the names
        figure.draw_without_rendering()
        for kind in ("ours", "peer"):
            _name([r for r in points if kind_of(r["system"], r["ours"]) == kind], key, axes,
                  kinds[kind][0], "right" if kind == "ours" else "left")  # fmt: skip
        axes.legend()
    figure.savefig(path, dpi=130)


def _name(rows: list[dict], key: str, axes, colour: str, align: str, apart: float = 12.0) -> None:
    """Write each point's name beside it, pushed up where it would lie upon the one below."""
    last = -apart
    for row in sorted(rows, key=lambda row: row[key]):
        here = axes.transData.transform((row["bits"], row[key]))[1]
        last = max(here, last + apart)
        name = row["system"].replace(", groups of 64", "").replace(" (bitsandbytes)", "")
        axes.annotate(
            name, (row["bits"], row[key]), (-7 if align == "right" else 7, (last - here) * 0.72),
            textcoords="offset points", ha=align, va="center", fontsize=7, color=colour,
        )  # fmt: skip


def kind_of(system: str, ours: bool) -> str:
    return "ours" if ours else "paper" if system.startswith("paper") else "peer"


def show(rows: list[dict]) -> None:
    """The table as text."""
    for row in rows:
        low, high = row["interval"]
        rise, least, most = row["frechet_rise"]
        print(f"{row['system']:52} {len(row['concepts']):2}c {row['bits']:6.2f} bits "
              f"score {row['concept_score']:.3f} ({row['of_full']:.1%}) [{low:+.3f}, {high:+.3f}] "
              f"moved {row['score_moved']:.4f}  "
              f"{row['psnr_db']:6.2f} dB  SSIM {row['ssim']:.4f}  error {row['error']:.2e}, "
              f"elsewhere {row['error_elsewhere']:.2e}  "
              f"Frechet {row['frechet']:.2f} {rise:+.2%} [{least:+.2%}, {most:+.2%}]  "
              f"prompt {row['prompt_alignment']:.3f}  LoRA {row['delta_retention']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--concepts", help="how many; or names (a,b): on the grid too")
    parser.add_argument("--main", action="store_true", help="without the grid")
    parser.add_argument("--finished", action="store_true", help="only what earlier runs have made")
    parser.add_argument("--systems", nargs="*", default=[""], help="parts of their names")
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    concepts = trained_concepts()
    if options.concepts and options.concepts.isdecimal():
        concepts = concepts[: int(options.concepts)]
    elif options.concepts:
        concepts = [c for c in concepts if c.name in options.concepts.split(",")]
        effort = replace(effort, grid=1)
    else:
        concepts = concepts[:: effort.concepts]
    wanted = {s.name for s in SYSTEMS if any(part in s.name for part in options.systems)}
    chosen = [s for s in SYSTEMS if s is SYSTEMS[0] or s.name in wanted]
    missing: dict[str, str] = {}
    found: dict[str, dict] = {}
    # First what every concept has in common: a run that is cut off then has a table to show.
    for grid in (False,) if options.main else (False, True):
        for number, concept in enumerate(concepts):
            systems = [s for s in chosen if s is SYSTEMS[0] or s.grid == grid]
            if grid and (number + 1) % effort.grid:
                continue
            with torch.no_grad():
                made = measured(systems, concept, effort, missing, not options.finished)
            found.setdefault(concept.name, {}).update(made)
    rows = table(found, concepts)
    show(rows)
    beside = against(rows)
    for entry in beside:
        print(f"{entry['ours']} - {entry['peer']} ({entry['bits']:.2f} of the bits, "
              f"{entry['concepts']} concepts): "
              f"score {entry['score']}, moved {entry['score_moved']}, "
              f"PSNR {entry['psnr']}, SSIM {entry['ssim']}")
    for name, reason in missing.items():
        print(f"not run: {name}: {reason}")
    for row in rows:
        del row["_by_picture"]
    if options.json:
        done = {"pictures": effort.pictures, "steps": effort.steps, "rows": rows,
                "against_peers": beside, "not_run": missing}  # fmt: skip
        options.json.write_text(json.dumps(done, indent=1) + "\n")
    if options.png:
        chart(rows, options.png)


if __name__ == "__main__":
    main()
