"""Times that a request names, relative to now: "from last spring", "vor zwei Jahren", "去年".

English, Spanish, German, French, Chinese and Japanese.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from ..language.translate import language
from ..language.words import fold

Period = tuple[datetime, datetime]
"""From the first moment up to, but without, the second; both in UTC."""

_MONTHS = {
    "en": "january february march april may june july august september october november december",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre "
    "diciembre",
    "de": "januar februar marz april mai juni juli august september oktober november dezember",
    "fr": "janvier fevrier mars avril mai juin juillet aout septembre octobre novembre decembre",
}
_MONTH_NUMBER = {
    name: number for names in _MONTHS.values() for number, name in enumerate(names.split(), 1)
}
_YESTERDAY = {"en": "yesterday", "es": "ayer", "de": "gestern", "fr": "hier"}
_OF = re.compile(r"of|de|d['\u2019]", re.I)
"""Also said of a picture: "a photo of April"."""
_UNITS = {
    "day": "days? dias? tage?n? jours? 天 日", "week": "weeks? semanas? wochen? semaines? 周 週間",
    "month": "months? mes(?:es)? monate?n? mois 个月 個月 ヶ月 か月",
    "year": "years? anos? jahre?n? ann?e?e?s? 年",
    "spring": "spring primavera fruhling fruhjahr printemps 春天? 春",
    "summer": "summer verano sommer ete 夏天? 夏",
    "autumn": "autumn fall otono herbst automne 秋天? 秋",
    "winter": "winter invierno hiver 冬天? 冬",
}  # fmt: skip
_SEASON_START = {"spring": 3, "summer": 6, "autumn": 9, "winter": 12}
_DAYS = {"day": 1.0, "week": 7.0, "month": 30.4, "year": 365.25}
_NUMBERS = {
    word: number
    for number, words in enumerate(
        ("a an un una ein einem einer une 一", "one uno eins", "two dos zwei deux 二 两 兩",
         "three tres drei trois 三", "four cuatro vier quatre 四", "five cinco funf cinq 五"),
    )
    for word in words.split()
} | dict.fromkeys(["a", "an", "un", "una", "ein", "einem", "einer", "une", "一"], 1)  # fmt: skip

_UNIT = "|".join(names.replace(" ", "|") for names in _UNITS.values())
_LENGTH = "|".join(_UNITS[name].replace(" ", "|") for name in _DAYS)
_NUMBER = "|".join(sorted(_NUMBERS, key=len, reverse=True))
_THIS = r"this|est[ea]|diese[nrsm]?|ce(?:t|tte)?"
_DAY = r"(?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?\.?"
_LAST = r"last|past|ultim[oa]|letzte[nrsm]?|vorige[nrsm]?|vergangene[nrsm]?"
_IN = (
    r"(?:\b(?P<led>(?:made|trained|created) (?:in|on)"
    r"|(?:the |my |our )?(?:re)?train(?:ing)? (?:of|from|in|on)|que (?:entrene|hice) en"
    r"|que j['\u2019]ai (?:entrainee?|faite?) (?:en|au)"
    r"|from|in|of|del|de|en|vom|von|aus|im|seit|du|d['\u2019])\s*)?"
)
_PERIOD = re.compile(
    rf"(?P<side>\b(?:before|until|antes de|vor|avant|after|since|despues de|desde|nach|seit|apres"
    rf"|depuis)\s+)?{_IN}(?:(?:the|el|la|le|dem|der|den|l['\u2019])\s*)?(?:"
    rf"(?:\b(?P<rel>{_THIS}|{_LAST})\s+)?(?:\b(?P<day>{_DAY})\s+(?:of\s+|de\s+)?)?"
    rf"\b(?P<month>{'|'.join(_MONTH_NUMBER)})\b(?:\s+(?P<day2>{_DAY})(?=\s*(?:$|[,.;:)]|20\d\d)))?"
    rf"(?:,?\s+(?:(?:of|de|del)\s+)?(?P<year>20\d\d)\b|\s+(?P<rel3>{_THIS}|{_LAST})\s+year\b)?"
    r"(?P<past>\s+(?:pasad[oa]|dernier))?"
    r"|\b(?P<iso>20\d\d-[01]\d(?:-[0-3]\d)?)\b"
    r"|(?P<cjk_year>20\d\d)年(?:(?P<cjk_month>\d\d?)月)?|\b(?P<only>20\d\d)\b"
    rf"|\b(?P<rel2>{_THIS}|{_LAST})\s+(?P<unit>{_UNIT})\b(?!\s+(?:of|de|d['\u2019])\b)"
    rf"|\b(?P<unit2>{_UNIT})\s+(?:pasad[oa]|derni[eè]re?|pass[eé]e?)\b"
    rf"|\b(?P<ago>\d\d?|{_NUMBER})\s+(?P<ago_unit>{_LENGTH})\s+ago\b"
    rf"|\b(?:hace|vor|il y a)\s+(?P<ago2>\d\d?|{_NUMBER})\s+(?P<ago_unit2>{_LENGTH})\b"
    rf"|(?P<ago3>\d\d?|[一二两兩三四五])(?P<ago_unit3>{_LENGTH})前"
    r"|(?P<cjk_rel>去年|昨年|今年|前年|上个月|上個月|先月|这个月|今月|上周|先週|本周|今週)"
    r"(?:の?(?P<cjk_season>[春夏秋冬]))?天?"
    rf"|\b(?P<yesterday>{'|'.join(_YESTERDAY.values())})\b|(?P<yesterday2>昨天|昨日))",
    re.I,
)
_CJK_REL = {
    "去年": ("year", 1), "昨年": ("year", 1), "今年": ("year", 0), "前年": ("year", 2),
    "上个月": ("month", 1), "上個月": ("month", 1), "先月": ("month", 1), "这个月": ("month", 0),
    "今月": ("month", 0), "上周": ("week", 1), "先週": ("week", 1), "本周": ("week", 0),
    "今週": ("week", 0),
}  # fmt: skip
_CJK_SEASON = dict(zip("春夏秋冬", ("spring", "summer", "autumn", "winter"), strict=True))
_BEFORE = re.compile(r"before|until|antes|vor|avant", re.I)


def find_period(text: str, now: datetime) -> tuple[Period, tuple[int, int]] | None:
    """The first time that a text names, and where; None where it names none."""
    plain = _same_length(text)
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for found in _PERIOD.finditer(plain):
        if not _is_time(found, text, now.year):
            continue
        period = _read(found, day)
        if found["side"] and (found["month"] or found["only"]):
            is_before = _BEFORE.match(found["side"])
            period = (_EVER[0], period[0]) if is_before else (period[0], _EVER[1])
        one = _ONE.match(text, found.end())
        return period, (found.start(), one.end() if one else found.end())
    return None


_ONE = re.compile(r"\s+(?:one|version)\b", re.I)
"""Of that time: "the January one"."""
_EVER = datetime(1, 1, 1, tzinfo=timezone.utc), datetime(9999, 1, 1, tzinfo=timezone.utc)


def is_calendar_year(period: Period) -> bool:
    """Whether it is one whole year from January on."""
    start, end = period
    return start.month == start.day == 1 and 364 < (end - start).days < 367


def _same_length(text: str) -> str:
    """Lower case without accents, each character in its place."""
    return "".join(folded if len(folded := fold(char)) == 1 else char for char in text)


def _is_time(found: re.Match[str], text: str, this_year: int) -> bool:
    """Whether it is no name ("April on the beach") and no year that no file is from ("Cyberpunk
    2077")."""
    part = found.groupdict()
    if year := part["year"] or part["only"] or part["cjk_year"]:
        return int(year) <= this_year
    if part["yesterday"]:
        return part["yesterday"] == _YESTERDAY.get(language(text))
    told = ("rel", "rel3", "past", "day", "day2")
    if not part["month"] or any(part[name] for name in told) or _ONE.match(text, found.end()):
        return True
    # Spanish and French months are small, names are not; in English "of June" is no time.
    code = language(text)
    led = part["led"] or ""
    named = code == "en" or text[found.start("month")].isupper()
    is_led = bool(part["side"] or led) and not (_OF.fullmatch(led) and named)
    known = f"{_MONTHS['en']} {_MONTHS.get(code, '')}".split()
    return is_led and part["month"] in known


def _read(found: re.Match[str], day: datetime) -> Period:
    part = found.groupdict()
    if name := part["month"]:
        year = part["year"]
        if rel := part["rel3"]:
            year = str(day.year - (not re.fullmatch(_THIS, rel)))
        month = _month(_MONTH_NUMBER[name], year, part["rel"], day)
        number = re.match(r"\d+", part["day"] or part["day2"] or "")
        return _day_of(month, int(number.group())) if number else month
    if year := part["cjk_year"]:
        if part["cjk_month"] and 1 <= int(part["cjk_month"]) <= 12:
            return _month(int(part["cjk_month"]), year, None, day)
        return _year(int(year), day)
    if part["iso"]:
        return _iso(part["iso"], day)
    if part["only"]:
        return _year(int(part["only"]), day)
    if unit := part["unit"] or part["unit2"]:
        back = not re.fullmatch(_THIS, part["rel2"] or "")
        return _relative(_unit(unit), int(back), day)
    if count := part["ago"] or part["ago2"] or part["ago3"]:
        unit = _unit(part["ago_unit"] or part["ago_unit2"] or part["ago_unit3"])
        days = _DAYS[unit]
        middle = day - timedelta(days=(_NUMBERS.get(count) or int(count)) * days)
        return middle - timedelta(days=days / 2), middle + timedelta(days=days / 2)
    if part["cjk_rel"]:
        unit, back = _CJK_REL[part["cjk_rel"]]
        if (season := part["cjk_season"]) and unit == "year":
            start = day.replace(month=_SEASON_START[_CJK_SEASON[season]], day=1)
            start = _add_months(start, -12 * back)
            return start, _add_months(start, 3)
        return _relative(unit, back, day)
    return day - timedelta(days=1), day


def _unit(said: str) -> str:
    return next(
        name
        for name, forms in _UNITS.items()
        if any(re.fullmatch(form, said, re.I) for form in forms.split())
    )


def _iso(written: str, day: datetime) -> Period:
    """A day, 2024-11-10, or a month, 2024-11; never one that no calendar has."""
    year, month, *days = map(int, written.split("-"))
    first = _month(min(max(month, 1), 12), str(year), None, day)
    return _day_of(first, days[0]) if days else first


def _day_of(month: Period, number: int) -> Period:
    """A day of a month; the whole month where it has no such day."""
    if not 1 <= number <= (month[1] - month[0]).days:
        return month
    start = month[0] + timedelta(days=number - 1)
    return start, start + timedelta(days=1)


def _year(year: int, day: datetime) -> Period:
    return day.replace(year=year, month=1, day=1), day.replace(year=year + 1, month=1, day=1)


def _month(month: int, year: str | None, rel: str | None, day: datetime) -> Period:
    """Without a year the latest one that is not ahead; "this december" may be."""
    is_this = bool(rel and re.fullmatch(_THIS, rel, re.I))
    number = int(year) if year else day.year - (month > day.month and not is_this)
    if rel and not is_this and month == day.month and not year:
        number -= 1
    start = day.replace(year=number, month=month, day=1)
    return start, _add_months(start, 1)


def _relative(unit: str, back: int, day: datetime) -> Period:
    if unit == "day":
        return day - timedelta(days=back), day + timedelta(days=1 - back)
    if unit == "week":
        start = day - timedelta(days=day.weekday() + 7 * back)
        return start, start + timedelta(days=7)
    if unit == "month":
        start = _add_months(day.replace(day=1), -back)
        return start, _add_months(start, 1)
    if unit == "year":
        start = day.replace(month=1, day=1, year=day.year - back)
        return start, _add_months(start, 12)
    start = day.replace(month=_SEASON_START[unit], day=1)
    while start > day or (back and _add_months(start, 3) > day):
        start = _add_months(start, -12)
    return start, _add_months(start, 3)


def _add_months(moment: datetime, months: int) -> datetime:
    total = moment.year * 12 + moment.month - 1 + months
    return moment.replace(year=total // 12, month=total % 12 + 1)
