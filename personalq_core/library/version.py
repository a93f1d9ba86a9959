"""Versions and dates as people write them in names and notes."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any

# The version of a base model in a name is not the file's own.
_BASE = re.compile(
    r"(?i)(?:stable[-_ ]?diffusion|\bsd|\bflux|\bwan|pony|noobai)[-_ ]?(?:xl)?[-_ ]?v[-_ ]?\d[\d.]*"
)
# "v1", "V2.1", "v.1.0", "ver 3", "version 2"; in "sithoutfitV1" a capital V begins the version.
_VERSION = re.compile(
    r"(?:(?<![A-Za-z0-9])[vV](?:er(?:sion)?)?|(?<=[a-z])V|(?<![A-Za-z])[vV])"
    r"[. _-]?(\d{1,4}(?:[._]\d{1,3}){0,3}[a-z]?)(?![A-Za-z0-9])"
)
_EPOCH = re.compile(r"[-_]0*(\d{1,6})$")  # kohya writes x-000008, ai-toolkit x_000001500 (steps)
_BARE = re.compile(r"^\s*(\d{1,4}(?:\.\d{1,3}){0,3})\s*$")
_NUMBER = re.compile(r"\d+")

_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")


def version_in(text: str) -> str | None:
    """The version a name speaks of: "bear_v2.1_sdxl" -> "v2.1", "bear-000008" -> "epoch 8".

    A name with both keeps both ("v0.5 epoch 2"): the epoch tells snapshots of one training apart.
    """
    found = _VERSION.search(_BASE.sub(" ", text[:400]))
    version = "v" + found.group(1).replace("_", ".") if found else ""
    return " ".join(filter(None, (version, epoch_in(text)))) or None


def epoch_in(stem: str) -> str | None:
    """The training snapshot at the end of a file name without suffix: "epoch 8", "step 1500"."""
    found = _EPOCH.search(stem[-40:])
    if not found or len(found.group()) not in (7, 10):
        return None
    return f"{'epoch' if len(found.group()) == 7 else 'step'} {int(found.group(1))}"


def version_key(version: str | None) -> tuple[int, ...] | None:
    """Numbers to compare versions by: "v2.10" -> (2, 10), "V1.1 epoch 4" -> (1, 1, 4).

    None where the text holds no version ("proto", a file id).
    """
    if not version:
        return None
    found = _VERSION.search(version) or _BARE.match(version)
    numbers = [int(number) for number in _NUMBER.findall(found.group(1))] if found else []
    epoch = re.search(r"(?:epoch|step) (\d{1,9})", version, re.I)
    if epoch:
        numbers.append(int(epoch.group(1)))
    return tuple(numbers) or None


def date_in(text: str) -> str | None:
    """A whole date in a name ("tost-2024-09-20-07", "bear_20240920") as ISO 8601, else None."""
    found = _DATE.search(text[:400])
    return utc(f"{found[1]}-{found[3]}-{found[4]}") if found else None


def utc(value: Any) -> str | None:
    """ISO 8601 in UTC to the second, from ISO text, or from seconds or milliseconds since 1970."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # JSON's whole numbers have no largest
        number = None
    try:
        if number is not None:
            seconds = number / 1000 if number > 1e11 else number
            moment = datetime.fromtimestamp(seconds, timezone.utc)
        else:
            text = re.sub(r"\.\d+", "", str(value).strip()[:40]).replace("Z", "+00:00")
            moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    try:
        moment = moment.astimezone(timezone.utc)
    except OverflowError:
        return None
    if not 1990 <= moment.year <= 2100:  # 0 and other placeholders
        return None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
