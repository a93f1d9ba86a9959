"""The user's models and the engine that chooses among them; one for the whole server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..personalq_core.checkin.checkin import CheckIn
from ..personalq_core.checkin.engine import load_engine
from ..personalq_core.library import Listing, ModelCard, Root, Store, list_files, scan
from .host import folders

Progress = Callable[[int, int], None]
"""Called with (files done, files in all)."""


class Library:
    """What the model folders hold, read again only where it changed.

    The cards do not wait for the engine, which takes seconds to load.
    """

    def __init__(self) -> None:
        self._cards_lock = threading.Lock()
        self._engine_lock = threading.Lock()
        self._store_lock = threading.Lock()
        self._state: str | None = None
        self._notes_written = 0
        self._cards: tuple[ModelCard, ...] = ()
        self._unread: tuple[str, ...] = ()
        self._notices: tuple[str, ...] = ()
        self._store: Store | None = None
        self._engine: CheckIn | None = None
        self._engine_notices: tuple[str, ...] = ()

    def state(self) -> str:
        """Changes whenever a model file or a note does, or one can be read that could not be."""
        return f"{self._state_of(list_model_files())}+{self._unread}"

    @property
    def cards(self) -> tuple[ModelCard, ...] | None:
        """What `read_cards` gave last, without a look at the disk; None before the first time."""
        return None if self._state is None else self._cards

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know of the last reading, and of an engine once it is loaded."""
        return self._engine_notices + self._notices

    def note_of(self, fingerprint: str) -> dict[str, Any]:
        """What the user noted of a model."""
        return self._opened().notes().get(fingerprint, {})

    def write_note(self, fingerprint: str, note: dict[str, Any]) -> None:
        """Keep the user's own facts of a model; see `Store.set_note`."""
        self._opened().set_note(fingerprint, **note)
        self._notes_written += 1

    def read(self) -> tuple[CheckIn, tuple[ModelCard, ...], tuple[str, ...]]:
        """Engine, cards and notices, for a node that runs: its bar shows the progress."""
        engine = self.engine()
        return engine, self.read_cards(folders.progress()), self.notices

    def read_cards(self, progress: Progress | None = None) -> tuple[ModelCard, ...]:
        """The cards as the disk has them now; only what changed is read again."""
        with self._cards_lock:
            found = list_model_files()
            state = self._state_of(found)
            if state != self._state or self._unread:
                report = scan(found, self._opened(), progress)
                # The very same tuple tells that nothing changed.
                if state != self._state or report.cards != self._cards:
                    self._cards = report.cards
                self._unread = tuple(file.name for file in report.refused if not file.lasting)
                refused = tuple(refused.reason for refused in report.refused)
                self._notices = tuple(self._opened().notices) + refused
                self._state = state
            return self._cards

    def engine(self) -> CheckIn:
        """The engine, loaded at the first use.

        Raises ValueError where PERSONALQ_EMBEDDER names a folder that holds no model.
        """
        with self._engine_lock:
            if self._engine is None:
                self._engine, self._engine_notices = load_engine(self._opened())
            return self._engine

    def _state_of(self, found: Listing) -> str:
        return f"{found.state}+{self._notes_written}"

    def _opened(self) -> Store:
        with self._store_lock:
            if self._store is None:
                self._store = Store(folders.private_folder() / "library.sqlite")
            return self._store


def list_model_files() -> Listing:
    """What lies in ComfyUI's model folders now; nothing is opened."""
    return list_files([Root(kind, path) for kind, path in folders.model_folders()])


LIBRARY = Library()
