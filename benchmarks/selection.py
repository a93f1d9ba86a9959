"""Check-in against plain retrieval and its peers, on any repository and requests.

    python -m benchmarks.selection --repository CARDS.jsonl --cases CASES.jsonl
        [--json OUT] [--png OUT] [--cross-validate [--also CARDS CASES ...]] [--llm]

What the figures mean: top1 and recall_at_10 are over clear requests that the repository can
answer, whether or not the system would ask first; over_ask is the share of these on which it asks,
over_abstain of those for which it says that nothing fits (the right model may be the first of the
nearest all the same, and counts in top1); after_answer is the choice after the user's answer;
abstain_auroc ranks requests with an answer above those without; false_select is the share of
requests without an answer for which something is chosen; beside is the share of requests which
name a second model (a style, another thing, a base) for the base of the one chosen, in which it is
chosen too, beside_wrong the share of all choices in which more is chosen than named; prompt is the
share of right choices whose prompt is one that a person wrote for the request. Peers neither
ask nor abstain: they are given the relative margin of their two best scores and the threshold that
asks at most one clear request in ten *on these very cases*, which favours them. `--cross-validate`
learns our weights anew for each fifth of the families, from the other four and from the requests of
other repositories that `--also` names.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rank_bm25 import BM25Okapi

from benchmarks.learn_weights import cross_validated
from benchmarks.selection_data import Case, load_cards, load_cases
from personalq_core.checkin.checkin import ASK_ABOVE, CheckIn
from personalq_core.checkin.decision import Decision
from personalq_core.checkin.intent import understand
from personalq_core.checkin.llm import LlmCheckIn
from personalq_core.checkin.retrieve import card_text
from personalq_core.checkin.rewrite import rewrite, undo
from personalq_core.language.words import fold, spelling, terms
from personalq_core.library.card import ModelCard
from personalq_core.models.embed import Embedder, load_embedder
from personalq_core.models.llm import LlmSettings, load_llm

OVER_ASK = 0.10
METRICS = (
    "top1", "recall_at_10", "ask_precision", "ask_recall", "ask_f1", "over_ask", "after_answer",
    "abstain_auroc", "false_select", "over_abstain", "beside", "beside_wrong", "rewrite_exact",
    "prompt", "ms_p50", "ms_p95",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a system did with one case."""

    case: Case
    ranked: tuple[str, ...]
    """Ids, best first, at most ten."""
    confidence: float
    """That the best one is meant at all."""
    margin: float
    """How far the best is ahead, 0 to 1."""
    asked: bool | None
    chose: bool | None
    after_answer: str | None
    rewrite_ok: bool | None
    ms: float
    second: bool | None = None
    """Whether what is named beside the choice was chosen too; None where nothing is, for its base.
    """
    too_many: bool | None = None
    """Whether more was chosen than is named; None where nothing was chosen."""
    prompt_ok: bool | None = None
    """Whether the prompt is one that a person wrote; None where none is written or the choice is
    wrong."""


# --- systems ----------------------------------------------------------------------------------

Score = Callable[[str], np.ndarray]


def peers(cards: Sequence[ModelCard], embedder: Embedder) -> dict[str, Score]:
    """Name -> scores (cards,) of a request."""
    lexical = BM25Okapi([terms(f"{card.name} {card_text(card)}") for card in cards])
    vectors = embedder.embed([card_text(card) for card in cards])
    labels = [set(terms(" ".join((card.title, *card.triggers, *card.tags)))) for card in cards]

    def bm25(request: str) -> np.ndarray:
        return np.asarray(lexical.get_scores(terms(request)))

    def dense(request: str) -> np.ndarray:
        return embedder.embed([request])[0] @ vectors.T

    def rrf(request: str) -> np.ndarray:
        return 1 / (60 + _ranks(bm25(request))) + 1 / (60 + _ranks(dense(request)))

    def convex(request: str) -> np.ndarray:
        return 0.5 * _unit(bm25(request)) + 0.5 * _unit(dense(request))

    def stylus_like(request: str) -> np.ndarray:
        """Stylus' retriever: cosine with each of the request's tasks, best task counts."""
        tasks = [
            part for part in re.split(r"[,.;]|\b(?:with|in|on|as|at)\b", request) if part.strip()
        ]
        return (embedder.embed([request, *tasks]) @ vectors.T).max(0)

    def autopilot_like(request: str) -> np.ndarray:
        """Keyword tools: how many of a model's labels stand in the request, by share."""
        asked = set(terms(request))
        return np.array([len(asked & own) / (1 + len(own)) ** 0.5 for own in labels])

    return {
        "bm25": bm25, "dense": dense, "rrf": rrf, "convex": convex,
        "stylus_like": stylus_like, "autopilot_like": autopilot_like,
    }  # fmt: skip


