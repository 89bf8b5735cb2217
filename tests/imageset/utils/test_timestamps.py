from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from imageset.utils.timestamps import parse_time


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("2024-06-01", datetime(2024, 6, 1)),
        ("20240601", datetime(2024, 6, 1)),
        ("2024", datetime(2024, 1, 1)),
        (2024, datetime(2024, 1, 1)),
        ("2024-06", datetime(2024, 6, 1)),
        ("2024:06:01 12:30:05", datetime(2024, 6, 1, 12, 30, 5)),
        ("20240601_123005", datetime(2024, 6, 1, 12, 30, 5)),
        ("2024-06-01T12:30:05.25+02:00", datetime(2024, 6, 1, 10, 30, 5, 250000)),
        ("2024-06-01T12:30Z", datetime(2024, 6, 1, 12, 30)),
        (1717243805, datetime(2024, 6, 1, 12, 10, 5)),
        ("1717243805000", datetime(2024, 6, 1, 12, 10, 5)),
        (date(2024, 6, 1), datetime(2024, 6, 1)),
        (datetime(2024, 6, 1, 12, tzinfo=timezone(timedelta(hours=2))), datetime(2024, 6, 1, 10)),
        (datetime(2024, 6, 1, 12, tzinfo=UTC), datetime(2024, 6, 1, 12)),
        ("2024-13-01", None),
        ("06/01/2024", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (True, None),
    ],
)
def test_a_time_is_understood_however_it_is_spelled(said: object, meant: datetime | None) -> None:
    assert parse_time(said) == meant
