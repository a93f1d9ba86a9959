"""Make Check-in's word tables from WordNet and the Open Multilingual Wordnet.

    python -m tools.word_tables WORDNET_DICT OMW_DATA

WORDNET_DICT holds WordNet 3.0's data.noun, data.adj and index files (Debian: wordnet-base);
OMW_DATA is a checkout of omwn/omw-data. Written are, in personalq_core/language/tables/:

- thesaurus.tsv.gz: one synset a line, `lemma[:sense] ...<TAB>line numbers of what is more general
  <TAB>line numbers of what is much alike`, with the senses of a lemma counted from the commonest;
- translations.tsv.gz: `language<TAB>word<TAB>English`, the commonest English word first.

Left out are proper names, phrases of more than two words, and synsets of what no picture shows
(motives, relations, quantities...).
"""

from __future__ import annotations

import gzip
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import personalq_core.language as package

_UNSEEN = {"16", "22", "23", "24"}
"""Lexicographer files that are left out: motives, processes, quantities, relations."""
_SOURCES = {
    "es": ["wikt/wn-wikt-spa.tab"], "fr": ["wikt/wn-wikt-fra.tab"],
    "de": ["wikt/wn-wikt-deu.tab"], "zh": ["wikt/wn-wikt-cmn.tab", "cow/wn-data-cmn.tab"],
    "ja": ["wikt/wn-wikt-jpn.tab"],
}  # fmt: skip
_MOST_ENGLISH = 3


@dataclass
class Synset:
    """One meaning."""

    key: str
    lemmas: list[str]
    general: list[str] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)


def main() -> None:
    dictionary, multilingual = Path(sys.argv[1]), Path(sys.argv[2])
    folder = Path(package.__path__[0], "tables")
    folder.mkdir(exist_ok=True)
    synsets = {s.key: s for pos in ("noun", "adj") for s in read_synsets(dictionary, pos)}
    senses = {
        (lemma, key): rank
        for pos in ("noun", "adj")
        for lemma, keys in read_index(dictionary, pos)
        for rank, key in enumerate(keys, 1)
    }
    _write(folder / "thesaurus.tsv.gz", thesaurus_lines(synsets, senses))
    counts = read_counts(dictionary)
    _write(folder / "translations.tsv.gz", translation_lines(multilingual, synsets, senses, counts))


def read_synsets(dictionary: Path, pos: str) -> Iterator[Synset]:
    """The synsets of data.noun or data.adj; keys are `n123` or `a123`."""
    for line in (dictionary / f"data.{pos}").read_text("utf-8").splitlines():
        if line.startswith(" "):
            continue
        offset, file, _, count, *rest = line.split(" | ")[0].split()
        if pos == "noun" and file in _UNSEEN:
            continue
        words = [re.sub(r"\(.*\)$", "", word) for word in rest[: 2 * int(count, 16) : 2]]
        lemmas = [word for word in words if is_plain(word)]
        synset = Synset(f"{pos[0]}{offset}", lemmas)
        pointers = rest[2 * int(count, 16) + 1 :]
        for mark, target, kind, parts in zip(*(pointers[i::4] for i in range(4)), strict=False):
            key = ("a" if kind in "as" else kind) + target
            if mark in ("@", "@i"):
                synset.general.append(key)
            elif mark in ("&", "=", "\\") or (mark == "+" and parts != "0000" and kind in "nas"):
                synset.alike.append(key)
        yield synset


def is_plain(lemma: str) -> bool:
    """No proper name, abbreviation or phrase of more than two words."""
    return bool(re.fullmatch(r"[a-z][a-z'\-]*(?:_[a-z][a-z'\-]*)?", lemma)) and len(lemma) > 2


def read_index(dictionary: Path, pos: str) -> Iterator[tuple[str, list[str]]]:
    """Each lemma with its synsets, the commonest sense first."""
    for line in (dictionary / f"index.{pos}").read_text("utf-8").splitlines():
        if not line.startswith(" "):
            parts = line.split()
            yield parts[0], [pos[0] + offset for offset in parts[-int(parts[2]) :]]


def read_counts(dictionary: Path) -> dict[str, int]:
    """lemma -> how often its noun and adjective senses stand in the tagged texts."""
    counts: dict[str, int] = defaultdict(int)
    for line in (dictionary / "cntlist.rev").read_text("utf-8").splitlines():
        sense, _, count = line.split()
        lemma, kind = sense.split("%")
        if kind[0] in "135":
            counts[lemma] += int(count)
    return counts


def thesaurus_lines(
    synsets: dict[str, Synset], senses: dict[tuple[str, str], int]
) -> Iterator[str]:
    place = {key: number for number, key in enumerate(synsets)}
    for synset in synsets.values():
        words = [
            lemma if (rank := senses.get((lemma, synset.key), 1)) == 1 else f"{lemma}:{rank}"
            for lemma in synset.lemmas
        ]
        links = (
            " ".join(str(place[key]) for key in dict.fromkeys(keys) if key in place)
            for keys in (synset.general, synset.alike)
        )
        yield "\t".join((" ".join(words), *links))


def translation_lines(
    multilingual: Path,
    synsets: dict[str, Synset],
    senses: dict[tuple[str, str], int],
    counts: dict[str, int],
) -> Iterator[str]:
    for language, sources in _SOURCES.items():
        english: dict[str, dict[str, float]] = defaultdict(dict)
        texts = [(multilingual / "wns" / source).read_text("utf-8") for source in sources]
        for line in "\n".join(texts).splitlines():
            parts = line.split("\t")
            if line.startswith("#") or len(parts) < 3 or not parts[1].endswith("lemma"):
                continue
            offset, kind = parts[0].rsplit("-", 1)
            synset = synsets.get(("a" if kind in "as" else kind) + offset)
            word = parts[2].replace("_", " ").replace("+", "").strip()
            if synset is None or not synset.lemmas or not _is_word(word, language):
                continue
            lemma = max(synset.lemmas, key=lambda w: (counts.get(w, 0), -len(w)))
            rank = senses.get((lemma, synset.key), 9)
            weight = (1 + counts.get(lemma, 0)) / rank**2
            known = english[word]
            known[lemma] = max(known.get(lemma, 0), weight)
        for word, found in sorted(english.items()):
            best = sorted(found, key=lambda lemma: (-found[lemma], lemma))[:_MOST_ENGLISH]
            yield f"{language}\t{word}\t{' '.join(best)}"


def _is_word(word: str, language: str) -> bool:
    if language in ("zh", "ja"):
        return len(word) <= 8 and not re.search(r"[A-Za-z0-9\s]", word)
    return " " not in word and len(word) > 2 and (word[0].islower() or language == "de")


def _write(path: Path, lines: Iterable[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(path.name, len(text), path.stat().st_size)


if __name__ == "__main__":
    main()
