"""The triggers of what a model is quantized for: one, or several where several LoRAs are loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence

BETWEEN = "; "
"""A comma will not do: many a trigger has some."""


def triggers_in(field: str) -> list[str]:
    """The triggers in a text field, with ";" or line breaks between them."""
    return [trigger for part in re.split(r"[;\n]", field) if (trigger := part.strip())]


def in_scenes(triggers: Sequence[str], scenes: Sequence[str]) -> list[str]:
    """Prompts for all triggers together, and for each alone, one after another in the next scene.

    scenes: with {} for the trigger
    """
    # What stands after the thing is mostly a style: "nkws style tdybr4 bear".
    together = " ".join(reversed(triggers))
    things = [together, *triggers] if len(triggers) > 1 else triggers
    count = max(len(scenes), len(things)) if things else 0
    return [scenes[n % len(scenes)].format(things[n % len(things)]) for n in range(count)]
