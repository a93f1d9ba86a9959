"""What the engine says in English, the page can say in its language."""

import re
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.selection_data import load_cards, load_cases
from personalq_core.checkin.checkin import CheckIn

from .library import BEARS

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests" / "data" / "selection"
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def sentences() -> list[re.Pattern[str]]:
    """The sentences of web/reasons.js as patterns."""
    keys = re.findall(r'\bsentence\("([^"]+)"\)', (ROOT / "web" / "reasons.js").read_text())
    assert keys
    return [re.compile(re.sub(r"\\\{\w+\\\}", "(.+)", re.escape(key)), re.DOTALL) for key in keys]


def test_the_page_knows_every_sentence_that_is_said():
    cards, known = load_cards(DATA / "fresh3_repository.jsonl"), sentences()
    engine, said = CheckIn(), set()
    for case in load_cases(DATA / "fresh3.jsonl")[::2]:
        decision = engine.decide(case.request, cards, now=NOW)
        for candidate in (*decision.chosen, *decision.candidates[:3]):
            said |= set(candidate.evidence)
            said |= {candidate.difference} if decision.status == "none" else set()
    for which in ("newest", "second newest", "second oldest"):
        said |= set(engine.decide(f"my {which} bear", BEARS, now=NOW).candidates[0].evidence)
    said = {line.removeprefix("against: ") for line in said - {""}}
    assert [line for line in said if not any(p.fullmatch(line) for p in known)] == []
    used = [p.pattern for p in known if any(p.fullmatch(line) for line in said)]
    assert len(used) >= len(known) // 2
