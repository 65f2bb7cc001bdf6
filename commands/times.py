"""How the commands write a point in time."""

import time


def stamp(when: float) -> str:
    """Return Unix time as ISO 8601 in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
