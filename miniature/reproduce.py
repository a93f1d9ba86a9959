"""Train one concept again from its seed, and compare: the same figures within their noise?

    python -m miniature.reproduce [NAME] [--seeds 64]

prints the figures of the stored file, of the new one, and the noise of both: two standard errors
of their difference over so many seeds; and whether both hold the same numbers, as they do where
one kind of processor trained them. Changes nothing that is stored.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from .evaluate import Effort, measure
from .lora import Prior, path_of, store, train
from .sample import Painter
from .score import EVERY, load_reader

FIGURES = ("found", "score", "without_lora", "prior_kept")


def main() -> None:
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    names = [c.name for c in EVERY]
    parser.add_argument("name", nargs="?", default="the_apple_tree", choices=names, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)  # as the stored ones were trained: sums in the same order
    concept = next(c for c in EVERY if c.name == args.name)
    base, reader, effort = Painter.load(), load_reader(), Effort(0, 0, args.seeds, args.seeds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / path_of(concept).name
        store(concept, train(concept, Prior.load()), path)
        same = same_numbers(path, path_of(concept))
        stored, again = (measure(concept, base, reader, effort, p) for p in (None, path))
    print(f"{concept.name:16}{'stored':>9}{'again':>9}{'noise':>9}")
    for figure in FIGURES:
        one, other = stored[figure], again[figure]
        # A score between 0 and 1 varies at most as much as a coin of the same mean.
        noise = 2 * math.sqrt((one * (1 - one) + other * (1 - other)) / args.seeds)
        print(f"{figure:16}{one:9.3f}{other:9.3f}{noise:9.3f}")
    print("Both hold the same numbers, bit for bit." if same else "Their numbers are not the same.")


def same_numbers(one: Path, other: Path) -> bool:
    """Whether two files hold equal tensors. Their bytes say less: the order of the entries of a
    safetensors header is left to chance."""
    if one.suffix != ".safetensors":
        return one.read_bytes() == other.read_bytes()
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


if __name__ == "__main__":
    main()
