"""Times: parse the spellings of tables and file names, and format times for people and files."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone

# 2024 | 2024-06-01 | 20240601 | 2024:06:01 12:30:00 (EXIF) | 2024-06-01T12:30:00.25+02:00 | 20240601_123000
_TIME_PATTERN = re.compile(
    r"(?P<year>\d{4})(?:[-:/_.]?(?P<month>\d\d)(?:[-:/_.]?(?P<day>\d\d)"
    r"(?:[T _-]?(?P<hour>\d\d)[-:.]?(?P<minute>\d\d)(?:[-:.]?(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?"
    r"\s*(?P<zone>Z|[+-]\d\d:?(?:\d\d)?)?)?)?)?"
)


def parse_time(value: object) -> datetime | None:
    """Return a value as a time in UTC without a zone, or None if it is not a time.

    Dates, datetimes, ISO 8601 and its common variants (also a year alone), EXIF's form, and seconds or
    milliseconds since 1970 are understood. A time without a zone is taken as UTC.
    """
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if value is None or isinstance(value, bool):
        return None
    text = str(value).strip()
    try:
        match = _TIME_PATTERN.fullmatch(text)
        return _from_match(match) if match else _from_epoch(text)
    except (ValueError, OverflowError):
        return None


def _from_match(match: re.Match[str]) -> datetime:
    year, month, day = int(match["year"]), int(match["month"] or 1), int(match["day"] or 1)
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    micros = int((match["fraction"] or "0")[:6].ljust(6, "0"))
    local = datetime(year, month, day, hour, minute, second, micros)
    zone = match["zone"]
    if not zone or zone == "Z":
        return local
    digits = zone[1:].replace(":", "").ljust(4, "0")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return (
        local.replace(tzinfo=timezone(offset if zone[0] == "+" else -offset)).astimezone(UTC).replace(tzinfo=None)
    )


def _from_epoch(text: str) -> datetime:
    seconds = float(text)
    if abs(seconds) >= 1e11:  # after the year 5138: milliseconds
        seconds /= 1000
    return datetime(1970, 1, 1) + timedelta(seconds=seconds)


def format_local_time(time: str) -> str:
    """Return an ISO 8601 time as local time, to the second."""
    return datetime.fromisoformat(time).astimezone().isoformat(sep=" ", timespec="seconds")


def format_utc_now() -> str:
    """Return the current time in UTC, to the millisecond, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
