"""What a request asks about the model."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalq_core.checkin.intent import understand

NOW = datetime(2025, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("request_", "version"),
    [("fox v2", "2"), ("second version of the fox", "2"), ("fox version 1.5 in snow", "1.5"),
     ("第二版的狐狸", "2"), ("fox 2 times", None)],
)  # fmt: skip
def test_version(request_, version):
    assert understand(request_, NOW).version == version


@pytest.mark.parametrize(
    ("request_", "order"),
    [("newest fox", "newest"), ("the fox before it moved, asleep", "oldest"),
     ("der neueste Fuchs", "newest"), ("el zorro más antiguo", "oldest"), ("最新的狐狸", "newest"),
     ("a fox", None)],
)  # fmt: skip
def test_order(request_, order):
    assert understand(request_, NOW).order == order


@pytest.mark.parametrize(
    ("request_", "start", "end"),
    [("fox from last spring", (2025, 3), (2025, 6)), ("fox from 2023", (2023, 1), (2024, 1)),
     ("fox from this september", (2025, 9), (2025, 10)),
     ("fox from december", (2024, 12), (2025, 1)),
     ("fox from last year", (2024, 1), (2025, 1))],
)  # fmt: skip
def test_period(request_, start, end):
    period = understand(request_, NOW).period
    assert tuple((day.year, day.month) for day in period) == (start, end)


@pytest.mark.parametrize(
    ("request_", "excluded"),
    [("fox, not as a drawing", {"draw"}), ("fox without the red scarf on a hill", {"red", "scarf"}),
     ("el zorro sin bufanda", {"scarf"}), ("a fox", set())],
)  # fmt: skip
def test_exclusions(request_, excluded):
    assert set(understand(request_, NOW).excluded) == excluded


@pytest.mark.parametrize(
    ("request_", "base"),
    [("fox for SDXL", "sdxl"), ("fox on flux", "flux"), ("fox, sd 1.5 loaded", "sd15"),
     ("fox in a flux of light", None)],
)  # fmt: skip
def test_base_family(request_, base):
    assert understand(request_, NOW).base == base


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_understood(request_):
    intent = understand(request_, NOW)
    assert all(0 <= start < end <= len(request_) for start, end in intent.selecting)