def _ranks(scores: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(-scores, kind="stable"), kind="stable") + 1


def _unit(scores: np.ndarray) -> np.ndarray:
    spread = scores.max() - scores.min()
    return (scores - scores.min()) / spread if spread else np.zeros_like(scores)


def run_peer(score: Score, cards: Sequence[ModelCard], cases: Iterable[Case]) -> list[Outcome]:
    """A peer's outcomes, with the asking threshold that suits it best on these cases."""
    raw = []
    for case in cases:
        start = time.perf_counter()
        scores = score(case.request)
        ms = (time.perf_counter() - start) * 1000
        order = np.argsort(-scores, kind="stable")[:10]
        top, second = scores[order[0]], scores[order[1]] if len(order) > 1 else 0.0
        margin = float((top - second) / abs(top)) if top else 0.0
        after = None
        if case.answer:
            after = cards[int(np.argmax(score(f"{case.request} {case.answer}")))].id
        raw.append((case, tuple(cards[i].id for i in order), float(top), margin, after, ms))
    clear = sorted(row[3] for row in raw if _is_clear(row[0]))
    threshold = clear[int(OVER_ASK * len(clear))] if clear else 0.0
    return [
        Outcome(case, ranked, top, margin, margin < threshold, margin >= threshold, after, None, ms)
        for case, ranked, top, margin, after, ms in raw
    ]


def run_personalq(
    cards: Sequence[ModelCard],
    cases: Sequence[Case],
    embedder: Embedder | None,
    also: Sequence[tuple[Path, Path]] | None = None,
    llm: LlmSettings | None = None,
    ask: str = "normally",
) -> list[Outcome]:
    """Our outcomes, with or without an LLM; with the committed weights or, where `also` is given,
    with cross-validated ones, learned from these repositories as well. `ask`: the node's knob."""
    engine = LlmCheckIn(llm, embedder) if llm else CheckIn(embedder)
    engine.index(cards)
    if also is None:
        return [_decide(engine, cards, case, ask) for case in cases]
    outcomes = []
    others = [(load_cases(cases_of), load_cards(cards_of)) for cards_of, cases_of in also]
    for case, weights in cross_validated(cases, cards, engine, others):
        engine.use_weights(weights)
        outcomes.append(_decide(engine, cards, case, ask))
    return outcomes


def _decide(engine: CheckIn, cards: Sequence[ModelCard], case: Case, ask: str) -> Outcome:
    start = time.perf_counter()
    decision = engine.decide(case.request, cards, now=case.now, ask=ask)
    ms = (time.perf_counter() - start) * 1000
    ranked = tuple(candidate.card.id for candidate in decision.candidates[:10])
    scores = [candidate.score for candidate in decision.candidates[:2]] + [0.0, 0.0]
    after = None
    if case.answer:
        answered = engine.decide(case.request, cards, now=case.now, ask=ask, answer=case.answer)
        after = answered.choice.card.id if answered.choice else ""
    return Outcome(
        case, ranked, decision.fit, scores[0] - scores[1], decision.status == "ask",
        decision.status == "chosen", after, rewrite_is_exact(decision, case), ms,
        *_beside(decision, case, cards), _is_as_written(decision, case),
    )  # fmt: skip


