"""How the library scales: scanning real small files, and choosing among 1 k to 100 k cards.

    python -m benchmarks.library_scale [--files 10000] [--cards 1000 10000 100000]
        [--words-alone] [--json OUT] [--png OUT]

Scans: cold into a new index, again with nothing changed, and with ten sidecars changed; beside it
stands how many texts were embedded for each. Queries run through `CheckIn.decide`, each request
once, in nine kinds from a plain name to a misspelled one. The request is embedded by the real
model; the cards' vectors are made up, because embedding 100,000 texts takes an hour or more and the
time of a query does not depend on what their numbers are.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from personalq_core.checkin.checkin import CheckIn
from personalq_core.checkin.retrieve import card_text
from personalq_core.library import ModelCard, Root, Store, scan
from personalq_core.models.embed import Embedder, load_embedder

_FEW, _DIMENSIONS = 64, 384
_SUBJECTS = ("bear", "rabbit", "parrot", "mug", "lamp", "chair", "van", "robot", "castle", "fox")
_LOOKS = ("plush", "felt", "neon", "watercolour", "linocut", "chrome", "oak", "ceramic", "ink")
_SYLLABLES = ("ba", "ri", "no", "lu", "ka", "te", "mo", "si", "du", "ve", "po", "za", "ne", "ro")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the library scales.")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--cards", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=90)
    parser.add_argument("--words-alone", action="store_true", help="without embeddings")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {"scan": measure_scan(Path(folder), options.files)}
    embedder = None if options.words_alone else load_embedder()[0]
    result["embedder"] = embedder and embedder.model_id
    result["queries"] = [
        measure_queries(count, options.queries, embedder) for count in options.cards
    ]
    _print(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    if options.png:
        _draw(result["queries"], options.png)


def measure_scan(folder: Path, files: int) -> dict[str, Any]:
    """Seconds, files per second and texts embedded: cold, unchanged, and ten sidecars changed."""
    _write_loras(folder / "loras", files)
    roots = [Root("lora", str(folder / "loras"))]
    result: dict[str, Any] = {"files": files, "scans": {}}
    for name, changes in (("cold", files), ("unchanged", 0), ("ten changed", min(10, files))):
        if name == "ten changed":
            for path in sorted(folder.glob("loras/*/*.safetensors"))[:changes]:
                path.with_suffix(".txt").write_text(f"A note on {path.stem}.\nIt is new.")
        store = Store(folder / "index.sqlite")
        seconds, report = _timed(lambda store=store: scan(roots, store))
        made_up = MadeUpVectors()
        CheckIn(made_up, store).index(report.cards)
        if len(report.cards) != files or report.changed != bool(changes):
            raise RuntimeError("the scan did not see what was written")
        result["scans"][name] = {
            "seconds": seconds,
            "files_per_s": files / seconds,
            "embedded": len(made_up.embedded & set(map(card_text, report.cards))),
        }
    result["index_bytes"] = sum(path.stat().st_size for path in folder.glob("index.sqlite*"))
    result["peak_memory_bytes"] = _peak_memory_bytes()
    return result


def measure_queries(count: int, queries: int, embedder: Embedder | None) -> dict[str, Any]:
    """Build time and time of one decision among `count` cards."""
    cards = make_cards(count)
    engine = CheckIn(MadeUpVectors(embedder) if embedder else None)
    build, _ = _timed(lambda: engine.index(cards))
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    engine.decide("a table", cards, now=now)  # loads tables of words
    times = {
        request: _timed(lambda request=request: engine.decide(request, cards, now=now))[0]
        for request in make_requests(cards, queries)
    }
    slowest = max(times, key=lambda request: times[request])
    return {
        "cards": count,
        "build_s": build,
        "p50_s": statistics.median(times.values()),
        "p95_s": sorted(times.values())[int(0.95 * len(times))],
        "slowest": [slowest, times[slowest]],
        "peak_memory_bytes": _peak_memory_bytes(),
    }


class MadeUpVectors:
    """An embedder that is real for the few texts of a request and makes up a library's vectors."""

    def __init__(self, embedder: Embedder | None = None) -> None:
        self._embedder = embedder
        self.model_id = "made up"
        self.embedded: set[str] = set()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        if self._embedder is not None and len(texts) < _FEW:
            return self._embedder.embed(texts)
        self.embedded.update(texts)
        made = np.random.default_rng(1).standard_normal((len(texts), _DIMENSIONS), np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    def knows(self, word: str) -> bool:
        return self._embedder is not None and self._embedder.knows(word)


def make_requests(cards: Sequence[ModelCard], count: int) -> list[str]:
    """Requests of nine kinds, each for another card."""
    chosen = random.Random(1).sample(cards, k=min(count, len(cards)))
    kinds = (
        "my {title} on a table",
        "{name} in the rain at night, with a red umbrella and a yellow hat",
        "the newest {name} {subject} on a beach",
        "{typo} the {subject}, second version",
        "a {look} {subject} on the moon",
        "my {subject}",
        "{trigger} in a forest",
        "{name}, not the {look} one, from last spring, for SDXL",
        "mein neuester {name} am Strand",
    )
    requests = []
    for number, card in enumerate(chosen):
        name = card.title.split()[0]
        requests.append(
            kinds[number % len(kinds)].format(
                title=card.title, name=name, typo=name[:2] + name[3:] + "a", look=card.tags[0],
                subject=card.tags[1], trigger=card.triggers[0],
            )
        )  # fmt: skip
    return list(dict.fromkeys(requests))


def make_cards(count: int) -> tuple[ModelCard, ...]:
    """Cards of named things in several versions and looks, as a large library holds them."""
    cards = []
    for number in range(count):
        concept, version = divmod(number, 4)
        rng = random.Random(concept)
        name = "".join(rng.choices(_SYLLABLES, k=3)).capitalize()
        look, subject = rng.choice(_LOOKS), rng.choice(_SUBJECTS)
        trigger = f"{name[:4].lower()}{concept}v{version + 1} {subject}"
        cards.append(
            ModelCard(
                id=f"lora:{number}.safetensors",
                kind="lora",
                name=f"{number}.safetensors",
                title=f"{name} the {subject} v{version + 1}",
                triggers=(trigger,),
                trigger_groups=((trigger,),),
                tags=(look, subject),
                description=f"{name}, a {look} {subject}, trained on {rng.randint(8, 60)} photos.",
                base_family=rng.choice(("sd15", "sdxl", "flux")),
                version=f"v{version + 1}",
                created_at=f"20{21 + version}-0{1 + concept % 9}-11T00:00:00Z",
                fingerprint=f"{number:010x}",
            )
        )
    return tuple(cards)


def _write_loras(folder: Path, count: int) -> None:
    """Complete safetensors files: names of a real SD 1.5 LoRA, kohya metadata, tiny tensors."""
    for number in range(count):
        sub = folder / f"{number // 500:03d}"
        if number % 500 == 0:
            sub.mkdir(parents=True)
        header: dict[str, Any] = {
            "__metadata__": {
                "ss_output_name": f"thing_{number}_v{number % 4}",
                "ss_base_model_version": "sd_v1",
                "ss_tag_frequency": json.dumps({"10_img": {f"th{number}ng": 20, "outdoors": 9}}),
            }
        }
        end = 0
        for block in range(32):
            module = f"lora_unet_down_blocks_{block}_attentions_0_transformer_blocks_0_attn2_to_k"
            for part, shape in (("lora_down", [1, 768]), ("lora_up", [320, 1])):
                size = shape[0] * shape[1]
                header[f"{module}.{part}.weight"] = {
                    "dtype": "F8_E4M3",
                    "shape": shape,
                    "data_offsets": [end, end + size],
                }
                end += size
        raw = json.dumps(header).encode()
        tensors = number.to_bytes(4, "little") * (end // 4)
        path = sub / f"thing_{number}.safetensors"
        path.write_bytes(len(raw).to_bytes(8, "little") + raw + tensors)


def _timed(work: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def _peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _print(result: dict[str, Any]) -> None:
    found = result["scan"]
    print(f"scan of {found['files']:,} files")
    for name, row in found["scans"].items():
        print(
            f"  {name:12} {row['seconds']:7.2f} s {row['files_per_s']:9,.0f} files/s,"
            f" {row['embedded']:,} texts embedded"
        )
    print(f"  index {found['index_bytes'] / 1e6:.1f} MB, ", end="")
    print(f"peak memory {found['peak_memory_bytes'] / 1e6:.0f} MB")
    print(f"decisions with {result['embedder'] or 'words alone'}")
    print("   cards  build s  p50 ms  p95 ms  memory MB  slowest")
    for row in result["queries"]:
        print(
            f"{row['cards']:8,} {row['build_s']:8.2f} {row['p50_s'] * 1e3:7.1f}"
            f" {row['p95_s'] * 1e3:7.1f} {row['peak_memory_bytes'] / 1e6:10.0f}"
            f"  {row['slowest'][1] * 1e3:.1f} ms: {row['slowest'][0]}"
        )


def _draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
    cards = [row["cards"] for row in rows]
    for key, label in (("p50_s", "median"), ("p95_s", "95 of 100 are faster")):
        axes.semilogx(cards, [row[key] * 1e3 for row in rows], "o-", label=label)
    axes.set_xticks(cards, [f"{count:,}" for count in cards])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.set(xlabel="models in the library", ylabel="milliseconds for a decision")
    axes.legend()
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
