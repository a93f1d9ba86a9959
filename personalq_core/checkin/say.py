"""What Check-in says, in the language of the request. Evidence quotes cards and stays in theirs."""

from __future__ import annotations

_TEXTS = {
    "which version": {
        "en": "Which version do you mean", "de": "Welche Version meinst du",
        "es": "¿A qué versión te refieres", "fr": "De quelle version s'agit-il",
        "zh": "您指的是哪个版本", "ja": "どのバージョンですか",
    },
    "which base": {
        "en": "For which kind of model", "de": "Für welche Art von Modell",
        "es": "¿Para qué tipo de modelo", "fr": "Pour quel type de modèle",
        "zh": "用于哪种模型", "ja": "どの種類のモデル用ですか",
    },
    "which one": {
        "en": "Which one do you mean", "de": "Welches meinst du", "es": "¿Cuál quieres decir",
        "fr": "Lequel veux-tu dire", "zh": "您指的是哪一个", "ja": "どれのことですか",
    },
    "several": {
        "en": "Several models fit the request equally well.",
        "de": "Mehrere Modelle passen gleich gut.",
        "es": "Varios modelos encajan igual de bien.",
        "fr": "Plusieurs modèles conviennent aussi bien.",
        "zh": "有多个模型同样符合。", "ja": "複数のモデルが同じくらい当てはまります。",
    },
    "no such version": {
        "en": "There is no version {} of it.", "de": "Davon gibt es keine Version {}.",
        "es": "No hay una versión {} de eso.", "fr": "Il n'en existe pas de version {}.",
        "zh": "它没有版本 {}。", "ja": "バージョン {} はありません。",
    },
    "nothing": {
        "en": "Nothing fits; the nearest is {}.", "de": "Nichts passt; am nächsten kommt {}.",
        "es": "Nada encaja; lo más cercano es {}.",
        "fr": "Rien ne convient ; le plus proche est {}.",
        "zh": "没有符合的。最接近的是{}。", "ja": "該当なし。最も近いのは{}です。",
    },
}  # fmt: skip


def say(what: str, language: str, *about: str) -> str:
    """One of the texts in a language of `translate.LANGUAGES` or English."""
    return _TEXTS[what][language].format(*about)
