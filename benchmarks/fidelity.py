"""Fidelity of quantized models on the miniature: every concept, paired seeds, beside the peers.

    python -m benchmarks.fidelity [--quick] [--json OUT] [--png OUT] [--concepts N]

Finished (system, concept) pairs are kept under .miniature/fidelity by the content of weights and
code, so that a run goes on where it stopped. Peers that are not installed are named as not run;
`pip install gguf bitsandbytes torchao optimum-quanto sdnq` brings them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.fidelity_systems import SYSTEMS, NotRun, Subject, System
from benchmarks.fidelity_world import base_unet, draw, prompts, trained_concepts
from miniature.base import WEIGHTS
from miniature.concepts import Concept
from miniature.features import features as seen
from miniature.features import frechet, load_features
from miniature.score import concept_score, load_reader, read

CACHE, BATCH = Path(".miniature/fidelity"), 12


def fingerprint(concept: Concept, count: int, probes: int) -> str:
    """Of everything that a picture depends on."""
    here = Path(__file__).parent
    files = [WEIGHTS / f"{n}.npz" for n in ("unet", "text", "vae")]
    files += [WEIGHTS / "loras" / f"{concept.name}.safetensors"]
    files += sorted(here.parent.glob("personalq_core/taq/*.py")) + sorted(here.glob("fidelity*.py"))
    digest = hashlib.sha256(f"{count} {probes} {torch.__version__}".encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:24]


def measured(system: System, subject: Subject, count: int) -> tuple[np.ndarray, int]:
    """Pictures (count, 64, 64, 3) and bytes, from the cache where they were made before."""
    key = fingerprint(subject.concept, count, subject.count)
    path = CACHE / f"{hashlib.sha256(f'{key}{system.name}'.encode()).hexdigest()[:32]}.npz"
    if path.exists():
        kept = np.load(path)
        return kept["pictures"], int(kept["bytes"])
    made = system.make(subject)
    asked, _ = prompts(subject.concept, count)
    parts = []
    for start in range(0, count, BATCH):
        batch = asked[start : start + BATCH]
        made.listen([*batch, *[""] * len(batch)])
        parts.append(draw(made.unet, batch, range(5000 + start, 5000 + start + len(batch))))
    CACHE.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, pictures=np.concatenate(parts), bytes=made.bytes)
    part.rename(path)
    return np.concatenate(parts), made.bytes


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity of (n, 3, h, w) in 0..1 (Wang et al. 2004, 11-pixel Gaussian)."""
    line = torch.exp(-((torch.arange(11) - 5.0) ** 2) / 4.5)
    window = torch.outer(line, line)[None, None] / line.sum() ** 2
    a, b = (t.flatten(0, 1)[:, None] for t in (a, b))
    mean_a, mean_b = F.conv2d(a, window), F.conv2d(b, window)
    var_a = F.conv2d(a * a, window) - mean_a**2
    var_b = F.conv2d(b * b, window) - mean_b**2
    both = F.conv2d(a * b, window) - mean_a * mean_b
    top = (2 * mean_a * mean_b + 0.01**2) * (2 * both + 0.03**2)
    return (top / (mean_a**2 + mean_b**2 + 0.01**2) / (var_a + var_b + 0.03**2)).mean().item()


def interval(differences: np.ndarray, rounds: int = 2000) -> list[float]:
    """95 % bootstrap interval of a mean difference."""
    rng = np.random.default_rng(0)
    means = rng.choice(differences, (rounds, len(differences))).mean(1)
    return np.quantile(means, (0.025, 0.975)).round(4).tolist()


def table(pictures: dict[str, list[np.ndarray]], sizes: dict[str, list[int]], concepts) -> list:
    reader = load_reader()
    weights = sum(t.numel() for t in base_unet().state_dict().values())

    network = load_features()

    def features(batch: np.ndarray) -> np.ndarray:
        return seen(network, batch)

    def judged(parts: list[np.ndarray]) -> tuple[np.ndarray, float]:
        scores, asked = [], []
        for concept, batch in zip(concepts, parts):
            for reading, place in zip(read(reader, batch), prompts(concept, len(batch))[1]):
                scores.append(concept_score(reading, concept))
                chances = reading.probabilities
                asked.append(chances["kind"][concept.noun] * chances["background"][place])
        return np.array(scores), float(np.mean(asked))

    reference = SYSTEMS[0].name
    full, (base, _) = np.concatenate(pictures[reference]), judged(pictures[reference])
    exact = torch.from_numpy(full).permute(0, 3, 1, 2).float() / 255
    rows = []
    for system in SYSTEMS:
        if len(pictures.get(system.name, [])) != len(concepts):
            continue
        batch, (scores, alignment) = np.concatenate(pictures[system.name]), judged(
            pictures[system.name]
        )
        image = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
        wrong = (image - exact).square().mean((1, 2, 3)).clamp_min(1e-10)
        size = float(np.mean(sizes[system.name]))
        rows.append({
            "system": system.name, "ours": system.ours, "ablation": system.ablation,
            "bits": round(8 * size / weights, 3), "bytes": round(size),
            "concept_score": round(float(scores.mean()), 4), "interval": interval(scores - base),
            "psnr_db": round(float(-10 * wrong.log10().mean()), 2),
            "ssim": round(ssim(image, exact), 4),
            "frechet": round(frechet(features(batch), features(full)), 4),
            "frechet_noise": round(frechet(features(full[::2]), features(full[1::2])), 4),
            "prompt_alignment": round(alignment, 4),
        })  # fmt: skip
    return rows


def chart(rows: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="bits a weight", ylabel="PSNR to full precision, dB")
    for row in rows[1:]:
        if not row["ablation"]:
            axes.scatter(row["bits"], row["psnr_db"], color="C3" if row["ours"] else "C0")
            axes.annotate(row["system"], (row["bits"], row["psnr_db"]), fontsize=5)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--concepts", type=int)
    parser.add_argument("--pictures", type=int, help="a concept; 6 with --quick, else 24")
    parser.add_argument("--systems", default="", help="only those whose name contains this")
    options = parser.parse_args()
    count = options.pictures or (6 if options.quick else 24)
    concepts = trained_concepts()[: options.concepts]
    chosen = [s for s in SYSTEMS if s.quick or not options.quick]
    chosen = [s for s in chosen if options.systems in s.name or s is SYSTEMS[0]]
    pictures: dict[str, list[np.ndarray]] = {}
    sizes: dict[str, list[int]] = {}
    missing: dict[str, str] = {}
    for concept in concepts:
        subject = Subject(concept, 2 if options.quick else 4)
        for system in chosen:
            if system.name in missing:
                continue
            try:
                drawn, size = measured(system, subject, count)
            except NotRun as error:
                missing[system.name] = str(error)
                continue
            pictures.setdefault(system.name, []).append(drawn)
            sizes.setdefault(system.name, []).append(size)
            print(f"{concept.name}: {system.name}", flush=True)
    rows = table(pictures, sizes, concepts)
    for row in rows:
        low, high = row["interval"]
        print(f"{row['system']:44} {row['bits']:6.2f} bits  concept {row['concept_score']:.3f} "
              f"[{low:+.3f}, {high:+.3f}]  {row['psnr_db']:6.2f} dB  SSIM {row['ssim']:.3f}  "
              f"Frechet {row['frechet']:.3f}  prompt {row['prompt_alignment']:.3f}")
    for name, reason in missing.items():
        print(f"not run: {name}: {reason}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "not_run": missing}, indent=1) + "\n")
    if options.png:
        chart(rows, options.png)


if __name__ == "__main__":
    main()
