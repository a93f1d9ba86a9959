"""Japanese kana in Latin letters."""

from __future__ import annotations

_ROWS = {
    "": "アイウエオ", "k": "カキクケコ", "s": "サシスセソ", "t": "タチツテト", "n": "ナニヌネノ",
    "h": "ハヒフヘホ", "m": "マミムメモ", "r": "ラリルレロ", "g": "ガギグゲゴ", "z": "ザジズゼゾ",
    "d": "ダヂヅデド", "b": "バビブベボ", "p": "パピプペポ",
}  # fmt: skip
_KANA = {kana: row + "aiueo"[i] for row, kanas in _ROWS.items() for i, kana in enumerate(kanas)}
_KANA |= {
    "シ": "shi", "チ": "chi", "ツ": "tsu", "フ": "fu", "ジ": "ji", "ヤ": "ya", "ユ": "yu",
    "ヨ": "yo", "ワ": "wa", "ヲ": "o", "ン": "n", "ー": "", "ヴ": "v", "ッ": "", "ァ": "a",
    "ィ": "i", "ゥ": "u", "ェ": "e", "ォ": "o", "ャ": "ya", "ュ": "yu", "ョ": "yo",
}  # fmt: skip


def romaji(kana: str) -> str | None:
    """Hepburn's Latin letters; None where a character is no kana."""
    plain = "".join(chr(ord(c) + 96) if "ぁ" <= c <= "ゖ" else c for c in kana)
    if not all(char in _KANA for char in plain):
        return None
    return "".join(_KANA[char] for char in plain)
