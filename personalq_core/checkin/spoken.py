"""What a request says to whoever draws, and not of the picture: "can you draw ..., thanks"."""

from __future__ import annotations

import re

_DO = r"(?:draw|make|create|generate|paint|render|show|give|get)"
_HELLO = r"(?:hey|hi|hiya|hello|yo)(?:\s+there)?"
_TO_THE_PROGRAM = (
    re.compile(
        rf"^\W*(?P<said>(?:(?:{_HELLO}|ok|okay)\b(?:\s+so\b)?[\s,!]*)?(?:(?:please|pls|plz)\s+)?(?:"
        rf"(?:can|could|would|will)\s+(?:you|i|we)\s+(?:please\s+)?(?:{_DO}|do|have|see)\b"
        rf"|(?:use(?!\s+of)|need(?!\s+(?:for|to))|gimme)\b(?=\s+\w)"
        rf"|i(?:['\u2019]d\s+(?:like|love)|\s+(?:want|need|would\s+like))\b"
        rf"(?:\s+(?:to\s+(?:see|have|get)|you\s+to\s+{_DO})\b)?"
        rf"|{_DO}(?=\s+(?:me|us|my|our|an?|the)\b))(?:\s+(?:me|us)\b)?)(?=\s+\w)",
        re.I,
    ),
    re.compile(rf"^\W*(?P<said>(?:{_HELLO})\s*[,!]+)", re.I),
    re.compile(r"(?P<said>\s(?:please|pls|plz))(?=\s*[,;.])", re.I),
    re.compile(r"[,;.]\s*(?P<said>(?:(?:please|pls|plz)\s+)?use)(?=\s+(?:the|my|our)\s)", re.I),
    re.compile(
        r"(?P<said>,?\s{0,2}\b(?:please|pls|plz|thanks|thx|thank you)|,\s{0,2}ty)[\s.!]*$", re.I
    ),
)


def said_to_the_program(text: str) -> list[tuple[int, int]]:
    """Where greetings, thanks and orders stand."""
    found = (pattern.search(text) for pattern in _TO_THE_PROGRAM)
    return [said.span("said") for said in found if said]
