"""Times in six languages, relative to now."""

from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalq_core.checkin.period import find_period

NOW = datetime(2025, 11, 20, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("fox from last spring", (2025, 3), (2025, 6)),
        ("fox from 2023", (2023, 1), (2024, 1)),
        ("fox from this september", (2025, 9), (2025, 10)),
        ("fox from last march", (2025, 3), (2025, 4)),
        ("fox from december", (2024, 12), (2025, 1)),
        ("fox from last year", (2024, 1), (2025, 1)),
        ("fox before 2024", (1, 1), (2024, 1)),
        ("fox since may 2024", (2024, 5), (9999, 1)),
        ("june 2024 fox", (2024, 6), (2024, 7)),
        ("the fox of april this year", (2025, 4), (2025, 5)),
        ("the fox from april last year", (2024, 4), (2024, 5)),
        ("fox made in june", (2025, 6), (2025, 7)),
        ("der Fuchs im Mai", (2025, 5), (2025, 6)),
        ("el zorro de abril", (2025, 4), (2025, 5)),
        ("le renard d'avril", (2025, 4), (2025, 5)),
        ("Cyberpunk 2077 fox from 2024", (2024, 1), (2025, 1)),
        ("el zorro del verano pasado", (2025, 6), (2025, 9)),
        ("el zorro de marzo de 2024", (2024, 3), (2024, 4)),
        ("el zorro del año pasado", (2024, 1), (2025, 1)),
        ("der Fuchs vom letzten Sommer", (2025, 6), (2025, 9)),
        ("der Fuchs aus dem März 2024", (2024, 3), (2024, 4)),
        ("der Fuchs vom letzten Jahr", (2024, 1), (2025, 1)),
        ("le renard de l'été dernier", (2025, 6), (2025, 9)),
        ("le renard de l'an dernier", (2024, 1), (2025, 1)),
        ("去年的狐狸", (2024, 1), (2025, 1)),
        ("2023年5月的狐狸", (2023, 5), (2023, 6)),
        ("上个月的狐狸", (2025, 10), (2025, 11)),
        ("去年の夏の狐", (2024, 6), (2024, 9)),
        ("先月の狐", (2025, 10), (2025, 11)),
    ],
)
def test_periods(text, start, end):
    period, _ = find_period(text, NOW)
    assert tuple((day.year, day.month) for day in period) == (start, end)


@pytest.mark.parametrize(
    ("text", "said", "day"),
    [
        ("fox, the retrain of 8 March, at sea", "the retrain of 8 March", (2025, 3, 8)),
        ("fox from March 8th, 2024", "from March 8th, 2024", (2024, 3, 8)),
        ("the fox we trained on 2 may 2024", "trained on 2 may 2024", (2024, 5, 2)),
        ("der Fuchs vom 3. Mai", "vom 3. Mai", (2025, 5, 3)),
        ("fox from 31 june 2024", "from 31 june 2024", (2024, 6, 1)),
    ],
)
def test_days(text, said, day):
    (start, _), (first, last) = find_period(text, NOW)
    assert text[first:last] == said
    assert (start.year, start.month, start.day) == day


@pytest.mark.parametrize(
    "text",
    ["fox from two years ago", "zorro de hace dos años", "der Fuchs von vor zwei Jahren",
     "le renard d'il y a deux ans", "两年前的狐狸", "2年前の狐"],
)  # fmt: skip
def test_ago(text):
    (start, end), _ = find_period(text, NOW)
    assert start < datetime(2023, 11, 20, tzinfo=timezone.utc) < end


@pytest.mark.parametrize(
    "text",
    ["we march on", "a man on mars", "in the fall", "it may rain", "a fox", "el zorro",
     "April on the beach", "June in a red coat", "Mai Sakurajima", "a photo of April",
     "una foto de Abril", "a rover from Mars", "der Fuchs hier am Strand", "Cyberpunk 2077",
     "fox from march 2077", "2099年の狐", "it may 5 times"],
)  # fmt: skip
def test_no_period(text):
    assert find_period(text, NOW) is None


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["last", "this", "31", "99", "2024", "february", "vor", "Jahren", "ago", "days", "年前",
             "去年", "夏", "dernier", "before", "2099年", "13月", "week"]
        ),
        max_size=8,
    ).map(" ".join)
    | st.text(max_size=80),
    st.datetimes(datetime(2020, 1, 1), datetime(2090, 1, 1)),
)  # fmt: skip
def test_any_text_on_any_day(text, now):
    found = find_period(text, now.replace(tzinfo=timezone.utc))
    if found:
        (start, end), (first, last) = found
        assert start < end and 0 <= first < last <= len(text)