def _is_as_written(decision: Decision, case: Case) -> bool | None:
    if not case.prompts or decision.choice is None or decision.choice.card.id not in case.gold:
        return None
    return _plain(decision.prompt) in map(_plain, case.prompts)


def _plain(prompt: str) -> str:
    """But for spaces and capitals."""
    return fold(re.sub(r"\s+", "", prompt))


def _beside(
    decision: Decision, case: Case, cards: Sequence[ModelCard]
) -> tuple[bool | None, bool | None]:
    """`second` and `too_many` of an outcome."""
    if decision.choice is None:
        return None, None
    choice, beside = decision.choice.card, {other.card.id for other in decision.beside}
    wanted = case.secondary - {choice.id}
    fitting = {c.id for c in cards if c.id in wanted and c.suits(choice.base_family or "")}
    second = bool(beside & fitting) if fitting else None
    return second, bool(beside - wanted - case.gold - case.acceptable)


def rewrite_is_exact(decision: Decision, case: Case) -> bool | None:
    """A trigger of each once, nothing else new, reversible; None where nothing was rewritten."""
    if decision.choice is None:
        return None
    intent = understand(case.request, case.now)
    prompt, edits = rewrite(intent, [candidate.card for candidate in decision.chosen])
    triggers = [c.card.triggers[0] for c in decision.chosen if c.card.triggers]
    once = all(
        any(len(spelling(fold(t)).findall(fold(decision.prompt))) == 1 for t in c.card.triggers)
        for c in decision.chosen
        if c.card.triggers
    )
    said = " ".join((case.request, *triggers))
    new = {word for edit in edits for word in _parts(edit.text)}
    return once and undo(prompt, edits) == case.request and new <= _parts(said)


def _parts(text: str) -> set[str]:
    """The words of a text, and of the names of files in it."""
    return set(re.findall(r"[^\W_]+", fold(text)))


# --- figures ----------------------------------------------------------------------------------


def _is_clear(case: Case) -> bool:
    return bool(case.gold) and not case.ambiguous


