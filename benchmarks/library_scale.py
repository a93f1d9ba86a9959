"""How the library scales: scanning real small files, and choosing among 1 k to 100 k cards.

    python -m benchmarks.library_scale [--files 10000] [--cards 1000 10000 100000]
        [--embed] [--json OUT] [--png OUT]

Each scan runs twice: cold, into a new index, and again with nothing changed. Queries run through
`CheckIn.decide`, without embeddings unless --embed (embedding 100,000 texts takes an hour or more).
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

from personalq_core.checkin.checkin import CheckIn
from personalq_core.library import ModelCard, Root, Store, scan
from personalq_core.models.embed import load_embedder

_SUBJECTS = ("bear", "rabbit", "parrot", "mug", "lamp", "chair", "van", "robot", "castle", "fox")
_LOOKS = ("plush", "felt", "neon", "watercolour", "linocut", "chrome", "oak", "ceramic", "ink")
_SYLLABLES = ("ba", "ri", "no", "lu", "ka", "te", "mo", "si", "du", "ve", "po", "za", "ne", "ro")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the library scales.")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--cards", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--embed", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {"scan": measure_scan(Path(folder), options.files)}
    result["queries"] = [
        measure_queries(count, options.queries, options.embed) for count in options.cards
    ]
    _print(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    if options.png:
        _draw(result["queries"], options.png)


def measure_scan(folder: Path, files: int) -> dict[str, Any]:
    """Seconds and files per second of a cold and of an unchanged scan of `files` LoRAs."""
    _write_loras(folder / "loras", files)
    roots = [Root("lora", str(folder / "loras"))]
    cold, report = _timed(lambda: scan(roots, Store(folder / "index.sqlite")))
    again, second = _timed(lambda: scan(roots, Store(folder / "index.sqlite")))
    if len(report.cards) != files or second.changed:
        raise RuntimeError("the scan did not see what was written")
    return {
        "files": files,
        "cold_s": cold,
        "cold_files_per_s": files / cold,
        "unchanged_s": again,
        "unchanged_files_per_s": files / again,
        "index_bytes": sum(path.stat().st_size for path in folder.glob("index.sqlite*")),
        "peak_memory_bytes": _peak_memory_bytes(),
    }


def measure_queries(count: int, queries: int, embed: bool) -> dict[str, Any]:
    """Build time and time of one decision among `count` cards."""
    cards = make_cards(count)
    engine = CheckIn(load_embedder()[0] if embed else None, None)
    build, _ = _timed(lambda: engine.index(cards))
    chosen = random.Random(1).choices(cards, k=queries)
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    times = [
        _timed(lambda card=card: engine.decide(f"my {card.title} on a table", cards, now=now))[0]
        for card in chosen
    ]
    return {
        "cards": count,
        "build_s": build,
        "p50_s": statistics.median(times),
        "p95_s": sorted(times)[int(0.95 * len(times))],
        "peak_memory_bytes": _peak_memory_bytes(),
    }


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
    for name in ("cold", "unchanged"):
        print(
            f"  {name:9} {found[f'{name}_s']:7.2f} s {found[f'{name}_files_per_s']:9,.0f} files/s"
        )
    print(f"  index {found['index_bytes'] / 1e6:.1f} MB, ", end="")
    print(f"peak memory {found['peak_memory_bytes'] / 1e6:.0f} MB")
    print("   cards  build s  p50 ms  p95 ms  memory MB")
    for row in result["queries"]:
        print(
            f"{row['cards']:8,} {row['build_s']:8.2f} {row['p50_s'] * 1e3:7.1f}"
            f" {row['p95_s'] * 1e3:7.1f} {row['peak_memory_bytes'] / 1e6:10.0f}"
        )


def _draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2))
    for key, label in (("p50_s", "p50"), ("p95_s", "p95")):
        axes.loglog([r["cards"] for r in rows], [r[key] * 1e3 for r in rows], "o-", label=label)
    axes.set_xlabel("cards")
    axes.set_ylabel("ms for a decision")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
