"""Store: what was read, so that only what changed is read again.

One SQLite file with cards, embeddings and the user's notes. Each call opens its own connection, so
threads and several ComfyUI processes share the file; writing waits its turn, and a crash in a
transaction leaves what was there before.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .card import ModelCard
from .note import clean_note

_FORMAT = 5
"""Raise it when cards come out differently for the same files: then all is read again."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files(
    root TEXT NOT NULL, name TEXT NOT NULL, stamp TEXT NOT NULL, card TEXT, reason TEXT,
    PRIMARY KEY(root, name));
CREATE TABLE IF NOT EXISTS embeddings(
    model TEXT NOT NULL, text_hash TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY(model, text_hash)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes(fingerprint TEXT PRIMARY KEY, note TEXT NOT NULL);
"""
_DAMAGED = ("malformed", "not a database")
"""What SQLite says of a damaged file; Python 3.10 does not hand on its error codes."""
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
            gone_rows = [(root, name) for name in gone]
            db.executemany("DELETE FROM files WHERE root = ? AND name = ?", gone_rows)
            rows = [(root, name, stamp, *_columns(result)) for name, stamp, result in read]
            db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)

        if read or gone:
            self._run(write, "IMMEDIATE")

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

        self._run(write, "IMMEDIATE")

    # --- the file ---

    def _run(self, work: Callable[[sqlite3.Connection], _T], mode: str = "DEFERRED") -> _T:
        """Run `work` in one transaction; a damaged file is put aside and begun anew, once.

        Writers begin "IMMEDIATE": a read that turns into a write cannot wait for its turn.
        """
        try:
            with self._connection(mode) as db:
                return work(db)
        except sqlite3.DatabaseError as error:
            if not any(words in str(error) for words in _DAMAGED):  # locked, full, read-only...
                raise
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
        db.execute("DROP TABLE IF EXISTS words")  # up to format 3
        for statement in filter(str.strip, _SCHEMA.split(";")):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {_FORMAT}")
    db.execute("COMMIT")


def _columns(result: ModelCard | str) -> tuple[str | None, str | None]:
    """(card, reason) of a row; one of them is None."""
    if isinstance(result, str):
        return None, result
    return json.dumps([getattr(result, column) for column in _COLUMNS], default=dict), None


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
