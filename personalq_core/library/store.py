"""Store: what was read, so that only what changed is read again.

One SQLite file with cards, full text, embeddings and the user's notes. Each call opens its own
connection, so threads and several ComfyUI processes share the file; writing waits its turn, and a
crash in a transaction leaves what was there before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .card import ModelCard
from .note import clean_note, with_note

_FORMAT = 3
"""Raise it when cards come out differently for the same files: then all is read again."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files(
    id INTEGER PRIMARY KEY, root TEXT NOT NULL, name TEXT NOT NULL, stamp TEXT NOT NULL,
    card_id TEXT, fingerprint TEXT, card TEXT, reason TEXT, UNIQUE(root, name));
CREATE INDEX IF NOT EXISTS content ON files(fingerprint);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    title, triggers, tags, description, name, tokenize='unicode61 remove_diacritics 2');
CREATE TABLE IF NOT EXISTS embeddings(
    model TEXT NOT NULL, text_hash TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY(model, text_hash)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes(fingerprint TEXT PRIMARY KEY, note TEXT NOT NULL);
"""
_CJK = re.compile(r"[぀-ヿ㐀-鿿々]")
_T = TypeVar("_T")
_COLUMNS = tuple(field.name for field in fields(ModelCard))
_TUPLES = ("triggers", "tags")


class Store:
    """The library's memory, at a path the caller chooses.

    `notices` collects what the user should know, for example that a damaged file was replaced.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.notices: list[str] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._run(lambda db: None)

    # --- scanned files ---

    def files(self, root: str) -> dict[str, tuple[str, ModelCard | str]]:
        """name -> (stamp, card or the reason it was refused) of all files known below a root."""

        def read(db: sqlite3.Connection) -> list[tuple[str, str, str | None, str | None]]:
            query = "SELECT name, stamp, card, reason FROM files WHERE root = ?"
            return db.execute(query, (root,)).fetchall()

        return {
            name: (stamp, card_from_row(card) if card else reason or "")
            for name, stamp, card, reason in self._run(read)
        }

    def update(
        self,
        root: str,
        read: Iterable[tuple[str, str, ModelCard | str]] = (),
        gone: Iterable[str] = (),
    ) -> None:
        """Remember files (name, stamp, card or reason) and forget those that are gone, at once."""
        read, gone = list(read), list(gone)

        def write(db: sqlite3.Connection) -> None:
            for name in [*gone, *(name for name, _, _ in read)]:
                row = db.execute(
                    "DELETE FROM files WHERE root = ? AND name = ? RETURNING id", (root, name)
                ).fetchone()
                if row:
                    db.execute("DELETE FROM words WHERE rowid = ?", row)
            for name, stamp, result in read:
                _insert(db, root, name, stamp, result)

        if read or gone:
            self._run(write, "IMMEDIATE")

    def search(self, query: str, limit: int = 100) -> list[tuple[str, float]]:
        """(card id, score) of cards holding any word of the query, best first (BM25).

        What the user noted is searched in place of what it overrides. The last word may be the
        beginning of one, as while typing. A card comes once, however many roots hold its file.
        """
        words = re.findall(r"\w+", query)[:64]
        if not words:
            return []
        match = " OR ".join(f'"{_spaced(word)}"' for word in words)
        sql = (
            "SELECT files.card_id, -bm25(words, 4, 4, 2, 1, 2) AS score FROM words "
            "JOIN files ON files.id = words.rowid WHERE words MATCH ? ORDER BY score DESC LIMIT ?"
        )
        found = self._run(lambda db: db.execute(sql, (match + "*", 2 * limit)).fetchall())
        best: dict[str, float] = {}
        for card_id, score in found:
            best.setdefault(card_id, score)
        return list(best.items())[:limit]

    # --- embeddings ---

    def load_vectors(self, model_id: str, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """key -> float32 vector (dim,) of those text hashes that `model_id` embedded before."""

        def read(db: sqlite3.Connection) -> list[tuple[str, bytes]]:
            rows: list[tuple[str, bytes]] = []
            for start in range(0, len(keys), 500):  # SQLite limits the number of parameters
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                sql = "SELECT text_hash, vector FROM embeddings WHERE model = ? AND text_hash IN "
                rows += db.execute(f"{sql} ({marks})", (model_id, *part))
            return rows

        return {key: np.frombuffer(blob, "<f4") for key, blob in self._run(read)}

    def save_vectors(self, model_id: str, vectors: Mapping[str, np.ndarray]) -> None:
        """Keep text hash -> vector (dim,) of an embedding model."""
        rows = [
            (model_id, key, np.ascontiguousarray(vector, "<f4").tobytes())
            for key, vector in vectors.items()
        ]
        sql = "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)"
        self._run(lambda db: db.executemany(sql, rows), "IMMEDIATE")

    # --- the user's own notes ---

    def notes(self) -> dict[str, dict[str, Any]]:
        """fingerprint -> note: fields of a card as the user wants them."""
        rows = self._run(lambda db: db.execute("SELECT fingerprint, note FROM notes").fetchall())
        return {fingerprint: json.loads(note) for fingerprint, note in rows}

    def notes_state(self) -> str:
        """Changes whenever a note does."""
        return hashlib.sha256(repr(sorted(self.notes().items())).encode()).hexdigest()

    def set_note(self, fingerprint: str, **fields: Any) -> None:
        """Note fields of all cards with this content, see `clean_note`; other fields stay.

        None or "" takes a field back; no fields take the whole note back.

        Raises:
            ValueError: a field that cannot be noted, or a value that is none.
        """
        changed = clean_note(fields)

        def write(db: sqlite3.Connection) -> None:
            note = {**_note(db, fingerprint), **changed} if changed else {}
            note = {name: value for name, value in note.items() if value is not None}
            db.execute("DELETE FROM notes WHERE fingerprint = ?", (fingerprint,))
            if note:
                db.execute("INSERT INTO notes VALUES (?, ?)", (fingerprint, json.dumps(note)))
            rows = db.execute("SELECT id, card FROM files WHERE fingerprint = ?", (fingerprint,))
            for rowid, card in rows.fetchall():
                db.execute("DELETE FROM words WHERE rowid = ?", (rowid,))
                _index_words(db, rowid, with_note(card_from_row(card), note))

        self._run(write, "IMMEDIATE")

    # --- the file ---

    def _run(self, work: Callable[[sqlite3.Connection], _T], mode: str = "DEFERRED") -> _T:
        """Run `work` in one transaction; a damaged file is put aside and begun anew, once.

        Writers begin "IMMEDIATE": a read that turns into a write cannot wait for its turn.
        """
        try:
            with self._connection(mode) as db:
                return work(db)
        except sqlite3.OperationalError:  # locked, full, read-only: not damaged
            raise
        except sqlite3.DatabaseError as error:
            self._rebuild(error)
            with self._connection(mode) as db:
                return work(db)

    @contextlib.contextmanager
    def _connection(self, mode: str) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as db:
            db.isolation_level = None
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            if db.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
                _prepare(db)
            db.execute(f"BEGIN {mode}")
            try:
                yield db
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def _rebuild(self, error: Exception) -> None:
        notes = self._salvage_notes()
        aside = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            os.replace(self.path, aside)
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        self.notices.append(
            f"The library file {self.path.name} was damaged ({error}); it is being rebuilt from "
            f"your model folders. {len(notes)} of your notes were saved; the damaged file is kept "
            f"as {aside.name}."
        )
        with self._connection("IMMEDIATE") as db:
            db.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", notes)

    def _salvage_notes(self) -> list[tuple[str, str]]:
        try:
            with contextlib.closing(sqlite3.connect(self.path)) as db:
                return db.execute("SELECT fingerprint, note FROM notes").fetchall()
        except sqlite3.Error:
            return []


def _prepare(db: sqlite3.Connection) -> None:
    """Make the tables, or empty the cards of an older format; notes and embeddings stay."""
    db.execute("BEGIN IMMEDIATE")
    if db.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
        db.execute("DROP TABLE IF EXISTS files")
        db.execute("DROP TABLE IF EXISTS words")
        for statement in filter(str.strip, _SCHEMA.split(";")):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {_FORMAT}")
    db.execute("COMMIT")


def _insert(
    db: sqlite3.Connection, root: str, name: str, stamp: str, result: ModelCard | str
) -> None:
    insert = (
        "INSERT INTO files(root, name, stamp, card_id, fingerprint, card, reason) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)"
    )
    if isinstance(result, str):
        db.execute(insert, (root, name, stamp, None, None, None, result))
        return
    row = json.dumps([getattr(result, column) for column in _COLUMNS], default=dict)
    values = (root, name, stamp, result.id, result.fingerprint, row, None)
    rowid = db.execute(insert, values).lastrowid
    _index_words(db, rowid, with_note(result, _note(db, result.fingerprint)))


def _index_words(db: sqlite3.Connection, rowid: int | None, card: ModelCard) -> None:
    texts = (
        card.title, " ".join(card.triggers), " ".join(card.tags), card.description, card.name,
    )  # fmt: skip
    db.execute(
        "INSERT INTO words(rowid, title, triggers, tags, description, name) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (rowid, *map(_spaced, texts)),
    )


def _spaced(text: str) -> str:
    """Chinese and Japanese characters set apart: the full text knows only words between spaces."""
    return _CJK.sub(r" \g<0> ", text)


def _note(db: sqlite3.Connection, fingerprint: str) -> dict[str, Any]:
    row = db.execute("SELECT note FROM notes WHERE fingerprint = ?", (fingerprint,)).fetchone()
    return json.loads(row[0]) if row else {}


def card_from_row(row: str) -> ModelCard:
    """The card of one stored row."""
    values = dict(zip(_COLUMNS, json.loads(row)))
    for column in _TUPLES:
        values[column] = tuple(values[column])
    values["trigger_groups"] = tuple(tuple(group) for group in values["trigger_groups"])
    return ModelCard(**values)
