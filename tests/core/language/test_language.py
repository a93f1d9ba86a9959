"""Which language a request is in, although names and single words look like another one."""

import pytest

from personalq_core.language.translate import language


@pytest.mark.parametrize(
    ("text", "code"),
    [("my bear in Sin City", "en"), ("Sin City", "en"), ("sunset over Los Angeles", "en"),
     ("Die Hard poster", "en"), ("bold sans serif letters", "en"), ("war photo", "en"),
     ("mi oso", "es"), ("oso sin sombrero", "es"), ("El zorro rojo", "es"),
     ("neueste Ziege", "de"), ("renard ancien", "fr"),
     ("mein Teddy", "de"), ("Fuchs ohne Schal", "de"), ("Der Fuchs", "de"), ("MEIN HUND", "de"),
     ("renard sans chapeau", "fr"), ("la cuisine avant la pluie", "fr"), ("l'ours", "fr"),
     ("最新的熊", "zh"), ("最新のクマ", "ja"), ("", "en")],
)  # fmt: skip
def test_language(text, code):
    assert language(text) == code
