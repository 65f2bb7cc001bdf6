"""When a message was delivered, by the ``From `` line that stands before it in an mbox (RFC 4155)."""

import calendar
import re

LENGTH = 512  # octets of such a line that are looked at

_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_DATE = re.compile(
    rb" (?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ("
    + b"|".join(_MONTHS)
    + rb") {1,2}([0-9]{1,2}) ([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?"
    rb"(?: [A-Z]{1,5}| [+-][0-9]{4})? ([0-9]{4})\s*$"
)


def delivered(line: bytes) -> int | None:
    """Return when, in Unix time, a day more or less since time zones are not told; None when the line has no date."""
    if match := _DATE.search(line):
        month, *numbers = match.groups(b"0")
        day, hour, minute, second, year = map(int, numbers)
        if year >= 1970 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 62:
            return calendar.timegm((year, _MONTHS.index(month) + 1, day, hour, minute, second))
    return None
