"""The triggers in a text field: one, or several where several concepts are loaded at once."""

from __future__ import annotations

import re

BETWEEN = "; "
"""A comma will not do: many a trigger has some."""


def triggers_in(field: str) -> list[str]:
    """The triggers of a field, with ";" or line breaks between them."""
    return [trigger for part in re.split(r"[;\n]", field) if (trigger := part.strip())]
