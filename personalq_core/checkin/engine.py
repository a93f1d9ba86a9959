"""Check-in with whatever this machine has to read with; the nodes and the shell share it.

Both are optional: sentence embeddings, a configured LLM.
"""

from __future__ import annotations

from ..library.store import Store
from ..models.embed import load_embedder
from ..models.llm import load_llm
from .checkin import CheckIn
from .llm import LlmCheckIn


def load_engine(
    store: Store | None = None, *, with_llm: bool = True
) -> tuple[CheckIn, tuple[str, ...]]:
    """The engine, and notices of what is missing or wrongly set.

    A wrong LLM setting is a notice: the choice without an LLM needs none.

    Raises:
        ValueError: PERSONALQ_EMBEDDER names a folder that holds no model.
    """
    embedder, notice = load_embedder()
    notices = [notice] if notice else []
    try:
        settings = load_llm() if with_llm else None
    except ValueError as error:
        settings = None
        notices.append(str(error))
    if settings:
        return LlmCheckIn(settings, embedder, store), tuple(notices)
    return CheckIn(embedder, store), tuple(notices)
