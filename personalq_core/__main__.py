"""PersonalQ from the shell: `scan` shows the models of a folder, `checkin` chooses among them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .library import ModelCard, ScanReport, Store, roots_in, scan
from .library.concept import concept_groups

if TYPE_CHECKING:
    from .checkin.decision import Decision


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 where the input cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"personalq: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m personalq_core", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    folder = "ComfyUI's models folder, or any folder of model files"
    scanning = commands.add_parser(
        "scan",
        help="show the models of a folder",
        description="Show the models of a folder. In JSON, cards of one concept share `concept`.",
    )
    scanning.add_argument("models", metavar="DIR", type=Path, help=folder)
    scanning.set_defaults(run=_scan)
    choosing = commands.add_parser("checkin", help="choose the model that a request means")
    choosing.add_argument("request", help='for example "my newest bear on the beach"')
    choosing.add_argument("--models", metavar="DIR", type=Path, required=True, help=folder)
    choosing.add_argument("--base", metavar="FAMILY", help="only models of a base, e.g. SDXL")
    choosing.add_argument("--ask", choices=("rarely", "normally", "often"), default="normally")
    choosing.add_argument("--answer", help="your answer to the question of an earlier run")
    choosing.set_defaults(run=_check_in)
    for command in (scanning, choosing):
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument("--index", type=Path, help="file that remembers what was read")
    return parser


def _read(options: argparse.Namespace) -> tuple[ScanReport, Store | None]:
    if not options.models.is_dir():
        raise ValueError(f"there is no folder {options.models}; name the folder of your models")
    store = Store(options.index) if options.index else None
    report = scan(roots_in(options.models), store)
    for notice in store.notices if store else ():
        print(f"personalq: {notice}", file=sys.stderr)
    return report, store


def _scan(options: argparse.Namespace) -> int:
    report, _ = _read(options)
    if options.json:
        concepts = {
            card.id: group[0].id for group in concept_groups(report.cards) for card in group
        }
        _print_json(
            {
                "cards": [
                    {"file_name": card.name, "concept": concepts[card.id], **asdict(card)}
                    for card in report.cards
                ],
                "refused": [{"file": bad.name, "reason": bad.reason} for bad in report.refused],
            }
        )
    else:
        _print_table(report.cards)
        for bad in report.refused:
            print(f"refused: {bad.reason}")
        print(f"{len(report.cards)} models, {len(report.refused)} refused")
    return 0


def _check_in(options: argparse.Namespace) -> int:
    # Imported here: embeddings take seconds to load, and `scan` needs none.
    from .checkin.engine import load_engine
    from .library.family import normalise_family

    base = normalise_family(options.base)
    if options.base and not base:
        raise ValueError(f"{options.base!r} is no base model known here; say SD 1.5, SDXL, Flux...")
    report, store = _read(options)
    engine, missing = load_engine(store)
    decision = engine.decide(
        options.request,
        report.cards,
        now=datetime.now(timezone.utc),
        base_family=base,
        ask=options.ask,
        answer=options.answer,
    )
    notices = [*missing, *(bad.reason for bad in report.refused)]
    if options.json:
        answer = decision.to_json()
        _print_json({**answer, "notices": [*answer["notices"], *notices]})
    else:
        _print_decision(decision)
        for line in (*decision.notices, *notices):
            print(f"note: {line}", file=sys.stderr)
    return 0


def _print_decision(decision: Decision) -> None:
    print(decision.question or decision.reason)
    for option in decision.options:
        print(f"  - {option.card.title}: {option.difference}  [{option.card.name}]")
    for chosen in decision.chosen:
        print(f"model:  {chosen.card.name} ({chosen.card.kind})")
    print(f"prompt: {decision.prompt}")


def _print_table(cards: Sequence[ModelCard]) -> None:
    heads = ("kind", "base", "version", "created", "file", "title", "triggers")
    rows = [heads] + [
        (
            card.kind,
            card.base_family or "?",
            card.version or "",
            (card.created_at or "")[:10],
            card.name,
            card.title,
            ", ".join(card.triggers),
        )
        for card in cards
    ]
    widths = [min(44, max(len(row[column]) for row in rows)) for column in range(len(heads))]
    for row in rows:
        cells = (_cut(cell, width).ljust(width) for cell, width in zip(row, widths))
        print("  ".join(cells).rstrip())


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, default=dict))


if __name__ == "__main__":
    # File names may hold what a terminal's encoding does not.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