def figures(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """All METRICS of some outcomes; None where they hold no such case."""
    clear = [o for o in outcomes if _is_clear(o.case)]
    ambiguous = [o for o in outcomes if o.case.ambiguous]
    absent = [o for o in outcomes if not o.case.gold]
    asked_right = sum(bool(o.asked) for o in ambiguous)
    asked_wrong = sum(bool(o.asked) for o in clear)
    precision = asked_right / (asked_right + asked_wrong) if asked_right + asked_wrong else None
    recall = _mean(o.asked for o in ambiguous)
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
    values = (
        _mean(bool(o.ranked) and o.ranked[0] in o.case.gold | o.case.acceptable for o in clear),
        _mean(any(i in o.case.gold | o.case.acceptable for i in o.ranked) for o in clear),
        precision if ambiguous else None,
        recall,
        f1 if ambiguous else None,
        _mean(o.asked for o in clear),
        _mean(o.after_answer == o.case.answer_gold for o in ambiguous if o.case.answer),
        _auroc([o.confidence for o in outcomes if o.case.gold], [o.confidence for o in absent]),
        _mean(o.chose for o in absent),
        _mean(not o.chose and not o.asked for o in clear),
        _mean(o.second for o in outcomes if o.second is not None),
        _mean(o.too_many for o in outcomes if o.too_many is not None),
        _mean(o.rewrite_ok for o in outcomes if o.rewrite_ok is not None),
        _mean(o.prompt_ok for o in outcomes if o.prompt_ok is not None),
        float(np.percentile([o.ms for o in outcomes], 50)),
        float(np.percentile([o.ms for o in outcomes], 95)),
    )
    return {
        name: None if value is None else round(value, 4)
        for name, value in zip(METRICS, values, strict=True)
    }


def _mean(values: Iterable[bool | None]) -> float | None:
    found = [float(bool(value)) for value in values]
    return sum(found) / len(found) if found else None


def _auroc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    if not positive or not negative:
        return None
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    return float(np.mean(wins))


def report(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Overall and by category."""
    names = dict.fromkeys(o.case.category for o in outcomes)
    parts = {name: [o for o in outcomes if o.case.category == name] for name in names}
    return {
        "overall": figures(outcomes),
        "categories": {n: {"n": len(part), **figures(part)} for n, part in parts.items()},
    }


def print_table(systems: dict[str, dict]) -> None:
    """Systems side by side, then ours by category."""
    _row("", METRICS)
    for name, result in systems.items():
        _row(name, [result["overall"][metric] for metric in METRICS])
    print()
    _row("personalq, by category", ["n", *METRICS])
    for name, values in systems["personalq"]["categories"].items():
        _row(name, [values["n"], *(values[metric] for metric in METRICS)])
    print("\ntop1 by category")
    _row("", systems)
    for name in systems["personalq"]["categories"]:
        _row(name, [result["categories"][name]["top1"] for result in systems.values()])


def print_knob(knob: dict[str, dict]) -> None:
    """What the node's three ways of asking cost and bring."""
    names = ("ask_precision", "ask_recall", "ask_f1", "over_ask", "after_answer")
    print()
    _row("personalq, ask:", names)
    for ask, values in knob.items():
        _row(ask, [values[name] for name in names])


def _row(name: str, values: Iterable[object]) -> None:
    cells = (
        "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
        for value in values
    )
    print(f"{name:24}" + "".join(f"{cell:>15}" for cell in cells))


def draw(systems: dict[str, dict], path: Path) -> None:
    """Top-1 by category, one bar a system."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [n for n, v in systems["personalq"]["categories"].items() if v["top1"] is not None]
    figure, axes = plt.subplots(figsize=(12, 4.5))
    width = 0.85 / len(systems)
    for place, (system, result) in enumerate(systems.items()):
        heights = [result["categories"][name]["top1"] for name in names]
        places = np.arange(len(names)) + place * width
        axes.bar(places, heights, width, label=f"{system} ({result['overall']['top1']:.2f})")
    axes.set_xticks(np.arange(len(names)) + 0.4, names, rotation=20, ha="right")
    axes.set_ylabel("right at first choice")
    axes.set_ylim(0, 1.02)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--png", type=Path, help="draw top-1 by category here")
    parser.add_argument(
        "--cross-validate", action="store_true", help="learn our weights without the tested family"
    )
    parser.add_argument(
        "--also", type=Path, nargs=2, action="append", default=[], metavar=("CARDS", "CASES")
    )
    parser.add_argument(
        "--llm", action="store_true", help="also run with the LLM that PERSONALQ_LLM_... names"
    )
    options = parser.parse_args()
    llm = load_llm() if options.llm else None
    if options.llm and llm is None:
        parser.error("--llm needs PERSONALQ_LLM_URL or PERSONALQ_LLM_GGUF")
    cards, cases = load_cards(options.repository), load_cases(options.cases)
    embedder, notice = load_embedder()
    if notice:
        print(notice)
    also = options.also if options.cross_validate else None
    ours = run_personalq(cards, cases, embedder, also)
    systems = {"personalq": report(ours)}
    knob = {
        ask: figures(
            ours if ask == "normally" else run_personalq(cards, cases, embedder, also, ask=ask)
        )
        for ask in ASK_ABOVE
    }
    if llm:
        read = run_personalq(cards, cases, embedder, also, llm)
        systems["personalq_llm"] = report(read)
    for name, score in (peers(cards, embedder) if embedder else {}).items():
        systems[name] = report(run_peer(score, cards, cases))
    print_table(systems)
    print_knob(knob)
    if options.json:
        about = {
            "cross_validated": options.cross_validate,
            "embedder": embedder and embedder.model_id,
        }
        results = {**about, "systems": systems, "ask": knob}
        options.json.write_text(json.dumps(results, indent=1))
    if options.png:
        draw(systems, options.png)


if __name__ == "__main__":
    main()
